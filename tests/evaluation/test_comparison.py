"""Two models on the same images: by hand in small cases, and intervals that cover the truth in simulations."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import binom, t

from faal_lab.evaluation.comparison import Comparison, _average, combine_seeds, compare, mcnemar, worst_difference

LADDER = np.array([0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99])
FIRST_BAD = np.array([0.5] + [0.8] * 9)
EQUAL = np.full(10, 0.6)
SITUATIONS = {
    "same worst class": (LADDER, LADDER + np.array([0.08] + [-0.02] * 9)),
    "different worst classes": (FIRST_BAD, FIRST_BAD[::-1] - 0.05),
    "all classes equal": (EQUAL, EQUAL),
    "A's equal, one of B's bad": (EQUAL, np.array([0.4] + [0.7] * 9)),
    "one of A's bad, B's equal": (np.array([0.4] + [0.7] * 9), EQUAL),
    "B's next class near": (EQUAL, np.array([0.5] + [0.6] * 9)),
    "hardly anything right": (np.array([0.03] + [0.5] * 9), np.array([0.08] + [0.5] * 9)),
    "100 equal classes": (np.full(100, 0.25), np.full(100, 0.25)),
    "100 classes, one bad": (np.full(100, 0.25), np.array([0.1] + [0.3] * 99)),
}


def draw(a: np.ndarray, b: np.ndarray, images: int, correlation: float, trials: int, seed: int = 0) -> np.ndarray:
    """Tables [trials, C, 4] of two models whose verdicts on an image are correlated."""
    both = a * b + correlation * np.sqrt(a * (1 - a) * b * (1 - b))
    both = np.clip(both, np.maximum(0, a + b - 1), np.minimum(a, b))
    shares = np.stack([both, a - both, b - both, 1 - a - b + both], -1)
    return np.random.default_rng(seed).multinomial(images, shares / shares.sum(-1, keepdims=True), (trials, len(a)))


def least(trials: int) -> float:
    return float(binom.ppf(0.001, trials, 0.95))


@pytest.mark.parametrize("correlation", [0.0, 0.6, 0.9])
@pytest.mark.parametrize("images", [60, 1000])
@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_difference_of_worst_classes_is_covered(situation: str, images: int, correlation: float) -> None:
    a, b = SITUATIONS[situation]
    trials = 1500 if len(a) == 10 else 300
    low, high = worst_difference(draw(a, b, images, correlation, trials), 0.05)
    real = b.min() - a.min()
    assert ((low <= real) & (real <= high)).sum() >= least(trials)


def test_the_bootstrap_does_not_cover_it() -> None:
    a, b = SITUATIONS["A's equal, one of B's bad"]
    tables, real, hits = draw(a, b, 1000, 0.6, 100), b.min() - a.min(), 0
    numbers = np.random.default_rng(0)
    for table in tables:
        drawn = numbers.multinomial(1000, table / 1000, (500, 10))
        found = (drawn[..., [0, 2]].sum(-1).min(-1) - drawn[..., :2].sum(-1).min(-1)) / 1000
        low, high = np.quantile(found, [0.025, 0.975])
        hits += low <= real <= high
    assert hits < 75, "if this covers, the interval of worst_difference is needlessly wide"


@pytest.mark.parametrize("correlation", [0.0, 0.6])
@pytest.mark.parametrize(
    "situation", ["same worst class", "different worst classes", "all classes equal", "hardly anything right"]
)
def test_the_difference_of_averages_is_covered(situation: str, correlation: float) -> None:
    a, b = SITUATIONS[situation]
    for images in (10, 60, 1000):
        found = [_average(table, 600, seed) for seed, table in enumerate(draw(a, b, images, correlation, 150))]
        assert sum(f.low <= (b - a).mean() <= f.high for f in found) >= least(150)
        # two sides of one distribution: apart only where 0 is at an end
        assert all((f.p < 0.045) <= f.clear <= (f.p < 0.06) for f in found)


def test_with_one_clear_worst_class_the_interval_is_that_of_a_pair() -> None:
    table = np.array([[200, 40, 100, 660], [800, 50, 50, 100], [850, 50, 50, 50]])
    (low,), (high,) = worst_difference(table[None], 0.05)
    alone = 1.96 * np.sqrt((0.1 + 0.04 - 0.06**2) / 1000)
    assert (low + high) / 2 == pytest.approx(0.06, abs=0.002)
    assert (high - low) / 2 == pytest.approx(alone, rel=0.08)


def images_of(tables: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels and verdicts that have these tables [C, 4], shuffled."""
    labels, cells = (x.ravel() for x in np.indices(np.shape(tables)))
    counts = np.ravel(tables)
    order = np.random.default_rng(0).permutation(counts.sum())
    labels, cells = np.repeat(labels, counts)[order], np.repeat(cells, counts)[order]
    return labels, cells < 2, cells % 2 == 0


def example(*tables: list[int], **options: Any) -> Comparison:
    labels, right_a, right_b = images_of(np.array(tables))
    return compare(labels, right_a, right_b, len(tables), **options)


