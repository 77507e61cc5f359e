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
