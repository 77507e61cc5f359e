"""Reproduce two parts of the FAAL paper for study: its released solver, and Theorem 1 by simulation.

Training uses neither.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from faal_lab.dro.kl import KLBall


def release_weights(
    margins: torch.Tensor, labels: torch.Tensor, num_classes: int, tau: float, solver: str = "CLARABEL"
) -> torch.Tensor:
    """Compute the weights [C] of the FAAL release from per-sample softmax margins [B].

    They maximise the sum over samples of `w[label] * margin` in the KL ball. Three things differ from the paper:

    - Scores are class sums, so a frequent class is pushed further from 0.
    - An absent class has score 0, harder than every class with a negative margin.
    - The problem is built anew for each batch, which costs milliseconds.

    If a solver fails, the release tries others; this function raises RuntimeError.
    """
    import cvxpy as cp

    member = F.one_hot(labels.cpu(), num_classes).double().numpy()  # [B, C]
    values = margins.detach().cpu().double().numpy()
    w: Any = cp.Variable(num_classes)
    uniform = [1 / num_classes] * num_classes
    inside = cp.sum(cp.kl_div(uniform, w)) <= tau
    constraints: list[Any] = [w >= 0, cp.sum(w) == 1, inside]
    problem = cp.Problem(cp.Maximize(cp.sum(cp.multiply(values, member @ w))), constraints)
    try:
        problem.solve(solver=solver)
    except cp.SolverError as error:
        raise RuntimeError(f"CVXPY's solver {solver} failed on the release's problem: {error}") from error
    if problem.status not in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE):
        raise RuntimeError(f"CVXPY's solver {solver} ended as {problem.status!r} on the release's problem.")
    return torch.from_numpy(w.value)


class Coverage(NamedTuple):
    """Counts over simulated draws of n labels."""

    trials: int
    covered: int  # the robust objective was at least the true expected loss
    worst_covered: int  # it was at least the loss of the worst class, which the theorem does not promise


def simulate(losses: list[float], truth: list[float], n: int, tau: float, trials: int = 20_000, seed: int = 0) -> Coverage:
    """Count how often the robust objective covers the true expected loss, as in Theorem 1.

    Draw `n` labels from `truth` [C], `trials` times. The KL ball of radius `tau` is around the drawn frequencies.
    """
    counts = np.random.default_rng(seed).multinomial(n, truth, size=trials)  # [trials, C]
    rows, times = np.unique(counts, axis=0, return_counts=True)
    known = torch.tensor(losses, dtype=torch.float64)
    found = KLBall(tau).worst_case(known.expand(len(rows), -1), reference=torch.from_numpy(rows / n)).value.numpy()
    expected = float(np.dot(losses, truth))
    slack = 1e-12 * max(map(abs, losses))
    covered, worst = (int(times[found >= bound - slack].sum()) for bound in (expected, max(losses)))
    return Coverage(trials, covered, worst)
