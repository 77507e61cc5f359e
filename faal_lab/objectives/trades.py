"""TRADES: clean accuracy against how far an attack moves the prediction."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from faal_lab.objectives.objective import Outcome


@dataclass(frozen=True)
class TRADES:
    """TRADES (Zhang et al., ICML 2019, eq. 5): `clean`, cross-entropy, + `robust`, beta * KL(p(clean) || p(adv)).

    The attack ascends that KL from a Gaussian start, with the clean prediction held fixed. The gradient of the loss flows
    into both predictions, as in the authors' code, which divides neither term by the number of classes.
    """

    beta: float = 6.0
    terms: tuple[str, ...] = ("clean", "robust")
    points: int = 1
    attack_loss: str | None = "kl"
    start: str = "gaussian"

    def __call__(self, model: nn.Module, images: torch.Tensor, adv: torch.Tensor, labels: torch.Tensor) -> Outcome:
        """Two forward passes, clean and adversarial; see `Objective`."""
        clean, attacked = model(images), model(adv)
        moved = F.kl_div(attacked.log_softmax(1), clean.log_softmax(1), reduction="none", log_target=True).sum(1)
        return Outcome({"clean": F.cross_entropy(clean, labels, reduction="none"), "robust": self.beta * moved}, clean, attacked)
