"""Move mass between classes, each pair at its own cost, for at most r in all.

At a price gamma per unit of cost, class c sends its mass to the class with the largest `score_j - gamma * cost_cj`. The cost of
these journeys falls as the price rises, in jumps. The worst case mixes the two plans on either side of the jump at r.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from faal_lab.dro import floats
from faal_lab.dro.base import Ball, Posed, WorstCase, eager_on_cpu, settle
from faal_lab.dro.floats import Answer, One

_HALVINGS = 64
_COSTED = 40  # with more classes and costs of their own, tensors are as fast as plain floats


def _in_floats(one: One) -> Answer | None:
    """Make the journeys that pay most for their cost, until the radius is spent.

    Each class starts at its cheapest place and goes on along the upper edge of its (cost, gain); all steps are taken in order of
    gain per cost. Steps that pay alike are taken by the same share.
    """
    if one.ambiguity.cost is None:
        return _all_alike(one)
    count, radius = len(one.gaps), one.radius
    if radius <= 0 or count > _COSTED or len(one.ambiguity.cost) != one.classes:
        return None
    costs = one.ambiguity.costs(one.classes).tolist()
    weights, steps = [0.0] * count, []
    for row in one.kept:
        to = [(costs[row][column], gap) for column, gap in zip(one.kept, one.gaps, strict=True)]
        cost, gap = min(to)
        _send(weights, to, (cost, gap), 1.0 / count)
        while True:
            ways = [((gap - g) / (c - cost), c, g) for c, g in to if g < gap and c > cost]
            if not ways:
                break
            slope = max(ways)[0]
            _, far, low = max(way for way in ways if way[0] >= slope * (1 - 1e-13))
            steps.append((slope, (far - cost) / count, to, (cost, gap), (far, low)))
            cost, gap = far, low
    spent, dual = 0.0, 0.0
    steps.sort(key=lambda step: -step[0])
    while steps and not dual:
        alike = [step for step in steps if step[0] >= steps[0][0] * (1 - 1e-13)]
        needed, share = sum(step[1] for step in alike), 1.0
        if spent + needed > radius:
            share, dual = (radius - spent) / needed, steps[0][0] * one.spread
        for _, _, to, old, new in alike:
            _send(weights, to, old, -share / count)
            _send(weights, to, new, share / count)
        spent, steps = spent + share * needed, steps[len(alike) :]
    return Answer([max(0.0, w) for w in weights], spent, dual)


def _all_alike(one: One) -> Answer | None:
    """Solve at a cost of 1 for every pair, total variation; `dual` is the worth of more, where a class is just emptied too."""
    found, emptied = floats.total_variation(one), 0
    for gap, classes in sorted(Counter(one.gaps).items(), reverse=True):
        emptied += classes
        if found is None or emptied / len(one.gaps) > one.radius:
            return found and found._replace(dual=gap * one.spread)
    return found


def _send(weights: list[float], to: list[tuple[float, float]], place: tuple[float, float], mass: float) -> None:
    """Add mass to the classes at a (cost, gap), in equal shares."""
    share = mass / to.count(place)
    for column, there in enumerate(to):
        if there == place:
            weights[column] += share


@dataclass(frozen=True)
class WassersteinBall(Ball):
    """All w to which the reference can be moved at a cost of at most `radius`.

    Time and memory are quadratic in C: use it for up to 1,000 classes.

    Args:
        radius: r, at least 0 (default 0.2), in the units of `cost` times mass.
        cost: [C, C], paid per unit of mass from row to column; for example one minus how often two classes are confused, or the
            angle between their classifier weights. None is 1 for every pair: total variation.

    Raises:
        TypeError: the radius is no number.
        ValueError: the radius is negative or NaN; or `cost` is not square, finite, nonnegative, and 0 on the diagonal.

    >>> import torch
    >>> from faal_lab.dro import WassersteinBall
    >>> line = (torch.arange(4)[:, None] - torch.arange(4)).abs()  # classes in a row: neighbours cost 1
    >>> WassersteinBall(0.25, cost=line).worst_case(torch.tensor([0.1, 0.2, 0.3, 0.9])).weights
    tensor([0.2500, 0.2500, 0.0000, 0.5000], dtype=torch.float64)
    """

    radius: float = 0.2
    named: ClassVar[str] = "r, the radius of the Wasserstein ball,"
    _plain: ClassVar[floats.Plain | None] = _in_floats
    cost: torch.Tensor | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cost is not None:
            _check_cost(self.cost)

    def costs(self, classes: int) -> torch.Tensor:
        """Return the cost matrix for a number of classes.

        Args:
            classes: C.

        Returns:
            The costs, float64 [C, C].

        Raises:
            ValueError: the matrix has another size.

        >>> from faal_lab.dro import WassersteinBall
        >>> WassersteinBall().costs(2)
        tensor([[0., 1.],
                [1., 0.]], dtype=torch.float64)
        """
        if self.cost is None:
            return 1 - torch.eye(classes, dtype=torch.float64)
        if len(self.cost) != classes:
            raise ValueError(f"cost must be [{classes}, {classes}] for scores of {classes} classes, got {list(self.cost.shape)}.")
        return self.cost.detach().to(torch.float64)

    def _solve(self, posed: Posed) -> WorstCase:
        # `dual` is the price gamma.
        cost = self.costs(posed.gaps.shape[-1]).to(posed.gaps.device)
        scale = cost.amax().clamp(min=1e-300)
        cost, budget = cost / scale, posed.radius / scale
        gain = (posed.gaps[..., :, None] - posed.gaps[..., None, :]) / torch.where(cost > 0, cost, torch.inf)
        low = torch.zeros_like(posed.spread)
        high = gain.flatten(-2).amax(-1).clamp(min=0) * 2 + 1  # no journey is worth this price: all mass stays
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            dear = _plan(middle, cost, posed)[1] > budget
            low, high = torch.where(dear, middle, low), torch.where(dear, high, middle)
            if eager_on_cpu(low) and bool((high - low <= 1e-15 * high).all()):
                break
        (far, spent_far), (near, spent_near) = _plan(low, cost, posed), _plan(high, cost, posed)
        jump = spent_far - spent_near
        share = torch.where(jump > 0, (budget - spent_near) / torch.where(jump > 0, jump, 1.0), 0.0).clamp(0, 1)
        weights = near + share[..., None] * (far - near)
        spent = spent_near + share * jump
        earned = ((near - far) * posed.gaps).sum(-1)
        slope = torch.where(jump > 0, earned / torch.where(jump > 0, jump, 1.0), 0.0)
        dual = torch.where(budget >= spent_far, 0.0, slope) / scale
        return settle(posed, weights, spent * scale, dual, nominal=posed.radius <= 0)


def _plan(price: torch.Tensor, cost: torch.Tensor, posed: Posed) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where the mass ends [..., C] at a price [...], and the cost of its journeys [...].

    Of equally good destinations, take the nearest.
    """
    worth = -posed.gaps[..., None, :] - price[..., None, None] * cost
    worth = torch.where(posed.present[..., None, :], worth, -torch.inf)
    best = worth == worth.amax(-1, keepdim=True)
    way = torch.where(best, cost, torch.inf).amin(-1, keepdim=True)
    best = best & (cost == way)
    ends = torch.where(best, posed.reference[..., None, :], 0.0)
    ends = torch.where(ends.sum(-1, keepdim=True) > 0, ends, best.to(ends.dtype))
    sent = posed.reference[..., None] * ends / ends.sum(-1, keepdim=True)
    return sent.sum(-2), (posed.reference * way.squeeze(-1)).sum(-1)


def _check_cost(cost: torch.Tensor) -> None:
    if cost.ndim != 2 or cost.shape[0] != cost.shape[1]:
        raise ValueError(f"cost must be a square matrix [C, C], got shape {list(cost.shape)}.")
    if not bool(torch.isfinite(cost).all()) or bool((cost < 0).any()):
        raise ValueError(f"cost must have finite entries of at least 0, got a smallest of {float(cost.min()):g}.")
    if bool((cost.diagonal() != 0).any()):
        raise ValueError(f"cost must be 0 on the diagonal (staying is free), got {cost.diagonal().tolist()[:12]}.")
