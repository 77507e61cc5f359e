"""Compute training losses as named per-sample terms, and weigh them by class.

To add an objective, write one class and add one row to `OBJECTIVES` in `catalogue.py`. An object with the same attributes
can be passed directly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn
from torch.nn import functional as F

from faal_lab import catalogue

Terms = dict[str, torch.Tensor]  # name ("clean", "robust", ...) -> per-sample loss [B]


Logits = dict[str, torch.Tensor]  # pass ("clean", "adv", "inner", "outer") -> logits [B, C]


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


class _Passes:
    """Make an objective's own passes in its own order."""

    passes: tuple[str, ...] = ()

    def outcome(self, logits: Logits, labels: torch.Tensor) -> Outcome:
        """Return the terms from the logits of `passes`."""
        raise NotImplementedError

    def __call__(self, model: nn.Module, images: torch.Tensor, adv: torch.Tensor, labels: torch.Tensor) -> Outcome:
        """Run the passes; see `Objective`."""
        return self.outcome(passed(model, self.passes, images, adv, self.passes), labels)


def passed(
    model: nn.Module, passes: Iterable[str], images: torch.Tensor, adv: torch.Tensor | None, needed: Iterable[str] = ()
) -> Logits:
    """Pass the images of each name through the model, in order; return the logits [B, C] of those `needed`.

    The first pass of a needed name keeps its graph. In training mode a repeated one has the same logits, so it only moves
    BatchNorm, as all passes do that nobody needs.
    """
    found: Logits = {}
    for name in passes:
        batch = images if name == "clean" else adv
        assert batch is not None, "a pass of attacked images needs them"
        batch = batch[("inner", "outer").index(name)] if name in ("inner", "outer") else batch
        kept = name in needed and name not in found
        with torch.set_grad_enabled(kept and torch.is_grad_enabled()):
            logits = model(batch)
        if kept:
            found[name] = logits
    return found


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


class StandardTraining(_Passes):
    """Training without an attack: cross-entropy on clean images, one term, `clean`."""

    passes: tuple[str, ...] = ("clean",)
    terms: tuple[str, ...] = ("clean",)
    points: int = 1
    attack_loss: str | None = None
    start: str = "zero"

    def outcome(self, logits: Logits, labels: torch.Tensor) -> Outcome:
        """Return the cross-entropy; see `Objective`."""
        clean = logits["clean"]
        return Outcome({"clean": F.cross_entropy(clean, labels, reduction="none")}, clean, None)


@dataclass(frozen=True)
class AdversarialTraining(_Passes):
    """PGD adversarial training (Madry et al., ICLR 2018).
    Cross-entropy on adversarial images, one term, `robust`.
    """

    passes: tuple[str, ...] = ("adv",)
    terms: tuple[str, ...] = ("robust",)
    points: int = 1
    attack_loss: str | None = "cross-entropy"
    start: str = "uniform"

    def outcome(self, logits: Logits, labels: torch.Tensor) -> Outcome:
        """Return the cross-entropy under attack; see `Objective`."""
        adv = logits["adv"]
        return Outcome({"robust": F.cross_entropy(adv, labels, reduction="none")}, None, adv)


@dataclass(frozen=True)
class TRADES(_Passes):
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
    passes: tuple[str, ...] = ("clean", "adv")

    def outcome(self, logits: Logits, labels: torch.Tensor) -> Outcome:
        """Return both terms; see `Objective`."""
        clean, attacked = logits["clean"], logits["adv"]
        moved = F.kl_div(attacked.log_softmax(1), clean.log_softmax(1), reduction="none", log_target=True).sum(1)
        return Outcome({"clean": F.cross_entropy(clean, labels, reduction="none"), "robust": self.beta * moved}, clean, attacked)


@dataclass(frozen=True)
class MART(_Passes):
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
    passes: tuple[str, ...] = ("clean", "adv")

    def outcome(self, logits: Logits, labels: torch.Tensor) -> Outcome:
        """Return both terms; see `Objective`."""
        clean, attacked = logits["clean"], logits["adv"]
        p, q = clean.softmax(1), attacked.softmax(1)
        best_wrong = q.scatter(1, labels[:, None], -1.0).amax(1)
        boosted = F.cross_entropy(attacked, labels, reduction="none") - torch.log(1.0001 - best_wrong + 1e-12)
        moved = (p * (clean.log_softmax(1) - torch.log(q + 1e-12))).sum(1)  # kl_div's gradient is NaN where p underflows
        true = p.gather(1, labels[:, None]).squeeze(1)
        return Outcome({"boosted": boosted, "robust": self.beta * moved * (1.0000001 - true)}, clean, attacked)


@dataclass(frozen=True)
class BAT(_Passes):
    """BAT (Sun et al., AAAI 2023): points on both sides of the boundary, pushed to uniform predictions.

    `source` is the cross-entropy at the last iterate that is still classified correctly (how hard a class is to leave).
    `robust` is beta * KL(p(clean) || p) at the iterate after the first mistake (which class attracts). `uniformity` is KL(p
    || U) at both, with coefficient 1. It maximises entropy near the boundary, so calibration changes: check it. Classes are
    scored by the outer point. With two `ascents` each point has a start and an ascent of its own, as in the authors' code.
    """

    beta: float = 6.0
    terms: tuple[str, ...] = ("source", "robust", "uniformity")
    points: int = 2
    attack_loss: str | None = "kl"
    start: str = "gaussian"
    passes: tuple[str, ...] = ("clean", "inner", "outer")
    ascents: int = 1

    def outcome(self, logits: Logits, labels: torch.Tensor) -> Outcome:
        """Return the three terms; see `Objective`."""
        clean, inner, outer = logits["clean"], logits["inner"], logits["outer"]
        moved = F.kl_div(outer.log_softmax(1), clean.log_softmax(1), reduction="none", log_target=True).sum(1)
        terms = {
            "source": F.cross_entropy(inner, labels, reduction="none"),
            "robust": self.beta * moved,
            "uniformity": _above_uniform(inner) + _above_uniform(outer),
        }
        return Outcome(terms, clean, outer)


@dataclass(frozen=True)
class BalancedSoftmax(_Passes):
    """AT-BSL (Yue et al., CVPR 2024): CE(z(adv) + log n, y) with n the training images of each class, one term, `robust`.

    The shift asks small classes for a larger margin; predictions and the attack have none. A run states `class_sizes`, and
    classes of one size make it PGD adversarial training from a Gaussian start. The paper's augmentation is a setting, `augment`.
    """

    class_sizes: tuple[int, ...] = ()  # empty: all the same
    passes: tuple[str, ...] = ("adv",)
    terms: tuple[str, ...] = ("robust",)
    points: int = 1
    attack_loss: str | None = "cross-entropy"
    start: str = "gaussian"

    def outcome(self, logits: Logits, labels: torch.Tensor) -> Outcome:
        """Return the cross-entropy of the shifted logits; see `Objective`."""
        adv = logits["adv"]
        shift = torch.tensor(self.class_sizes or 1.0, dtype=torch.float64).clamp(min=1).log().to(adv)
        return Outcome({"robust": F.cross_entropy(adv + shift, labels, reduction="none")}, None, adv)


def _above_uniform(logits: torch.Tensor) -> torch.Tensor:
    """Return KL(p || U) = log C - entropy, [B]."""
    log_p = logits.log_softmax(1)
    return (log_p.exp() * log_p).sum(1) + math.log(logits.shape[1])


OBJECTIVES: dict[str, Any] = {name: row.make for name, row in catalogue.OBJECTIVES.ours.items()}
