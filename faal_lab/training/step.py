"""Make one training step: attack the batch, find the worst class distribution, descend the loss.

`step` is FAAL's Algorithm 1, line by line. A batch goes through the network whole, or in parts if memory is short; class
weights are those of the whole batch either way. Parts cost one more forward pass, since all parts must be scored before the
loss of one is known. BatchNorm normalises each part by itself, in both passes alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import torch
from torch import nn

from faal_lab.data.batches import Batch
from faal_lab.dro.base import eager_on_cpu
from faal_lab.errors import FaalLabError
from faal_lab.methods.awp import weight_perturbed
from faal_lab.methods.class_stats import CLASS_SCORES, ClassStats, class_sums
from faal_lab.methods.fairness.base import AddsTerms, EndsEpochs, Weighing
from faal_lab.methods.objectives import Outcome, passed, weighted
from faal_lab.methods.recipe import Recipe
from faal_lab.methods.releases import order
from faal_lab.models import processes
from faal_lab.models.examine import train_mode
from faal_lab.runs.events import StepDone
from faal_lab.training.attack import Attacked, attack, climb_along, parts_of
from faal_lab.training.trainer import Trainer, TrainingState


class Part(NamedTuple):
    """Some images of a batch."""

    images: torch.Tensor  # [b, C, H, W]
    adv: torch.Tensor  # the same, or [2, b, C, H, W]
    labels: torch.Tensor  # int64 [b]
    share: float  # of the batch


def scored_logits(outcome: Outcome) -> torch.Tensor:
    """Return the logits [B, C] that classes are scored by, without gradient.

    They are those of the attacked images, if there are any.
    """
    logits = outcome.adv_logits if outcome.adv_logits is not None else outcome.clean_logits
    assert logits is not None, "an objective must return the logits that classes are scored by"
    return logits.detach()


class Passes:
    """The passes of a batch and its attacked images through a model in training mode.

    The batch goes through in `parts` pieces; `whole` are its images in all processes.
    """

    def __init__(
        self, model: nn.Module, recipe: Recipe, images: torch.Tensor, adv: torch.Tensor, labels: torch.Tensor, parts: int,
        whole: int,
    ) -> None:  # fmt: skip
        self._model, self._recipe = model, recipe
        released = order(recipe.passes)
        self._order = released._replace(before=tuple(name for name in released.before if name != "restart"))
        sample = adv.ndim - images.ndim  # 1 if the two points of each image come first
        pieces = zip(images.tensor_split(parts), adv.tensor_split(parts, dim=sample), labels.tensor_split(parts), strict=True)
        self._parts = (
            [Part(x, a, y, len(y) / whole) for x, a, y in pieces]
            if parts > 1
            else [Part(images, adv, labels, len(labels) / whole)]
        )

    def whole(self) -> Outcome:
        """Return the outcome of all images.

        With one part it keeps its graph. With several it has none, and BatchNorm is left as it was.
        """
        if len(self._parts) == 1:
            return self._outcome(self._parts[0])
        before = [b.detach().clone() for b in self._model.buffers()]
        with torch.no_grad():
            found = [self._outcome(part) for part in self._parts]
            for buffer, old in zip(self._model.buffers(), before, strict=True):
                buffer.copy_(old)
        terms = {name: torch.cat([outcome.terms[name] for outcome in found]) for name in found[0].terms}
        return Outcome(terms, _joined([o.clean_logits for o in found]), _joined([o.adv_logits for o in found]))

    def backward(self, whole: Outcome, multipliers: dict[str, torch.Tensor]) -> torch.Tensor:
        """Add the gradients of the weighted loss to those of the weights; return the loss [].

        `whole` is the outcome that `whole()` returned.
        """
        if len(self._parts) == 1:
            part = self._parts[0]
            loss = part.share * weighted(whole.terms, multipliers, part.labels, scored_logits(whole).argmax(1))
            loss.backward()
            return loss.detach()
        total = torch.zeros((), device=self._parts[0].labels.device)
        for part in self._parts:
            outcome = self._outcome(part)
            loss = part.share * weighted(outcome.terms, multipliers, part.labels, scored_logits(outcome).argmax(1))
            loss.backward()
            total = total + loss.detach()  # in the precision of the loss
        return total

    def unweighted(self) -> Iterator[torch.Tensor]:
        """Yield the summands of the objective's own loss, which a weight perturbation ascends."""
        for part in self._parts:
            outcome = self._recipe.objective(self._model, part.images, part.adv, part.labels)
            yield part.share * weighted(outcome.terms, {}, part.labels)

    def after(self) -> None:
        """Make the release's passes after the optimiser step, which move BatchNorm and nothing else."""
        for part in self._parts:
            passed(self._model, self._order.after, part.images, part.adv.detach())

    def _outcome(self, part: Part) -> Outcome:
        objective, method = self._recipe.objective, self._recipe.fairness
        if self._order.before:
            made = passed(self._model, self._order.before, part.images, part.adv, objective.passes)  # pyright: ignore[reportAttributeAccessIssue]
            outcome = objective.outcome(made, part.labels)  # pyright: ignore[reportAttributeAccessIssue]
        else:
            outcome = objective(self._model, part.images, part.adv, part.labels)
        if isinstance(method, AddsTerms):
            outcome = outcome._replace(terms={**outcome.terms, **method.more_terms(outcome, part.labels)})
        return outcome


