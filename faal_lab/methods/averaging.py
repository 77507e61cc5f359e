"""Average the weights over steps or epochs. Once an average exists, it is the result of the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

Tensors = dict[str, torch.Tensor]  # by name in the model's state_dict


@dataclass(frozen=True)
class Averaging:
    """A weight average: none, EMA over steps, or FAWA over epochs. Both begin with epoch `start`.

    EMA: average <- d * average + (1 - d) * weights, d = min(decay, (t + 1) / (t + 10)). t counts from 0, where the weights
    are copied whole (SEAT; Wang and Wang, ICLR 2022).

    FAWA: the same after an epoch, with d = decay, if the worst class reaches `threshold`. Decay 0.85 and threshold 0.2 are
    the paper's, 0.88 and 0.24 the authors' code's (Wei et al., CVPR 2023, Algorithm 2).

    `buffers`: BatchNorm's statistics are averaged like weights ("average"), or those of the last step ("copy").
    """

    kind: str = "none"
    decay: float = 0.999
    start: int = 0
    threshold: float = 0.2
    buffers: str = "average"

    def after_step(self, average: Tensors, model: nn.Module, epoch: int, updates: int) -> int:
        """Add the weights of a step to `average` (empty at first); return the number of updates so far."""
        if self.kind != "ema" or epoch < self.start:
            return updates
        self._absorb(average, model, min(self.decay, (updates + 1) / (updates + 10)))
        return updates + 1

    def after_epoch(self, average: Tensors, model: nn.Module, epoch: int, worst: float) -> None:
        """Add the weights of an epoch to `average`, if `worst` reaches the threshold.

        `worst` is their lowest robust class accuracy on validation images, in [0, 1].
        """
        if self.kind == "fawa" and epoch >= self.start and worst >= self.threshold:
            self._absorb(average, model, self.decay)

    def _absorb(self, average: Tensors, model: nn.Module, decay: float) -> None:
        buffers = dict(model.named_buffers())
        for name, tensor in model.state_dict().items():
            copied = not tensor.is_floating_point() or (name in buffers and self.buffers == "copy")
            if name not in average or copied:  # an average would cut off BatchNorm's whole counts of batches
                average[name] = tensor.detach().clone()
            else:
                average[name].lerp_(tensor.detach(), 1 - decay)


@contextmanager
def wearing(model: nn.Module, average: Tensors) -> Iterator[nn.Module]:
    """Give the model the averaged weights, if there are any; put its own back at the end, bit for bit."""
    if not average:
        yield model
        return
    own = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(average)
    try:
        yield model
    finally:
        model.load_state_dict(own)
