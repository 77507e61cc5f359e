"""Measure between two epochs for fairness methods, predict what fits in memory, probe for masked gradients, balance.

Test images are never read.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional as F

from faal_lab.data import keyed_random
from faal_lab.data.batches import Batch
from faal_lab.data.images import Images, Splits
from faal_lab.data.storage import free_memory
from faal_lab.dro.balance import Round, best, play
from faal_lab.errors import ConfigError, FaalLabError, RecipeError
from faal_lab.methods.averaging import wearing
from faal_lab.methods.awp import weight_perturbed
from faal_lab.methods.class_stats import ClassStats
from faal_lab.methods.fairness.base import NoFairness
from faal_lab.methods.pgd import AttackTick
from faal_lab.methods.predict import Attack, adversarial, count_by_class, predictions, taken_for
from faal_lab.models.build import frozen
from faal_lab.models.examine import train_mode
from faal_lab.models.fast import Held, imagined, in_bfloat16, wants_bfloat16
from faal_lab.models.processes import count, joint_batch_norm, largest, rank
from faal_lab.models.shift import bias_name
from faal_lab.runs.config import Config, needs_whole_batches
from faal_lab.runs.events import Balanced
from faal_lab.training.attack import attack, parts_of
from faal_lab.training.step import Passes, before_batch
from faal_lab.training.trainer import Trainer, TrainingState

_CHUNK = 250  # images at once


@dataclass(frozen=True)
class Measurement:
    """The `Measure` of fairness methods."""

    trainer: Trainer

    @staticmethod
    def of(trainer: Trainer) -> Measurement:
        """Return the measurements of a training, by its present dials.

        A dial that is turned meanwhile holds from the next step, as it is then recorded.
        """
        quiet = replace(trainer.config, replays=0, batch_norm="eval")  # free training cannot attack images outside of its batches
        state = replace(trainer.state, dials=dict(trainer.state.dials))
        return Measurement(replace(trainer, state=state, config=quiet))

    def validation_errors(self, steps: int, last: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Return class error rates [C] on validation images, clean and under PGD of `steps` steps.

        An image is wrong if any iterate is; with `last`, if the last one is. A class without images gets the mean.
        """
        validation = self._validation()
        found = []
        for kind in (None, Attack("cross-entropy", steps, self.trainer.config.step_ratio, last=last)):
            wrong = self._predicted(validation, kind) != validation.labels
            found.append(_class_means(wrong.float(), validation.labels, self.trainer.num_classes))
        return found[0], found[1]

    def validation_cost(self) -> torch.Tensor:
        """Return class means [C] of the training loss on attacked validation images, in evaluation mode.

        The loss is the sum of the objective's terms, the attack that of training.
        """
        images, model = self._validation(), self.trainer.state.model
        costs = []
        for indices in torch.arange(len(images), device=images.labels.device).split(_CHUNK):
            pixels, labels = images.batch(indices)
            batch = Batch(pixels, labels, indices + 2 * len(self.trainer.splits.train))  # keys, so noise, of their own
            adv = attack(self.trainer, batch).images
            with frozen(model), torch.no_grad():
                costs.append(
                    torch.stack(list(self.trainer.state.recipe.objective(model, pixels, adv, labels).terms.values())).sum(0)
                )
        return _class_means(torch.cat(costs), images.labels, self.trainer.num_classes)

    def validation_counts(self) -> tuple[torch.Tensor, int]:
        """Return the number of validation images of each class [C], and the images of a batch."""
        images, config = self._validation(), self.trainer.config
        return torch.bincount(images.labels, minlength=self.trainer.num_classes), config.batch_size

    def training_confusion(self, steps: int, released: float = 0.0) -> torch.Tensor:
        """Count all training images, not augmented, by (predicted, true) under PGD: [C, C].

        `released` above 0: at the last iterate, from a start not cut to the pixel box, with the true logit times this factor.
        """
        images, classes, ratio = self.trainer.splits.train, self.trainer.num_classes, self.trainer.config.step_ratio
        if released:
            predicted = self._predicted_by_release(
                images, Attack("cross-entropy", steps, ratio, "uniform-uncut", last=True), released
            )
        else:
            predicted = self._predicted(images, Attack("cross-entropy", steps, ratio))
        rows = [count_by_class(predicted == label, images.labels, classes) for label in range(classes)]
        return torch.tensor(rows, device=images.labels.device)

    def _validation(self) -> Images:
        if not len(self.trainer.splits.validation):
            raise RecipeError("The fairness method measures on validation images, and there are none. Set validation to split.")
        return self.trainer.splits.validation

    def _predicted_by_release(self, images: Images, kind: Attack, factor: float) -> torch.Tensor:
        trainer, found = self.trainer, []
        with frozen(trainer.state.model) as model:
            for indices in torch.arange(len(images), device=images.labels.device).split(_CHUNK):
                adv = adversarial(
                    model, images, indices, kind, trainer.state.dials["epsilon"], seed=trainer.config.seed,
                    norm=trainer.config.norm, tick=trainer.tick,
                )  # fmt: skip
                found.append(taken_for(model, adv, images.labels[indices], factor))
        return torch.cat(found)

    def _predicted(self, images: Images, kind: Attack | None) -> torch.Tensor:
        config, state = self.trainer.config, self.trainer.state
        return predictions(
            state.model, images, kind, state.dials["epsilon"], seed=config.seed, norm=config.norm, tick=self.trainer.tick
        )


