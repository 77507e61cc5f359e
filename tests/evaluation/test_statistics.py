"""What is said of one model's classes: by hand in small cases, by simulation where an interval promises coverage."""

from statistics import NormalDist

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from faal_lab.evaluation.statistics import (
    boundary_error,
    class_accuracy,
    class_gap,
    confusion,
    minimum_bias,
    rho,
    spectral_norm,
    spread,
    wilson,
    worst_accuracy,
    worst_share,
)

LADDER = np.array([0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99])
EQUAL, ONE_BAD = np.full(10, 0.6), np.array([0.5] + [0.8] * 9)
MANY = np.clip(np.random.default_rng(5).beta(2, 5, 100), 0.01, 0.95)


def least(trials: int, level: float = 0.95) -> float:
    """Fewest hits of an interval of this level that are not surprising: one less comes once in a thousand."""
    return float(binom.ppf(0.001, trials, level))


@pytest.mark.parametrize("images", [60, 1000])
@pytest.mark.parametrize("truth", [0.05, 0.3, 0.5, 0.9])
def test_a_class_is_covered(images: int, truth: float) -> None:
    counts = np.arange(images + 1)
    found = class_accuracy(counts, np.full(images + 1, images))
    covers = np.array([f is not None and f.low <= truth <= f.high for f in found])
    # exact, no simulation: Wilson's coverage swings around 95 % with the truth, here from 93.4 % to 97.5 %
    assert 0.93 <= binom.pmf(counts, images, truth)[covers].sum() <= 0.98


def test_wilsons_interval_is_scipys() -> None:
    correct, total = np.array([[0, 1, 7], [20, 0, 5]]), np.array([[9, 1, 20], [20, 0, 9]])
    low, high = wilson(correct, total)
    assert np.isnan([low[1, 1], high[1, 1]]).all(), "no image"
    assert (low[0, 0], high[1, 0]) == (0, 1)
    for at in {*np.ndindex(2, 3)} - {(1, 1)}:
        exact = binomtest(int(correct[at]), int(total[at])).proportion_ci(method="wilson")
        assert (low[at], high[at]) == pytest.approx((exact.low, exact.high), rel=1e-12)


@pytest.mark.parametrize(
    "truth, images",
    [
        (EQUAL, 60),
        (EQUAL, 1000),
        (ONE_BAD, 60),
        (ONE_BAD, 1000),
        (np.full(100, 0.25), 100),
        (MANY, 100),
    ],
    ids=["equal", "equal, many images", "one bad", "one bad, many images", "100 equal", "100 unequal"],
)
def test_the_worst_class_is_covered(truth: np.ndarray, images: int) -> None:
    total, numbers, trials = np.full(len(truth), images), np.random.default_rng(1), 1000
    found = [worst_accuracy(numbers.binomial(total, truth), total)[0] for _ in range(trials)]
    assert sum(f.low <= truth.min() <= f.high for f in found) >= least(trials)


