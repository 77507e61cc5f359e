"""Hold a training: its state between two events, its images, its settings."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import nn

from faal_lab.data.images import Splits
from faal_lab.errors import ConfigError
from faal_lab.methods.class_stats import ClassStats
from faal_lab.methods.pgd import AttackTick
from faal_lab.methods.recipe import Recipe
from faal_lab.models.build import ModelSpec
from faal_lab.models.examine import takes_one_image
from faal_lab.models.normalize import QuickPasses
from faal_lab.runs.config import Config


@dataclass
class TrainingState:
    """All that a run needs to resume.

    Noise needs no state: it is keyed by seed, epoch and image.
    """

    model: nn.Module
    optimizer: torch.optim.SGD
    recipe: Recipe
    dials: dict[str, float]  # present values of config.DIALS
    epoch: int = 0
    batch: int = 0  # steps of this epoch already done
    step: int = 0
    begun: int = -1  # the last epoch for which the fairness method measured and scheduled dials were turned
    commands_read: int = 0  # so that a command obeyed before an interruption is not obeyed again
    average: dict[str, torch.Tensor] = field(default_factory=dict)  # averaged weights, empty at first
    averaged: int = 0  # number of steps in the average
    tally: ClassStats | None = None  # the fairness method's class statistics, summed over this epoch
    perturbation: torch.Tensor | None = None  # of free training, which climbs from batch to batch
    quick: QuickPasses | None = field(default=None, compare=False)  # compiled passes, if there are any
    activity: str = field(default="starting", compare=False)

    def acting(self) -> Recipe:
        """Return the recipe of the next step."""
        return self.recipe.at(self.epoch, on=self.dials["fairness_on"] > 0)

    @staticmethod
    def fresh(model: nn.Module, recipe: Recipe, config: Config, tau: float | None = None) -> TrainingState:
        """Return the state before the first step.

        A recipe that was used before forgets what its fairness method learned. `tau` is the initial radius if it was stated
        as a multiplier; None: the config's.
        """
        recipe.fairness.state.clear()
        optimizer = torch.optim.SGD(
            model.parameters(), lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
        )
        dials = {
            "tau": config.tau if tau is None else tau,
            "epsilon": config.epsilon,
            "learning_rate": config.learning_rate,
            "fairness_on": 1.0,
        }
        return TrainingState(model, optimizer, recipe, dials)


@dataclass
class Trainer:
    """A training and all that a step needs: the one argument of `attack`, `step`, `validate` and the loop.

    >>> from faal_lab.runs.config import Config
    >>> from faal_lab.training.run import prepare
    >>> trainer = prepare(Config(epochs=1))
    >>> trainer.steps_per_epoch, trainer.state.step
    (16, 0)
    """

    state: TrainingState  # what a checkpoint keeps
    splits: Splits  # on the device; test images are never read
    config: Config
    spec: ModelSpec | None = None  # the network's shape; None if nothing is saved
    best: float = -1.0  # best validation score so far: average + worst class, under attack
    not_compiled: str = ""  # the compiler's error, if it failed
    network: dict[str, str] = field(default_factory=dict)  # of a foreign one: the hash of its architecture, and notes
    draws: bool = False  # its passes in training mode draw random numbers, as dropout does
    balanced: str = ""  # how a bias for each class was found, once there is one
    selected_on_test: bool = False  # this run, or one that it started from, validates on the test images
    tick: AttackTick = field(default=lambda: None, compare=False)  # called between attack steps; may raise, to interrupt

    @property
    def num_classes(self) -> int:
        """The number of classes in the data set."""
        return self.splits.num_classes

    @cached_property
    def class_sizes(self) -> torch.Tensor:
        """The number of training images of each class: int64 [C]."""
        return torch.bincount(self.splits.train.labels, minlength=self.num_classes)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in an epoch.

        The last batch may be smaller. Free training uses each batch several times.
        """
        return -(-len(self.splits.train) // self.config.batch_size) * max(1, self.config.replays)

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step: the dial times the factor of the schedule."""
        progress = self.state.step / (self.config.epochs * self.steps_per_epoch)
        return self.state.dials["learning_rate"] * learning_rate_factor(self.config, progress, self.state.epoch)


def learning_rate_factor(config: Config, progress: float, epoch: int) -> float:
    """Return the multiplier of the peak learning rate at `progress` in [0, 1) of the run."""
    if config.lr_schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if config.lr_schedule == "one-cycle":
        return progress / 0.3 if progress < 0.3 else (1 - progress) / 0.7
    if config.lr_schedule == "step":
        return 0.1 ** sum(epoch >= round(share * config.epochs, 9) for share in config.drops())
    return 1.0


def check_last_batch(trainer: Trainer, name: str) -> None:
    """Raise ConfigError where a batch of one image meets a BatchNorm that cannot take it."""
    count, size = len(trainer.splits.train), trainer.config.batch_size
    if min(count, size) > 1 and count % size != 1:
        return
    pixels, _ = trainer.splits.train.batch(torch.zeros(1, dtype=torch.long, device=trainer.splits.train.labels.device))
    if not takes_one_image(trainer.state.model, pixels):
        which = "Every batch" if size == 1 else "The last batch of an epoch"
        other = next((s for s in range(max(size, 2) + 1, count + 2) if count % s != 1), size)
        raise ConfigError(
            f"{which} has one image ({count} training images, batch_size={size}), of which BatchNorm in {name} can learn "
            f"nothing. Set batch_size={other}."
        )
