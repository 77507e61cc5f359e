"""Attack images by projected gradient ascent (PGD): its losses, its norms, the ascent itself.

Each sample may have its own radius, step and target. A new loss is a row in `ATTACK_LOSSES`, a new norm a row in `NORMS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from faal_lab.methods.class_stats import margin

AttackLoss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, clean: torch.Tensor | None = None) -> torch.Tensor:
    """Return the cross-entropy of each sample [B] (PGD: Madry et al., ICLR 2018)."""
    return F.cross_entropy(logits, labels, reduction="none")


def logit_margin(logits: torch.Tensor, labels: torch.Tensor, clean: torch.Tensor | None = None) -> torch.Tensor:
    """Return the best wrong logit minus the true one [B].

    This is Carlini and Wagner's loss without its constant, the field's "CW-k".
    """
    return margin(logits, labels)


def divergence(logits: torch.Tensor, labels: torch.Tensor, clean: torch.Tensor | None = None) -> torch.Tensor:
    """Return KL(p(clean) || p(attacked)) [B] (TRADES: Zhang et al., ICML 2019).

    Raises ValueError without the clean logits.
    """
    if clean is None:
        raise ValueError("The attack loss 'kl' needs the logits of the clean images.")
    return F.kl_div(logits.log_softmax(1), clean.log_softmax(1), reduction="none", log_target=True).sum(1)


NEEDS_CLEAN = ("kl",)
ATTACK_LOSSES: dict[str, AttackLoss] = {
    "cross-entropy": cross_entropy,
    "margin": logit_margin,
    "kl": divergence,
}


Value = torch.Tensor | float  # a number, or one per sample [B, 1, 1, 1]


class Norm(NamedTuple):
    """The operations of a norm on images [B, C, H, W]; `radius` and `step` have the shapes of `Value`."""

    spread: Callable[[torch.Tensor, Value], torch.Tensor]  # uniform numbers in [0, 1) -> a random move inside the ball
    climb: Callable[[torch.Tensor, Value], torch.Tensor]  # gradient -> the steepest move of length `step`
    project: Callable[[torch.Tensor, torch.Tensor, Value], torch.Tensor]  # point, images -> the ball's nearest point


def per_sample(value: torch.Tensor | float, images: torch.Tensor) -> Value:
    """Reshape a radius per sample [B] to multiply images [B, C, H, W]; a number stays as it is."""
    if isinstance(value, torch.Tensor) and value.ndim == 1:
        return value.view(-1, *[1] * (images.ndim - 1))
    return value


def _length(delta: torch.Tensor) -> torch.Tensor:
    return delta.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, *[1] * (delta.ndim - 1))


def _spread_l2(noise: torch.Tensor, radius: Value) -> torch.Tensor:
    """Draw uniformly from the ball: a normal direction, and a length whose d-th power is uniform."""
    direction = torch.erfinv((2 * noise - 1).clamp(-1 + 1e-6, 1 - 1e-6))
    # a number has 24 bits; its low ones are as good as independent of it, and save a second draw
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


AttackTick = Callable[[], None]  # called between steps, so that a slow attack can still be paused or stopped
Climb = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]  # a point -> its logits, and the next point


def start_point(
    images: torch.Tensor, radius: torch.Tensor | float, noise: torch.Tensor | None, kind: str = "uniform", norm: str = "linf"
) -> torch.Tensor:
    """Return the start of an attack: the images, or the images moved by `noise` and cut to the pixel box.

    `uniform` noise in [0, 1) is spread over the ball of the norm; `gaussian` noise is scaled by 0.001 (TRADES, MART). A kind
    that ends in `-uncut` is not cut, as in most released codes; the first step of the attack cuts it.
    """
    if noise is None:
        return images.clone()
    moved = 0.001 * noise if kind.startswith("gaussian") else NORMS[norm].spread(noise, per_sample(radius, images))
    return images + moved if kind.endswith("-uncut") else (images + moved).clamp(0, 1)


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
    """Return the function that makes one step of ascent around `images`; arguments as of `pgd`."""
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
    """Attack images: x <- project(x + step * direction of the gradient of `loss`), `steps` times.

    Madry et al., ICLR 2018, eq. 2. Returns adversarial images with the shape of `images`, [B, C, H, W] in [0, 1].

    `radius` and `step` are in pixel units, a number or one per sample [B]. `start` defaults to the images, where the KL has
    no slope. `clean_logits` [B, C] are for the KL, computed once instead of at each step. `target` int64 [B] is the class
    that a sample should be taken for: the attack descends its cross-entropy; -1 leaves a sample untargeted. `norm` is a row
    of `NORMS`. `tick` is called before each step. The model is used in the mode it is in: put it in `frozen` first.
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


