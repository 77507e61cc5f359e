"""One KL problem over few classes in plain floats.

Knows: the same root as `kl`, without tensors: a hundred small torch operations cost ten times the arithmetic.
Must not know: batches, other references than uniform.
"""

from __future__ import annotations

import math

import torch

from faal_lab.ambiguity.worst_case import WorstCase

_CLASSES = 64  # beyond, tensors are as quick
_SMALL = 1e-3  # for a smaller tau the plain sum of logarithms loses digits to cancellation


def solve(scores: torch.Tensor, tau: float, present: torch.Tensor | None) -> WorstCase | None:
    """The worst case for `scores` [C] around uniform over the present classes; None where the general path must answer.

    That is: many classes, all absent, equal scores, tau 0, tau so large that a weight underflows, and bad input (which it
    refuses by name).
    """
    if len(scores) > _CLASSES or not 0 < tau < 100:
        return None
    values = scores.tolist()
    kept: list[int] | None = None
    used = values
    if present is not None:
        if present.dtype != torch.bool or present.shape != scores.shape:
            return None
        kept = [c for c, here in enumerate(present.tolist()) if here]
        used = [values[c] for c in kept]
    if not used or not math.isfinite(sum(used)):
        return None
    top, bottom = max(used), min(used)
    spread = top - bottom
    if spread <= 1e-12 * max(abs(top), abs(bottom)):
        return None
    gaps = [(top - s) / spread for s in used]
    s = _root(gaps, tau)
    if s is None:
        return None
    gap, _, near = (_gap_small if tau < _SMALL else _gap)(s, gaps)
    eps, count = math.exp(s), len(used)
    unit = eps / (near * count)
    weights = [unit / (eps + d) for d in gaps]
    total = sum(weights)
    weights = [w / total for w in weights]
    value = sum(map(float.__mul__, weights, map(float, used)))
    if kept is not None:
        spare, weights = iter(weights), [0.0] * len(values)
        for c in kept:
            weights[c] = next(spare)
    found = torch.tensor([*weights, value, gap, unit * count * spread], dtype=torch.float64)
    classes = len(values)
    return WorstCase(found[:classes], found[classes], found[classes + 1], found[classes + 2])


def _gap(s: float, gaps: list[float]) -> tuple[float, float, float]:
    """g, its slope in s, and E[q] (see `kl`)."""
    eps, count = math.exp(s), len(gaps)
    first = second = logs = 0.0
    for d in gaps:
        a = eps + d
        q = eps / a
        first += q
        second += q * q
        logs += math.log(a)
    near = first / count
    return math.log(near) - s + logs / count, near - second / first, near


def _gap_small(s: float, gaps: list[float]) -> tuple[float, float, float]:
    """The same for a small tau, around the mean gap, where the first order cancels before it is rounded."""
    eps, count = math.exp(s), len(gaps)
    mean = eps + sum(gaps) / count
    first = second = inverse = logs = 0.0
    for d in gaps:
        z = (eps + d) / mean - 1
        if z < 1e-6 - 1:
            return _gap(s, gaps)
        q = eps / (eps + d)
        first += q
        inverse -= z / (1 + z)
        logs += math.log1p(z)
    near = first / count
    for d in gaps:
        second += (eps / (eps + d) - near) ** 2
    return math.log1p(inverse / count) + logs / count, -second / first, near


def _root(gaps: list[float], tau: float) -> float | None:
    """s = log eps by Newton on log(exp(g) - 1), inside a bracket that every look narrows."""
    count, tops = len(gaps), gaps.count(0.0)
    look = _gap_small if tau < _SMALL else _gap
    logs = sum([math.log(d) for d in gaps if d])
    low = (logs / count + math.log(tops / count) - tau) * count / (count - tops)
    if low < -650:
        return None
    high = max(low, math.log(max(1e-300, 0.5 * ((-math.expm1(-tau)) ** -0.5 - 1))))  # Kantorovich's inequality
    s, target = high, tau + math.log(-math.expm1(-tau))
    for _ in range(100):
        g, slope, _ = look(s, gaps)
        if g > tau:
            low = s
        else:
            high = s
        if g > 0 and slope < 0:
            moved = s - (g + math.log(-math.expm1(-g)) - target) * -math.expm1(-g) / slope
            if low <= moved <= high:
                if abs(moved - s) <= 1e-9:
                    return moved
                s = moved
                continue
        if high - low <= 1e-14:
            return s
        s = (low + high) / 2
    return s
