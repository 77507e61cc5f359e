"""FAAL: at every batch, find the worst class distribution in the ball around uniform (Zhang et al., CVPR 2024)."""

from __future__ import annotations

from functools import partial

import torch

from faal_lab.catalogue import SCORES
from faal_lab.dro import AmbiguitySet, KLBall, conic
from faal_lab.errors import check_name
from faal_lab.methods.class_stats import CLASS_SCORES, ClassStats
from faal_lab.methods.fairness.base import State, Weighing, uniform_over


class FAAL:
    """Class-wise distributionally adversarial weights (CDAW; Zhang et al., CVPR 2024, eqs. 7, 8 and 10).

    Class scores are means of the softmax margin over the classes present. The release instead sums margins over samples,
    so that a frequent class is pushed further from 0, and lets an absent class act as a score of 0: `score="sum"` is that.
    `score="running"` (ours) is for many classes, of which a batch holds few images or none: sums and counts of all batches so
    far, fading by `score_decay` a batch; then every class that was seen takes part. All terms of the objective share the weights.
    `solver` is "exact" or "cvxpy". `measure` is what a sample is scored by: "margin", or the ablation's "cross-entropy", "error".
    """

    def __init__(
        self,
        ambiguity: AmbiguitySet | None = None,
        score: str = "mean",
        solver: str = "exact",
        score_decay: float = 0.9,
        measure: str = "margin",
    ) -> None:
        self.ambiguity = ambiguity if ambiguity is not None else KLBall(0.5)
        if score not in SCORES:
            raise ValueError(f"score must be 'mean' (the paper's), 'sum' (the release's) or 'running', got {score!r}.")
        if not 0 <= score_decay < 1:
            raise ValueError(f"score_decay must be at least 0 and below 1, got {score_decay}.")
        if solver not in ("exact", "cvxpy"):
            raise ValueError(f"solver must be 'exact' or 'cvxpy', got {solver!r}.")
        check_name("measure", measure, CLASS_SCORES)
        self.score, self.solver, self.decay, self.measure = score, solver, score_decay, measure
        self.needs: tuple[str, ...] = (measure,)
        self.state: State = {}  # fading sums and counts by class

    def weigh(self, stats: ClassStats, terms: tuple[str, ...], tau: float) -> Weighing:
        """Solve the middle problem for this batch (Algorithm 1, lines 5 and 6)."""
        # On the host: a GPU would be told two thousand things, each tiny, to find C numbers it can be asked for.
        scores, taking_part = self._scores(stats)
        scores, taking_part = torch.stack([scores, taking_part.to(scores.dtype)]).cpu()
        present = taking_part > 0
        solve = self.ambiguity.worst_case if self.solver == "exact" else partial(conic.solve, self.ambiguity)
        worst = solve(scores, radius=tau, present=present)
        reference = uniform_over(present)
        # tau 0 gives exactly 1: the solver returns the reference itself, and x / x is 1
        multipliers = torch.where(present, worst.weights / torch.where(present, reference, 1.0), 0.0).to(stats.count.device)
        return Weighing(worst.weights, dict.fromkeys(terms, multipliers), worst.divergence)

    def _scores(self, stats: ClassStats) -> tuple[torch.Tensor, torch.Tensor]:
        """Class scores [C], and which classes take part."""
        if self.score == "sum":
            return stats.sums[self.measure], torch.ones_like(stats.present)
        if self.score == "mean":
            return stats.mean(self.measure), stats.present
        now = {"sum": stats.sums[self.measure].double(), "count": stats.count.double()}
        for name, new in now.items():
            self.state[name] = self.decay * self.state[name] + new if name in self.state else new
        count = self.state["count"]
        return self.state["sum"] / torch.where(count > 0, count, 1.0), count > 0
