"""Batched augmentation from keyed random numbers: an image is moved the same way whatever batch it is in."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from faal_lab import keyed_random

_PADDING = 4  # pixels, as in every CIFAR recipe of the field


def _none(images: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    return images


def _crop_flip(images: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """A random crop out of the zero-padded image, and a mirror image half of the time."""
    count, _, height, width = images.shape
    padded = F.pad(images, (_PADDING,) * 4)
    top, left = (numbers[:, :2] * (2 * _PADDING + 1)).long().unbind(1)
    rows = top[:, None] + torch.arange(height, device=images.device)  # [B, H]
    columns = left[:, None] + torch.arange(width, device=images.device)  # [B, W]
    columns = torch.where(numbers[:, 2:3] < 0.5, columns.flip(1), columns)
    sample = torch.arange(count, device=images.device)
    # indices around the sliced channel dimension put it last: [B, H, W, channels]
    return padded[sample[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


AUGMENTATIONS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {"none": _none, "crop-flip": _crop_flip}


def augmented(images: torch.Tensor, kind: str, seed: int, epoch: int, indices: torch.Tensor) -> torch.Tensor:
    """Augment float images [B, C, H, W] of the training images `indices` [B] by the method named `kind`."""
    if kind == "none":
        return images
    return AUGMENTATIONS[kind](images, keyed_random.uniform(seed, epoch, indices, keyed_random.AUGMENT, (3,)))
