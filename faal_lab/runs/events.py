"""Define the events a run reports and the commands it obeys: plain numbers and text only.

Nothing here depends on the clock, so that the same seed gives the same bytes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from faal_lab.errors import FaalLabError

SCHEMA = 1


@dataclass(frozen=True)
class RunStarted:
    """The first record of a run: what its arrays mean, and what comes."""

    class_names: list[str]
    steps_per_epoch: int
    epochs: int
    tau: float
    epsilon: float
    learning_rate: float


@dataclass(frozen=True)
class RunResumed:
    """The run goes on after `from_step` steps; earlier records later than that did not happen.

    `steps` are those of the whole run. `versions`: what changed of that which `RunFolder.versions` says since the run was
    begun; None where nothing did.
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
    radii: list[float | None] | None = None  # attack radius by class, where the fairness method sets them apart


@dataclass(frozen=True)
class EpochDone:
    """Class-wise validation after an epoch: how many of `count` were classified correctly, clean and under PGD.

    All are 0 where no images are kept for validation.
    """

    epoch: int
    step: int
    count: list[int]
    clean_correct: list[int]
    robust_correct: list[int]


@dataclass(frozen=True)
class Evaluated:
    """The test images were opened: how many of `count` survived each attack, per class."""

    checkpoint: str
    epsilon: float
    count: list[int]
    correct: dict[str, list[int]]


@dataclass(frozen=True)
class DialTurned:
    """A setting was changed by hand; it holds from the step after `step`."""

    step: int
    dial: str
    old: float
    new: float


@dataclass(frozen=True)
class CommandRefused:
    """A command that could not be obeyed; the run went on."""

    step: int
    reason: str


@dataclass(frozen=True)
class RunFinished:
    """The run ended in order: `reason` is "done" or "stopped"."""

    step: int
    reason: str


@dataclass(frozen=True)
class RunFailed:
    """The run ended by an error; the last good state is in its checkpoint."""

    step: int
    error: str


Event = RunStarted | RunResumed | StepDone | EpochDone | Evaluated | DialTurned | CommandRefused | RunFinished | RunFailed
_KINDS: dict[str, type] = {kind.__name__: kind for kind in Event.__args__}


class SchemaError(FaalLabError, ValueError):
    """A record written by another version of the project."""


def to_record(event: Event) -> dict[str, Any]:
    """The event as plain values for one JSON line."""
    return {"event": type(event).__name__, "schema": SCHEMA, **asdict(event)}


def from_record(record: dict[str, Any]) -> Event:
    """Read a record back; raises SchemaError where it is of another schema or kind."""
    kind, schema = record.get("event"), record.get("schema")
    if schema != SCHEMA or kind not in _KINDS:
        raise SchemaError(
            f"Record {kind!r} of schema {schema!r}; this version reads schema {SCHEMA}. Install the faal-lab that wrote the run."
        )
    known = _KINDS[kind]
    return known(**{f.name: record.get(f.name) for f in fields(known)})


@dataclass(frozen=True)
class Command:
    """What a run is told: `do` is pause, resume, step, stop or turn (a `dial` to a `value`)."""

    do: str
    dial: str = ""
    value: float = 0.0
    number: int = 0  # its place in the order of commands, given when it is sent


COMMANDS = ("pause", "resume", "step", "stop", "turn")
