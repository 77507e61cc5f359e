"""Every set against its statement for CVXPY: another formulation, another solver, nothing shared but the question."""

import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from faal_lab.dro import (
    AMBIGUITY_SETS,
    ChiSquareBall,
    CVaR,
    Floored,
    HellingerBall,
    KLBall,
    KLPenalty,
    Point,
    ReverseKLBall,
    ReverseKLPenalty,
    Simplex,
    TotalVariationBall,
    WassersteinBall,
    conic,
)
from faal_lab.dro.paper import release_weights

GRID = {
    KLBall: (1e-3, 0.5, 2.0),
    ReverseKLBall: (1e-3, 0.5, 2.0),
    ChiSquareBall: (1e-3, 0.5, 4.0),
    TotalVariationBall: (1e-3, 0.31, 0.8),
    HellingerBall: (1e-3, 0.1, 0.5),
    CVaR: (0.9, 0.37, 0.05),
    WassersteinBall: (1e-3, 0.1, 0.8),
    KLPenalty: (3.0, 0.3),
    ReverseKLPenalty: (3.0, 0.3),
    Simplex: (1.0,),
    Point: (0.0,),
}
CASES = [(kind, radius) for kind, radii in GRID.items() for radius in radii]
ids = [f"{kind.__name__}-{radius:g}" for kind, radius in CASES]


def posed(kind: type, radius: float, classes: int, seed: int = 0) -> tuple:
    """A set, scores, and a reference away from uniform."""
    noise = torch.Generator().manual_seed(classes + seed)
    scores, u = (
        torch.randn(classes, generator=noise, dtype=torch.float64),
        0.2 + torch.rand(classes, generator=noise, dtype=torch.float64),
    )
    cost = torch.rand(classes, classes, generator=noise, dtype=torch.float64).fill_diagonal_(0)
    return (WassersteinBall(radius, cost) if kind is WassersteinBall else kind(radius)), scores, u / u.sum()


