"""Keep the events of a run as growing arrays, and export them as CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from faal_lab.errors import RunFolderError
from faal_lab.runs.events import EpochDone, Event, RunResumed, RunStarted, StepDone, Watch, to_record
from faal_lab.runs.folder import RunFolder
from faal_lab.runs.follower import Follower


def run_files(path: str | Path) -> dict[str, bytes]:
    """Export steps and epochs as CSV, and settings with all events as JSON.

    Returns the contents by file name. A list of one number per class becomes one column per class. Raises RunFolderError where no
    run was started in the folder.
    """
    folder = RunFolder.open(path)
    events = folder.events()
    names = next((e.class_names for e in events if isinstance(e, RunStarted)), None)
    if names is None:
        raise RunFolderError(f"{path} holds no run that was started.")
    stem = folder.path.name
    whole = {"config": folder.config().to_mapping(), "versions": folder.versions(), "events": [to_record(e) for e in events]}
    return {
        f"{stem}-steps.csv": _csv([e for e in events if isinstance(e, StepDone)], names),
        f"{stem}-epochs.csv": _csv([e for e in events if isinstance(e, EpochDone)], names),
        f"{stem}.json": json.dumps(whole).encode(),
    }


def _csv(events: list[StepDone] | list[EpochDone], names: list[str]) -> bytes:
    """Write one row per event, as `events_rows` makes them, as CSV."""
    rows = events_rows(events, names)
    file = io.StringIO()
    writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), restval="")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def events_rows(events: list[StepDone] | list[EpochDone], names: list[str]) -> list[dict[str, Any]]:
    """Make one row per event; a list becomes one column per class, a dict one per name, and an absent one gives none."""
    rows = []
    for event in events:
        row: dict[str, Any] = {}
        for key, value in vars(event).items():
            if isinstance(value, list):
                row |= {f"{key}[{name}]": number for name, number in zip(names, value, strict=True)}
            elif isinstance(value, dict):
                row |= {f"{key}_{name}": number for name, number in value.items()}
            elif value is not None:
                row[key] = value
        rows.append(row)
    return rows


MAX_POINTS = 400  # more points on a line cannot be seen


class Column:
    """An array that grows by rows; it doubles its memory when it is full, so that appending is cheap."""

    def __init__(self, *shape: int) -> None:
        self._room, self._length = np.empty((256, *shape), dtype=np.float64), 0

    def append(self, row: Any) -> None:
        """Add one row; None becomes NaN."""
        if self._length == len(self._room):
            room = np.empty((2 * self._length, *self._room.shape[1:]))  # empty: the second half takes no memory yet
            room[: self._length], self._room = self._room, room
        self._room[self._length] = row
        self._length += 1

    def cut(self, length: int) -> None:
        """Drop all rows from index `length` on."""
        self._length = min(self._length, length)

    @property
    def values(self) -> np.ndarray:
        """The rows so far [T, ...], as a view."""
        return self._room[: self._length]


class Sums(Column):
    """Cumulative sums of the rows, so that a mean over any window costs two reads."""

    def append(self, row: Any) -> None:
        """Add one row to the sum."""
        super().append(row + self.values[-1] if self._length else row)

    def over_last(self, window: int, at: np.ndarray) -> np.ndarray:
        """Return the sums of the last `window` rows (fewer at first) at the indices `at` [K]: [K, ...]."""
        total, before = self.values[at], at - window
        return total - np.where((before >= 0)[:, None], self.values[np.maximum(before, 0)], 0)


class History:
    """The steps and epochs of one run as arrays; `add` appends new events."""

    def __init__(self, num_classes: int) -> None:
        c = num_classes
        self.num_classes = c
        self.step, self.loss, self.tau, self.divergence = Column(), Column(), Column(), Column()
        self.weights, self._weights, self._margin, self._count, self._correct = Column(c), Sums(c), Sums(c), Sums(c), Sums(c)
        self.epoch_step, self.valid_count = Column(), Column(c)
        self.valid_clean, self.valid_robust = Column(c), Column(c)
        self._watch = Watch()

    def add(self, events: Iterable[Event]) -> None:
        """Append the steps and epochs among `events`; a RunResumed drops those after its `from_step`."""
        for event in events:
            self._watch.see(event)
            if isinstance(event, StepDone):
                self._add_step(event)
            elif isinstance(event, EpochDone):
                for column, row in (
                    (self.epoch_step, event.step), (self.valid_count, event.count), (self.valid_clean, event.clean_correct),
                    (self.valid_robust, event.robust_correct),
                ):  # fmt: skip
                    column.append(row)
            elif isinstance(event, RunResumed):
                self._cut(event.from_step)

    def _add_step(self, s: StepDone) -> None:
        correct = s.robust_correct if s.robust_correct is not None else s.clean_correct
        count, weights = np.array(s.count, dtype=np.float64), np.array(s.weights, dtype=np.float64)
        margin = np.nan_to_num(np.array(s.margin, dtype=np.float64)) * count
        for column, row in (
            (self.step, s.step), (self.loss, s.loss), (self.tau, s.tau), (self.divergence, s.divergence),
            (self.weights, weights), (self._weights, weights), (self._count, count), (self._margin, margin),
            (self._correct, np.zeros(self.num_classes) if correct is None else np.array(correct, dtype=np.float64)),
        ):  # fmt: skip
            column.append(row)

    def _cut(self, step: int) -> None:
        steps = int(np.searchsorted(self.step.values, step, side="right"))
        epochs = int(np.searchsorted(self.epoch_step.values, step, side="right"))
        for name, column in vars(self).items():
            if isinstance(column, Column):
                column.cut(epochs if name.startswith(("epoch", "valid")) else steps)

    def accuracy(self, window: int, at: np.ndarray | None = None) -> np.ndarray:
        """Return attacked training accuracy over the last `window` batches: [T, C], or [K, C] at `at` [K]."""
        return _share(*self.attacked(window, self._all(at)))

    def attacked(self, window: int, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Count attacked training images over the last `window` batches: (correct, all), [K, C] each."""
        return self._correct.over_last(window, at), self._count.over_last(window, at)

    def mean_margin(self, window: int, at: np.ndarray | None = None) -> np.ndarray:
        """Return the mean margin over samples of the last `window` batches: [T, C], or [K, C] at `at` [K]."""
        at = self._all(at)
        return _share(self._margin.over_last(window, at), self._count.over_last(window, at))

    def mean_weights(self, window: int, at: np.ndarray | None = None) -> np.ndarray:
        """Return mean weights over the last `window` batches (fewer at first): [T, C], or [K, C] at `at` [K]."""
        at = self._all(at)
        return self._weights.over_last(window, at) / np.minimum(at + 1, window)[:, None]

    def signs(self) -> dict[str, str]:
        """Return what looks wrong so far, as `Watch.signs` does; {} where RunStarted was not among the events."""
        return self._watch.signs()

    def _all(self, at: np.ndarray | None) -> np.ndarray:
        return np.arange(len(self.step.values)) if at is None else at

    def validation(self, kind: str) -> np.ndarray:
        """Return the validation accuracy per class after each epoch [E, C]; `kind` is "clean" or "robust"."""
        correct = self.valid_clean if kind == "clean" else self.valid_robust
        return _share(correct.values, self.valid_count.values)

    def validation_summary(self, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """Return average and worst class of `validation`, [E] each; NaN without validation images."""
        values = self.validation(kind)
        held = ~np.isnan(values)
        average = _share(np.where(held, values, 0.0).sum(1), held.sum(1))
        worst = np.where(held, values, np.inf).min(1, initial=np.inf)
        return average, np.where(held.any(1), worst, np.nan)


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def load_history(path: str | Path) -> tuple[History, list[str]]:
    """Read a run's history and class names; raises RunFolderError where no run was started in the folder."""
    follower = Follower(path, keep_steps=False)
    follower.poll()
    if follower.started is None:
        raise RunFolderError(f"{path} holds no run that was started: nothing of it is in metrics.jsonl.")
    history = History(len(follower.started.class_names))
    history.add(follower.new)
    return history, list(follower.started.class_names)


def thinned(length: int, most: int = MAX_POINTS) -> np.ndarray:
    """Return the indices of at most `most` of `length` points, evenly spaced, with the last one."""
    if length <= most:
        return np.arange(length)
    return np.unique(np.linspace(0, length - 1, most).astype(np.int64))
