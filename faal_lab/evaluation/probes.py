"""Probe a few images of each class: predictions at growing radii, and adversarial images.

`hardest` shows validation images of the worst class, by a run's latest checkpoint. It is computed in the calling process, never
in the run, and opens no test image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from faal_lab.data.images import Images
from faal_lab.errors import RunFolderError
from faal_lab.evaluation.verdicts import Examples, RadiusCurve, Verdicts
from faal_lab.methods.predict import PGD_ATTACKS, adversarial, predictions
from faal_lab.models.build import frozen
from faal_lab.runs import RunFolder
from faal_lab.runs.events import EpochDone
from faal_lab.training.restore import load_model
from faal_lab.training.run import load_data

IMAGES_A_CLASS = 20  # for the checks and curves; all of them cost about as much as PGD-100 twice on these images
_FACTORS = (0.25, 0.5, 1.0, 1.5, 2.0, 4.0)  # times the radius of the evaluation
_SHOWN = 10  # images in the strip


def chosen(labels: np.ndarray, num_classes: int, count: int = IMAGES_A_CLASS) -> np.ndarray:
    """Return the indices [M] of the first `count` images of each class, class after class."""
    return np.concatenate([np.flatnonzero(labels == c)[:count] for c in range(num_classes)])


def whole_box(shape: torch.Size, norm: str) -> float:
    """Return the radius at which any image of a shape [N, channels, H, W] can become any other one."""
    return 1.0 if norm == "linf" else math.sqrt(shape[1:].numel())


def radius_curve(model: nn.Module, images: Images, num_classes: int, *, epsilon: float, norm: str, seed: int) -> RadiusCurve:
    """Predict the first images of each class under PGD-20, at radii from 0 to the whole box."""
    indices = chosen(images.labels.cpu().numpy(), num_classes)
    some = images.part(torch.from_numpy(indices).to(images.labels.device))
    whole = whole_box(images.pixels.shape, norm)
    radii = sorted({0.0, whole, *(f * epsilon for f in _FACTORS if f * epsilon < whole)})
    found = [
        predictions(model, some, PGD_ATTACKS["pgd-20"] if radius else None, radius, seed=seed, norm=norm).cpu().numpy()
        for radius in radii
    ]
    return RadiusCurve(indices, np.array(radii), np.stack(found))


def adversarial_examples(
    model: nn.Module, images: Images, verdicts: Verdicts, *, epsilon: float, norm: str, seed: int
) -> Examples:
    """Attack one image of each class by PGD; return it before and after, with the probabilities.

    The attack is the last PGD attack evaluated, else PGD-20. The classes are up to ten, those with the lowest accuracy under the
    last attack. The image is the first of its class on which this PGD attack fooled the model, else the first.
    """
    attack = next((name for name in reversed(list(verdicts.survived)) if name in PGD_ATTACKS), "pgd-20")
    last = list(verdicts.survived)[-1]
    right, total = verdicts.counts(last)
    held = np.flatnonzero(total)
    order = held[np.argsort(right[held] / total[held], kind="stable")][:_SHOWN]
    clean = verdicts.survived.get("clean", np.ones(len(verdicts.labels), dtype=bool))
    fooled = clean & ~verdicts.survived[attack] if attack in verdicts.survived else clean
    indices = []
    for c in sorted(order.tolist()):
        mine = np.flatnonzero(verdicts.labels == c)
        indices.append(next((int(i) for i in mine if fooled[i]), int(mine[0])))
    where = torch.tensor(indices, device=images.labels.device)
    pixels, _ = images.batch(where)
    with frozen(model):
        adv = adversarial(model, images, where, PGD_ATTACKS[attack], epsilon, seed=seed, norm=norm)
        with torch.no_grad():
            beliefs = [model(x).softmax(1).float().cpu().numpy() for x in (pixels, adv)]
    return Examples(attack, np.array(indices), pixels.cpu().numpy(), adv.cpu().numpy(), *beliefs)


ATTACK = "pgd-20"


@dataclass(frozen=True)
class Hardest:
    """A class, its accuracy, and some of its images."""

    index: int
    name: str
    accuracy: float  # on its validation images under PGD after the last epoch, in [0, 1]; nan without any
    examples: Examples
    class_names: tuple[str, ...]


def hardest(run_folder: str | Path, count: int = 6, of_class: int | None = None, model: nn.Module | None = None) -> Hardest:
    """Attack the first `count` validation images of a class by PGD-20.

    A run without validation images gives training images. The class is `of_class`, or the one with the lowest PGD accuracy on
    validation after the last epoch. `model` is for a run whose network was passed as an object. Raises RunFolderError where no
    epoch has ended, and the errors of `load_model`.
    """
    folder = RunFolder.open(run_folder)
    epochs = [e for e in folder.events() if isinstance(e, EpochDone)]
    if not epochs:
        raise RunFolderError(f"{run_folder} has not ended an epoch yet: there is no checkpoint to look at.")
    robust, images = np.array(epochs[-1].robust_correct, dtype=float), np.array(epochs[-1].count, dtype=float)
    shares = np.divide(robust, images, out=np.full(len(images), np.nan), where=images > 0)
    index = of_class if of_class is not None else int(np.nanargmin(shares)) if (images > 0).any() else 0
    model, config, _ = load_model(folder.path, "last", model)
    splits = load_data(config)
    pool = splits.validation if len(splits.validation) else splits.train
    where = (pool.labels == index).nonzero().flatten()[:count]
    pixels, _ = pool.batch(where)
    with frozen(model):
        adv = adversarial(model, pool, where, PGD_ATTACKS[ATTACK], config.epsilon, seed=config.seed, norm=config.norm)
        with torch.no_grad():
            beliefs = [model(x).softmax(1).numpy() for x in (pixels, adv)]
    shown = Examples(ATTACK, where.numpy(), pixels.numpy(), adv.numpy(), *beliefs)
    return Hardest(index, splits.class_names[index], float(shares[index]), shown, splits.class_names)
