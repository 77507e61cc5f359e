"""Define the simpler sets: chi-square, Hellinger, total variation, CVaR, simplex, point and floor.

All have a closed form but the Hellinger ball, which needs one scalar root. A floor goes under any set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from faal_lab.dro import floats
from faal_lab.dro.base import (
    AmbiguitySet,
    Ball,
    Posed,
    WorstCase,
    check_radius,
    falling_root,
    pose,
    proportional,
    settle,
)


@dataclass(frozen=True)
class ChiSquareBall(Ball):
    """All w with sum((w - u)^2 / u) <= radius
    (without the factor 1/2; about 2 tau of a small KL ball).

    The worst case is `w = u * (score - theta)+`, normalised: a class far below the others gets no weight. While every
    class has weight, the value is mean + sqrt(radius) * standard deviation of the scores. Solved by sorting, without iteration.

    Args:
        radius: rho, at least 0 (default 1).

    Raises:
        TypeError: the radius is no number.
        ValueError: the radius is negative or NaN.

    >>> import torch
    >>> from faal_lab.dro import ChiSquareBall
    >>> ChiSquareBall(1.0).worst_case(torch.tensor([0.1, 0.2, 0.3, 0.9])).weights
    tensor([0.0291, 0.1094, 0.1898, 0.6717], dtype=torch.float64)
    """

    radius: float = 1.0
    kernel: ClassVar[str] = "chi-square"
    _plain: ClassVar[floats.Plain | None] = floats.chi_square
    named: ClassVar[str] = "rho, the radius of the chi-square ball,"
    inside: ClassVar[bool] = True

    def _solve(self, posed: Posed) -> WorstCase:
        u, rho = posed.reference, posed.radius[..., None]
        d, order = torch.sort(posed.gaps, dim=-1)
        p = u.gather(-1, order)
        mass, first, second = p.cumsum(-1), (p * d).cumsum(-1), (p * d * d).cumsum(-1)
        # a class keeps weight if a threshold at its own score exceeds the radius; the hardest class always does
        reach = d * mass - first
        spend = (d * d * mass - 2 * d * first + second) / reach.clamp(min=1e-300) ** 2 - 1
        active = posed.present & torch.zeros_like(posed.present).scatter(-1, order, (spend > rho) | (d == 0))
        held = torch.where(active, u, 0.0)
        share = held.sum(-1, keepdim=True)
        mean = (held * posed.gaps).sum(-1, keepdim=True) / share
        variance = (held * (posed.gaps - mean) ** 2).sum(-1, keepdim=True) / share
        theta = mean + torch.sqrt(variance / ((1 + rho) * share - 1).clamp(min=1e-300))
        height = torch.where(active, (theta - posed.gaps).clamp(min=0), 0.0)
        total = (u * height).sum(-1, keepdim=True)
        weights = u * height / total.clamp(min=1e-300)
        top_mass = torch.where(posed.top, u, 0.0).sum(-1)
        most = 1 / top_mass - 1
        vertex = posed.radius >= most
        weights = torch.where(vertex[..., None], proportional(posed.top, u), weights)
        spent = (u * (weights / torch.where(u > 0, u, 1.0) - 1) ** 2).sum(-1)
        slope = torch.sqrt((u * height**2).sum(-1) / (1 + posed.radius)) / 2
        nominal = posed.radius <= 0
        dual = torch.where(nominal, torch.inf, torch.where(vertex, 0.0, slope))
        return settle(posed, weights, spent, dual, nominal=nominal)


@dataclass(frozen=True)
class HellingerBall(Ball):
    """All w with sum((sqrt(w) - sqrt(u))^2) / 2 <= radius, in [0, 1].

    Every weight stays positive up to the radius 1 - sqrt(m), with m the reference's mass on the hardest classes. From there on,
    all weight is on these. A reference must be positive: a class without reference mass could gain weight, and is refused.

    Args:
        radius: rho, in [0, 1] (default 0.1).

    Raises:
        TypeError: the radius is no number.
        ValueError: the radius is outside [0, 1].

    >>> import torch
    >>> from faal_lab.dro import HellingerBall
    >>> HellingerBall(0.1).worst_case(torch.tensor([0.1, 0.2, 0.3, 0.9])).weights
    tensor([0.0883, 0.1044, 0.1252, 0.6821], dtype=torch.float64)
    """

    radius: float = 0.1
    limits: ClassVar[tuple[float, float]] = (0.0, 1.0)
    kernel: ClassVar[str] = "hellinger"
    _plain: ClassVar[floats.Plain | None] = floats.hellinger
    named: ClassVar[str] = "rho, the radius of the Hellinger ball,"
    positive: ClassVar[bool] = True

    def _solve(self, posed: Posed) -> WorstCase:
        u, rho = posed.reference, posed.radius.clamp(min=1e-300, max=1 - 1e-16)
        target = torch.log(torch.expm1(-2 * torch.log1p(-rho)))

        def variation(s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            """Return E[q]; v, the squared coefficient of variation of q = eps / (eps + d); and dv / ds."""
            eps = torch.exp(s)[..., None]
            q = eps / (eps + posed.gaps)
            near = (u * q).sum(-1)
            off = q - near[..., None]
            rise = q * (1 - q) / near[..., None]
            v = (u * (off / near[..., None]) ** 2).sum(-1)
            return near, v, 2 * ((u * off * rise).sum(-1) / near - v * (u * rise).sum(-1))

        def curve(s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            _, v, slope = variation(s)
            v = v.clamp(min=1e-300)
            return torch.log(v) - target, slope / v

        low, high = torch.full_like(rho, -700.0), (0.5 * torch.log(1 / rho)).clamp(min=0.0) + 1
        s = falling_root(curve, low, high, torch.zeros_like(rho))
        v = variation(s)[1]
        eps = torch.exp(s)[..., None]
        raw = u * (eps / (eps + posed.gaps)) ** 2
        mass = torch.where(posed.top, u, 0.0).sum(-1)
        most = 1 - torch.sqrt(mass)
        vertex = posed.radius >= most
        weights = torch.where(vertex[..., None], proportional(posed.top, u), raw / raw.sum(-1, keepdim=True))
        # stationarity: score - eta + lambda sqrt(u / w) / 2 = 0
        dual = 2 * torch.exp(s) * torch.sqrt(raw.sum(-1)) / raw.sum(-1)
        nominal = posed.radius <= 0
        dual = torch.where(nominal, torch.inf, torch.where(vertex, 0.0, dual))
        return settle(posed, weights, torch.where(vertex, most, -torch.expm1(-0.5 * torch.log1p(v))), dual, nominal=nominal)


@dataclass(frozen=True)
class TotalVariationBall(Ball):
    """All w with `sum(|w - u|) / 2` <= radius, in [0, 1]: the mass that may move.

    Mass leaves the easiest classes first, and a class loses no more than it has. All of it goes to the hardest class; classes in
    between keep exactly their reference. Ties share in proportion to the reference.

    Args:
        radius: delta, in [0, 1] (default 0.2).

    Raises:
        TypeError: the radius is no number.
        ValueError: the radius is outside [0, 1].

    >>> import torch
    >>> from faal_lab.dro import TotalVariationBall
    >>> TotalVariationBall(0.2).worst_case(torch.tensor([0.1, 0.2, 0.3, 0.9])).weights
    tensor([0.0500, 0.2500, 0.2500, 0.4500], dtype=torch.float64)
    """

    radius: float = 0.2
    limits: ClassVar[tuple[float, float]] = (0.0, 1.0)
    kernel: ClassVar[str] = "total-variation"
    _plain: ClassVar[floats.Plain | None] = floats.total_variation
    named: ClassVar[str] = "delta, the radius of the total variation ball,"

    def _solve(self, posed: Posed) -> WorstCase:
        u, top = posed.reference, posed.top
        spare = torch.where(top, 0.0, u)
        most = spare.sum(-1)
        moved = torch.minimum(posed.radius, most)[..., None]
        gaps = torch.where(posed.present, posed.gaps, -1.0)
        d, order = torch.sort(gaps, dim=-1, descending=True)
        filled = spare.gather(-1, order).cumsum(-1) >= moved
        level = torch.where(filled, d, 0.0).amax(-1, keepdim=True)  # the easiest class that keeps some mass
        emptied, partly = gaps > level, gaps == level
        taken = torch.where(emptied, spare, 0.0)
        remainder = moved - taken.sum(-1, keepdim=True)
        taken = taken + remainder * proportional(partly, spare)
        weights = (u - taken).clamp(min=0) + moved * proportional(top, u)
        dual = torch.where(posed.radius >= most, 0.0, level.squeeze(-1))
        return settle(posed, weights, moved.squeeze(-1), dual, nominal=posed.radius <= 0)


@dataclass(frozen=True)
class CVaR(Ball):
    """All w <= reference / alpha. The radius is alpha.
    It runs the other way than in all other sets: 1 is the reference, and a small alpha reaches far.

    `divergence` is the alpha that was needed, 1 / max(w / u). `dual` is the derivative of the value by 1 / alpha.

    Args:
        radius: alpha, in [1e-12, 1] (default 0.5).

    Raises:
        TypeError: alpha is no number.
        ValueError: alpha is outside [1e-12, 1].

    >>> import torch
    >>> from faal_lab.dro import CVaR
    >>> CVaR(0.5).worst_case(torch.tensor([0.1, 0.2, 0.3, 0.9])).weights
    tensor([0.0000, 0.0000, 0.5000, 0.5000], dtype=torch.float64)
    """

    radius: float = 0.5
    limits: ClassVar[tuple[float, float]] = (1e-12, 1.0)
    kernel: ClassVar[str] = "cvar"
    _plain: ClassVar[floats.Plain | None] = floats.cvar
    named: ClassVar[str] = "alpha of the conditional value at risk"
    inside: ClassVar[bool] = True

    def _solve(self, posed: Posed) -> WorstCase:
        # Ties at the edge share the mass that is left in proportion to the reference.
        u = posed.reference
        cap = u / posed.radius[..., None]
        d, order = torch.sort(posed.gaps, dim=-1)
        full = cap.gather(-1, order).cumsum(-1) >= 1 - 1e-15
        level = torch.where(full, d, 1.0).amin(-1, keepdim=True)
        above = torch.where(posed.present & (posed.gaps < level), cap, 0.0)
        edge = torch.where(posed.present & (posed.gaps == level), u, 0.0)
        left = 1 - above.sum(-1, keepdim=True)
        weights = above + left * edge / edge.sum(-1, keepdim=True)
        largest = torch.where(u > 0, weights / torch.where(u > 0, u, 1.0), 0.0).amax(-1)
        excess = (u * (level - posed.gaps).clamp(min=0)).sum(-1)
        answer = settle(posed, weights, 1 / largest, excess, nominal=posed.radius >= 1)
        needed = torch.where(answer.divergence == 0, 1.0, answer.divergence)
        return WorstCase(answer.weights, answer.value, needed, answer.dual)  # not _replace: torch 2.11 does not compile it


@dataclass(frozen=True)
class Simplex(Ball):
    """Every distribution over the classes present. The hardest class gets all weight.
    Ties share in proportion to the reference.

    Args:
        radius: has no effect (default infinity).

    >>> import torch
    >>> from faal_lab.dro import Simplex
    >>> Simplex().worst_case(torch.tensor([0.1, 0.2, 0.9, 0.9])).weights
    tensor([0.0000, 0.0000, 0.5000, 0.5000], dtype=torch.float64)
    """

    radius: float = float("inf")
    _plain: ClassVar[floats.Plain | None] = floats.simplex

    def _solve(self, posed: Posed) -> WorstCase:
        # `divergence` is the mass that moved.
        moved = torch.where(posed.top, 0.0, posed.reference).sum(-1)
        return settle(posed, proportional(posed.top, posed.reference), moved, torch.zeros_like(moved))


@dataclass(frozen=True)
class Point(Ball):
    """The reference and nothing else: plain averaging over classes.

    Args:
        radius: has no effect (default 0).

    >>> import torch
    >>> from faal_lab.dro import Point
    >>> Point().worst_case(torch.tensor([0.1, 0.2, 0.3, 0.9])).weights
    tensor([0.2500, 0.2500, 0.2500, 0.2500], dtype=torch.float64)
    """

    radius: float = 0.0
    _plain: ClassVar[floats.Plain | None] = floats.point

    def _solve(self, posed: Posed) -> WorstCase:
        nothing = torch.zeros_like(posed.spread)
        return settle(posed, posed.reference, nothing, nothing)


@dataclass(frozen=True)
class Floored:
    """All (1 - share) * w + share * reference with w in `inner`.
    No class counts less than `share` times its reference. CFOL (Pethick et al. 2023) mixes in one half. The radius, `divergence`
    and the unit of `dual` are those of the inner set.

    Args:
        inner: any ambiguity set.
        share: the floor, in [0, 1] (default 0.1).

    Raises:
        TypeError: the share is no number.
        ValueError: the share is outside [0, 1].

    >>> import torch
    >>> from faal_lab.dro import Floored, Simplex
    >>> Floored(Simplex(), share=0.5).worst_case(torch.tensor([0.1, 0.2, 0.3, 0.9])).weights
    tensor([0.1250, 0.1250, 0.1250, 0.6250], dtype=torch.float64)
    """

    inner: AmbiguitySet
    share: float = 0.1

    def __post_init__(self) -> None:
        check_radius(self.share, "share, the floor,", (0.0, 1.0))

    @property
    def limits(self) -> tuple[float, float]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Return the limits of the inner set.

        Returns:
            The smallest and the largest radius that has a meaning.

        >>> from faal_lab.dro import Floored, TotalVariationBall
        >>> Floored(TotalVariationBall()).limits
        (0.0, 1.0)
        """
        return self.inner.limits

    @property
    def radius(self) -> float:
        """Return the radius of the inner set.

        Returns:
            The radius, in the measure of that set.

        >>> from faal_lab.dro import Floored, KLBall
        >>> Floored(KLBall(0.3)).radius
        0.3
        """
        return self.inner.radius

    def worst_case(
        self,
        scores: torch.Tensor,
        radius: torch.Tensor | float | None = None,
        reference: torch.Tensor | None = None,
        present: torch.Tensor | None = None,
        check: bool | None = None,
    ) -> WorstCase:
        """Solve for the worst case; see `AmbiguitySet.worst_case`."""
        found = self.inner.worst_case(scores, radius, reference, present, check)
        posed = pose(scores, 0.0, reference, present, False)
        weights = torch.lerp(found.weights, posed.reference, self.share)
        value = torch.lerp(found.value, (posed.reference * posed.scores).sum(-1), self.share)
        return WorstCase(weights, value, found.divergence, found.dual * (1 - self.share))
