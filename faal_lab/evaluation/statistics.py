"""Compute intervals of class-wise accuracy, and the measures of inequality that papers report.

Intervals are at 95 % unless stated. `correct` and `total` are whole numbers [C]; classes without images are left out.
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


@dataclass(frozen=True)
class Lowest:
    """The mean of the lowest class accuracies: observed, and corrected for selection."""

    observed: float  # the mean of the lowest shares, in [0, 1], as tables print it
    bias: float  # estimate of observed minus truth; at most 0 except for noise
    corrected: Estimate  # observed minus bias, with an interval for the truth
    classes: tuple[int, ...]  # the classes of these shares, lowest first


@dataclass(frozen=True)
class Spread:
    """Five measures of unequal class accuracies: 0 (ratio 1) if equal; nan where a mean of 0 divides."""

    gap: float  # highest minus lowest
    deviation: float  # standard deviation over the classes
    normalised: float  # deviation over mean (ABSLD's NSD)
    gini: float  # mean absolute difference of two classes over twice the mean
    ratio: float  # lowest over mean (WCR)


def class_accuracy(correct: np.ndarray, total: np.ndarray, level: float = _LEVEL) -> list[Estimate | None]:
    """Compute Wilson's interval for each class alone; None for a class without images."""
    rows = zip(correct.tolist(), total.tolist(), *(end.tolist() for end in wilson(correct, total, level)), strict=True)
    return [Estimate(k / n, low, high) if n else None for k, n, low, high in rows]


