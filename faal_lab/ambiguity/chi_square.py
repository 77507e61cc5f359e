"""Chi-square: E_u[(w / u - 1)^2] <= rho. The mean-plus-deviation regulariser, in closed form.

Knows: the clipped line that the worst case is. Must not know: where the scores come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from faal_lab.ambiguity.pose import pose, proportional, settle, within_reference
from faal_lab.ambiguity.worst_case import WorstCase, check_radius
from faal_lab.catalogue import ANY_RADIUS


@dataclass(frozen=True)
class ChiSquareBall:
    """All w with sum((w - u)^2 / u) <= radius (without the factor 1/2; about 2 tau of a small KL ball).

    The worst case is `w = u * (score - theta)+`, normalised: a class far below the others is switched off. While none is,
    its value is mean + sqrt(radius) * standard deviation. Solved by sorting, without iteration.
    """

    radius: float = 1.0
    limits: ClassVar[tuple[float, float]] = ANY_RADIUS

    def __post_init__(self) -> None:
        check_radius(self.radius, "rho, the radius of the chi-square ball,")

    def worst_case(
        self,
        scores: torch.Tensor,
        radius: torch.Tensor | float | None = None,
        reference: torch.Tensor | None = None,
        present: torch.Tensor | None = None,
        check: bool | None = None,
    ) -> WorstCase:
        """See `AmbiguitySet.worst_case`."""
        posed = within_reference(pose(scores, self.radius if radius is None else radius, reference, present, check))
        u, rho = posed.reference, posed.radius[..., None]
        d, order = torch.sort(posed.gaps, dim=-1)
        p = u.gather(-1, order)
        mass, first, second = p.cumsum(-1), (p * d).cumsum(-1), (p * d * d).cumsum(-1)
        # a class keeps weight if a threshold at its own score would overspend; at the hardest it always would
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
