"""The live notebook in a real browser: JupyterLab in headless Chromium, driven as a person would.

Skipped where Chromium or Playwright is missing; FAAL_LAB_REQUIRE_BROWSER=1 turns the skip into a failure.
Every wait is for a post-condition. The page must ask nothing of any other machine and log no error.
"""

import http.client
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import in_browser
import numpy as np
import psutil
import pytest
from in_browser import CHROMIUM, FIRE, READY, open_and_run, write_notebook

from faal_lab.ambiguity import KLBall
from faal_lab.ambiguity.multiplier import largest_multiplier
from faal_lab.config import RunConfig
from faal_lab.events import DialTurned, RunFinished, RunStarted, StepDone
from faal_lab.runs import RunFolder

ROOT = Path(__file__).parent.parent
# of every panel that was drawn: the last x, and the y of each line there
POINTS = """() => { const view = (document.querySelector('.faal-view') || {}).faal, found = {};
  for (const [id, p] of view ? view.panels : []) if (p.data && p.data.x.length) { const last = p.data.x.length - 1;
    found[id] = {x: p.data.x[last], y: Array.from({length: p.data.rows}, (_, r) => p.at(r, last))}; }
  return found; }"""
LAST = f"((({POINTS})().weights || {{x: -1}}).x)"
STATUS = "((document.querySelector('.faal-status') || {}).innerText || '')"


@pytest.fixture(scope="session", autouse=True)
def chromium() -> None:
    try:
        import playwright  # noqa: F401
    except ImportError:
        _missing("Playwright is not installed (pip install -e '.[dev]')")
    if not CHROMIUM:
        _missing("Chromium is not installed (on Debian: apt-get install chromium)")


def _missing(reason: str) -> None:
    if os.environ.get("FAAL_LAB_REQUIRE_BROWSER") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """JupyterLab as `faal-lab lab` starts it, in a copy of the notebooks; (address, root folder)."""
    root = tmp_path / "checkout"
    shutil.copytree(ROOT / "notebooks", root / "notebooks")
    with in_browser.jupyter(root, tmp_path, "notebooks/00_map.ipynb") as (address, _):
        yield address, root


@pytest.fixture
def page(lab: tuple[str, Path]) -> Iterator[Any]:
    """A page that remembers what it asked for outside and what it logged as an error."""
    with in_browser.chromium() as page:
        watch(page, lab[0])
        yield page


def watch(page: Any, address: str) -> None:
    page.outside, page.errors = [], []
    page.on("request", lambda r: page.outside.append(r.url) if not r.url.startswith((address, "data:", "blob:")) else None)
    page.on("pageerror", lambda e: page.errors.append(str(e)))
    page.on("console", lambda m: page.errors.append(m.text) if m.type == "error" else None)


def shoot(page: Any, name: str) -> None:
    """Keep pictures to look at where FAAL_LAB_SCREENSHOTS names a folder: the whole notebook, wide and light, narrow and dark."""
    folder = os.environ.get("FAAL_LAB_SCREENSHOTS")
    if not folder:
        return
    for width, theme in ((1440, "Light"), (1024, "Dark")):
        page.evaluate(f"() => window.jupyterapp.commands.execute('apputils:change-theme', {{theme: 'JupyterLab {theme}'}})")
        page.set_viewport_size({"width": width, "height": 1400})
        page.wait_for_timeout(1500)
        tall = page.evaluate("() => Math.max(...[...document.querySelectorAll('.jp-NotebookPanel *')].map(e => e.scrollHeight))")
        page.set_viewport_size({"width": width, "height": min(9000, tall + 150)})
        page.evaluate("() => document.querySelectorAll('.jp-NotebookPanel *').forEach(e => { e.scrollTop = 0; })")
        page.wait_for_timeout(1500)
        page.screenshot(path=str(Path(folder) / f"{name}-{width}.png"))
    page.evaluate("() => window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Light'})")
    page.set_viewport_size({"width": 1440, "height": 1400})
    page.wait_for_timeout(1000)


def wait_until(condition: Any, seconds: float = 30) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("timed out")


def steps(run: RunFolder) -> list[StepDone]:
    return [e for e in run.events() if isinstance(e, StepDone)]


def turns(run: RunFolder) -> list[DialTurned]:
    return [e for e in run.events() if isinstance(e, DialTurned)]


def press_tau_right(page: Any) -> None:
    page.focus(".faal-tau .noUi-handle")
    page.keyboard.press("ArrowRight")


