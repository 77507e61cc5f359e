"""Find the worst class distribution around uniform at every batch (FAAL; Zhang et al., CVPR 2024)."""

from __future__ import annotations

from functools import partial

import torch

from faal_lab.catalogue import SCORES
from faal_lab.dro import AmbiguitySet, KLBall, conic
from faal_lab.dro.base import has_kernel
from faal_lab.errors import check_name
from faal_lab.methods.class_stats import CLASS_SCORES, ClassStats
from faal_lab.methods.fairness.base import State, Weighing, uniform_over


class FAAL:
    """Class-wise distributionally adversarial weights (CDAW; Zhang et al., CVPR 2024,
    eqs. 7, 8 and 10).

    w = argmax of sum_c w_c * score_c over the ambiguity set around uniform. All terms of the objective share the multipliers
    w / U.

    Args:
        ambiguity: the set of class distributions, default `KLBall(0.5)`; tau takes the place of its radius.
        score: "mean" (default), the paper's mean margin over the classes present; "sum" or "running", see below.
        solver: "exact" (default) or "cvxpy".
        score_decay: factor on the running sums and counts from batch to batch, in [0, 1), default 0.9.
        measure: score of a sample, "margin" of the softmax (default), or "cross-entropy" or "error", the ablation.

    Raises:
        ValueError: if score, score_decay or solver is not one of these.
        UnknownName: if there is no such measure.

    `score="sum"` is the release's: it sums over samples, so a frequent class is pushed further from 0, and an absent class
    acts as a score of 0. `score="running"` (ours) is for many classes, where a batch holds few images of a class or none. It
    keeps fading sums and counts of all batches so far, and every class that was seen takes part.

    >>> import torch
    >>> from faal_lab import FAAL
    >>> from faal_lab.methods.class_stats import ClassStats
    >>> stats = ClassStats(count=torch.tensor([4.0, 4.0]), sums={"margin": torch.tensor([-2.0, 2.0])})
    >>> weighing = FAAL().weigh(stats, terms=("robust",), tau=0.5)
    >>> weighing.weights.numpy().round(3)
    array([0.102, 0.898])
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
        """Solve the middle problem for one batch (Algorithm 1, lines 5 and 6).

        Args:
            stats: class counts [C] and sums [C] of `measure`.
            terms: names of the loss terms.
            tau: radius of the ambiguity set.

        Returns:
            Weights [C] on the simplex, the multipliers [C] of every term, and the divergence [] from uniform.

        >>> import torch
        >>> from faal_lab import FAAL
        >>> from faal_lab.methods.class_stats import ClassStats
        >>> stats = ClassStats(count=torch.tensor([8.0, 4.0]), sums={"margin": torch.tensor([-4.0, 2.0])})
        >>> FAAL().weigh(stats, terms=("robust",), tau=0.0).multipliers["robust"]  # tau 0: plain training
        tensor([1., 1.], dtype=torch.float64)
        """
        scores, present = self._scores(stats)
        if not (self.solver == "exact" and has_kernel(self.ambiguity, scores.device, len(scores))):
            # A GPU would run two thousand tiny kernels to find C numbers, so the problem is solved on the CPU. There numbers that
            # are not finite would raise; the step itself refuses them, and says why.
            scores, taking_part = torch.stack([scores, present.to(scores.dtype)]).cpu()
            scores, present = scores.nan_to_num() if stats.count.device.type != "cpu" else scores, taking_part > 0
        solve = self.ambiguity.worst_case if self.solver == "exact" else partial(conic.solve, self.ambiguity)
        worst = solve(scores, radius=tau, present=present)
        reference = uniform_over(present)
        # tau 0 gives exactly 1: the solver returns the reference itself, and x / x is 1
        multipliers = torch.where(present, worst.weights / torch.where(present, reference, 1.0), 0.0).to(stats.count.device)
        return Weighing(worst.weights, dict.fromkeys(terms, multipliers), worst.divergence)

    def _scores(self, stats: ClassStats) -> tuple[torch.Tensor, torch.Tensor]:
        """Return class scores [C], and which classes take part: bool [C]."""
        if self.score == "sum":
            return stats.sums[self.measure], torch.ones_like(stats.present)
        if self.score == "mean":
            return stats.mean(self.measure), stats.present
        now = {"sum": stats.sums[self.measure].double(), "count": stats.count.double()}
        for name, new in now.items():
            self.state[name] = self.decay * self.state[name] + new if name in self.state else new
        count = self.state["count"]
        return self.state["sum"] / torch.where(count > 0, count, 1.0), count > 0
