"""Intervals for class-wise accuracy.

Knows: counts. Must not know: where they come from. Every interval is at 95 % unless told otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A share with its interval, all in [0, 1]."""

    value: float
    low: float
    high: float


def class_accuracy(correct: np.ndarray, total: np.ndarray, level: float = _LEVEL) -> list[Estimate | None]:
    """Wilson's interval for each class on its own; None for a class without images."""
    from scipy.stats import binomtest

    found: list[Estimate | None] = []
    for k, n in zip(correct.tolist(), total.tolist(), strict=True):
        if n == 0:
            found.append(None)
            continue
        interval = binomtest(k, n).proportion_ci(level, method="wilson")
        found.append(Estimate(k / n, float(interval.low), float(interval.high)))
    return found


def average_accuracy(correct: np.ndarray, total: np.ndarray, level: float = _LEVEL) -> Estimate:
    """The mean of the class accuracies, every class counting the same.

    Wilson's interval with the number of images that a plain share of the same variance would have.
    """
    from scipy.stats import norm

    k, n = correct[total > 0].astype(float), total[total > 0].astype(float)
    value = float((k / n).mean())
    smooth = (k + 1) / (n + 2)  # keeps the variance of a class at 0 or 1 away from 0
    variance = float((smooth * (1 - smooth) / n).sum() / len(n) ** 2)
    share = min(max(value, 1 / n.sum()), 1 - 1 / n.sum())
    images = share * (1 - share) / variance
    z = float(norm.ppf(0.5 + level / 2))
    centre = (value + z * z / (2 * images)) / (1 + z * z / images)
    half = z * np.sqrt(value * (1 - value) / images + z * z / (4 * images**2)) / (1 + z * z / images)
    return Estimate(value, max(0.0, float(centre - half)), min(1.0, float(centre + half)))


def worst_accuracy(correct: np.ndarray, total: np.ndarray, level: float = _LEVEL) -> tuple[Estimate, int]:
    """The lowest class accuracy and that class's index.

    The worst of C noisy shares is biased low, so a single class's interval does not cover it. Exact (Clopper-Pearson)
    intervals at the level that holds for all classes at once (Sidak) do: the true minimum lies between the lowest of
    their lower ends and the lowest of their upper ends.
    """
    from scipy.stats import binomtest

    held = np.flatnonzero(total)
    each = level ** (1 / len(held))
    intervals = [binomtest(int(correct[c]), int(total[c])).proportion_ci(each, method="exact") for c in held]
    worst = int(held[np.argmin(correct[held] / total[held])])
    low, high = min(i.low for i in intervals), min(i.high for i in intervals)
    return Estimate(float(correct[worst] / total[worst]), float(low), float(high)), worst
