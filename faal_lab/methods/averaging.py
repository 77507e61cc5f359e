"""Average the weights over steps or epochs. Once an average exists, it is what the run delivers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

Tensors = dict[str, torch.Tensor]  # by name in the model's state_dict


@dataclass(frozen=True)
class Averaging:
    """Which average, and its settings. `buffers` are BatchNorm's statistics: averaged like weights, or those of the last step.

    FAWA: decay 0.85 and threshold 0.2 by the paper, 0.88 and 0.24 in the authors' code (Wei et al., CVPR 2023, Algorithm 2).
    EMA: min(decay, (t + 1) / (t + 10)), t counted from 0, at which the weights are taken over whole (SEAT; Wang and Wang,
    ICLR 2022). Both begin with epoch `start`.
    """

    kind: str = "none"
    decay: float = 0.999
    start: int = 0
    threshold: float = 0.2
    buffers: str = "average"

    def after_step(self, average: Tensors, model: nn.Module, epoch: int, updates: int) -> int:
        """Absorb a step's weights in `average`, which is empty before the first one; returns the number of updates so far."""
        if self.kind != "ema" or epoch < self.start:
            return updates
        self._absorb(average, model, min(self.decay, (updates + 1) / (updates + 10)))
        return updates + 1

    def after_epoch(self, average: Tensors, model: nn.Module, epoch: int, worst: float) -> None:
        """Absorb an epoch's weights, where `worst`, their lowest robust class accuracy on validation images, allows it."""
        if self.kind == "fawa" and epoch >= self.start and worst >= self.threshold:
            self._absorb(average, model, self.decay)

    def _absorb(self, average: Tensors, model: nn.Module, decay: float) -> None:
        buffers = dict(model.named_buffers())
        for name, tensor in model.state_dict().items():
            copied = not tensor.is_floating_point() or (name in buffers and self.buffers == "copy")
            if name not in average or copied:  # counts of batches are whole numbers: an average would cut them off
                average[name] = tensor.detach().clone()
            else:
                average[name].lerp_(tensor.detach(), 1 - decay)


@contextmanager
def wearing(model: nn.Module, average: Tensors) -> Iterator[nn.Module]:
    """The model with the averaged weights, if there are any; its own are put back bit for bit."""
    if not average:
        yield model
        return
    own = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(average)
    try:
        yield model
    finally:
        model.load_state_dict(own)
