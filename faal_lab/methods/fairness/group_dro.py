"""Weigh classes as the groups of group DRO: the weights remember earlier batches."""

from __future__ import annotations

import torch

from faal_lab.dro.base import check_radius
from faal_lab.methods.class_stats import ClassStats
from faal_lab.methods.fairness.base import State, Weighing, fixed


class GroupDRO:
    """Group DRO over classes: w_c grows by exp(rate * mean loss) (Sagawa et al., ICLR 2020, Algorithm 1).

    A weight grows whenever its class appears. The loss is the sum over classes of weight * mean loss, however many images of
    each the batch holds; so a multiplier is weight * batch size / count. Rate 0 keeps uniform weights: the average over
    classes instead of images. Weights of classes absent from a batch stay as they are, up to normalisation, so a batch
    without some classes has a smaller loss. There is no radius: tau is not read.
    """

    needs: tuple[str, ...] = ("loss",)

    def __init__(self, rate: float = 0.01) -> None:
        check_radius(rate, "rate, the step of group DRO,")
        self.rate = rate
        self.state: State = {}  # log_weights [C]: products of many steps would underflow

    def weigh(self, stats: ClassStats, terms: tuple[str, ...], tau: float) -> Weighing:
        """Step the weights by the class losses of this batch, then weigh with them."""
        mean, present = stats.mean("loss").double(), stats.present
        old = self.state.get("log_weights", torch.zeros_like(mean))
        self.state["log_weights"] = (old + torch.where(present, self.rate * mean, 0.0)).log_softmax(0)
        weights = self.state["log_weights"].exp()
        count = stats.count.double()
        multipliers = torch.where(present, weights * count.sum() / count.clamp(min=1), 0.0)
        return Weighing(weights, dict.fromkeys(terms, multipliers), fixed(weights)[1])