def _class_means(values: torch.Tensor, labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    stats = ClassStats.of(labels, num_classes, {"value": values})
    means = stats.mean("value")
    return torch.where(stats.present, means, means[stats.present].mean())


class MemoryNote(UserWarning):
    """The number of parts that was chosen for a batch, and why."""


def step_memory(trainer: Trainer, parts: int = 1) -> int:
    """Predict the most bytes that the tensors of a training step hold at once, with weights, gradients and momentum.

    Two steps are made with tensors that have no numbers: a second of work. The allocator's gaps come on top, as much again
    and more by glibc on a CPU (`benchmarks/memory.py`). Fairness methods are left out: they hold a few numbers for each class.
    """
    config, images = replace(trainer.config, accumulation=parts), trainer.splits.train
    size, device = -(-min(config.batch_size, len(images)) // count()), images.labels.device
    low = wants_bfloat16(config.precision, trainer.state.model, device)
    # copies, as a part of somebody else may remember what it saw
    recipe = copy.deepcopy(replace(trainer.state.recipe, fairness=NoFairness(), plain=None))
    with imagined(trainer.state.model) as model, Held() as held, in_bfloat16(model, low), joint_batch_norm(model):
        held.count((*model.parameters(), *model.buffers()))
        decay, weights = config.weight_decay, model.parameters()
        optimizer = torch.optim.SGD(weights, lr=config.learning_rate, momentum=config.momentum, weight_decay=decay)
        average = {n: t.clone() for n, t in model.state_dict().items()} if recipe.averaging.kind != "none" else {}
        changed = {"model": model, "optimizer": optimizer, "recipe": recipe, "average": average, "averaged": 1}
        state = replace(trainer.state, **changed, epoch=config.awp_start)
        twin = replace(trainer, state=state, config=config)
        labels = torch.zeros(size, dtype=torch.long, device=device)
        batch = Batch(torch.zeros(size, *images.pixels.shape[1:], device=device), labels, labels)
        for _ in range(2):  # the second one has momentum
            before, attacked = before_batch(state), attack(twin, batch)
            pieces = parts_of(size, parts)
            passes = Passes(train_mode(model), state.acting(), batch.images, attacked.images.detach(), labels, pieces, size)
            with weight_perturbed(model, passes.unweighted, state.recipe.awp_gamma):
                state.optimizer.zero_grad(set_to_none=True)
                passes.backward(passes.whole(), {})
                state.optimizer.step()
            state.averaged = state.recipe.averaging.after_step(state.average, model, state.epoch, state.averaged)
            del before, attacked, passes
    return held.most


def fewest_parts(trainer: Trainer) -> int:
    """Return the fewest parts of a batch, of 1, 2, 4, ..., with which a step fits in memory by prediction; a note states them."""
    config, images, whole = trainer.config, trainer.splits.train, needs_whole_batches(trainer.config)
    on_cpu = images.labels.device.type == "cpu"
    free, gaps = free_memory(images.labels.device) // (count() if on_cpu else 1), 2.5 if on_cpu else 1.2
    sizes = (min(config.batch_size, len(images)), len(images) % config.batch_size or config.batch_size)
    parts, needed = 1, 0
    try:
        while (needed := step_memory(trainer, parts)) * gaps > free and not whole and 4 * parts <= sizes[0]:
            if any(size // parts_of(size, 2 * parts) < count() for size in sizes):
                break
            parts *= 2
        said = f"the tensors of a step hold about {needed / 1e6:,.0f} MB at once, {free / 1e6:,.0f} MB are free"
    except Exception as error:  # a network or a part of somebody else may read numbers, or refuse to be copied
        said = f"what a step holds cannot be predicted here ({type(error).__name__}). If memory is short, state a number"
    if needed * gaps > free:
        said += f". This may not fit: lower batch_size{f' ({whole} needs it whole)' if whole else ''}"
    parts = largest(parts)
    if not rank():
        warnings.warn(f"accumulation={parts}: {said}.", MemoryNote, stacklevel=3)
    return parts


class BatchTooLarge(FaalLabError, RuntimeError):
    """A batch too large for the memory of the device; the message states a size that fits, if any."""


def too_large(trainer: Trainer, batch: Batch, low: bool) -> BatchTooLarge:
    """Return the error for a batch that was too large, with a size that fits.

    Weights, buffers and gradients stay as they were. Call it outside of the `except` that caught the failure: that traceback
    holds on to the memory that is missing.
    """
    if batch.images.device.type == "cuda":
        torch.cuda.empty_cache()
    state, config = trainer.state, trainer.config
    whole, parts = len(batch.labels), config.accumulation
    said = f"A batch of {whole} images does not fit in the memory of {batch.images.device}"
    said += f" in {parts} parts" if parts > 1 else ""
    more = 2 * parts
    while more < 2 * whole and not _fits(state, batch, -(-whole // more), low):
        more *= 2
    size = -(-whole // more)
    if more >= 2 * whole:
        return BatchTooLarge(f"{said}, nor does a single image. Choose a smaller network or another device.")
    if config.replays or config.attack_mode() == "train":
        return BatchTooLarge(f"{said}; {size} images do. Set batch_size={size * count()}.")
    return BatchTooLarge(
        f"{said}; {size} images do. Set accumulation={more} (the class weights stay those of the whole batch, a step costs one "
        f"forward pass more, and BatchNorm sees {size} images at a time), or batch_size={size * parts * count()}."
    )


def _fits(state: TrainingState, batch: Batch, size: int, low: bool) -> bool:
    """Return whether the objective's passes of `size` images fit in memory, forward and backward."""
    model, objective = state.model, state.acting().objective
    before = [b.detach().clone() for b in model.buffers()]
    gradients = [p.grad for p in model.parameters()]
    images, labels = batch.images[:size], batch.labels[:size]
    try:
        with in_bfloat16(model, low):
            terms = objective(model, images, torch.stack([images] * 2) if objective.points == 2 else images, labels).terms
            torch.stack(list(terms.values())).sum().backward()
    except torch.OutOfMemoryError:
        return False
    finally:
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            parameter.grad = gradient
        with torch.no_grad():
            for buffer, old in zip(model.buffers(), before, strict=True):
                buffer.copy_(old)
    return True


# The probe of an epoch.
#
# A robust accuracy under PGD means nothing if cross-entropy has no slope. Two cheap facts show it: the slope itself, and an
# attack up another loss. The logit margin keeps its slope where cross-entropy loses it (Carlini and Wagner, S&P 2017); so images
# that PGD leaves and three steps up the margin break were not robust. The full search for masked gradients, with more images,
# steps and attacks, belongs to an evaluation (`evaluation.masking`).
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


# Balance: a bias for each class, found on validation images.
LEAST = 10  # validation images of a class; a robust accuracy of 20 % has a standard error of 13 points with so few


def check_balance_settings(config: Config) -> None:
    """Raise ConfigError unless the settings say how to attack, and the floor is in percent."""
    floor, steps = config.balance_floor, config.validation_steps
    if 0 < floor < 1:
        raise ConfigError(f"A floor of {floor:g} reads as {floor:g} %; for {100 * floor:g} % write {100 * floor:g}.")
    for name, value in (("steps of the attack (validation_steps)", steps), ("epsilon", config.epsilon)):
        if not value:
            raise ConfigError(f"balance attacks validation images, so it needs {name} above 0, got {value:g}.")


def check_balance(splits: Splits, config: Config, where: str = "") -> None:
    """Raise ConfigError unless there are validation images to balance by: of each class, attacked, and no test images."""
    check_balance_settings(config)
    if config.validation == "test":
        raise ConfigError("balance needs validation images, and validation=test takes the test images. Set validation to split.")
    if not len(splits.validation):
        raise ConfigError(f"balance needs validation images, and {where or 'this run'} has none. Set validation to split.")
    counts = torch.bincount(splits.validation.labels, minlength=splits.num_classes)
    if int(counts.min()) < LEAST:
        few = int(counts.argmin())
        raise ConfigError(
            f"balance needs {LEAST} validation images of each class, and class {splits.class_names[few]} has {int(counts[few])}. "
            "Give it more images, or a val/ part of your own."
        )


def check_last_layer(model: nn.Module, splits: Splits, name: str) -> None:
    """Raise ConfigError unless a run can write a bias into the network itself."""
    if not bias_name(model, splits.train.batch(torch.arange(2, device=splits.train.labels.device))[0]):
        raise ConfigError(
            f"balance=bias writes into the last layer, and the logits of {name} do not come straight from a linear layer with a "
            "bias. Leave it out, and balance the finished run: faal-lab balance RUN"
        )


def balance(
    model: nn.Module, weights: str, images: Images, config: Config, *, epsilon: float, rounds: int = 6,
    tick: AttackTick = lambda: None, progress: Callable[[int], None] | None = None,
) -> tuple[list[Round], Round]:  # fmt: skip
    """Play the game for a bias of each class; return its rounds and the chosen one, whose bias the network then has.

    Each round attacks the images again, with the bias in the network, by the validation attack of `config`. Its noise stays the
    same, so that two rounds differ by the bias alone. `weights` is the name of the tensor [C] that takes the bias.
    """
    tensor = dict([*model.named_parameters(), *model.named_buffers()])[weights]
    plain, classes = tensor.detach().clone(), len(tensor)
    kind = Attack("cross-entropy", config.validation_steps, config.step_ratio)

    def put(bias: tuple[float, ...]) -> None:
        with torch.no_grad():
            tensor.copy_(plain + torch.tensor(bias, dtype=plain.dtype, device=plain.device))

    def measure(bias: tuple[float, ...]) -> tuple[list[int], list[int]]:
        put(bias)
        predicted = predictions(model, images, kind, epsilon, seed=config.seed, norm=config.norm, tick=tick, progress=progress)
        right = count_by_class(predicted == images.labels, images.labels, classes)
        return right, torch.bincount(images.labels, minlength=classes).tolist()

    floor = config.balance_floor / 100
    try:
        found = play(measure, classes, tau=config.balance_tau, average_floor=floor, rounds=rounds)
        chosen = best(found, config.balance_tau, floor)
    except BaseException:
        put((0.0,) * classes)
        raise
    put(chosen.bias)
    return found, chosen


def balance_run(trainer: Trainer, tick: AttackTick) -> Balanced:
    """Balance the network that a training delivers; return the event."""
    state, config, images = trainer.state, trainer.config, trainer.splits.validation
    state.activity = "balancing"
    name = bias_name(state.model, images.batch(torch.arange(2, device=images.labels.device))[0])
    try:
        with wearing(state.model, state.average):
            found, chosen = balance(state.model, name, images, config, epsilon=state.dials["epsilon"], tick=tick)
            biased = state.model.state_dict()[name].clone()
    except ConfigError as error:
        raise ConfigError(f"{error} The network is trained and kept: faal-lab balance RUN --average-floor PERCENT") from error
    (state.average or state.model.state_dict())[name].copy_(biased)
    trainer.balanced = sentence(found, chosen, config, state.dials["epsilon"])
    return event(state.step, config, found, chosen)


def sentence(found: list[Round], chosen: Round, config: Config, epsilon: float) -> str:
    """Say how a balance was found, for whoever reads the network's verdicts."""
    return (
        f"A bias for each class was found on {sum(found[0].total):,} validation images under PGD-{config.validation_steps} "
        f"at epsilon {epsilon:.4g}, tau {config.balance_tau:g}: round {found.index(chosen)} of {len(found) - 1}."
    )


def event(step: int, config: Config, found: list[Round], chosen: Round) -> Balanced:
    """Return the event of a balance: every round, and the number of the chosen one."""
    return Balanced(
        step, config.balance_tau, config.balance_floor, config.validation_steps, found.index(chosen), list(found[0].total),
        [list(r.bias) for r in found], [list(r.correct) for r in found],
    )  # fmt: skip
