"""What an objective is, and the one line where robust training and class weights meet."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import nn

Terms = dict[str, torch.Tensor]  # name ("clean", "robust", ...) -> per-sample loss [B]


class Outcome(NamedTuple):
    """One train-mode pass: the terms, and the logits that class statistics are taken from ([B, C] or None)."""

    terms: Terms
    clean_logits: torch.Tensor | None
    adv_logits: torch.Tensor | None


class Objective(Protocol):
    """A training loss, what its attack ascends (None: it is trained on clean images alone) and where that begins."""

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the terms it returns; the first is its cross-entropy."""
        ...

    @property
    def points(self) -> int:
        """How many adversarial points it wants of each image: 1, or 2 on either side of the decision boundary."""
        ...

    @property
    def attack_loss(self) -> str | None:
        """A row of ATTACK_LOSSES, or None."""
        ...

    @property
    def start(self) -> str:
        """`zero`, `uniform` or `gaussian`."""
        ...

    def __call__(self, model: nn.Module, images: torch.Tensor, adv: torch.Tensor, labels: torch.Tensor) -> Outcome:
        """Forward in training mode. `adv` are the attack's images (the images themselves without an attack).

        Two points come as one tensor [2, B, C, H, W].
        """
        ...


def weighted(
    terms: Terms, multipliers: dict[str, torch.Tensor], labels: torch.Tensor, predicted: torch.Tensor | None = None
) -> torch.Tensor:
    """Sum over terms of the batch mean of `multiplier[label] * term`: a scalar (FAAL, Algorithm 1, line 7).

    A multiplier is [C], or [C, C] by (predicted class, label) where a method tells confusions apart; a term without one
    counts fully. Multipliers of exactly 1 leave the loss bit for bit as it was.
    """
    total = torch.zeros((), device=labels.device)
    for name, term in terms.items():
        factor = multipliers.get(name)
        if factor is not None:
            factor = factor.to(term.dtype)[labels] if factor.ndim == 1 else factor.to(term.dtype)[predicted, labels]
        total = total + (term if factor is None else factor * term).mean()
    return total
