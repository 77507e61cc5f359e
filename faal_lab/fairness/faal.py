"""FAAL: at every batch, the worst class distribution inside the ball around uniform (Zhang et al., CVPR 2024)."""

from __future__ import annotations

from typing import Any

import torch

from faal_lab.ambiguity import AmbiguitySet, KLBall, conic
from faal_lab.class_stats import ClassStats
from faal_lab.fairness.fairness import Weighing, uniform_over


class FAAL:
    """Class-wise distributionally adversarial weights (CDAW; paper, eqs. 7, 8 and 10).

    Class scores are means of the softmax margin over the classes present. The release instead sums margins over samples,
    so that a frequent class is pushed further from 0, and lets an absent class act as a score of 0: `score="sum"` is that.
    All terms of the objective share the weights. `solver` is "exact" or "cvxpy".
    """

    needs: tuple[str, ...] = ("margin",)

    def __init__(self, ambiguity: AmbiguitySet | None = None, score: str = "mean", solver: str = "exact") -> None:
        self.ambiguity = ambiguity if ambiguity is not None else KLBall(0.5)
        if score not in ("mean", "sum"):
            raise ValueError(f"score must be 'mean' (the paper's) or 'sum' (the release's), got {score!r}.")
        if solver not in ("exact", "cvxpy"):
            raise ValueError(f"solver must be 'exact' or 'cvxpy', got {solver!r}.")
        self.score, self.solver = score, solver

    def weigh(self, stats: ClassStats, terms: tuple[str, ...], tau: float) -> Weighing:
        """Solve the middle problem for this batch (Algorithm 1, lines 5 and 6)."""
        if self.score == "sum":
            scores, present = stats.sums["margin"], torch.ones_like(stats.present)
        else:
            scores, present = stats.mean("margin"), stats.present
        options: dict[str, Any] = {"radius": tau, "present": present}
        worst = (
            self.ambiguity.worst_case(scores, **options)
            if self.solver == "exact"
            else conic.solve(self.ambiguity, scores.cpu(), radius=tau, present=present.cpu())
        )
        weights = worst.weights.to(scores.device)
        reference = uniform_over(present)
        # tau 0 gives exactly 1: the solver returns the reference itself, and x / x is 1
        multipliers = torch.where(present, weights / torch.where(present, reference, 1.0), 0.0)
        return Weighing(weights, dict.fromkeys(terms, multipliers), worst.divergence.to(scores.device))

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Nothing is remembered between batches."""
        return {}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Nothing to bring back."""