def start_and_see_it_move(page: Any) -> None:
    page.click("button.faal-start")
    page.wait_for_function(f"() => {LAST} > 3")
    before = page.evaluate(POINTS)
    page.wait_for_function(f"() => {LAST} > {before['weights']['x'] + 20}")
    after = page.evaluate(POINTS)
    assert before["weights"]["y"] != after["weights"]["y"], "class weights move"
    assert before["accuracy"]["y"] != after["accuracy"]["y"], "per-class robust accuracy moves"
    assert sum(after["weights"]["y"]) == pytest.approx(1, abs=1e-4)


def pause_turn_and_resume(page: Any, run: RunFolder) -> None:
    page.click("button.faal-pause")
    page.wait_for_selector("button.faal-pause:has-text('Resume')")
    stood = wait_until(lambda: run.status() == "paused" and steps(run)[-1].step)
    press_tau_right(page)
    wait_until(lambda: list(run.control.glob("*.json"))[1:])
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
    page.wait_for_function("() => document.querySelector('.faal-view').faal.marks.length === 2")


@pytest.mark.browser
def test_live_notebook(lab: tuple[str, Path], page: Any) -> None:
    address, root = lab
    open_and_run(page, address, "notebooks/04_train_live.ipynb")
    start_and_see_it_move(page)
    (path,) = [p.parent for p in (root / "runs").glob("*/metrics.jsonl")]
    run = RunFolder(path)
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


@pytest.mark.browser
def test_the_sliders_of_the_explanation_move_the_picture(lab: tuple[str, Path], page: Any) -> None:
    open_and_run(page, lab[0], "notebooks/02_ambiguity_sets.ipynb")
    shoot(page, "ambiguity")

    def press_right(selector: str, times: int) -> None:
        page.locator(f"{selector} .noUi-handle").first.focus()
        for _ in range(times):
            page.keyboard.press("ArrowRight")

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
    near = f"Math.abs(parseFloat(document.querySelector('.faal-said').innerText.split('c* ')[1]) / {most} - 1) < 0.03"
    page.wait_for_function(f"() => {near}")
    page.wait_for_function(f"() => ({SIMPLEX})().outline !== '{turned['outline']}'")
    grown = page.evaluate(SIMPLEX)
    assert grown["tip"] == turned["tip"], "the radius grows the set, not the arrow"
    assert max(grown["weights"]) > max(turned["weights"])

    page.select_option(".faal-set select", "cvar")
    page.wait_for_function("() => /^cvar/.test(document.querySelector('.faal-said').innerText)")
    page.wait_for_function(f"() => {near}")  # as far as before, but for the slider's steps
    page.wait_for_function(f"() => ({SIMPLEX})().outline !== '{grown['outline']}'")
    assert sum(page.evaluate(SIMPLEX)["weights"]) == pytest.approx(1, abs=1e-4)
    assert not page.outside
    assert not page.errors


@pytest.mark.browser
def test_a_hundred_classes_of_which_a_batch_has_but_some(lab: tuple[str, Path], page: Any) -> None:
    """Absent classes are gaps in the heatmaps; one of them must not keep the panels from being drawn."""
    names, numbers = [f"class {c}" for c in range(100)], np.random.default_rng(0)
    run = RunFolder.create(lab[1] / "runs" / "many", RunConfig(fairness="faal"), {})
    with run.recording() as recorder:
        recorder.write(RunStarted(names, 30, 1, 0.5, 0.1, 0.05))
        for n in range(1, 31):
            count = [int(c % 30 < n) for c in range(100)]
            margin = [float(m) if c else None for m, c in zip(numbers.normal(size=100), count, strict=True)]
            weights = numbers.dirichlet(np.ones(100)).tolist()
            recorder.write(StepDone(n, 0, 1.0, 0.5, 0.1, 0.05, weights, 0.5, count, margin, count, count))
        recorder.write(RunFinished(30, "done"))
    write_notebook(lab[1] / "many.ipynb", f"from faal_lab.widgets import Dashboard\nDashboard({str(run.path)!r})")
    open_and_run(page, lab[0], "many.ipynb")
    page.wait_for_function(f"() => {LAST} === 30")
    page.wait_for_function("() => { const view = document.querySelector('.faal-view').faal; return view.drawn === view.number; }")
    assert len(page.evaluate(POINTS)["weights"]["y"]) == 100
    assert not page.errors


