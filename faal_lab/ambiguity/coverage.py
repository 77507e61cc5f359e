"""What Theorem 1 of the FAAL paper promises, by simulation: drawing class labels, and nothing else.

Knows: class losses, a true class distribution, the KL ball. Must not know: networks, attacks.

Stated properly (Van Parys, Mohajerin Esfahani and Kuhn 2021): draw n labels from P. The largest expected loss over all w with
KL(empirical || w) <= tau falls below the true expected loss with a probability that decays like exp(-tau n + o(n)). The
class losses themselves are taken as known. The paper prints 1 - exp(-tau n) + O(n), whose last term says nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from faal_lab.ambiguity.kl import KLBall


class Coverage(NamedTuple):
    """Counts over simulated draws of n labels."""

    trials: int
    covered: int  # the robust objective was at least the true expected loss
    worst_covered: int  # it was even at least the loss of the worst class, which nobody promised


def simulate(losses: list[float], truth: list[float], n: int, tau: float, trials: int = 20_000, seed: int = 0) -> Coverage:
    """Draw `n` labels from `truth` [C] `trials` times and ask the KL ball of radius `tau` around what was drawn."""
    counts = np.random.default_rng(seed).multinomial(n, truth, size=trials)  # [trials, C]
    rows, times = np.unique(counts, axis=0, return_counts=True)
    known = torch.tensor(losses, dtype=torch.float64)
    found = KLBall(tau).worst_case(known.expand(len(rows), -1), reference=torch.from_numpy(rows / n)).value.numpy()
    expected = float(np.dot(losses, truth))
    slack = 1e-12 * max(map(abs, losses))
    covered, worst = (int(times[found >= bound - slack].sum()) for bound in (expected, max(losses)))
    return Coverage(trials, covered, worst)
