"""JupyterLab and a headless Chromium on this machine, for benchmarks and browser tests: started, driven, ended."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from faal_lab.widgets.server import _SETTINGS, lab_command

CHROMIUM = os.environ.get("FAAL_LAB_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or ""
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync"]
TOKEN = "test-token"

# JupyterLab shows "idle" before a kernel exists; this is true only when cells can really be run.
READY = """() => { const app = window.jupyterapp, panel = app && app.shell.currentWidget;
  if (!panel || !panel.context || !panel.sessionContext) return false;
  const session = panel.sessionContext, kernel = session.session && session.session.kernel;
  return panel.context.isReady && session.isReady && !session.hasNoKernel && !!kernel && kernel.connectionStatus === 'connected'
    && kernel.status === 'idle' && panel.content.widgets.length > 0 && !document.querySelector('.jp-Dialog'); }"""
FIRE = """command => { window.fired = 'running';
  window.jupyterapp.commands.execute(command).then(() => window.fired = 'ok', error => window.fired = 'error ' + error); }"""
ALL_RUN = """() => window.jupyterapp.shell.currentWidget.content.widgets.every(
  cell => cell.model.type !== 'code' || cell.model.executionCount > 0)"""


@contextlib.contextmanager
def jupyter(root: Path, private: Path, start: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """JupyterLab as `faal-lab lab` starts it, in the folder `root`, its own settings in `private`: its address and process."""
    settings = private / "config" / "labconfig" / "default_setting_overrides.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps(_SETTINGS))
    folders = {
        "JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
    }  # fmt: skip
    environment = {**os.environ, **{k: str(private / v) for k, v in folders.items()}}
    log = private / "lab.log"
    for _ in range(5):  # a kernel of another server may take the port before this one does
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        words = lab_command(port, browser=False, start=start)
        words += [f"--IdentityProvider.token={TOKEN}", "--ServerApp.port_retries=0", "--expose-app-in-browser"]
        with open(log, "wb") as stream:
            server = subprocess.Popen(words, cwd=root, env=environment, stdout=stream, stderr=stream)
        address = f"http://127.0.0.1:{port}"
        try:
            if _answers(address, server):
                yield address, server
                return
        finally:
            server.terminate()
            server.wait(60)
    raise AssertionError(log.read_text()[-2000:])


def _answers(address: str, server: subprocess.Popen[bytes]) -> bool:
    """Wait until JupyterLab answers; return False where it ended, or something else answers there."""
    for _ in range(600):
        if server.poll() is not None:
            return False
        try:
            urllib.request.urlopen(f"{address}/api?token={TOKEN}", timeout=2).close()
            return True
        except http.client.HTTPException:
            return False
        except OSError:
            time.sleep(0.1)
    return False


@contextlib.contextmanager
def browser(height: int = 900) -> Iterator[Any]:
    """A headless Chromium, as a context whose pages share what was loaded once."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        context = opened.new_context(viewport={"width": 1440, "height": height})
        context.set_default_timeout(120_000)
        yield context
        opened.close()


@contextlib.contextmanager
def chromium(height: int = 900) -> Iterator[Any]:
    """A page of a headless Chromium."""
    with browser(height) as context:
        yield context.new_page()


def end_kernels(address: str) -> None:
    """End every kernel of the JupyterLab at `address`."""

    def ask(method: str, path: str = "") -> Any:
        request = urllib.request.Request(f"{address}/api/kernels{path}?token={TOKEN}", method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or b"[]")

    for kernel in ask("GET"):
        ask("DELETE", f"/{kernel['id']}")


def open_notebook(page: Any, address: str, notebook: str) -> None:
    """Open a notebook, and wait until its cells can be run."""
    page.goto(f"{address}/lab/workspaces/test/tree/{notebook}?reset&token={TOKEN}")
    page.wait_for_selector(".jp-NotebookPanel .jp-Notebook")
    page.wait_for_function(READY)


def open_and_run(page: Any, address: str, notebook: str) -> None:
    """Open a notebook, run all its cells, and wait until a picture is there."""
    open_notebook(page, address, notebook)
    page.evaluate(FIRE, "notebook:run-all-cells")
    page.wait_for_function(ALL_RUN)
    page.wait_for_selector(".js-plotly-plot .main-svg, .faal-view canvas", state="attached")  # panels out of view are hidden


def write_notebook(file: Path, *cells: str) -> Path:
    """A notebook of these code cells."""
    code: dict[str, Any] = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": []}
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    made = [{**code, "id": f"cell-{number}", "source": text} for number, text in enumerate(cells)]
    file.write_text(json.dumps({"cells": made, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))
    return file
