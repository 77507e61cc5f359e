"""Phases 2 and 3 of a training step: the worst class distribution, and one descent step against it.

Knows: objective, fairness method, weight perturbation, optimiser, average. Must not know: epochs, commands, where events go.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from faal_lab.adversary import weight_perturbed
from faal_lab.attacking import Attacked, climb_along, parts_of
from faal_lab.class_stats import CLASS_SCORES, ClassStats, class_sums
from faal_lab.config import RunConfig
from faal_lab.evaluation.attacks import count_by_class
from faal_lab.events import StepDone
from faal_lab.fairness import EndsEpochs
from faal_lab.objectives import Outcome
from faal_lab.passes import Passes, scored_logits
from faal_lab.sampling import Batch
from faal_lab.state import TrainingState

Tensors = dict[str, torch.Tensor]


class Before(NamedTuple):
    """What a step that is then refused must leave as it was."""

    buffers: list[torch.Tensor]  # a train-mode forward moves BatchNorm
    fairness: Tensors  # weighing may learn from the batch


class TrainingDiverged(FloatingPointError):
    """Loss or gradient is not finite; the state is that of the last good step."""


def before_batch(state: TrainingState) -> Before:
    """Copies of what a batch changes besides weights and momentum."""
    buffers = [b.detach().clone() for b in state.model.buffers()]
    return Before(buffers, {name: tensor.clone() for name, tensor in state.recipe.fairness.state.items()})


def put_back(state: TrainingState, before: Before) -> None:
    """Undo what forward passes and weighing did."""
    for buffer, old in zip(state.model.buffers(), before.buffers, strict=True):
        buffer.copy_(old)
    state.recipe.fairness.state.clear()
    state.recipe.fairness.state.update(before.fairness)


def descend(
    state: TrainingState,
    batch: Batch,
    attacked: Attacked,
    num_classes: int,
    rate: float,
    config: RunConfig,
    before: Before,
) -> StepDone:
    """One optimiser step (FAAL, Algorithm 1, lines 4 to 8); raises TrainingDiverged with the state as it was before the batch."""
    model, recipe, labels = state.model, state.acting(), batch.labels
    model.train()
    adv = attacked.images.detach().requires_grad_(bool(config.replays))
    passes = Passes(model, recipe, batch.images, adv, labels, parts_of(len(labels), config.accumulation))
    gamma = recipe.awp_gamma if state.epoch >= recipe.awp_start else 0.0
    with weight_perturbed(model, passes.unweighted, gamma):
        outcome = passes.whole()
        logits = scored_logits(outcome)
        if not bool(torch.isfinite(logits).all()):
            raise _diverged(state, before, "Logits are", rate)
        stats = _statistics(state, outcome, logits, labels, num_classes)
        with torch.no_grad():
            weighing = recipe.fairness.weigh(stats, tuple(outcome.terms), state.dials["tau"])
        state.optimizer.zero_grad(set_to_none=True)
        loss = passes.backward(outcome, weighing.multipliers)
        _step(state, loss, before, rate)
    if config.replays:
        assert adv.grad is not None
        climb_along(state, batch, attacked, adv.grad, config)
    state.averaged = recipe.averaging.after_step(state.average, model, state.epoch, state.averaged)
    if isinstance(state.recipe.fairness, EndsEpochs):
        state.tally = stats if state.tally is None else state.tally + stats
    state.step, state.batch = state.step + 1, state.batch + 1
    count = [int(n) for n in stats.count.tolist()]
    return StepDone(
        step=state.step, epoch=state.epoch, loss=loss.item(), tau=state.dials["tau"], epsilon=state.dials["epsilon"],
        learning_rate=rate, weights=weighing.weights.tolist(), divergence=float(weighing.divergence), count=count,
        margin=_known(stats.mean("margin"), count), robust_correct=_correct(outcome.adv_logits, labels, num_classes),
        clean_correct=_correct(outcome.clean_logits, labels, num_classes), radii=_radii(attacked, labels, stats),
    )  # fmt: skip


def _statistics(
    state: TrainingState, outcome: Outcome, logits: torch.Tensor, labels: torch.Tensor, num_classes: int
) -> ClassStats:
    """What the fairness method needs to know of the batch, and the margin, which is always shown."""
    needs = {"margin", *state.recipe.fairness.needs}
    values = {name: CLASS_SCORES[name](logits, labels) for name in needs - {"loss", "softmax"}}
    if "loss" in needs:
        values["loss"] = torch.stack([term.detach() for term in outcome.terms.values()]).sum(0)
    if "softmax" in needs:
        values["softmax"] = logits.softmax(1)
    return ClassStats.of(labels, num_classes, values)


def _step(state: TrainingState, loss: torch.Tensor, before: Before, rate: float) -> None:
    """One optimiser step with the gradients that are there; raises TrainingDiverged where it must not be made."""
    size = torch.nn.utils.get_total_norm([p.grad for p in state.model.parameters() if p.grad is not None])
    if not (math.isfinite(loss.item()) and math.isfinite(size.item())):
        raise _diverged(state, before, f"Loss {loss.item()} and gradient norm {size.item()} are", rate)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.step()


def _diverged(state: TrainingState, before: Before, what: str, rate: float) -> TrainingDiverged:
    """The error to raise; what the batch changed is put back."""
    put_back(state, before)
    return TrainingDiverged(
        f"{what} not finite at step {state.step + 1}. The last good state is step {state.step}. "
        f"Lower the learning rate (now {rate:.4g}) or tau, or look for broken images."
    )


def _correct(logits: torch.Tensor | None, labels: torch.Tensor, num_classes: int) -> list[int] | None:
    return None if logits is None else count_by_class(logits.detach().argmax(1) == labels, labels, num_classes)


def _known(means: torch.Tensor, count: list[int]) -> list[float | None]:
    """Class means [C], None where the class was absent."""
    return [m if n else None for m, n in zip(means.tolist(), count, strict=True)]


def _radii(attacked: Attacked, labels: torch.Tensor, stats: ClassStats) -> list[float | None] | None:
    """Each class's attack radius, where the fairness method gives classes radii of their own."""
    if attacked.radius is None:
        return None
    sums = class_sums(attacked.radius, labels, len(stats.count))
    return _known(sums / stats.count.clamp(min=1), [int(n) for n in stats.count.tolist()])
