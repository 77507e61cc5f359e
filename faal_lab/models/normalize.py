"""Normalise in a layer: channel statistics, the frame before a network, and a check of a foreign one on images."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import nn

from faal_lab.catalogue import NORMALIZATIONS
from faal_lab.data.images import Images, Splits
from faal_lab.errors import RecipeError
from faal_lab.models.examine import untouched

Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation, one entry per channel

_CIFAR: Statistics = ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))  # CIFAR-10's training images, as in Rice et al.
_PROBED = 512


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


class NormalizationWarning(UserWarning):
    """A foreign network classifies validation images badly.

    The message has the numbers, and the normalisation that would help.
    """


def check_normalization(model: nn.Module, splits: Splits, used: str, who: str) -> None:
    """Warn if a foreign network sees images badly, or better with another normalisation.

    The images are up to 512 of validation, or of training if there are none. Badly is below 1.5 times chance; better is 5 points
    of accuracy more, and at least 5 images. `used` names its normalisation ("" is its own, for which no other is tried), and
    `who` the network in the warning. Costs up to three passes over those images.
    """
    normalize = getattr(model, "normalize", None)
    images, kind = (splits.validation, "validation") if len(splits.validation) else (splits.train, "training")
    right, total = _right(model, images)
    others, how = {}, "" if used else " with the normalisation that it brought"
    if used and isinstance(normalize, Normalize):
        others, how = _right_with_others(model, normalize, splits, images, used), f" with normalization={used}"
    shown = {name: f"{count / total:.1%}" for name, count in others.items()}
    said = f"{who} is right on {right / total:.1%} of {total} {kind} images{how}"
    best = max(others, key=lambda name: others[name], default="")
    chance = max(0.05 * total, 4)  # four images, all in favour of one, are no proof: 1 / 2^4 is above 5 %
    if best and others[best] > right + chance:
        near = [name for name in others if others[name] >= others[best] - chance]
        seen = " and ".join(f"on {shown[name]} with {name}" for name in near)
        so = "so" if len(near) == 1 else "by one of these, which its author knows"  # a few images cannot tell them apart
        cure = f"{seen}. It was most likely trained {so}: --normalization {' or '.join(near)}"
    elif right < 1.5 * total / splits.num_classes:
        tried = f", no better with {' or '.join(shown)}" if shown else ""
        cure = f"{1 / splits.num_classes:.1%} is chance{tried}. Are its classes in this order, its images of this kind?"
    else:
        return
    warnings.warn(f"{said}, {cure}", NormalizationWarning, stacklevel=2)


def _right_with_others(model: nn.Module, normalize: Normalize, splits: Splits, images: Images, used: str) -> dict[str, int]:
    """Count right answers with each other normalisation, and restore the network's own."""
    mean, std, channels = normalize.mean.clone(), normalize.std.clone(), len(normalize.mean)
    counts = {}
    try:
        for name in NORMALIZATIONS:
            if name == used or (name == "cifar" and channels != 3):
                continue
            other = Normalize(*statistics(name, channels, splits.channel_statistics())).to(mean.device)
            normalize.mean.copy_(other.mean)
            normalize.std.copy_(other.std)
            counts[name] = _right(model, images)[0]
    finally:
        normalize.mean.copy_(mean)
        normalize.std.copy_(std)
    return counts


def _right(model: nn.Module, images: Images) -> tuple[int, int]:
    """Count right answers on up to 512 images, spread over all: folders are sorted by class."""
    chosen = torch.linspace(0, len(images) - 1, min(len(images), _PROBED)).long()
    device, right = next(model.parameters()).device, 0
    with untouched(model), torch.no_grad():
        model.eval()
        for part in chosen.to(images.labels.device).split(128):
            pixels, labels = images.batch(part)
            right += int((model(pixels.to(device)).argmax(1) == labels.to(device)).sum())
    return right, len(chosen)
