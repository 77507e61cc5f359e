"""Projected gradient ascent in the L-infinity ball, with a radius and a step for each sample.

Knows: gradients with respect to images. Must not know: why the attack is made.

Costs 2K forward-equivalents for K steps: parameters are frozen and only the image's gradient is asked for. Each
step projects the image itself; a clamp inside the loss would stop the gradient of every pixel it bites on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from faal_lab.adversary.losses import ATTACK_LOSSES

AttackTick = Callable[[], None]  # called between steps, so that a slow attack can still be paused or stopped


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """The model in evaluation mode and without parameter gradients; mode and flags are restored on the way out."""
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.eval().requires_grad_(False)
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def start_point(
    images: torch.Tensor, radius: torch.Tensor | float, noise: torch.Tensor | None, kind: str = "uniform"
) -> torch.Tensor:
    """Where an attack begins: the images themselves (no noise), or moved by `noise` and cut to the pixel box.

    `uniform` noise in [0, 1) is spread over the ball; `gaussian` noise is scaled by 0.001 (TRADES, MART).
    """
    if noise is None:
        return images.clone()
    if kind == "gaussian":
        return (images + 0.001 * noise).clamp(0, 1)
    return (images + _per_sample(radius, images) * (2 * noise - 1)).clamp(0, 1)


def _per_sample(value: torch.Tensor | float, images: torch.Tensor) -> torch.Tensor | float:
    if isinstance(value, torch.Tensor) and value.ndim == 1:
        return value.view(-1, *[1] * (images.ndim - 1))
    return value


def pgd(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    radius: torch.Tensor | float,
    step: torch.Tensor | float,
    steps: int,
    loss: str = "cross-entropy",
    start: torch.Tensor | None = None,
    clean_logits: torch.Tensor | None = None,
    keep_fooled: bool = False,
    tick: AttackTick | None = None,
) -> torch.Tensor:
    """Ascend `loss` by sign steps: adversarial images, same shape as `images` [B, C, H, W] in [0, 1].

    `radius` and `step` are in pixel units, a number or one per sample [B]; `start` defaults to the images, at which the KL
    has no slope. `clean_logits` [B, C] are for that loss: made once, not at each step.
    `keep_fooled` leaves a sample alone once it is misclassified, as an evaluation wants: the attack then counts
    as won if any iterate won. The model is used as it is: put it in `frozen` (evaluation mode) first.
    Source: Madry et al., ICLR 2018, eq. 2.
    """
    ascend = ATTACK_LOSSES[loss]
    bound, move = _per_sample(radius, images), _per_sample(step, images)
    low, high = (images - bound).clamp(min=0), (images + bound).clamp(max=1)
    adv = (images if start is None else start).detach().clone()
    for _ in range(steps):
        if tick is not None:
            tick()
        adv.requires_grad_(True)
        with torch.enable_grad():
            logits = model(adv)
            total = ascend(logits, labels, clean_logits).sum()
        (gradient,) = torch.autograd.grad(total, adv)
        moved = torch.minimum(torch.maximum(adv.detach() + move * gradient.sign(), low), high)
        if keep_fooled:
            right = logits.detach().argmax(1) == labels
            moved = torch.where(right.view(-1, *[1] * (images.ndim - 1)), moved, adv.detach())
        adv = moved
    return adv.detach()
