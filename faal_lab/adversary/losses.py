"""What an attack ascends: per-sample losses of logits [B, C] and labels [B]; a new one is a row in `ATTACK_LOSSES`.

A third argument is the logits of the clean images [B, C], for the losses of `NEEDS_CLEAN` and None for the others.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from faal_lab.class_stats import margin

AttackLoss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, clean: torch.Tensor | None = None) -> torch.Tensor:
    """CE per sample [B] (PGD: Madry et al., ICLR 2018)."""
    return F.cross_entropy(logits, labels, reduction="none")


def logit_margin(logits: torch.Tensor, labels: torch.Tensor, clean: torch.Tensor | None = None) -> torch.Tensor:
    """Best wrong logit minus the true one [B]: Carlini and Wagner's loss without its constant, the field's "CW-k"."""
    return margin(logits, labels)


def divergence(logits: torch.Tensor, labels: torch.Tensor, clean: torch.Tensor | None = None) -> torch.Tensor:
    """KL(p(clean) || p(attacked)) [B] (TRADES: Zhang et al., ICML 2019). Raises ValueError without the clean logits."""
    if clean is None:
        raise ValueError("The attack loss 'kl' needs the logits of the clean images.")
    return F.kl_div(logits.log_softmax(1), clean.log_softmax(1), reduction="none", log_target=True).sum(1)


NEEDS_CLEAN = ("kl",)
ATTACK_LOSSES: dict[str, AttackLoss] = {
    "cross-entropy": cross_entropy,
    "margin": logit_margin,
    "kl": divergence,
}
