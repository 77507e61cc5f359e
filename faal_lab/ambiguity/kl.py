"""KL(reference || w) <= tau: the set of the FAAL paper, solved exactly by one scalar root.

Knows: the closed form of the worst case. Must not know: where the scores come from.

With L the largest score, R the range, d = (L - scores) / R and eps the gap between the dual variable and L in units of R, the
worst case is `w = u / (eps + d)`, normalised, and eps is the one root of

    g(eps) = log E_u[1 / (eps + d)] + E_u[log(eps + d)] = tau,

which falls from infinity to 0. It is solved in s = log eps: parametrised by the dual variable itself, the root is lost to
rounding once eps < 1e-16, which happens for one very hard class; parametrised by s it is exact until tau is about 600, where
the weights of all but the hardest classes have long left the range of float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from faal_lab.ambiguity.worst_case import Problem, WorstCase, check_radius, pose

_BISECTIONS = 64  # halves a bracket of 720 in s down to the resolution of float64
_LOG_TINY = -700.0
_SCALAR_CLASSES = 64  # up to here plain floats beat the launch overhead of 500 small torch operations by far
_FLAT = 1e-12  # a range of scores below this, relative to their size, is rounding noise: all equal


@dataclass(frozen=True)
class KLBall:
    """All w with KL(reference || w) <= radius; the paper's tau (FAAL, eq. 8, uniform reference first).

    Every class keeps a positive weight whatever the radius: this divergence never switches a class off.
    Radius 0 returns the reference exactly. Raises ValueError on a negative or NaN radius.
    """

    radius: float = 0.5

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
        """Maximise sum(w * scores) over the ball, for each row of `scores` [..., C].

        `radius` overrides the set's own (a 0-dim tensor is allowed, [...] too); `reference` [..., C] is uniform by default;
        `present` [..., C] takes classes out of the problem. `check=True` validates values on any device.
        """
        problem = pose(scores, self.radius if radius is None else radius, reference, present, check)
        if problem.scores.ndim == 1 and scores.device.type == "cpu" and len(problem.scores) <= _SCALAR_CLASSES:
            return _solve_floats(problem)
        return _solve_tensors(problem)


def _gap_tensors(eps: torch.Tensor, gaps: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """g(eps), in the form that keeps its relative precision at both ends."""
    a = eps[..., None] + gaps
    z = a / (reference * a).sum(-1, keepdim=True) - 1  # E z = 0: the first order cancels before it is rounded
    near = torch.log1p((reference * (-z / (1 + z))).sum(-1)) + (reference * torch.log1p(z)).sum(-1)
    far = torch.log((reference / a).sum(-1)) + (reference * torch.log(a)).sum(-1)
    return torch.where((1 + z).amin(-1) < 1e-6, far, near)


def _solve_tensors(problem: Problem) -> WorstCase:
    scores, u, tau = problem
    here = u > 0
    top = torch.where(here, scores, -torch.inf).amax(-1)
    bottom = torch.where(here, scores, torch.inf).amin(-1)
    spread = top - bottom
    flat = (spread <= _FLAT * top.abs().clamp(min=bottom.abs())) | (tau <= 0)
    unit = torch.where(flat, 1.0, spread)
    gaps = torch.where(here, (top[..., None] - scores) / unit[..., None], 1.0)  # d in [0, 1], exactly 0 at the top
    at_top = gaps == 0
    mass = torch.where(at_top, u, 0.0).sum(-1)
    log_gaps = torch.where(at_top, 0.0, torch.log(gaps.clamp(min=1e-300)))
    tau_safe = tau.clamp(min=1e-300)
    high = torch.log((0.5 * (torch.rsqrt(-torch.expm1(-tau_safe)) - 1)).clamp(min=1e-304))
    low = ((u * log_gaps).sum(-1) + torch.log(mass) - tau) / (1 - mass).clamp(min=1e-300)
    low = low.clamp(min=_LOG_TINY)
    high = torch.maximum(high, low)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        above = _gap_tensors(torch.exp(middle), gaps, u) > tau
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    eps = torch.exp((low + high) / 2)
    raw = u / (eps[..., None] + gaps)
    total = raw.sum(-1)
    weights = torch.where(flat[..., None], u, raw / total[..., None])
    value = (weights * torch.where(here, scores, 0.0)).sum(-1)
    divergence = torch.where(flat, 0.0, _gap_tensors(eps, gaps, u))
    steep = torch.where((tau <= 0) & (spread > 0), torch.inf, 0.0)
    return WorstCase(weights, value, divergence, torch.where(flat, steep, unit / total))


def _gap_floats(eps: float, gaps: list[float], u: list[float]) -> tuple[float, float]:
    """g(eps) and eps * g'(eps), in plain floats."""
    a = [eps + d for d in gaps]
    mean = sum(p * x for p, x in zip(u, a, strict=True))
    inverse = sum(p / x for p, x in zip(u, a, strict=True))
    shares = [p / x / inverse for p, x in zip(u, a, strict=True)]  # p / x**2 itself would overflow
    z = [x / mean - 1 for x in a]
    if 1 + min(z) < 1e-6:
        gap = math.log(inverse) + sum(p * math.log(x) for p, x in zip(u, a, strict=True))
    else:
        first = sum(p * (-y / (1 + y)) for p, y in zip(u, z, strict=True))
        gap = math.log1p(first) + sum(p * math.log1p(y) for p, y in zip(u, z, strict=True))
    return gap, -eps * (sum(q / x for q, x in zip(shares, a, strict=True)) - inverse)


