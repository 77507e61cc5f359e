"""Probe a network during training for signs that its validation attack is misled.

A robust accuracy under PGD means nothing if cross-entropy has no slope. Two cheap facts show it: the slope itself, and an
attack up another loss. The logit margin keeps its slope where cross-entropy loses it (Carlini and Wagner, S&P 2017); so images
that PGD leaves and three steps up the margin break were not robust. The full search for masked gradients, with more images,
steps and attacks, belongs to an evaluation (`evaluation.masking`).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from faal_lab.data import keyed_random
from faal_lab.data.images import Images
from faal_lab.methods.pgd import AttackTick
from faal_lab.methods.predict import Attack, adversarial, taken_for
from faal_lab.models.build import frozen

_IMAGES, _LEFT = 64, 16  # images whose slope is measured, and images that PGD left which are attacked again
_AGAIN = Attack("margin", 3, step_ratio=2 / 3)  # three steps cross the ball; ten would cost 3 % of an epoch of the demo
_DRAW = 1  # another start than that of the validation, which is draw 0


def slopes(model: nn.Module, pixels: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradient of cross-entropy by the pixels [B, C, H, W], zero where there is none, and the logits [B, C]."""
    pixels = pixels.detach().requires_grad_(True)
    logits = model(pixels)
    loss = F.cross_entropy(logits, labels, reduction="sum")
    gradient = torch.autograd.grad(loss, pixels)[0] if loss.requires_grad else torch.zeros_like(pixels)
    return gradient, logits.detach()


def certain(logits: torch.Tensor) -> torch.Tensor:
    """Return which images [B] have a probability of exactly 1: cross-entropy has hardly a slope there."""
    return (logits.softmax(1) == 1).any(1)


def probe(
    model: nn.Module, images: Images, stands: torch.Tensor | None, epsilon: float, *, seed: int, norm: str, tick: AttackTick
) -> dict[str, int]:
    """Count signs of a misled attack on a few images, the same ones at each call.

    `stands` [N] are the images that PGD left; None attacks none. Noise is keyed by image: no random state is touched.

    Returns:
        `images` whose slope was measured, those with `no_slope` in any pixel, those `certain`; and of the images that PGD left,
        those that `stood` before and `fell` to the attack up the margin.
    """
    order = keyed_random.permutation(0, 0, len(images), images.labels.device)
    tick()
    left = order[:0] if stands is None else order[stands[order]][:_LEFT]
    with frozen(model):
        gradient, logits = slopes(model, *images.batch(order[:_IMAGES]))
        found = [(gradient == 0).flatten(1).all(1).sum(), certain(logits).sum()]
        if len(left):
            adv = adversarial(model, images, left, _AGAIN, epsilon, seed=seed, norm=norm, draw=_DRAW, tick=tick)
            found.append((taken_for(model, adv) != images.labels[left]).sum())
    no_slope, sure, *fell = torch.stack(found).tolist()
    return {"images": len(logits), "no_slope": no_slope, "certain": sure, "stood": len(left), "fell": sum(fell)}
