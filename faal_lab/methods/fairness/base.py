"""Define what a fairness method is to the training loop: one required part, and five optional ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import torch

from faal_lab.methods.class_stats import ClassStats
from faal_lab.methods.objectives import Outcome, Terms

State = dict[str, torch.Tensor]


class Weighing(NamedTuple):
    """A method's verdict on one batch."""

    weights: torch.Tensor  # [C] on the simplex, for the eye: uniform where the method does nothing
    multipliers: dict[str, torch.Tensor]  # term -> [C], or [C, C] by (predicted, label); absent terms count fully
    divergence: torch.Tensor  # [] how far the weights are from uniform


class AttackedBatch(NamedTuple):
    """What a method may look at before the attack."""

    labels: torch.Tensor  # int64 [B]
    num_classes: int
    step_ratio: float  # the attack's step as a share of epsilon
    clean_logits: Callable[[], torch.Tensor]  # [B, C], in the mode of the attack; costs a forward pass, made once
    draw: Callable[[], torch.Tensor]  # uniform random numbers [B], keyed by image


class AttackPlan(NamedTuple):
    """How each sample of a batch is attacked, in multiples of the run's epsilon and step."""

    radius: torch.Tensor  # [B]
    step: torch.Tensor  # [B]
    target: torch.Tensor | None = None  # int64 [B], -1 untargeted


class Measure(Protocol):
    """What can be measured between two epochs, under the model as it stands. Each costs attacks; nothing is made unasked."""

    def validation_errors(self, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Class error rates [C] on validation images: clean, and under PGD of so many steps."""
        ...

    def validation_cost(self) -> torch.Tensor:
        """Class means [C] of the training loss on validation images under the training attack."""
        ...

    def training_confusion(self, steps: int) -> torch.Tensor:
        """Counts [C, C] by (predicted, true) of training images under PGD of so many steps."""
        ...


class Fairness(Protocol):
    """Turns class statistics into class weights, batch by batch. `state` is all it remembers, so that it survives a resume."""

    needs: tuple[str, ...]  # which class scores it reads: rows of `class_stats.CLASS_SCORES`, "loss" or "softmax"
    state: State

    def weigh(self, stats: ClassStats, terms: tuple[str, ...], tau: float) -> Weighing:
        """Weigh the classes of one batch for the named loss terms, cross-entropy first; `tau` is the dial as it stands now."""
        ...


@runtime_checkable
class PlansAttacks(Protocol):
    """A method that gives classes radii, steps or targets of their own."""

    def plan_attack(self, batch: AttackedBatch) -> AttackPlan:
        """Called before each attack."""
        ...


@runtime_checkable
class Samples(Protocol):
    """A method that decides how often a class is drawn."""

    def class_probabilities(self, num_classes: int) -> torch.Tensor:
        """Probabilities [C] of the next batch's classes; images are drawn uniformly inside a class, with replacement."""
        ...


@runtime_checkable
class AddsTerms(Protocol):
    """A method whose loss has terms the objective does not have."""

    def more_terms(self, outcome: Outcome, labels: torch.Tensor) -> Terms:
        """Per-sample terms [B] with gradient, made from the logits of the objective's own forward passes."""
        ...


@runtime_checkable
class BeginsEpochs(Protocol):
    """A method that measures before an epoch, so that it acts from the first one on."""

    def begin_epoch(self, measure: Measure) -> None:
        """Called once before each epoch in which the method acts. Measure first, change state last: it may be interrupted."""
        ...


@runtime_checkable
class EndsEpochs(Protocol):
    """A method that learns from a whole epoch."""

    def end_epoch(self, epoch: ClassStats, measure: Measure) -> None:
        """Called after each epoch, from the one before the method first acts. `epoch` sums the batches' `needs`."""
        ...


def uniform_over(present: torch.Tensor) -> torch.Tensor:
    """The uniform distribution over the present classes: float64 [C], 0 where absent."""
    held = present.to(torch.float64)
    return held / held.sum().clamp(min=1)


def fixed(multipliers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights on the simplex [C] and KL(U || w) [] of class multipliers [C] that no ambiguity set made."""
    positive = multipliers.double().clamp(min=1e-12)
    weights = positive / positive.sum()
    return weights, -torch.log(weights * len(weights)).mean()


class NoFairness:
    """All samples count the same."""

    needs: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.state: State = {}

    def weigh(self, stats: ClassStats, terms: tuple[str, ...], tau: float) -> Weighing:
        """Uniform weights over the classes present."""
        weights = uniform_over(stats.present)
        return Weighing(weights, {}, torch.zeros((), dtype=torch.float64, device=weights.device))
