"""A batch that does not fit in an accelerator's memory: what would, in words.

Knows: how much one training pass of some images needs, by trying. Must not know: attacks, runs.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from faal_lab.sampling import Batch


class BatchTooLarge(RuntimeError):
    """A batch that the device's memory does not hold; the message says what it holds."""


def too_large(model: nn.Module, batch: Batch, parts: int) -> BatchTooLarge:
    """The error for a batch that was tried in `parts` parts, with the fewest parts that fit. The model stays as it was."""
    whole = len(batch.labels)
    said = f"A batch of {whole} images does not fit in the memory of {batch.images.device}"
    said += f" in {parts} parts" if parts > 1 else ""
    more = 2 * parts
    while more < 2 * whole and not _fits(model, batch, -(-whole // more)):
        more *= 2
    size = -(-whole // more)
    if more >= 2 * whole:
        return BatchTooLarge(f"{said}, nor does a single image. Choose a smaller network or another device.")
    return BatchTooLarge(
        f"{said}; {size} images do. Set accumulation={more} (the class weights stay those of the whole batch, a step costs one "
        f"forward pass more, and BatchNorm sees {size} images at a time), or batch_size={size * parts}."
    )


def _fits(model: nn.Module, batch: Batch, size: int) -> bool:
    """Whether `size` images go through the network and back; buffers and gradients are put back."""
    before = [b.detach().clone() for b in model.buffers()]
    gradients = [p.grad for p in model.parameters()]
    try:
        F.cross_entropy(model(batch.images[:size]), batch.labels[:size]).backward()
    except torch.OutOfMemoryError:
        return False
    finally:
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient
        with torch.no_grad():
            for buffer, old in zip(model.buffers(), before, strict=True):
                buffer.copy_(old)
    return True
