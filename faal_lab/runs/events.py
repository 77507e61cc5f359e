"""Define the events that a run reports and the commands that it obeys; name what looks wrong in the events.

Events are plain numbers and text. None depends on the clock, so that the same seed gives the same bytes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any

from faal_lab.errors import RunFolderError
from faal_lab.runs.files import SCHEMAS, check_schema


@dataclass(frozen=True)
class RunStarted:
    """The first record of a run: its classes, its planned length, and the dials at the start.

    `distance` is the median distance of a training image to the nearest one of another class, in the run's norm.
    """

    class_names: list[str]
    steps_per_epoch: int
    epochs: int
    tau: float
    epsilon: float
    learning_rate: float
    distance: float | None = None  # of a sample; None in old records, and for a model that was adopted


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

    All are 0 where the run has no validation images. `probe` counts validation images (see `training.measure`); None without any,
    and in old records.
    """

    epoch: int
    step: int
    count: list[int]
    clean_correct: list[int]
    robust_correct: list[int]
    probe: dict[str, int] | None = None


@dataclass(frozen=True)
class Evaluated:
    """The test images were opened: `correct` are those of `count` that survived each attack, per class."""

    checkpoint: str
    epsilon: float
    count: list[int]
    correct: dict[str, list[int]]


@dataclass(frozen=True)
class Balanced:
    """A bias of each class was found on validation images, in rounds (see `dro.balance`).

    Each round has a bias, and the images of `count` that stood PGD of `attack_steps` with it; the first has no bias. `floor` is
    in percent. The network has the bias of the round number `chosen`.
    """

    step: int
    tau: float
    floor: float
    attack_steps: int
    chosen: int
    count: list[int]
    bias: list[list[float]]
    correct: list[list[int]]


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


Event = (
    RunStarted | RunResumed | StepDone | EpochDone | Balanced | Evaluated | DialTurned | CommandRefused | RunFinished | RunFailed
)
_KINDS: dict[str, type] = {kind.__name__: kind for kind in Event.__args__}
_PLAIN = {"int": (int,), "float": (int, float), "str": (str,), "list": (list,), "dict": (dict,), "None": (type(None),)}
_ALLOWED = {  # what a field of each event may be, by its annotation
    kind: {f.name: tuple(t for one in re.sub(r"\[.*\]", "", str(f.type)).split(" | ") for t in _PLAIN[one]) for f in fields(kind)}
    for kind in _KINDS.values()
}


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
    wrong = [name for name, kinds in _ALLOWED[known].items() if name in record and not isinstance(record[name], kinds)]
    if wrong:
        raise RunFolderError(f"{where} is damaged: {record['event']} with {wrong[0]} {str(record[wrong[0]])[:40]!r}.")
    return known(**{f.name: record[f.name] for f in fields(known) if f.name in record})


@dataclass(frozen=True)
class Command:
    """A command to a run: `do` is one of COMMANDS. `turn` sets a `dial` to a `value`, `pace` the batches a second (0: any)."""

    do: str
    dial: str = ""
    value: float = 0.0
    number: int = 0  # its place in the order of commands; `send` sets it


COMMANDS = ("pause", "resume", "step", "epoch", "stop", "pace", "turn")


_BAND = 0.005  # the loss is stuck within this share of ln C; a run that learns slowly leaves the band in three epochs
_NEAR = 0.1  # of the way from guessing to all right: above it, a loss near ln C is a coincidence of class weights or terms
_BLIND = 0.25  # share of images without a slope that no plain network has
_CERTAIN = 0.5  # share of images at a probability of 1; a clean training of 30 epochs without weight decay has 0.14
_FEWEST, _FALL = 8, 0.75  # images that PGD left, to judge by; of those, the share that a sound PGD never loses to three steps


