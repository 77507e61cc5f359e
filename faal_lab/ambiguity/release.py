"""The middle problem as the FAAL authors' released code solves it: for comparison and for teaching, not for training.

Knows: margins of samples. Must not know: class means, which the paper states and this does not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F


def release_weights(
    margins: torch.Tensor, labels: torch.Tensor, num_classes: int, tau: float, solver: str = "CLARABEL"
) -> torch.Tensor:
    """Weights [C] from per-sample softmax margins [B]: maximise the sum over samples of `w[label] * margin`.

    Three things differ from the paper. Scores are class sums, so a frequent class is pushed further from 0. An absent class has
    score 0, harder than every class with a negative margin. The problem is built anew for each batch, which costs
    milliseconds. The release also tries other solvers when one fails; here it is the named one or RuntimeError.
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