def _root_floats(gaps: list[float], u: list[float], tau: float) -> float:
    """The root eps by Newton in log eps, guarded by bisection: about ten evaluations."""
    mass = sum(p for p, d in zip(u, gaps, strict=True) if d == 0)
    logs = sum(p * math.log(d) for p, d in zip(u, gaps, strict=True) if d > 0)
    low = max(_LOG_TINY, (logs + math.log(mass) - tau) / (1 - mass))
    high = max(low, math.log(max(1e-304, 0.5 * ((-math.expm1(-tau)) ** -0.5 - 1))))
    s = high  # g is convex in s on this side, so Newton from the right end rarely leaves the bracket
    for _ in range(_BISECTIONS * 2):
        gap, slope = _gap_floats(math.exp(s), gaps, u)
        low, high = (s, high) if gap > tau else (low, s)
        if abs(gap - tau) <= 1e-15 * tau or high - low <= 1e-15 * max(1.0, abs(s)):
            break
        moved = s - (gap - tau) / slope if slope < 0 else math.nan
        s = moved if low < moved < high else (low + high) / 2
    return math.exp(s)


def _solve_floats(problem: Problem) -> WorstCase:
    scores, u = problem.scores.tolist(), problem.reference.tolist()
    tau = float(problem.radius)
    used = [s for s, p in zip(scores, u, strict=True) if p > 0]
    top, bottom = max(used), min(used)
    spread = top - bottom
    if spread <= _FLAT * max(abs(top), abs(bottom)) or tau <= 0:
        weights, gap, dual = u, 0.0, (math.inf if tau <= 0 and spread > 0 else 0.0)
    else:
        gaps = [(top - s) / spread if p > 0 else 1.0 for s, p in zip(scores, u, strict=True)]
        eps = _root_floats(gaps, u, tau)
        raw = [p / (eps + d) for p, d in zip(u, gaps, strict=True)]
        total = sum(raw)
        weights = [x / total for x in raw]
        gap, dual = _gap_floats(eps, gaps, u)[0], spread / total
    value = sum(w * s for w, s, p in zip(weights, scores, u, strict=True) if p > 0)
    tensor = torch.tensor([*weights, value, gap, dual], dtype=torch.float64)
    return WorstCase(tensor[:-3], tensor[-3], tensor[-2], tensor[-1])
