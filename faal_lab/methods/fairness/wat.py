"""Play a no-regret game against the worst class on validation images (WAT)."""

from __future__ import annotations

import torch

from faal_lab.dro.base import check_radius
from faal_lab.methods.class_stats import ClassStats
from faal_lab.methods.fairness.base import Measure, State, Weighing, fixed


class WAT:
    """Hedge over C + 1 experts, each class and the plain average (Li and Liu, AAAI 2023, Algorithm 1).

    After each epoch the weights of the experts are C * softmax(rate * validation cost summed over epochs). The cost of a
    class is its training loss under the training attack; the cost of the average is the mean over classes. The loss weighs
    class c by w_c + w_average, so rate 0 is plain training scaled by 2C / (C + 1), 1.82 for ten classes. The sum never
    forgets: late epochs hardly undo early ones. `variant="release"` starts with all weights at 1, which sum to C + 1,
    instead of C / (C + 1). Its cost of a class is a sum over images, times C, over batches times batch size: on balanced
    validation images nearly the mean, on others a class counts by its size.
    """

    needs: tuple[str, ...] = ()

    def __init__(self, rate: float = 0.1, variant: str = "paper") -> None:
        check_radius(rate, "rate, the step of WAT's experts,")
        self.rate, self.variant = rate, variant
        self.state: State = {}  # cost [C + 1], summed over epochs

    def end_epoch(self, epoch: ClassStats, measure: Measure) -> None:
        """Add the validation costs of this epoch."""
        cost = measure.validation_cost().double()
        if self.variant == "release":
            count, size = measure.validation_counts()
            batches = -(-int(count.sum()) // size)
            cost = cost * count * len(cost) / (batches * size)
        cost = torch.cat([cost, cost.mean()[None]])
        self.state["cost"] = self.state["cost"] + cost if "cost" in self.state else cost

    def experts(self, num_classes: int) -> torch.Tensor:
        """Return the weights [C + 1] of the experts, the average's last; they sum to C."""
        if "cost" not in self.state:
            each = 1.0 if self.variant == "release" else num_classes / (num_classes + 1)
            return torch.full((num_classes + 1,), each, dtype=torch.float64)
        return num_classes * (self.rate * self.state["cost"]).softmax(0)

    def weigh(self, stats: ClassStats, terms: tuple[str, ...], tau: float) -> Weighing:
        """Return the same multipliers for all terms."""
        experts = self.experts(len(stats.count)).to(stats.count.device)
        multipliers = experts[:-1] + experts[-1]
        weights, spent = fixed(multipliers)
        return Weighing(weights, dict.fromkeys(terms, multipliers), spent)
