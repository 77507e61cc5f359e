"""Theorem 1 by simulation: the objective misses the true loss ever more seldom, at an exponential rate that is tau's."""

import itertools
import math

import numpy as np
import pytest

from faal_lab.dro.paper import simulate

LOSSES, TRUTH = [0.4, 0.9, 0.2, 0.6], [0.4, 0.2, 0.3, 0.1]


@pytest.mark.parametrize("tau", [0.01, 0.03, 0.1])
@pytest.mark.parametrize("n", [10, 40, 160])
def test_coverage_is_at_least_what_is_stated(n: int, tau: float) -> None:
    found = simulate(LOSSES, TRUTH, n, tau, trials=20_000)
    share = found.covered / found.trials
    noise = 3 * math.sqrt(share * (1 - share) / found.trials)
    assert share >= 1 - math.exp(-tau * n) - noise


def test_the_exponent_falls_towards_tau() -> None:
    tau, sizes = 0.02, (25, 50, 100, 200)
    missed = [simulate(LOSSES, TRUTH, n, tau, trials=400_000) for n in sizes]
    rates = [-math.log(1 - c.covered / c.trials) / n for n, c in zip(sizes, missed, strict=True)]
    assert all(a > b for a, b in itertools.pairwise(rates)), rates
    assert tau < rates[-1] < 1.6 * tau, "the o(n) is not nothing at n = 200"


def test_two_classes_against_the_binomial() -> None:
    """With two classes the set of draws that miss is an interval of counts, which can be summed exactly."""
    from scipy.stats import binom

    n, tau, p = 30, 0.05, 0.3
    k = np.arange(n + 1)
    q = k / n
    with np.errstate(divide="ignore", invalid="ignore"):
        kl = np.where(q > 0, q * np.log(q / p), 0) + np.where(q < 1, (1 - q) * np.log((1 - q) / (1 - p)), 0)
    miss = binom.pmf(k[(q < p) & (kl > tau)], n, p).sum()  # class 0 is the hard one: too few of it were drawn
    found = simulate([1.0, 0.0], [p, 1 - p], n, tau, trials=200_000)
    assert 1 - found.covered / found.trials == pytest.approx(miss, abs=4 * math.sqrt(miss / found.trials))


def test_nobody_promised_the_worst_class() -> None:
    found = simulate(LOSSES, TRUTH, 100, 0.05)
    assert found.covered / found.trials > 0.99
    assert found.worst_covered == 0
