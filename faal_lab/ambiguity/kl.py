"""KL(reference || w) <= tau: the set of the FAAL paper, solved exactly by one scalar root.

Knows: the closed form of the worst case. Must not know: where the scores come from.

With d the gaps and eps the distance between the dual variable and the largest score, in units of the range, the worst case
is `w = u / (eps + d)`, normalised, and eps is the one root of

    g(eps) = log E_u[1 / (eps + d)] + E_u[log(eps + d)] = tau,

which falls from infinity to 0. It is solved in s = log eps: parametrised by the dual variable itself, the root is lost to
rounding once eps < 1e-16, which happens for one very hard class. Along s, g falls like exp(-2 s) at one end and like a line
at the other, so log(exp(g) - 1) is nearly a line everywhere: Newton on that needs about four looks from any start.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from faal_lab.ambiguity import kl_floats
from faal_lab.ambiguity.pose import Posed, eager_on_cpu, pose, settle, settle_priced
from faal_lab.ambiguity.root import falling_root
from faal_lab.ambiguity.worst_case import WorstCase, check_radius
from faal_lab.catalogue import ANY_RADIUS, PRICES

_LOG_TINY = -700.0  # below this eps leaves the range of float64, and so do all weights but the hardest classes'


@dataclass(frozen=True)
class KLBall:
    """All w with KL(reference || w) <= radius; the paper's tau (FAAL, eq. 8, uniform reference first).

    Every class keeps a positive weight whatever the radius: this divergence never switches a class off. A class of which the
    reference holds nothing costs nothing: it takes all it can get if it is the hardest.
    Radius 0 returns the reference exactly. Raises ValueError on a negative or NaN radius.
    """

    radius: float = 0.5
    limits: ClassVar[tuple[float, float]] = ANY_RADIUS

    def __post_init__(self) -> None:
        check_radius(self.radius, "tau, the radius of the KL ball,")

    def worst_case(
        self,
        scores: torch.Tensor,
        radius: torch.Tensor | float | None = None,
        reference: torch.Tensor | None = None,
        present: torch.Tensor | None = None,
        check: bool | None = None,
    ) -> WorstCase:
        """See `AmbiguitySet.worst_case`. One small problem on a CPU is solved in plain floats, to the same digits."""
        bound = self.radius if radius is None else radius
        if scores.ndim == 1 and reference is None and check is not False and eager_on_cpu(scores):
            found = kl_floats.solve(scores, float(bound), present)
            if found is not None:
                return found
        return _solve(pose(scores, bound, reference, present, check))


@dataclass(frozen=True)
class KLPenalty:
    """Maximise sum(w * scores) - price * KL(reference || w) over the simplex; the price plays the part of the radius.

    A high price keeps close to the reference (infinity is the reference). `value` is that maximum, `dual` its derivative by the
    price, minus the divergence. The reference must be positive.
    """

    radius: float = 1.0
    limits: ClassVar[tuple[float, float]] = PRICES

    def __post_init__(self) -> None:
        check_radius(self.radius, "the price of the KL penalty", self.limits)

    def worst_case(
        self,
        scores: torch.Tensor,
        radius: torch.Tensor | float | None = None,
        reference: torch.Tensor | None = None,
        present: torch.Tensor | None = None,
        check: bool | None = None,
    ) -> WorstCase:
        """See `AmbiguitySet.worst_case`; `w = price * u / (eta - scores)` with E_u[1 / (eta - scores)] = 1 / price."""
        price = self.radius if radius is None else radius
        posed = pose(scores, price, reference, present, check, self.limits, positive=True)
        unit = (posed.radius / posed.spread).clamp(max=1e300)  # the price in units of the range
        mass = torch.where(posed.top, posed.reference, 0.0).sum(-1)

        def curve(s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            near, rise = _nearness(s, posed)
            return torch.log(near * unit) - s, rise / near - 1  # log of unit * E[1 / (eps + d)], and its slope in s

        low = torch.log(unit * mass.clamp(min=1e-300))
        s = falling_root(curve, low, torch.log(unit), torch.log(unit))
        weights = _weights(s, posed)
        return settle_priced(posed, weights, _log_mean_gap(s, posed)[0])


def _nearness(s: torch.Tensor, posed: Posed) -> tuple[torch.Tensor, torch.Tensor]:
    """E[q] and E[q (1 - q)] with q = eps / (eps + d) in (0, 1], which unlike 1 / (eps + d) cannot overflow."""
    eps = torch.exp(s)[..., None]
    q = eps / (eps + posed.gaps)
    return (posed.reference * q).sum(-1), (posed.reference * q * (1 - q)).sum(-1)


def _log_mean_gap(s: torch.Tensor, posed: Posed) -> tuple[torch.Tensor, torch.Tensor]:
    """g(eps), in the form that keeps its relative precision at both ends, and its slope in s."""
    u, eps = posed.reference, torch.exp(s)[..., None]
    a = eps + posed.gaps
    q = eps / a
    near = (u * q).sum(-1)
    mean = (u * a).sum(-1, keepdim=True)
    z = a / mean - 1  # E z = 0: the first order cancels before it is rounded
    g = torch.log1p(-(u * z * q).sum(-1) * (mean / eps).squeeze(-1)) + (u * torch.log1p(z)).sum(-1)
    ill = torch.where(u > 0, z, 0.0).amin(-1) < 1e-6 - 1
    if not eager_on_cpu(s) or bool(ill.any()):
        g = torch.where(ill, torch.log(near) - s + (u * torch.log(a)).sum(-1), g)
    return g, -(u * (q - near[..., None]) ** 2).sum(-1) / near


def _solve(posed: Posed) -> WorstCase:
    u, tau = posed.reference, posed.radius.clamp(min=1e-300)
    held = u > 0
    offset = torch.where(held, posed.gaps, torch.inf).amin(-1)  # above 0 where the hardest class has no reference mass
    inner = posed._replace(gaps=torch.where(held, posed.gaps - offset[..., None], 1.0))
    at_top = held & (inner.gaps == 0)
    rest = torch.where(at_top, 0.0, u).sum(-1)
    logs = (u * torch.log(torch.where(at_top | ~held, 1.0, inner.gaps))).sum(-1)
    low = ((logs + torch.log1p(-rest) - tau) / rest.clamp(min=1e-300)).clamp(min=_LOG_TINY)
    high = torch.log((0.5 * (torch.rsqrt(-torch.expm1(-tau)) - 1)).clamp(min=1e-304))  # Kantorovich's inequality
    target = _log_expm1(tau)

    def curve(s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        g, slope = _log_mean_gap(s, inner)
        g = g.clamp(min=1e-300)
        return _log_expm1(g) - target, slope / -torch.expm1(-g)

    s = falling_root(curve, low, torch.maximum(low, high), torch.maximum(low, high))
    weights, spent = _weights(s, inner), _log_mean_gap(s, inner)[0]
    dual = torch.exp(s) / _nearness(s, inner)[0]
    # the dual variable may not sink below a score that costs nothing: what is left over goes there
    free = torch.exp(s) < offset
    away = torch.where(held, posed.gaps, 1.0)
    price = torch.exp((u * torch.log(torch.where(away > 0, away, 1.0))).sum(-1) - tau)
    kept = torch.where(held, price[..., None] * u / torch.where(away > 0, away, 1.0), 0.0)
    left = (1 - kept.sum(-1, keepdim=True)).clamp(min=0)
    top = posed.top.to(u.dtype)
    popped = kept + left * top / top.sum(-1, keepdim=True).clamp(min=1)
    weights = torch.where(free[..., None], popped, weights)
    nominal = posed.radius <= 0
    dual = torch.where(nominal, torch.inf, torch.where(free, price, dual))
    return settle(posed, weights, torch.where(free, tau, spent), dual, nominal=nominal)


def _weights(s: torch.Tensor, posed: Posed) -> torch.Tensor:
    eps = torch.exp(s)[..., None]
    raw = posed.reference * (eps / (eps + posed.gaps))
    return raw / raw.sum(-1, keepdim=True)


def _log_expm1(x: torch.Tensor) -> torch.Tensor:
    return x + torch.log(-torch.expm1(-x))  # does not overflow