class Watch:
    """Read the events of a run in order, and name what looks wrong.

    >>> watch = Watch([RunStarted(["cat", "dog"], 9, 5, 0.5, epsilon=0.6, learning_rate=0.1, distance=0.8)])
    >>> list(watch.signs())
    ['epsilon']
    """

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self._started: RunStarted | None = None
        self._epsilon = 0.0
        self._epochs: dict[int, EpochDone] = {}  # by number: after a kill the same one may come twice
        self._steps: dict[int, StepDone] = {}  # of the last epochs
        for event in events:
            self.see(event)

    def see(self, event: Event) -> None:
        """Take the next event of the run."""
        if isinstance(event, RunStarted):
            self._started, self._epsilon = event, event.epsilon
        elif isinstance(event, StepDone):
            self._steps[event.step], self._epsilon = event, event.epsilon
        elif isinstance(event, EpochDone):
            self._epochs[event.epoch] = event
            self._steps = {n: step for n, step in self._steps.items() if step.epoch > event.epoch - 4}
        elif isinstance(event, RunResumed):
            self._epochs = {n: e for n, e in self._epochs.items() if e.step <= event.from_step}
            self._steps = {n: s for n, s in self._steps.items() if n <= event.from_step}

    def signs(self) -> dict[str, str]:
        """Return what looks wrong so far: kind -> one line with the likely cause.

        A sign of learning must show in each of the last three epochs, beyond three standard errors, so that a slow start is no
        alarm.
        """
        if self._started is None:
            return {}
        last = [self._epochs[n] for n in sorted(self._epochs)[-3:]]
        found = _too_large(self._epsilon, self._started.distance)
        if len(last) == 3:
            names = self._started.class_names
            stuck = _stuck([self._trained(e.epoch - 1) for e in last], len(names))
            validated = [] if any(not sum(e.count) for e in last) else last
            found |= stuck or (_validation(names, validated) if validated else {})
            found |= {} if stuck or "chance" in found else _probed(last, 1 / len(names))
        return found

    def _trained(self, epoch: int) -> tuple[float, float]:
        """Return the mean loss of an epoch, and the share of its training images that were right; NaN where it has no steps."""
        steps = [step for step in self._steps.values() if step.epoch == epoch]
        seen = sum(sum(step.count) for step in steps)
        if not seen:
            return math.nan, math.nan
        right = max(sum(sum(getattr(s, kind) or ()) for s in steps) for kind in ("clean_correct", "robust_correct"))
        return sum(step.loss for step in steps) / len(steps), right / seen


def _too_large(epsilon: float, distance: float | None) -> dict[str, str]:
    """Compare epsilon with the images: at half the distance the balls of two images meet."""
    if distance is None or epsilon < distance / 2:
        return {}
    return {
        "epsilon": f"epsilon {epsilon:.4g} is at least half of {distance:.4g}, the median distance of a training image to the "
        "nearest one of another class: most balls meet, and no network can be right in both. Lower epsilon, or check norm."
    }


def _stuck(trained: list[tuple[float, float]], classes: int) -> dict[str, str]:
    """Look for a loss that stays at ln C: all classes equally likely.

    That is the loss of such a network under cross-entropy, TRADES and BAT. MART's is larger.
    """
    even, chance = math.log(classes), 1 / classes
    if not all(abs(loss / even - 1) < _BAND and right < chance + _NEAR * (1 - chance) for loss, right in trained):
        return {}
    return {
        "loss": f"The training loss stays at {trained[-1][0]:.3f}; all {classes} classes equally likely give ln {classes} = "
        f"{even:.3f}. Nothing is learned: is epsilon too large for these images, or the learning rate too large or too small?"
    }


def _validation(class_names: Sequence[str], last: list[EpochDone]) -> dict[str, str]:
    """Look at the validation: accuracy at chance, a class that is never right, more images right under attack than without."""
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


def _probed(epochs: list[EpochDone], chance: float) -> dict[str, str]:
    """Look for an attack that is misled: saturated logits, no slope, images that PGD leaves and a few steps by the margin break.

    Saturation explains the other two, and no slope the last. A network that hardly learned falls to the margin easily: a robust
    accuracy near chance is no claim that an attack could refute.
    """
    known = [epoch.probe for epoch in epochs if epoch.probe is not None]
    if len(known) < len(epochs):
        return {}
    claimed = min(sum(e.robust_correct) / sum(e.count) for e in epochs) > chance + _NEAR * (1 - chance)
    last, text = known[-1], "the robust accuracy of this training is too high."
    sure, blind, total = last["certain"], last["no_slope"], last["images"]
    if all(p["certain"] > _CERTAIN * p["images"] for p in known):
        return {
            "saturated": f"Probabilities are 1 to the last digit at {sure} of {total} validation images: logits are so large "
            f"that cross-entropy loses its slope, and {text} Lower the learning rate, or raise weight_decay."
        }
    if all(p["no_slope"] > _BLIND * p["images"] for p in known):
        return {
            "no gradient": f"Cross-entropy has no slope at {blind} of {total} validation images: attacks by gradient stand "
            f"still, and {text} Does the network round pixels, or are its units dead (a lower learning rate)?"
        }
    if claimed and all(p["stood"] >= _FEWEST and p["fell"] >= _FALL * p["stood"] for p in known):
        return {
            "masked": f"{last['fell']} of {last['stood']} validation images that PGD leaves fall to a few steps up the margin: "
            f"{text} Gradients are masked, or PGD is too weak: raise validation_steps."
        }
    return {}
