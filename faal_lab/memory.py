"""A batch that does not fit in an accelerator's memory: what would, in words.

Knows: how much a training pass of some images needs, by trying. Must not know: attacks, runs.
"""

from __future__ import annotations

import torch

from faal_lab.config import RunConfig
from faal_lab.errors import FaalLabError
from faal_lab.models import in_bfloat16
from faal_lab.sampling import Batch
from faal_lab.state import TrainingState


class BatchTooLarge(FaalLabError, RuntimeError):
    """A batch that the device's memory does not hold; the message says what it holds."""


def too_large(state: TrainingState, batch: Batch, config: RunConfig, low: bool) -> BatchTooLarge:
    """The error for a batch that was too large as it was tried, with what fits. Weights, buffers and gradients stay as they were.

    To be made outside of the `except` that caught the failure, whose traceback holds on to the memory that is missing.
    """
    if batch.images.device.type == "cuda":
        torch.cuda.empty_cache()
    whole, parts = len(batch.labels), config.accumulation
    said = f"A batch of {whole} images does not fit in the memory of {batch.images.device}"
    said += f" in {parts} parts" if parts > 1 else ""
    more = 2 * parts
    while more < 2 * whole and not _fits(state, batch, -(-whole // more), low):
        more *= 2
    size = -(-whole // more)
    if more >= 2 * whole:
        return BatchTooLarge(f"{said}, nor does a single image. Choose a smaller network or another device.")
    if config.replays or config.batch_norm == "train":
        return BatchTooLarge(f"{said}; {size} images do. Set batch_size={size}.")
    return BatchTooLarge(
        f"{said}; {size} images do. Set accumulation={more} (the class weights stay those of the whole batch, a step costs one "
        f"forward pass more, and BatchNorm sees {size} images at a time), or batch_size={size * parts}."
    )


def _fits(state: TrainingState, batch: Batch, size: int, low: bool) -> bool:
    """Whether the objective's passes of `size` images go through the network and back."""
    model, objective = state.model, state.acting().objective
    before = [b.detach().clone() for b in model.buffers()]
    gradients = [p.grad for p in model.parameters()]
    images, labels = batch.images[:size], batch.labels[:size]
    try:
        with in_bfloat16(model, low):
            terms = objective(model, images, torch.stack([images] * 2) if objective.points == 2 else images, labels).terms
            torch.stack(list(terms.values())).sum().backward()
    except torch.OutOfMemoryError:
        return False
    finally:
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient
        with torch.no_grad():
            for buffer, old in zip(model.buffers(), before, strict=True):
                buffer.copy_(old)
    return True
