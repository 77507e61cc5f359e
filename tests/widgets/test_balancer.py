"""Biases by hand: the panel without a browser, and what it keeps."""

import re
from pathlib import Path

import pytest
import torch

import faal_lab as fl
from faal_lab.errors import ConfigError
from faal_lab.methods.predict import Attack, survivors
from faal_lab.runs import read_checkpoint
from faal_lab.widgets import Balancer

CONTROL = Path(__file__).parents[2] / "notebooks" / "recorded" / "control"


@pytest.fixture(scope="module")
def panel() -> Balancer:
    found = Balancer(CONTROL, rounds=2)
    found.wait()
    return found


def bars(panel: Balancer) -> list[float]:
    """The percentages of the drawn bars: first without a bias, then with one."""
    return [float(share) for share in re.findall(r"<title>\d: ([\d.]+) % \(", panel.bars.value)]


def points(panel: Balancer) -> list[str]:
    """The attacked biases that are drawn."""
    return re.findall(r"<title>([^:]+): average", panel.path.value)


def test_it_opens_at_the_chosen_round(panel: Balancer) -> None:
    assert panel.problem.value == ""
    assert panel.round.value == panel.desk.chosen == panel.shown.near
    assert (panel.round.max, panel.round.disabled) == (2, False)
    assert panel.where.value == f"round {panel.desk.chosen}"
    assert "<b>Attacked</b> for exactly this bias, 200 validation images under PGD-10" in panel.said.value
    assert [s.value for s in panel.biases] == pytest.approx(panel.shown.round.bias, abs=0.00501)
    assert points(panel) == ["no bias", "round 1", "round 2"]


def test_the_slider_along_the_rounds_moves_everything(panel: Balancer) -> None:
    for number, name in ((0, "no bias"), (1, "round 1"), (2, "round 2")):
        panel.round.value = number
        held = panel.desk.game[number]
        assert panel.where.value == name
        assert panel.shown.round == held
        drawn = [100 * a for a in (*panel.desk.game[0].accuracy, *held.accuracy)]
        assert bars(panel) == pytest.approx(drawn, abs=0.0501)
        here = f"average {100 * held.average:.1f} %, worst class 8 {100 * held.worst:.1f} %"
        assert f"aria-label='{here}'" in panel.path.value
        assert f"worst class 8 at {100 * held.worst:.1f} %" in panel.said.value


def test_a_bias_by_hand_is_an_estimate_until_it_is_attacked(panel: Balancer) -> None:
    panel.round.value = 1
    exact = panel.shown.round.bias
    panel.biases[8].value = round(panel.biases[8].value + 0.01, 2)  # one step of the slider
    assert not panel.shown.exact
    assert panel.where.value == "by hand, nearest to round 1"
    assert "<b>Estimate</b>: attacked for round 1" in panel.said.value
    assert "this bias, estimated" in panel.bars.value
    assert panel.bars.value.count("stroke-dasharray") == 11, "ten bars and their key"
    assert "here, estimated" in panel.path.value
    changed = [b - e for b, e in zip(panel.shown.round.bias, exact, strict=True)]
    assert changed[8] - changed[0] == pytest.approx(0.01, abs=0.00501), "the others keep what the game found"
    panel.attack()
    assert panel.shown.exact
    assert panel.where.value == "by hand 1"
    assert (panel.round.max, panel.round.value) == (3, 3)
    assert "estimated" not in panel.bars.value + panel.path.value
    assert "stroke-dasharray" not in panel.bars.value
    assert points(panel)[3] == "by hand 1"
    panel.attack()
    assert panel.round.max == 3, "nothing is attacked twice"


def test_a_value_that_the_page_rounds_is_no_move(panel: Balancer) -> None:
    panel.round.value = 2
    bias = panel.shown.round.bias
    panel.biases[3].value += 0.004
    assert panel.shown.exact
    assert panel.shown.round.bias == bias


def test_what_is_kept_is_what_was_attacked(panel: Balancer, tmp_path: Path) -> None:
    panel.round.value = 0
    panel.biases[8].value = 1.0
    panel.out.value = str(tmp_path / "mine")
    panel.buttons["keep"].click()
    panel.wait()
    assert panel.problem.value == ""
    assert str(tmp_path / "mine") in panel.doing.value
    assert panel.shown.exact, "it was attacked first"
    run = fl.open_run(tmp_path / "mine")
    stands = survivors(run.model(), run.data().validation, Attack("cross-entropy", 10, 0.25), run.config.epsilon, seed=0)
    labels = run.data().validation.labels
    assert torch.bincount(labels[stands], minlength=10).tolist() == list(panel.shown.round.correct)
    said = read_checkpoint(run.path / "last.safetensors").header["balanced"]
    assert said == (
        "A bias for each class was set by hand, by 200 validation images under PGD-10 at epsilon 0.1: beside the 2 rounds of a balance."
    )
    panel.buttons["keep"].click()
    panel.wait()
    assert "already holds a run" in panel.problem.value


def test_stop_ends_an_attack_and_it_goes_on_later() -> None:
    panel = Balancer(CONTROL, rounds=2)
    panel.stop()  # pressed at once
    panel.wait()
    assert panel.doing.value == "stopped"
    assert len(panel.desk.game) < 3
    assert panel.buttons["stop"].disabled
    assert not panel.buttons["attack"].disabled
    panel.buttons["attack"].click()
    panel.wait()
    assert panel.problem.value == ""
    assert panel.shown.exact
    assert panel.desk.game, "whatever else is attacked, the network without a bias is"


def test_sliders_reach_what_a_game_found(panel: Balancer) -> None:
    panel._show([3.0, -3.0] + [0.0] * 8)
    assert panel.biases[0].value == 3.0
    assert panel.biases[1].value == -3.0
    assert panel.biases[0].max >= 3.5
    assert panel.biases[2].min <= -3.5


def test_a_run_without_validation_images_is_refused(tmp_path: Path) -> None:
    run = fl.train(out=tmp_path / "all", validation="none", epochs=1, batch_size=250, attack_steps=1, quiet=True)
    with pytest.raises(ConfigError, match=re.escape("has none. Set validation to split")):
        Balancer(run)


def test_names_are_text_and_many_classes_have_room() -> None:
    from faal_lab.results.figures import bias_bars

    half = [5] * 30, [10] * 30
    drawn = bias_bars([f"<{c}>" for c in range(30)], half, half, exact=True)
    assert "<3>" not in drawn
    assert drawn.count("&lt;3&gt;: 50.0 % (23.7 to 76.3)") == 3, "of two bars, and for those who do not see them"
    assert drawn.count("<rect") == 62
    turned = bias_bars(["aeroplane", "bird"], ([5, 5], [10, 10]), ([5, 0], [10, 0]), exact=True)
    assert "rotate" not in turned, "two long names have room"
    assert turned.count("<rect") == 5, "a class without images has no bar"
