"""Class-wise accuracy of a model under a named attack: which images survive.

Knows: models, images, attacks of a stated strength. Must not know: training, runs, tables.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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


def survivors(
    model: nn.Module,
    images: Images,
    attack: Attack | None,
    epsilon: float,
    *,
    seed: int,
    tick: AttackTick | None = None,
    progress: Callable[[int], None] | None = None,
) -> torch.Tensor:
    """Which images are classified correctly under `attack` (None: clean): bool [N] on the images' device.

    `tick` is called between attack steps and chunks; `progress` is told how many images were finished.
    """
    verdicts = []
    with frozen(model):
        for indices in torch.arange(len(images), device=images.labels.device).split(_CHUNK):
            if tick is not None:
                tick()
            pixels, labels = images.batch(indices)
            if attack is not None:
                noise = keyed_random.uniform(seed, 0, indices, keyed_random.EVALUATION_START, tuple(pixels.shape[1:]))
                pixels = pgd(
                    model, pixels, labels, radius=epsilon, step=attack.step_ratio * epsilon, steps=attack.steps,
                    loss=attack.loss, start=start_point(pixels, epsilon, noise), keep_fooled=True, tick=tick,
                )  # fmt: skip
            with torch.no_grad():
                verdicts.append(model(pixels).argmax(1) == labels)
            if progress is not None:
                progress(len(indices))
    return torch.cat(verdicts)


def count_by_class(verdicts: torch.Tensor, labels: torch.Tensor, num_classes: int) -> list[int]:
    """How many images of each class are True in `verdicts`."""
    return torch.bincount(labels[verdicts], minlength=num_classes).tolist()
