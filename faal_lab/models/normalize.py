"""Normalise in a layer: known channel statistics, and the frame that puts them before a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import nn

from faal_lab.errors import RecipeError

Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation, one entry per channel

_CIFAR: Statistics = ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))  # CIFAR-10's training images, as in Rice et al.


class QuickPasses(NamedTuple):
    """A network's forward pass, compiled for one batch size, `images`.

    0 means any size of 16 or more.
    """

    call: Callable[[torch.Tensor], torch.Tensor]
    images: int

    def take(self, images: torch.Tensor) -> bool:
        """Return whether the pass was compiled for batches like this one.

        Batches under 16 images use other convolutions, and would be compiled again.
        """
        return len(images) == self.images if self.images else len(images) >= 16


class Normalize(nn.Module):
    """(images - mean) / std per channel. Both are buffers, so they travel with the weights."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalise images [B, C, H, W] in [0, 1]."""
        return (images - self.mean) / self.std


class Normalized(nn.Module):
    """A network behind its normalisation.

    The two are separate attributes, so foreign weights load into `network` unchanged.
    """

    reduced = False  # set only by `in_bfloat16`
    quick: QuickPasses | None = None  # set only by `compiled`

    def __init__(self, normalize: Normalize, network: nn.Module) -> None:
        super().__init__()
        self.normalize = normalize
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images [B, channels, H, W] in [0, 1] to logits [B, num_classes]."""
        call = self.quick.call if self.quick is not None and self.quick.take(images) else self.plain
        if not self.reduced:
            return call(images)
        with torch.autocast(images.device.type, torch.bfloat16):
            return call(images).float()

    def plain(self, images: torch.Tensor) -> torch.Tensor:
        """Do the same uncompiled, in the current precision."""
        return self.network(self.normalize(images))


def statistics(name: str, channels: int, of_data: Statistics) -> Statistics:
    """Return mean and standard deviation per channel of the normalisation `name`.

    They are `of_data`, those of no normalisation, or CIFAR-10's. Raises RecipeError for the wrong number of channels.
    """
    if name == "data":
        return of_data
    if name == "none":
        return (0.0,) * channels, (1.0,) * channels
    if channels != len(_CIFAR[0]):
        raise RecipeError(f"cifar is for images of 3 channels, these have {channels}. Use data or none.")
    return _CIFAR
