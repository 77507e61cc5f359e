"""The explorable explanation without a browser: regions, bars, controls, and the marking of answers."""

import numpy as np
import pytest
import torch

from faal_lab.dro import CVaR, KLBall, Simplex, TotalVariationBall
from faal_lab.dro.radius import largest_multiplier
from faal_lab.results.teaching import CORNERS, arrow, check, explorer_figure, multiplier_curves, region, weights_beside_scores
from faal_lab.widgets import Explorer


def barycentric(points: np.ndarray) -> torch.Tensor:
    """Class shares [n, 3] of points [n, 2] of the triangle."""
    system = np.vstack([CORNERS.T, np.ones(3)])
    return torch.from_numpy(np.linalg.solve(system, np.vstack([points.T, np.ones(len(points))])).T)


def test_the_region_is_the_edge_of_the_set() -> None:
    shares = barycentric(region(KLBall(0.3)))
    spent = -(3 * shares).log().mean(-1)
    assert torch.allclose(spent, torch.full_like(spent, 0.3), atol=1e-9)
    corners = barycentric(region(Simplex()))
    assert all(float((corners - vertex).abs().sum(-1).min()) < 1e-12 for vertex in torch.eye(3))
    moved = (barycentric(region(TotalVariationBall(0.2))) - 1 / 3).abs().sum(-1) / 2
    assert float(moved.max()) == pytest.approx(0.2)
    assert float(barycentric(region(CVaR(0.5))).max()) == pytest.approx(2 / 3)


def test_the_arrow_points_uphill_and_vanishes_on_level_ground() -> None:
    push = np.diff(arrow((-0.5, 0.1, 0.4)), axis=0)[0]
    uphill = np.array([-0.5, 0.1, 0.4]) @ (CORNERS - CORNERS.mean(0))
    assert np.cross(np.append(push, 0), np.append(uphill, 0))[2] == pytest.approx(0, abs=1e-12)
    assert push @ uphill > 0
    assert not np.diff(arrow((0.2, 0.2, 0.2)), axis=0).any()


def test_controls_move_the_figure() -> None:
    explorer = Explorer()
    outline, weights = np.array(explorer.figure.data[2].x), np.array(explorer.figure.data[1].y)
    explorer.scores[0].value = 0.9
    turned = np.array(explorer.figure.data[1].y)
    assert turned[0] > weights[0]
    assert turned.sum() == pytest.approx(1)
    assert np.array_equal(np.array(explorer.figure.data[2].x), outline)
    explorer.radius.value = 0.8
    assert not np.array_equal(np.array(explorer.figure.data[2].x), outline)


def test_another_set_keeps_the_largest_multiplier() -> None:
    explorer = Explorer(radius=0.3)
    before = largest_multiplier(KLBall(explorer.radius.value), 3)
    for name in ("reverse-kl", "cvar", "total-variation", "wasserstein", "hellinger", "chi-square", "kl"):
        explorer.set.value = name
        assert largest_multiplier(explorer.ball(), 3) == pytest.approx(before, rel=0.02), name  # the slider has steps
        assert f"<b>{name}</b>: tau" in explorer.said.value
    explorer.set.value = "simplex"
    assert "no radius" in explorer.said.value
    assert max(explorer.figure.data[1].y) == pytest.approx(1)


def test_a_radius_beyond_what_a_set_allows_is_taken_at_its_limit() -> None:
    explorer = Explorer(scores=(0.1, 0.2), radius=5.0)
    explorer.keep.value = False
    explorer.set.value = "total-variation"
    assert explorer.ball().radius == 1.0


def test_ten_classes_have_bars_and_no_triangle() -> None:
    figure = explorer_figure(KLBall(0.5), [0.1 * c for c in range(10)], [str(c) for c in range(10)])
    assert [trace.type for trace in figure.data] == ["bar", "bar"]


def test_bars_go_from_easy_to_hard_and_curves_rise() -> None:
    figure = weights_beside_scores({"kl": KLBall(0.5)}, [0.3, -0.2, 0.1], ["a", "b", "c"])
    assert [label[0] for label in figure.data[0].x] == ["b", "c", "a"]
    assert np.all(np.diff(figure.data[0].y) > 0)
    curves = multiplier_curves(KLBall(), [10, 100], np.logspace(-2, 0, 5))
    assert all(np.all(np.diff(trace.y) > 0) for trace in curves.data)
    assert np.all(np.array(curves.data[1].y) > np.array(curves.data[0].y)), "the same tau means more among more classes"


@pytest.mark.parametrize(
    "answer, said",
    [
        (None, "Not answered yet"),
        (4, "Right."),
        (5, "Not yet. Count again."),
        ("four", "cannot be checked"),
        ((), "cannot be checked"),
    ],
)
def test_answers_are_marked(answer: object, said: str) -> None:
    assert said in check(answer, lambda a: abs(a - 4) < 0.5, "Count again.")
