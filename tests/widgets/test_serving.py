"""The process that serves JupyterLab or the page: whatever ends it ends the server, too."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

CODE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
from faal_lab.widgets import server
server.lab_command = lambda *_: [sys.executable, "-c", {child!r}]
sys.exit(server.open_lab(browser=False))
"""
WAITS = "import os, pathlib, time; pathlib.Path({file!r}).write_text(str(os.getpid())); {before}; time.sleep(60)"


def started(file: Path, before: str = "pass") -> subprocess.Popen[bytes]:
    """Begin to serve; return once the server is there."""
    child = WAITS.format(file=str(file), before=before)
    serving = subprocess.Popen([sys.executable, "-c", CODE.format(child=child)], start_new_session=True)
    until = time.monotonic() + 60
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < until
        time.sleep(0.05)
    return serving


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGTERM)])
def test_no_server_is_left_behind(tmp_path: Path, number: int) -> None:
    serving = started(tmp_path / "pid")
    server = psutil.Process(int((tmp_path / "pid").read_text()))
    serving.send_signal(number)  # to the command alone, as a service manager does
    assert serving.wait(30) == 0
    assert not server.is_running()


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_second_signal_ends_a_server_that_hangs(tmp_path: Path) -> None:
    serving = started(tmp_path / "pid", "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    server = psutil.Process(int((tmp_path / "pid").read_text()))
    time.sleep(0.3)  # until it ignores the signal
    serving.send_signal(signal.SIGTERM)
    time.sleep(1)
    assert serving.poll() is None
    serving.send_signal(signal.SIGTERM)
    assert serving.wait(30) == 0
    assert not psutil.wait_procs([server], 10)[1]


def test_the_exit_code_is_the_servers(tmp_path: Path) -> None:
    serving = started(tmp_path / "pid", "raise SystemExit(3)")
    assert serving.wait(30) == 3
