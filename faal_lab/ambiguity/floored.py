"""A floor under any set: every class keeps at least a share of its reference.

Knows: how a mixture with the reference answers. Must not know: the set that is mixed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from faal_lab.ambiguity.pose import pose
from faal_lab.ambiguity.worst_case import AmbiguitySet, WorstCase, check_radius


@dataclass(frozen=True)
class Floored:
    """All (1 - share) * w + share * reference with w in `inner`: no class counts less than `share` times its reference.

    CFOL (Pethick et al. 2023) mixes in one half. The radius, `divergence` and the unit of `dual` are the inner set's own.
    """

    inner: AmbiguitySet
    share: float = 0.1

    def __post_init__(self) -> None:
        check_radius(self.share, "share, the floor,", (0.0, 1.0))

    @property
    def limits(self) -> tuple[float, float]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The inner set's limits."""
        return self.inner.limits

    @property
    def radius(self) -> float:
        """The inner set's radius."""
        return self.inner.radius

    def worst_case(
        self,
        scores: torch.Tensor,
        radius: torch.Tensor | float | None = None,
        reference: torch.Tensor | None = None,
        present: torch.Tensor | None = None,
        check: bool | None = None,
    ) -> WorstCase:
        """See `AmbiguitySet.worst_case`."""
        found = self.inner.worst_case(scores, radius, reference, present, check)
        posed = pose(scores, 0.0, reference, present, False)
        weights = torch.lerp(found.weights, posed.reference, self.share)
        value = torch.lerp(found.value, (posed.reference * posed.scores).sum(-1), self.share)
        return WorstCase(weights, value, found.divergence, found.dual * (1 - self.share))
