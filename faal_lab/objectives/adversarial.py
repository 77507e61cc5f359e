"""PGD adversarial training."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from faal_lab.objectives.objective import Outcome


class AdversarialTraining:
    """PGD adversarial training (Madry et al., ICLR 2018): cross-entropy on adversarial images, one term, `robust`."""

    terms: tuple[str, ...] = ("robust",)
    points: int = 1
    attack_loss: str | None = "cross-entropy"
    start: str = "uniform"

    def __call__(self, model: nn.Module, images: torch.Tensor, adv: torch.Tensor, labels: torch.Tensor) -> Outcome:
        """One forward pass; see `Objective`."""
        logits = model(adv)
        return Outcome({"robust": F.cross_entropy(logits, labels, reduction="none")}, None, logits)
