"""Predict the class of images, clean or under a named attack."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from faal_lab.data import keyed_random
from faal_lab.data.images import Images
from faal_lab.errors import FaalLabError
from faal_lab.methods.pgd import AttackTick, pgd, pgd_until_fooled, start_point
from faal_lab.models import processes
from faal_lab.models.build import frozen

_CHUNK = 250  # images at once; no result depends on it, since noise is drawn per image


class EvaluationError(FaalLabError, ValueError):
    """A model, images or a radius that cannot be evaluated.

    The message states what was expected, and the cure.
    """


@dataclass(frozen=True)
class Attack:
    """A PGD attack as the tables name it.

    It makes `steps` steps of `step_ratio * epsilon` up `loss`, `draws` times from another start.
    """

    loss: str
    steps: int
    step_ratio: float = 0.25
    start: str = "uniform"  # in the ball, or "zero"; "uniform-uncut" may leave the pixel box before the first step
    draws: int = 1
    last: bool = False  # only the last iterate counts, as in most released codes

    def sentence(self) -> str:
        """Describe the attack in one sentence, for a reader of tables."""
        if not self.steps:
            return f"{self.draws} uniform draws from the ball; an image stands if none fools the model"
        start = "from the image" if self.start == "zero" else "from a uniform point of the ball"
        steps = "one step" if self.steps == 1 else f"{self.steps} steps"
        stands = "the last iterate does not fool" if self.last else "no iterate fools"
        return f"{steps} of {self.step_ratio:g} epsilon up the {self.loss}, {start}; an image stands if {stands} the model"


# Steps of epsilon / 4 are the usual 2/255 at an epsilon of 8/255. An image counts as robust if no iterate fooled the model.
PGD_ATTACKS = {
    "noise": Attack("cross-entropy", 0, draws=10),
    "fgsm": Attack("cross-entropy", 1, step_ratio=1.0, start="zero"),
    "pgd-20": Attack("cross-entropy", 20),
    "pgd-100": Attack("cross-entropy", 100, step_ratio=0.1),
    "cw-20": Attack("margin", 20),
}


class Kept(Protocol):
    """Finished chunks of one attack, by number."""

    def done(self) -> Mapping[int, Sequence[int]]:
        """Return the predicted classes of each."""
        ...

    def add(self, number: int, predicted: list[int]) -> None:
        """Keep one."""
        ...


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
    kept: Kept | None = None,
) -> torch.Tensor:
    """Predict the class of each image under `attack` (None: clean): int64 [N] on the images' device.

    `tick` is called between attack steps and chunks; `progress` is called with the number of images that were finished. `kept`
    has finished chunks, and gets those of this call. Several processes share the chunks, and each gets all predictions.
    """
    found, done, failed = torch.zeros_like(images.labels), kept.done() if kept is not None else {}, None
    with frozen(model):
        for number, indices in enumerate(torch.arange(len(images), device=images.labels.device).split(_CHUNK)):
            if number % processes.count() != processes.rank():
                continue
            if tick is not None:
                tick()
            if len(done.get(number, ())) == len(indices):
                found[indices] = torch.tensor(done[number], device=images.labels.device)
            else:
                try:
                    found[indices] = _attacked_chunk(model, images, indices, attack, epsilon, seed, norm, tick)
                except EvaluationError as error:
                    failed = error
                    break
                if kept is not None:
                    kept.add(number, found[indices].tolist())
            if progress is not None:
                progress(len(indices))
    if processes.largest(failed is not None):  # an error of one process is one of all
        raise failed or EvaluationError("Another process of this run met logits that are not finite.")
    processes.total([found])
    return found


def _attacked_chunk(
    model: nn.Module,
    images: Images,
    indices: torch.Tensor,
    attack: Attack | None,
    epsilon: float,
    seed: int,
    norm: str,
    tick: AttackTick | None,
) -> torch.Tensor:
    """Predict the images `indices` [B]; of several draws, keep the first one that fooled the model."""
    pixels, labels = images.batch(indices)
    found = labels.clone()
    for draw in range(attack.draws if attack is not None else 1):
        adv = pixels
        if attack is not None:
            adv = adversarial(model, images, indices, attack, epsilon, seed=seed, norm=norm, draw=draw, tick=tick)
        found = torch.where(found == labels, taken_for(model, adv), found)
    return found


def taken_for(model: nn.Module, images: torch.Tensor, labels: torch.Tensor | None = None, factor: float = 1.0) -> torch.Tensor:
    """Predict the classes [B] of images [B, C, H, W], with the logits of `labels` [B] times a factor.

    Raises EvaluationError if a logit is NaN or infinite: the argmax of NaN is the first class, which would look robust.
    """
    with torch.no_grad():
        logits = finite(model(images))
    if labels is not None:
        logits = logits.scatter(1, labels[:, None], factor * logits.gather(1, labels[:, None]))
    return logits.argmax(1)


def finite(logits: torch.Tensor) -> torch.Tensor:
    """Return the logits; raises EvaluationError if one is NaN or infinite."""
    if not bool(torch.isfinite(logits).all()):
        raise EvaluationError(
            "The model returns logits that are not finite (NaN or infinite), if not on these images then on attacked ones. "
            "Choose another checkpoint, or look for divisions, roots and logarithms in its forward pass."
        )
    return logits


def attacked_logits(
    model: nn.Module, images: Images, attack: Attack, epsilon: float, *, seed: int, norm: str = "linf",
    tick: AttackTick | None = None, progress: Callable[[int], None] | None = None,
) -> torch.Tensor:  # fmt: skip
    """Attack each image once, and return its logits at three points of the ball: [3, N, C].

    The first is the point by which `predictions` judges the image. An image that fools the model stops there, at the edge; the
    second point is as many steps further up. The third is the image itself.
    """
    found, step = [], attack.step_ratio * epsilon
    with frozen(model):
        for indices in torch.arange(len(images), device=images.labels.device).split(_CHUNK):
            pixels, labels = images.batch(indices)
            adv = adversarial(model, images, indices, attack, epsilon, seed=seed, norm=norm, tick=tick)
            wrong, further = taken_for(model, adv) != labels, adv.clone()
            if bool(wrong.any()):
                further[wrong] = pgd(
                    model, pixels[wrong], labels[wrong], radius=epsilon, step=step, steps=attack.steps, loss=attack.loss,
                    start=adv[wrong], norm=norm, tick=tick,
                )  # fmt: skip
            with torch.no_grad():
                found.append(torch.stack([finite(model(points)) for points in (adv, further, pixels)]))
            if progress is not None:
                progress(len(indices))
    return torch.cat(found, 1)


def adversarial(
    model: nn.Module,
    images: Images,
    indices: torch.Tensor,
    attack: Attack,
    epsilon: float,
    *,
    seed: int,
    norm: str = "linf",
    draw: int = 0,
    tick: AttackTick | None = None,
) -> torch.Tensor:
    """Attack the images `indices` [B] with one draw of `attack`: [B, C, H, W].

    An image stands still once it has fooled the model, unless only the last iterate counts.
    """
    pixels, labels = images.batch(indices)
    noise = None
    if attack.start != "zero":
        noise = keyed_random.uniform(seed, draw, indices, keyed_random.EVALUATION_START, tuple(pixels.shape[1:]))
    climb = pgd if attack.last else pgd_until_fooled
    return climb(
        model, pixels, labels, radius=epsilon, step=attack.step_ratio * epsilon, steps=attack.steps, loss=attack.loss,
        start=start_point(pixels, epsilon, noise, attack.start, norm), norm=norm, tick=tick,
    )  # fmt: skip


def survivors(model: nn.Module, images: Images, attack: Attack | None, epsilon: float, **options: Any) -> torch.Tensor:
    """Return which images are classified correctly under `attack`: bool [N].

    Arguments as of `predictions`.
    """
    return predictions(model, images, attack, epsilon, **options) == images.labels


def count_by_class(verdicts: torch.Tensor, labels: torch.Tensor, num_classes: int) -> list[int]:
    """Count the images of each class that are True in `verdicts` [N]."""
    return torch.bincount(labels[verdicts], minlength=num_classes).tolist()
