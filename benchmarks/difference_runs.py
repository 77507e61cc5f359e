"""Train on the digits for benchmarks/differences.py, and follow the trainings epoch by epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import torch

from faal_lab.data.batches import Batch
from faal_lab.methods.averaging import Averaging, Tensors
from faal_lab.methods.predict import Attack, survivors
from faal_lab.methods.recipe import Recipe
from faal_lab.models.build import ModelSpec, build
from faal_lab.models.networks import PreActResNet18
from faal_lab.runs.config import Config
from faal_lab.runs.events import EpochDone, StepDone
from faal_lab.training.loop import train
from faal_lab.training.run import prepare, recipe_settings
from faal_lab.training.trainer import Trainer, TrainingState

Figures = dict[str, dict[str, Any]]
PGD = Attack("cross-entropy", 10, 0.25)
BIG = 4  # times as many pixels a side, where crops are cut


@dataclass
class Size:
    """The number of seeds, of epochs of a trained network, and of epochs of a run that is followed."""

    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int = 4
    followed: int = 12


SIZE = Size()


def figures(form: str = ".2g", **values: list[float]) -> Figures:
    """Return the mean over seeds, the lowest and the highest of each, and the mean as the page shows it."""
    found = {}
    for name, numbers in values.items():
        mean = sum(numbers) / len(numbers)
        entry = {"mean": mean, "low": min(numbers), "high": max(numbers), "shown": format(mean, form)}
        found[name.replace("_", " ")] = entry
    return found


@cache
def trained(seed: int, **settings: Any) -> Trainer:
    """Train on the digits. Nobody changes the result."""
    trainer = prepare(Config.from_mapping({"seed": seed, "epochs": SIZE.epochs} | settings))
    for _ in train(trainer):
        pass
    return trainer


def formed(seed: int, base: dict[str, Any] | None = None, **settings: Any) -> Trainer:
    """Return a trained network in a training of other settings, in its second epoch."""
    source = trained(seed, **(base or {}))
    made = prepare(Config.from_mapping({"seed": seed, "epochs": max(2, SIZE.epochs)} | settings))
    made.state.model.load_state_dict(source.state.model.state_dict())
    made.state.epoch = 1
    return made


def some(trainer: Trainer, first: int = 0, count: int = 256) -> Batch:
    """Return some training images, not augmented."""
    keys = torch.arange(first, min(first + count, len(trainer.splits.train)))
    return Batch(*trainer.splits.train.batch(keys), keys)


class Followed(NamedTuple):
    """A training of which every epoch was looked at."""

    validation: list[tuple[float, float]]  # average and worst class under PGD-10, percent
    test: list[tuple[float, float]]
    accuracy: list[torch.Tensor]  # [C], of classes on the training attacks of each epoch
    assumed: list[torch.Tensor]  # the same, as CFA's code has it
    averages: dict[str, Tensors]
    last: Tensors


def scores(correct: torch.Tensor, count: torch.Tensor) -> tuple[float, float]:
    """Return average and worst class accuracy in percent."""
    each = 100 * correct / count
    return (100 * correct.sum() / count.sum()).item(), each.min().item()


@cache
def followed(seed: int, imbalance: float = 1.0) -> Followed:
    """Train at a rate that drops twice, and average the weights in four ways."""
    trainer = prepare(Config(seed=seed, epochs=SIZE.followed, lr_schedule="step", imbalance=imbalance))
    model, test = trainer.state.model, trainer.splits.test
    found = Followed([], [], [], [], {"ema": {}, "ema by epoch": {}, "paper": {}, "release": {}}, model.state_dict())
    made = {
        "ema by epoch": Averaging("fawa", 0.88, threshold=0.0),
        "paper": Averaging("fawa", 0.85, threshold=0.2),
        "release": Averaging("fawa", 0.88, threshold=0.24),
    }
    seat, steps, correct, count = Averaging("ema"), 0, torch.zeros(10), torch.zeros(10)
    for event in train(trainer):
        if isinstance(event, StepDone):
            steps = seat.after_step(found.averages["ema"], model, event.epoch, steps)
            correct, count = correct + torch.tensor(event.robust_correct), count + torch.tensor(event.count)
        if isinstance(event, EpochDone):
            found.accuracy.append(correct / count)
            found.assumed.append(10 * correct / count.sum())
            correct, count = torch.zeros(10), torch.zeros(10)
            found.validation.append(scores(torch.tensor(event.robust_correct), torch.tensor(event.count)))
            stand = survivors(model, test, PGD, trainer.config.epsilon, seed=seed)
            right = torch.bincount(test.labels[stand], minlength=10)
            found.test.append(scores(right, torch.bincount(test.labels)))
            for name, averaging in made.items():
                averaging.after_epoch(found.averages[name], model, event.epoch, found.validation[-1][1] / 100)
    return found


def best(of: list[tuple[float, float]], rule: Callable[[tuple[float, float]], float] = sum) -> int:
    """Return the epoch of the highest score; by default that is average plus worst class."""
    return max(range(len(of)), key=lambda epoch: rule(of[epoch]))


def gained(which: Callable[[Followed], tuple[int, int]]) -> Figures:
    """Return how much the second choice of an epoch has above the first on test images, in points; twice as many seeds."""
    found: list[list[float]] = [[], []]
    for seed in range(2 * len(SIZE.seeds)):
        run = followed(seed)
        first, second = which(run)
        for place in (0, 1):
            found[place].append(run.test[second][place] - run.test[first][place])
    return figures(".1f", average=found[0], worst_class=found[1])


def vector(weights: Tensors) -> torch.Tensor:
    """Return all weights, without BatchNorm's statistics, as one vector."""
    return torch.cat([w.detach().flatten() for n, w in weights.items() if "running" not in n and w.is_floating_point()])


