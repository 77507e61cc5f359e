"""The live workbench states only what holds: dials, method, errors, disconnection and results."""

import html
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binomtest

from faal_lab.runs import CommandReader, RunFolder
from faal_lab.runs.config import Config
from faal_lab.runs.control import held
from faal_lab.runs.events import Command, DialTurned, EpochDone, RunFinished, RunStarted, StepDone
from faal_lab.runs.heartbeat import Heartbeat
from faal_lab.widgets import Dashboard, Workbench
from faal_lab.widgets.panels import panel_spec, turn_marks, validation_result
from faal_lab.widgets.stream import StreamView

NAMES = ["ant", "bee", "cow"]


def until(condition: Callable[[], Any], seconds: float = 30) -> Any:
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)
    return found


def batch(number: int, weights: tuple[float, ...] = (0.2, 0.5, 0.3), tau: float = 0.5, epoch: int = 0) -> StepDone:
    return StepDone(number, epoch, 1.0, tau, 0.1, 0.05, list(weights), 0.2, [4] * 3, [0.1, 0.2, 0.3], [3, 2, 1], None)


@contextmanager
def a_run(path: Path, config: Config, activity: list[str] | None = None) -> Iterator[Any]:
    """A run of two batches that this process pretends to make; `activity` holds what its heartbeat states."""
    folder, said = RunFolder.create(path, config, {}), activity or ["training"]
    with Heartbeat(folder.path, lambda: (said[0], 0.1)), folder.recording() as recorder:
        recorder.write(RunStarted(NAMES, 10, 2, config.tau, config.epsilon, config.learning_rate))
        for number in (1, 2):
            recorder.write(batch(number, tau=config.tau))
        yield recorder
        said[0] = "ended"


@contextmanager
def shown(path: Path) -> Iterator[Dashboard]:
    dashboard = Dashboard(path)
    try:
        yield dashboard
    finally:
        dashboard.close()


def test_a_mark_stands_for_a_value_that_a_batch_had() -> None:
    turns = [DialTurned(2, "tau", 0.5, 0.3), DialTurned(2, "tau", 0.3, 0.2), DialTurned(2, "epsilon", 0.1, 0.2)]
    assert held(turns, 2) == [], "no batch yet"
    assert [mark["text"] for mark in turn_marks(turns, 3)] == ["tau 0.2", "epsilon 0.2"]
    back = [DialTurned(2, "tau", 0.5, 0.3), DialTurned(2, "tau", 0.3, 0.5)]
    assert held(back, 3) == [], "turned to and fro between two batches"
    assert turn_marks([DialTurned(4, "fairness_on", 1, 0)], 5) == [{"x": 4, "text": "fairness off"}]


def test_a_dial_turned_while_paused_waits_for_the_next_batch(tmp_path: Path) -> None:
    activity, path = ["paused"], tmp_path / "run"
    with a_run(path, Config(fairness="faal"), activity) as recorder, shown(path) as dashboard:
        until(lambda: dashboard.state.value.startswith("<b>paused</b> · batch 2"))
        assert "waits" not in dashboard.state.value
        for value in (0.4, 9e9, 0.3):
            RunFolder(path).send(Command("turn", "tau", value))
        RunFolder(path).send(Command("turn", "epsilon", 7.0))  # refused: linf ends at 1
        until(lambda: "tau 0.3 waits for the next batch" in dashboard.state.value)
        assert "tau 0.5" in dashboard.state.value
        assert "epsilon 7" not in dashboard.state.value
        RunFolder(path).send(Command("turn", "tau", 0.5))
        until(lambda: "waits" not in dashboard.state.value)
        RunFolder(path).send(Command("turn", "tau", 0.3))
        activity[0] = "training"
        for old, new in ((0.5, 0.4), (0.4, 9e9), (9e9, 0.3), (0.3, 0.5), (0.5, 0.3)):
            recorder.write(DialTurned(2, "tau", old, new))
        until(lambda: "tau 0.3 waits for the next batch" in dashboard.state.value)
        recorder.write(batch(3, tau=0.3))
        until(lambda: "batch 3" in dashboard.state.value and "waits" not in dashboard.state.value)
        assert "tau 0.3" in dashboard.state.value


@contextmanager
def a_bench(runs: Path, **settings: Any) -> Iterator[Workbench]:
    bench = Workbench(runs, runs / "recorded", **settings)
    try:
        yield bench
    finally:
        bench.close()


def sent(path: Path) -> list[Command]:
    return [command for command in CommandReader(path / "control").poll() if command.do == "turn"]