def _joined(logits: list[torch.Tensor | None]) -> torch.Tensor | None:
    known = [values for values in logits if values is not None]
    return torch.cat(known) if known else None


Tensors = dict[str, torch.Tensor]


class Before(NamedTuple):
    """The values to restore if a step is refused."""

    buffers: list[torch.Tensor]  # a train-mode forward moves BatchNorm
    fairness: Tensors  # a method may learn from the batch


class TrainingDiverged(FaalLabError, FloatingPointError):
    """A loss or gradient that is not finite; the state is that of the last good step."""


def before_batch(state: TrainingState) -> Before:
    """Copy the values that a batch changes besides weights and momentum."""
    buffers = [b.detach().clone() for b in state.model.buffers()]
    return Before(buffers, {name: tensor.clone() for name, tensor in state.recipe.fairness.state.items()})


def put_back(state: TrainingState, before: Before) -> None:
    """Undo the changes of forward passes and weighing."""
    for buffer, old in zip(state.model.buffers(), before.buffers, strict=True):
        buffer.copy_(old)
    state.recipe.fairness.state.clear()
    state.recipe.fairness.state.update(before.fairness)


def step(trainer: Trainer, batch: Batch, before: Before) -> StepDone:
    """Make one step of FAAL's Algorithm 1 (Zhang et al., CVPR 2024).

    Min over weights of the max over class distributions of the max over images. Every other method takes the same path, with
    its own attack plan, class weights or loss terms. `before` is the result of `before_batch`. Raises TrainingDiverged, with
    the state as it was before the batch.
    """
    state, recipe, labels, rate = trainer.state, trainer.state.acting(), batch.labels, trainer.learning_rate
    # Lines 2 and 3: for each image x, the worst x' in its ball, max over |x' - x| <= epsilon of the attack loss.
    attacked = attack(trainer, batch)
    train_mode(state.model)
    adv = attacked.images.detach().requires_grad_(bool(trainer.config.replays))
    passes = Passes(state.model, recipe, batch.images, adv, labels, parts_of(batch.size, trainer.config.accumulation), batch.size)
    gamma = recipe.awp_gamma if state.epoch >= recipe.awp_start else 0.0
    with weight_perturbed(state.model, passes.unweighted, gamma):  # AWP; at gamma 0 the weights as they are
        # Line 4: the loss terms of each image, and the logits that classes are scored by.
        outcome = passes.whole()
        logits = scored_logits(outcome)
        # Line 5: a score for each class, the mean margin of its images, in all processes.
        stats = _statistics(trainer, outcome, logits, labels)
        found = {"broken": (~torch.isfinite(logits)).sum().float(), **_to_report(outcome, attacked, labels, trainer.num_classes)}
        processes.total([stats.count, *stats.sums.values(), *found.values()])
        if eager_on_cpu(logits) and bool(found["broken"]):  # a GPU is not asked twice in a step: it answers in `_look`
            raise _diverged(state, before, "Logits are", rate)
        # Line 6: the worst class distribution w, max over KL(U || w) <= tau of sum of w * scores. Multipliers are C * w.
        with torch.no_grad():
            weighing = recipe.fairness.weigh(stats, tuple(outcome.terms), state.dials["tau"])
        # Line 7: the gradient of the weighted loss, mean of multiplier[label] * loss.
        state.optimizer.zero_grad(set_to_none=True)
        loss = passes.backward(outcome, weighing.multipliers)
        processes.total([loss, *(p.grad for p in state.model.parameters() if p.grad is not None)])
        # Line 8: one descent step of the weights, unless a number is not finite.
        if "radius" in found:
            found["radius"] /= stats.count.clamp(min=1)
        seen = _look(state, loss, weighing, {"count": stats.count, "margin": stats.mean("margin"), **found})
        _descend(state, seen, before, rate)
    passes.after()
    if trainer.config.replays:
        assert adv.grad is not None
        climb_along(trainer, batch, attacked, adv.grad)
    state.averaged = recipe.averaging.after_step(state.average, state.model, state.epoch, state.averaged)
    if isinstance(state.recipe.fairness, EndsEpochs):
        state.tally = stats if state.tally is None else state.tally + stats
    state.step, state.batch = state.step + 1, state.batch + 1
    return _reported(state, seen, rate)


