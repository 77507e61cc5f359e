"""Top half: classes that do worse than the median class count twice as much as the others."""

from __future__ import annotations

import torch

from faal_lab.methods.class_stats import ClassStats
from faal_lab.methods.fairness.base import State, Weighing, fixed


class TopHalf:
    """Weight `ratio` above the median class margin and 1 below it, scaled to a mean of 1."""

    needs: tuple[str, ...] = ("margin",)  # the class scores it reads

    def __init__(self, strength: float = 2.0) -> None:  # the setting fairness_strength; it also has rate and slack
        self.ratio = strength
        self.state: State = {}  # tensors it remembers: a checkpoint keeps them

    def weigh(self, stats: ClassStats, terms: tuple[str, ...], tau: float) -> Weighing:
        """Called at each batch. `tau` is the dial of methods that have a radius; this one has none."""
        margins = stats.mean("margin")  # [C]
        middle = torch.where(stats.present, margins, torch.nan).nanmedian()
        multipliers = 1.0 + (self.ratio - 1.0) * (margins > middle).double() * stats.present
        multipliers = multipliers / multipliers.mean()
        weights, divergence = fixed(multipliers)
        return Weighing(weights, dict.fromkeys(terms, multipliers.float()), divergence)
