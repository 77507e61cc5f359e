"""Define the interface of a fairness method: one required part and five optional ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import torch

from faal_lab.methods.class_stats import ClassStats
from faal_lab.methods.objectives import Outcome, Terms

State = dict[str, torch.Tensor]


class Weighing(NamedTuple):
    """The class weights of a method for one batch."""

    weights: torch.Tensor  # [C] on the simplex, for display: uniform where the method does nothing
    multipliers: dict[str, torch.Tensor]  # term -> [C], or [C, C] by (predicted, label); absent terms count fully
    divergence: torch.Tensor  # [] distance of the weights from uniform


class AttackedBatch(NamedTuple):
    """The data that a method may read before the attack."""

    labels: torch.Tensor  # int64 [B]
    num_classes: int
    step_ratio: float  # the attack's step as a share of epsilon
    clean_logits: Callable[[], torch.Tensor]  # [B, C], in the mode of the attack; costs a forward pass, made once
    draw: Callable[[], torch.Tensor]  # uniform random numbers [B], keyed by image
    class_sizes: torch.Tensor  # int64 [C], training images of each class
    progress: float  # the share of the run's epochs that are done, in [0, 1)


class AttackPlan(NamedTuple):
    """The attack on each sample of a batch, in multiples of the run's epsilon and step."""

    radius: torch.Tensor  # [B]
    step: torch.Tensor  # [B]
    target: torch.Tensor | None = None  # int64 [B], -1 untargeted


class Measure(Protocol):
    """Measurements between two epochs, on the model as it is then.

    Each costs attacks; none is made unless a method asks for it.
    """

    def validation_errors(self, steps: int, last: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Return class error rates [C] on validation images: clean, and under PGD of `steps` steps.

        An image is wrong if any iterate is; with `last`, if the last one is.
        """
        ...

    def validation_cost(self) -> torch.Tensor:
        """Return class means [C] of the training loss on validation images under the training attack."""
        ...

    def training_confusion(self, steps: int, released: float = 0.0) -> torch.Tensor:
        """Count training images by (predicted, true) under PGD of `steps` steps: [C, C].

        An image counts at its first wrong iterate. `released` above 0 counts as CSR's code does: at the last iterate, from a
        start that is not cut to the pixel box, with the true logit times this factor.
        """
        ...

    def validation_counts(self) -> tuple[torch.Tensor, int]:
        """Return the number of validation images of each class [C], and the images of a batch."""
        ...


class Fairness(Protocol):
    """A method that turns class statistics into class weights, batch by batch.

    `state` is all that it remembers, so that it survives a resume.
    """

    needs: tuple[str, ...]  # the class scores it reads: rows of `class_stats.CLASS_SCORES`, "loss" or "softmax"
    state: State

    def weigh(self, stats: ClassStats, terms: tuple[str, ...], tau: float) -> Weighing:
        """Weigh the classes of one batch.

        `terms` are the names of the loss terms, cross-entropy first; `tau` is the present value of the dial.
        """
        ...


@runtime_checkable
class PlansAttacks(Protocol):
    """A method that gives classes radii, steps or targets of their own."""

    def plan_attack(self, batch: AttackedBatch) -> AttackPlan:
        """Return the attack plan of a batch. Called before each attack."""
        ...


@runtime_checkable
class Samples(Protocol):
    """A method that decides how often a class is drawn."""

    def class_probabilities(self, num_classes: int) -> torch.Tensor:
        """Return the probabilities [C] of the classes in the next batch.

        Images are drawn uniformly inside a class, with replacement.
        """
        ...


@runtime_checkable
class AddsTerms(Protocol):
    """A method whose loss has terms that the objective does not have."""

    def more_terms(self, outcome: Outcome, labels: torch.Tensor) -> Terms:
        """Return per-sample terms [B] with gradient, made from the logits of the objective's own passes."""
        ...


@runtime_checkable
class BeginsEpochs(Protocol):
    """A method that measures before an epoch, so that it acts from the first one on."""

    def begin_epoch(self, measure: Measure) -> None:
        """Measure, then change the state. Called once before each epoch in which the method acts.

        The call may be interrupted during a measurement, so the state must change last.
        """
        ...


@runtime_checkable
class EndsEpochs(Protocol):
    """A method that learns from a whole epoch."""

    def end_epoch(self, epoch: ClassStats, measure: Measure) -> None:
        """Learn from an epoch. Called after each epoch, from the one before the method first acts.

        `epoch` holds the sums of the batches' `needs`.
        """
        ...


def uniform_over(present: torch.Tensor) -> torch.Tensor:
    """Return the uniform distribution over the present classes: float64 [C], 0 where absent."""
    held = present.to(torch.float64)
    return held / held.sum().clamp(min=1)


def fixed(multipliers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weights w on the simplex [C] and KL(U || w) [] of class multipliers [C] without a set."""
    positive = multipliers.double().clamp(min=1e-12)
    weights = positive / positive.sum()
    return weights, -torch.log(weights * len(weights)).mean()


class NoFairness:
    """All samples count the same."""

    needs: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.state: State = {}

    def weigh(self, stats: ClassStats, terms: tuple[str, ...], tau: float) -> Weighing:
        """Return uniform weights over the classes present."""
        weights = uniform_over(stats.present)
        return Weighing(weights, {}, torch.zeros((), dtype=torch.float64, device=weights.device))
