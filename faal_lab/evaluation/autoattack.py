"""Run AutoAttack-standard so that it can be killed, resumed and divided over processes.

Source: Croce and Hein, ICML 2020. The four attacks are those of pyautoattack ("upstream"), called once per batch, with upstream's
noise or with noise drawn per image. Only this file uses names inside upstream's attacks, and a test checks them.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from faal_lab.data import keyed_random
from faal_lab.data.images import Scaled
from faal_lab.evaluation.verdicts import Journal
from faal_lab.methods.predict import taken_for
from faal_lab.models.build import frozen

_NORMS: dict[str, Any] = {"linf": "Linf", "l2": "L2"}


class _Counted(nn.Module):
    """Count the images that pass through a model; upstream offers no other sign of progress."""

    def __init__(self, model: nn.Module, seen: Callable[[int], None]) -> None:
        super().__init__()
        self.model, self.seen = model, seen

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen(len(images))
        return self.model(images)


class Upstream:
    """The attacks of AutoAttack-standard, with upstream's noise or noise drawn per image.

    `mode` "compat" draws as upstream does, by a seed set before each batch. "per-image" draws starting points as a function of
    seed and pixels: no verdict then depends on the batch, up to rounding in a batched forward pass. Square's windows are the same
    for all images, as they are upstream.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        epsilon: float,
        norm: str,
        seed: int,
        num_classes: int,
        device: torch.device,
        mode: str,
        queries: int,
        seen: Callable[[int], None],
    ) -> None:
        try:
            from pyautoattack import AutoAttack
        except ImportError as error:
            raise ImportError("AutoAttack needs the package pyautoattack: pip install pyautoattack") from error
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # upstream's hints; we check the same signs from verdicts
            whole = AutoAttack(_Counted(model, seen), norm=_NORMS[norm], eps=epsilon, seed=seed, device=device)
        targets = min(9, num_classes - 1)
        whole.apgd_targeted.n_target_classes = whole.fab.n_target_classes = targets
        whole.square.n_queries = queries
        whole.apgd.loss, whole.fab.targeted, whole.fab.n_restarts = "ce", True, 1
        self._attacks: dict[str, Any] = {
            "apgd-ce": whole.apgd, "apgd-t": whole.apgd_targeted, "fab-t": whole.fab, "square": whole.square,
        }  # fmt: skip
        self._seed = seed
        if mode == "per-image":
            for name in ("apgd-ce", "apgd-t"):
                self._start_by_pixels(self._attacks[name])
            self._draw_by_pixels(whole.square, norm)

    def perturb(self, name: str, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Attack a batch of images [B, C, H, W]. The global random state stays as it is."""
        attack = self._attacks[name]
        attack.seed = self._seed
        self._calls = 0
        devices = [images.device] if images.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return attack.perturb(images.clone(), labels.clone()).detach()

    def _noise(self, images: torch.Tensor, shape: tuple[int, ...], normal: bool = False) -> torch.Tensor:
        """Draw numbers [B, *shape] from the seed, the pixels and the number of draws for this batch."""
        draw = keyed_random.normal if normal else keyed_random.uniform
        self._calls += 1
        return draw(self._seed, self._calls, content_keys(images), keyed_random.EVALUATION_START, shape)

    def _start_by_pixels(self, attack: Any) -> None:
        """Pass APGD its starting points as an argument."""
        plain = attack.attack_single_run

        def run(images: torch.Tensor, labels: torch.Tensor, x_init: torch.Tensor | None = None) -> Any:
            noise = self._noise(images, tuple(images.shape[1:]), attack.norm == "L2")
            way = attack.normalize(noise if attack.norm == "L2" else 2 * noise - 1)
            return plain(images, labels, x_init=images + attack.eps * way)

        attack.attack_single_run = run

    def _draw_by_pixels(self, square: Any, norm: str) -> None:
        """Draw Square's signs per image. In L2, upstream draws for the images left: draw one row for all."""
        plain_run, plain_choice, current = square.attack_single_run, square.random_choice, {}

        def run(images: torch.Tensor, labels: torch.Tensor) -> Any:
            current["images"] = images
            return plain_run(images, labels)

        def choice(shape: list[int]) -> torch.Tensor:
            if len(shape) == 3:
                return plain_choice(shape)
            if norm == "linf":
                return torch.sign(2 * self._noise(current["images"], tuple(shape[1:])) - 1)
            return plain_choice([1, *shape[1:]]).expand(shape)

        square.attack_single_run, square.random_choice = run, choice


def too_small_for_square(shape: torch.Size, norm: str) -> bool:
    """Return whether Square cannot run on images of a shape [N, C, H, W]: in L2 it tiles them by fifths of their height."""
    return norm == "l2" and shape[2] < 5


def content_keys(images: torch.Tensor) -> torch.Tensor:
    """Hash the pixels of each image (to 1/65535) to int64 [B], the same on every device."""
    levels = (images.flatten(1).double() * 65535).round().long()
    place = keyed_random.mixed(torch.arange(1, levels.shape[1] + 1, device=images.device))
    return (levels * (2 * place + 1)).sum(1) & 0x7FFFFFFFFFFFFFF


# The most forward passes per image, for the progress bar: 9 targets, 100 iterations, 5,000 queries.
FORWARDS = {"apgd-ce": 100, "apgd-t": 900, "fab-t": 1800, "square": 5000}
PATIENCE = 120.0  # seconds without a batch of the other parts, from which on theirs are computed here
_WAIT = 0.5  # seconds between two reads of the other parts' results
_TELL = 0.1  # seconds between two reports within a batch: a report at every pass cost a small network 4 % of its time

Progress = Callable[[str, float, int], None]  # attack, share of all work done in [0, 1], images still robust


def attacks_for(num_classes: int) -> list[str]:
    """Return the attacks that `num_classes` allow: the targeted DLR loss of APGD-T needs four logits."""
    return [a for a in FORWARDS if a != "apgd-t" or num_classes >= 4]


def autoattack_note(num_classes: int) -> str | None:
    """Describe AutoAttack on fewer than ten classes in one line; None for ten or more.

    Nine targets need ten classes, and APGD-T needs four. The other attacks and FAAL's class score need no more than two.
    """
    if num_classes >= 10:
        return None
    if num_classes >= 4:
        return f"AutoAttack on {num_classes} classes: APGD-T and FAB-T aim at the {num_classes - 1} others, not at nine."
    others = "the one other class" if num_classes == 2 else f"{num_classes - 1} other classes"
    left = f"APGD-CE, FAB-T (at {others}) and Square; not APGD-T, whose loss compares four logits"
    margin = " With two classes a margin is the difference of two probabilities." if num_classes == 2 else ""
    return f"AutoAttack on {num_classes} classes is {left}.{margin}"


def autoattack(
    model: nn.Module,
    images: torch.Tensor | Scaled,
    labels: torch.Tensor,
    *,
    epsilon: float,
    seed: int,
    num_classes: int,
    norm: str = "linf",
    attacks: tuple[str, ...] = (),
    mode: str = "per-image",
    batch_size: int = 500,
    journal: Journal | None = None,
    part: int = 0,
    parts: int = 1,
    progress: Progress | None = None,
    queries: int = 5000,
) -> dict[str, torch.Tensor]:
    """Attack images [N, C, H, W] in [0, 1]; return the predictions int64 [N] after each attack.

    The predictions are cumulative; the last ones are the verdict. `attacks` (empty: all that make sense) run in their order, each
    on the survivors. `mode` is "per-image", or "compat" for upstream's own chunks of `batch_size` and seeds. Batches in the
    `journal` are not computed again. Of the others, this process computes those whose number is `part` modulo `parts`, and waits
    for the rest, as long as they come. Raises ImportError without pyautoattack.
    """
    names = [a for a in attacks_for(num_classes) if not attacks or a in attacks]
    journal = journal or Journal(None, {})
    meter = _Meter(names, progress)
    after: dict[str, torch.Tensor] = {}
    with frozen(model):
        if (
            "clean",
            0,
        ) not in journal.done():  # another GPU may round differently: the first pass alone decides the batches
            journal.add("clean", 0, _predicted(model, images, batch_size).tolist())
        predicted = torch.tensor(journal.done()["clean", 0], device=images.device)
        upstream = Upstream(
            model, epsilon=epsilon, norm=norm, seed=seed, num_classes=num_classes, device=images.device, mode=mode,
            queries=queries, seen=meter.seen,
        )  # fmt: skip
        for name in names:
            left = (predicted == labels).nonzero().flatten()
            batches = left.split(batch_size) if len(left) else ()
            meter.begin(name, len(left))

            def make(number: int, name: str = name, batches: tuple[torch.Tensor, ...] = tuple(batches)) -> None:
                index = batches[number]
                found = _predicted(model, upstream.perturb(name, images[index], labels[index]), batch_size)
                journal.add(name, number, found.tolist())

            _finish(journal, name, [len(b) for b in batches], make, meter, part, parts)
            for number, index in enumerate(batches):
                predicted[index] = torch.tensor(journal.done()[name, number], device=predicted.device)
            after[name] = predicted.clone()
    return after


def _finish(
    journal: Journal, name: str, sizes: list[int], make: Callable[[int], None], meter: _Meter, part: int, parts: int
) -> None:
    """Compute this part's batches of an attack that are not in the journal, and wait for the other parts.

    Where these are silent for longer than they should need, their batches are computed here, too: the verdicts are the same.
    """
    slowest = 0.0
    for number, size in enumerate(sizes):
        if (name, number) not in journal.done():
            if number % parts != part:
                continue
            meter.size, begun = size, time.monotonic()
            make(number)
            slowest = max(slowest, time.monotonic() - begun)
        meter.finished(size)
    left, since = len(sizes) + 1, 0.0
    while missing := [n for n in range(len(sizes)) if (name, n) not in journal.done()]:
        if len(missing) < left:
            left, since = len(missing), time.monotonic()
        if time.monotonic() - since > max(PATIENCE, 5 * slowest):
            meter.instead(missing[0] % parts)
            make(missing[0])
            left -= 1
            continue
        meter.waiting(sorted({n % parts for n in missing}))
        time.sleep(_WAIT)


def _predicted(model: nn.Module, images: torch.Tensor | Scaled, batch_size: int) -> torch.Tensor:
    return torch.cat([taken_for(model, x) for x in images.split(batch_size)])


class _Meter:
    """Convert images seen to a share of the work, with each attack weighted by its highest cost."""

    def __init__(self, names: list[str], progress: Progress | None) -> None:
        self.total = sum(FORWARDS[n] for n in names)
        self.names, self.progress = names, progress
        self.before, self.name, self.left, self.done, self.passed, self.size = 0, "", 0, 0, 0.0, 0
        self.told = 0.0  # time of the last report by `seen`

    def begin(self, name: str, left: int) -> None:
        self.before = sum(FORWARDS[n] for n in self.names[: self.names.index(name)])
        self.name, self.left, self.done, self.passed = name, left, 0, 0.0
        self._tell(name)

    def seen(self, images: int) -> None:
        self.passed += images / FORWARDS.get(self.name, 1)
        if (now := time.monotonic()) - self.told >= _TELL:
            self.told = now
            self._tell(self.name)

    def finished(self, images: int) -> None:
        self.done, self.passed = self.done + images, 0.0
        self._tell(self.name)

    def waiting(self, parts: list[int]) -> None:
        numbers = " and ".join(str(p + 1) for p in parts)
        self._tell(f"{self.name}: waiting for part {numbers}")

    def instead(self, part: int) -> None:
        self._tell(f"{self.name}: part {part + 1} is silent, making its images here")

    def _tell(self, what: str) -> None:
        if self.progress is not None and self.name:
            share = (self.done + min(self.passed, self.size)) / max(1, self.left)  # a batch may need more passes than estimated
            self.progress(what, (self.before + share * FORWARDS[self.name]) / self.total, self.left)
