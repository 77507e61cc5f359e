"""Choose the images of a batch, and augment them.

All random numbers are keyed by image, so an image moves the same way in any batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn import functional as F

from faal_lab.data import keyed_random
from faal_lab.data.images import Images

_PADDING = 4  # pixels, as in every CIFAR recipe of the field


def _none(images: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    return images


def _crop_flip(images: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Crop the zero-padded image at random, and mirror it half of the time."""
    count, _, height, width = images.shape
    padded = F.pad(images, (_PADDING,) * 4)
    top, left = (numbers[:, :2] * (2 * _PADDING + 1)).long().unbind(1)
    rows = top[:, None] + torch.arange(height, device=images.device)  # [B, H]
    columns = left[:, None] + torch.arange(width, device=images.device)  # [B, W]
    columns = torch.where(numbers[:, 2:3] < 0.5, columns.flip(1), columns)
    sample = torch.arange(count, device=images.device)
    # index tensors around the sliced channel dimension put it last: [B, H, W, channels]
    return padded[sample[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


AUGMENTATIONS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {"none": _none, "crop-flip": _crop_flip}


def augmented(images: torch.Tensor, kind: str, seed: int, epoch: int, indices: torch.Tensor) -> torch.Tensor:
    """Augment float images [B, C, H, W] of the training images `indices` [B] by the method `kind`."""
    if kind == "none":
        return images
    return AUGMENTATIONS[kind](images, keyed_random.uniform(seed, epoch, indices, keyed_random.AUGMENT, (3,)))


class Batch(NamedTuple):
    """Images [B, C, H, W] in [0, 1], labels [B], and the keys of their noise, int64 [B]."""

    images: torch.Tensor
    labels: torch.Tensor
    keys: torch.Tensor


class Sampler:
    """The batches of one epoch: each image once in a keyed order, or drawn by class with replacement."""

    def __init__(self, images: Images, seed: int, epoch: int, batch_size: int, augmentation: str) -> None:
        self.images, self.seed, self.epoch = images, seed, epoch
        self.batch_size, self.augmentation = batch_size, augmentation
        self._order = keyed_random.permutation(seed, epoch, len(images), images.labels.device)
        self._by_class: torch.Tensor | None = None

    def batch(self, index: int, probabilities: torch.Tensor | None = None) -> Batch:
        """Return batch `index` of the epoch, drawn by the class `probabilities` [C] if they are given."""
        positions = slice(index * self.batch_size, (index + 1) * self.batch_size)
        chosen = self._order[positions]
        keys = chosen
        if probabilities is not None:
            # an image may come twice in an epoch, so the key of its noise is its place in the epoch
            keys = torch.arange(len(self._order), device=chosen.device)[positions] + len(self.images)
            chosen = self._drawn(keys, probabilities)
        images, labels = self.images.batch(chosen)
        if probabilities is None:  # the next batch is known
            self.images.ahead(self._order[positions.stop : positions.stop + self.batch_size])
        return Batch(augmented(images, self.augmentation, self.seed, self.epoch, keys), labels, keys)

    def _drawn(self, keys: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
        """Draw images, first the class by `probabilities`, then uniformly in the class: indices [B]."""
        labels = self.images.labels
        if self._by_class is None:
            self._by_class = torch.argsort(labels, stable=True)
        counts = torch.bincount(labels, minlength=len(probabilities))
        held = probabilities.to(labels.device, torch.float64) * (counts > 0)
        numbers = keyed_random.uniform(self.seed, self.epoch, keys, keyed_random.SAMPLE, (2,)).double()
        edges = (held / held.sum()).cumsum(0)
        edges[held.nonzero()[-1] :] = 1.0  # rounding could leave a number above the last edge
        drawn = torch.searchsorted(edges, numbers[:, 0].contiguous(), right=True)
        place = (numbers[:, 1] * counts[drawn]).long()
        return self._by_class[counts.cumsum(0)[drawn] - counts[drawn] + place]
