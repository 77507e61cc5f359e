"""Hold everything that a training is between two events."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from faal_lab.methods.class_stats import ClassStats
from faal_lab.methods.recipe import Recipe
from faal_lab.models.normalize import QuickPasses
from faal_lab.runs.config import Config


@dataclass
class TrainingState:
    """Everything a run needs to go on from where it is. Noise needs no state: it is keyed by seed, epoch and image."""

    model: nn.Module
    optimizer: torch.optim.SGD
    recipe: Recipe
    dials: dict[str, float]  # those of config.DIALS as they stand now
    epoch: int = 0
    batch: int = 0  # steps of this epoch already done
    step: int = 0
    begun: int = -1  # the last epoch for which the fairness method measured and scheduled dials were turned
    commands_read: int = 0  # so that a command obeyed before an interruption is not obeyed again
    average: dict[str, torch.Tensor] = field(default_factory=dict)  # averaged weights, empty before there are any
    averaged: int = 0  # how many steps they have absorbed
    tally: ClassStats | None = None  # the fairness method's class statistics, summed over this epoch
    perturbation: torch.Tensor | None = None  # free training's, which climbs from batch to batch
    quick: QuickPasses | None = field(default=None, compare=False)  # compiled passes, where there are any
    activity: str = field(default="starting", compare=False)

    def acting(self) -> Recipe:
        """The recipe that the next step is made by."""
        return self.recipe.at(self.epoch, on=self.dials["fairness_on"] > 0)

    @staticmethod
    def fresh(model: nn.Module, recipe: Recipe, config: Config) -> TrainingState:
        """The state before the first step. A recipe that was trained by before forgets what its fairness method learned."""
        recipe.fairness.state.clear()
        optimizer = torch.optim.SGD(
            model.parameters(), lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
        )
        dials = {"tau": config.tau, "epsilon": config.epsilon, "learning_rate": config.learning_rate, "fairness_on": 1.0}
        return TrainingState(model, optimizer, recipe, dials)