@pytest.mark.parametrize(
    "truth, images",
    [
        (np.full(100, 0.25), 100),
        (MANY, 100),
        (np.array([0.05] + [0.5] * 99), 100),
        (np.array([0.1] * 10 + [0.6] * 90), 100),
        (LADDER, 60),
    ],
    ids=["equal", "unequal", "one bad", "ten bad", "ladder"],
)
def test_the_worst_tenth_is_covered_and_its_bias_shrinks(truth: np.ndarray, images: int) -> None:
    total, numbers, trials = np.full(len(truth), images), np.random.default_rng(2), 150
    real = np.sort(truth)[: max(1, len(truth) // 10)].mean()
    found = [worst_share(numbers.binomial(total, truth), total, samples=600) for _ in range(trials)]
    assert sum(f.corrected.low <= real <= f.corrected.high for f in found) >= least(trials)
    before, after = (np.mean([x(f) for f in found]) - real for x in (lambda f: f.observed, lambda f: f.corrected.value))
    assert abs(after) <= max(0.01, 0.4 * abs(before))


@pytest.mark.parametrize("images", [60, 1000])
@pytest.mark.parametrize("truth", [EQUAL, ONE_BAD, LADDER], ids=["equal", "one bad", "ladder"])
def test_the_bias_of_the_minimum_is_found(truth: np.ndarray, images: int) -> None:
    total, numbers, trials = np.full(10, images), np.random.default_rng(3), 250
    found = [minimum_bias(numbers.binomial(total, truth), total, samples=600) for _ in range(trials)]
    many = numbers.binomial(total, truth, (20_000, 10)).min(1) / images
    # of a full tie some 85 % is found: chance spreads the classes, and a spread looks real
    assert np.mean([f.bias for f in found]) == pytest.approx(many.mean() - truth.min(), abs=0.13 / np.sqrt(images))
    assert sum(f.corrected.low <= truth.min() <= f.corrected.high for f in found) >= least(trials)


def test_the_worst_class_has_the_intervals_of_clopper_and_pearson() -> None:
    correct, total = np.array([0, 7, 20, 0]), np.array([0, 20, 20, 20])
    exact = [binomtest(k, 20).proportion_ci(0.95 ** (1 / 3), method="exact") for k in (7, 20, 0)]
    found, which = worst_accuracy(correct, total)
    assert which == 3
    assert (found.value, found.low, found.high) == pytest.approx((0, 0, min(e.high for e in exact)))
    found, which = worst_accuracy(correct[:3], total[:3])
    exact = binomtest(7, 20).proportion_ci(0.95 ** (1 / 2), method="exact")
    assert (which, found.low, found.high) == pytest.approx((1, exact.low, exact.high))
    assert worst_accuracy(np.array([20]), np.array([20]))[0].high == 1


def test_the_minimum_of_one_class_has_no_bias_and_ends_stay_in_range() -> None:
    one = minimum_bias(np.array([30, 0]), np.array([60, 0]))
    assert one.bias == pytest.approx(0, abs=0.003)
    assert one.classes == (0,)
    for correct in ([0] * 10, [100] * 10):
        found = minimum_bias(np.array(correct), np.full(10, 100)).corrected
        assert 0 <= found.low <= found.value <= found.high <= 1


def test_the_worst_share_names_its_classes() -> None:
    found = worst_share(np.array([5, 1, 0, 9, 2]), np.array([10, 10, 0, 10, 10]), share=0.5)
    assert found.classes == (1, 4)
    assert found.observed == pytest.approx(0.15)
    with pytest.raises(ValueError, match=r"share is 10; expected a share of the classes in \(0, 1\], such as 0\.1"):
        worst_share(np.array([1]), np.array([2]), share=10)
    with pytest.raises(ValueError, match="No class has images"):
        minimum_bias(np.array([0]), np.array([0]))
    with pytest.raises(ValueError, match=r"correct has shape \(2,\), total \(1,\)"):
        spread(np.array([0, 1]), np.array([3]))


def test_spread_has_intervals_for_the_truth() -> None:
    for correct, total in (([5, 40, 60, 60], [60] * 4), ([0, 7, 20, 0], [0, 20, 20, 20]), ([300] * 99 + [100], [500] * 100)):
        for name, one in vars(spread(np.array(correct), np.array(total))).items():
            assert one.low <= one.value <= one.high, name
    equal = spread(np.array([29, 31, 30, 33, 27]), np.full(5, 60))
    assert [one.low for one in (equal.gap, equal.deviation, equal.normalised, equal.gini)] == [0, 0, 0, 0]
    assert equal.ratio.high == 1
    few, many = (vars(spread(np.array([3, 5]) * n, np.array([10, 10]) * n)) for n in (10, 1000))
    for name in few:
        assert many[name].high - many[name].low < 0.2 * (few[name].high - few[name].low), name
    nothing = spread(np.array([0, 0]), np.array([20, 20]))
    assert nothing.gap.high > 0.1
    assert nothing.deviation.low == 0 < nothing.deviation.high
    assert all(np.isnan(one.low) for one in (nothing.normalised, nothing.gini, nothing.ratio))
    alone = spread(np.array([3]), np.array([5]))
    assert [(one.low, one.high) for one in (alone.gap, alone.deviation, alone.normalised, alone.gini)] == [(0, 0)] * 4
    assert spread(np.array([3, 4]), np.array([5, 9])) == spread(np.array([3, 4]), np.array([5, 9]))


def test_the_gap_of_two_clear_classes_is_newcombes() -> None:
    correct, total = np.array([900, 300]), np.array([1000, 1000])
    found = class_gap(correct, total)
    z = NormalDist().inv_cdf(1 - 0.02)  # a fifth of 5 % pays for the choice of the pair
    p = correct / total
    centre, half = (p + z**2 / 2000) / (1 + z**2 / 1000), z / (1 + z**2 / 1000) * np.sqrt(p * (1 - p) / 1000 + z**2 / 4e6)
    low, high = centre - half, centre + half
    assert found.low == pytest.approx(0.6 - np.hypot(p[0] - low[0], high[1] - p[1]))
    assert found.high == pytest.approx(0.6 + np.hypot(high[0] - p[0], p[1] - low[1]))
    assert class_gap(np.array([900, 300, 0]), np.array([1000, 1000, 0])) == found


def test_spread_by_hand() -> None:
    found = vars(spread(np.array([2, 6, 0]), np.array([10, 10, 0])))
    assert [one.value for one in found.values()] == pytest.approx([0.4, 0.2, 0.5, 0.25, 0.5])
    equal = vars(spread(np.array([3, 3]), np.array([10, 10])))
    assert [one.value for one in equal.values()] == [0, 0, 0, 0, 1]
    assert np.isnan(spread(np.array([0, 0]), np.array([5, 5])).ratio.value)


def test_rho_of_dafa_against_trades() -> None:
    assert rho(49.05, 30.53, 49.80, 21.31) == pytest.approx(0.418, abs=0.0005)
    with pytest.raises(ValueError, match="expected both above 0"):
        rho(0.4, 0.1, 0.5, 0.0)


def test_errors_by_class() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1])
    clean = np.array([True, True, True, False, True, True])
    robust = np.array([True, False, False, False, True, True])
    found = boundary_error(clean, robust, labels, 3)
    np.testing.assert_allclose(found, [[0.25, 0, np.nan], [0.5, 0, np.nan]])


def test_confusion_by_hand() -> None:
    found = confusion(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 0]), 3)
    np.testing.assert_array_equal(found, [[0.5, 1, 0], [0.5, 0, 0], [0, 0, 0]])
    assert spectral_norm(found) == pytest.approx(1.0)
    assert spectral_norm(np.eye(3)) == 0
    with pytest.raises(ValueError, match="2 labels and 1 predictions"):
        confusion(np.array([0, 1]), np.array([0]), 2)
