"""Several runs beside each other in a notebook: what is chosen, what is shown, what is said where something is missing."""

import html
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_up import resealed, unspaced

from faal_lab.evaluation.evaluate import evaluate_run
from faal_lab.results.figures import RUN_COLOURS, compared_curves
from faal_lab.results.formats import settings_html
from faal_lab.runs import RunFolder
from faal_lab.runs.config import Config
from faal_lab.runs.history import load_history
from faal_lab.training.run import run
from faal_lab.widgets import Comparison


@pytest.fixture(scope="module")
def runs(base: Path, quick: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base and other (another seed) evaluated, plain without verdicts, all below one folder."""
    folder = tmp_path_factory.mktemp("compared")
    shutil.copytree(base, folder / "base")
    shutil.copytree(base, folder / "plain")
    for _ in run(replace(quick, seed=1, fairness="faal", tau=0.3), folder / "deep" / "other"):
        pass
    evaluate_run(folder / "base", attacks=("clean", "fgsm", "pgd-20"))
    evaluate_run(folder / "deep" / "other", attacks=("clean", "pgd-20"))
    return folder


def figure(output: Any) -> dict[str, Any]:
    (shown,) = output.outputs
    return shown["data"]["application/vnd.plotly.v1+json"]


def test_two_evaluated_runs(runs: Path) -> None:
    panel = Comparison(runs)
    assert list(panel.chosen.options) == [str(runs / name) for name in ("base", "deep/other", "plain")]
    assert (panel.chosen.value, panel.curves.outputs, panel.bars.outputs) == ((), (), ()), "nothing is chosen yet"
    panel.chosen.value = [str(runs / "base"), str(runs / "deep" / "other")]
    assert panel.problem.value == ""
    assert [value for _, value in panel.attack.options] == ["clean", "pgd-20"], "those that both were evaluated with"
    assert panel.attack.value == "pgd-20"
    drawn = figure(panel.curves)["data"]
    assert [(t["name"], t["line"]["color"]) for t in drawn] == [
        (name, colour) for name, colour in zip(("base", "other"), RUN_COLOURS, strict=False) for _ in range(2)
    ]
    assert [t["name"] for t in figure(panel.bars)["data"]] == ["base", "other"]
    assert "Under PGD-20: other against base" in panel.said.value
    assert "under PGD-20" in panel.tables.value
    assert "<td>tau</td><td>0.5</td><td>0.3</td>" in unspaced(panel.tables.value)
    differing = panel.tables.value.split("<details>")[0].split("Settings that differ")[1]
    assert "<td>epochs</td>" not in differing

    before = panel.curves.outputs
    panel.kind.value = "clean"
    assert panel.curves.outputs != before
    panel.attack.value = "clean"
    assert "Under Clean: other against base" in panel.said.value
    panel.against.value = str(runs / "deep" / "other")
    assert panel.attack.value == "clean", "a choice stays"
    assert [t["name"] for t in figure(panel.bars)["data"]] == ["other", "base"]
    assert "base against other" in panel.said.value


def test_a_run_without_verdicts_shows_its_curves_and_the_command(runs: Path) -> None:
    panel = Comparison(runs, chosen=[runs / "base", runs / "plain"])
    assert panel.problem.value == ""
    assert {t["name"] for t in figure(panel.curves)["data"]} == {"base", "plain"}
    assert [t["name"] for t in figure(panel.bars)["data"]] == ["base"]
    assert f"faal-lab evaluate {runs / 'plain'}" in panel.said.value


def test_what_is_wrong_is_said_and_the_rest_is_shown(runs: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(runs / "base", tmp_path / "broken"))
    shutil.copy(runs / "deep" / "other" / "last.safetensors", broken / "last.safetensors")
    gone = Path(shutil.copytree(runs / "plain", tmp_path / "gone"))
    panel = Comparison(runs, chosen=[runs / "base", broken, gone])
    assert "last.safetensors is of another run" in panel.problem.value
    assert [t["name"] for t in figure(panel.bars)["data"]] == ["base"]
    (gone / "metrics.jsonl").write_text("no run\n")
    panel.refresh.click()
    assert "holds a line that is not JSON" in panel.problem.value
    assert {t["name"] for t in figure(panel.curves)["data"]} == {"base", "broken"}
    panel.chosen.value = [str(runs / "base")]
    assert panel.problem.value == "", "it is over"


def test_runs_that_cannot_be_compared_show_curves_and_settings(runs: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(runs / "plain", tmp_path / "fewer"))
    evaluate_run(other, attacks=("clean",), images=50)
    panel = Comparison(runs, chosen=[runs / "base", other])
    assert "base and fewer" in panel.problem.value
    assert len(figure(panel.curves)["data"]) == 4
    assert panel.bars.outputs == ()
    assert "Settings that differ" in panel.tables.value


def test_new_runs_are_found_and_one_without_validation_has_no_curve(runs: Path, quick: Config, tmp_path: Path) -> None:
    panel = Comparison(tmp_path)
    assert panel.chosen.options == ()
    shutil.copytree(runs / "plain", tmp_path / "plain")
    for _ in run(replace(quick, validation="none"), tmp_path / "all"):
        pass
    panel.refresh.click()
    panel.chosen.value = panel.chosen.options
    assert {t["name"] for t in figure(panel.curves)["data"]} == {"plain"}
    assert "No validation images: all." in panel.said.value
    assert json.dumps(panel.curves.outputs), "plain JSON: a page that is reloaded gets it again"


def test_curves_are_average_and_worst_class(runs: Path) -> None:
    history = load_history(runs / "base")[0]
    average, worst = compared_curves({"base": history}, "robust").data
    accuracy = history.validation("robust")[0]
    assert average.y == pytest.approx([100 * accuracy.mean()])
    assert worst.y == pytest.approx([100 * accuracy.min()])


def test_settings_are_text_not_markup(runs: Path, tmp_path: Path) -> None:
    copy = RunFolder(shutil.copytree(runs / "plain", tmp_path / "copy"))
    record = json.loads(copy.config_file.read_text())
    record["config"]["data_dir"] = "<b>"
    copy.config_file.write_text(json.dumps(record))
    resealed(copy.config_file)
    page = settings_html({"plain": RunFolder(runs / "plain"), "<copy>": copy})
    assert "<b>" not in page
    assert html.escape("<copy>") in page
    assert "<td>data_dir</td><td></td><td>&lt;b&gt;</td>" in unspaced(page)
