"""Class-wise accuracy of a model under a named attack: which images survive.

Knows: models, images, attacks of a stated strength. Must not know: training, runs, tables.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from faal_lab import keyed_random
from faal_lab.adversary import AttackTick, frozen, pgd, start_point
from faal_lab.data import Images

_CHUNK = 250  # images at once; no result depends on it, since noise is drawn per image


@dataclass(frozen=True)
class Attack:
    """A PGD attack as the tables name it: `steps` of `loss` at `step_ratio * epsilon`, from a uniform start."""

    loss: str
    steps: int
    step_ratio: float = 0.25


# Steps of epsilon / 4 are the field's 2/255 for 8/255. An image counts as robust if no iterate fooled the model.
PGD_ATTACKS = {"pgd-20": Attack("cross-entropy", 20), "cw-20": Attack("margin", 20)}


def predictions(
    model: nn.Module,
    images: Images,
    attack: Attack | None,
    epsilon: float,
    *,
    seed: int,
    norm: str = "linf",
    tick: AttackTick | None = None,
    progress: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """What the model takes each image for under `attack` (None: clean): int64 [N] on the images' device.

    `tick` is called between attack steps and chunks; `progress` is told how many images were finished.
    """
    found = [images.labels[:0]]
    with frozen(model):
        for indices in torch.arange(len(images), device=images.labels.device).split(_CHUNK):
            if tick is not None:
                tick()
            pixels, labels = images.batch(indices)
            if attack is not None:
                noise = keyed_random.uniform(seed, 0, indices, keyed_random.EVALUATION_START, tuple(pixels.shape[1:]))
                pixels = pgd(
                    model, pixels, labels, radius=epsilon, step=attack.step_ratio * epsilon, steps=attack.steps, loss=attack.loss,
                    start=start_point(pixels, epsilon, noise, norm=norm), norm=norm, keep_fooled=True, tick=tick,
                )  # fmt: skip
            with torch.no_grad():
                found.append(model(pixels).argmax(1))
            if progress is not None:
                progress(len(indices))
    return torch.cat(found)


def survivors(model: nn.Module, images: Images, attack: Attack | None, epsilon: float, **options: Any) -> torch.Tensor:
    """Which images are classified correctly under `attack`: bool [N]; arguments as of `predictions`."""
    return predictions(model, images, attack, epsilon, **options) == images.labels


def count_by_class(verdicts: torch.Tensor, labels: torch.Tensor, num_classes: int) -> list[int]:
    """How many images of each class are True in `verdicts`."""
    return torch.bincount(labels[verdicts], minlength=num_classes).tolist()
