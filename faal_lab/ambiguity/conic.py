"""The same sets stated for a general conic solver (CVXPY): independent, slow, and selectable.

Knows: how each set reads as a convex constraint. Must not know: the closed forms it is the oracle for.
Each statement is compiled once per number of classes; scores, reference and radius are parameters of it (DPP).
A solver that fails raises and names itself; no other one is tried.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch

from faal_lab.ambiguity.kl import KLBall
from faal_lab.ambiguity.worst_case import AmbiguitySet, WorstCase, pose


def _kl_constraint(cp: Any, w: Any, u: Any, entropy: Any, radius: Any) -> Any:
    return -cp.sum(cp.multiply(u, cp.log(w))) + entropy <= radius  # KL(u || w), u first


_CONSTRAINTS = {KLBall: _kl_constraint}
# An oracle should be wrong by less than what it checks: Clarabel stops at 1e-8 by default.
_OPTIONS: dict[str, dict[str, float]] = {"CLARABEL": {"tol_gap_abs": 1e-9, "tol_gap_rel": 1e-9, "tol_feas": 1e-9}}


@cache
def _statement(kind: type, classes: int) -> tuple[Any, dict[str, Any]]:
    import cvxpy as cp

    w = cp.Variable(classes, nonneg=True)
    scores, u = cp.Parameter(classes), cp.Parameter(classes, nonneg=True)
    entropy, radius = cp.Parameter(), cp.Parameter(nonneg=True)
    constraints = [cp.sum(w) == 1, _CONSTRAINTS[kind](cp, w, u, entropy, radius)]
    names = {"w": w, "scores": scores, "u": u, "entropy": entropy, "radius": radius, "ball": constraints[1]}
    return cp.Problem(cp.Maximize(scores @ w), constraints), names


def solve(
    ambiguity: AmbiguitySet,
    scores: torch.Tensor,
    reference: torch.Tensor | None = None,
    present: torch.Tensor | None = None,
    radius: torch.Tensor | float | None = None,
    solver: str = "CLARABEL",
) -> WorstCase:
    """Solve one problem (`scores` [C]) by CVXPY with the named solver.

    Raises RuntimeError when the solver does not reach an optimum, ImportError when cvxpy is missing.
    """
    try:
        import cvxpy as cp
    except ImportError as error:
        raise ImportError("solver='cvxpy' needs the package cvxpy: pip install cvxpy") from error
    posed = pose(scores, ambiguity.radius if radius is None else radius, reference, present, check=True)
    keep = posed.reference > 0
    u = posed.reference[keep].numpy()
    problem, parts = _statement(type(ambiguity), len(u))
    parts["scores"].value, parts["u"].value = posed.scores[keep].numpy(), u
    parts["entropy"].value, parts["radius"].value = float(np.sum(u * np.log(u))), float(posed.radius)
    try:
        problem.solve(solver=solver, **_OPTIONS.get(solver, {}))
    except cp.SolverError as error:
        raise RuntimeError(f"CVXPY's solver {solver} failed on {type(ambiguity).__name__}: {error}") from error
    if problem.status != cp.OPTIMAL:
        raise RuntimeError(f"CVXPY's solver {solver} ended as {problem.status!r} on {type(ambiguity).__name__}.")
    w = np.asarray(parts["w"].value)
    weights = torch.zeros_like(posed.scores)
    weights[keep] = torch.from_numpy(w)
    spent = torch.tensor(float(np.sum(u * np.log(u / w))), dtype=torch.float64)
    value, dual = float(problem.value), float(parts["ball"].dual_value)
    return WorstCase(weights, torch.tensor(value).double(), spent, torch.tensor(dual).double())