def wilson(correct: np.ndarray, total: np.ndarray, level: float = _LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Compute both ends of Wilson's interval for shares of any shape; nan where the total is 0."""
    from scipy.special import ndtri

    z, n = float(ndtri((1 + level) / 2)), np.where(total > 0, total, np.nan)
    p = correct / n
    centre, reach = p + z**2 / (2 * n), z * np.sqrt((p * (1 - p) + z**2 / (4 * n)) / n)
    low, high = (centre - reach) / (1 + z**2 / n), (centre + reach) / (1 + z**2 / n)
    return np.where(correct == 0, 0.0 * n, low), np.where(correct == total, 1.0 + 0.0 * n, high)  # rounding would miss 0 and 1


def average_accuracy(correct: np.ndarray, total: np.ndarray, level: float = _LEVEL) -> Estimate:
    """Compute the mean of the class accuracies; every class counts the same.

    The interval is exact (Clopper-Pearson), with the number of images that a plain share of the same variance would have.
    """
    from scipy.stats import beta

    k, n = correct[total > 0].astype(float), total[total > 0].astype(float)
    value = float((k / n).mean())
    smooth = (k + 1) / (n + 2)  # keeps the variance of a class at 0 or 1 above 0
    variance = float((smooth * (1 - smooth) / n).sum() / len(n) ** 2)
    images = float(smooth.mean() * (1 - smooth.mean())) / variance
    tail, stands = (1 - level) / 2, value * images
    # nan where no image survives, or all do: the interval then ends at 0 or 1
    low = np.nan_to_num(beta.ppf(tail, stands, images - stands + 1), nan=0.0)
    high = np.nan_to_num(beta.ppf(1 - tail, stands + 1, images - stands), nan=1.0)
    return Estimate(value, float(low), float(high))


def worst_accuracy(correct: np.ndarray, total: np.ndarray, level: float = _LEVEL) -> tuple[Estimate, int]:
    """Compute the lowest class accuracy and that class's index.

    The lowest of C noisy shares is biased low, so the interval of one class does not cover the true minimum. Exact
    (Clopper-Pearson) intervals at the level that holds for all classes at once (Sidak) do: the true minimum is between the lowest
    of their lower ends and the lowest of their upper ends.
    """
    from scipy.stats import beta

    held = _held(correct, total)
    k, n = correct[held], total[held]
    tail = (1 - level ** (1 / len(held))) / 2
    # nan where k is 0 or n: the interval then ends at 0 or 1
    low = np.nan_to_num(beta.ppf(tail, k, n - k + 1), nan=0.0)
    high = np.nan_to_num(beta.ppf(1 - tail, k + 1, n - k), nan=1.0)
    worst = int(np.argmin(k / n))
    return Estimate(float(k[worst] / n[worst]), float(low.min()), float(high.min())), int(held[worst])


def minimum_bias(correct: np.ndarray, total: np.ndarray, *, samples: int = 4000, seed: int = 0, level: float = _LEVEL) -> Lowest:
    """Estimate how far the lowest of C noisy shares is below the true minimum, by a parametric bootstrap.

    It shows roughly how much of a low minimum is selection. It cannot replace `worst_accuracy`, whose interval is guaranteed. The
    correction goes too far where one class is truly worse by less than two standard errors; no method can tell that from a tie.
    The interval is too short where a class has fewer than about five survivors.
    """
    return _lowest(correct, total, 1, samples, seed, level)


def worst_share(
    correct: np.ndarray, total: np.ndarray, share: float = 0.1, *, samples: int = 4000, seed: int = 0, level: float = _LEVEL
) -> Lowest:
    """Compute the mean accuracy of the worst `share` of the classes (at least one).

    Use it for many classes, where a minimum of 1 to 3 % says little. The bootstrap is that of `minimum_bias`. Raises ValueError
    unless 0 < share <= 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}; expected a share of the classes in (0, 1], such as 0.1.")
    return _lowest(correct, total, max(1, round(share * int((total > 0).sum()))), samples, seed, level)


def _lowest(correct: np.ndarray, total: np.ndarray, count: int, samples: int, seed: int, level: float) -> Lowest:
    """Compute the mean of the `count` lowest accuracies, its bias and its interval.

    The bias is simulated from shares shrunk until their spread is what the noise leaves over (empirical Bayes). The observed
    shares are spread too far, which would halve the bias. Downwards the interval has the noise of one fixed set of classes, since
    noise did not choose the truly lowest. Upwards it has the noise of the lowest classes of each draw, as if all candidates were
    tied, which is the worst case.
    """
    held = _held(correct, total)
    k, n = correct[held], total[held]
    shares, smooth = k / n, (k + 0.5) / (n + 1)
    noise = smooth * (1 - smooth) / (n + 1)  # variance of each share
    seen = smooth.var(ddof=1) if len(held) > 1 else 0.0
    real = max(0.0, 1 - noise.mean() / seen) if seen > 0 else 0.0
    likely = smooth.mean() + real * (smooth - smooth.mean())
    drawn = np.random.default_rng(seed).binomial(n, likely, (samples, len(held))) / n
    observed = _mean_of_lowest(shares, count)
    bias = float(_mean_of_lowest(drawn, count).mean() - _mean_of_lowest(likely, count))
    order = np.argsort(shares, kind="stable")[:count]
    reach = 3.5 * np.sqrt(noise)  # a class further above than this cannot be the lowest
    tied = smooth - reach <= np.sort(smooth + reach)[count - 1]
    errors = drawn - likely
    low = observed - np.quantile(errors[:, order].mean(1), 0.5 + level / 2)
    high = observed - np.quantile(_mean_of_lowest(np.where(tied, errors, np.inf), count), 0.5 - level / 2)
    low, high = max(0.0, float(low)), min(1.0, float(high))
    corrected = Estimate(float(np.clip(observed - bias, low, high)), low, high)
    return Lowest(float(observed), bias, corrected, tuple(int(c) for c in held[order]))


def _mean_of_lowest(shares: np.ndarray, count: int) -> np.ndarray:
    return np.partition(shares, count - 1, axis=-1)[..., :count].mean(-1)


def _held(correct: np.ndarray, total: np.ndarray) -> np.ndarray:
    if correct.shape != total.shape:
        raise ValueError(f"correct has shape {correct.shape}, total {total.shape}; expected one number a class in both.")
    held = np.flatnonzero(total)
    if not len(held):
        raise ValueError("No class has images; expected at least one with total > 0.")
    return held


def spread(correct: np.ndarray, total: np.ndarray) -> Spread:
    """Measure the inequality of class accuracies as papers do; classes without images are left out.

    Noise in the observed shares adds to every measure: even truly equal classes have a spread above 0.
    """
    held = _held(correct, total)
    shares = correct[held] / total[held]
    mean = float(shares.mean())
    deviation = float(shares.std())
    apart = float(np.abs(shares[:, None] - shares).mean())
    over_mean = [x / mean if mean > 0 else float("nan") for x in (deviation, apart / 2, float(shares.min()))]
    return Spread(float(np.ptp(shares)), deviation, *over_mean)


def rho(average: float, worst: float, base_average: float, base_worst: float) -> float:
    """Compute WAT's rho: the worst class's relative gain minus the average's relative loss.

    Both are relative to a base, all in one unit; above 0 is a good trade. Raises ValueError where a base is not above 0.
    """
    if base_average <= 0 or base_worst <= 0:
        raise ValueError(f"Base average {base_average} and base worst class {base_worst}: expected both above 0, they divide.")
    return (worst - base_worst) / base_worst - (base_average - average) / base_average


def boundary_error(
    clean_right: np.ndarray, robust_right: np.ndarray, labels: np.ndarray, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Split the robust error as FRL does: return (clean error [C], boundary error [C]).

    The boundary error is what the attack adds to the clean error. Both are nan for a class without images. The arguments are
    bool [N], bool [N] and int [N].
    """
    total = np.bincount(labels, minlength=num_classes)
    none = np.full(num_classes, np.nan)
    clean, robust = (
        np.divide(np.bincount(labels[~right], minlength=num_classes), total, out=none.copy(), where=total > 0)
        for right in (clean_right, robust_right)
    )
    return clean, robust - clean


def confusion(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Compute the confusion matrix [C predicted, C true]; every column sums to 1.

    Each entry is the share of the images of its column's class that are predicted as its row's. The column of a class without
    images is 0. Raises ValueError where labels and predictions differ in number.
    """
    if len(labels) != len(predicted):
        raise ValueError(f"{len(labels)} labels and {len(predicted)} predictions; expected one prediction an image.")
    counts = np.bincount(predicted * num_classes + labels, minlength=num_classes**2).reshape(num_classes, num_classes)
    return counts / np.maximum(counts.sum(0), 1)


def spectral_norm(confusion: np.ndarray) -> float:
    """Compute the largest singular value of `confusion` [C, C] without its diagonal (CSR).

    It is large where errors share a direction.
    """
    return float(np.linalg.norm(confusion - np.diag(np.diag(confusion)), 2))
