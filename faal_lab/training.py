"""The one training loop: a generator of plain events.

Knows: how one batch becomes one step. Must not know: where data come from, files, plots.
Pausing is not pulling, stopping is closing, a single step is `next()`; commands, where a `poll` is given, do the same
from outside. All that a run is lives in `TrainingState`: between two events it is whole and can be saved.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import nn

from faal_lab import keyed_random
from faal_lab.adversary import NEEDS_CLEAN, AttackTick, frozen, pgd, start_point
from faal_lab.class_stats import CLASS_SCORES, ClassStats
from faal_lab.config import ConfigError, RunConfig, check_dial
from faal_lab.data import Images, Splits, augmented
from faal_lab.evaluation.attacks import Attack, count_by_class, survivors
from faal_lab.events import COMMANDS, Command, CommandRefused, DialTurned, EpochDone, Event, StepDone
from faal_lab.fairness import NoFairness
from faal_lab.names import UnknownName, check_name
from faal_lab.objectives import weighted
from faal_lab.recipe import Recipe

Poll = Callable[[], list[Command]]
_PLAIN = NoFairness()


class TrainingDiverged(FloatingPointError):
    """Loss or gradient is not finite; the state is that of the last good step."""


class _BatchAgain(Exception):
    """A dial was turned during an attack: the batch begins again with it. Noise is keyed, so nothing else changes."""


class Stopped(Exception):
    """A stop was asked for; the state is that of the last whole step."""


@dataclass
class TrainingState:
    """Everything a run needs to go on from where it is. Noise needs no state: it is keyed by seed, epoch and image."""

    model: nn.Module
    optimizer: torch.optim.SGD
    recipe: Recipe
    dials: dict[str, float]  # tau, epsilon, learning_rate as they stand now
    epoch: int = 0
    batch: int = 0  # batches of this epoch already done
    step: int = 0
    commands_read: int = 0  # so that a command obeyed before an interruption is not obeyed again
    activity: str = field(default="starting", compare=False)

    @staticmethod
    def fresh(model: nn.Module, recipe: Recipe, config: RunConfig) -> TrainingState:
        """The state before the first step."""
        optimizer = torch.optim.SGD(
            model.parameters(), lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
        )
        dials = {"tau": config.tau, "epsilon": config.epsilon, "learning_rate": config.learning_rate}
        return TrainingState(model, optimizer, recipe, dials)


def learning_rate_factor(schedule: str, progress: float, epoch: int, epochs: int) -> float:
    """Multiplier of the peak learning rate at `progress` in [0, 1) of the run."""
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if schedule == "one-cycle":
        return progress / 0.3 if progress < 0.3 else (1 - progress) / 0.7
    if schedule == "step":
        return 0.1 ** sum(epoch >= share * epochs for share in (0.5, 0.75))
    return 1.0


class Steering:
    """Obeys commands: turns dials, and blocks while paused. One per call of `train`."""

    _INTERVAL = 0.2  # seconds between looks between attack steps, and where one look is slow (a network disk)

    def __init__(self, state: TrainingState, config: RunConfig, poll: Poll) -> None:
        self.state, self.config, self.poll = state, config, poll
        self.turns: list[DialTurned] = []  # turned, not yet told
        self.refused: list[str] = []
        self.paused, self.stop = False, False
        self.singles = 0  # steps that may be made while paused
        self._looked, self._cost = -math.inf, 0.0

    def look(self, *, now: bool = False) -> None:
        """Read new commands; raises Stopped on a stop. Blocks while paused."""
        self._read(now)
        while self.paused and not self.singles and not self.stop:
            self.state.activity = "paused"
            time.sleep(self._INTERVAL / 4)
            self._read(False)
        if self.stop:
            raise Stopped
        self.state.activity = "training"

    def during_attack(self) -> None:
        """Look between two attack steps."""
        self.look()
        if self.turns:
            raise _BatchAgain

    def _read(self, now: bool) -> None:
        clock = time.monotonic()
        if clock - self._looked < self._INTERVAL and not (now and self._cost < 0.002):
            return
        for command in self.poll():
            self.state.commands_read = max(self.state.commands_read, command.number)
            try:
                self._take(command)
            except (UnknownName, ConfigError) as error:
                self.refused.append(str(error))
        self._looked = time.monotonic()
        self._cost = self._looked - clock

    def _take(self, command: Command) -> None:
        do = check_name("command", command.do, COMMANDS)
        if do == "turn":
            # turned as it is read, so that a checkpoint never holds a command as read whose dial it does not hold
            value, old = check_dial(command.dial, command.value, self.config), self.state.dials[command.dial]
            self.state.dials[command.dial] = value
            self.turns.append(DialTurned(self.state.step, command.dial, old, value))
        self.paused = do == "pause" or (self.paused and do != "resume") or do == "step"
        self.singles += do == "step"
        self.stop = self.stop or do == "stop"

    def obey(self) -> Iterator[DialTurned | CommandRefused]:
        """What was turned and refused since the last call; the caller records it before a batch feels it."""
        for reason in self.refused:
            yield CommandRefused(self.state.step, reason)
        yield from self.turns
        self.refused, self.turns = [], []


def steps_per_epoch(splits: Splits, config: RunConfig) -> int:
    """Batches in an epoch; the last one may be smaller."""
    return -(-len(splits.train) // config.batch_size)


def train(state: TrainingState, splits: Splits, config: RunConfig, poll: Poll = list) -> Iterator[Event]:
    """Train from `state` to the last epoch, yielding an event after each step, epoch and command.

    `poll` returns commands that came since it was last called; a stop ends the generator in order.
    Raises TrainingDiverged where loss or gradient is not finite. Test images are never read.
    """
    steering = Steering(state, config, poll)
    try:
        yield from _epochs(state, splits, config, steering)
    except Stopped:
        yield from steering.obey()
        raise


def _epochs(state: TrainingState, splits: Splits, config: RunConfig, steering: Steering) -> Iterator[Event]:
    """The loop itself."""
    batches = steps_per_epoch(splits, config)
    device = splits.train.labels.device
    augmentation = splits.augmentation if config.augment == "auto" else config.augment
    while state.epoch < config.epochs:
        order = keyed_random.permutation(config.seed, state.epoch, len(splits.train), device)
        while state.batch < batches:
            steering.look(now=True)
            yield from steering.obey()
            progress = state.step / (config.epochs * batches)
            rate = state.dials["learning_rate"] * learning_rate_factor(config.lr_schedule, progress, state.epoch, config.epochs)
            indices = order[state.batch * config.batch_size : (state.batch + 1) * config.batch_size]
            images, labels = splits.train.batch(indices)
            images = augmented(images, augmentation, config.seed, state.epoch, indices)
            try:
                adv = _attack(state, images, labels, indices, config, steering.during_attack)
            except _BatchAgain:
                continue
            done = _step(state, images, adv, labels, splits.num_classes, rate, config.fairness_start)
            steering.singles = max(0, steering.singles - 1)
            yield done
        state.activity = "validating"
        validated = _validate(state, splits.validation, splits.num_classes, config, steering.look)
        state.epoch, state.batch = state.epoch + 1, 0
        yield from steering.obey()
        yield validated


def _attack(
    state: TrainingState,
    images: torch.Tensor,
    labels: torch.Tensor,
    indices: torch.Tensor,
    config: RunConfig,
    tick: AttackTick,
) -> torch.Tensor:
    """Phase 1: the worst perturbation of each image (FAAL, Algorithm 1, lines 2 and 3)."""
    loss, epsilon = state.recipe.objective.attack_loss, state.dials["epsilon"]
    if loss is None:
        return images
    noise, kind = None, state.recipe.start
    if kind != "zero":
        draw = keyed_random.normal if kind == "gaussian" else keyed_random.uniform
        noise = draw(config.seed, state.epoch, indices, keyed_random.ATTACK_START, tuple(images.shape[1:]))
    with frozen(state.model):
        clean = None
        if loss in NEEDS_CLEAN:
            with torch.no_grad():
                clean = state.model(images)
        return pgd(
            state.model, images, labels, radius=epsilon, step=config.step_ratio * epsilon, steps=config.attack_steps,
            loss=loss, start=start_point(images, epsilon, noise, kind), clean_logits=clean, tick=tick,
        )  # fmt: skip


def _step(
    state: TrainingState,
    images: torch.Tensor,
    adv: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int,
    rate: float,
    fairness_start: int,
) -> StepDone:
    """Phases 2 and 3: the worst class distribution, and one descent step against it (lines 4 to 8)."""
    model, recipe = state.model, state.recipe
    buffers = [b.detach().clone() for b in model.buffers()]  # a train-mode forward moves BatchNorm even if the step is refused
    model.train()
    outcome = recipe.objective(model, images, adv, labels)
    attacked = outcome.adv_logits if outcome.adv_logits is not None else outcome.clean_logits
    assert attacked is not None, "an objective must return the logits that classes are scored by"
    logits = attacked.detach()
    if not bool(torch.isfinite(logits).all()):
        raise _diverged(state, buffers, "Logits are", rate)
    scores = {name: CLASS_SCORES[name](logits, labels) for name in {"margin", *recipe.fairness.needs} - {"loss"}}
    if "loss" in recipe.fairness.needs:
        scores["loss"] = torch.stack([term.detach() for term in outcome.terms.values()]).sum(0)
    stats = ClassStats.of(labels, num_classes, scores)
    with torch.no_grad():
        method = recipe.fairness if state.epoch >= fairness_start else _PLAIN
        weighing = method.weigh(stats, tuple(outcome.terms), state.dials["tau"])
    loss = weighted(outcome.terms, weighing.multipliers, labels)
    _descend(state, loss, buffers, rate)
    count = [int(n) for n in stats.count.tolist()]
    margins = [m if n else None for m, n in zip(stats.mean("margin").tolist(), count, strict=True)]
    return StepDone(
        step=state.step, epoch=state.epoch, loss=loss.item(), tau=state.dials["tau"], epsilon=state.dials["epsilon"],
        learning_rate=rate, weights=weighing.weights.tolist(), divergence=float(weighing.divergence), count=count,
        margin=margins, robust_correct=_correct(outcome.adv_logits, labels, num_classes),
        clean_correct=_correct(outcome.clean_logits, labels, num_classes),
    )  # fmt: skip


def _descend(state: TrainingState, loss: torch.Tensor, buffers: list[torch.Tensor], rate: float) -> None:
    """One optimiser step; raises TrainingDiverged, with the state as before the forward, where it must not be made."""
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    size = torch.nn.utils.get_total_norm([p.grad for p in state.model.parameters() if p.grad is not None])
    if not (math.isfinite(loss.item()) and math.isfinite(size.item())):
        raise _diverged(state, buffers, f"Loss {loss.item()} and gradient norm {size.item()} are", rate)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.step()
    state.step, state.batch = state.step + 1, state.batch + 1


def _diverged(state: TrainingState, buffers: list[torch.Tensor], what: str, rate: float) -> TrainingDiverged:
    """The error to raise; buffers are put back to what they were before the forward."""
    for buffer, before in zip(state.model.buffers(), buffers, strict=True):
        buffer.copy_(before)
    return TrainingDiverged(
        f"{what} not finite at step {state.step + 1}. The last good state is step {state.step}. "
        f"Lower the learning rate (now {rate:.4g}) or tau, or look for broken images."
    )


def _correct(logits: torch.Tensor | None, labels: torch.Tensor, num_classes: int) -> list[int] | None:
    return None if logits is None else count_by_class(logits.detach().argmax(1) == labels, labels, num_classes)


def _validate(state: TrainingState, validation: Images, num_classes: int, config: RunConfig, tick: AttackTick) -> EpochDone:
    """Class-wise clean and PGD accuracy on the validation images, at the epsilon of the run's configuration."""
    if not len(validation):
        nothing = [0] * num_classes
        return EpochDone(state.epoch + 1, state.step, nothing, clean_correct=nothing, robust_correct=nothing)
    attack = Attack("cross-entropy", config.validation_steps, config.step_ratio)
    counts = []
    for kind in (None, attack):
        verdicts = survivors(state.model, validation, kind, config.epsilon, seed=config.seed, tick=tick)
        counts.append(count_by_class(verdicts, validation.labels, num_classes))
    whole = torch.ones_like(validation.labels, dtype=torch.bool)
    total = count_by_class(whole, validation.labels, num_classes)
    return EpochDone(state.epoch + 1, state.step, total, clean_correct=counts[0], robust_correct=counts[1])
