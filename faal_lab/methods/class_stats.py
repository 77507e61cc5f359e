"""Turn per-sample values into class values: margins, sums, counts, means.

Absent classes keep their place with count 0, so every array has length C on every batch and rank.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch.nn import functional as F


def margin(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return `max_{j != y} s_j - s_y` [B]: positive where the sample is misclassified.

    On probabilities [B, C] this is FAAL's class score (paper, eq. 10), in [-1, 1]; on logits it is the CW loss.
    """
    true = scores.gather(1, labels[:, None]).squeeze(1)
    others = scores.scatter(1, labels[:, None], float("-inf"))
    return others.amax(dim=1) - true  # [B]


def softmax_margin(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return FAAL's per-sample score [B] in [-1, 1] from logits [B, C] (paper, eq. 10)."""
    return margin(logits.softmax(dim=1), labels)


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of each sample [B]: the other score of FAAL's ablation."""
    return F.cross_entropy(logits, labels, reduction="none")


def error(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return 1 where the sample is misclassified, else 0: [B]."""
    return (logits.argmax(1) != labels).to(logits.dtype)


# Class scores come from these per-sample values [B] of the attacked logits. A method may also ask the loop for "loss", the
# sum of the objective's terms, and for "softmax", the predicted probabilities [B, C].
CLASS_SCORES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "margin": softmax_margin,
    "cross-entropy": cross_entropy,
    "error": error,
}


def class_sums(values: torch.Tensor, labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Sum `values` [B] (or [B, K]) over each class: [C] (or [C, K]).

    index_add_ adds in no fixed order on a GPU, so this is a product with the one-hot matrix.
    """
    member = F.one_hot(labels, num_classes).to(values.dtype)
    return values @ member if values.ndim == 1 else member.T @ values


@dataclass(frozen=True)
class ClassStats:
    """Counts and named sums by class, of one batch or of several added up.

    Counts and sums are [C]; those of "softmax" are [C, C].
    """

    count: torch.Tensor
    sums: dict[str, torch.Tensor] = field(default_factory=dict)

    @staticmethod
    def of(labels: torch.Tensor, num_classes: int, values: dict[str, torch.Tensor]) -> ClassStats:
        """Sum per-sample `values` (name -> [B]) by class. No gradient flows through the result."""
        labels = labels.detach()
        count = class_sums(torch.ones_like(labels, dtype=torch.float32), labels, num_classes)
        exact = {n: v.detach() if v.dtype == torch.float64 else v.detach().float() for n, v in values.items()}
        return ClassStats(count, {n: class_sums(v, labels, num_classes) for n, v in exact.items()})

    @property
    def present(self) -> torch.Tensor:
        """The classes that the batch holds: bool [C]."""
        return self.count > 0

    def mean(self, name: str) -> torch.Tensor:
        """Return the mean of a named value in each class; 0, not NaN, if the class is absent."""
        sums, count = self.sums[name], self.count.clamp(min=1)
        return sums / (count if sums.ndim == 1 else count[:, None])

    def __add__(self, other: ClassStats) -> ClassStats:
        """Add the statistics of two batches; they must hold the same names."""
        return ClassStats(self.count + other.count, {n: s + other.sums[n] for n, s in self.sums.items()})