def test_without_a_fairness_method_nothing_is_told_of_one(tmp_path: Path) -> None:
    with a_run(tmp_path / "plain", Config(fairness="none")) as recorder, a_bench(tmp_path, fairness="faal") as bench:
        until(lambda: bench.dashboard.status == "training" and bench.settings["tau"].disabled)
        until(lambda: "batch 2" in bench.dashboard.state.value)
        assert "heaviest" not in bench.dashboard.state.value
        assert "tau" not in bench.dashboard.state.value
        assert bench.fairness_on.disabled
        assert not bench.fairness_on.value
        assert not bench.settings["epsilon"].disabled
        notes = {panel["id"]: panel.get("note", "") for panel in bench.dashboard.view.spec["panels"]}
        assert notes.pop("divergence") == "No fairness method: all classes count the same, and tau does nothing."
        assert not any(notes.values())
        recorder.write(RunFinished(2, "done"))
    with a_bench(tmp_path / "none") as bench:
        assert bench.config().fairness == "none"
        assert bench.settings["tau"].disabled
        assert bench.setup.radius.value == "tau does nothing in the next run: fairness=none"
        assert not bench.fairness_on.value
        bench.settings["fairness"].value = "group-dro"
        assert bench.settings["tau"].disabled
        bench.settings["fairness"].value = "faal"
        assert not bench.settings["tau"].disabled
        assert bench.fairness_on.value


def test_equal_weights_name_no_class(tmp_path: Path) -> None:
    with a_run(tmp_path / "run", Config(fairness="faal")) as recorder, shown(tmp_path / "run") as dashboard:
        until(lambda: "heaviest class bee" in dashboard.state.value)
        recorder.write(batch(3, weights=(0.4, 0.4, 0.2)))
        until(lambda: "batch 3" in dashboard.state.value)
        assert "heaviest" not in dashboard.state.value


def test_a_method_without_a_radius_has_no_line_of_tau(tmp_path: Path) -> None:
    with a_run(tmp_path / "run", Config(fairness="group-dro")), shown(tmp_path / "run") as dashboard:
        until(lambda: "heaviest class bee" in dashboard.state.value)
        panel = next(p for p in dashboard.view.spec["panels"] if p["id"] == "divergence")
        assert (panel["title"], [line["name"] for line in panel["lines"]]) == ("KL(U || w)", ["spent"])


def test_the_dials_follow_the_run_that_is_shown(tmp_path: Path) -> None:
    path, config = tmp_path / "run", Config(fairness="faal", tau=0.33, epsilon=8 / 255, learning_rate=0.02)
    with a_run(path, config) as recorder, a_bench(tmp_path, tau=0.9) as one, a_bench(tmp_path) as two:
        for bench in (one, two):
            until(lambda bench=bench: not bench.fairness_on.disabled and bench.settings["tau"].value == 0.33)
            until(lambda bench=bench: bench.settings["epsilon"].value == 8 / 255)
            until(lambda bench=bench: bench.settings["learning_rate"].value == 0.02)
            step = bench.settings["tau"].step
            assert round(0.33 / step) * step == pytest.approx(0.33), "the page would move it to a step"
            assert "Run folder" in bench.message.value, "it stays"
        assert sent(path) == [], "to show a dial is not to turn it"
        one.settings["tau"].value = 0.7
        until(lambda: two.settings["tau"].value == 0.7)
        recorder.write(DialTurned(2, "tau", 0.33, 0.7))
        recorder.write(batch(3, tau=0.7))
        two.fairness_on.value = False
        until(lambda: one.fairness_on.value is False)
        assert [(command.dial, command.value) for command in sent(path)] == [("tau", 0.7), ("fairness_on", 0.0)]
        one.settings["epsilon"].max = 5
        one.settings["epsilon"].value = 3.0
        until(lambda: one.settings["epsilon"].value == 8 / 255)  # the run refuses it and keeps its own
        assert "epsilon must be between 0 and 1" in one.message.value


