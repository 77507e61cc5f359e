"""Make the images of a batch adversarial: phase 1 of a training step."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import torch

from faal_lab.data import keyed_random
from faal_lab.data.batches import Batch
from faal_lab.errors import OwnPartError
from faal_lab.methods.fairness.base import AttackedBatch, AttackPlan, PlansAttacks
from faal_lab.methods.pgd import NEEDS_CLEAN, NORMS, PGD, Goal, boundary_pair, climber, per_sample, released_pair, start_point
from faal_lab.methods.releases import order
from faal_lab.models.build import frozen
from faal_lab.training.trainer import Trainer


class Attacked(NamedTuple):
    """The result of phase 1."""

    images: torch.Tensor  # [B, C, H, W], or [2, B, C, H, W] if the objective wants two points
    radius: torch.Tensor | None  # [B] in pixel units, or None: the run's epsilon for all


def parts_of(images: int, accumulation: int) -> int:
    """Return the number of parts in which a batch goes through the network.

    A small last batch of an epoch has fewer, so that no part is a single image.
    """
    return max(1, min(accumulation, images // 2))


def attack(trainer: Trainer, batch: Batch) -> Attacked:
    """Search for the worst perturbation of each image (FAAL, Algorithm 1, lines 2 and 3).

    A batch that is accumulated in parts is attacked in the same parts: each image's attack is its own.
    """
    count = parts_of(batch.size, trainer.config.accumulation)
    parts = [Batch(*tensors) for tensors in zip(*(tensor.tensor_split(count) for tensor in batch[:3]), strict=True)]
    found = [_attack_part(trainer, part) for part in parts]
    if len(found) == 1:
        return found[0]
    radii = [part.radius for part in found if part.radius is not None]
    return Attacked(torch.cat([part.images for part in found], dim=-4), torch.cat(radii) if radii else None)


def _attack_part(trainer: Trainer, batch: Batch) -> Attacked:
    state, config = trainer.state, trainer.config
    objective, method = state.acting().objective, state.acting().fairness
    if objective.attack_loss is None:
        return Attacked(batch.images, None)
    mode = config.attack_mode(first_batch=state.batch == 0 and state.epoch > 0)
    with frozen(state.model, mode):

        @cache
        def clean_logits() -> torch.Tensor:
            with torch.no_grad():
                return state.model(batch.images)

        def draw() -> torch.Tensor:
            return keyed_random.uniform(config.seed, state.epoch, batch.keys, keyed_random.TARGET)

        plan = None
        if isinstance(method, PlansAttacks):
            seen = AttackedBatch(
                batch.labels, trainer.num_classes, config.step_ratio, clean_logits, draw, trainer.class_sizes,
                state.epoch / config.epochs,
            )  # fmt: skip
            plan = method.plan_attack(seen)
            plan = plan._replace(radius=plan.radius.to(batch.images.dtype), step=plan.step.to(batch.images.dtype))
        radius = state.dials["epsilon"] if plan is None else state.dials["epsilon"] * plan.radius
        climb = partial(_carried, trainer) if config.replays else partial(_climbed, trainer, plan=plan, clean_logits=clean_logits)
        adv = climb(batch, radius)
        if mode == "train" and "restart" in order(state.acting().passes).before:
            with torch.no_grad():
                state.model(adv)
    return Attacked(adv, radius if isinstance(radius, torch.Tensor) else None)


def _climbed(
    trainer: Trainer,
    batch: Batch,
    radius: torch.Tensor | float,
    plan: AttackPlan | None,
    clean_logits: Callable[[], torch.Tensor],
) -> torch.Tensor:
    """Run PGD with the objective's attack loss, or find both sides of the boundary."""
    state, config = trainer.state, trainer.config
    objective, kind = state.acting().objective, state.acting().start
    loss = objective.attack_loss
    assert loss is not None
    step = config.step_ratio * state.dials["epsilon"]
    settings = {
        "radius": radius, "step": step if plan is None else step * plan.step, "loss": loss, "norm": config.norm,
        "clean_logits": clean_logits() if loss in NEEDS_CLEAN else None, "target": None if plan is None else plan.target,
    }  # fmt: skip

    def start(purpose: int) -> torch.Tensor:
        noise = None
        if kind != "zero":
            draw = keyed_random.normal if kind.startswith("gaussian") else keyed_random.uniform
            noise = draw(config.seed, state.epoch, batch.keys, purpose, tuple(batch.images.shape[1:]))
        point = start_point(batch.images, radius, noise, kind, config.norm)
        return point if config.attack_steps else point.clamp(0, 1)  # without a step nothing else would cut it

    first = start(keyed_random.ATTACK_START)
    if objective.points == 2:
        climb = climber(state.model, batch.images, batch.labels, **settings)
        if getattr(objective, "ascents", 1) == 2:
            both = torch.stack([first, start(keyed_random.SECOND_START)])
            return released_pair(climb, both, batch.labels, config.attack_steps, trainer.tick)
        return boundary_pair(climb, first, batch.labels, config.attack_steps, trainer.tick)
    attacker = state.acting().attack
    found = attacker(
        state.model, batch.images, batch.labels, Goal(first, steps=config.attack_steps, tick=trainer.tick, **settings)
    )
    if isinstance(attacker, PGD):
        return found
    if found.shape != batch.images.shape:
        name = type(attacker).__name__
        raise OwnPartError(f"The attack {name} returned {list(found.shape)}; expected images {list(batch.images.shape)}.")
    return NORMS[config.norm].project(found.detach(), batch.images, per_sample(radius, batch.images)).clamp(0, 1)


def _carried(trainer: Trainer, batch: Batch, radius: torch.Tensor | float) -> torch.Tensor:
    """Return free training's images: moved by the perturbation of the batch before.

    It is zero at first (Shafahi et al., NeurIPS 2019).
    """
    state, config, images = trainer.state, trainer.config, batch.images
    if state.perturbation is None or state.perturbation.shape[1:] != images.shape[1:]:
        state.perturbation = torch.zeros(config.batch_size, *images.shape[1:], device=images.device)
    moved = images + state.perturbation.to(images.device)[: len(images)]
    return NORMS[config.norm].project(moved, images, per_sample(radius, images)).clamp(0, 1)


def climb_along(trainer: Trainer, batch: Batch, attacked: Attacked, gradient: torch.Tensor) -> None:
    """Move free training's perturbation one step of the whole radius.

    `gradient` [B, C, H, W] is that of the training loss itself.
    """
    state, ball, images = trainer.state, NORMS[trainer.config.norm], batch.images
    assert state.perturbation is not None
    radius = per_sample(attacked.radius if attacked.radius is not None else state.dials["epsilon"], images)
    moved = attacked.images.detach() + ball.climb(gradient, radius)
    state.perturbation[: len(images)] = ball.project(moved, images, radius) - images
