"""pyautoattack's four attacks, one call a batch, with upstream's noise or with noise drawn per image.

Knows: the names that upstream's attacks have inside; they are used nowhere else, and a test holds them.
Must not know: which images are left, what was finished before. Source: Croce and Hein, ICML 2020.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from faal_lab import keyed_random

_NORMS: dict[str, Any] = {"linf": "Linf", "l2": "L2"}


class _Counted(nn.Module):
    """Counts images that pass through a model, which is all that upstream lets one see of its progress."""

    def __init__(self, model: nn.Module, seen: Callable[[int], None]) -> None:
        super().__init__()
        self.model, self.seen = model, seen

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen(len(images))
        return self.model(images)


class Upstream:
    """The attacks of AutoAttack-standard. `compat` draws as upstream does, by a seed set before each batch.

    `per-image` draws the starting points as a function of seed and pixels: no verdict then depends on the batch an image is
    in, up to the rounding of a batched forward pass. Square's windows are the same for all images in upstream, too.
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
            warnings.simplefilter("ignore")  # upstream's own hints; what they hint at is checked from verdicts
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
        """Attack a batch: images [B, C, H, W]. The global random state is left alone."""
        attack = self._attacks[name]
        attack.seed = self._seed
        self._calls = 0
        devices = [images.device] if images.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return attack.perturb(images.clone(), labels.clone()).detach()

    def _noise(self, images: torch.Tensor, shape: tuple[int, ...], normal: bool = False) -> torch.Tensor:
        """Numbers [B, *shape] that depend on seed, pixels and how many draws the batch has seen."""
        draw = keyed_random.normal if normal else keyed_random.uniform
        self._calls += 1
        return draw(self._seed, self._calls, content_keys(images), keyed_random.EVALUATION_START, shape)

    def _start_by_pixels(self, attack: Any) -> None:
        """Hand APGD its starting points, which it takes as an argument."""
        plain = attack.attack_single_run

        def run(images: torch.Tensor, labels: torch.Tensor, x_init: torch.Tensor | None = None) -> Any:
            noise = self._noise(images, tuple(images.shape[1:]), attack.norm == "L2")
            way = attack.normalize(noise if attack.norm == "L2" else 2 * noise - 1)
            return plain(images, labels, x_init=images + attack.eps * way)

        attack.attack_single_run = run

    def _draw_by_pixels(self, square: Any, norm: str) -> None:
        """Square's signs: a row an image. In L2 upstream asks for rows of images that are left: there one row serves all."""
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


def too_small_for_square(pixels: torch.Tensor, norm: str) -> bool:
    """Whether upstream's Square cannot begin: in L2 it tiles images [N, C, H, W] by fifths of their height."""
    return norm == "l2" and pixels.shape[2] < 5


def content_keys(images: torch.Tensor) -> torch.Tensor:
    """A 64-bit hash of each image's pixels (to 1/65535): int64 [B], on any device the same."""
    levels = (images.flatten(1).double() * 65535).round().long()
    place = keyed_random.mixed(torch.arange(1, levels.shape[1] + 1, device=images.device))
    return (levels * (2 * place + 1)).sum(1) & 0x7FFFFFFFFFFFFFF
