"""Forward passes in bfloat16, but for what an attack's small steps would be lost in: pixels, normalisation, first convolution.

Knows: layers, and what a device can do by itself. Must not know: training, attacks.
A pixel near 1 has steps of 1/256 in bfloat16: a PGD step of 2/255 would be rounded away. From the first convolution's output on,
rounding is noise like any other. The logits come back as float32, so that every loss is float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from faal_lab.models.normalize import Normalized


class Float32Conv2d(nn.Conv2d):
    """A convolution in float32 whose result is handed on in bfloat16: left as it was, it would carry a whole residual stream."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """As nn.Conv2d, rounded at the end."""
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input).bfloat16()


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 by itself; where it does not, bfloat16 is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # private names of torch; where one is gone, nothing is known and float32 is taken
    asked = [getattr(torch.cpu, name, lambda: False) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return device.type == "cpu" and any(ask() for ask in asked)


def takes_bfloat16(model: nn.Module) -> bool:
    """Whether a network can be run so: it stands behind our normalisation and begins with a convolution."""
    return isinstance(model, Normalized) and _first_convolution(model) is not None


def wants_bfloat16(precision: str, model: nn.Module, device: torch.device) -> bool:
    """What a setting of `precision` comes to for a network on a device."""
    return precision == "bfloat16" or (precision == "auto" and takes_bfloat16(model) and has_bfloat16(device))


def _first_convolution(model: nn.Module) -> nn.Conv2d | None:
    return next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)


@contextmanager
def in_bfloat16(model: nn.Module, on: bool) -> Iterator[None]:
    """The model's forward passes in bfloat16 while it lasts; nothing where `on` is False."""
    first = _first_convolution(model)
    if not on or not isinstance(model, Normalized) or first is None:
        yield
        return
    kind = type(first)
    if kind is nn.Conv2d:
        first.__class__ = Float32Conv2d  # in place: names, weights and optimiser stay what they are
    model.reduced = True
    try:
        yield
    finally:
        model.reduced = False
        first.__class__ = kind