def averaged(*names: str) -> Figures:
    """Return the distance of averages from the last weights, in percent of their norm."""
    found: dict[str, list[float]] = {name: [] for name in names}
    for seed in SIZE.seeds:
        run = followed(seed)
        last = vector(run.last)
        for name in names:
            found[name].append(100 * ((vector(run.averages[name] or run.last) - last).norm() / last.norm()).item())
    return figures(".1f", **found)


def moved(seed: int, nesterov: bool = False, last: float = 1.0, **settings: Any) -> torch.Tensor:
    """Return the move of the weights in one epoch, the last step at `last` times the rate."""
    trainer = prepare(Config(seed=seed, epochs=1, lr_schedule="constant", **settings))
    before = vector(trainer.state.model.state_dict())
    trainer.state.optimizer.param_groups[0]["nesterov"] = nesterov
    for event in train(trainer):
        if isinstance(event, StepDone) and event.step == trainer.steps_per_epoch - 1:
            trainer.state.dials["learning_rate"] *= last
    return vector(trainer.state.model.state_dict()) - before


def apart(one: dict[str, Any], other: dict[str, Any], name: str) -> Figures:
    """Return the distance of the weights after one epoch, in percent of the first one's move."""
    found = []
    for seed in SIZE.seeds:
        plain, changed = moved(seed, **one), moved(seed, **other)
        found.append(100 * ((changed - plain).norm() / plain.norm()).item())
    return figures(".0f" if name != "percent" else ".1f", **{name: found})


class NoLast(PreActResNet18):
    """PreActResNet-18 as in FRL's code: no BatchNorm and no ReLU before the pool."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images [B, 1, H, W] to logits [B, 10]."""
        return self.linear(self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x))))).mean((2, 3)))


@cache
def big(seed: int) -> Trainer:
    """Train on digits of 32x32 pixels, cropped and mirrored, as CSR's code trains on CIFAR-10."""
    config = Config(seed=seed, objective="trades", epochs=3, attack_steps=5, augment="crop-flip")
    splits = prepare(config).splits
    parts = {
        name: replace(part, pixels=part.pixels[:].repeat_interleave(BIG, 2).repeat_interleave(BIG, 3))
        for name, part in (("train", splits.train), ("validation", splits.validation))
    }
    splits = replace(splits, **parts)
    model = build(ModelSpec("small-cnn", 10, 1, 8 * BIG, 8 * BIG, (0.3,), (0.4,)), seed)
    state = TrainingState.fresh(model, Recipe.of(**recipe_settings(config, validation=True)), config)
    trainer = Trainer(state, splits, config)
    for _ in train(trainer):
        pass
    return trainer
