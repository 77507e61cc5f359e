"""Projected gradient ascent in a ball around each image, with a radius, a step and a target for each sample.

Knows: gradients with respect to images. Must not know: why the attack is made.

Costs 2K forward-equivalents for K steps: parameters are frozen and only the image's gradient is asked for. Each
step projects the image itself; a clamp inside the loss would stop the gradient of every pixel it bites on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional as F

from faal_lab.adversary.losses import ATTACK_LOSSES
from faal_lab.adversary.norms import NORMS, per_sample

AttackTick = Callable[[], None]  # called between steps, so that a slow attack can still be paused or stopped
Climb = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]  # a point -> its logits, and the next point


@contextmanager
def frozen(model: nn.Module, batch_norm: str = "eval") -> Iterator[nn.Module]:
    """The model without parameter gradients, in evaluation mode; mode and flags are restored on the way out.

    `batch_norm="train"` leaves it in training mode, as the code of Rice et al. (ICML 2020) and CFA attack: predictions then
    depend on the whole batch, and every step of the attack moves the running statistics.
    """
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    model.train(batch_norm == "train").requires_grad_(False)
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def start_point(
    images: torch.Tensor, radius: torch.Tensor | float, noise: torch.Tensor | None, kind: str = "uniform", norm: str = "linf"
) -> torch.Tensor:
    """Where an attack begins: the images themselves (no noise), or moved by `noise` and cut to the pixel box.

    `uniform` noise in [0, 1) is spread over the ball of the norm; `gaussian` noise is scaled by 0.001 (TRADES, MART).
    """
    if noise is None:
        return images.clone()
    moved = 0.001 * noise if kind == "gaussian" else NORMS[norm].spread(noise, per_sample(radius, images))
    return (images + moved).clamp(0, 1)


def climber(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    radius: torch.Tensor | float,
    step: torch.Tensor | float,
    loss: str,
    clean_logits: torch.Tensor | None = None,
    target: torch.Tensor | None = None,
    norm: str = "linf",
) -> Climb:
    """One step of ascent around `images`, as a function of the point; arguments as of `pgd`."""
    ascend, ball = ATTACK_LOSSES[loss], NORMS[norm]
    bound, move = per_sample(radius, images), per_sample(step, images)

    def climb(adv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        adv = adv.detach().requires_grad_(True)
        with torch.enable_grad():
            logits = model(adv)
            height = ascend(logits, labels, clean_logits)
            if target is not None:
                towards = -F.cross_entropy(logits, target.clamp(min=0), reduction="none")
                height = torch.where(target >= 0, towards, height)
            (gradient,) = torch.autograd.grad(height.sum(), adv)
        return logits.detach(), ball.project(adv.detach() + ball.climb(gradient, move), images, bound).clamp(0, 1)

    return climb


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
    target: torch.Tensor | None = None,
    norm: str = "linf",
    tick: AttackTick | None = None,
) -> torch.Tensor:
    """Ascend `loss` by steps of fixed length: adversarial images, same shape as `images` [B, C, H, W] in [0, 1].

    `radius` and `step` are in pixel units, a number or one per sample [B]; `start` defaults to the images, at which the KL
    has no slope. `clean_logits` [B, C] are for that loss: made once, not at each step. `target` int64 [B] names the class to
    be taken for, by descending cross-entropy; -1 leaves a sample untargeted. `norm` is a row of `NORMS`.
    The model is used as it is: put it in `frozen` first.
    Source: Madry et al., ICLR 2018, eq. 2.
    """
    climb = climber(
        model, images, labels, radius=radius, step=step, loss=loss, clean_logits=clean_logits, target=target, norm=norm
    )
    adv = (images if start is None else start).detach().clone()
    for _ in range(steps):
        if tick is not None:
            tick()
        adv = climb(adv)[1]
    return adv


def pgd_until_fooled(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    radius: float,
    step: float,
    steps: int,
    loss: str = "cross-entropy",
    start: torch.Tensor | None = None,
    norm: str = "linf",
    tick: AttackTick | None = None,
) -> torch.Tensor:
    """As `pgd`, but a sample stands still at its first misclassified iterate, as an evaluation wants: any iterate may win.

    From there on it costs nothing: where half of the images fool a network at once or soon, nearly half of the work is saved. In
    evaluation mode no sample's attack depends on the others.
    """
    adv = (images if start is None else start).detach().clone()
    left = torch.arange(len(images), device=images.device)
    for _ in range(steps):
        if tick is not None:
            tick()
        climb = climber(model, images[left], labels[left], radius=radius, step=step, loss=loss, norm=norm)
        logits, moved = climb(adv[left])
        right = logits.argmax(1) == labels[left]
        left = left[right]
        if not len(left):
            break
        adv[left] = moved[right]
    return adv


def boundary_pair(climb: Climb, start: torch.Tensor, labels: torch.Tensor, steps: int, tick: AttackTick) -> torch.Tensor:
    """Two points of each ascent, on either side of the decision boundary: [2, B, C, H, W] (Sun et al., AAAI 2023).

    First the last iterate that is still classified right (the start, where none is); then the iterate one step after the
    first wrong one. An ascent that never crosses ends in both. Costs one step more than `pgd`.
    """
    inner = outer = adv = start.detach().clone()
    whole = [1] * (start.ndim - 1)
    crossed = torch.zeros_like(labels, dtype=torch.bool)
    for _ in range(steps):
        tick()
        logits, moved = climb(adv)
        right = logits.argmax(1) == labels
        inner = torch.where((right & ~crossed).view(-1, *whole), adv, inner)
        outer = torch.where(crossed.view(-1, *whole), outer, moved)  # the step that follows the crossing is still made
        crossed = crossed | ~right
        adv = moved
    right = climb(adv)[0].argmax(1) == labels
    return torch.stack([torch.where((right & ~crossed).view(-1, *whole), adv, inner), outer])
