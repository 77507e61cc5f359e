"""The live notebook in a real browser: JupyterLab in headless Chromium, driven as a person would.

Skipped where Chromium or Playwright is missing; FAAL_LAB_REQUIRE_BROWSER=1 turns the skip into a failure.
Every wait is for a post-condition. The page must ask nothing of any other machine and log no error.
"""

import itertools
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_browser import FIRE, READY, write_notebook
from in_lab import (
    LAST,
    POINTS,
    STATUS,
    Lab,
    press_slider,
    press_tau_right,
    shoot,
    start_and_see_it_move,
    steps,
    turns,
    wait_until,
)

from faal_lab.dro import KLBall
from faal_lab.dro.radius import largest_multiplier
from faal_lab.runs import RunFolder
from faal_lab.runs.config import Config
from faal_lab.runs.events import RunFinished, RunStarted, StepDone


def pause_turn_and_resume(page: Any, run: RunFolder) -> None:
    page.click("button.faal-pause")
    page.wait_for_selector("button.faal-pause:has-text('Resume')")
    stood = wait_until(lambda: run.status() == "paused" and steps(run)[-1].step)
    press_tau_right(page)
    wait_until(lambda: list(run.control.glob("*.json"))[1:])
    page.wait_for_function(f"() => {STATUS}.includes('tau 0.55 waits for the next batch')")
    assert page.evaluate("() => document.querySelector('.faal-view').faal.marks") == [], "no batch had it"
    time.sleep(0.5)
    assert steps(run)[-1].step == stood, "paused: no step is made"
    page.click("button.faal-pause")
    (turned,) = wait_until(lambda: turns(run))
    assert (turned.dial, turned.old, turned.new, turned.step) == ("tau", 0.5, 0.55, stood)
    (first,) = wait_until(lambda: [e for e in steps(run) if e.step == stood + 1])
    assert first.tau == 0.55, "it holds from the very next step"
    page.wait_for_function(f"() => {LAST} > {stood + 5}")


def turn_while_it_runs(page: Any, run: RunFolder) -> None:
    press_tau_right(page)
    late = wait_until(lambda: [e for e in turns(run) if e.new == pytest.approx(0.6)])[0]
    (sent,) = [p for p in run.control.glob("*.json") if json.loads(p.read_text())["value"] == pytest.approx(0.6)]
    clock = [json.loads(line) for line in run.timing_file.read_text().splitlines()]
    asked = sent.stat().st_mtime
    step = max(b["time"] - a["time"] for a, b in itertools.pairwise([r for r in clock if r["event"] == "StepDone"]))
    turned = max(r["time"] for r in clock if r["event"] == "DialTurned")
    assert turned - asked < max(0.5, 2 * step), "recorded within a look at the folder, or a step of the command"
    assert late.step <= steps(run)[-1].step
    labels = "(document.querySelector('.faal-view').faal.panels.get('map').labelled || [])"  # the panel that is always in view
    page.wait_for_function(f"() => {labels}.length === 2")
    second, first = page.evaluate(f"() => {labels}")
    assert (first["text"], second["text"]) == ("tau 0.55", "tau 0.6")
    assert first["row"] != second["row"] or first["right"] < second["left"], "they stand clear of each other"


@pytest.mark.browser
def test_live_notebook(lab: Lab, page: Any) -> None:
    lab.open(page, "notebooks/04_train_live.ipynb")
    start_and_see_it_move(page)
    run = lab.run()
    pause_turn_and_resume(page, run)
    turn_while_it_runs(page, run)
    page.click("button.faal-stop")
    page.wait_for_function(f"() => {STATUS}.startsWith('stopped')")
    last = steps(run)[-1].step
    page.wait_for_function(f"() => {LAST} === {last}")
    shoot(page, "stopped")
    page.evaluate(FIRE, "docmanager:save")
    page.wait_for_function("() => window.fired === 'ok'")
    page.reload()
    page.wait_for_function(READY)
    page.wait_for_function(f"() => {LAST} === {last}")
    assert not page.inner_text(".faal-error").strip()
    assert not page.outside
    assert not page.errors


SIMPLEX = """() => { const d = document.querySelector('.js-plotly-plot').data, round = a => Array.from(a || []).map(v => +v.toFixed(5));
  return {score: d[0].y[0], outline: round(d[2].x).join(), tip: round(d[3].x)[1], point: [round(d[4].x)[0], round(d[4].y)[0]], weights: round(d[1].y)}; }"""

SAID = "document.querySelector('.faal-said').innerText"


