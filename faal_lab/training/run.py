"""Train into a run folder: settings become data, model, recipe, folder and training."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from faal_lab.catalogue import AMBIGUITY_SETS, ATTACKERS, FAIRNESS, OBJECTIVES, TABLES
from faal_lab.data.images import Splits
from faal_lab.data.look import median_distance
from faal_lab.data.sets import load
from faal_lab.dro.radius import radius_for_multiplier
from faal_lab.errors import ConfigError, RecipeError
from faal_lab.methods.recipe import Recipe
from faal_lab.models.build import ModelSpec, build, device_of
from faal_lab.models.examine import NetworkWarning, architecture_sha256, check_weights, examine_network, try_model
from faal_lab.models.fast import memory_kept, takes_bfloat16, try_to_compile, wants_bfloat16
from faal_lab.models.layout import placed
from faal_lab.models.normalize import statistics
from faal_lab.models.processes import (
    check_batch_norm,
    check_same,
    count,
    first_alone,
    join,
    largest,
    leave,
    rank,
    restarted,
    told,
)
from faal_lab.runs import CheckpointError, CommandReader, Heartbeat, RunFolder, is_foreign, write_checkpoint
from faal_lab.runs.config import Config
from faal_lab.runs.control import last_number
from faal_lab.runs.events import Command, DialTurned, EpochDone, Event, RunFailed, RunFinished, RunResumed, RunStarted
from faal_lab.runs.files import tensors_sha256, versions
from faal_lab.training.attack import parts_of
from faal_lab.training.loop import train
from faal_lab.training.measure import balance_run, check_balance, check_last_layer, fewest_parts
from faal_lab.training.restore import base_file, from_checkpoint, last_state, load_weights, to_checkpoint
from faal_lab.training.steering import Stopped, caught_signals
from faal_lab.training.step import TrainingDiverged
from faal_lab.training.trainer import Trainer, TrainingState, check_last_batch


def load_data(config: Config) -> Splits:
    """Load the data set of a run in its three parts. Raises the errors of `data.sets.load`."""
    return load(
        config.data, seed=config.split_seed, data_dir=config.data_dir, image_size=config.image_size, download=config.download,
        imbalance=config.imbalance, validation=config.validation, storage=config.storage,
    )  # fmt: skip


OWN_PARTS = {table.setting: table for table in (OBJECTIVES, FAIRNESS, AMBIGUITY_SETS, ATTACKERS)}  # these also take an object


def prepare(
    config: Config, model: nn.Module | None = None, recipe: Recipe | None = None, *, from_base: bool = True,
    adopting: bool = False, parts: Mapping[str, Any] | None = None,
) -> Trainer:  # fmt: skip
    """Load the data, build the network and its recipe, and return a fresh training.

    The weights are those of the base, if one is named. `model`, `recipe` and the `parts` of a recipe (objective, fairness,
    ambiguity) may be objects of the user's own; the model takes pixels in [0, 1] and returns logits. A network or file of
    somebody else is examined first; `adopting` does not ask that it can be trained.
    """
    for table in TABLES:
        if said := table.clash(getattr(config, table.setting)):
            warnings.warn(said, stacklevel=2)
    device = device_of(config.device)
    splits = first_alone(lambda: load_data(config)) or load_data(config)  # one downloads and decodes, before the others
    channels, height, width = splits.train.pixels.shape[1:]
    name = config.model if model is None else type(model).__name__
    try:
        mean, std = statistics(config.normalization, channels, splits.channel_statistics())
    except ValueError as error:
        raise ConfigError(f"normalization: {error}") from error
    spec = ModelSpec(name, splits.num_classes, channels, height, width, mean, std, config.filters if model is None else 0)
    foreign = model is not None or ":" in config.model or bool(config.base and from_base and is_foreign(base_file(config)))
    if model is None:
        model = build(spec, config.seed)
    else:
        check_weights(model, name)
    placed(model, device)
    try_model(model, name, splits.num_classes, (channels, height, width))
    if config.precision == "bfloat16" and not takes_bfloat16(model):
        raise ConfigError(f"precision=bfloat16 is for ResNets; {name} trains in float32. Leave precision as it is.")
    selected_on_test = config.validation == "test"
    if config.base and from_base:
        selected_on_test |= load_weights(model, spec, config, base_file(config), splits)
    sizes = tuple(torch.bincount(splits.train.labels, minlength=splits.num_classes).tolist())
    recipe = recipe or Recipe.of(**(recipe_settings(config, len(splits.validation) > 0, sizes) | dict(parts or {})))
    if getattr(recipe.objective, "class_sizes", sizes) == ():
        cure = f"Make the recipe with Recipe.of(..., class_sizes={sizes})."
        raise RecipeError(f"objective=bsl needs the number of training images of each class, got none. {cure}")
    state = TrainingState.fresh(model, recipe, config, _first_tau(config, recipe, splits.num_classes))
    trainer = Trainer(state, splits.to(device), config, spec, selected_on_test=selected_on_test)
    if foreign:
        _examine(trainer, name, adopting)
    if not adopting:
        check_last_batch(trainer, name)
        if config.balance != "none":
            check_balance(splits, config)
            check_last_layer(model, trainer.splits, name)  # on the device, as the model is
    if not config.accumulation:
        trainer.config = config = replace(config, accumulation=fewest_parts(trainer))
    if config.compile:
        low = wants_bfloat16(config.precision, model, device)
        size = -(-config.batch_size // config.accumulation)
        state.quick, trainer.not_compiled = try_to_compile(
            model, config.model, (channels, height, width), images=size, low=low, training=True
        )
    return trainer


def _examine(trainer: Trainer, name: str, adopting: bool) -> None:
    """Examine a network of somebody else; keep the notes on it, and warn of each."""
    state, config, train = trainer.state, trainer.config, trainer.splits.train
    validated = bool(config.validation_steps and len(trainer.splits.validation))
    attacked = config.epsilon > 0 if adopting else state.recipe.objective.attack_loss is not None or validated
    spread = torch.linspace(0, len(train) - 1, min(8, len(train)), device=train.labels.device).long()
    pixels, _ = train.batch(spread)
    found = examine_network(state.model, pixels, trainer.num_classes, who=name, training=not adopting, attacked=attacked)
    trainer.draws = found.draws
    kept = {"architecture": architecture_sha256(state.model), "network": " ".join(found.notes)}
    trainer.network = {key: text for key, text in kept.items() if text}
    for note in found.notes:
        warnings.warn(note, NetworkWarning, stacklevel=4)


def _first_tau(config: Config, recipe: Recipe, num_classes: int) -> float:
    """Return the initial radius: `tau`, or that of `multiplier`.

    A multiplier is the most that a class can count, in multiples of its share.
    """
    ball = getattr(recipe.fairness, "ambiguity", None)
    if not config.multiplier:
        low, high = getattr(ball, "limits", (0.0, math.inf))  # the settings do not know those of a set from elsewhere
        if not low <= config.tau <= high:
            raise ConfigError(f"tau must be between {low:g} and {high:g} for {type(ball).__name__}, got {config.tau}.")
        return config.tau
    try:
        return radius_for_multiplier(ball or AMBIGUITY_SETS[config.ambiguity].make(), config.multiplier, num_classes)
    except ValueError as error:
        raise ConfigError(f"multiplier: {error}") from error


def recipe_settings(config: Config, validation: bool, class_sizes: tuple[int, ...] = ()) -> dict[str, Any]:
    """Return the settings of a run that Recipe.of takes, by the same names."""
    known = inspect.signature(Recipe.of).parameters
    return {n: v for n, v in config.to_mapping().items() if n in known} | {"validation": validation, "class_sizes": class_sizes}


def own_parts(model: nn.Module | None, recipe: Recipe | None, parts: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Return the parts of a run that are the user's own objects, with the names of their classes."""
    named = {} if model is None else {"model": type(model).__name__}
    if recipe is not None:
        named["recipe"] = f"{type(recipe.objective).__name__} with {type(recipe.fairness).__name__}"
    return named | {part: text.partition(":")[2] for part, text in part_names(parts or {}).items()}


