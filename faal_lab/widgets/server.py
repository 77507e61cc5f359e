"""Start JupyterLab with tested settings, or the workbench alone as a page (Voila, on 127.0.0.1, behind a token).

Voila asks for no token by itself. With one, the page, the kernels and their websockets are for those who have it. Scripts and
style sheets of installed packages are for everybody, as in JupyterLab: the page that asks for the token needs some of them.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import Any

from faal_lab.sweeps.plan import NOTEBOOKS

ROOT = NOTEBOOKS.parent  # the checkout

_SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},  # outputs off the screen stay alive
}


def lab_command(port: int, browser: bool, start: str) -> list[str]:
    """The JupyterLab command line: this machine only, with Jupyter's own random token."""
    words = [
        sys.executable, "-m", "jupyterlab", "--ip=127.0.0.1", f"--port={port}", f"--LabApp.default_url=/lab/tree/{start}",
        # without it the server keeps every message for a closed tab in memory, gigabytes an hour
        "--MappingKernelManager.buffer_offline_messages=False",
    ]  # fmt: skip
    if not browser:
        words.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        words.append("--allow-root")
    return words


def open_lab(port: int = 8888, browser: bool = True, start: str = "notebooks/00_map.ipynb") -> int:
    """Run JupyterLab in the checkout until it is ended; returns its exit code."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = Path(folder) / "labconfig" / "default_setting_overrides.json"
        overrides.parent.mkdir()
        overrides.write_text(json.dumps(_SETTINGS), encoding="utf-8")
        path = os.pathsep.join(filter(None, [folder, os.environ.get("JUPYTER_CONFIG_PATH", "")]))
        environment = {**os.environ, "JUPYTER_CONFIG_PATH": path}
        try:
            return subprocess.call(lab_command(port, browser, start), cwd=ROOT, env=environment)
        except KeyboardInterrupt:
            return 0


_TEMPLATES = Path(__file__).parent / "jupyter"
_TRIES = 50  # ports


def page_settings(folder: Path, port: int, token: str, dark: bool) -> dict[str, Any]:
    """What Voila reads in `folder`, and nowhere else: a setting of the user's could open the page to others."""
    return {
        "Voila": {
            "ip": "127.0.0.1", "port": port, "port_retries": 0, "token": token, "open_browser": False, "log_level": 40,
            "connection_dir_root": str(folder),
        },
        "PasswordIdentityProvider": {"allow_password_change": False},  # the page that asks for the token offers no more
        "VoilaConfiguration": {
            "template": "workbench", "theme": "dark" if dark else "light", "file_allowlist": [], "allow_template_override": "NO",
        },
        # the kernel is where the command was given, so that folders typed on the page are found; a page that vanished without
        # a word leaves one behind; and without the last setting the server keeps every message for a closed tab in memory
        "MappingKernelManager": {
            "root_dir": str(Path.cwd()), "cull_idle_timeout": 600, "cull_interval": 60, "buffer_offline_messages": False,
        },
    }  # fmt: skip


def write_page(folder: Path, runs: Path, settings: dict[str, Any]) -> list[str]:
    """Put settings and notebook in a private folder; returns the command that serves them."""
    (folder / "voila.json").write_text(json.dumps(settings), encoding="utf-8")
    recorded = ROOT / "notebooks" / "recorded"
    recorded = recorded.relative_to(Path.cwd()) if recorded.is_relative_to(Path.cwd()) else recorded  # as it is read there
    code = f"from faal_lab.widgets import Workbench\nWorkbench({str(runs)!r}, {str(recorded)!r})"
    cell = {"cell_type": "code", "id": "workbench", "execution_count": None, "metadata": {}, "outputs": [], "source": code}
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    notebook = folder / "faal_lab.ipynb"  # its name is the page's title
    notebook.write_text(json.dumps({"cells": [cell], "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}), encoding="utf-8")
    return [sys.executable, "-m", "voila", str(notebook), f"--Voila.config_file_paths={folder}"]


def open_page(runs: Path, port: int = 8866, browser: bool = True, dark: bool = False) -> int:
    """Serve the page until Ctrl-C or SIGTERM, which end server and kernels but no run; returns the server's exit code.

    Raises ImportError where Voila is missing, OSError where no port is free.
    """
    if importlib.util.find_spec("voila") is None:
        raise ImportError("faal-lab dashboard is served by Voila, which is missing: pip install 'faal-lab[dashboard]'")
    port, token = free_port(port), secrets.token_hex(24)
    path = os.pathsep.join(filter(None, [str(_TEMPLATES), os.environ.get("JUPYTER_PATH", "")]))
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with tempfile.TemporaryDirectory(prefix="faal-lab-") as folder:
            words = write_page(Path(folder), runs, page_settings(Path(folder), port, token, dark))
            server = subprocess.Popen(words, env={**os.environ, "JUPYTER_PATH": path})
            try:
                _say_where(server, port, token, browser)
                return server.wait()
            finally:
                _end(server)
    except KeyboardInterrupt:
        return 0
    finally:
        signal.signal(signal.SIGTERM, before)


def free_port(first: int) -> int:
    """The first free port from this one on (0: any); raises OSError where there is none."""
    for port in range(first, first + _TRIES):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)) as found:
            return found.getsockname()[1]
    raise OSError(f"None of the ports {first} to {first + _TRIES - 1} is free. Name another: faal-lab dashboard --port 9000")


def _say_where(server: subprocess.Popen[bytes], port: int, token: str, browser: bool) -> None:
    """Print the address as soon as somebody answers there."""
    while server.poll() is None:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        time.sleep(0.1)
    else:
        return
    address = f"http://127.0.0.1:{port}/?token={token}"
    print(f"The workbench: {address}\nCtrl-C ends the page. Runs go on, and are found again at the next start.", flush=True)
    if browser:
        webbrowser.open(address)


def _end(server: subprocess.Popen[bytes]) -> None:
    """End the server, which ends its kernels; Ctrl-C in a terminal has told it already."""
    if server.poll() is None:
        server.terminate()
    try:
        server.wait(20)
    except subprocess.TimeoutExpired:
        server.kill()
