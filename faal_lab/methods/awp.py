"""Perturb the weights adversarially: raise the loss before it is descended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from faal_lab.models import processes

Gradients = list[torch.Tensor | None]


def _summed(losses: Iterable[torch.Tensor], parameters: list[nn.Parameter]) -> Gradients:
    total: Gradients = [None] * len(parameters)
    for loss in losses:
        for place, more in enumerate(torch.autograd.grad(loss, parameters, allow_unused=True)):
            if more is not None:
                so_far = total[place]
                total[place] = more if so_far is None else so_far + more
    processes.total([gradient for gradient in total if gradient is not None])
    return total


def perturbed_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the tensors that are moved: weights of more than one dimension.

    Biases and BatchNorm's scales are left out.
    """
    return {n: p for n, p in model.named_parameters() if p.ndim > 1 and "weight" in n and p.requires_grad}


@contextmanager
def weight_perturbed(model: nn.Module, losses: Callable[[], Iterable[torch.Tensor]], gamma: float) -> Iterator[None]:
    """Move each weight tensor w by gamma * |w| * g / |g|, and take the move back at the end.

    Wu et al., NeurIPS 2020, eqs. 8 to 10, one step; g is the gradient of `losses()`. `losses` returns summands of one loss,
    so that their graphs are freed one by one. They run the model in the mode it is in; buffers are restored afterwards, as
    the authors' proxy copy leaves them. Changes to the weights inside the block are kept. An optimiser step in it sees the
    moved weights in its weight decay, as in the authors' code. After an exception the weights are exactly as before.
    """
    parameters = perturbed_parameters(model)
    if gamma == 0 or not parameters:
        yield
        return
    before = [b.detach().clone() for b in model.buffers()]
    gradients = _summed(losses(), list(parameters.values()))
    moves, originals = [], []
    with torch.no_grad():
        for buffer, old in zip(model.buffers(), before, strict=True):
            buffer.copy_(old)
        for weight, gradient in zip(parameters.values(), gradients, strict=True):
            up = torch.zeros_like(weight) if gradient is None else gradient
            moves.append(gamma * weight.norm() * up / (up.norm() + 1e-20))
            originals.append(weight.detach().clone())
            weight.add_(moves[-1])
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for weight, original in zip(parameters.values(), originals, strict=True):
                weight.copy_(original)
        raise
    with torch.no_grad():
        for weight, move in zip(parameters.values(), moves, strict=True):
            weight.sub_(move)