def test_a_deleted_run_is_gone_and_another_can_be_started(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with a_run(path, Config(fairness="faal")), a_bench(tmp_path) as bench:
        until(lambda: bench.dashboard.status == "training" and bench.buttons["start"].disabled)
        path.rename(tmp_path / "moved")
        until(lambda: bench.dashboard.state.value == "<b>gone</b>")
        until(lambda: not bench.buttons["start"].disabled and bench.buttons["stop"].disabled and bench.buttons["pause"].disabled)
        assert "is gone: it was deleted or moved" in bench.dashboard.problem.value
        (tmp_path / "moved").rename(path)
        until(lambda: bench.dashboard.status == "training" and bench.buttons["start"].disabled)
        assert "batch 2" in bench.dashboard.state.value
        path.rename(tmp_path / "moved")
        until(lambda: not bench.buttons["start"].disabled)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"data": "cifar10"}, "data: cifar10 is not in .*. Set data dir to its folder, or tick download to fetch it."),
        (
            {"data": "folder"},
            "data dir must be a folder with one sub-folder of images for each class for data folder: it is empty.",
        ),
        ({"data": "npz", "data_dir": "no.npz"}, "data dir must be a .npz file for data npz: no.npz does not exist."),
        ({"base": "nowhere"}, r"base: nowhere does not exist. Choose a run that has a checkpoint, or \(random weights\)."),
    ],
)
def test_a_start_without_its_files_is_refused_at_once(
    settings: dict[str, Any], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with a_bench(Path("runs"), **settings) as bench:
        bench.buttons["start"].click()
        assert re.search(said, html.unescape(bench.message.value))
        assert bench.run is None
        assert not Path("runs").exists()
        assert not bench.buttons["start"].disabled
        assert {name.replace("_", " ") for name in ("data", "data_dir", "download", "base")} <= {
            control.description for control in bench.settings.values()
        }


def test_a_failed_start_leaves_nothing(tmp_path: Path) -> None:
    """No folder, and no numbers of the run before."""
    (tmp_path / "bad.npz").write_text("no arrays")
    with a_run(tmp_path / "before", Config(fairness="faal")) as recorder:
        recorder.write(RunFinished(2, "done"))
    with a_bench(tmp_path, data="npz", data_dir=str(tmp_path / "bad.npz")) as bench:
        bench.opened.options = bench._folders()
        bench.opened.value = str(tmp_path / "before")
        until(lambda: bench.dashboard.status == "done" and len(bench.dashboard._history.step.values) == 2)
        drawn: list[dict[str, Any]] = []
        bench.dashboard.view.show = lambda pictures, marks: drawn.append(pictures)
        bench.buttons["start"].click()
        until(lambda: "cannot be read as .npz" in bench.message.value)
        until(lambda: bench.dashboard.state.value == "<b>no run</b>" and not bench.buttons["start"].disabled)
        assert not (tmp_path / "npz-at-none").exists()
        assert (bench.run, bench.opened.value, bench.dashboard.status) == (None, "(none)", "none")
        assert all(len(drawn[-1][name].x) == 0 for name in ("weights", "loss", "epochs"))


def validated(epoch: int, robust: list[int]) -> EpochDone:
    return EpochDone(epoch, 10 * epoch, [50, 50, 50], [50, 50, 50], robust)


def finished(path: Path, config: Config, *epochs: EpochDone) -> Path:
    with a_run(path, config) as recorder:
        for event in (*epochs, RunFinished(20, "done")):
            recorder.write(event)
    return path


def test_a_run_that_is_done_states_its_result_and_the_next_step(tmp_path: Path) -> None:
    config, epochs = Config(fairness="faal"), (validated(1, [20, 10, 30]), validated(2, [40, 25, 35]))
    with shown(finished(tmp_path / "my run", config, *epochs)) as dashboard:
        said = until(lambda: "Next" in dashboard.state.value and html.unescape(dashboard.state.value).split("<br>")[1])
    low, high = binomtest(25, 50).proportion_ci(0.95 ** (1 / 3), "exact")  # of each class, so that all three hold at once
    assert said.startswith(
        f"Validation under PGD-10, 150 images, 95 % intervals: worst class bee 50.0 % ({100 * low:.1f} to {100 * high:.1f}), "
        "average 66.7 % (58."
    )
    assert "). After epoch 1: worst class bee 20.0 % (" in said
    assert said.endswith(f"Next, the test images: faal-lab evaluate '{tmp_path / 'my run'}'")


def test_a_result_is_held_against_the_base_where_that_was_measured_alike(tmp_path: Path) -> None:
    base, last = finished(tmp_path / "base", Config(), validated(1, [50, 5, 50])), validated(2, [40, 25, 35])
    epochs = [validated(1, [20, 10, 30]), last]
    of_base = validation_result(Config(base=str(base)), NAMES, epochs, tmp_path / "run")
    assert "The base: worst class bee 10.0 % (" in of_base
    assert "After epoch 1" not in of_base
    for other in (Config(base=str(base), epsilon=0.2), Config(base=str(tmp_path / "gone"))):
        assert "After epoch 1: worst class bee 20.0 % (" in validation_result(other, NAMES, epochs, tmp_path / "run")
    alone = validation_result(Config(), NAMES, [last], tmp_path / "run")
    assert alone.count("worst class") == 1
    nothing = validation_result(Config(), NAMES, [EpochDone(1, 10, [0] * 3, [0] * 3, [0] * 3)], tmp_path / "run")
    assert nothing == f"Next, the test images: faal-lab evaluate {tmp_path / 'run'}"
    (tmp_path / "run").mkdir()
    RunFolder(tmp_path / "run").verdicts_file().touch()
    assert "Evaluated. Next: faal-lab report" in validation_result(Config(), NAMES, [last], tmp_path / "run")


def test_a_live_run_gives_signs_of_life(tmp_path: Path) -> None:
    view, told = StreamView(panel_spec(NAMES)), []
    view.send = lambda content, buffers=None: told.append(content)
    view.pulse(False)
    assert told == [], "nothing to say"
    view.pulse(True)
    view.pulse(True)
    assert told == [{"kind": "pulse", "live": True}], "not too often"
    view._pulsed -= 2
    view.pulse(True)
    view._heard(view, {"kind": "hello"}, [])
    view.pulse(True)
    assert len(told) == 3, "a page that opens is told at once"
    view.pulse(False)
    assert told[-1] == {"kind": "pulse", "live": False}
