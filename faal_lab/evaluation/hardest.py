"""Show validation images of the worst class before and under attack, by a run's latest checkpoint.

Everything is computed in the calling process, never in the run. The test images stay closed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from faal_lab.errors import RunFolderError
from faal_lab.evaluation.verdicts import Examples
from faal_lab.methods.predict import PGD_ATTACKS, adversarial
from faal_lab.models.build import frozen
from faal_lab.runs import RunFolder
from faal_lab.runs.events import EpochDone
from faal_lab.training.restore import load_model
from faal_lab.training.run import load_data

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
