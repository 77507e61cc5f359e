"""Convert between a radius and c*, the largest multiplier of any class.

    c* = max over scores and classes of w_c / u_c,   u uniform

A radius means different things for 10 and for 100 classes, and in two sets. c* does not: at 3, no class counts more than three
times its share. The maximum is reached if one class stands out and all others are equal.
"""

from __future__ import annotations

import math

import torch

from faal_lab.catalogue import PRICES
from faal_lab.dro.base import AmbiguitySet
from faal_lab.dro.wasserstein import WassersteinBall

_HALVINGS = 200


def largest_multiplier(ambiguity: AmbiguitySet, classes: int, radius: float | None = None) -> float:
    """Return c* for a number of classes and a uniform reference; it is between 1 and `classes`.

    Raises ValueError for a set with a price instead of a radius.
    """
    if ambiguity.limits == PRICES:
        raise ValueError(
            f"{type(ambiguity).__name__} has a price instead of a radius: what it gives depends on the scores' range."
        )
    if isinstance(ambiguity, WassersteinBall):
        return _reach(ambiguity, classes, ambiguity.radius if radius is None else radius)
    lone = torch.zeros(1, classes, dtype=torch.float64)
    lone[0, 0] = 1.0
    return classes * float(ambiguity.worst_case(lone, radius=radius).weights.max())


def stated(ambiguity: AmbiguitySet, radius: float, classes: int) -> str:
    """Return the radius as text, with c* if the set has one."""
    if ambiguity.limits == PRICES:
        return f"price {radius:.3g}"
    return f"tau {radius:.3g} (c* {largest_multiplier(ambiguity, classes, radius):.2f})"


def radius_for_multiplier(ambiguity: AmbiguitySet, multiplier: float, classes: int) -> float:
    """Find, by bisection, the radius with c* = `multiplier`, above 1 and below `classes`.

    The radius of the set itself has no effect. Raises ValueError for a multiplier that no radius gives.
    """
    if not 1 < multiplier < classes:
        raise ValueError(f"The largest multiplier must lie between 1 and the {classes} classes, both excluded, got {multiplier}.")
    low, high = (math.log(max(end, 1e-12)) for end in (ambiguity.limits[0], min(ambiguity.limits[1], 1e6)))
    rising = largest_multiplier(ambiguity, classes, math.exp(high)) > largest_multiplier(ambiguity, classes, math.exp(low))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        above = largest_multiplier(ambiguity, classes, math.exp(middle)) > multiplier
        low, high = (low, middle) if above == rising else (middle, high)
    found = math.exp((low + high) / 2)
    if not math.isclose(largest_multiplier(ambiguity, classes, found), multiplier, rel_tol=1e-6):
        raise ValueError(
            f"{type(ambiguity).__name__} has no radius with a largest multiplier of {multiplier} at {classes} classes."
        )
    return found


def _reach(ambiguity: WassersteinBall, classes: int, radius: float) -> float:
    """Return c* of the cheapest class to load: its share, and the nearest ones until the radius is spent."""
    bill = ambiguity.costs(classes).sort(dim=0).values.cumsum(0) / classes  # [k, j] cost of moving k shares to class j
    full = (bill <= radius).sum(0)  # the first share is class j's own and costs nothing
    edge = full.clamp(max=classes - 1)
    paid = bill.gather(0, (full - 1)[None])[0]
    step = bill.gather(0, edge[None])[0] - paid
    part = torch.where(full < classes, (radius - paid) / torch.where(step > 0, step, 1.0), 0.0)
    return float((full + part).max())