def part_names(parts: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings that stand for parts that are objects; raises ConfigError for another kind of setting."""
    if strange := parts.keys() - OWN_PARTS:
        raise ConfigError(f"parts must be of {', '.join(OWN_PARTS)}, got {', '.join(sorted(strange))}.")
    return {part: OWN_PARTS[part].text(thing) for part, thing in parts.items()}


def _check_own(folder: RunFolder, given: Mapping[str, str]) -> None:
    """Refuse to resume a run with other objects than those that it was made with."""
    made = folder.own()
    if absent := {part: name for part, name in made.items() if part not in given}:
        said = " and ".join(f"a {part} ({name})" for part, name in absent.items())
        again = ", ".join(f"{part}=..." for part in absent)
        raise ConfigError(
            f"{folder.path} was made with {said} that was an object of another process. Hand it over to resume: in Python by "
            f"fl.train(out=..., resume=True, {again}), in a notebook by fl.Workbench({again})."
        )
    for part in OWN_PARTS.keys() & given.keys():
        was = made.get(part, "a name or path in its settings")
        if was.rpartition(".")[2] != given[part].rpartition(".")[2]:  # a module is __main__ in one process alone
            raise ConfigError(f"{folder.path} was made with {part} {was}, got {given[part]}. Hand over the same to resume.")


def run(
    config: Config,
    out: str | Path,
    *,
    resume: bool = False,
    model: nn.Module | None = None,
    recipe: Recipe | None = None,
    parts: Mapping[str, Any] | None = None,
    script: Sequence[DialTurned] = (),
) -> Generator[Event, None, None]:
    """Train into a run folder, and yield every event after it was recorded.

    To pause, stop pulling events; to stop, close the generator; for a single step, call `next()`. Ctrl-C, SIGTERM or SIGHUP ends
    the run in order: the state is saved, the folder is readable, then comes KeyboardInterrupt or SystemExit. Any error is
    recorded before it is raised.

    Args:
        config: all settings.
        out: the run folder.
        resume: continue from the last checkpoint in `out`; default False.
        model: a network of your own, which takes pixels in [0, 1] and returns logits; default None.
        recipe: a method of your own parts; default None.
        parts: objects in place of the settings objective, fairness and ambiguity, by these names; default None.
        script: dials to turn again, as `turns_of` reads them from another run; default none.

    Returns:
        A generator of events: first RunStarted, then for example StepDone and EpochDone, last RunFinished.

    Raises:
        RunFolderError: if `out` already holds a run, or none to resume.
        ConfigError: if the run to resume has other settings, or parts of its own that are missing here.
        RunLocked: if another process is training there.
        TrainingDiverged: if loss or gradient is not finite; the last good state is saved.
        ProcessLost: if several processes train as one, and another one has ended.

    >>> import faal_lab as fl
    >>> config = fl.Config(epochs=1, batch_size=250, attack_steps=1, validation_steps=1)
    >>> [type(event).__name__ for event in fl.steps(config, "runs/watched")]
    ['RunStarted', 'StepDone', 'StepDone', 'StepDone', 'StepDone', 'EpochDone', 'RunFinished']
    """
    own = own_parts(model, recipe, parts)
    config = replace(config, **part_names(parts or {}))
    joined, out = join(), told(str(out))
    resume |= bool(largest(restarted() and (Path(out) / "config.json").is_file()))
    if resume:
        folder = RunFolder.open(out)
        _check_own(folder, own)
        if not folder.made_with(config):
            raise ConfigError(
                f"{out} was made with other settings; resume it with those: fl.train(out={str(out)!r}, resume=True)"
            )
        config = folder.config()  # with the number of parts that the run chose
        checkpoint = last_state(folder)
        if checkpoint is not None and checkpoint.header.keys() & {"adopted", "apart"}:
            raise ConfigError(
                f"{out} was trained elsewhere: there is nothing to go on with. Fine-tune it: faal-lab run --base {out}"
            )
        trainer = prepare(config, model, recipe, from_base=checkpoint is None, parts=parts)  # the base may be gone by now
        if checkpoint is not None:
            from_checkpoint(trainer, checkpoint)
        check_processes(trainer)
    else:
        trainer = prepare(config, model, recipe, parts=parts)  # before the folder: bad input leaves nothing behind
        check_processes(trainer)
        first_alone(lambda: RunFolder.create(out, trainer.config, made_by(trainer), own))
        folder = RunFolder(out)
    total = config.epochs * trainer.steps_per_epoch

    def report() -> tuple[str, float]:
        return trainer.state.activity, trainer.state.step / total

    with memory_kept(), ExitStack() as opened:
        # one process writes; the others hold the same state
        first_alone(lambda: opened.enter_context(Heartbeat(folder.path, report)))
        recorder = first_alone(lambda: opened.enter_context(folder.recording()))
        if joined:
            opened.callback(leave)
        write = recorder.write if recorder is not None else lambda _: None
        events, event = _events(trainer, folder, resume, script), None
        try:
            for event in events:
                try:
                    write(event)
                except OSError as error:  # a full disk: the next checkpoint would be ahead of the record
                    events.throw(error)
                    raise
                yield event
        except GeneratorExit:  # the caller stopped pulling events
            events.close()
            if not isinstance(event, (RunFinished, RunFailed)):
                write(RunFinished(trainer.state.step, "stopped"))
            trainer.state.activity = "ended"
            raise


def made_by(trainer: Trainer) -> dict[str, str]:
    """Return the versions behind a run, and the facts about a network of somebody else."""
    together = {"processes": str(count())} if count() > 1 else {}
    return versions() | together | ({"compile": trainer.not_compiled} if trainer.not_compiled else {}) | trainer.network


def check_processes(trainer: Trainer) -> None:
    """Raise ConfigError where several processes cannot train this as one, or do not hold the same."""
    config, images = trainer.config, trainer.splits.train
    if count() == 1:
        return
    for name, why in (("replays", "a perturbation that goes from batch to batch"), ("compile", "a compiled network")):
        if getattr(config, name):
            raise ConfigError(f"{name}={getattr(config, name)} needs {why}, and runs in one process only, not in {count()}.")
    for size in (min(config.batch_size, len(images)), len(images) % config.batch_size or config.batch_size):
        fewest = size // parts_of(size, config.accumulation)
        if fewest < count():
            raise ConfigError(
                f"{count()} processes cannot share {fewest} image{'s' * (fewest != 1)}: batch_size={config.batch_size} and "
                f"accumulation={config.accumulation} leave so few in a part of {size}. Start fewer, or change batch_size."
            )
    check_batch_norm(trainer.state.model)
    check_same("settings", config.to_mapping())
    check_same("checkpoint", [trainer.state.epoch, trainer.state.batch, trainer.state.step])
    check_same("versions", versions())
    few = images.part(torch.linspace(0, len(images) - 1, min(64, len(images))).long().to(images.labels.device))
    check_same("images", tensors_sha256({"labels": images.labels.cpu(), "pixels": few.batch(torch.arange(len(few)))[0].cpu()}))


def turns_of(run_folder: str | Path) -> list[DialTurned]:
    """Return the dials that were turned by hand in a run.

    `run(..., script=...)` makes the same metrics with them. A dial that was turned while a fairness method measured between
    two epochs is then turned before that measurement.
    """
    folder = RunFolder.open(run_folder)
    config, events = folder.config(), folder.events()
    started = next((e for e in events if isinstance(e, RunStarted)), None)
    if started is None:
        return []
    scheduled = {(epoch * started.steps_per_epoch, tau) for epoch, tau in config.tau_schedule().items()}
    turns = [e for e in events if isinstance(e, DialTurned)]
    return [t for t in turns if t.dial != "tau" or (t.step, t.new) not in scheduled]


def _events(trainer: Trainer, folder: RunFolder, resume: bool, script: Sequence[DialTurned]) -> Generator[Event, None, None]:
    state, config = trainer.state, trainer.config
    if resume:
        before, now = folder.versions(), made_by(trainer)
        changed = {name: now.get(name, "") for name in before | now if now.get(name) != before.get(name)}
        yield RunResumed(state.step, config.epochs * trainer.steps_per_epoch, changed or None)
    if not resume or state.step == 0:
        yield RunStarted(
            list(trainer.splits.class_names), trainer.steps_per_epoch, config.epochs,
            state.dials["tau"], state.dials["epsilon"], state.dials["learning_rate"],
            median_distance(trainer.splits.train, config.norm),
        )  # fmt: skip
    reader = CommandReader(folder.control, state.commands_read)  # of the first process, which tells the others
    stale = last_number(folder.control) if resume else 0

    def poll() -> list[Command]:
        # A stop from before the resume would end the run again. So older commands are dropped, except turns of dials.
        return [c for c in reader.poll() if c.number > stale or c.do == "turn"] if rank() == 0 else []

    event: Event | None = None
    with caught_signals() as caught:
        try:
            for event in train(trainer, lambda: [*poll(), *caught.commands()], script):
                yield event  # recorded first: a checkpoint must not be ahead of the metrics
                _save(trainer, folder, event)
            if config.balance != "none" and not trainer.balanced:
                yield balance_run(trainer, caught.stop_if_any if count() == 1 else lambda: None)
            reason = "done"
        except Stopped:
            reason = "stopped"
        except GeneratorExit:
            if isinstance(event, EpochDone):
                _save(trainer, folder, event)
            _write(trainer, folder, "last")
            raise
        except Exception as error:
            if isinstance(error, TrainingDiverged):
                with suppress(CheckpointError):  # the file then holds an earlier good state; report the divergence
                    _write(trainer, folder, "last")
            state.activity = "ended"
            yield RunFailed(state.step, f"{type(error).__name__}: {error}")
            raise
    _write(trainer, folder, "last")
    yield RunFinished(state.step, reason)
    largest(0)  # nobody is gone before the first process has written
    state.activity = "ended"
    caught.raise_if_any()


def _save(trainer: Trainer, folder: RunFolder, event: Event) -> None:
    """Write a checkpoint after an epoch and every `checkpoint_every` steps; keep the best one apart."""
    state, every = trainer.state, trainer.config.checkpoint_every
    if isinstance(event, EpochDone):
        rates = [r / n for r, n in zip(event.robust_correct, event.count, strict=True) if n]
        score = sum(rates) / len(rates) + min(rates) if rates else -math.inf  # without validation no epoch is the best
        if score > trainer.best:
            trainer.best = score
            _write(trainer, folder, "best")
        _write(trainer, folder, "last")
    elif every and state.step % every == 0:
        _write(trainer, folder, "last")


def _write(trainer: Trainer, folder: RunFolder, which: str) -> None:
    if rank() == 0:
        write_checkpoint(folder.checkpoint(which), to_checkpoint(trainer))
