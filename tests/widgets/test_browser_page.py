"""`faal-lab dashboard` in a real browser: the workbench alone as a page, behind its token.

Every wait is for a post-condition. The page must ask nothing of any other machine and log no error.
"""

import http.client
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import in_browser
import psutil
import pytest
from in_lab import LAST, SCREENSHOTS, STATUS, require_browser, start_and_see_it_move, steps, wait_until, watch

from faal_lab.runs import RunFolder
from faal_lab.runs.config import Config
from faal_lab.runs.events import DialTurned, EpochDone, RunFinished, RunStarted, StepDone


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`faal-lab dashboard` in a folder: the address it prints, and its process, ended as by Ctrl-C in a terminal."""
    words = [sys.executable, "-m", "faal_lab", "dashboard", "--no-browser", "--port", "0"]
    heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731 (a shell's background job is deaf to Ctrl-C)
    server = subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heard)
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
    for width, height in ((1024, 768), (1440, 900)) if SCREENSHOTS else ():
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_timeout(1500)
        page.screenshot(path=str(Path(SCREENSHOTS) / f"{name}-{width}.png"))


@pytest.mark.slow
@pytest.mark.browser
def test_the_page_of_the_dashboard(tmp_path: Path) -> None:
    require_browser()
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


TOLD = """() => Object.fromEntries([...document.querySelector('.faal-view').faal.panels].map(([id, p]) => [id, {
  head: p.numbers.textContent, keys: [...p.box.querySelectorAll('.faal-key')].map(k => k.textContent), places: p.places || [],
  note: (p.box.querySelector('.faal-panel-note') || {}).textContent || '', height: p.canvas.clientHeight,
  levels: p.levels}]))"""
GONE = "(document.querySelector('.faal-disconnected') || {}).textContent"


def steered(path: Path) -> None:
    """A run of three epochs in ten batches each, in which tau was turned after batch 15."""
    with RunFolder.create(path, Config(fairness="faal", epochs=3), {}).recording() as recorder:
        recorder.write(RunStarted(["ant", "bee", "cow"], 10, 3, 0.5, 0.1, 0.05))
        for n in range(1, 31):
            tau, weights = 0.5 if n < 16 else 0.7, [0.2, 0.5, 0.3] if n < 30 else [0.4, 0.4, 0.2]
            recorder.write(StepDone(n, n // 10, 1.0, tau, 0.1, 0.05, weights, tau, [4] * 3, [0.1, 0.3, 0.2], [3, 1, 2], None))
            if n == 15:
                recorder.write(DialTurned(15, "tau", 0.5, 0.6))
                recorder.write(DialTurned(15, "tau", 0.6, 0.7))
            if n % 10 == 0:
                recorder.write(EpochDone(n // 10, n, [50] * 3, [45, 40, 42], [40, 20 + n // 2, 35]))
        recorder.write(RunFinished(30, "done"))


def shoot_looks(page: Any, name: str) -> None:
    for width, height in ((390, 2600), (1440, 1500)) if SCREENSHOTS else ():
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_timeout(1200)
        page.screenshot(path=str(Path(SCREENSHOTS) / f"{name}-{width}.png"))


@pytest.mark.slow
@pytest.mark.browser
def test_the_page_states_what_holds(tmp_path: Path) -> None:
    """Legends and headers of the panels, a run without a method, and the seconds since the page was cut off."""
    require_browser()
    steered(tmp_path / "runs" / "told")
    with in_browser.chromium() as page, served(tmp_path) as (address, server):
        watch(page, address.split("?")[0])
        open_page(page, address)
        page.set_viewport_size({"width": 1440, "height": 1500})  # only panels in view are drawn
        page.select_option(".faal-opened select", "runs/told")
        page.wait_for_function(f"() => {LAST} === 30")
        page.wait_for_function("() => document.querySelector('.faal-view').faal.panels.get('epochs').places")
        told = page.evaluate(TOLD)
        assert told["epochs"]["keys"] == ["clean, average", "clean, worst class", "PGD, average", "PGD, worst class"]
        assert told["epochs"]["places"] == [0, 1, 2, 3]
        assert told["epochs"]["head"].startswith("PGD, worst class: now 70,")
        assert told["divergence"]["keys"] == ["spent", "tau"]
        assert told["accuracy"]["head"].startswith("lowest bee: now 25,")
        assert told["margin"]["head"].startswith("highest bee: now 0.3,")
        assert told["weights"]["head"].startswith("heaviest bee: now 0.49,"), "a mean over ten batches"
        assert all(len(panel["places"]) > 1 for name, panel in told.items() if name != "classes")
        assert all(len(panel["levels"]) > 1 for name, panel in told.items() if name != "map")
        marks = page.evaluate("() => document.querySelector('.faal-view').faal.marks.map(m => m.text)")
        assert marks == ["tau 0.7"]
        page.wait_for_function(f"() => {STATUS}.includes('Validation under PGD-10, 150 images')")
        shoot_looks(page, "told")
        page.fill(".faal-epochs input", "500")
        page.keyboard.press("Enter")
        page.click("button.faal-start")  # without a fairness method, as the form begins: class weights stay
        page.wait_for_function(f"() => {LAST} !== 30 && {LAST} > 3 && document.querySelector('.faal-panel-note')")
        page.wait_for_selector(".faal-tau .noUi-target[disabled]")
        told = page.evaluate(TOLD)
        assert told["divergence"]["note"].startswith("No fairness method")
        assert told["divergence"]["height"] == 0
        page.wait_for_function(f"() => ({TOLD})().weights.head === 'all classes: now 0.1'")
        assert "heaviest" not in page.evaluate(f"() => {STATUS}")
        shoot_looks(page, "plain")
        (voila,) = [p for p in psutil.Process(server.pid).children() if "voila" in " ".join(p.cmdline())]
        voila.suspend()
        try:
            page.wait_for_function(f"() => /^disconnected since [0-9]+ s$/.test({GONE})")
            assert page.evaluate("() => getComputedStyle(document.querySelector('.faal-status')).opacity") == "0.4"
            shoot_looks(page, "cut-off")
        finally:
            voila.resume()
        page.wait_for_function(f"() => {GONE} === ''")
        page.click("button.faal-stop")
        page.wait_for_function(f"() => {STATUS}.startsWith('stopped')")
        page.wait_for_timeout(8000)
        assert page.evaluate(f"() => {GONE}") == "", "nothing is to be heard of a run that ended"
        assert not page.errors
