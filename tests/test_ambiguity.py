"""The KL ball against CVXPY, against its own second path, and by the properties that define it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from faal_lab.ambiguity import KLBall, conic

GRID = [(c, tau) for c in (2, 3, 10, 100) for tau in (1e-3, 0.05, 0.5, 2.0)]
finite = st.floats(-50, 50, allow_nan=False).map(lambda x: round(x, 6))


def divergence(reference: torch.Tensor, weights: torch.Tensor) -> float:
    return float((reference * (reference / weights).log()).sum())


@pytest.mark.parametrize("classes, tau", GRID)
def test_agrees_with_cvxpy(classes: int, tau: float) -> None:
    scores = torch.randn(classes, generator=torch.Generator().manual_seed(classes), dtype=torch.float64)
    exact, oracle = KLBall(tau).worst_case(scores), conic.solve(KLBall(tau), scores)
    assert torch.allclose(exact.weights, oracle.weights, atol=2e-5)
    assert exact.value == pytest.approx(float(oracle.value), rel=1e-6, abs=1e-7)
    assert exact.value >= oracle.value - 1e-7


def test_agrees_with_cvxpy_for_another_reference_and_absent_classes() -> None:
    scores = torch.tensor([0.3, -0.2, 5.0, 0.1, -0.4]).double()
    reference = torch.tensor([0.1, 0.3, 0.1, 0.25, 0.25]).double()
    present = torch.tensor([True, True, False, True, True])
    exact = KLBall(0.3).worst_case(scores, reference=reference, present=present)
    oracle = conic.solve(KLBall(0.3), scores, reference=reference, present=present)
    assert exact.weights[2] == 0
    assert torch.allclose(exact.weights, oracle.weights, atol=1e-5)


@settings(max_examples=150, deadline=None)
@given(scores=st.lists(finite, min_size=1, max_size=12), tau=st.floats(1e-6, 20))
def test_properties(scores: list[float], tau: float) -> None:
    s = torch.tensor(scores, dtype=torch.float64)
    found = KLBall(tau).worst_case(s)
    u = torch.full_like(s, 1 / len(s))
    assert abs(float(found.weights.sum()) - 1) < 1e-12
    assert bool((found.weights >= 0).all())
    assert found.value >= s.mean() - 1e-9 * (1 + s.abs().max())
    if s.max() - s.min() > 1e-6:
        assert found.divergence == pytest.approx(tau, rel=1e-9)
        assert divergence(u, found.weights) == pytest.approx(tau, rel=1e-6, abs=1e-9)
    order = torch.argsort(s)
    assert bool((found.weights[order].diff() >= -1e-12).all()), "a harder class never weighs less"
    moved = KLBall(tau).worst_case(3 * s + 7)
    assert torch.allclose(moved.weights, found.weights, atol=1e-7)


@settings(max_examples=60, deadline=None)
@given(scores=st.lists(finite, min_size=2, max_size=12), tau=st.floats(1e-6, 20))
def test_plain_floats_and_tensors_give_the_same(scores: list[float], tau: float) -> None:
    s = torch.tensor(scores, dtype=torch.float64)
    one, batch = KLBall(tau).worst_case(s), KLBall(tau).worst_case(s[None])
    assert torch.allclose(one.weights, batch.weights[0], atol=1e-12)
    assert float(one.dual) == pytest.approx(float(batch.dual[0]), rel=1e-9)


def test_first_order_condition_and_dual() -> None:
    s = torch.randn(10, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    step = 1e-5
    low, here, high = (KLBall(0.5 + d).worst_case(s) for d in (-step, 0, step))
    assert float(high.value - low.value) / (2 * step) == pytest.approx(float(here.dual), rel=1e-6)
    for c in range(10):
        bump = torch.zeros_like(s)
        bump[c] = step
        slope = (KLBall(0.5).worst_case(s + bump).value - KLBall(0.5).worst_case(s - bump).value) / (2 * step)
        assert float(slope) == pytest.approx(float(here.weights[c]), abs=1e-7), "dV/dscore is the weight"


def test_two_classes_have_a_closed_form() -> None:
    found = KLBall(0.5).worst_case(torch.tensor([0.2, 0.9]).double())
    assert float(found.weights[1]) == pytest.approx((1 + math.sqrt(1 - math.exp(-1.0))) / 2, abs=1e-12)


def test_the_largest_multiplier_of_the_paper_at_ten_classes() -> None:
    scores = torch.zeros(10).double()
    scores[3] = 1.0
    for tau, largest in ((0.1, 2.82), (0.5, 5.75), (1.0, 7.64)):
        assert float(10 * KLBall(tau).worst_case(scores).weights.max()) == pytest.approx(largest, abs=0.006)


@pytest.mark.parametrize("shape", [(10,), (4, 10)])
def test_edges(shape: tuple[int, ...]) -> None:
    scores = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    reference = torch.full((10,), 0.1, dtype=torch.float64)
    nominal = KLBall(0.0).worst_case(scores)
    assert torch.equal(nominal.weights, reference.expand(shape)), "radius 0 is the reference exactly"
    equal = KLBall(0.5).worst_case(torch.full(shape, 0.3))
    assert torch.equal(equal.weights, reference.expand(shape))
    for tau in (300.0, 600.0, 1e4):
        huge = KLBall(tau).worst_case(scores)
        assert torch.allclose(huge.value, scores.double().amax(-1), atol=1e-9)
    for scale in (1e-12, 1e12):
        same = KLBall(0.5).worst_case(scores.double() * scale)
        assert torch.allclose(same.weights, KLBall(0.5).worst_case(scores.double()).weights, atol=1e-9)
    single = KLBall(0.5).worst_case(torch.tensor([2.0]))
    assert single.weights.tolist() == [1.0]


def test_no_gradient_flows_and_float32_is_solved_in_float64() -> None:
    scores = torch.randn(10, requires_grad=True)
    found = KLBall(0.5).worst_case(scores)
    assert not found.weights.requires_grad
    assert found.weights.dtype == torch.float64


def test_a_batch_of_a_thousand_classes() -> None:
    scores = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = KLBall(0.5).worst_case(scores, radius=torch.tensor([0.01, 0.5, 3.0], dtype=torch.float64))
    u = torch.full((1000,), 1e-3, dtype=torch.float64)
    assert [divergence(u, w) for w in found.weights] == pytest.approx([0.01, 0.5, 3.0], rel=1e-9)


@pytest.mark.parametrize(
    "make, text",
    [
        (lambda: KLBall(-0.1), r"tau, the radius of the KL ball, must be at least 0 .* got -0.1"),
        (lambda: KLBall(float("nan")), "must be at least 0"),
        (lambda: KLBall("0.5"), r"must be a number, got '0.5' \(str\)"),
        (lambda: KLBall().worst_case(torch.tensor([0.1, float("nan")])), "scores must be finite"),
        (lambda: KLBall().worst_case(torch.tensor(1.0)), "at least one class"),
        (lambda: KLBall().worst_case(torch.zeros(2), radius=-1.0), "radius must be at least 0"),
        (lambda: KLBall().worst_case(torch.zeros(2), reference=torch.tensor([0.7, 0.7])), "sum to 1"),
        (lambda: KLBall().worst_case(torch.zeros(2), reference=torch.ones(3) / 3), "reference has 3 classes, scores have 2"),
        (lambda: KLBall().worst_case(torch.zeros(2), present=torch.ones(2)), "present must be a bool mask"),
    ],
)
def test_bad_input_says_what_is_wrong(make: object, text: str) -> None:
    with pytest.raises((ValueError, TypeError), match=text):
        make()


def test_a_solver_that_fails_names_itself() -> None:
    with pytest.raises(RuntimeError, match="CVXPY's solver NO_SUCH failed on KLBall"):
        conic.solve(KLBall(0.5), torch.randn(4), solver="NO_SUCH")
