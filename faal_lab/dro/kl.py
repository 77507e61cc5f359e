"""Solve KL(reference || w) <= tau, the set of the FAAL paper, exactly by one scalar root.

    w_c = u_c * lam / (nu - score_c),   u the reference, nu above the largest score

Let d be the gaps to the largest score, divided by the spread, s = log eps and q = eps / (eps + d). The root is g(s) = tau for
g(s) = KL(u || w) = log E_u[q] - s + E_u[log(eps + d)].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from faal_lab.catalogue import PRICES
from faal_lab.dro import floats
from faal_lab.dro.base import (
    Ball,
    Posed,
    WorstCase,
    eager_on_cpu,
    falling_root,
    settle,
    settle_priced,
)

_LOG_TINY = -700.0  # below it, eps leaves the range of float64, and so do all weights but those of the hardest classes


@dataclass(frozen=True)
class KLBall(Ball):
    """All w with KL(reference || w) <= radius, the paper's tau
    (FAAL, eq. 8, uniform distribution first).

    Every class keeps a positive weight at any radius. A class without reference mass costs nothing: it takes all that it can get
    if it is the hardest. Radius 0 returns the reference exactly.

    Args:
        radius: tau, at least 0 (default 0.5).

    Raises:
        TypeError: the radius is no number.
        ValueError: the radius is negative or NaN.

    >>> import torch
    >>> from faal_lab.dro import KLBall
    >>> KLBall(0.5).worst_case(torch.tensor([0.1, 0.2, 0.3, 0.9])).weights
    tensor([0.0794, 0.0894, 0.1022, 0.7290], dtype=torch.float64)
    """

    radius: float = 0.5
    kernel: ClassVar[str] = "kl"
    _plain: ClassVar[floats.Plain | None] = floats.kl
    named: ClassVar[str] = "tau, the radius of the KL ball,"

    def _solve(self, posed: Posed) -> WorstCase:
        return _solve(posed)


@dataclass(frozen=True)
class KLPenalty(Ball):
    """Maximise sum(w * scores) - price * KL(reference || w) over the simplex.
    The price takes the place of the radius.

    A high price keeps w close to the reference; an infinite one returns the reference. `value` is the maximum, and `dual` is its
    derivative by the price, -divergence. The reference must be positive on every class present.

    Args:
        radius: the price, above 0 (default 1), in the units of the scores.

    Raises:
        TypeError: the price is no number.
        ValueError: the price is 0, negative or NaN.

    >>> import torch
    >>> from faal_lab.dro import KLPenalty
    >>> KLPenalty(1.0).worst_case(torch.tensor([0.1, 0.2, 0.3, 0.9])).weights
    tensor([0.1790, 0.1928, 0.2090, 0.4192], dtype=torch.float64)
    """

    radius: float = 1.0
    limits: ClassVar[tuple[float, float]] = PRICES
    named: ClassVar[str] = "the price of the KL penalty"
    _plain: ClassVar[floats.Plain | None] = floats.kl_penalty
    positive: ClassVar[bool] = True

    def _solve(self, posed: Posed) -> WorstCase:
        # w = price * u / (eta - scores) with E_u[1 / (eta - scores)] = 1 / price
        unit = (posed.radius / posed.spread).clamp(max=1e300)  # the price in units of the spread
        mass = torch.where(posed.top, posed.reference, 0.0).sum(-1)

        def curve(s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            near, rise = _nearness(s, posed)
            return torch.log(near * unit) - s, rise / near - 1  # log of unit * E[1 / (eps + d)], and its slope in s

        low = torch.log(unit * mass.clamp(min=1e-300))
        s = falling_root(curve, low, torch.log(unit), torch.log(unit))
        weights = _weights(s, posed)
        return settle_priced(posed, weights, _log_mean_gap(s, posed)[0])


def _nearness(s: torch.Tensor, posed: Posed) -> tuple[torch.Tensor, torch.Tensor]:
    """Return E[q] and E[q (1 - q)]. q = eps / (eps + d) is in (0, 1]; 1 / (eps + d) could overflow."""
    eps = torch.exp(s)[..., None]
    q = eps / (eps + posed.gaps)
    return (posed.reference * q).sum(-1), (posed.reference * q * (1 - q)).sum(-1)


def _log_mean_gap(s: torch.Tensor, posed: Posed) -> tuple[torch.Tensor, torch.Tensor]:
    """Return g and its slope in s, in the form that keeps its relative precision at both ends."""
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
    # a score that costs nothing bounds the dual variable from below: the mass that is left over goes to that class
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
