"""Solve every ambiguity set by a general conic solver (CVXPY): independent, slow, and selectable.

Each row of `STATEMENTS` gives the convex expression that must stay below the radius. A statement is compiled once per set and
number of classes; scores, reference, radius and costs are its parameters (DPP). If a solver fails, the error names it; no other
one is tried.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch

from faal_lab.dro.balls import ChiSquareBall, CVaR, Floored, HellingerBall, Point, Simplex, TotalVariationBall
from faal_lab.dro.base import AmbiguitySet, Posed, WorstCase, pose, settle, settle_priced
from faal_lab.dro.kl import KLBall, KLPenalty
from faal_lab.dro.reverse_kl import ReverseKLBall, ReverseKLPenalty
from faal_lab.dro.wasserstein import WassersteinBall

# A statement: (cvxpy, weights w, parameters by name) -> (the measure, further constraints).
Statement = Callable[[Any, Any, "Parameters"], tuple[Any, list[Any]]]


def _kl(cp: Any, w: Any, p: Parameters) -> tuple[Any, list[Any]]:
    return p["u log u"] - cp.sum(cp.multiply(p["u"], cp.log(w))), []


def _reverse_kl(cp: Any, w: Any, p: Parameters) -> tuple[Any, list[Any]]:
    return -cp.sum(cp.entr(w)) - w @ p["log u"], []


def _chi_square(cp: Any, w: Any, p: Parameters) -> tuple[Any, list[Any]]:
    return cp.sum_squares(cp.multiply(p["1 / sqrt u"], w)) - 1, []


def _total_variation(cp: Any, w: Any, p: Parameters) -> tuple[Any, list[Any]]:
    return cp.norm1(w - p["u"]) / 2, []


def _hellinger(cp: Any, w: Any, p: Parameters) -> tuple[Any, list[Any]]:
    return 1 - p["sqrt u"] @ cp.sqrt(w), []


def _cvar(cp: Any, w: Any, p: Parameters) -> tuple[Any, list[Any]]:
    return cp.max(cp.multiply(p["1 / u"], w)), []


def _wasserstein(cp: Any, w: Any, p: Parameters) -> tuple[Any, list[Any]]:
    plan = cp.Variable((w.size, w.size), nonneg=True)
    return cp.sum(cp.multiply(p["cost"], plan)), [cp.sum(plan, axis=1) == p["u"], cp.sum(plan, axis=0) == w]


def _simplex(cp: Any, w: Any, p: Parameters) -> tuple[Any, list[Any]]:
    return cp.Constant(0.0), []


def _point(cp: Any, w: Any, p: Parameters) -> tuple[Any, list[Any]]:
    return cp.Constant(0.0), [w == p["u"]]


STATEMENTS: dict[type, Statement] = {
    KLBall: _kl,
    ReverseKLBall: _reverse_kl,
    ChiSquareBall: _chi_square,
    TotalVariationBall: _total_variation,
    HellingerBall: _hellinger,
    CVaR: _cvar,
    WassersteinBall: _wasserstein,
    Simplex: _simplex,
    Point: _point,
    KLPenalty: _kl,
    ReverseKLPenalty: _reverse_kl,
}
_PENALISED = (KLPenalty, ReverseKLPenalty)
_ABSOLUTE = (ReverseKLBall, ChiSquareBall, CVaR, ReverseKLPenalty, KLPenalty)  # no weight where the reference has none
# Clarabel stops at 1e-8 by default; an oracle must be more accurate than the solver that it checks
_OPTIONS: dict[str, dict[str, float]] = {"CLARABEL": {"tol_gap_abs": 1e-9, "tol_gap_rel": 1e-9, "tol_feas": 1e-9}}

_VALUES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "u": lambda u: u,
    "u log u": lambda u: np.sum(np.where(u > 0, u * np.log(np.where(u > 0, u, 1)), 0)),
    "log u": np.log,
    "sqrt u": np.sqrt,
    "1 / sqrt u": lambda u: 1 / np.sqrt(u),
    "1 / u": lambda u: 1 / u,
}


class Parameters(dict[str, Any]):
    """CVXPY parameters, created when a statement first asks for one."""

    def __init__(self, cp: Any, classes: int) -> None:
        super().__init__(scores=cp.Parameter(classes), radius=cp.Parameter(nonneg=True))
        self.cp, self.classes = cp, classes

    def __missing__(self, name: str) -> Any:
        shape = {"u log u": (), "cost": (self.classes, self.classes)}.get(name, (self.classes,))
        self[name] = self.cp.Parameter(shape, nonneg=name not in ("u log u", "log u"))
        return self[name]

    def fill(self, u: np.ndarray, scores: np.ndarray, radius: float, cost: np.ndarray | None) -> None:
        """Set the value of every parameter."""
        given = {"scores": scores, "radius": radius, "cost": cost}
        for name, parameter in self.items():
            parameter.value = given[name] if name in given else _VALUES[name](u)


@cache
def compiled(kind: type, classes: int) -> tuple[Any, Any, Parameters, Any, Any]:
    """Compile a statement, once per set and number of classes.

    Return problem, weights, parameters, measure and, for a ball, its constraint.
    """
    import cvxpy as cp

    w, parameters = cp.Variable(classes, nonneg=True), Parameters(cp, classes)
    measure, constraints = STATEMENTS[kind](cp, w, parameters)
    gain, ball = parameters["scores"] @ w, None
    if kind in _PENALISED:
        gain = gain - measure
    else:
        ball = measure <= parameters["radius"]
        constraints = [*constraints, ball]
    total: Any = cp.sum(w) == 1
    return cp.Problem(cp.Maximize(gain), [total, *constraints]), w, parameters, measure, ball


def solve(
    ambiguity: AmbiguitySet,
    scores: torch.Tensor,
    reference: torch.Tensor | None = None,
    present: torch.Tensor | None = None,
    radius: torch.Tensor | float | None = None,
    solver: str = "CLARABEL",
) -> WorstCase:
    """Solve one problem (`scores` [C]) by CVXPY with the named solver.

    CVXPY gets the gaps, not the scores. Raises RuntimeError if the solver reaches no optimum, ImportError without cvxpy, and
    TypeError for a set without a statement.
    """
    if isinstance(ambiguity, Floored):
        raise TypeError("A floor is a mixture with the reference: solve its inner set.")
    if type(ambiguity) not in STATEMENTS:
        raise TypeError(f"{type(ambiguity).__name__} has no statement for CVXPY; add a row to faal_lab.dro.conic.STATEMENTS.")
    posed = pose(scores, ambiguity.radius if radius is None else radius, reference, present, check=True)
    keep = posed.present & ((posed.reference > 0) if isinstance(ambiguity, _ABSOLUTE) else True)
    return _solved(ambiguity, posed, keep, solver)


def _solved(ambiguity: AmbiguitySet, posed: Posed, keep: torch.Tensor, solver: str) -> WorstCase:
    import cvxpy as cp

    kind, radius = type(ambiguity), float(posed.radius)
    name = f"CVXPY's solver {solver}"
    problem, w, parameters, measure, ball = compiled(kind, int(keep.sum()))
    cost = ambiguity.costs(len(keep))[keep][:, keep].numpy() if isinstance(ambiguity, WassersteinBall) else None
    # price times measure would be a product of parameters, which is not DPP: divide the scores by the price instead
    unit = float(posed.spread) / radius if kind in _PENALISED else 1.0
    bound = 1 / radius if kind is CVaR else min(radius, 1e6)
    parameters.fill(posed.reference[keep].numpy(), unit * (1 - posed.gaps[keep]).numpy(), bound, cost)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Solution may be inaccurate")  # its status is then no optimum, and is refused below
            problem.solve(solver=solver, **_OPTIONS.get(solver, {}))
    except cp.SolverError as error:
        raise RuntimeError(f"{name} failed on {kind.__name__}: {error}") from error
    if problem.status != cp.OPTIMAL:
        raise RuntimeError(f"{name} ended as {problem.status!r} on {kind.__name__}.")
    weights = torch.zeros_like(posed.scores)
    weights[keep] = torch.from_numpy(np.asarray(w.value))
    spent = float(measure.value)
    dual = torch.tensor(0.0 if ball is None else float(np.sum(ball.dual_value)), dtype=torch.float64)
    measured = torch.tensor(1 / spent if kind is CVaR else spent, dtype=torch.float64)
    return settle_priced(posed, weights, measured) if kind in _PENALISED else settle(posed, weights, measured, dual)
