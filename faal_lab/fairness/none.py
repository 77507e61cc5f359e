"""No fairness method: the plain average, the control arm of every comparison."""

from __future__ import annotations

import torch

from faal_lab.class_stats import ClassStats
from faal_lab.fairness.fairness import State, Weighing, uniform_over


class NoFairness:
    """All samples count the same."""

    needs: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.state: State = {}

    def weigh(self, stats: ClassStats, terms: tuple[str, ...], tau: float) -> Weighing:
        """Uniform weights over the classes present."""
        weights = uniform_over(stats.present)
        return Weighing(weights, {}, torch.zeros((), dtype=torch.float64, device=weights.device))
