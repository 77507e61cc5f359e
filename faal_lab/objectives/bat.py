"""BAT: balance adversarial training, between two points on either side of the decision boundary."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from faal_lab.objectives.objective import Outcome


@dataclass(frozen=True)
class BAT:
    """BAT (Sun et al., AAAI 2023): points on either side of the decision boundary, both pushed to uniform predictions.

    `source` is the cross-entropy at the last iterate that is still classified right (how hard a class is to leave), `robust`
    is beta * KL(p(clean) || p) at the one after the first mistake (which class attracts), `uniformity` is KL(p || U) at both,
    with coefficient 1. It maximises entropy near the boundary, so calibration changes: look at it. Classes are scored by the
    outer point.
    """

    beta: float = 6.0
    terms: tuple[str, ...] = ("source", "robust", "uniformity")
    points: int = 2
    attack_loss: str | None = "kl"
    start: str = "gaussian"

    def __call__(self, model: nn.Module, images: torch.Tensor, adv: torch.Tensor, labels: torch.Tensor) -> Outcome:
        """Three forward passes: clean, inner and outer point; see `Objective`."""
        clean, inner, outer = model(images), model(adv[0]), model(adv[1])
        moved = F.kl_div(outer.log_softmax(1), clean.log_softmax(1), reduction="none", log_target=True).sum(1)
        terms = {
            "source": F.cross_entropy(inner, labels, reduction="none"),
            "robust": self.beta * moved,
            "uniformity": _above_uniform(inner) + _above_uniform(outer),
        }
        return Outcome(terms, clean, outer)


def _above_uniform(logits: torch.Tensor) -> torch.Tensor:
    """KL(p || U) = log C - entropy, [B]."""
    log_p = logits.log_softmax(1)
    return (log_p.exp() * log_p).sum(1) + math.log(logits.shape[1])