@pytest.mark.parametrize("kind, radius", CASES, ids=ids)
@pytest.mark.parametrize("classes", [2, 3, 10, 60])
def test_agrees_with_cvxpy(kind: type, radius: float, classes: int) -> None:
    ball, scores, u = posed(kind, radius, classes)
    for reference in (None, u):
        exact, oracle = ball.worst_case(scores, reference=reference), conic.solve(ball, scores, reference=reference)
        assert torch.allclose(exact.weights, oracle.weights, atol=5e-5)
        assert float(exact.value) == pytest.approx(float(oracle.value), abs=2e-7 * float(scores.max() - scores.min()))
        assert float(exact.value) >= float(oracle.value) - 1e-7, "nobody finds a worse distribution"
    if kind in (KLBall, ReverseKLBall, ChiSquareBall, HellingerBall):  # the others have kinks, where a dual is not one number
        assert float(exact.dual) == pytest.approx(float(oracle.dual), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("kind, radius", CASES, ids=ids)
def test_agrees_where_classes_are_absent(kind: type, radius: float) -> None:
    ball, scores, u = posed(kind, radius, 5)
    present = torch.tensor([True, True, False, True, True])
    exact, oracle = (f(scores, reference=u, present=present) for f in (ball.worst_case, lambda s, **k: conic.solve(ball, s, **k)))
    assert exact.weights[2] == 0 == oracle.weights[2]
    assert torch.allclose(exact.weights, oracle.weights, atol=5e-5)


@pytest.mark.parametrize("kind", [k for k in GRID if k not in (Simplex, Point)])
@settings(max_examples=12, deadline=None)
@given(scores=st.lists(st.integers(-4, 4), min_size=3, max_size=6), position=st.integers(0, 1))
def test_agrees_on_ties(kind: type, scores: list[int], position: int) -> None:
    s, ball = torch.tensor(scores).double() / 4, kind(GRID[kind][position])
    try:
        oracle = conic.solve(ball, s)
    except RuntimeError:  # Clarabel gives up on some ties: no oracle, no comparison; too many of those fail the test
        reject()
    assert float(ball.worst_case(s).value) == pytest.approx(float(oracle.value), abs=2e-6)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_agrees_at_other_scales_and_at_a_thousand_classes(scale: float) -> None:
    for kind in (KLBall, ReverseKLBall, ChiSquareBall, HellingerBall):
        ball, scores, _ = posed(kind, 0.3, 20)
        assert torch.allclose(ball.worst_case(scores * scale).weights, conic.solve(ball, scores * scale).weights, atol=5e-5)
    for kind in (
        ReverseKLBall,
        ChiSquareBall,
        TotalVariationBall,
        CVaR,
    ):  # Clarabel fails on 1000 logarithms; 50 digits serve KLBall
        ball, scores, _ = posed(kind, 0.3, 1000)
        assert float(ball.worst_case(scores).value) == pytest.approx(float(conic.solve(ball, scores).value), abs=1e-6)


def test_a_class_without_reference_mass_agrees() -> None:
    u = torch.tensor([0.0, 0.3, 0.7]).double()
    u = u / u.sum()
    for scores in (
        torch.tensor([0.9, 0.1, 0.4]).double(),
        torch.tensor([0.2, 0.1, 0.4]).double(),
        torch.tensor([0.9, 0.1, 0.1]).double(),
    ):
        for ball in (
            KLBall(0.5),
            TotalVariationBall(0.2),
            WassersteinBall(0.2),
            ReverseKLBall(0.5),
            ChiSquareBall(0.3),
            CVaR(0.4),
        ):
            exact, oracle = ball.worst_case(scores, reference=u), conic.solve(ball, scores, reference=u)
            assert float(exact.value) == pytest.approx(float(oracle.value), abs=1e-6), (ball, scores)


def test_every_set_has_a_statement_compiled_once() -> None:
    assert set(AMBIGUITY_SETS.values()) == set(conic.STATEMENTS) == set(GRID)
    for kind, radius in CASES:
        ball, scores, u = posed(kind, radius, 4)
        conic.solve(ball, scores, reference=u)
        problem = conic.compiled(kind, 4)[0]
        assert problem.is_dcp(dpp=True), kind.__name__
        assert conic.compiled(kind, 4)[0] is problem


def test_the_release_differs_from_the_paper_as_stated() -> None:
    labels = torch.tensor([0] * 10 + [1] * 2 + [2] * 2)
    margins = torch.tensor([-0.3] * 10 + [-0.5, -0.7] + [0.2, 0.4]).double()
    found = release_weights(margins, labels, 4, 0.5)
    sums = torch.zeros(4).double().index_add(0, labels, margins)
    assert torch.allclose(found, KLBall(0.5).worst_case(sums).weights, atol=1e-4), "class sums, absent classes at score 0"
    means = KLBall(0.5).worst_case(sums / torch.tensor([10, 2, 2, 1]), present=torch.tensor([True, True, True, False])).weights
    assert float(found[3]) > 0 == float(means[3])
    assert int(found.argmin()) == 0 != int(means.argmin()), "the frequent class looks easiest only in sums"


def test_a_solver_that_fails_names_itself_and_no_other_is_tried() -> None:
    with pytest.raises(RuntimeError, match="CVXPY's solver NO_SUCH failed on KLBall"):
        conic.solve(KLBall(0.5), torch.arange(4.0), solver="NO_SUCH")
    with pytest.raises(RuntimeError, match="CVXPY's solver NO_SUCH failed on the release's problem"):
        release_weights(torch.zeros(2), torch.tensor([0, 1]), 2, 0.5, solver="NO_SUCH")
    with pytest.raises(TypeError, match="solve its inner set"):
        conic.solve(Floored(KLBall()), torch.arange(4.0))

    class Mine(KLBall):
        pass

    with pytest.raises(TypeError, match="Mine has no statement for CVXPY"):
        conic.solve(Mine(), torch.arange(4.0))