@pytest.mark.browser
def test_a_comparison_survives_a_reload(lab: tuple[str, Path], page: Any, base: Path) -> None:
    shutil.copytree(base, lab[1] / "runs" / "one")
    shutil.copytree(base, lab[1] / "runs" / "two")
    write_notebook(lab[1] / "compare.ipynb", "from faal_lab.widgets import Comparison\nComparison(chosen=['runs/one'])")
    open_and_run(page, lab[0], "compare.ipynb")
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
def test_the_slider_over_attack_steps_moves_every_picture(lab: tuple[str, Path], page: Any) -> None:
    open_and_run(page, lab[0], "notebooks/03_attack_microscope.ipynb")
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


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`faal-lab dashboard` in a folder: the address it prints, and its process, ended as by Ctrl-C in a terminal."""
    words = [sys.executable, "-m", "faal_lab", "dashboard", "--no-browser", "--port", "0"]
    server = subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert server.stdout is not None
        yield server.stdout.readline().split()[-1], server
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGINT)
        server.communicate(timeout=60)
    assert server.returncode == 0


def status_of(address: str, path: str, method: str = "GET", **headers: str) -> int:
    """What a request is answered with, without following a redirection."""
    with closing(http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)) as there:
        there.request(method, path, headers=headers)
        return there.getresponse().status


def nobody_enters_without_the_token(address: str, kernel: str) -> None:
    """The page, a kernel and its websocket; with the token the same requests are let in."""
    token = {"Authorization": f"token {urlsplit(address).query.removeprefix('token=')}"}
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "x" * 22 + "==",
        "Sec-WebSocket-Version": "13",
    }
    assert status_of(address, "/") == 302, "to the page that asks for the token"
    assert status_of(address, "/?token=wrong") == 302
    assert status_of(address, "/login") == 200
    for path, headers, let_in in ((f"/api/kernels/{kernel}", {}, 200), (f"/api/kernels/{kernel}/channels", upgrade, 101)):
        assert status_of(address, path, **headers) == 403
        assert status_of(address, path, **headers, Authorization="token wrong") == 403
        assert status_of(address, path, **headers, **token) == let_in
    assert status_of(address, f"/api/kernels/{kernel}", "DELETE") == 403
    assert status_of(address, f"/voila/api/shutdown/{kernel}", "POST") == 403
    assert {status_of(address, f"/voila/files/{name}", **token) for name in ("voila.json", "faal_lab.ipynb")} == {403}


def open_page(page: Any, address: str) -> None:
    page.goto(address)
    page.wait_for_selector("button.faal-start")
    page.wait_for_function("() => getComputedStyle(document.querySelector('#rendered_cells')).display !== 'none'")


def shoot_page(page: Any, name: str) -> None:
    folder = os.environ.get("FAAL_LAB_SCREENSHOTS")
    for width, height in ((1024, 768), (1440, 900)) if folder else ():
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_timeout(1500)
        page.screenshot(path=str(Path(folder) / f"{name}-{width}.png"))


@pytest.mark.browser
def test_the_page_of_the_dashboard(tmp_path: Path) -> None:
    with in_browser.chromium() as page, served(tmp_path) as (address, server):
        watch(page, address.split("?")[0])
        open_page(page, address)
        kernel = page.evaluate("() => JSON.parse(document.querySelector('#jupyter-config-data').textContent).kernelId")
        nobody_enters_without_the_token(address, kernel)
        shoot_page(page, "page")
        page.fill(".faal-epochs input", "500")
        page.keyboard.press("Enter")
        page.select_option(".faal-fairness select", "faal")
        start_and_see_it_move(page)
        page.click("button.faal-stop")
        page.wait_for_function(f"() => {STATUS}.startsWith('stopped')")
        shoot_page(page, "page-stopped")
        page.wait_for_selector("button.faal-start:not([disabled])")
        page.click("button.faal-start")
        page.wait_for_function(f"() => {STATUS}.startsWith('training')")
        going = wait_until(
            lambda: [p.parent for p in tmp_path.glob("runs/*/heartbeat.json") if RunFolder(p.parent).status() == "training"]
        )
        processes = psutil.Process(server.pid).children(recursive=True)
        assert not page.errors
    run = RunFolder(going[0])
    (left,) = wait_until(lambda: len(alive := [p for p in processes if p.is_running()]) == 1 and alive)
    assert "run" in left.cmdline(), "server and kernel ended, the run did not"
    with in_browser.chromium() as again, served(tmp_path) as (address, _):
        watch(again, address.split("?")[0])
        open_page(again, address)
        again.wait_for_function(f"() => {LAST} > {steps(run)[-1].step + 5}")
        again.click("button.faal-stop")
        again.wait_for_function(f"() => {STATUS}.startsWith('stopped')")
        assert not again.errors + again.outside + page.outside
