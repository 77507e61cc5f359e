"""The workbench and every notebook in a real browser: step, resume, replay, runs of other processes, a kernel's restart.

Every wait is for a post-condition. The page must ask nothing of any other machine and log no error.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import in_browser
import numpy as np
import pytest
from in_browser import READY
from in_lab import (
    LAST,
    POINTS,
    ROOT,
    SCREENSHOTS,
    STATUS,
    Lab,
    clean,
    press_slider,
    press_tau_right,
    run_again,
    shoot,
    steps,
    turns,
    wait_until,
)

from faal_lab.runs import RunFolder
from faal_lab.runs.events import EpochDone, RunResumed
from faal_lab.runs.heartbeat import read_heartbeat

LIVE = "notebooks/04_train_live.ipynb"
ALL_X = "() => Array.from(document.querySelector('.faal-view').faal.panels.get('weights').data.x)"
DRAWN_MAP = """() => { const panel = document.querySelector('.faal-view').faal.panels.get('map'), last = panel.data.x.length - 1;
  return { x: panel.data.x[last], y: Array.from({ length: panel.data.rows }, (_, r) => panel.at(r, last)) }; }"""
MARKS = "document.querySelector('.faal-view').faal.marks.length"


def stop(page: Any, run: RunFolder) -> None:
    page.click("button.faal-stop")
    page.wait_for_function(f"() => {STATUS}.startsWith('stopped')")
    assert run.status() == "stopped"


@pytest.mark.browser
def test_step_by_step_and_on_after_a_stop(lab: Lab, page: Any) -> None:
    with clean(page):
        lab.open(page, LIVE)
        page.click("button.faal-start")
        page.wait_for_function(f"() => {LAST} > 3")
        run = lab.run()
        page.click("button.faal-pause")
        stood = wait_until(lambda: run.status() == "paused" and steps(run)[-1].step)
        for more in (1, 2):
            page.wait_for_selector("button.faal-pause:has-text('Resume')")
            page.click("button.faal-step")
            page.wait_for_function(f"() => {LAST} === {stood + more} && {STATUS}.startsWith('paused')")
        assert page.evaluate(DRAWN_MAP) == page.evaluate(POINTS)["weights"], "the map draws the numbers of the lines"
        stop(page, run)
        before = steps(run)
        assert [e.step for e in before] == list(range(1, stood + 3)), "each press made one step and no more"

        page.wait_for_selector("button.faal-start:enabled")
        page.wait_for_selector("button.faal-pause:enabled:has-text('Resume')")
        page.click("button.faal-pause")
        page.wait_for_function(f"() => {LAST} > {stood + 10}")
        stop(page, run)
        assert [e.from_step for e in run.events() if isinstance(e, RunResumed)] == [stood + 2]
        after = steps(run)
        assert after[: stood + 2] == before, "what was done stays"
        assert [e.step for e in after] == list(range(1, len(after) + 1))


@pytest.mark.browser
def test_a_run_goes_as_fast_as_chosen_and_stands_still_after_an_epoch(lab: Lab, page: Any) -> None:
    with clean(page):
        lab.open(page, LIVE)
        page.select_option(".faal-pace select", "2 batches a second")
        page.click("button.faal-start")
        page.wait_for_function(f"() => {STATUS}.startsWith('training, 2 batches a second at most')")
        run = lab.run()
        first, began = len(steps(run)), time.monotonic()
        wait_until(lambda: len(steps(run)) >= first + 4)
        assert time.monotonic() - began > 3 / 2 - 0.2
        page.select_option(".faal-pace select", "as fast as it goes")
        page.click("button.faal-epoch")
        page.wait_for_function(f"() => {STATUS}.startsWith('paused')")
        assert isinstance(run.events()[-1], EpochDone)
        stop(page, run)


@pytest.mark.browser
def test_a_recorded_run_is_replayed(lab: Lab, page: Any) -> None:
    recorded = RunFolder(lab.root / "notebooks" / "recorded" / "faal-steered")
    made = steps(recorded)
    with clean(page):
        lab.open(page, LIVE)
        page.select_option(".faal-opened select", "recorded/faal-steered")
        page.wait_for_function(f"() => {LAST} === {len(made)} && {MARKS} === {len(turns(recorded))}")
        shoot(page, "replay")
        page.wait_for_selector(".faal-until .noUi-target:not([disabled])")
        press_slider(page, ".faal-until .noUi-handle", "Home")
        page.wait_for_function(f"() => {LAST} === -1")
        for key in ["PageUp"] * 10 + ["ArrowRight"]:
            press_slider(page, ".faal-until .noUi-handle", key)
        at = int(float(page.get_attribute(".faal-until .noUi-handle", "aria-valuenow")))
        assert 16 < at < len(made), "in the middle of the run"
        page.wait_for_function(f"() => {LAST} === {at}")
        shown = page.evaluate(POINTS)
        assert shown["weights"]["y"] == pytest.approx(np.mean([e.weights for e in made[at - 10 : at]], 0), abs=1e-5)
        assert shown["loss"]["y"] == pytest.approx([made[at - 1].loss], rel=1e-5)
        assert shown["divergence"] == {"x": at, "y": pytest.approx([made[at - 1].divergence, made[at - 1].tau], abs=1e-5)}
        epochs = [e for e in recorded.events() if isinstance(e, EpochDone) and e.step <= at]
        robust = 100 * np.array(epochs[-1].robust_correct) / epochs[-1].count
        assert shown["epochs"]["x"] == len(epochs)
        assert shown["epochs"]["y"][2:] == pytest.approx([robust.mean(), robust.min()], abs=1e-3)
        assert page.evaluate(f"() => {MARKS}") == len([e for e in turns(recorded) if e.step <= at])


@pytest.mark.browser
def test_a_run_of_papermill_is_taken_up_and_steered(lab: Lab, page: Any) -> None:
    words = [sys.executable, "-m", "papermill", str(ROOT / "parameterized/train.ipynb"), "out.ipynb", "-k", "python3"]
    given = {"out": "runs/unattended", "fairness": "faal", "epochs": 500, "attack_steps": 2, "validation_steps": 1}
    words += [word for name, value in given.items() for word in ("-p", name, str(value))]
    started = subprocess.Popen([*words, "--no-progress-bar"], cwd=lab.root, stderr=subprocess.PIPE)
    try:
        run = RunFolder(lab.root / "runs" / "unattended")
        wait_until(lambda: run.metrics_file.exists() and len(steps(run)) > 5)
        with clean(page):
            lab.open(page, LIVE)
            page.wait_for_function(f"() => {LAST} > 5")
            before = page.evaluate(POINTS)["weights"]
            page.wait_for_function(f"() => {LAST} > {before['x'] + 5}")
            assert page.evaluate(POINTS)["weights"]["y"] != before["y"]
            page.wait_for_selector("button.faal-start:disabled")
            press_tau_right(page)
            (turned,) = wait_until(lambda: turns(run))
            assert (turned.dial, turned.new) == ("tau", 0.55)
            page.wait_for_function(f"() => {MARKS} === 1")
            stop(page, run)
        assert started.wait(30) == 0, started.stderr and started.stderr.read()
        assert [cell for cell in json.loads((lab.root / "out.ipynb").read_text())["cells"] if cell.get("outputs")]
    finally:
        started.kill()
        started.communicate()


@pytest.mark.browser
def test_a_restart_of_the_kernel_loses_nothing(lab: Lab, page: Any) -> None:
    lab.change(LIVE, "epochs=20", "epochs=500")
    with clean(page):
        lab.open(page, LIVE)
        page.click("button.faal-start")
        page.wait_for_function(f"() => {LAST} > 10")
        run = lab.run()
        process, before = read_heartbeat(run.heartbeat_file), steps(run)
        page.evaluate(in_browser.FIRE, "notebook:restart-kernel")
        page.click(".jp-Dialog button:has-text('Restart')")
        page.wait_for_function("() => window.fired === 'ok'")
        page.wait_for_function(READY)
        run_again(page)
        page.wait_for_function(f"() => {LAST} > {before[-1].step}")
        shown = page.evaluate(ALL_X)
        assert shown == list(range(1, len(shown) + 1)), "shown from its first batch on, without a gap"
        assert page.locator(".faal-view").count() == 1
        page.wait_for_function(f"() => {LAST} > {len(shown)} && {STATUS}.startsWith('training')")
        again = read_heartbeat(run.heartbeat_file)
        assert process
        assert again
        assert again["pid"] == process["pid"], "the run went on where it was"
        stop(page, lab.run())
        assert steps(run)[: len(before)] == before


PANEL = "[...window.jupyterapp.shell.widgets('main')].find(w => w.context && w.context.path === path)"
ENDED = f"""path => {{ const code = {PANEL}.content.widgets.filter(c => c.model.type === 'code');
  return code.every(c => c.model.executionCount > 0) || code.some(c => c.model.outputs.toJSON().some(o => o.output_type === 'error')); }}"""
OUTPUTS = f"path => {PANEL}.content.widgets.filter(c => c.model.type === 'code').map(c => c.model.outputs.toJSON())"
RUN_ALL = "() => { window.jupyterapp.commands.execute('notebook:run-all-cells'); }"  # its end is not waited for
SHOW = "path => { window.jupyterapp.commands.execute('docmanager:open', {path}); }"
SHOWN = "path => { const panel = window.jupyterapp.shell.currentWidget; return !!panel && !!panel.context && panel.context.path === path; }"
# how many pictures the open notebook has drawn, of how many places for one
DRAWN = """() => { const page = window.jupyterapp.shell.currentWidget.node, all = selector => page.querySelectorAll(selector).length;
  return [all('.js-plotly-plot .main-svg:first-child') + all('.faal-view canvas'), all('.js-plotly-plot') + all('.faal-panel')]; }"""
PICTURES = {"00": 0, "01": 5, "02": 5, "03": 2, "04": 8, "05": 1, "06": 2, "07": 3}


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.timeout(1800 if SCREENSHOTS else 600)
def test_every_notebook_runs_to_its_end(lab: Lab, page: Any) -> None:
    """Two at a time, each in its own tab of one page; small where a notebook can be made so."""
    notebooks = sorted((lab.root / "notebooks").glob("*.ipynb"))
    assert [path.name[:2] for path in notebooks] == list(PICTURES)
    if SCREENSHOTS:
        page.set_default_timeout(600_000)
    else:
        for path in notebooks:
            path.write_text(path.read_text().replace("smoke: bool = False", "smoke: bool = True"))
    with clean(page):
        in_browser.open_notebook(page, lab.address, f"{lab.root.name}/notebooks/{notebooks[0].name}")
        for number, path in enumerate(notebooks):
            show(page, lab, path)
            page.wait_for_function(READY)
            page.evaluate(RUN_ALL)
            if number:
                look_through(page, lab, notebooks[number - 1])
        look_through(page, lab, notebooks[-1])


def show(page: Any, lab: Lab, path: Path) -> None:
    page.evaluate(SHOW, str(path.relative_to(lab.root.parent)))
    page.wait_for_function(SHOWN, arg=str(path.relative_to(lab.root.parent)))


def look_through(page: Any, lab: Lab, path: Path) -> None:
    """Wait for its end: no error, nothing on stderr, and every picture is drawn."""
    name = str(path.relative_to(lab.root.parent))
    page.wait_for_function(ENDED, arg=name)
    said = [output for outputs in page.evaluate(OUTPUTS, name) for output in outputs]
    assert not [o for o in said if o["output_type"] == "error" or o.get("name") == "stderr"], path.name
    show(page, lab, path)
    page.wait_for_function(f"() => {{ const [drawn, places] = ({DRAWN})(); return drawn === places; }}")
    assert page.evaluate(DRAWN)[0] == PICTURES[path.name[:2]], path.name
    shoot(page, path.stem)