@pytest.mark.browser
def test_the_sliders_of_the_explanation_move_the_picture(lab: Lab, page: Any) -> None:
    lab.open(page, "notebooks/02_ambiguity_sets.ipynb")
    shoot(page, "ambiguity")

    def press_right(selector: str, times: int) -> None:
        for _ in range(times):
            before = page.evaluate(f"() => JSON.stringify([({SIMPLEX})(), {SAID}])")
            press_slider(page, f"{selector} .noUi-handle", "ArrowRight")
            page.wait_for_function(f"before => JSON.stringify([({SIMPLEX})(), {SAID}]) !== before", arg=before)

    page.wait_for_function("() => document.querySelector('.js-plotly-plot').data.length > 4")
    start = page.evaluate(SIMPLEX)
    press_right(".faal-score", 8)
    page.wait_for_function(f"() => Math.abs(({SIMPLEX})().score + 0.44) < 1e-4")  # -0.6 and eight steps of 0.02
    turned = page.evaluate(SIMPLEX)
    assert turned["outline"] == start["outline"], "scores turn the arrow, not the set"
    assert turned["tip"] != start["tip"]
    assert turned["point"] != start["point"]
    assert turned["weights"][0] > start["weights"][0]

    press_right(".faal-radius", 10)
    most = largest_multiplier(KLBall(10**-0.5), 3)  # ten steps of 0.02 from 10 ** -0.7
    near = f"Math.abs(parseFloat({SAID}.split('c* ')[1]) / {most} - 1) < 0.03"
    page.wait_for_function(f"() => {near}")
    page.wait_for_function(f"() => ({SIMPLEX})().outline !== '{turned['outline']}'")
    grown = page.evaluate(SIMPLEX)
    assert grown["tip"] == turned["tip"], "the radius grows the set, not the arrow"
    assert max(grown["weights"]) > max(turned["weights"])

    page.select_option(".faal-set select", "cvar")
    page.wait_for_function(f"() => /^cvar/.test({SAID})")
    page.wait_for_function(f"() => {near}")  # as far as before, but for the slider's steps
    page.wait_for_function(f"() => ({SIMPLEX})().outline !== '{grown['outline']}'")
    assert sum(page.evaluate(SIMPLEX)["weights"]) == pytest.approx(1, abs=1e-4)
    assert not page.outside
    assert not page.errors


@pytest.mark.browser
def test_a_hundred_classes_of_which_a_batch_has_but_some(lab: Lab, page: Any) -> None:
    """Absent classes are gaps in the heatmaps; one of them must not keep the panels from being drawn."""
    names, numbers = [f"class {c}" for c in range(100)], np.random.default_rng(0)
    run = RunFolder.create(lab.root / "runs" / "many", Config(fairness="faal"), {})
    with run.recording() as recorder:
        recorder.write(RunStarted(names, 30, 1, 0.5, 0.1, 0.05))
        for n in range(1, 31):
            count = [int(c % 30 < n) for c in range(100)]
            margin = [float(m) if c else None for m, c in zip(numbers.normal(size=100), count, strict=True)]
            weights = numbers.dirichlet(np.ones(100)).tolist()
            recorder.write(StepDone(n, 0, 1.0, 0.5, 0.1, 0.05, weights, 0.5, count, margin, count, count))
        recorder.write(RunFinished(30, "done"))
    write_notebook(lab.root / "many.ipynb", f"from faal_lab.widgets import Dashboard\nDashboard({str(run.path)!r})")
    lab.open(page, "many.ipynb")
    page.wait_for_function(f"() => {LAST} === 30")
    page.wait_for_function("() => { const view = document.querySelector('.faal-view').faal; return view.drawn === view.number; }")
    assert len(page.evaluate(POINTS)["weights"]["y"]) == 100
    assert not page.errors


@pytest.mark.browser
def test_a_comparison_survives_a_reload(lab: Lab, page: Any, base: Path) -> None:
    shutil.copytree(base, lab.root / "runs" / "one")
    shutil.copytree(base, lab.root / "runs" / "two")
    write_notebook(lab.root / "compare.ipynb", "from faal_lab.widgets import Comparison\nComparison(chosen=['runs/one'])")
    lab.open(page, "compare.ipynb")
    named = "[...document.querySelectorAll('.faal-curves .js-plotly-plot')].flatMap(g => g.data.map(t => t.name)).join()"
    page.wait_for_function(f"() => {named} === 'one,one'")
    page.select_option(".faal-chosen select", label=["runs/one", "runs/two"])
    page.wait_for_function(f"() => {named} === 'one,one,two,two'")
    page.evaluate(FIRE, "docmanager:save")
    page.wait_for_function("() => window.fired === 'ok'")
    page.reload()
    page.wait_for_function(READY)
    page.wait_for_function(f"() => {named} === 'one,one,two,two'")
    assert "faal-lab evaluate runs/one runs/two" in page.inner_text(".faal-said")
    assert not page.inner_text(".faal-error").strip()
    assert not page.outside
    assert not page.errors


STEP = """() => { const plot = [...document.querySelectorAll('.js-plotly-plot')].find(p => p.layout.sliders);
  return {mark: plot.data[4].x[0], loss: plot.data[4].y[0], line: Array.from(plot.data[3].y), belief: Array.from(plot.data[2].y)}; }"""


@pytest.mark.browser
def test_the_slider_over_attack_steps_moves_every_picture(lab: Lab, page: Any) -> None:
    lab.open(page, "notebooks/03_attack_microscope.ipynb")
    page.wait_for_selector(".slider-rail-touch-rect")
    end = page.evaluate(STEP)
    assert end["mark"] == 20, "it opens at the last step"
    page.locator(".slider-rail-touch-rect").scroll_into_view_if_needed()
    rail = page.locator(".slider-rail-touch-rect").bounding_box()
    page.mouse.click(rail["x"] + rail["width"] / 4, rail["y"] + rail["height"] / 2)
    page.wait_for_function(f"() => ({STEP})().mark === 5")
    early = page.evaluate(STEP)
    assert early["loss"] == early["line"][5]
    assert sum(early["belief"]) == pytest.approx(1, abs=1e-4)
    assert early["belief"] != end["belief"]
    shoot(page, "microscope")
    assert not page.outside
    assert not page.errors
