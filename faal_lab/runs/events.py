"""Define the events that a run reports and the commands that it obeys, as plain numbers and text.

No event depends on the clock, so that the same seed gives the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from faal_lab.errors import RunFolderError
from faal_lab.runs.files import SCHEMAS, check_schema


@dataclass(frozen=True)
class RunStarted:
    """The first record of a run: its classes, its planned length, and the dials at the start."""

    class_names: list[str]
    steps_per_epoch: int
    epochs: int
    tau: float
    epsilon: float
    learning_rate: float


@dataclass(frozen=True)
class RunResumed:
    """The run was resumed after `from_step` steps; older records of later steps no longer count.

    `steps` counts the whole run. `versions` are the entries of `RunFolder.versions` that changed since the run began; None where
    none did.
    """

    from_step: int
    steps: int | None = None
    versions: dict[str, str] | None = None


@dataclass(frozen=True)
class StepDone:
    """One optimiser step. Lists have one number per class; a mean over no sample is None."""

    step: int
    epoch: int
    loss: float
    tau: float
    epsilon: float
    learning_rate: float
    weights: list[float]
    divergence: float
    count: list[int]
    margin: list[float | None]
    robust_correct: list[int] | None
    clean_correct: list[int] | None
    radii: list[float | None] | None = None  # attack radius by class, where the fairness method sets one for each


@dataclass(frozen=True)
class EpochDone:
    """Validation after an epoch: images per class, and those correct, clean and under PGD.

    All are 0 where the run has no validation images.
    """

    epoch: int
    step: int
    count: list[int]
    clean_correct: list[int]
    robust_correct: list[int]


@dataclass(frozen=True)
class Evaluated:
    """The test images were opened: `correct` are those of `count` that survived each attack, per class."""

    checkpoint: str
    epsilon: float
    count: list[int]
    correct: dict[str, list[int]]


@dataclass(frozen=True)
class DialTurned:
    """A dial was turned from `old` to `new`; the new value holds from the step after `step`."""

    step: int
    dial: str
    old: float
    new: float


@dataclass(frozen=True)
class CommandRefused:
    """A command was refused; the run continued."""

    step: int
    reason: str


@dataclass(frozen=True)
class RunFinished:
    """The run ended without an error: `reason` is "done" or "stopped"."""

    step: int
    reason: str


@dataclass(frozen=True)
class RunFailed:
    """The run ended with an error; the last good state is in its checkpoint."""

    step: int
    error: str


Event = RunStarted | RunResumed | StepDone | EpochDone | Evaluated | DialTurned | CommandRefused | RunFinished | RunFailed
_KINDS: dict[str, type] = {kind.__name__: kind for kind in Event.__args__}


def to_record(event: Event) -> dict[str, Any]:
    """Return the event as plain values, for one line of JSON."""
    return {"event": type(event).__name__, "schema": SCHEMAS["metrics"], **asdict(event)}


def from_record(record: dict[str, Any], where: object = "The record") -> Event:
    """Return the event of a record from `where`; fields that this version does not know are ignored.

    Raises RunFolderError for a newer schema, an unknown kind, or a field that is missing and has no default.
    """
    check_schema("metrics", record, where, RunFolderError)
    known = _KINDS.get(str(record.get("event")))
    if known is None:
        raise RunFolderError(
            f"{where} has an event {record.get('event')!r} that this faal_lab does not know: pip install -U faal-lab. "
            f"Known: {', '.join(_KINDS)}."
        )
    missing = [f.name for f in fields(known) if f.name not in record and f.default is MISSING]
    if missing:
        raise RunFolderError(f"{where} is damaged: {record['event']} without {', '.join(missing)}.")
    return known(**{f.name: record[f.name] for f in fields(known) if f.name in record})


@dataclass(frozen=True)
class Command:
    """A command to a run: `do` is pause, resume, step, stop, or turn (set a `dial` to a `value`)."""

    do: str
    dial: str = ""
    value: float = 0.0
    number: int = 0  # its place in the order of commands; `send` sets it


COMMANDS = ("pause", "resume", "step", "stop", "turn")


def signs_of_trouble(class_names: Sequence[str], epochs: Sequence[EpochDone]) -> dict[str, str]:
    """State what looks wrong in the validation of a training so far: kind -> one line with the likely cause.

    The kinds are accuracy at chance, a class that is never right, and more images right under attack than without. The last
    three epochs must show it, beyond three standard errors, so that a slow start is no alarm.
    """
    last = [epoch for epoch in epochs if sum(epoch.count)][-3:]
    if len(last) < 3:
        return {}
    counts, total, chance = last[-1].count, sum(last[-1].count), 1 / len(class_names)
    clean, robust = ([sum(getattr(e, kind)) / sum(e.count) for e in last] for kind in ("clean_correct", "robust_correct"))
    if max(clean) < chance + 3 * math.sqrt(chance * (1 - chance) / total):
        return {
            "chance": f"{clean[-1]:.1%} of the validation images are right after epoch {last[-1].epoch}; guessing gets "
            f"{chance:.1%}. Nothing is learned: is the learning rate too large or too small? Do the labels belong to the images?"
        }
    found = {}
    never = [name for c, name in enumerate(class_names) if counts[c] >= 5 and not any(e.clean_correct[c] for e in last)]
    if never:
        found["never right"] = (
            f"No validation image of class {', '.join(never)} was right in three epochs, also without an attack. Is it labelled "
            "rightly, or hardly there in training?"
        )
    if min(r - c for r, c in zip(robust, clean, strict=True)) > 3 * math.sqrt(0.25 / total):
        found["attack helps"] = (
            f"{robust[-1]:.1%} of the validation images are right under attack and {clean[-1]:.1%} without it. An attack cannot "
            "help: does the network change its answers from call to call?"
        )
    return found
