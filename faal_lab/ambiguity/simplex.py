"""The two ends of every family: all distributions (group DRO's set), and the reference alone.

Knows: the simplex. Must not know: radii; neither set has one, and both ignore what they are given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from faal_lab.ambiguity.pose import pose, proportional, settle
from faal_lab.ambiguity.worst_case import WorstCase
from faal_lab.catalogue import ANY_RADIUS


@dataclass(frozen=True)
class Simplex:
    """Every distribution over the classes present: all weight on the hardest, ties in proportion to the reference."""

    radius: float = float("inf")
    limits: ClassVar[tuple[float, float]] = ANY_RADIUS

    def worst_case(
        self,
        scores: torch.Tensor,
        radius: torch.Tensor | float | None = None,
        reference: torch.Tensor | None = None,
        present: torch.Tensor | None = None,
        check: bool | None = None,
    ) -> WorstCase:
        """See `AmbiguitySet.worst_case`; `divergence` is the mass that moved."""
        posed = pose(scores, float("inf"), reference, present, check)
        moved = torch.where(posed.top, 0.0, posed.reference).sum(-1)
        return settle(posed, proportional(posed.top, posed.reference), moved, torch.zeros_like(moved))


@dataclass(frozen=True)
class Point:
    """The reference and nothing else: plain averaging over classes."""

    radius: float = 0.0
    limits: ClassVar[tuple[float, float]] = ANY_RADIUS

    def worst_case(
        self,
        scores: torch.Tensor,
        radius: torch.Tensor | float | None = None,
        reference: torch.Tensor | None = None,
        present: torch.Tensor | None = None,
        check: bool | None = None,
    ) -> WorstCase:
        """See `AmbiguitySet.worst_case`."""
        posed = pose(scores, 0.0, reference, present, check)
        nothing = torch.zeros_like(posed.spread)
        return settle(posed, posed.reference, nothing, nothing)