def test_mcnemar_by_hand() -> None:
    found = mcnemar(np.array([True] * 8 + [False] * 2), np.array([True] * 2 + [False] * 8))
    assert (found.only_a, found.only_b) == (6, 0)
    assert found.p == pytest.approx(2 / 2**6)
    assert mcnemar(np.array([True]), np.array([True])).p == 1


def test_a_comparison_by_hand() -> None:
    found = example([200, 40, 121, 639], [800, 60, 10, 130], [0, 0, 0, 0], [850, 20, 23, 107], names=("FAAL", "WAT"))
    assert found.worst.value == pytest.approx(0.081)
    assert found.average.value == pytest.approx((0.081 - 0.05 + 0.003) / 3)
    assert found.worst_classes == (0, 0)
    assert found.classes[2] is None
    first, second, _, last = found.classes
    assert first is not None
    assert second is not None
    assert last is not None
    assert (first.only_a, first.only_b, first.value) == (40, 121, pytest.approx(0.081))
    assert last.holm == pytest.approx(last.p)
    assert first.holm == pytest.approx(max(2 * first.p, 3 * second.p) if second.p < first.p else 3 * first.p)
    assert 1e-7 < found.worst.p < 0.001
    assert found.worst.low < 0.081 < found.worst.high
    assert found.worst_bias == pytest.approx(0, abs=0.001)


def test_holm_is_never_below_a_smaller_p_values() -> None:
    found = example([10, 0, 6, 4], [10, 0, 5, 5], [10, 3, 3, 4])
    raw = [c.p for c in found.classes if c]
    assert raw == pytest.approx([0.03125, 0.0625, 1])
    assert [c.holm for c in found.classes if c] == pytest.approx([0.09375, 0.125, 1])


def test_sentences() -> None:
    better = example([200, 40, 121, 639], [800, 62, 15, 123], [850, 20, 10, 120])
    assert better.sentence().startswith("B's worst class is 8.1 points higher (95 % interval 5.")
    assert "p < 0.001); the averages are not shown to differ (0.8 points, -0." in better.sentence()
    worse = example([200, 121, 40, 639], [800, 5, 2, 193], names=("old", "new"))
    assert worse.sentence().startswith("new's worst class is 8.1 points lower (95 % interval 5.")
    assert "new's average is 4.2 points lower (95 % interval 3." in worse.sentence()
    alike = example([20, 3, 4, 30], [30, 2, 2, 30])
    assert alike.sentence().startswith("The worst classes cannot be told apart with so few images (1.8 points, 95 % interval -")
    assert "; the averages cannot be told apart with so few images (0.9 points, -" in alike.sentence()
    assert "-0.0" not in alike.sentence()


def test_a_model_and_itself_do_not_differ() -> None:
    found = example([30, 0, 0, 30], [0, 0, 0, 60], [60, 0, 0, 0])
    assert found.sentence() == "A and B do not differ: they have the same verdict on every image."
    assert found.worst.value == found.average.value == found.worst_bias == 0
    assert found.worst.p == found.average.p == 1
    assert found.average.low < 0 < found.average.high
    assert found.worst.low < 0 < found.worst.high


def test_swapping_the_models_turns_the_differences_round() -> None:
    labels, a, b = images_of(np.array([[20, 3, 14, 30], [30, 12, 2, 30]]))
    there, back = compare(labels, a, b, 2), compare(labels, b, a, 2)
    assert (there.worst.value, there.worst.low, there.worst.high) == pytest.approx(
        (-back.worst.value, -back.worst.high, -back.worst.low)
    )
    assert there.worst.p == pytest.approx(back.worst.p)


def test_no_p_value_is_0_and_the_worst_class_p_agrees_with_its_interval() -> None:
    clear = example([0, 0, 500, 0], [1, 0, 499, 0], samples=100)
    assert clear.worst.p == pytest.approx(1e-6)
    assert clear.average.p == pytest.approx(2 / 101)
    for only_b in range(5, 30, 3):
        found = example([20, 6, only_b, 60], [80, 4, 4, 4]).worst
        assert found.clear == (found.p < 0.05)


def test_what_cannot_be_compared() -> None:
    right = np.array([True, False])
    with pytest.raises(ValueError, match=r"Lengths 2 and 2 and 1; expected the same images in the same order\. Evaluate both"):
        compare(np.array([0, 1]), right, right[:1], 2)
    with pytest.raises(ValueError, match="Lengths 2 and 1; expected"):
        mcnemar(right, right[:1])
    with pytest.raises(ValueError, match="0 images; expected at least one"):
        compare(np.array([], dtype=int), right[:0], right[:0], 2)


def test_seeds_together() -> None:
    found = combine_seeds([0.01, 0.02, 0.06])
    half = t.ppf(0.975, 2) * np.std([0.01, 0.02, 0.06], ddof=1) / np.sqrt(3)
    assert (found.mean, found.low, found.high) == pytest.approx((0.03, 0.03 - half, 0.03 + half))
    assert found.sentence() == "3.0 points over 3 seeds (95 % t interval -3.6 to 9.6)."
    one = combine_seeds([0.08])
    assert (one.low, one.high, one.count) == (None, None, 1)
    assert one.sentence() == "8.0 points with one seed: how much seeds differ is not known, so there is no interval."
    with pytest.raises(ValueError, match="No differences; expected one a seed"):
        combine_seeds([])
