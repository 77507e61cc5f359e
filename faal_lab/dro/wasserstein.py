"""Move mass between classes, each pair at its own cost, for at most r in all.

At a price gamma per unit of cost, class c sends its mass to the class with the largest `score_j - gamma * cost_cj`. The cost of
these journeys falls as the price rises, in jumps. The worst case mixes the two plans on either side of the jump at r.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch

from faal_lab.dro import floats
from faal_lab.dro.base import Ball, Posed, WorstCase, eager_on_cpu, settle

_HALVINGS = 64


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
    _plain: ClassVar[floats.Plain | None] = floats.wasserstein
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
