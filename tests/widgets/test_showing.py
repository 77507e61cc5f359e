"""Figures, the report, the dashboard and the private names of plotly they lean on."""

import csv
import html
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from faal_lab.catalogue import FAIRNESS, parts
from faal_lab.dro import CVaR, KLBall
from faal_lab.dro.radius import largest_multiplier
from faal_lab.errors import ConfigError, RunFolderError
from faal_lab.evaluation.evaluate import evaluate_run
from faal_lab.evaluation.groups import read_runs
from faal_lab.evaluation.probes import hardest
from faal_lab.evaluation.verdicts import VerdictsError
from faal_lab.methods.fairness.faal import FAAL
from faal_lab.methods.presets import preset_settings
from faal_lab.methods.recipe import Recipe
from faal_lab.results.figures import class_bars, class_style, validation_curves
from faal_lab.results.report import headlines, write_report
from faal_lab.results.tables import result_rows, text_table
from faal_lab.runs import RunFolder
from faal_lab.runs.config import Config
from faal_lab.runs.events import DialTurned, EpochDone, RunFailed, RunResumed, StepDone
from faal_lab.runs.history import MAX_POINTS, History, load_history, run_files, thinned
from faal_lab.training.background import LiveRun
from faal_lab.training.parameters import as_yaml, papermill_command, run_command, run_parameters
from faal_lab.training.run import run
from faal_lab.widgets import Dashboard, Workbench
from faal_lab.widgets.explorer import live_widget
from faal_lab.widgets.panels import MANY, panel_spec, pictures, turn_marks
from faal_lab.widgets.stream import AHEAD, StreamView
from faal_lab.widgets.strip import Strip, strip_html


