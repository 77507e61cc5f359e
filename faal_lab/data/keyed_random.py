"""Draw random numbers as a pure function of (seed, epoch, image, purpose).

The noise of an image must not depend on its batch, its rank or the moment of the draw. torch.Generator cannot promise that, so
this is a counter-based generator: splitmix64's finaliser over a running key. It has no state to save or resume, and returns the
same bits on every device.
"""

from __future__ import annotations

import torch

# Two uses must never share a stream, so each has a number. A changed number changes every result.
ORDER, AUGMENT, ATTACK_START, EVALUATION_START, SAMPLE, TARGET, SECOND_START = 1, 2, 3, 4, 5, 6, 7

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Shift right logically. torch shifts signed integers arithmetically, so cut off the copied sign bits."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mixed(x: torch.Tensor) -> torch.Tensor:
    """Map int64 numbers to ones that look independent of them: splitmix64's finaliser."""
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


def _keys(seed: int, epoch: int, indices: torch.Tensor, purpose: int) -> torch.Tensor:
    key = torch.zeros_like(indices)
    for part in (seed, epoch, purpose):
        key = mixed(key * 3 + part + _GOLDEN)
    return mixed(key + (indices + 1) * _GOLDEN)  # [B]


def uniform(seed: int, epoch: int, indices: torch.Tensor, purpose: int, shape: tuple[int, ...] = ()) -> torch.Tensor:
    """Draw uniform numbers in [0, 1) for each image.

    `indices` int64 [B] are positions in the data set. Returns float32 [B, *shape] on their device.
    """
    numbers = int(torch.Size(shape).numel())
    counter = torch.arange(1, numbers + 1, device=indices.device)
    bits = mixed(_keys(seed, epoch, indices, purpose)[:, None] + counter * _GOLDEN)
    return (_shift(bits, 40).to(torch.float32) * 2.0**-24).reshape(len(indices), *shape)


def normal(seed: int, epoch: int, indices: torch.Tensor, purpose: int, shape: tuple[int, ...] = ()) -> torch.Tensor:
    """Draw standard normal numbers (Box and Muller); arguments and result are those of `uniform`."""
    pairs = uniform(seed, epoch, indices, purpose, (2, *shape))
    radius = torch.sqrt(-2 * torch.log1p(-pairs[:, 0]))
    return radius * torch.cos(2 * torch.pi * pairs[:, 1])


def permutation(seed: int, epoch: int, length: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Return the order of the images in an epoch: int64 [length], the same on every device."""
    keys = _keys(seed, epoch, torch.arange(length, device=device), ORDER)
    return torch.argsort(keys, stable=True)
