"""Choose the images of a batch, and augment them.

All random numbers are keyed by image, so an image moves the same way in any batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn import functional as F

from faal_lab.data import keyed_random
from faal_lab.data.images import DataProblem, Images

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


_DRAWS, _LEVEL = 2, 8 / 30  # operations an image and their strength, of AT-BSL's release: torchvision's RandAugment(2, 8)
_Operation = Callable[[torch.Tensor, int], torch.Tensor]  # uint8 [B, C, H, W] and the sign, -1 or 1, of its strength


def _operations(height: int, width: int) -> tuple[_Operation, ...]:
    """Return RandAugment's fourteen operations (Cubuk et al., NeurIPS 2020), as torchvision has them."""
    from torchvision.transforms.v2 import functional as vision

    def moved(x: torch.Tensor, shift: tuple[int, int] = (0, 0), shear: tuple[float, float] = (0.0, 0.0)) -> torch.Tensor:
        corner = [0.0, 0.0] if any(shear) else None
        return vision.affine(x, angle=0.0, translate=[*shift], scale=1.0, shear=[*shear], center=corner)

    lean, far = math.degrees(math.atan(0.3 * _LEVEL)), 150 / 331 * _LEVEL
    factor = 0.9 * _LEVEL
    return (
        lambda x, _: x,
        lambda x, sign: moved(x, shear=(sign * lean, 0.0)),
        lambda x, sign: moved(x, shear=(0.0, sign * lean)),
        lambda x, sign: moved(x, (sign * int(far * width), 0)),
        lambda x, sign: moved(x, (0, sign * int(far * height))),
        lambda x, sign: vision.rotate(x, sign * 30 * _LEVEL),
        lambda x, sign: vision.adjust_brightness(x, 1 + sign * factor),
        lambda x, sign: vision.adjust_saturation(x, 1 + sign * factor),
        lambda x, sign: vision.adjust_contrast(x, 1 + sign * factor),
        lambda x, sign: vision.adjust_sharpness(x, 1 + sign * factor),
        lambda x, _: vision.posterize(x, 8 - round(4 * _LEVEL)),
        lambda x, _: vision.solarize(x, 255 * (1 - _LEVEL)),
        lambda x, _: vision.autocontrast(x),
        lambda x, _: vision.equalize(x),
    )


def _rand_augment(images: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Apply two random operations to each image, in whole levels of 0 to 255; images of one draw go through it together."""
    if images.shape[1] not in (1, 3):
        raise DataProblem(
            f"augment=randaugment changes colours: it needs images of 1 or 3 channels, got {images.shape[1]}. "
            "Set augment to crop-flip or none."
        )
    operations = _operations(*images.shape[2:])
    pixels = images.mul(255).round().to(torch.uint8)
    for place in range(3, 3 + 2 * _DRAWS, 2):
        drawn = (numbers[:, place].double() * len(operations)).long()
        draws = torch.stack([drawn, torch.where(numbers[:, place + 1] < 0.5, -1, 1)], 1).cpu()  # [B, 2]
        for draw in draws.unique(dim=0):
            own = (draws == draw).all(1).nonzero().flatten().to(pixels.device)
            operation, sign = draw.tolist()
            pixels[own] = operations[operation](pixels[own], sign)
    return pixels / 255


AUGMENTATIONS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "none": _none,
    "crop-flip": _crop_flip,
    "randaugment": _rand_augment,
    "randaugment-crop-flip": lambda images, numbers: _crop_flip(_rand_augment(images, numbers), numbers),
}


def augmented(images: torch.Tensor, kind: str, seed: int, epoch: int, indices: torch.Tensor) -> torch.Tensor:
    """Augment float images [B, C, H, W] of the training images `indices` [B] by the method `kind`."""
    if kind == "none":
        return images
    numbers = keyed_random.uniform(seed, epoch, indices, keyed_random.AUGMENT, (3 + 2 * _DRAWS,))
    return AUGMENTATIONS[kind](images, numbers)


class Batch(NamedTuple):
    """Images [B, C, H, W] in [0, 1], labels [B], and the keys of their noise, int64 [B]."""

    images: torch.Tensor
    labels: torch.Tensor
    keys: torch.Tensor
    others: int = 0  # images of the same batch in other processes

    @property
    def size(self) -> int:
        """The images of the whole batch."""
        return len(self.labels) + self.others


class Sampler:
    """The batches of one epoch: each image once in a keyed order, or drawn by class with replacement.

    `share` chooses the rows [B] that this process takes; by default all.
    """

    def __init__(
        self, images: Images, seed: int, epoch: int, batch_size: int, augmentation: str,
        share: Callable[[torch.Tensor], torch.Tensor] = lambda rows: rows,
    ) -> None:  # fmt: skip
        self.images, self.seed, self.epoch = images, seed, epoch
        self.batch_size, self.augmentation, self.share = batch_size, augmentation, share
        self._order = keyed_random.permutation(seed, epoch, len(images), images.labels.device)
        self._by_class: torch.Tensor | None = None

    def batch(self, index: int, probabilities: torch.Tensor | None = None) -> Batch:
        """Return batch `index` of the epoch, drawn by the class `probabilities` [C] if they are given."""
        positions = slice(index * self.batch_size, (index + 1) * self.batch_size)
        keys = chosen = self.share(self._order[positions])
        if probabilities is not None:
            # an image may come twice in an epoch, so the key of its noise is its place in the epoch
            keys = self.share(torch.arange(len(self._order), device=chosen.device)[positions]) + len(self.images)
            chosen = self._drawn(keys, probabilities)
        images, labels = self.images.batch(chosen)
        if probabilities is None:  # the next batch is known
            self.images.ahead(self.share(self._order[positions.stop : positions.stop + self.batch_size]))
        others = len(self._order[positions]) - len(keys)
        return Batch(augmented(images, self.augmentation, self.seed, self.epoch, keys), labels, keys, others)

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
