"""Standard training, without an attack."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from faal_lab.objectives.objective import Outcome


class StandardTraining:
    """Training without an attack: cross-entropy on clean images, one term, `clean`."""

    terms: tuple[str, ...] = ("clean",)
    points: int = 1
    attack_loss: str | None = None
    start: str = "zero"

    def __call__(self, model: nn.Module, images: torch.Tensor, adv: torch.Tensor, labels: torch.Tensor) -> Outcome:
        """One forward pass; see `Objective`."""
        logits = model(images)
        return Outcome({"clean": F.cross_entropy(logits, labels, reduction="none")}, logits, None)
