"""Define the two types that carry data: images with labels, and the three splits of a data set."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from faal_lab.errors import FaalLabError


class DataProblem(FaalLabError, ValueError):
    """Images that cannot be read, or a data set without what training needs; the message names the cure."""


_CHUNK = 128  # images turned to float64 at once: CIFAR as a whole would take 1.2 GB


@dataclass(frozen=True)
class Images:
    """Images and labels of one split, resident on one device."""

    pixels: torch.Tensor  # uint8 [N, channels, height, width]
    labels: torch.Tensor  # int64 [N]
    pixel_max: int = 255  # the pixel value that means 1.0 (digits are stored in 0..16)

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images float32 in [0, 1] and labels at `indices` [B]."""
        return self.pixels[indices].to(torch.float32) / self.pixel_max, self.labels[indices]

    def part(self, indices: torch.Tensor) -> Images:
        """The images at `indices` [K] alone."""
        return replace(self, pixels=self.pixels[indices], labels=self.labels[indices])

    def all(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The whole split as one batch."""
        return self.batch(torch.arange(len(self), device=self.labels.device))

    def to(self, device: torch.device | str) -> Images:
        """The same images on another device."""
        return replace(self, pixels=self.pixels.to(device), labels=self.labels.to(device))


@dataclass(frozen=True)
class Splits:
    """A data set in three parts. `test` is for evaluation alone, and `validation` may be empty, or `test` by request."""

    name: str
    class_names: tuple[str, ...]
    train: Images
    validation: Images
    test: Images
    augmentation: str  # what `augment="auto"` means for these images: a name in `AUGMENTATIONS`
    own_test: bool = True  # False: cut out by seed, so that a model from elsewhere may have learned from the test images

    @property
    def num_classes(self) -> int:
        """C."""
        return len(self.class_names)

    def channel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel of the training images, in [0, 1] units."""
        total = torch.zeros(2, self.train.pixels.shape[1], dtype=torch.float64, device=self.train.pixels.device)
        for chunk in self.train.pixels.split(_CHUNK):
            values = chunk.to(torch.float64)  # sums of whole numbers stay exact in it
            total += torch.stack([values.sum((0, 2, 3)), values.square().sum((0, 2, 3))])
        first, second = total / self.train.pixels[:, 0].numel()
        mean, variance = first / self.train.pixel_max, (second - first.square()) / self.train.pixel_max**2
        std = variance.clamp(min=0).sqrt().clamp(min=1e-3)
        return tuple(round(v, 4) for v in mean.tolist()), tuple(round(v, 4) for v in std.tolist())

    def to(self, device: torch.device | str) -> Splits:
        """All three parts on another device."""
        parts = {part: getattr(self, part).to(device) for part in ("train", "validation", "test")}
        return replace(self, **parts)
