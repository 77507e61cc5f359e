"""Perturb the weights adversarially, so that the loss is made worse before it is descended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

Gradients = list[torch.Tensor | None]


def _summed(losses: Iterable[torch.Tensor], parameters: list[nn.Parameter]) -> Gradients:
    total: Gradients = [None] * len(parameters)
    for loss in losses:
        for place, more in enumerate(torch.autograd.grad(loss, parameters, allow_unused=True)):
            if more is not None:
                so_far = total[place]
                total[place] = more if so_far is None else so_far + more
    return total


def perturbed_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The tensors that are moved: weights of more than one dimension, not biases nor BatchNorm's scales."""
    return {n: p for n, p in model.named_parameters() if p.ndim > 1 and "weight" in n and p.requires_grad}


@contextmanager
def weight_perturbed(model: nn.Module, losses: Callable[[], Iterable[torch.Tensor]], gamma: float) -> Iterator[None]:
    """Move each weight tensor by `gamma` times its own norm, up the gradient of `losses()`; take the move back at the end.

    Wu et al., NeurIPS 2020, eqs. 8 to 10, one step. `losses` are summands of one loss, whose graphs are let go one by one. They
    run the model in the mode it is in; buffers are put back afterwards, as the authors' proxy copy leaves them. What is done to
    the weights inside (an optimiser step, whose weight decay then sees the moved weights, as in the authors' code) is kept. After
    an exception weights are exactly what they were.
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
