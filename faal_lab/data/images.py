"""Carry images with labels and the three splits of a data set; choose images by seed, class by class."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch

from faal_lab.data import keyed_random
from faal_lab.data.storage import OnDisk
from faal_lab.errors import ConfigError, FaalLabError


class DataProblem(FaalLabError, ValueError):
    """An unreadable image, or a data set without what training needs. The message names the cure."""


class DataNote(UserWarning):
    """What a reader of the images should know: files passed over, pixels rounded, parts cut off."""


_told: set[str] = set()
_heard: list[list[str]] = []


def note(text: str) -> None:
    """Report it as a warning, once in a process: a set is read again for every evaluation of it."""
    for notes in _heard:
        notes.append(text)
    if not _heard and text not in _told:
        _told.add(text)
        warnings.warn_explicit(text, DataNote, "faal_lab.data", 1)


@contextmanager
def heard() -> Iterator[list[str]]:
    """Take the notes of the block as a list, in place of warnings; who asks for them need not be told again."""
    notes: list[str] = []
    _heard.append(notes)
    try:
        yield notes
    finally:
        _heard.remove(notes)
        _told.update(notes)


_CHUNK = 128  # images converted to float64 at once: all of CIFAR would take 1.2 GB


@dataclass(frozen=True)
class Images:
    """The images and labels of one split, on one device."""

    pixels: torch.Tensor | OnDisk  # uint8 [N, channels, height, width]; OnDisk: in a file
    labels: torch.Tensor  # int64 [N]
    pixel_max: int = 255  # the pixel value that means 1.0 (digits are stored in 0..16)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images, float32 in [0, 1], and labels at `indices` [B]."""
        return self.pixels[indices].to(self.labels.device, torch.float32) / self.pixel_max, self.labels[indices]

    def part(self, indices: torch.Tensor | slice) -> Images:
        """Return the images at `indices` [K]."""
        pixels = self.pixels.part(indices) if isinstance(self.pixels, OnDisk) else self.pixels[indices]
        return replace(self, pixels=pixels, labels=self.labels[indices])

    def joined(self, other: Images) -> Images:
        """Return these images and then the others."""
        mine, theirs = self.pixels, other.pixels
        if isinstance(mine, OnDisk) and isinstance(theirs, OnDisk) and mine.file == theirs.file:
            pixels = mine.joined(theirs)
        else:
            pixels = torch.cat([p[:] for p in (mine, theirs)])
        return replace(self, pixels=pixels, labels=torch.cat([self.labels, other.labels]))

    def chunks(self) -> Iterator[torch.Tensor]:
        """Yield the pixels, uint8, a few at once and in order."""
        yield from self.pixels.split(_CHUNK)

    def ahead(self, indices: torch.Tensor) -> None:
        """Begin to read the images at `indices` [B], if they lie in a file."""
        if isinstance(self.pixels, OnDisk):
            self.pixels.ahead(indices)

    def all(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the whole split as one batch."""
        return self.batch(torch.arange(len(self), device=self.labels.device))

    def to(self, device: torch.device | str) -> Images:
        """Copy the images to another device; those in a file go there batch by batch."""
        pixels = self.pixels if isinstance(self.pixels, OnDisk) else self.pixels.to(device)
        return replace(self, pixels=pixels, labels=self.labels.to(device))


@dataclass(frozen=True)
class Scaled:
    """Images as floats in [0, 1], indexed and split like a tensor [N, C, H, W]; each access makes those that it asks for."""

    images: Images

    @property
    def device(self) -> torch.device:
        """The device of a batch."""
        return self.images.labels.device

    def __getitem__(self, indices: torch.Tensor) -> torch.Tensor:
        return self.images.batch(indices)[0]

    def split(self, size: int) -> Iterator[torch.Tensor]:
        """Yield `size` images at once."""
        return (self[part] for part in torch.arange(len(self.images), device=self.device).split(size))


@dataclass(frozen=True)
class Splits:
    """A data set in three parts.

    `test` is for evaluation alone. `validation` may be empty, or the test images by request.
    """

    name: str
    class_names: tuple[str, ...]
    train: Images
    validation: Images
    test: Images
    augmentation: str  # the method that `augment="auto"` selects: a name in `AUGMENTATIONS`
    own_test: bool = True  # False: cut out by seed, so a model from elsewhere may have learned from the test images

    @property
    def num_classes(self) -> int:
        """The number of classes C."""
        return len(self.class_names)

    def channel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and standard deviation per channel of the training images, in [0, 1] units."""
        count, channels, height, width = self.train.pixels.shape
        total = torch.zeros(2, channels, dtype=torch.float64, device=self.train.pixels.device)
        for chunk in self.train.chunks():
            values = chunk.to(torch.float64)  # float64 keeps sums of whole numbers exact
            total += torch.stack([values.sum((0, 2, 3)), values.square().sum((0, 2, 3))])
        first, second = total / (count * height * width)
        mean, variance = first / self.train.pixel_max, (second - first.square()) / self.train.pixel_max**2
        std = variance.clamp(min=0).sqrt().clamp(min=1e-3)
        return tuple(round(v, 4) for v in mean.tolist()), tuple(round(v, 4) for v in std.tolist())

    def to(self, device: torch.device | str) -> Splits:
        """Copy all three parts to another device."""
        parts = {part: getattr(self, part).to(device) for part in ("train", "validation", "test")}
        return replace(self, **parts)


def split_indices(labels: np.ndarray, sizes: tuple[int | float, ...], seed: int) -> list[torch.Tensor]:
    """Cut the images into disjoint parts of `sizes` (counts, or fractions of all), and the rest.

    Each part has the class proportions of the whole. Raises ValueError if a class is too rare for that.
    """
    from sklearn.model_selection import train_test_split

    rest, parts = np.arange(len(labels)), []
    for size in sizes:
        count = round(size * len(labels)) if isinstance(size, float) else size
        part, rest = train_test_split(rest, train_size=count, random_state=seed, stratify=labels[rest])
        parts.append(part)
    return [torch.from_numpy(np.sort(part)) for part in (*parts, rest)]


def long_tailed(labels: np.ndarray, class_names: Sequence[str], imbalance: float, seed: int) -> torch.Tensor:
    """Choose images [K] so that class c of C keeps its number times `imbalance ** (-c / (C - 1))`.

    Class 0 keeps all images, the last class 1 / `imbalance` of its own, drawn by `seed`. A larger imbalance keeps a part of what
    a smaller one keeps. The profile is that of Cui et al.'s long-tailed CIFAR (CVPR 2019). Raises ConfigError where that leaves a
    class without an image.
    """
    order, kept, last = np.random.default_rng(seed).permutation(len(labels)), [], max(1, len(class_names) - 1)
    sizes = np.bincount(labels, minlength=len(class_names)).tolist()
    for c, (name, size) in enumerate(zip(class_names, sizes, strict=True)):
        count = round(size * imbalance ** (-c / last))
        if size and not count:
            limit = min((2 * n) ** (last / k) for k, n in enumerate(sizes) if k and n)  # half an image is rounded to none
            raise ConfigError(
                f"imbalance={imbalance:g} would leave class {name} none of its {size} training images. Set it below {limit:.4g}, "
                "or add images of that class."
            )
        kept.append(order[labels[order] == c][:count])
    return torch.from_numpy(np.sort(np.concatenate(kept)))


def stratified(labels: torch.Tensor, count: int, classes: int) -> torch.Tensor:
    """Choose `count` of the images [N] so that the `classes` have numbers as equal as possible.

    Returns int64 [count], ascending: the first images of a fixed shuffle, class by class in turn. A larger count includes every
    smaller one. Raises DataProblem for a count of less than one per class, or of more than N.
    """
    totals = torch.bincount(labels, minlength=classes)
    least = int((totals > 0).sum())
    if not least <= count <= len(labels):
        raise DataProblem(f"images must be between {least} (one a class) and {len(labels)} (all there are), got {count}.")
    order = keyed_random.permutation(0, 0, len(labels), labels.device)
    by_class = torch.argsort(labels[order], stable=True)  # positions in the shuffle, class after class
    turn = torch.empty_like(order)
    turn[by_class] = torch.cat([torch.arange(n, device=labels.device) for n in totals.tolist()])
    return order[torch.argsort(turn, stable=True)[:count]].sort().values
