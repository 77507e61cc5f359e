"""Train: one loop, a generator of plain events.

To pause, stop pulling events; to stop, close the generator; for a single step, call `next()`. Commands from `poll` do the
same from outside. The whole state of a run is in `TrainingState`: between two events it is complete and can be saved.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch

from faal_lab.data.batches import Sampler
from faal_lab.methods.averaging import Tensors, wearing
from faal_lab.methods.fairness.base import BeginsEpochs, EndsEpochs, Samples
from faal_lab.methods.predict import Attack, count_by_class, survivors
from faal_lab.models.fast import compiled, in_bfloat16, wants_bfloat16
from faal_lab.models.processes import check_same, count, joint_batch_norm, rank, share
from faal_lab.runs.events import DialTurned, EpochDone, Event
from faal_lab.training.attack import parts_of
from faal_lab.training.measure import Measurement, probe, too_large
from faal_lab.training.steering import BatchAgain, Poll, Steering, Stopped
from faal_lab.training.step import before_batch, put_back, step
from faal_lab.training.trainer import Trainer


def train(trainer: Trainer, poll: Poll = list, script: Sequence[DialTurned] = ()) -> Iterator[Event]:
    """Train to the last epoch; yield an event after each step, epoch and command.

    Test images are never read.

    Args:
        trainer: the training, which continues from its state. Between two events that state is whole and can be saved.
        poll: returns the commands that came since its last call; a stop ends the generator in order.
        script: turns of dials, each after a step, to make again as another run recorded them.

    Raises:
        TrainingDiverged: if loss or gradient is not finite.
        Stopped: after a stop.
    """
    state, steering = trainer.state, Steering(trainer, poll, script)
    try:
        while state.epoch < trainer.config.epochs:
            trainer.tick = steering.look
            yield from _begin_epoch(trainer, steering)
            yield from _batches(trainer, steering)
            state.activity, trainer.tick = "validating", steering.look
            ended = _end_epoch(trainer)
            steering.to_end = False
            yield ended
            yield from steering.obey()  # after the epoch: its state must not be ahead of the record
    except Stopped:
        yield from steering.obey()
        raise


def _begin_epoch(trainer: Trainer, steering: Steering) -> Iterator[Event]:
    """Let the fairness method measure, and turn scheduled dials.

    This happens once an epoch, however often it is resumed.
    """
    state = trainer.state
    if state.begun >= state.epoch:
        return
    steering.replay()
    method = state.recipe.at(state.epoch).fairness
    if isinstance(method, BeginsEpochs):
        state.activity = "measuring"
        method.begin_epoch(Measurement.of(trainer))
    state.begun = state.epoch
    yield from steering.obey()
    tau = trainer.config.tau_schedule().get(state.epoch)
    if tau is not None:
        old, state.dials["tau"] = state.dials["tau"], tau
        yield DialTurned(state.step, "tau", old, tau)


def _batches(trainer: Trainer, steering: Steering) -> Iterator[Event]:
    """Make the steps of one epoch that are still to be made."""
    state, splits, config = trainer.state, trainer.splits, trainer.config
    augmentation = splits.augmentation if config.augment == "auto" else config.augment
    low = wants_bfloat16(config.precision, state.model, splits.train.labels.device)
    sampler = Sampler(
        splits.train, config.seed, state.epoch, config.batch_size, augmentation, partial(_share, config.accumulation)
    )
    trainer.tick = steering.during_attack
    while state.batch < trainer.steps_per_epoch:
        steering.replay()
        steering.look(now=True)
        yield from steering.obey()
        method = state.acting().fairness
        drawn_by = method.class_probabilities(trainer.num_classes) if isinstance(method, Samples) else None
        batch = sampler.batch(state.batch // max(1, config.replays), drawn_by)
        before, done = before_batch(state), None
        try:
            with (
                in_bfloat16(state.model, low), compiled(state.model, state.quick), joint_batch_norm(state.model),
                _drawn_by_seed(trainer),
            ):  # fmt: skip
                done = step(trainer, batch, before)
        except (BatchAgain, Stopped) as reason:
            put_back(state, before)  # an attack in training mode has moved BatchNorm
            if isinstance(reason, Stopped):
                raise
            continue
        except torch.OutOfMemoryError:
            put_back(state, before)
        if done is None:
            raise too_large(trainer, batch, low)
        steering.singles = max(0, steering.singles - 1)
        yield done


def _share(accumulation: int, rows: torch.Tensor) -> torch.Tensor:
    """Return the rows of a batch [B] that this process takes: a share of each of its parts."""
    return share(rows, parts_of(len(rows), accumulation))


@contextmanager
def _drawn_by_seed(trainer: Trainer) -> Iterator[None]:
    """Seed the global random state for one step of a network with dropout: it draws the same when resumed.

    Each process draws for its own images. A CPU takes only the low 32 bits of a seed, so these hold all three numbers.
    """
    if not trainer.draws:
        yield
        return
    where = trainer.splits.train.labels.device
    with torch.random.fork_rng(devices=[where] if where.type == "cuda" else []):
        torch.manual_seed(((trainer.config.seed * 1_000_003 + trainer.state.step) * 65_537 + rank()) % 2**32)
        yield


def _end_epoch(trainer: Trainer) -> EpochDone:
    """Validate, average, and let the fairness method learn.

    All of these may be interrupted, so the state changes last.
    """
    state = trainer.state
    average: Tensors = {name: tensor.clone() for name, tensor in state.average.items()}
    done, averaging, method = None, state.recipe.averaging, state.recipe.fairness
    if averaging.kind == "fawa" or not average:
        done = validate(trainer)
        robust = [r / n for r, n in zip(done.robust_correct, done.count, strict=True) if n]
        averaging.after_epoch(average, state.model, state.epoch, min(robust, default=0.0))
    if average or done is None:
        with wearing(state.model, average):
            done = validate(trainer)
    if isinstance(method, EndsEpochs) and state.epoch >= state.recipe.fairness_start - 1 and state.tally is not None:
        method.end_epoch(state.tally, Measurement.of(trainer))
    state.average, state.tally = average, None
    state.epoch, state.batch = state.epoch + 1, 0
    if count() > 1:
        held = {**state.model.state_dict(), **state.recipe.fairness.state}
        check_same("weights", {name: float(tensor.detach().double().sum()) for name, tensor in held.items()})
    return done


def validate(trainer: Trainer) -> EpochDone:
    """Count correct validation images by class, clean and under PGD, and probe a few for an attack that is misled.

    The radius is the epsilon of the run's configuration, not the dial.
    """
    state, config, validation = trainer.state, trainer.config, trainer.splits.validation
    if not len(validation):
        nothing = [0] * trainer.num_classes
        return EpochDone(state.epoch + 1, state.step, nothing, clean_correct=nothing, robust_correct=nothing)
    pgd = Attack("cross-entropy", config.validation_steps, config.step_ratio)
    ball = {"seed": config.seed, "norm": config.norm, "tick": trainer.tick}
    clean, robust = (survivors(state.model, validation, kind, config.epsilon, **ball) for kind in (None, pgd))
    found = probe(state.model, validation, robust if config.validation_steps else None, config.epsilon, **ball)
    masks = (torch.ones_like(clean), clean, robust)
    counts = (count_by_class(verdicts, validation.labels, trainer.num_classes) for verdicts in masks)
    return EpochDone(state.epoch + 1, state.step, *counts, probe=found)