def _reported(state: TrainingState, seen: dict[str, list[float]], rate: float) -> StepDone:
    """Return the step just made as an event."""
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


def _statistics(trainer: Trainer, outcome: Outcome, logits: torch.Tensor, labels: torch.Tensor) -> ClassStats:
    """Collect the class statistics that the fairness method needs, and the margin for display."""
    needs = {"margin", *trainer.state.recipe.fairness.needs}
    # sorted: a set has another order in every process, and their sums are added place by place
    values = {name: CLASS_SCORES[name](logits, labels) for name in sorted(needs - {"loss", "softmax"})}
    if "loss" in needs:
        values["loss"] = torch.stack([term.detach() for term in outcome.terms.values()]).sum(0)
    if "softmax" in needs:
        values["softmax"] = logits.softmax(1)
    return ClassStats.of(labels, trainer.num_classes, values)


def _to_report(outcome: Outcome, attacked: Attacked, labels: torch.Tensor, classes: int) -> Tensors:
    """Collect the counts and sums [C] of a batch that are reported.

    Those that this objective or method does not have are left out.
    """
    found = {}
    for name, logits in (("robust", outcome.adv_logits), ("clean", outcome.clean_logits)):
        if logits is not None:
            found[name] = class_sums((logits.detach().argmax(1) == labels).float(), labels, classes)
    if attacked.radius is not None:  # the method gives classes radii of their own
        found["radius"] = class_sums(attacked.radius, labels, classes)
    return found


def _look(state: TrainingState, loss: torch.Tensor, weighing: Weighing, found: Tensors) -> dict[str, list[float]]:
    """Read all numbers of a step in one transfer, once its gradients are known.

    Each read from a GPU waits for all work before it, so that nothing else in a step reads.
    """
    size = torch.nn.utils.get_total_norm([p.grad for p in state.model.parameters() if p.grad is not None])
    values = {"loss": loss, "size": size, "weights": weighing.weights, "divergence": weighing.divergence, **found}
    there = {name: tensor for name, tensor in values.items() if tensor.device == loss.device}
    numbers = iter(torch.cat([tensor.detach().flatten() for tensor in there.values()]).tolist())
    seen = {name: list(islice(numbers, tensor.numel())) for name, tensor in there.items()}
    return seen | {name: tensor.flatten().tolist() for name, tensor in values.items() if name not in there}  # on the host already


def _descend(state: TrainingState, seen: dict[str, list[float]], before: Before, rate: float) -> None:
    """Make one optimiser step with the gradients; raise TrainingDiverged if they are not finite."""
    loss, size = seen["loss"][0], seen["size"][0]
    if seen["broken"][0]:
        raise _diverged(state, before, "Logits are", rate)
    if not (math.isfinite(loss) and math.isfinite(size)):
        raise _diverged(state, before, f"Loss {loss} and gradient norm {size} are", rate)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.step()


def _diverged(state: TrainingState, before: Before, what: str, rate: float) -> TrainingDiverged:
    """Undo the changes of the batch, and return the error to raise."""
    put_back(state, before)
    return TrainingDiverged(
        f"{what} not finite at step {state.step + 1}. The last good state is step {state.step}. "
        f"Lower the learning rate (now {rate:.4g}) or tau, or look for broken images."
    )
