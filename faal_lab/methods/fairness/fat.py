"""Penalise the variance of class losses (FAT)."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from faal_lab.dro.base import check_radius
from faal_lab.methods.class_stats import ClassStats
from faal_lab.methods.fairness.base import State, Weighing, fixed
from faal_lab.methods.objectives import Outcome, Terms

_SLOTS = 100  # length of the release's vector of class losses, for any number of classes


class FAT:
    """Loss + strength * variance over classes of the mean adversarial CE (Ma et al., NeurIPS 2022).

    The variance is unbiased, over the classes present. A term `variance` carries its gradient, with multipliers 2 * strength
    * (class mean - mean) / (classes - 1). So the loss that is shown is not the penalty itself, but descends it.

    `variant="release"` takes the variance over 100 slots, all 0 but those of the present classes. That penalises the mean
    loss, too, and the spread of ten classes eleven times less. With a strength above about 1/C easy classes may be
    unlearned. Strength 0 is plain training.
    """

    needs: tuple[str, ...] = ("cross-entropy",)

    def __init__(self, strength: float = 0.1, variant: str = "paper") -> None:
        check_radius(strength, "strength, the coefficient of FAT's variance,")
        self.strength, self.variant = strength, variant
        self.state: State = {}

    def more_terms(self, outcome: Outcome, labels: torch.Tensor) -> Terms:
        """Return the cross-entropy of the attacked logits, for the penalty alone."""
        logits = outcome.adv_logits if outcome.adv_logits is not None else outcome.clean_logits
        assert logits is not None, "an objective must return the logits that classes are scored by"
        return {"variance": F.cross_entropy(logits, labels, reduction="none")}

    def weigh(self, stats: ClassStats, terms: tuple[str, ...], tau: float) -> Weighing:
        """Return the gradient of the penalty as multipliers.

        It is taken with respect to each sample's loss, times the batch size.
        """
        mean, present = stats.mean("cross-entropy").double(), stats.present
        count = stats.count.double()
        slots = present.sum().double() if self.variant == "paper" else torch.tensor(float(max(_SLOTS, len(mean))))
        slots = slots.to(mean.device)
        centred = mean - mean.sum() / slots  # absent classes hold 0 and get no multiplier
        slope = 2 * self.strength * centred / (slots - 1).clamp(min=1)
        multipliers = torch.where(present, slope * count.sum() / count.clamp(min=1), 0.0)
        share = torch.where(present, 1 / present.sum() + slope, 0.0)
        weights, spent = fixed(share)
        return Weighing(weights, {"variance": multipliers}, spent)
