"""The bias of classes: against a search over all biases, and the properties of the game."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faal_lab.dro import KLBall
from faal_lab.dro.balance import Counts, best, play, shrunken
from faal_lab.errors import ConfigError

Measure = Callable[[tuple[float, ...]], Counts]


def classifier(seed: int, offset: float, images: int = 400, classes: int = 3) -> Measure:
    """Count what a Gaussian classifier with wrong offsets gets right for a bias; the images stay the same."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, 4))
    labels = np.repeat(np.arange(classes), images)
    points = centres[labels] + rng.normal(size=(len(labels), 4))
    logits = -((points[:, None] - centres) ** 2).sum(2) / 2 + offset * rng.normal(size=classes)

    def measure(bias: tuple[float, ...]) -> Counts:
        right = (logits + np.array(bias)).argmax(1) == labels
        return np.bincount(labels[right], minlength=classes).tolist(), [images] * classes

    return measure


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("offset", [0.0, 0.7])
def test_the_choice_is_near_the_best_of_all_biases(seed: int, offset: float) -> None:
    measure = classifier(seed, offset)
    grid = np.arange(-1.6, 1.61, 0.1).tolist()
    counts = [measure((u, v, -u - v)) for u, v in product(grid, grid)]
    errors = 1 - torch.tensor([correct for correct, _ in counts], dtype=torch.float64) / 400
    rounds = play(measure, 3, rate=0.5, rounds=30, patience=30)
    for tau in (0.0, 0.02, 0.1, 0.5, math.inf):
        found, optimum = best(rounds, tau).value(tau), float(KLBall(tau).worst_case(errors).value.min())
        # The search sees the same 400 images a class, so some of its lead is luck: a standard error is 0.025.
        assert found <= optimum + 0.02
        assert found <= rounds[0].value(tau)


def test_a_floor_chooses_the_best_bias_that_holds_it() -> None:
    measure = classifier(1, 0.7)
    free = play(measure, 3, tau=math.inf, rounds=60, patience=60, rate=0.5)
    floor = (free[0].average + max(r.average for r in free)) / 2
    assert floor > free[0].average, "the offsets cost average, so the bias first regains some"
    held = best(free, math.inf, free[0].average)
    assert held.average >= free[0].average
    assert held.worst > free[0].worst
    with pytest.raises(ConfigError, match=r"cannot be met: without a bias the average on these images is"):
        best(free, math.inf, floor)


def test_a_bias_below_the_floor_is_taken_back_by_half() -> None:
    def measure(bias: tuple[float, ...]) -> Counts:
        return (900 - round(400 * bias[1]), 400 + round(100 * bias[1])), (1000, 1000)

    rounds = play(measure, 2, average_floor=0.6, rate=1.5)
    assert rounds[1].bias[1] == pytest.approx(0.375, abs=1e-3)  # 1.5 times half of the difference of the errors, 0.5
    assert rounds[1].average < 0.6
    assert rounds[2].bias[1] == pytest.approx(rounds[1].bias[1] / 2)
    assert all(r.average >= 0.6 for r in [best(rounds, 0.5, 0.6)])


def test_one_step_by_hand() -> None:
    rounds = play(lambda bias: ((9, 5, 4), (10, 10, 10)), 3, rate=2.0, rounds=1)
    smooth = [1 - 9.5 / 11, 1 - 5.5 / 11, 1 - 4.5 / 11]
    mean = sum(smooth) / 3
    noise = sum(s * (1 - s) / 11 for s in smooth) / 3
    seen = sum((s - mean) ** 2 for s in smooth) / 2
    real = 1 - noise / seen
    assert rounds[1].bias == pytest.approx([2 * real * (s - mean) for s in smooth])


def test_classes_that_cannot_be_told_apart_keep_a_bias_of_0() -> None:
    assert len(play(lambda bias: ((7, 7, 7), (10, 10, 10)), 3)) == 1
    assert shrunken((14, 15, 16), (20, 20, 20))[1] == 0  # a spread that noise alone makes
    assert shrunken((1400, 1500, 1600), (2000, 2000, 2000))[1] > 0.9


@given(
    correct=st.lists(st.integers(0, 50), min_size=2, max_size=8),
    shift=st.floats(-3, 3),
    tau=st.floats(0, 2),
    more=st.integers(1, 6),
)
@settings(max_examples=60, deadline=None)
def test_more_rounds_never_raise_the_objective(correct: list[int], shift: float, tau: float, more: int) -> None:
    classes = len(correct)

    def measure(bias: tuple[float, ...]) -> Counts:
        return [min(50, max(0, round(k + 30 * (b + shift * b * b)))) for k, b in zip(correct, bias, strict=True)], [50] * classes

    few, many = (play(measure, classes, tau=tau, rounds=n, patience=99) for n in (2, 2 + more))
    assert best(many, tau).value(tau) <= best(few, tau).value(tau) + 1e-12
    assert all(abs(sum(r.bias)) < 1e-9 for r in many), "a constant for all classes changes nothing, so the mean stays 0"


def test_a_class_without_images_is_refused() -> None:
    with pytest.raises(ConfigError, match="Class 1 has no image"):
        play(lambda bias: ((5, 0), (10, 0)), 2)
