"""Normalise as a layer: the known channel statistics, and the frame that puts them before a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import nn

Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation, one entry a channel

_CIFAR: Statistics = ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))  # Rice et al.'s, of CIFAR-10's training images


class QuickPasses(NamedTuple):
    """A network's forward pass, compiled for batches of so many images, or (0) of any number worth it."""

    call: Callable[[torch.Tensor], torch.Tensor]
    images: int

    def take(self, images: torch.Tensor) -> bool:
        """Whether it was compiled for batches like this one; ones under 16 images are convolved otherwise, and would be anew."""
        return len(images) == self.images if self.images else len(images) >= 16


class Normalize(nn.Module):
    """(images - mean) / std per channel; the two are buffers, so they travel with the weights."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, C, H, W] in [0, 1] to normalised images."""
        return (images - self.mean) / self.std


class Normalized(nn.Module):
    """A network behind its normalisation. The two lie side by side, so that foreign weights go into `network` as they are."""

    reduced = False  # set by `in_bfloat16` alone
    quick: QuickPasses | None = None  # set by `compiled` alone

    def __init__(self, normalize: Normalize, network: nn.Module) -> None:
        super().__init__()
        self.normalize = normalize
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, channels, H, W] in [0, 1] to logits [B, num_classes]."""
        call = self.quick.call if self.quick is not None and self.quick.take(images) else self.plain
        if not self.reduced:
            return call(images)
        with torch.autocast(images.device.type, torch.bfloat16):
            return call(images).float()

    def plain(self, images: torch.Tensor) -> torch.Tensor:
        """The same, as it is."""
        return self.network(self.normalize(images))


def statistics(name: str, channels: int, of_data: Statistics) -> Statistics:
    """Mean and standard deviation per channel of the normalisation `name`: `of_data`, none at all, or CIFAR-10's.

    Raises ValueError where it is made for another number of channels.
    """
    if name == "data":
        return of_data
    if name == "none":
        return (0.0,) * channels, (1.0,) * channels
    if channels != len(_CIFAR[0]):
        raise ValueError(f"cifar is for images of 3 channels, these have {channels}. Use data or none.")
    return _CIFAR
