"""Start JupyterLab with tested settings, or the workbench alone as a page.

Voila serves the page on 127.0.0.1, behind a token. Voila has no token by default; with one, page, kernels and websockets
need it. Scripts and style sheets of installed packages stay open, as in JupyterLab: the page that asks for the token needs
some of them.
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
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from faal_lab.sweeps.shipped import HOME, MAP, copy_to, in_checkout

_SETTINGS = {
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},  # otherwise outputs off the screen are removed
}


def lab_command(port: int, browser: bool, start: str) -> list[str]:
    """Return the JupyterLab command: for this machine only, with Jupyter's random token."""
    words = [
        sys.executable, "-m", "jupyterlab", "--ip=127.0.0.1", f"--port={port}", f"--LabApp.default_url=/lab/tree/{start}",
        # the server kept all messages for a closed tab in memory, gigabytes an hour: do not buffer
        "--MappingKernelManager.buffer_offline_messages=False",
    ]  # fmt: skip
    if not browser:
        words.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        words.append("--allow-root")
    return words


def open_lab(port: int = 8888, browser: bool = True, start: str = MAP) -> int:
    """Run JupyterLab in the checkout until it ends, or until Ctrl-C or SIGTERM; return its exit code.

    Elsewhere it runs in the current folder; notebooks that are missing there are copied first.
    """
    root = HOME if in_checkout() else Path.cwd()
    written = [] if in_checkout() else copy_to(root)
    if written:
        print(f"Copied the notebooks and {len(written)} files in all to {root}. Your changes there are kept.", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        overrides = Path(folder) / "labconfig" / "default_setting_overrides.json"
        overrides.parent.mkdir()
        overrides.write_text(json.dumps(_SETTINGS), encoding="utf-8")
        path = os.pathsep.join(filter(None, [folder, os.environ.get("JUPYTER_CONFIG_PATH", "")]))
        environment = {**os.environ, "JUPYTER_CONFIG_PATH": path}
        return _served(lab_command(port, browser, start), environment, root)


_TEMPLATES = Path(__file__).parent / "jupyter"
_TRIES = 50  # ports to try


def page_settings(folder: Path, port: int, token: str, dark: bool) -> dict[str, Any]:
    """Return the only settings that Voila reads. A user's own could open the page to others."""
    return {
        "Voila": {
            "ip": "127.0.0.1", "port": port, "port_retries": 0, "token": token, "open_browser": False, "log_level": 40,
            "connection_dir_root": str(folder),
        },
        "PasswordIdentityProvider": {"allow_password_change": False},  # the token page offers nothing else
        "VoilaConfiguration": {
            "template": "workbench", "theme": "dark" if dark else "light", "file_allowlist": [], "allow_template_override": "NO",
        },
        # Folders typed on the page are relative to the command's folder. A page that vanished left a kernel: end idle ones. And
        # the server kept all messages for a closed tab in memory: do not buffer.
        "MappingKernelManager": {
            "root_dir": str(Path.cwd()), "cull_idle_timeout": 600, "cull_interval": 60, "buffer_offline_messages": False,
        },
    }  # fmt: skip


def write_page(folder: Path, runs: Path, settings: dict[str, Any]) -> list[str]:
    """Write settings and notebook to `folder`, and return the command that serves them."""
    (folder / "voila.json").write_text(json.dumps(settings), encoding="utf-8")
    recorded = HOME / "notebooks" / "recorded"
    recorded = recorded.relative_to(Path.cwd()) if recorded.is_relative_to(Path.cwd()) else recorded  # the kernel runs there
    code = f"from faal_lab.widgets import Workbench\nWorkbench({str(runs)!r}, {str(recorded)!r})"
    cell = {"cell_type": "code", "id": "workbench", "execution_count": None, "metadata": {}, "outputs": [], "source": code}
    kernel = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    notebook = folder / "faal_lab.ipynb"  # the page's title is the file's name
    notebook.write_text(json.dumps({"cells": [cell], "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}), encoding="utf-8")
    return [sys.executable, "-m", "voila", str(notebook), f"--Voila.config_file_paths={folder}"]


def open_page(runs: Path, port: int = 8866, browser: bool = True, dark: bool = False) -> int:
    """Serve the page until Ctrl-C or SIGTERM, and return the server's exit code.

    Both end server and kernels, but no run. Raises ImportError if Voila is missing, OSError if no port is free.
    """
    if importlib.util.find_spec("voila") is None:
        raise ImportError("faal-lab dashboard is served by Voila, which is missing: pip install 'faal-lab[dashboard]'")
    port, token = free_port(port), secrets.token_hex(24)
    path = os.pathsep.join(filter(None, [str(_TEMPLATES), os.environ.get("JUPYTER_PATH", "")]))
    with tempfile.TemporaryDirectory(prefix="faal-lab-") as folder:
        words = write_page(Path(folder), runs, page_settings(Path(folder), port, token, dark))
        return _served(words, {**os.environ, "JUPYTER_PATH": path}, None, lambda server: _say_where(server, port, token, browser))


_Begun = Callable[[subprocess.Popen[bytes]], None]


def _served(words: list[str], environment: dict[str, str], folder: Path | None, begun: _Begun | None = None) -> int:
    """Run a server until it ends, or until Ctrl-C, SIGTERM or SIGHUP end it; return its exit code, or 0. It never outlives us."""
    ends = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, signal.default_int_handler) for number in ends}
    try:
        server = subprocess.Popen(words, cwd=folder, env=environment)
        try:
            if begun is not None:
                begun(server)
            return server.wait()
        finally:
            _end(server)
    except KeyboardInterrupt:
        return 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def free_port(first: int) -> int:
    """Return the first free port from `first` (0: any). Raises OSError if 50 ports in a row are taken."""
    for port in range(first, first + _TRIES):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)) as found:
            return found.getsockname()[1]
    raise OSError(f"None of the ports {first} to {first + _TRIES - 1} is free. Name another: faal-lab dashboard --port 9000")


def _say_where(server: subprocess.Popen[bytes], port: int, token: str, browser: bool) -> None:
    """Print the address as soon as the server answers there."""
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
    """End the server, which ends its kernels. After Ctrl-C in a terminal it is already ending."""
    if server.poll() is None:
        server.terminate()
    try:
        server.wait(20)
    except BaseException as error:  # it hangs, or whoever waits is asked to end again
        server.kill()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
