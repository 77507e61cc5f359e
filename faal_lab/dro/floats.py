"""Solve one problem on a CPU in plain floats.

For ten classes a hundred torch operations cost ten times the arithmetic. Each function has the formulas of its set's `_solve`,
for a uniform reference over the classes present, and returns None where only tensors answer: a radius without effect, or so
large that a weight leaves the range of float64.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

_CLASSES = 500  # with more classes, tensors are as fast
_SMALL = 1e-3  # for a smaller KL divergence the plain sum of logarithms loses digits to cancellation
_LARGE = 100.0  # above it a weight of the KL ball may underflow


class One(NamedTuple):
    """A problem of n classes, not all equally hard."""

    gaps: list[float]  # (largest - score) / spread, in [0, 1]
    tops: int  # how many gaps are 0
    spread: float  # largest score less the smallest
    radius: float
    kept: list[int] | range  # the place of each among all classes
    classes: int  # all of them
    ambiguity: Any  # the set


class Answer(NamedTuple):
    """What is found for the n classes."""

    weights: list[float]
    divergence: float
    dual: float  # in the units of the scores
    paid: float = 0.0  # the price of a penalised form


Plain = Callable[[One], Answer | None]


Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def solve(plain: Plain, ambiguity: Any, scores: torch.Tensor, radius: float, present: torch.Tensor | None) -> Tensors | None:
    """Solve for `scores` [C]: the four tensors of `WorstCase`, or None where the general path must answer or refuse."""
    low, high = ambiguity.limits
    if not 0 < len(scores) <= _CLASSES or not low <= radius <= high or scores.is_complex():
        return None
    values = [float(s) for s in scores.tolist()]
    kept: list[int] | range = range(len(values))
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
    try:
        answer = plain(One(gaps, gaps.count(0.0), spread, radius, kept, len(values), ambiguity))
    except (ArithmeticError, ValueError):  # a number left the range of floats, or is no argument of a logarithm
        return None
    if answer is None:
        return None
    weights, classes = answer.weights, len(values)
    value = sum(map(float.__mul__, weights, used)) - answer.paid
    if len(used) < classes:
        weights = [0.0] * classes
        for c, weight in zip(kept, answer.weights, strict=True):
            weights[c] = weight
    numbers = [*weights, value, answer.divergence, answer.dual]
    if not math.isfinite(sum(numbers)):
        return None
    found = torch.tensor(numbers, dtype=torch.float64, device=scores.device)
    return found[:classes], found[classes], found[classes + 1], found[classes + 2]


def point(one: One) -> Answer:
    """Stay at the reference."""
    return Answer([1.0 / len(one.gaps)] * len(one.gaps), 0.0, 0.0)


def simplex(one: One) -> Answer:
    """Give all weight to the hardest classes; the divergence is the mass that moved."""
    return Answer(_corner(one), 1.0 - one.tops / len(one.gaps), 0.0)


def _corner(one: One) -> list[float]:
    return [0.0 if d else 1.0 / one.tops for d in one.gaps]


def total_variation(one: One) -> Answer | None:
    """Empty the easiest classes first, and give their mass to the hardest."""
    if one.radius <= 0:
        return None
    share, most = 1.0 / len(one.gaps), 1 - one.tops / len(one.gaps)
    moved = left = min(one.radius, most)
    level = rest = 0.0
    for gap, classes in sorted(Counter(one.gaps).items(), reverse=True):
        if not gap:
            break
        level, rest = gap, max(0.0, share - left / classes)
        if classes * share >= left:
            break
        left -= classes * share
    up = share + moved / one.tops
    weights = [up if not d else 0.0 if d > level else rest if d == level else share for d in one.gaps]
    return Answer(weights, moved, 0.0 if one.radius >= most else level * one.spread)


def cvar(one: One) -> Answer | None:
    """Fill the hardest classes up to their cap."""
    count = len(one.gaps)
    if one.radius >= 1:
        return None
    cap, above, level, edge = 1.0 / count / one.radius, 0.0, 1.0, 1
    for gap, classes in sorted(Counter(one.gaps).items()):
        level, edge = gap, classes
        if gap == 1 or above + classes * cap >= 1 - 1e-15:
            break
        above += classes * cap
    partly = (1 - above) / edge
    weights = [cap if d < level else partly if d == level else 0.0 for d in one.gaps]
    excess = sum(level - d for d in one.gaps if d < level) / count
    return Answer(weights, 1.0 / (max(weights) * count), excess * one.spread)


def chi_square(one: One) -> Answer | None:
    """Find the classes that keep weight by sorting, then the threshold in closed form."""
    count, rho = len(one.gaps), one.radius
    if rho <= 0:
        return None
    if rho >= count / one.tops - 1:
        return Answer(_corner(one), count / one.tops - 1, 0.0)
    first = second = 0.0
    active: list[float] = []
    for d in sorted(one.gaps):
        more, squares = first + d, second + d * d
        held = len(active) + 1
        reach = d * held - more
        if d and (reach <= 0 or (d * d * held - 2 * d * more + squares) / (reach * reach) * count - 1 <= rho):
            break
        active.append(d)
        first, second = more, squares
    mean = first / len(active)
    share, variance = len(active) / count, sum([(d - mean) ** 2 for d in active]) / len(active)
    theta = mean + math.sqrt(variance / max(1e-300, (1 + rho) * share - 1))
    heights = [max(0.0, theta - d) if d <= active[-1] else 0.0 for d in one.gaps]
    total = sum(heights)
    weights = [h / total for h in heights]
    spent = sum([(w * count - 1) ** 2 for w in weights]) / count
    slope = math.sqrt(sum([h * h for h in heights]) / count / (1 + rho)) / 2
    return Answer(weights, spent, slope * one.spread)


def hellinger(one: One) -> Answer | None:
    """Find s = log eps where q = eps / (eps + d) varies as much as the radius allows."""
    count, rho, gaps = len(one.gaps), one.radius, one.gaps
    if rho <= 0:
        return None
    if rho >= (most := 1 - math.sqrt(one.tops / count)):
        return Answer(_corner(one), most, 0.0)
    target = math.log(math.expm1(-2 * math.log1p(-rho)))

    def variation(s: float) -> tuple[float, float]:
        eps = math.exp(s)
        q = [eps / (eps + d) for d in gaps]
        near = sum(q) / count
        v = bend = rise = 0.0
        for p in q:
            off, up = p / near - 1, p * (1 - p) / near
            v += off * off
            bend += off * up
            rise += up
        v /= count
        return v, 2 * (bend - v * rise) / count

    def curve(s: float) -> tuple[float, float]:
        v, slope = variation(s)
        v = max(v, 1e-300)
        return math.log(v) - target, slope / v

    s = _falling_root(curve, -700.0, max(0.0, -0.5 * math.log(rho)) + 1, 0.0)
    eps = math.exp(s)
    raw = [(eps / (eps + d)) ** 2 for d in gaps]
    total = sum(raw)
    gone = -math.expm1(-0.5 * math.log1p(variation(s)[0]))
    return Answer([r / total for r in raw], gone, 2 * eps / math.sqrt(total / count) * one.spread)


def reverse_kl(one: One) -> Answer | None:
    """Find the sharpness at which a softmax of the scores has the divergence."""
    gaps, tau = one.gaps, one.radius
    if tau <= 0:
        return None
    if tau >= (most := math.log(len(gaps) / one.tops)):
        return Answer(_corner(one), most, 0.0)

    def curve(s: float) -> tuple[float, float]:
        sharpness = math.exp(s)
        weights, spent = _tilted(sharpness, gaps)
        mean = sum(map(float.__mul__, weights, gaps))
        spreads = sum([w * (d - mean) ** 2 for w, d in zip(weights, gaps, strict=True)])
        return math.log(tau / max(spent, 1e-300)), -sharpness * sharpness * spreads / spent

    low = 0.5 * math.log(8 * tau)  # Hoeffding: the temperature is at most range / sqrt(8 tau)
    high = max(low, math.log(700 / min([d for d in gaps if d])))
    middle = sum(gaps) / len(gaps)
    variance = sum([(d - middle) ** 2 for d in gaps]) / len(gaps)
    s = _falling_root(curve, low, high, 0.5 * math.log(2 * tau / variance))  # of a small ball: tau = sharpness^2 * variance / 2
    weights, spent = _tilted(math.exp(s), gaps)
    return Answer(weights, spent, math.exp(-s) * one.spread)


def reverse_kl_penalty(one: One) -> Answer | None:
    """Return the softmax of the scores; the radius is its temperature."""
    weights, spent = _tilted(min(1e300, one.spread / one.radius), one.gaps)
    return Answer(weights, spent, -spent, max(0.0, one.radius * spent)) if math.isfinite(one.radius) else None


def _tilted(sharpness: float, gaps: list[float]) -> tuple[list[float], float]:
    """Return exp(-sharpness * gap), normalised, and its KL divergence from uniform; see `reverse_kl.tilted`."""
    count = len(gaps)
    x = [-sharpness * d for d in gaps]
    raw = [math.exp(v) for v in x]
    total = sum(raw)
    weights = [r / total for r in raw]
    if sharpness >= 0.5:
        return weights, sum(map(float.__mul__, weights, x)) - math.log(total / count)
    middle = sum(x) / count
    grown = [math.expm1(v - middle) for v in x]
    lift = sum(grown) / count
    return weights, sum([(v - middle) * g for v, g in zip(x, grown, strict=True)]) / count / (1 + lift) - math.log1p(lift)


def kl(one: One) -> Answer | None:
    """Find s = log eps where KL(u || w) is the radius; see `kl.py`."""
    gaps, tau, count = one.gaps, one.radius, len(one.gaps)
    if not 0 < tau < _LARGE:
        return None
    if (s := _kl_root(gaps, tau)) is None:
        return None
    gap, _, near = (_gap_small if tau < _SMALL else _gap)(s, gaps)
    eps = math.exp(s)
    unit = eps / (near * count)
    weights = [unit / (eps + d) for d in gaps]
    total = sum(weights)
    return Answer([w / total for w in weights], gap, unit * count * one.spread)


def kl_penalty(one: One) -> Answer | None:
    """Find s = log eps where E[q] is eps over the price; the radius is the price."""
    gaps, count, unit = one.gaps, len(one.gaps), one.radius / one.spread
    if not math.isfinite(unit):
        return None

    def curve(s: float) -> tuple[float, float]:
        eps = math.exp(s)
        q = [eps / (eps + d) for d in gaps]
        near = sum(q) / count
        return math.log(near * unit) - s, sum([p * (1 - p) for p in q]) / count / near - 1

    high = math.log(unit)
    s = _falling_root(curve, high + math.log(one.tops / count), high, high)
    eps = math.exp(s)
    raw = [eps / (eps + d) for d in gaps]
    total = sum(raw)
    spent = _gap_small(s, gaps)[0]
    return Answer([r / total for r in raw], spent, -spent, max(0.0, one.radius * spent))


def _gap(s: float, gaps: list[float]) -> tuple[float, float, float]:
    """Return g, its slope in s, and E[q]; the docstring of `kl.py` defines them."""
    eps, count = math.exp(s), len(gaps)
    first = second = logs = 0.0
    for d in gaps:
        q = eps / (eps + d)
        first += q
        second += q * q
        logs += math.log(eps + d)
    near = first / count
    return math.log(near) - s + logs / count, near - second / first, near


def _gap_small(s: float, gaps: list[float]) -> tuple[float, float, float]:
    """Return the same for a small g, around the mean gap: the first order cancels before rounding."""
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


def _kl_root(gaps: list[float], tau: float) -> float | None:
    """Find s = log eps by Newton's method on log(exp(g) - 1), in a bracket that every evaluation narrows."""
    count, tops = len(gaps), gaps.count(0.0)
    look = _gap_small if tau < _SMALL else _gap
    logs = sum([math.log(d) for d in gaps if d])
    if (low := (logs / count + math.log(tops / count) - tau) * count / (count - tops)) < -650:
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


def _falling_root(curve: Callable[[float], tuple[float, float]], low: float, high: float, start: float) -> float:
    """Find the s where f falls through 0, as `base.falling_root` does; `curve` returns f(s) and its slope."""
    s = min(max(start, low), high)
    for _ in range(100):
        value, slope = curve(s)
        low, high = (s, high) if value > 0 else (low, s)
        moved = s - value / slope if slope else math.nan
        inside = low <= moved <= high
        if inside and abs(moved - s) <= 1e-9:
            return moved
        s = moved if inside else (low + high) / 2
        if high - low <= 1e-14:
            break
    return s
