"""Conditional value at risk: no class may count more than 1 / alpha times its reference. The mean over the hardest classes.

Knows: the greedy answer. Must not know: where the scores come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from faal_lab.ambiguity.pose import pose, settle, within_reference
from faal_lab.ambiguity.worst_case import WorstCase, check_radius


@dataclass(frozen=True)
class CVaR:
    """All w <= reference / alpha. Alpha, the radius, runs the other way than everywhere else: 1 is the reference, small is far.

    `divergence` is the alpha that was needed, 1 / max(w / u); `dual` is the derivative of the value by 1 / alpha.
    """

    radius: float = 0.5
    limits: ClassVar[tuple[float, float]] = (1e-12, 1.0)

    def __post_init__(self) -> None:
        check_radius(self.radius, "alpha of the conditional value at risk", self.limits)

    def worst_case(
        self,
        scores: torch.Tensor,
        radius: torch.Tensor | float | None = None,
        reference: torch.Tensor | None = None,
        present: torch.Tensor | None = None,
        check: bool | None = None,
    ) -> WorstCase:
        """See `AmbiguitySet.worst_case`; ties at the edge share what is left in proportion to the reference."""
        posed = within_reference(pose(scores, self.radius if radius is None else radius, reference, present, check, self.limits))
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
        return WorstCase(answer.weights, answer.value, needed, answer.dual)  # torch 2.11 does not compile _replace
