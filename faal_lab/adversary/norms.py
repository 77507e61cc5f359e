"""The balls an attack moves in: where it may begin, how it climbs, how it is brought back.

Knows: the geometry of L-infinity and L2 on batches of images. Must not know: models, losses.
A new norm is a row in `NORMS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

Value = torch.Tensor | float  # a number, or one per sample [B, 1, 1, 1]


class Norm(NamedTuple):
    """Three operations on images [B, C, H, W] and what is added to them; `radius` and `step` as of `per_sample`."""

    spread: Callable[[torch.Tensor, Value], torch.Tensor]  # uniform numbers in [0, 1) -> a random point of the ball
    climb: Callable[[torch.Tensor, Value], torch.Tensor]  # gradient -> the steepest move of length `step`
    project: Callable[[torch.Tensor, torch.Tensor, Value], torch.Tensor]  # point, images -> the ball's nearest point


def per_sample(value: torch.Tensor | float, images: torch.Tensor) -> Value:
    """A radius per sample [B] in a shape that multiplies images [B, C, H, W]; a number stays one."""
    if isinstance(value, torch.Tensor) and value.ndim == 1:
        return value.view(-1, *[1] * (images.ndim - 1))
    return value


def _length(delta: torch.Tensor) -> torch.Tensor:
    return delta.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, *[1] * (delta.ndim - 1))


def _spread_l2(noise: torch.Tensor, radius: Value) -> torch.Tensor:
    """Uniform in the ball: a normal direction, and a length whose d-th power is uniform."""
    direction = torch.erfinv((2 * noise - 1).clamp(-1 + 1e-6, 1 - 1e-6))
    # the low bits of a number that has 24 are as good as independent of it, and save a second draw
    share = (noise.flatten(1)[:, 0] * 4096) % 1
    length = share ** (1 / noise[0].numel())
    return radius * per_sample(length, noise) * direction / _length(direction)


def _project_l2(point: torch.Tensor, images: torch.Tensor, radius: Value) -> torch.Tensor:
    delta = point - images
    return images + delta * (radius / _length(delta)).clamp(max=1.0)


def _project_linf(point: torch.Tensor, images: torch.Tensor, radius: Value) -> torch.Tensor:
    return torch.minimum(torch.maximum(point, images - radius), images + radius)  # selections only: nothing is rounded twice


NORMS: dict[str, Norm] = {
    "linf": Norm(lambda noise, radius: radius * (2 * noise - 1), lambda g, step: step * g.sign(), _project_linf),
    "l2": Norm(_spread_l2, lambda g, step: step * g / _length(g), _project_l2),
}
