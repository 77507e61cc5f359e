"""Train: one loop, a generator of plain events.

Pausing is not pulling, stopping is closing, a single step is `next()`. Commands, where a `poll` is given, do the same from
outside. All that a run is lives in `TrainingState`: between two events it is whole and can be saved.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from faal_lab.data.batches import Sampler
from faal_lab.data.images import Splits
from faal_lab.methods.averaging import Tensors, wearing
from faal_lab.methods.fairness.base import BeginsEpochs, EndsEpochs, Samples
from faal_lab.methods.pgd import AttackTick
from faal_lab.methods.predict import Attack, count_by_class, survivors
from faal_lab.models.fast import compiled, in_bfloat16, wants_bfloat16
from faal_lab.runs.config import Config
from faal_lab.runs.events import DialTurned, EpochDone, Event
from faal_lab.training.attack import attack
from faal_lab.training.measure import Measurement, too_large
from faal_lab.training.state import TrainingState
from faal_lab.training.steering import BatchAgain, Poll, Steering, Stopped
from faal_lab.training.update import TrainingDiverged, before_batch, descend, put_back


def learning_rate_factor(config: Config, progress: float, epoch: int) -> float:
    """Multiplier of the peak learning rate at `progress` in [0, 1) of the run."""
    if config.lr_schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if config.lr_schedule == "one-cycle":
        return progress / 0.3 if progress < 0.3 else (1 - progress) / 0.7
    if config.lr_schedule == "step":
        return 0.1 ** sum(epoch >= round(share * config.epochs, 9) for share in config.drops())
    return 1.0


def steps_per_epoch(splits: Splits, config: Config) -> int:
    """Optimiser steps in an epoch; the last batch may be smaller, and free training uses each several times."""
    return -(-len(splits.train) // config.batch_size) * max(1, config.replays)


def train(
    state: TrainingState, splits: Splits, config: Config, poll: Poll = list, script: Sequence[DialTurned] = ()
) -> Iterator[Event]:
    """Train from `state` to the last epoch, yielding an event after each step, epoch and command.

    `poll` returns commands that came since it was last called; a stop ends the generator in order. `script` are turns of dials,
    each after a step, that are made again as another run recorded them.
    Raises TrainingDiverged where loss or gradient is not finite. Test images are never read.
    """
    steering = Steering(state, config, poll, script)
    try:
        while state.epoch < config.epochs:
            yield from _begin_epoch(state, splits, config, steering)
            yield from _batches(state, splits, config, steering)
            state.activity = "validating"
            yield _end_epoch(state, splits, config, steering.look)
            yield from steering.obey()  # after it: between the two the state would be ahead of what was said
    except Stopped:
        yield from steering.obey()
        raise


def _begin_epoch(state: TrainingState, splits: Splits, config: Config, steering: Steering) -> Iterator[Event]:
    """Let the fairness method measure, and turn scheduled dials; once an epoch, however often it is resumed."""
    if state.begun >= state.epoch:
        return
    steering.replay()
    method = state.recipe.at(state.epoch).fairness
    if isinstance(method, BeginsEpochs):
        state.activity = "measuring"
        method.begin_epoch(Measurement.of(state, splits, config, steering.look))
    state.begun = state.epoch
    yield from steering.obey()
    tau = config.tau_schedule().get(state.epoch)
    if tau is not None:
        old, state.dials["tau"] = state.dials["tau"], tau
        yield DialTurned(state.step, "tau", old, tau)


def _batches(state: TrainingState, splits: Splits, config: Config, steering: Steering) -> Iterator[Event]:
    """The steps of one epoch that are still to be made."""
    steps = steps_per_epoch(splits, config)
    augmentation = splits.augmentation if config.augment == "auto" else config.augment
    low = wants_bfloat16(config.precision, state.model, splits.train.labels.device)
    sampler = Sampler(splits.train, config.seed, state.epoch, config.batch_size, augmentation)
    while state.batch < steps:
        steering.replay()
        steering.look(now=True)
        yield from steering.obey()
        progress = state.step / (config.epochs * steps)
        rate = state.dials["learning_rate"] * learning_rate_factor(config, progress, state.epoch)
        method = state.acting().fairness
        drawn_by = method.class_probabilities(splits.num_classes) if isinstance(method, Samples) else None
        batch = sampler.batch(state.batch // max(1, config.replays), drawn_by)
        before, done = before_batch(state), None
        try:
            with in_bfloat16(state.model, low), compiled(state.model, state.quick):
                attacked = attack(state, batch, splits.num_classes, config, steering.during_attack)
                done = descend(state, batch, attacked, splits.num_classes, rate, config, before)
        except (BatchAgain, Stopped) as reason:
            put_back(state, before)  # an attack in training mode has moved BatchNorm
            if isinstance(reason, Stopped):
                raise
            continue
        except torch.OutOfMemoryError:
            put_back(state, before)
        if done is None:
            raise too_large(state, batch, config, low)
        steering.singles = max(0, steering.singles - 1)
        yield done


def _end_epoch(state: TrainingState, splits: Splits, config: Config, tick: AttackTick) -> EpochDone:
    """Validate, average, let the fairness method learn. The state changes last: all before may be interrupted."""
    average: Tensors = {name: tensor.clone() for name, tensor in state.average.items()}
    done, averaging, method = None, state.recipe.averaging, state.recipe.fairness
    if averaging.kind == "fawa" or not average:
        done = _validate(state, splits, config, tick)
        robust = [r / n for r, n in zip(done.robust_correct, done.count, strict=True) if n]
        averaging.after_epoch(average, state.model, state.epoch, min(robust, default=0.0))
    if average or done is None:
        with wearing(state.model, average):
            done = _validate(state, splits, config, tick)
    if isinstance(method, EndsEpochs) and state.epoch >= state.recipe.fairness_start - 1 and state.tally is not None:
        method.end_epoch(state.tally, Measurement.of(state, splits, config, tick))
    state.average, state.tally = average, None
    state.epoch, state.batch = state.epoch + 1, 0
    return done


def _validate(state: TrainingState, splits: Splits, config: Config, tick: AttackTick) -> EpochDone:
    """Class-wise clean and PGD accuracy on the validation images, at the epsilon of the run's configuration."""
    if not len(splits.validation):
        nothing = [0] * splits.num_classes
        return EpochDone(state.epoch + 1, state.step, nothing, clean_correct=nothing, robust_correct=nothing)
    validation, attacked = splits.validation, Attack("cross-entropy", config.validation_steps, config.step_ratio)
    counts = []
    for kind in (None, attacked):
        verdicts = survivors(state.model, validation, kind, config.epsilon, seed=config.seed, norm=config.norm, tick=tick)
        counts.append(count_by_class(verdicts, validation.labels, splits.num_classes))
    whole = torch.ones_like(validation.labels, dtype=torch.bool)
    total = count_by_class(whole, validation.labels, splits.num_classes)
    return EpochDone(state.epoch + 1, state.step, total, clean_correct=counts[0], robust_correct=counts[1])


__all__ = ["Poll", "Stopped", "TrainingDiverged", "TrainingState", "learning_rate_factor", "steps_per_epoch", "train"]
