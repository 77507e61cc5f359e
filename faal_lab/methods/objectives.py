"""Compute training losses as named per-sample terms, and weigh them by class.

To add an objective, write one class and add one row to `OBJECTIVES` in `catalogue.py`. An object with the same attributes
can be passed directly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn
from torch.nn import functional as F

from faal_lab import catalogue

Terms = dict[str, torch.Tensor]  # name ("clean", "robust", ...) -> per-sample loss [B]


class Outcome(NamedTuple):
    """The result of one train-mode pass: the terms, and logits [B, C] (or None) for class statistics."""

    terms: Terms
    clean_logits: torch.Tensor | None
    adv_logits: torch.Tensor | None


class Objective(Protocol):
    """A training loss, the loss that its attack ascends, and the start of that attack."""

    @property
    def terms(self) -> tuple[str, ...]:
        """The names of its terms; the first is its cross-entropy."""
        ...

    @property
    def points(self) -> int:
        """The number of adversarial points of an image: 1, or 2 on either side of the decision boundary."""
        ...

    @property
    def attack_loss(self) -> str | None:
        """A row of ATTACK_LOSSES; None if it trains on clean images alone."""
        ...

    @property
    def start(self) -> str:
        """The start of the attack: `zero`, `uniform` or `gaussian`."""
        ...

    def __call__(self, model: nn.Module, images: torch.Tensor, adv: torch.Tensor, labels: torch.Tensor) -> Outcome:
        """Run the model in training mode and return the terms.

        `adv` are the attacked images; without an attack, the images themselves. Two points come as one tensor [2, B, C, H,
        W].
        """
        ...


def weighted(
    terms: Terms, multipliers: dict[str, torch.Tensor], labels: torch.Tensor, predicted: torch.Tensor | None = None
) -> torch.Tensor:
    """Sum over terms the batch mean of `multiplier[label] * term`: the loss [] of a batch.

    FAAL, Algorithm 1, line 7. A multiplier is [C], or [C, C] by (predicted class, label) if a method tells confusions apart.
    A term without one counts fully. Multipliers of exactly 1 leave the loss the same bit for bit.
    """
    total = torch.zeros((), device=labels.device)
    for name, term in terms.items():
        factor = multipliers.get(name)
        if factor is not None:
            factor = factor.to(term.dtype)[labels] if factor.ndim == 1 else factor.to(term.dtype)[predicted, labels]
        total = total + (term if factor is None else factor * term).mean()
    return total


class StandardTraining:
    """Training without an attack: cross-entropy on clean images, one term, `clean`."""

    terms: tuple[str, ...] = ("clean",)
    points: int = 1
    attack_loss: str | None = None
    start: str = "zero"

    def __call__(self, model: nn.Module, images: torch.Tensor, adv: torch.Tensor, labels: torch.Tensor) -> Outcome:
        """Run one forward pass; see `Objective`."""
        logits = model(images)
        return Outcome({"clean": F.cross_entropy(logits, labels, reduction="none")}, logits, None)


class AdversarialTraining:
    """PGD adversarial training (Madry et al., ICLR 2018).
    Cross-entropy on adversarial images, one term, `robust`.
    """

    terms: tuple[str, ...] = ("robust",)
    points: int = 1
    attack_loss: str | None = "cross-entropy"
    start: str = "uniform"

    def __call__(self, model: nn.Module, images: torch.Tensor, adv: torch.Tensor, labels: torch.Tensor) -> Outcome:
        """Run one forward pass; see `Objective`."""
        logits = model(adv)
        return Outcome({"robust": F.cross_entropy(logits, labels, reduction="none")}, None, logits)


@dataclass(frozen=True)
class TRADES:
    """TRADES (Zhang et al., ICML 2019, eq. 5): CE(clean) + beta * KL(p(clean) || p(adv)).

    The terms are `clean` and, with its beta, `robust`. The attack ascends the KL from a Gaussian start, with the clean
    prediction held fixed. As in the authors' code, the gradient of the loss flows into both predictions, and neither term is
    divided by the number of classes.
    """

    beta: float = 6.0
    terms: tuple[str, ...] = ("clean", "robust")
    points: int = 1
    attack_loss: str | None = "kl"
    start: str = "gaussian"

    def __call__(self, model: nn.Module, images: torch.Tensor, adv: torch.Tensor, labels: torch.Tensor) -> Outcome:
        """Run two forward passes, clean and adversarial; see `Objective`."""
        clean, attacked = model(images), model(adv)
        moved = F.kl_div(attacked.log_softmax(1), clean.log_softmax(1), reduction="none", log_target=True).sum(1)
        return Outcome({"clean": F.cross_entropy(clean, labels, reduction="none"), "robust": self.beta * moved}, clean, attacked)


@dataclass(frozen=True)
class MART:
    """MART (Wang et al., ICLR 2020, eq. 11): boosted CE on adversarial images + a weighted divergence.

    `boosted` is CE(adv) - log(1 - the best wrong probability). `robust` is beta * KL(p(clean) || p(adv)) * (1 - p_y(clean));
    beta is 5 or 6 in the authors' code. The small constants are those of that code: without them the logarithm of a certain
    mistake is infinite. The attack ascends cross-entropy from a Gaussian start (FAAL's release: KL).
    """

    beta: float = 6.0
    terms: tuple[str, ...] = ("boosted", "robust")
    points: int = 1
    attack_loss: str | None = "cross-entropy"
    start: str = "gaussian"

    def __call__(self, model: nn.Module, images: torch.Tensor, adv: torch.Tensor, labels: torch.Tensor) -> Outcome:
        """Run two forward passes, clean and adversarial; see `Objective`."""
        clean, attacked = model(images), model(adv)
        p, q = clean.softmax(1), attacked.softmax(1)
        best_wrong = q.scatter(1, labels[:, None], -1.0).amax(1)
        boosted = F.cross_entropy(attacked, labels, reduction="none") - torch.log(1.0001 - best_wrong + 1e-12)
        moved = (p * (clean.log_softmax(1) - torch.log(q + 1e-12))).sum(1)  # kl_div's gradient is NaN where p underflows
        true = p.gather(1, labels[:, None]).squeeze(1)
        return Outcome({"boosted": boosted, "robust": self.beta * moved * (1.0000001 - true)}, clean, attacked)


@dataclass(frozen=True)
class BAT:
    """BAT (Sun et al., AAAI 2023): points on both sides of the boundary, pushed to uniform predictions.

    `source` is the cross-entropy at the last iterate that is still classified correctly (how hard a class is to leave).
    `robust` is beta * KL(p(clean) || p) at the iterate after the first mistake (which class attracts). `uniformity` is KL(p
    || U) at both, with coefficient 1. It maximises entropy near the boundary, so calibration changes: check it. Classes are
    scored by the outer point.
    """

    beta: float = 6.0
    terms: tuple[str, ...] = ("source", "robust", "uniformity")
    points: int = 2
    attack_loss: str | None = "kl"
    start: str = "gaussian"

    def __call__(self, model: nn.Module, images: torch.Tensor, adv: torch.Tensor, labels: torch.Tensor) -> Outcome:
        """Run three forward passes: clean, inner and outer point; see `Objective`."""
        clean, inner, outer = model(images), model(adv[0]), model(adv[1])
        moved = F.kl_div(outer.log_softmax(1), clean.log_softmax(1), reduction="none", log_target=True).sum(1)
        terms = {
            "source": F.cross_entropy(inner, labels, reduction="none"),
            "robust": self.beta * moved,
            "uniformity": _above_uniform(inner) + _above_uniform(outer),
        }
        return Outcome(terms, clean, outer)


def _above_uniform(logits: torch.Tensor) -> torch.Tensor:
    """Return KL(p || U) = log C - entropy, [B]."""
    log_p = logits.log_softmax(1)
    return (log_p.exp() * log_p).sum(1) + math.log(logits.shape[1])


OBJECTIVES: dict[str, Any] = {name: row.make for name, row in catalogue.OBJECTIVES.ours.items()}
