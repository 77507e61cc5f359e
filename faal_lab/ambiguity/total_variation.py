"""Total variation: half the absolute differences sum to at most delta. Mass is carried from the easiest classes to the hardest.

Knows: the greedy answer. Must not know: where the scores come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from faal_lab.ambiguity.pose import pose, proportional, settle
from faal_lab.ambiguity.worst_case import WorstCase, check_radius


@dataclass(frozen=True)
class TotalVariationBall:
    """All w with sum(|w - u|) / 2 <= radius, in [0, 1]: the mass that may move.

    It leaves the easiest classes first, a class loses no more than it has, and all of it goes to the hardest; classes
    in between keep exactly their reference. Ties share in proportion to the reference.
    """

    radius: float = 0.2
    limits: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __post_init__(self) -> None:
        check_radius(self.radius, "delta, the radius of the total variation ball,", self.limits)

    def worst_case(
        self,
        scores: torch.Tensor,
        radius: torch.Tensor | float | None = None,
        reference: torch.Tensor | None = None,
        present: torch.Tensor | None = None,
        check: bool | None = None,
    ) -> WorstCase:
        """See `AmbiguitySet.worst_case`."""
        posed = pose(scores, self.radius if radius is None else radius, reference, present, check, self.limits)
        u, top = posed.reference, posed.top
        spare = torch.where(top, 0.0, u)
        moved = torch.minimum(posed.radius, spare.sum(-1))[..., None]
        gaps = torch.where(posed.present, posed.gaps, -1.0)
        d, order = torch.sort(gaps, dim=-1, descending=True)
        filled = spare.gather(-1, order).cumsum(-1) >= moved
        level = torch.where(filled, d, 0.0).amax(-1, keepdim=True)  # the easiest class that is not emptied altogether
        emptied, partly = gaps > level, gaps == level
        taken = torch.where(emptied, spare, 0.0)
        remainder = moved - taken.sum(-1, keepdim=True)
        taken = taken + remainder * proportional(partly, spare)
        weights = (u - taken).clamp(min=0) + moved * proportional(top, u)
        return settle(posed, weights, moved.squeeze(-1), level.squeeze(-1), nominal=posed.radius <= 0)
