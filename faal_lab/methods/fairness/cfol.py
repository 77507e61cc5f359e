"""Let a bandit over classes choose the classes of a batch (CFOL)."""

from __future__ import annotations

import torch

from faal_lab.dro.base import check_radius
from faal_lab.methods.class_stats import ClassStats
from faal_lab.methods.fairness.base import State, Weighing, fixed

_EXPLORED = 0.5  # share of uniform draws, so that no class falls below half of its share


class CFOL:
    """Class-focused online learning: draws by p = U / 2 + softmax(scores) / 2 (Pethick et al., TMLR 2023).

    The score of a class grows by rate / p for each of its samples that an attack fooled (Exp3's unbiased estimate). Updates
    are made once a batch, with the p that drew it. The authors' rate suits about ten million samples; keep rate * samples *
    epochs near 50. Rate 0 draws classes evenly, with replacement. That is not plain training, which sees each image once an
    epoch.
    """

    needs: tuple[str, ...] = ("error",)

    def __init__(self, rate: float = 5e-6) -> None:
        check_radius(rate, "rate, the step of CFOL's scores,")
        self.rate = rate
        self.state: State = {}  # scores [C]

    def class_probabilities(self, num_classes: int) -> torch.Tensor:
        """Return the class probabilities of the next batch: float64 [C], none below 0.5 / C."""
        scores = self.state.get("scores", torch.zeros(num_classes, dtype=torch.float64))
        return _EXPLORED / num_classes + (1 - _EXPLORED) * scores.softmax(0)

    def weigh(self, stats: ClassStats, terms: tuple[str, ...], tau: float) -> Weighing:
        """Update the scores by the fooled samples, and weigh nothing.

        The sampler has weighed the classes already.
        """
        errors = stats.sums["error"].double()
        drawn = self.class_probabilities(len(errors)).to(errors.device)
        scores = self.state.get("scores", torch.zeros_like(errors)) + self.rate * errors / drawn
        self.state["scores"] = scores - scores.max()  # softmax ignores the shift, and float64 keeps the differences
        return Weighing(drawn, {}, fixed(drawn)[1])
