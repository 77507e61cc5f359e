"""AutoAttack-standard through the package pyautoattack, on the whole set at once.

Knows: how upstream wants to be called. Must not know: what the verdicts are for.
The four attacks run one after the other on whoever is left, as upstream's own loop does; running them one call each
gives the same verdicts and lets the progress be shown. Source: Croce and Hein, ICML 2020.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from faal_lab.adversary import frozen

# Forward passes an image costs at most, for the progress bar: 9 targets, 100 iterations, 5,000 queries.
_FORWARDS = {"apgd-ce": 100, "apgd-t": 900, "fab-t": 1800, "square": 5000}
_BATCH = 500
_NORMS: dict[str, Any] = {"linf": "Linf", "l2": "L2"}  # ours -> upstream's

Progress = Callable[[str, float, int], None]  # attack, share of all work done in [0, 1], images still robust


class _Counted(nn.Module):
    """Counts images that pass through a model, which is all that upstream lets one see of its progress."""

    def __init__(self, model: nn.Module, seen: Callable[[int], None]) -> None:
        super().__init__()
        self.model, self.seen = model, seen

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen(len(images))
        return self.model(images)


def attacks_for(num_classes: int) -> list[str]:
    """Which of the four attacks make sense: the targeted DLR loss compares four logits."""
    return [a for a in _FORWARDS if a != "apgd-t" or num_classes >= 4]


def autoattack_note(num_classes: int) -> str | None:
    """In one line what is left of the targeted attacks with fewer than four classes; None where nothing is missing.

    The other attacks and FAAL's class score need no more than two classes.
    """
    if num_classes >= 4:
        return None
    others = "the one other class" if num_classes == 2 else f"{num_classes - 1} other classes"
    left = f"APGD-CE, FAB-T (at {others}) and Square; not APGD-T, whose loss compares four logits"
    margin = " With two classes a margin is the difference of two probabilities." if num_classes == 2 else ""
    return f"AutoAttack on {num_classes} classes is {left}.{margin}"


def autoattack(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    epsilon: float,
    seed: int,
    num_classes: int,
    norm: str = "linf",
    progress: Progress | None = None,
    queries: int = 5000,
) -> dict[str, torch.Tensor]:
    """Who survives: bool [N] after each attack of AutoAttack-standard, cumulative; the last one is the verdict.

    `images` [N, C, H, W] in [0, 1] are handed over whole. Targeted attacks aim at up to nine other classes. Raises
    ImportError where pyautoattack is missing.
    """
    try:
        from pyautoattack import AutoAttack
    except ImportError as error:
        raise ImportError("AutoAttack needs the package pyautoattack: pip install pyautoattack") from error
    logging.getLogger("auto-attack").setLevel(logging.ERROR)
    names = attacks_for(num_classes)
    meter = _Meter(names, progress)
    left = torch.ones(len(labels), dtype=torch.bool, device=labels.device)
    after: dict[str, torch.Tensor] = {}
    with frozen(model), torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # upstream's own hints; what they hint at is checked from verdicts
        attack = AutoAttack(_Counted(model, meter.seen), norm=_NORMS[norm], eps=epsilon, seed=seed, device=images.device)
        attack.verbose = False
        targets = min(9, num_classes - 1)
        attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = targets
        attack.square.n_queries = queries
        for name in names:
            index = left.nonzero().flatten()
            meter.begin(name, len(index))
            if len(index):
                attack.attacks_to_run = [name]
                found, _ = attack.run_standard_evaluation(images[index], labels[index], batch_size=_BATCH)
                left[index] = _correct(model, found, labels[index])
            after[name] = left.clone()
    return after


def _correct(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([model(x).argmax(1) for x in images.split(_BATCH)]) == labels


class _Meter:
    """Turns images seen into a share of the work, attack by attack, weighted by what each costs at most."""

    def __init__(self, names: list[str], progress: Progress | None) -> None:
        self.total = sum(_FORWARDS[n] for n in names)
        self.names, self.progress = names, progress
        self.before, self.name, self.left, self.passed = 0, names[0], 0, 0

    def begin(self, name: str, left: int) -> None:
        self.before = sum(_FORWARDS[n] for n in self.names[: self.names.index(name)])
        self.name, self.left, self.passed = name, left, 0
        self.seen(0)

    def seen(self, images: int) -> None:
        self.passed += images
        if self.progress is not None:
            share = min(1.0, self.passed / max(1, self.left * _FORWARDS[self.name]))
            self.progress(self.name, (self.before + share * _FORWARDS[self.name]) / self.total, self.left)
