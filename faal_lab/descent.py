"""Phases 2 and 3 of a training step: the worst class distribution, and one descent step against it.

Knows: objective, fairness method, weight perturbation, optimiser, average. Must not know: epochs, commands, where events go.
"""

from __future__ import annotations

import math
from itertools import islice
from typing import NamedTuple

import torch

from faal_lab.adversary import weight_perturbed
from faal_lab.attacking import Attacked, climb_along, parts_of
from faal_lab.class_stats import CLASS_SCORES, ClassStats, class_sums
from faal_lab.config import RunConfig
from faal_lab.errors import FaalLabError
from faal_lab.events import StepDone
from faal_lab.fairness import EndsEpochs, Weighing
from faal_lab.objectives import Outcome
from faal_lab.passes import Passes, scored_logits
from faal_lab.sampling import Batch
from faal_lab.state import TrainingState

Tensors = dict[str, torch.Tensor]


class Before(NamedTuple):
    """What a step that is then refused must leave as it was."""

    buffers: list[torch.Tensor]  # a train-mode forward moves BatchNorm
    fairness: Tensors  # weighing may learn from the batch


class TrainingDiverged(FaalLabError, FloatingPointError):
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
        seen = _look(state, loss, weighing, _to_report(outcome, attacked, labels, stats))
        _step(state, seen, before, rate)
    if config.replays:
        assert adv.grad is not None
        climb_along(state, batch, attacked, adv.grad, config)
    state.averaged = recipe.averaging.after_step(state.average, model, state.epoch, state.averaged)
    if isinstance(state.recipe.fairness, EndsEpochs):
        state.tally = stats if state.tally is None else state.tally + stats
    state.step, state.batch = state.step + 1, state.batch + 1
    count = [int(n) for n in seen["count"]]

    def counts(name: str) -> list[int] | None:
        return [int(n) for n in seen[name]] if name in seen else None

    def means(name: str) -> list[float | None]:
        return [m if n else None for m, n in zip(seen[name], count, strict=True)]

    return StepDone(
        step=state.step, epoch=state.epoch, loss=seen["loss"][0], tau=state.dials["tau"], epsilon=state.dials["epsilon"],
        learning_rate=rate, weights=seen["weights"], divergence=seen["divergence"][0], count=count, margin=means("margin"),
        robust_correct=counts("robust"), clean_correct=counts("clean"), radii=means("radius") if "radius" in seen else None,
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


def _to_report(outcome: Outcome, attacked: Attacked, labels: torch.Tensor, stats: ClassStats) -> Tensors:
    """What is shown of a batch, by class: counts, means [C]; what this objective or method does not have is left out."""
    found, classes = {"count": stats.count, "margin": stats.mean("margin")}, len(stats.count)
    for name, logits in (("robust", outcome.adv_logits), ("clean", outcome.clean_logits)):
        if logits is not None:
            found[name] = class_sums((logits.detach().argmax(1) == labels).float(), labels, classes)
    if attacked.radius is not None:  # the method gives classes radii of their own
        found["radius"] = class_sums(attacked.radius, labels, classes) / stats.count.clamp(min=1)
    return found


def _look(state: TrainingState, loss: torch.Tensor, weighing: Weighing, found: Tensors) -> dict[str, list[float]]:
    """All that is known of a step once its gradients are, in one transfer: each look at a GPU waits for all before it."""
    size = torch.nn.utils.get_total_norm([p.grad for p in state.model.parameters() if p.grad is not None])
    values = {"loss": loss, "size": size, "weights": weighing.weights, "divergence": weighing.divergence, **found}
    there = {name: tensor for name, tensor in values.items() if tensor.device == loss.device}
    numbers = iter(torch.cat([tensor.detach().flatten() for tensor in there.values()]).tolist())
    seen = {name: list(islice(numbers, tensor.numel())) for name, tensor in there.items()}
    return seen | {name: tensor.flatten().tolist() for name, tensor in values.items() if name not in there}  # on the host already


def _step(state: TrainingState, seen: dict[str, list[float]], before: Before, rate: float) -> None:
    """One optimiser step with the gradients that are there; raises TrainingDiverged where it must not be made."""
    loss, size = seen["loss"][0], seen["size"][0]
    if not (math.isfinite(loss) and math.isfinite(size)):
        raise _diverged(state, before, f"Loss {loss} and gradient norm {size} are", rate)
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
