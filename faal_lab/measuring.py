"""What fairness methods may have measured between two epochs.

Knows: a training state and its splits. Must not know: which method asks, or why. Test images are never read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from faal_lab.adversary import AttackTick, frozen
from faal_lab.attacking import attack
from faal_lab.class_stats import ClassStats
from faal_lab.config import RunConfig
from faal_lab.data import Images, Splits
from faal_lab.evaluation.attacks import Attack, count_by_class, predictions
from faal_lab.sampling import Batch
from faal_lab.state import TrainingState

_CHUNK = 250  # images at once


@dataclass(frozen=True)
class Measurement:
    """The `Measure` of fairness methods; `tick` is called between attack steps and may raise."""

    state: TrainingState
    splits: Splits
    config: RunConfig
    tick: AttackTick

    @staticmethod
    def of(state: TrainingState, splits: Splits, config: RunConfig, tick: AttackTick) -> Measurement:
        """By the dials as they stand: one that is turned meanwhile holds from the next step, as is then recorded."""
        quiet = replace(config, replays=0, batch_norm="eval")  # free training has no attack on images it does not train on
        return Measurement(replace(state, dials=dict(state.dials)), splits, quiet, tick)

    def validation_errors(self, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Class error rates [C] on validation images, clean and under PGD; a class without images has the mean's."""
        validation = self._validation()
        found = []
        for kind in (None, Attack("cross-entropy", steps, self.config.step_ratio)):
            wrong = self._predicted(validation, kind) != validation.labels
            found.append(_class_means(wrong.float(), validation.labels, self.splits.num_classes))
        return found[0], found[1]

    def validation_cost(self) -> torch.Tensor:
        """Class means [C] of the sum of the objective's terms on validation images under the training attack, evaluation mode."""
        images, model = self._validation(), self.state.model
        costs = []
        for indices in torch.arange(len(images), device=images.labels.device).split(_CHUNK):
            pixels, labels = images.batch(indices)
            batch = Batch(pixels, labels, indices + 2 * len(self.splits.train))  # noise of their own
            adv = attack(self.state, batch, self.splits.num_classes, self.config, self.tick).images
            with frozen(model), torch.no_grad():
                costs.append(torch.stack(list(self.state.recipe.objective(model, pixels, adv, labels).terms.values())).sum(0))
        return _class_means(torch.cat(costs), images.labels, self.splits.num_classes)

    def training_confusion(self, steps: int) -> torch.Tensor:
        """Counts [C, C] by (predicted, true) of all training images, not augmented, under PGD."""
        images, classes = self.splits.train, self.splits.num_classes
        predicted = self._predicted(images, Attack("cross-entropy", steps, self.config.step_ratio))
        rows = [count_by_class(predicted == label, images.labels, classes) for label in range(classes)]
        return torch.tensor(rows, device=images.labels.device)

    def _validation(self) -> Images:
        if not len(self.splits.validation):
            raise ValueError("The fairness method measures on validation images, and there are none. Set validation to split.")
        return self.splits.validation

    def _predicted(self, images: Images, kind: Attack | None) -> torch.Tensor:
        config, epsilon = self.config, self.state.dials["epsilon"]
        return predictions(self.state.model, images, kind, epsilon, seed=config.seed, norm=config.norm, tick=self.tick)


def _class_means(values: torch.Tensor, labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    stats = ClassStats.of(labels, num_classes, {"value": values})
    means = stats.mean("value")
    return torch.where(stats.present, means, means[stats.present].mean())
