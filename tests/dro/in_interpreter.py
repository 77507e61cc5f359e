"""The fused kernel in Triton's interpreter, on a CPU, against the exact solvers. `test_fused.py` runs this in a process of its own."""

import math
import os

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from faal_lab.dro import ChiSquareBall, CVaR, HellingerBall, KLBall, ReverseKLBall, TotalVariationBall, fused
from faal_lab.dro.base import Ball, WorstCase

assert os.environ["TRITON_INTERPRET"] == "1", "test_fused.py starts this"
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy's: a branch that is not taken divides by 0
RADII = {
    KLBall: (0.0, 1e-6, 0.5, 3.0, 300.0, math.inf),
    ReverseKLBall: (0.0, 1e-6, 0.5, 1.5, 300.0, math.inf),
    ChiSquareBall: (0.0, 1e-6, 0.5, 3.0, 300.0, math.inf),
    HellingerBall: (0.0, 1e-6, 0.02, 0.3, 0.6, 1.0),
    TotalVariationBall: (0.0, 1e-6, 0.0517, 0.31, 0.7, 1.0),
    CVaR: (1.0, 0.953, 0.5171, 0.1317, 0.0123, 1e-12),  # no whole number of classes: there the derivative jumps
}
MEASURE = {  # written down independently of the solvers
    KLBall: lambda w, u: (u * (u / w).log()).sum(-1),
    ReverseKLBall: lambda w, u: torch.special.xlogy(w, w / u).sum(-1),
    ChiSquareBall: lambda w, u: ((w - u) ** 2 / u).sum(-1),
    TotalVariationBall: lambda w, u: (w - u).abs().sum(-1) / 2,
    HellingerBall: lambda w, u: ((w.sqrt() - u.sqrt()) ** 2).sum(-1) / 2,
    CVaR: lambda w, u: 1 / (w / u).amax(-1),
}
JUMPS = (TotalVariationBall, CVaR)  # their derivatives


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shares(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.softmax(1.5 * drawn(*shape, seed=seed), -1)


def by_kernel(
    kind: type[Ball], scores: torch.Tensor, radius: object, reference: object = None, present: object = None
) -> WorstCase:
    found = fused.solve(kind.kernel, scores, radius, reference, present)
    assert found is not None, fused._failed
    return WorstCase(*found)


def agree(
    kind: type[Ball], scores: torch.Tensor, radius: object, reference: object = None, present: object = None, dual: bool = True
) -> WorstCase:
    exact = kind().worst_case(scores, radius, reference, present)
    found = by_kernel(kind, scores, radius, reference, present)
    size = 1 + float(scores.detach().nan_to_num().abs().max())
    assert [part.shape for part in found] == [part.shape for part in exact]
    assert {part.dtype for part in found} == {torch.float64}
    torch.testing.assert_close(found.weights, exact.weights, atol=1e-9, rtol=0)
    torch.testing.assert_close(found.value, exact.value, atol=1e-9 * size, rtol=0)
    torch.testing.assert_close(found.divergence, exact.divergence, atol=1e-11, rtol=1e-9)
    if dual:
        torch.testing.assert_close(found.dual, exact.dual, atol=1e-9 * size, rtol=1e-8)
    assert float((found.weights.sum(-1) - 1).abs().max()) < 1e-12
    assert bool((found.weights >= 0).all())
    return found


@pytest.mark.parametrize("classes", [1, 2, 10, 1024])
@pytest.mark.parametrize("kind", RADII)
def test_table_of_radii(kind: type[Ball], classes: int) -> None:
    radius = torch.tensor(RADII[kind], dtype=torch.float64)
    scores, centre = drawn(len(radius), classes, seed=classes), shares(len(radius), classes)
    uneven = agree(kind, scores, radius, centre)
    agree(kind, scores[1:4], radius[1:4])
    assert torch.equal(uneven.weights[0], centre[0]), "the nominal radius is the reference exactly"
    inside = MEASURE[kind](uneven.weights[1:4], centre[1:4])
    out = radius[1:4] - inside if kind is CVaR else inside - radius[1:4]
    assert classes == 1 or float((out / radius[1:4]).max()) < 1e-9, "inside the ball"


@pytest.mark.parametrize("kind", RADII)
def test_table_of_masks_ties_and_missing_mass(kind: type[Ball]) -> None:
    scores, centre = drawn(8, 10, seed=3), shares(10)
    present = torch.rand(8, 10, generator=torch.Generator().manual_seed(5)) < 0.6
    present[0], present[1], present[2] = False, True, torch.arange(10) == 4  # none (solved as all), all, one
    scores[3] = 0.25  # all equal
    scores[4] = torch.round(scores[4])  # ties
    scores[5] = scores[5].sign() * 1e-14 + 3  # equal but for rounding
    scores[6, ~present[6]] = math.nan  # never read
    scores[7, :4] = scores[7].max()
    radius = RADII[kind][2]
    found = agree(kind, scores, radius, centre, present, dual=kind not in JUMPS)
    agree(kind, scores, radius, None, present, dual=kind not in JUMPS)
    assert torch.equal(
        found.weights[~present & present.any(-1, keepdim=True)], torch.zeros(int((~present[1:]).sum()), dtype=torch.float64)
    )
    if kind is not HellingerBall:  # which refuses it
        bare = torch.where(torch.arange(10) % 3 == 0, 0.0, centre)
        tops = torch.cat([scores[[1, 7]], -scores[[1, 7]]])
        agree(kind, tops, radius, bare / bare.sum(), dual=kind not in JUMPS)


@pytest.mark.parametrize("kind", RADII)
def test_table_of_forms(kind: type[Ball]) -> None:
    scores, radius = drawn(3, 2, 3, seed=7), RADII[kind][2]
    agree(kind, scores.permute(1, 2, 0), radius, shares(3))  # strides
    agree(kind, scores, torch.tensor(radius, dtype=torch.float64), shares(3, 2, 3), torch.tensor([True, False, True]))
    agree(kind, scores[:, 0], torch.full((3,), radius, dtype=torch.float64))
    agree(kind, scores[0, 0], radius)
    agree(kind, scores.float().requires_grad_(), radius)
    agree(kind, scores.bfloat16(), radius)
    agree(kind, torch.tensor([3, 1, 2]), radius)
    for scale in (1e-12, 1e12):
        torch.testing.assert_close(
            by_kernel(kind, scores[0] * scale, radius).weights, by_kernel(kind, scores[0], radius).weights, atol=1e-9, rtol=0
        )


@pytest.mark.parametrize("kind", RADII)
def test_table_of_invalid_numbers(kind: type[Ball]) -> None:
    scores, radius = drawn(4, 5), torch.full((4,), RADII[kind][2], dtype=torch.float64)
    scores[1, 2], scores[2, 3], radius[3] = math.nan, math.inf, math.nan
    found = by_kernel(kind, scores, radius)
    assert bool(found.weights[1:].isnan().all()), "as the tensors do on a GPU: the loop's guard sees it"
    assert bool(found.value[1:].isnan().all())
    torch.testing.assert_close(found.weights[0], kind().worst_case(scores[0], radius[0]).weights)


@pytest.mark.parametrize("kind", RADII)
@settings(max_examples=40, deadline=None, phases=[Phase.generate])  # the interpreter is slow: a failure is not made smaller
@given(data=st.data())
def test_properties(kind: type[Ball], data: st.DataObject) -> None:
    number = st.one_of(st.floats(-50, 50).map(lambda x: round(x, 6)), st.integers(-2, 2).map(float))
    scores = torch.tensor(data.draw(st.lists(number, min_size=2, max_size=20)), dtype=torch.float64)
    low, high = {CVaR: (0.01, 1.0), HellingerBall: (1e-6, 1.0), TotalVariationBall: (1e-6, 1.0)}.get(kind, (1e-6, 30.0))
    radius = data.draw(st.floats(low, high))
    classes = len(scores)
    present = torch.tensor(data.draw(st.lists(st.booleans(), min_size=classes, max_size=classes)))
    mask = present if data.draw(st.booleans()) else None
    centre = shares(classes, seed=data.draw(st.integers(0, 9))) if data.draw(st.booleans()) else None
    found = agree(kind, scores, radius, centre, mask, dual=kind not in JUMPS)
    kept = present if mask is not None and bool(present.any()) else torch.ones(classes, dtype=torch.bool)
    u = (torch.full((classes,), 1 / classes, dtype=torch.float64) if centre is None else centre)[kept]
    w, s = found.weights[kept], scores[kept]
    assert float(found.weights[~kept].sum()) == 0, "absent classes weigh nothing"
    spent = float(MEASURE[kind](w, u / u.sum()))
    assert spent >= radius * (1 - 1e-9) if kind is CVaR else spent <= radius * (1 + 1e-9) + 1e-13, "inside the ball"
    order = torch.argsort(s)
    assert bool(((w / u)[order].diff() >= -1e-9 * float((w / u).max()) if kind is not TotalVariationBall else w >= 0).all())


def test_a_launch_that_fails_is_told_once_and_tensors_take_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise RuntimeError("Failed to find C compiler.\nmore")

    monkeypatch.setattr(fused, "compiled", broken)
    monkeypatch.setattr(fused, "_failed", {})
    with pytest.warns(RuntimeWarning, match="is not used on cpu, so tensors solve there.*find C compiler.*FAAL_LAB_FUSED=0"):
        assert fused.solve("kl", drawn(2, 3), 0.5, None, None) is None
    assert "RuntimeError: Failed to find C compiler." in fused._failed["cpu"]


def test_a_set_takes_the_kernel_where_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(fused, "refusal", lambda device, classes: asked.append(classes) or "")
    scores = drawn(3, 10)
    for kind, radii in RADII.items():
        ball = kind(radii[2])
        found = ball._fused(scores, ball.radius, None, None, None)
        assert found is not None
        torch.testing.assert_close(found.weights, ball.worst_case(scores).weights, atol=1e-9, rtol=0)
    assert asked == [10] * 6
    with pytest.raises(ValueError, match="reference has 3 classes, scores have 10"):
        KLBall()._fused(scores, 0.5, torch.ones(3) / 3, None, None)
    with pytest.raises(ValueError, match="scores must be finite"):
        KLBall()._fused(scores * math.nan, 0.5, None, None, True)


def test_bad_shapes_are_refused_as_by_the_tensors() -> None:
    for reference, present in ((shares(4, 10), None), (None, torch.ones(4, 10, dtype=torch.bool))):
        with pytest.raises(RuntimeError):
            KLBall().worst_case(drawn(3, 10), 0.5, reference, present)
        with pytest.raises(RuntimeError):
            fused.solve("kl", drawn(3, 10), 0.5, reference, present)
