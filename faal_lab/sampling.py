"""Which images make a batch.

Knows: the order of an epoch, and classes drawn by probability. Must not know: why a class is drawn more often.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from faal_lab import keyed_random
from faal_lab.data import Images, augmented


class Batch(NamedTuple):
    """Images [B, C, H, W] in [0, 1], labels [B], and what their noise is keyed by: int64 [B]."""

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
        """Batch `index` of the epoch; with class `probabilities` [C] it is drawn by them."""
        positions = slice(index * self.batch_size, (index + 1) * self.batch_size)
        chosen = self._order[positions]
        keys = chosen
        if probabilities is not None:
            # an image may come twice in an epoch, so its noise is keyed by its place in the epoch
            keys = torch.arange(len(self._order), device=chosen.device)[positions] + len(self.images)
            chosen = self._drawn(keys, probabilities)
        images, labels = self.images.batch(chosen)
        return Batch(augmented(images, self.augmentation, self.seed, self.epoch, keys), labels, keys)

    def _drawn(self, keys: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
        """Images whose class follows `probabilities`, and which are uniform inside it: indices [B]."""
        labels = self.images.labels
        if self._by_class is None:
            self._by_class = torch.argsort(labels, stable=True)
        counts = torch.bincount(labels, minlength=len(probabilities))
        held = probabilities.to(labels.device, torch.float64) * (counts > 0)
        numbers = keyed_random.uniform(self.seed, self.epoch, keys, keyed_random.SAMPLE, (2,)).double()
        edges = (held / held.sum()).cumsum(0)
        edges[held.nonzero()[-1] :] = 1.0  # rounding must not leave a number above the last class that has images
        drawn = torch.searchsorted(edges, numbers[:, 0].contiguous(), right=True)
        place = (numbers[:, 1] * counts[drawn]).long()
        return self._by_class[counts.cumsum(0)[drawn] - counts[drawn] + place]
