"""JupyterLab with the settings this project was tested with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from faal_lab.demo import ROOT

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