class Goal(NamedTuple):
    """The frame of a training attack on a batch of B images."""

    start: torch.Tensor  # [B, C, H, W]: where it begins
    radius: torch.Tensor | float  # in pixel units, one for all or [B]
    step: torch.Tensor | float  # the size of a step, alike
    steps: int
    norm: str  # a row of NORMS
    loss: str  # a row of ATTACK_LOSSES: the objective's
    clean_logits: torch.Tensor | None = None  # [B, C], where the loss needs them
    target: torch.Tensor | None = None  # int64 [B], -1 untargeted
    tick: AttackTick | None = None  # to be called before each step, so that a run can pause within an attack


Attacker = Callable[[nn.Module, torch.Tensor, torch.Tensor, Goal], torch.Tensor]  # model, images, labels, goal -> images


class PGD:
    """The training attack of all methods' papers: projected gradient ascent of the objective's attack loss.

    Another one is an object of the same form. Its images are cut to the ball and to [0, 1] afterwards.
    """

    def __call__(self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, goal: Goal) -> torch.Tensor:
        """Attack images [B, C, H, W]; the model is frozen and in the attack's mode. Return images of the same shape."""
        return pgd(
            model, images, labels, radius=goal.radius, step=goal.step, steps=goal.steps, loss=goal.loss, start=goal.start,
            clean_logits=goal.clean_logits, target=goal.target, norm=goal.norm, tick=goal.tick,
        )  # fmt: skip


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
    """Run `pgd`, but leave a sample at its first misclassified iterate.

    An evaluation counts any iterate, so further steps on that sample would be wasted. If half of the images fool a network
    at once or soon, this saves nearly half of the work. In evaluation mode no sample's attack depends on the others.
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
    """Return two points of each ascent, on either side of the decision boundary: [2, B, C, H, W].

    Sun et al., AAAI 2023. The first is the last iterate that is still classified correctly (the start, if none is). The
    second is the iterate one step after the first wrong one. If an ascent never crosses, both are its end. Costs one step
    more than `pgd`.
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


def released_pair(climb: Climb, starts: torch.Tensor, labels: torch.Tensor, steps: int, tick: AttackTick) -> torch.Tensor:
    """Return the two points as BAT's released code finds them, by an ascent each from `starts` [2, B, C, H, W].

    The first is the iterate before the first wrong one (the start, if that is wrong). The second is the second wrong iterate,
    wherever it comes. The end of an ascent is not looked at, so it is the point of an image that did not stop before.
    """
    found = []
    for start, stops in zip(starts, (1, 2), strict=True):
        adv = before = start.detach().clone()
        point, left = adv, torch.full_like(labels, stops)
        for _ in range(steps):
            tick()
            logits, moved = climb(adv)
            running = left > 0
            left = left - (running & (logits.argmax(1) != labels)).long()
            stopped = (running & (left == 0)).view(-1, *[1] * (start.ndim - 1))
            point = torch.where(stopped, before if stops == 1 else adv, point)
            before, adv = adv, moved
        found.append(torch.where((left > 0).view(-1, *[1] * (start.ndim - 1)), adv, point))
    return torch.stack(found)
