"""Compute intervals of class-wise accuracy, and the measures of inequality that papers report.

Intervals are at 95 % unless stated. `correct` and `total` are whole numbers [C]; classes without images are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_LEVEL = 0.95
PICKING = 0.1  # share of the error rate that a model's truly worst class is not among the candidates


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

    gap: Estimate  # highest minus lowest
    deviation: Estimate  # standard deviation over the classes
    normalised: Estimate  # deviation over mean (ABSLD's NSD)
    gini: Estimate  # mean absolute difference of two classes over twice the mean
    ratio: Estimate  # lowest over mean (WCR)


def class_accuracy(correct: np.ndarray, total: np.ndarray, level: float = _LEVEL) -> list[Estimate | None]:
    """Compute Wilson's interval for each class alone; None for a class without images."""
    rows = zip(correct.tolist(), total.tolist(), *(end.tolist() for end in wilson(correct, total, level)), strict=True)
    return [Estimate(k / n, low, high) if n else None for k, n, low, high in rows]


def wilson(correct: np.ndarray, total: np.ndarray, level: float = _LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Compute both ends of Wilson's interval for shares of any shape; nan where the total is 0."""
    from scipy.special import ndtri

    z, n = float(ndtri((1 + level) / 2)), np.where(total > 0, total, np.nan)
    down, up = reach(correct, n, np.array(z))
    low, high = correct / n - down, correct / n + up
    return np.where(correct == 0, 0.0 * n, low), np.where(correct == total, 1.0 + 0.0 * n, high)  # rounding would miss 0 and 1


def quantile(tail: float, together: np.ndarray) -> np.ndarray:
    """Return the normal quantile that the largest of `together` independent errors exceeds at `tail`."""
    from scipy.stats import norm

    return norm.isf(-np.expm1(np.log1p(-tail) / np.maximum(together, 1)))


def reach(k: np.ndarray, n: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the reach of Wilson's interval below and above the share k / n."""
    share, squared = k / n, z * z
    centre = (share + squared / (2 * n)) / (1 + squared / n)
    half = z / (1 + squared / n) * np.sqrt(share * (1 - share) / n + squared / (4 * n * n))
    return share - centre + half, centre + half - share


def candidates(k: np.ndarray, n: np.ndarray, error_rate: float) -> np.ndarray:
    """Find classes that may be the worst, bool [..., C]; the true one is missed at most at `error_rate`."""
    others = np.array(max(1, n.shape[-1] - 1))
    down, up = reach(k, n, quantile(error_rate, others))
    share = k / n
    above = share[..., :, None] - share[..., None, :] - np.sqrt(down[..., :, None] ** 2 + up[..., None, :] ** 2)
    return np.asarray((above <= 0).all(-1))


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


def spread(correct: np.ndarray, total: np.ndarray, *, samples: int = 1000, seed: int = 0, level: float = _LEVEL) -> Spread:
    """Measure the inequality of class accuracies as papers do, with intervals for the truth.

    Noise in the observed shares adds to every measure: even truly equal classes have a spread above 0. The intervals allow for
    that, and begin at 0 for such classes. The gap has the bound of `class_gap`. The ratio joins the intervals of worst class and
    average, at half the error rate each. The others are tests turned round: classes are spread around their mean by less and
    less until so much is no longer likely to be seen, and by more and more.
    """
    held = _held(correct, total)
    k, n = correct[held], total[held]
    values = measures(k / n)
    low, high = _inverted(k, n, np.nan_to_num(values[1:4]), samples, seed, level)
    worst, average = worst_accuracy(k, n, (1 + level) / 2)[0], average_accuracy(k, n, (1 + level) / 2)
    highest = worst.high / average.low if average.low > 0 else 1.0
    ends = np.array([*zip(low, high, strict=True), (min(1.0, worst.low / average.high), min(1.0, highest))])
    ends[np.isnan(values[1:])] = np.nan
    others = (Estimate(float(v), float(lo), float(hi)) for v, (lo, hi) in zip(values[1:], ends, strict=True))
    return Spread(class_gap(k, n, level), *others)


def measures(shares: np.ndarray) -> np.ndarray:
    """Compute the five measures of `Spread`, in its order [5, ...], of shares [..., C]."""
    count, ordered, mean, deviation = shares.shape[-1], np.sort(shares, -1), shares.mean(-1), shares.std(-1)
    apart = (ordered * (2 * np.arange(1, count + 1) - count - 1)).sum(-1) / count**2  # half the mean absolute difference
    over = np.where(mean > 0, mean, np.nan)
    return np.stack([np.ptp(shares, -1), deviation, deviation / over, apart / over, ordered[..., 0] / over])


def class_gap(correct: np.ndarray, total: np.ndarray, level: float = _LEVEL) -> Estimate:
    """Compute the highest minus the lowest class accuracy, with an interval for the truth.

    Candidates for the best and the worst class are those not shown to be below or above another one. The upper end is the
    highest of Newcombe's upper ends over pairs of candidates, which holds for the true pair. The lower end is the highest
    lower end of all pairs at once (Sidak). Where many classes are tied it is cautious.
    """
    held = _held(correct, total)
    k, n, error = correct[held], total[held], 1 - level
    shares = k / n
    if len(held) == 1:
        return Estimate(0.0, 0.0, 0.0)
    pairs = np.ix_(candidates(n - k, n, PICKING * error), candidates(k, n, PICKING * error))
    tail = (0.5 - PICKING) * error
    between = shares[:, None] - shares
    (down, up), many = reach(k, n, quantile(tail, np.array(1))), between[pairs].size
    (down_all, up_all) = reach(k, n, quantile(tail, np.array(many)))
    low = (between - np.sqrt(down_all[:, None] ** 2 + up_all**2))[pairs].max()
    high = (between + np.sqrt(up[:, None] ** 2 + down**2))[pairs].max()
    return Estimate(float(np.ptp(shares)), max(0.0, float(low)), min(1.0, float(high)))


_WIDER, _STEPS, _APART = 0.8, 17, 4.0  # part of the error rate in use: the shape is estimated; amounts tried; see _grouped


def _inverted(
    k: np.ndarray, n: np.ndarray, seen: np.ndarray, samples: int, seed: int, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """Turn tests round for deviation, NSD and Gini; return their lower and upper ends [3] each.

    Two shapes are tried, and the wider ends are taken: the shares as seen, which noise has pulled apart, and the same in
    groups that are equal within (a Gini index depends on ties).
    """
    smooth = (k + 0.5) / (n + 1)
    variance = smooth * (1 - smooth) / (n + 1)
    grouped, one_below = _grouped(smooth, variance), np.where(np.arange(len(n)) == np.argmin(k / n), -1.0, 0.0)
    shapes = (k / n if np.ptp(k / n) > 0 else one_below, grouped if np.ptp(grouped) > 0 else one_below)
    noise, tail, lows, highs = float(np.sqrt(variance.mean())), _WIDER * (1 - level) / 2, [seen], [seen]
    many = max(200, min(samples, 200_000 // len(n)))
    amounts = np.linspace(max(0.0, seen[0] - 5 * noise), seen[0] + 5 * noise, _STEPS)  # standard deviations of the classes
    for shape in shapes if len(n) > 1 else ():
        direction = (shape - shape.mean()) / shape.std()
        truths = np.clip((k / n).mean() + amounts[:, None] * direction, 0, 1)
        drawn = np.random.default_rng(seed).binomial(n, truths[:, None], (_STEPS, many, len(n))) / n
        simulated, true = (np.nan_to_num(measures(x)[1:4]) for x in (drawn, truths))
        most = np.maximum.accumulate(np.quantile(simulated, 1 - tail, axis=-1), -1)
        least = np.minimum.accumulate(np.quantile(simulated, tail, axis=-1)[:, ::-1], -1)[:, ::-1]
        for ends, quantiles in ((lows, most), (highs, least)):
            at = [np.interp(value, line, amounts) for value, line in zip(seen, quantiles, strict=True)]
            ends.append(np.array([np.interp(amount, amounts, line) for amount, line in zip(at, true, strict=True)]))
    return np.min(lows, 0), np.max(highs, 0)


def _grouped(shares: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Join neighbours, nearest first, until all groups are more than four standard errors apart; return the groups' means [C]."""
    order = np.argsort(shares, kind="stable")
    mean, var, size = shares[order], variance[order], np.ones(len(order))
    while len(mean) > 1:
        apart = np.diff(mean) / np.sqrt(var[1:] + var[:-1])
        i = int(apart.argmin())
        if apart[i] >= _APART:
            break
        parts = size[i : i + 2] / size[i : i + 2].sum()
        mean[i], var[i], size[i] = parts @ mean[i : i + 2], parts**2 @ var[i : i + 2], size[i : i + 2].sum()
        mean, var, size = (np.delete(values, i + 1) for values in (mean, var, size))
    found = np.empty(len(order))
    found[order] = np.repeat(mean, size.astype(int))
    return found


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