@pytest.fixture(scope="module")
def evaluated(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("evaluated")
    paths = [str(shutil.copytree(base, folder / name)) for name in ("before", "after")]
    for path in paths:
        evaluate_run(path, attacks=("clean", "pgd-20"))
    return paths


def step(number: int, correct: list[int]) -> StepDone:
    return StepDone(number, 0, 1.0, 0.5, 0.1, 0.1, [0.2, 0.8], 0.5, [4, 0 if number == 2 else 2], [0.5, None], correct, None)


def test_running_means_count_samples_not_batches() -> None:
    history = History(2)
    history.add([step(1, [4, 0]), step(2, [0, 0]), step(3, [2, 2]), EpochDone(1, 3, [10, 10], [9, 8], [5, 4])])
    assert history.accuracy(2).tolist() == [[1.0, 0.0], [0.5, 0.0], [0.25, 1.0]]
    assert history.accuracy(100)[-1].tolist() == [0.5, 0.5]
    assert history.mean_margin(1)[:, 0].tolist() == [0.5, 0.5, 0.5]
    assert np.isnan(history.accuracy(1)[1, 1]), "no sample, no accuracy"
    assert history.validation("robust").tolist() == [[0.5, 0.4]]
    history.add([EpochDone(2, 6, [10, 0], [9, 0], [6, 0])])
    assert [v.tolist() for v in history.validation_summary("robust")] == [[0.45, 0.6], [0.4, 0.6]]


def test_lines_are_thinned_and_keep_their_end() -> None:
    assert thinned(5).tolist() == [0, 1, 2, 3, 4]
    many = thinned(100_000)
    assert len(many) <= MAX_POINTS
    assert (many[0], many[-1]) == (0, 99_999)
    history = History(2)
    history.add(step(n, [1, 1]) for n in range(1, 1001))
    assert len(history.weights.values) == 1000
    shown = pictures(history, 10)
    assert all(len(p.x) <= MAX_POINTS for p in shown.values())
    assert shown["loss"].x[[0, -1]].tolist() == [1, 1000]
    near = pictures(history, 10, span=(500, 510))["loss"].x
    assert near.tolist() == list(range(499, 512)), "zoomed in, every batch is there"
    assert pictures(history, 10, until=50)["loss"].x[-1] == 50, "as it stood after batch 50"


@pytest.mark.parametrize("window", [1, 3, 100])
def test_means_at_some_places_are_those_of_all(window: int) -> None:
    history, numbers = History(2), np.random.default_rng(0)
    weights = numbers.dirichlet([1, 1], 30)
    history.add(replace(step(n + 1, [1, 2]), weights=w.tolist()) for n, w in enumerate(weights))
    by_hand = [weights[max(0, n - window + 1) : n + 1].mean(0) for n in range(30)]
    assert np.allclose(history.mean_weights(window), by_hand)
    some = np.array([0, 7, 29])
    for mean in (history.mean_weights, history.accuracy, history.mean_margin):
        assert np.allclose(mean(window, some), mean(window)[some], equal_nan=True)


def test_a_resume_takes_back_what_came_after_its_point() -> None:
    history = History(2)
    history.add([step(1, [1, 1]), step(2, [1, 1]), EpochDone(1, 2, [1, 1], [1, 1], [1, 1]), step(3, [1, 1]), RunResumed(1)])
    assert [history.step.values.tolist(), history.epoch_step.values.tolist()] == [[1], []]
    history.add([step(2, [2, 0])])
    straight = History(2)
    straight.add([step(1, [1, 1]), step(2, [2, 0])])
    for window in (1, 5):
        assert np.array_equal(history.accuracy(window), straight.accuracy(window), equal_nan=True)


def test_no_two_of_twenty_classes_look_alike() -> None:
    styles = {(s["color"], s["dash"]) for s in map(class_style, range(20))}
    assert len(styles) == 20


@pytest.mark.parametrize("classes", [3, MANY, MANY + 1, 100])
def test_every_panel_gets_what_its_lines_ask_for(classes: int) -> None:
    spec, history = panel_spec([f"c{i}" for i in range(classes)]), History(classes)
    shares = [1 / classes] * classes
    history.add(
        StepDone(n, 0, 1.0, 0.5, 0.1, 0.1, shares, 0.5, [1] * classes, shares, [1] * classes, None) for n in range(1, 901)
    )
    history.add([EpochDone(1, 900, [10] * classes, [9] * classes, [5] * classes)])
    shown = pictures(history, 5)
    assert [panel["id"] for panel in spec["panels"] if "from" not in panel] == list(shown)
    assert ("map" in [panel["id"] for panel in spec["panels"]]) == (classes <= MANY), "else the weights are one already"
    for panel in spec["panels"]:
        picture = shown[panel.get("from", panel["id"])]
        assert panel["kind"] == "bars" or len(picture.y) == len(panel["lines"])
        assert all(len(row) == len(picture.x) for row in picture.y)
        assert (panel["kind"] == "heatmap") == (
            panel["id"] == "map" or (classes > MANY and panel["id"] in ("weights", "accuracy", "margin"))
        )
    bars = shown["classes"]
    assert bars.y[0].tolist() == [50.0] * classes
    assert bars.low is not None
    assert bars.low[0] == pytest.approx(23.66, abs=0.01), "Wilson's interval of 5 in 10"
    band = pictures(history, 10, until=100, followed=1)["accuracy"]
    assert shown["accuracy"].low is None, "no class is followed"
    assert (band.low is None) == (classes > MANY), "a heatmap has none"
    assert band.low is None or (band.low[0], band.low[-1]) == pytest.approx((20.65, 72.25), abs=0.01), "1 in 1, and 10 in 10"
    assert turn_marks([DialTurned(3, "learning_rate", 0.5, 0.7)], 900) == [{"x": 3, "text": "learning rate 0.7"}]


def test_a_stream_waits_for_the_page_and_answers_its_questions() -> None:
    view = StreamView(panel_spec(["a", "b"]))
    sent = []
    view.send = lambda message, buffers: sent.append((message, buffers))
    history = History(2)
    history.add(step(n, [1, 1]) for n in range(1, 4))
    assert view.ready()
    assert view.asked, "a page that opens needs its first picture"
    view.show(pictures(history, 1), [])
    message, buffers = sent[0]
    entry = message["panels"]["weights"]
    assert np.frombuffer(buffers[entry["y"]], np.float32).reshape(2, 3).tolist() == pytest.approx(
        np.array([[0.2] * 3, [0.8] * 3])
    )
    assert not view.ready(), "not too often"
    view._sent -= 1
    assert view.ready(), "the page may be a little behind"
    for _ in range(AHEAD - 1):
        view.show(pictures(history, 1), [])
    view._sent -= 1
    assert not view.ready(), "the page is too far behind"
    view._heard(view, {"kind": "drawn", "number": 4}, [])
    assert view.ready()
    for _ in range(4):
        view.show(pictures(history, 1), [])
    view._sent -= 1
    assert not view.ready()
    view._sent -= 2
    assert view.ready(), "nobody looks: go on"
    view._heard(view, {"kind": "zoom", "span": [2, 9]}, [])
    assert (view.zoom, view.asked) == ((2, 9), True)
    view._heard(view, {"kind": "zoom", "span": None}, [])
    assert view.zoom is None


def test_the_report(evaluated: list[str], tmp_path: Path) -> None:
    runs = read_runs(evaluated)
    page = write_report(runs, tmp_path / "deep" / "report.html").read_text()
    rows = result_rows({r.name: r.verdicts for r in runs})
    assert [(r["run"], r["attack"]) for r in rows] == [(n, a) for n in ("before", "after") for a in ("clean", "pgd-20")]
    for row in rows:
        assert row["average_low"] <= row["average"] <= row["average_high"]
        assert row["worst_low"] <= row["worst"] <= row["worst_high"]
        assert f"{row['worst']:.1f} ({row['worst_low']:.1f} to {row['worst_high']:.1f})" in page
        assert f"{row['average']:5.1f} [{row['average_low']:5.1f}" in text_table({r.name: r.verdicts for r in runs})
    assert all(html.escape(line) in page for line in headlines(runs))
    assert "before and after do not differ: they have the same verdict on every image." in page
    assert "plotly.js" in page
    assert "Validation after each epoch: after" in page
    page = re.sub(r"<script.*?</script>", "", page, flags=re.S)  # plotly itself holds addresses, in texts it may show
    for link in ("src='http", 'src="http', "href='http", 'href="http'):
        assert link not in page, "the page opens without a network"


def test_bars_show_each_class_with_its_interval(evaluated: list[str]) -> None:
    runs = read_runs(evaluated)
    figure = class_bars({r.name: r.verdicts for r in runs}, "clean")
    correct, total = runs[0].verdicts.counts("clean")
    assert figure.data[0].y == pytest.approx(100 * correct / total)
    assert all(v >= 0 for v in figure.data[0].error_y.array)


def test_a_report_of_what_cannot_be_compared(evaluated: list[str], base: Path, tmp_path: Path) -> None:
    with pytest.raises(VerdictsError, match="No verdicts at .* Make them first"):
        read_runs([str(base)])
    other = shutil.copytree(evaluated[0], tmp_path / "other")
    RunFolder(other).verdicts_file().unlink()
    evaluate_run(other, attacks=("clean",))
    with pytest.raises(VerdictsError, match="evaluated with different attacks"):
        read_runs([evaluated[0], str(other)])
    with pytest.raises(RunFolderError, match="is not a run folder"):
        read_runs([str(tmp_path / "nothing")])


def until(condition, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_run_without_validation_images_is_shown(tmp_path: Path, quick) -> None:
    for _ in run(replace(quick, validation="none", fairness="faal"), tmp_path / "run"):
        pass
    history, names = load_history(tmp_path / "run")
    assert all(np.isnan(values).tolist() == [True] for values in history.validation_summary("robust"))
    shown = pictures(history, 10)
    assert np.isnan(shown["epochs"].y).all(), "a gap"
    assert np.isnan(shown["classes"].y).all()
    assert len(names) == 10
    assert len(validation_curves(history).data) == 4
    evaluate_run(tmp_path / "run", attacks=("clean", "pgd-20"))
    page = write_report(read_runs([str(tmp_path / "run")]), tmp_path / "report.html").read_text()
    assert "Validation after each epoch" not in page
    dashboard = Dashboard(tmp_path / "run")
    try:
        until(lambda: dashboard.status == "done" and points(dashboard) == len(history.step.values))
        assert dashboard.problem.value == ""
    finally:
        dashboard.close()


def points(dashboard: Dashboard) -> int:
    return len(dashboard._history.step.values)


def test_the_dashboard_shows_a_finished_run(base: Path) -> None:
    dashboard = Dashboard(base)
    try:
        history, _ = load_history(base)
        until(lambda: dashboard.status == "done" and points(dashboard) == len(history.step.values))
        shown = pictures(dashboard._history, 1)
        assert pytest.approx(history.weights.values) == shown["weights"].y.T
        assert shown["loss"].y[0] == pytest.approx(history.loss.values)
        until(lambda: not dashboard.until.disabled and not dashboard.save.disabled)
        assert dashboard.until.max == dashboard.until.value == 4, "it can be replayed"
        until(lambda: dashboard.state.value.startswith("<b>done</b> · batch 4 of 4"))
        assert dashboard.problem.value == ""
    finally:
        dashboard.close()


def test_the_dashboard_says_what_is_wrong_and_goes_on(base: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(base, tmp_path / "run"))
    dashboard = Dashboard(copy)
    try:
        until(lambda: dashboard.status == "done")
        copy.rename(tmp_path / "moved")
        until(lambda: "is gone: it was deleted or moved" in dashboard.problem.value)
        (tmp_path / "moved").rename(copy)
        until(lambda: dashboard.problem.value == "")
        with RunFolder(copy).recording() as recorder:
            recorder.write(RunFailed(4, "ValueError: the loss is not finite"))
        until(lambda: "the loss is not finite" in dashboard.problem.value)
        copy.rename(tmp_path / "moved")
        until(lambda: "is gone: it was deleted or moved" in dashboard.problem.value)
        (tmp_path / "moved").rename(copy)
        until(lambda: "the loss is not finite" in dashboard.problem.value and "is gone" not in dashboard.problem.value)
        dashboard.follow(base)
        until(lambda: dashboard.status == "done" and dashboard.problem.value == "")
    finally:
        dashboard.close()


def test_the_workbench_starts_steers_and_stops_a_run(tmp_path: Path) -> None:
    bench = Workbench(tmp_path, attack_steps=2, validation_steps=0, epochs=500, fairness="faal")
    try:
        bench.buttons["start"].click()
        until(lambda: bench.dashboard.status == "training")
        until(
            lambda: not bench.buttons["stop"].disabled and bench.buttons["start"].disabled and bench.settings["epochs"].disabled
        )
        bench.settings["tau"].value = 0.9
        assert bench.run is not None
        folder = bench.run.folder
        until(lambda: [e.new for e in folder.events() if isinstance(e, DialTurned)] == [0.9])
        bench.buttons["stop"].click()
        until(lambda: bench.dashboard.status == "stopped")
        until(lambda: bench.buttons["stop"].disabled and not bench.buttons["start"].disabled)
        assert folder.config().attack_steps == 2, "settings without a control are those the workbench was given"
    finally:
        bench.dashboard.close()


class Linear(torch.nn.Module):
    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(64, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images.flatten(1))


def test_the_workbench_trains_objects_of_the_notebook(tmp_path: Path) -> None:
    network, recipe = Linear(), Recipe.named("faal-at")
    before = network.layer.weight.clone()
    bench = Workbench(tmp_path, model=network, recipe=recipe, attack_steps=1, validation_steps=1, epochs=500, batch_size=250)
    try:
        assert not {"model", "objective", "fairness", "ambiguity", "averaging", "awp_gamma"} & bench.settings.keys()
        assert "fl.train(config, out=out, model=model, recipe=recipe)" in bench.setup.commands.value
        bench.buttons["start"].click()
        until(lambda: bench.dashboard.status == "training" and points(bench.dashboard) > 8)
        assert bench.run is not None
        folder = bench.run.folder
        assert folder.own() == {"model": "Linear", "recipe": "AdversarialTraining with FAAL"}
        bench.settings["tau"].value = 0.9
        until(lambda: [e.new for e in folder.events() if isinstance(e, DialTurned)] == [0.9])
        bench.buttons["stop"].click()
        until(lambda: bench.dashboard.status == "stopped" and bench.buttons["pause"].description == "Resume")
        steps = [e for e in folder.events() if isinstance(e, StepDone)]
        assert steps[-1].weights != steps[0].weights, "FAAL of the recipe weighs, though the settings name no method"
        bench.strip.look()
        assert bench.strip.shown.value.count("<img") == 18
        bench.buttons["pause"].click()
        until(lambda: any(isinstance(e, RunResumed) for e in folder.events()) and bench.dashboard.status == "training")
        bench.buttons["stop"].click()
        until(lambda: bench.dashboard.status == "stopped" and bench.run is not None and not bench.run.running())
        assert torch.equal(network.layer.weight, before), "a run trains a copy"
    finally:
        bench.dashboard.close()
    with pytest.raises(
        ConfigError, match=r"made with a model \(Linear\) and a recipe \(.*\) .* fl.Workbench\(model=\.\.\., recipe"
    ):
        next(iter(run(folder.config(), folder.path, resume=True)))


def test_the_workbench_trains_a_method_of_the_notebook(tmp_path: Path) -> None:
    method = FAAL(ambiguity=CVaR())
    bench = Workbench(tmp_path, fairness=method, attack_steps=1, validation_steps=1, epochs=1, batch_size=250)
    try:
        assert "fairness" not in bench.settings
        assert "objective" in bench.settings
        assert "fl.train(config, out=out, fairness=fairness)" in bench.setup.commands.value
        bench.buttons["start"].click()
        until(lambda: bench.dashboard.status == "done" and bench.run is not None and not bench.run.running())
        assert bench.run is not None
        folder = bench.run.folder
        assert folder.own() == {"fairness": "faal_lab.methods.fairness.faal.FAAL"}
        assert next(e for e in folder.events() if isinstance(e, StepDone)).weights.count(0.0) == 5, "alpha 0.5: half the classes"
    finally:
        bench.close()
    with pytest.raises(ConfigError, match="recipe holds a method already: leave out fairness, or recipe"):
        Workbench(tmp_path, fairness=method, recipe=Recipe.named("faal-at"))
    by_path = Workbench(tmp_path, fairness="rules.py:Rule", ambiguity="rules.py:Set")
    assert by_path.config().fairness == "rules.py:Rule"
    assert by_path.message.value == "", "the page does not read the file"
    by_path.close()


def test_errors_of_a_run_in_a_thread_are_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="recipe must be a Recipe, got 'faal-at'"):
        Workbench(tmp_path, recipe="faal-at")  # pyright: ignore[reportArgumentType]
    bench = Workbench(tmp_path, model=Linear(classes=3))
    try:
        bench.buttons["start"].click()
        until(lambda: "Linear" in bench.message.value and "10" in bench.message.value and "Run folder" not in bench.message.value)
        until(lambda: not bench.buttons["start"].disabled)
    finally:
        bench.close()
        assert bench.dashboard._closed.is_set(), "its thread would read on"


def test_the_workbench_offers_what_the_library_lists(tmp_path: Path) -> None:
    bench = Workbench(tmp_path)
    for setting, rows in parts().items():
        assert list(bench.settings[setting].options) == list(rows), setting
    assert parts().keys() == {"objective", "fairness", "averaging", "ambiguity"}
    assert set(parts()["fairness"]) == set(FAIRNESS)


def test_the_workbench_says_what_is_wrong(tmp_path: Path) -> None:
    bench = Workbench(tmp_path)
    try:
        bench.settings["base"].value = str(tmp_path / "nothing")
        bench.buttons["start"].click()
        until(lambda: "does not exist. Choose a run" in bench.message.value)
        assert not bench.buttons["start"].disabled
    finally:
        bench.dashboard.close()


def test_the_private_names_of_plotly_still_exist() -> None:
    widget = live_widget(validation_curves(History(2)))
    assert "_config" in widget.trait_names()
    assert widget._config["responsive"] is True


def test_a_run_of_other_classes_gets_its_own_panels(image_folder: Path, tmp_path: Path) -> None:
    config = Config(data="folder", data_dir=str(image_folder), epochs=1, attack_steps=1, validation_steps=1, fairness="faal")
    for _ in run(config, tmp_path / "run"):
        pass
    dashboard = Dashboard(tmp_path / "run")
    try:
        until(lambda: dashboard.status == "done" and dashboard._names == ["ant", "bee", "cow"])
        until(lambda: points(dashboard) > 0)
        assert RunFolder(tmp_path / "run").status() == "done"
    finally:
        dashboard.close()


def test_presets_fill_the_controls_and_what_does_not_fit_is_said_before_start(tmp_path: Path) -> None:
    bench = Workbench(tmp_path)
    try:
        bench.setup.presets["recipe"].value = "faal-trades-awp"
        bench.setup.presets["protocol"].value = "finetune-2ep"
        config = bench.config()
        assert config == Config.from_mapping(preset_settings("faal-trades-awp", "finetune-2ep"))
        assert config.epsilon == 8 / 255, "a slider moves it nowhere"
        said = bench.setup.commands.value
        assert html.escape(run_command(config, "runs/mine")) in said
        assert "--objective=trades" in said
        assert "-r objective trades" in said, "papermill"
        assert f"c* {largest_multiplier(KLBall(0.5), 10):.3g}" in bench.setup.radius.value
        bench.settings["objective"].value = "at"
        bench.settings["fairness"].value = "frl-rw"
        assert "weighs the terms clean and robust apart" in bench.message.value
        assert bench.buttons["start"].disabled
        bench.settings["objective"].value = "trades"
        assert bench.message.value == ""
        assert not bench.buttons["start"].disabled
    finally:
        bench.dashboard.close()


def test_papermill_and_yaml_give_the_settings_they_are_made_of(tmp_path: Path) -> None:
    config = Config(objective="trades", epsilon=8 / 255, lr_drops="0.5", epochs=2, lr_schedule="step", tau=1e-5, fairness="faal")
    words = shlex.split(papermill_command(config, tmp_path / "run"))
    stated = dict(zip(words[6::3], words[7::3], strict=True))
    assert words[5::3] == ["-r" if k in ("objective", "lr_schedule", "lr_drops", "fairness", "out") else "-p" for k in stated]
    assert float(stated["epsilon"]) == 8 / 255
    assert run_parameters(yaml.safe_load(as_yaml(config)) | {"out": "x"})[0] == config


SLOW = "training, 10 batches a second at most"


def test_the_workbench_takes_up_a_run_that_is_going_on(tmp_path: Path) -> None:
    config = Config(epochs=500, attack_steps=1, validation_steps=0, fairness="faal")
    live = LiveRun.start(config, tmp_path / "going")
    until(lambda: live.folder.metrics_file.exists() and live.folder.status() == "training")
    bench = Workbench(tmp_path)
    try:
        assert bench.opened.value == str(tmp_path / "going")
        until(lambda: bench.dashboard.status == "training" and not bench.fairness_on.disabled)
        bench.fairness_on.value = False
        until(lambda: [(e.dial, e.new) for e in live.folder.events() if isinstance(e, DialTurned)] == [("fairness_on", 0.0)])
        bench.pace.value = 10.0
        until(lambda: live.folder.status() == SLOW)
        other = Workbench(tmp_path)
        other.run, other.pace.value = None, 2.0
        other.look_at(str(tmp_path / "going"))
        until(lambda: other.dashboard.status == SLOW)
        time.sleep(0.5)
        assert live.folder.status() == SLOW, "to look at a run does not change its speed"
        other.close()
        bench.buttons["stop"].click()
        until(lambda: bench.dashboard.status == "stopped")
        until(lambda: bench.buttons["pause"].description == "Resume" and not bench.buttons["pause"].disabled)
        bench.buttons["pause"].click()
        until(lambda: any(isinstance(e, RunResumed) for e in live.folder.events()))
        until(lambda: bench.dashboard.status == SLOW)  # what it resumes goes as fast as this page says
        bench.buttons["stop"].click()
        until(lambda: bench.dashboard.status == "stopped")
    finally:
        bench.dashboard.close()
        live.wait(30)


def test_epochs_are_thinned_out_as_batches_are() -> None:
    history = History(2)
    history.add([step(1, [4, 0]), *(EpochDone(n, 1, [10, 10], [9, 8], [n % 10, 4]) for n in range(1, 2001))])
    shown = pictures(history, 10)["epochs"]
    assert len(shown.x) == MAX_POINTS == shown.y.shape[1]
    assert (shown.x[0], shown.x[-1]) == (1, 2000)
    assert shown.y[3] == pytest.approx([min(10 * (n % 10), 40) for n in shown.x]), "the worst class under attack"


def test_a_run_as_files_of_other_programs(base: Path) -> None:
    files = run_files(base)
    assert list(files) == ["base-steps.csv", "base-epochs.csv", "base.json"]
    rows = list(csv.DictReader(files["base-steps.csv"].decode().splitlines()))
    history, names = load_history(base)
    assert [float(row["weights[3]"]) for row in rows] == history.weights.values[:, 3].tolist()
    assert len([k for k in rows[0] if k.startswith("weights")]) == len(names)
    assert json.loads(files["base.json"])["config"]["epochs"] == 1
    with pytest.raises(RunFolderError, match="is not a run folder"):
        run_files(base / "nothing")


def test_the_images_of_the_hardest_class(base: Path) -> None:
    found = hardest(base, count=5)
    done = [e for e in RunFolder(base).events() if isinstance(e, EpochDone)][-1]
    shares = np.divide(done.robust_correct, done.count)
    assert (found.index, found.accuracy) == (int(shares.argmin()), pytest.approx(shares.min()))
    shown = found.examples
    assert shown.clean.shape == (5, 1, 8, 8)
    assert np.abs(shown.adversarial - shown.clean).max() <= 0.1 + 1e-6
    assert shown.adversarial_belief.sum(1) == pytest.approx(1)
    page = strip_html(found)
    assert page.count("<img") == 15
    wrong = (shown.clean_belief.argmax(1) != found.index).sum() + (shown.adversarial_belief.argmax(1) != found.index).sum()
    assert page.count("<b style") == wrong
    assert hardest(base, of_class=3).name == "3"
    strip = Strip(lambda: base / "nothing", lambda: -1)
    strip.look()
    assert "is not a run folder" in strip.shown.value


RECORDED = Path(__file__).parents[2] / "notebooks" / "recorded"


def test_recorded_runs_come_along_for_replay(tmp_path: Path) -> None:
    files = [p for p in RECORDED.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 1e6
    bench = Workbench(tmp_path, RECORDED)
    try:
        steered = str(RECORDED / "faal-steered")
        assert list(bench.opened.options) == ["(none)", str(RECORDED / "control"), steered]
        bench.opened.value = steered
        until(lambda: bench.dashboard.status == "done" and not bench.dashboard.until.disabled)
        assert bench.dashboard.until.max == 160
        assert [t["text"] for t in turn_marks(bench.dashboard._follower.turns, 160)] == ["tau 1.5", "tau 0"]
        bench.strip.look()
        assert bench.strip.shown.value.count("<img") == 18
    finally:
        bench.dashboard.close()
    assert [run.name for run in read_runs([str(RECORDED / "control"), steered])] == ["control", "faal-steered"]
    assert not [p for p in RECORDED.rglob("*") if p.name in ("heartbeat.json", "writer.lock", "control") and p.is_file()]


def test_a_page_without_widgets_and_a_kernel_without_libraries_are_told_the_cure(tmp_path: Path) -> None:
    bench = Workbench(tmp_path)
    text = bench._repr_mimebundle_()["text/plain"]
    assert text.endswith("pip install jupyterlab_widgets anywidget; reload"), "whole, not cut at ipywidgets' 110 characters"
    bench.dashboard.close()
    hidden = "import sys; sys.modules['anywidget'] = None; import faal_lab.widgets"
    found = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True)
    assert "The panels need anywidget, which this kernel's Python" in found.stderr
