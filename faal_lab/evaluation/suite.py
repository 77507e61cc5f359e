"""The attack suite: a list of names becomes per-image verdicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from faal_lab.data import Images
from faal_lab.evaluation.attacks import PGD_ATTACKS, survivors
from faal_lab.evaluation.autoattack import autoattack, autoattack_note
from faal_lab.evaluation.verdicts import Verdicts
from faal_lab.names import check_name

ATTACKS = ("clean", *PGD_ATTACKS, "autoattack")
# Forward-equivalents an image costs, for the share of work done: PGD steps are 2 each; AutoAttack's is upstream's worst case.
_COST = {"clean": 1, "autoattack": 4451} | {name: 2 * attack.steps for name, attack in PGD_ATTACKS.items()}

Progress = Callable[[str, float], None]  # what is being done, share of all work done in [0, 1]


def evaluate(
    model: nn.Module,
    images: Images,
    class_names: tuple[str, ...],
    *,
    epsilon: float,
    norm: str = "linf",
    attacks: tuple[str, ...] = ATTACKS,
    seed: int = 0,
    header: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> Verdicts:
    """Attack every image with every attack of `attacks` (names in ATTACKS) in the `norm` ball of radius `epsilon`.

    The model takes pixels in [0, 1]; it is evaluated in evaluation mode and float32. Raises UnknownName.
    """
    if not attacks:
        raise ValueError(f"No attack named; known: {', '.join(ATTACKS)}.")
    for name in attacks:
        check_name("attack", name, ATTACKS)
    total, before = sum(_COST[name] for name in attacks), 0
    found: dict[str, torch.Tensor] = {}
    for name in attacks:
        tell = _part(progress, before / total, _COST[name] / total)
        if name == "autoattack":
            found[name] = _autoattack(model, images, len(class_names), epsilon, norm, seed, tell)
        else:
            found[name] = _pgd(model, images, name, epsilon, norm, seed, tell)
        before += _COST[name]
    survived = {name: flags.cpu().numpy() for name, flags in found.items()}
    about = {"epsilon": epsilon, "norm": norm, "seed": seed, "precision": "float32", **(header or {})}
    if "autoattack" in attacks and (note := autoattack_note(len(class_names))):
        about["note"] = note
    return Verdicts(images.labels.cpu().numpy().astype(np.int64), survived, class_names, about)


def _part(progress: Progress | None, start: float, width: float) -> Progress:
    """`progress` for one attack, whose own share fills `width` of the whole from `start`."""

    def tell(what: str, share: float) -> None:
        if progress is not None:
            progress(what, start + width * share)

    return tell


def _pgd(model: nn.Module, images: Images, name: str, epsilon: float, norm: str, seed: int, tell: Progress) -> torch.Tensor:
    done = 0

    def finished(count: int) -> None:
        nonlocal done
        done += count
        tell(name, done / len(images))

    return survivors(model, images, PGD_ATTACKS.get(name), epsilon, seed=seed, norm=norm, progress=finished)


def _autoattack(
    model: nn.Module, images: Images, num_classes: int, epsilon: float, norm: str, seed: int, tell: Progress
) -> torch.Tensor:
    pixels, labels = images.all()

    def finished(name: str, share: float, left: int) -> None:
        tell(f"autoattack: {name}, {left} still robust", share)

    after = autoattack(model, pixels, labels, epsilon=epsilon, norm=norm, seed=seed, num_classes=num_classes, progress=finished)
    return list(after.values())[-1]
