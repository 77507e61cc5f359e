"""What an attack ascends: per-sample losses of logits [B, C] and labels [B]; a new one is a row in `ATTACK_LOSSES`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from faal_lab.class_stats import margin

AttackLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """CE per sample [B] (PGD: Madry et al., ICLR 2018)."""
    return F.cross_entropy(logits, labels, reduction="none")


ATTACK_LOSSES: dict[str, AttackLoss] = {
    "cross-entropy": cross_entropy,
    "margin": margin,  # on logits: Carlini and Wagner's loss without its constant, the field's "CW-k"
}
