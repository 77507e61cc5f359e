"""A run's events as growing arrays, for whoever draws.

Knows: how to append and thin out. Must not know: plots.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from faal_lab.events import EpochDone, StepDone
from faal_lab.runs import Follower, RunFolderError

MAX_POINTS = 400  # a line on a screen shows no more


class Column:
    """An array that grows by rows, doubling its room, so that appending is cheap."""

    def __init__(self, *shape: int) -> None:
        self._room, self._length = np.empty((256, *shape), dtype=np.float64), 0

    def append(self, row: Any) -> None:
        """Add one row; None becomes NaN."""
        if self._length == len(self._room):
            self._room = np.concatenate([self._room, np.empty_like(self._room)])
        self._room[self._length] = row
        self._length += 1

    @property
    def values(self) -> np.ndarray:
        """The rows so far [T, ...], as a view."""
        return self._room[: self._length]


class History:
    """Steps and epochs of one run as arrays. `add` what is new; nothing is read twice."""

    def __init__(self, num_classes: int) -> None:
        c = num_classes
        self.num_classes = c
        self.step, self.loss, self.tau, self.divergence = Column(), Column(), Column(), Column()
        self.weights, self.margin, self.count, self.correct = Column(c), Column(c), Column(c), Column(c)
        self.epoch_step, self.valid_count = Column(), Column(c)
        self.valid_clean, self.valid_robust = Column(c), Column(c)

    def add(self, steps: list[StepDone], epochs: list[EpochDone]) -> None:
        """Append events."""
        nothing = [0] * self.num_classes
        for s in steps:
            correct = s.robust_correct if s.robust_correct is not None else s.clean_correct
            for column, row in (
                (self.step, s.step), (self.loss, s.loss), (self.tau, s.tau), (self.divergence, s.divergence),
                (self.weights, s.weights), (self.count, s.count), (self.correct, correct or nothing),
                (self.margin, np.array(s.margin, dtype=np.float64)),
            ):  # fmt: skip
                column.append(row)
        for e in epochs:
            for column, row in (
                (self.epoch_step, e.step), (self.valid_count, e.count), (self.valid_clean, e.clean_correct),
                (self.valid_robust, e.robust_correct),
            ):  # fmt: skip
                column.append(row)

    def accuracy(self, window: int) -> np.ndarray:
        """Accuracy per class of the attacked training images over the last `window` batches: [T, C]."""
        return _share(_over_last(self.correct.values, window), _over_last(self.count.values, window))

    def mean_margin(self, window: int) -> np.ndarray:
        """Mean margin per class over the samples of the last `window` batches: [T, C]."""
        total = np.nan_to_num(self.margin.values) * self.count.values
        return _share(_over_last(total, window), _over_last(self.count.values, window))

    def validation(self, kind: str) -> np.ndarray:
        """Validation accuracy per class after each epoch [E, C]; `kind` is "clean" or "robust"."""
        correct = self.valid_clean if kind == "clean" else self.valid_robust
        return _share(correct.values, self.valid_count.values)

    def validation_summary(self, kind: str) -> tuple[np.ndarray, np.ndarray]:
        """Average and worst class of `validation`, [E] each; NaN after an epoch without validation images."""
        values = self.validation(kind)
        held = ~np.isnan(values)
        average = _share(np.where(held, values, 0.0).sum(1), held.sum(1))
        worst = np.where(held, values, np.inf).min(1, initial=np.inf)
        return average, np.where(held.any(1), worst, np.nan)


def running_mean(rows: np.ndarray, window: int) -> np.ndarray:
    """Mean over the last `window` rows (fewer at the beginning) of [T, C]."""
    return _over_last(rows, window) / np.minimum(np.arange(1, len(rows) + 1), window)[:, None]


def _over_last(rows: np.ndarray, window: int) -> np.ndarray:
    """Sums over the last `window` rows at each row."""
    total = np.cumsum(rows, axis=0)
    earlier = np.zeros_like(total)
    earlier[window:] = total[:-window] if window < len(total) else 0
    return total - earlier


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)


def load_history(path: str | Path) -> tuple[History, list[str]]:
    """The history of a run folder and its class names; raises RunFolderError where no run was started in it."""
    follower = Follower(path)
    follower.poll()
    if follower.started is None:
        raise RunFolderError(f"{path} holds no run that was started.")
    history = History(len(follower.started.class_names))
    history.add(follower.steps, follower.epochs)
    return history, list(follower.started.class_names)


def thinned(length: int) -> np.ndarray:
    """Which of `length` points to draw: at most MAX_POINTS, evenly, the last one always."""
    if length <= MAX_POINTS:
        return np.arange(length)
    return np.unique(np.linspace(0, length - 1, MAX_POINTS).astype(np.int64))
