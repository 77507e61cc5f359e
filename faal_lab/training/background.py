"""Run a training beside the notebook: in a child process (the default) or in a thread.

A child process keeps the kernel quick and survives its restart. A thread is for models defined in the notebook.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from faal_lab.errors import ConfigError, FaalLabError, RunFolderError
from faal_lab.methods.recipe import Recipe
from faal_lab.runs import RunFolder
from faal_lab.runs.config import Config, check_dial
from faal_lab.runs.events import Command
from faal_lab.runs.heartbeat import is_alive, read_heartbeat


class RunError(FaalLabError, RuntimeError):
    """A run that ended with an error; the message is the end of its output."""


class LiveRun:
    """A run in the background, while the caller does something else.

    Commands travel through the run folder alone.
    """

    def __init__(self, path: str | Path, process: subprocess.Popen[bytes] | None, thread: threading.Thread | None) -> None:
        self.folder = RunFolder(path)
        self._process, self._thread = process, thread
        self._error: list[BaseException] = []

    @staticmethod
    def start(config: Config, out: str | Path, *, resume: bool = False) -> LiveRun:
        """Start a run in a child process, which continues if this process ends.

        Its output goes to log.txt in the folder. Raises RunFolderError if `out` already holds a run and `resume` is False,
        and ConfigError if the run to resume has other settings.
        """
        path = Path(out)
        if not resume and (path / "config.json").exists():
            raise RunFolderError(f"{path} already holds a run. Choose another folder, or resume it.")
        if resume and RunFolder.open(path).config() != config:
            raise ConfigError(f"{path} was made with other settings; resume it with those.")
        path.mkdir(parents=True, exist_ok=True)
        words = ["run", "--resume", str(path)] if resume else ["run", "--out", str(path), "--config", "-"]
        with open(path / "log.txt", "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "faal_lab", *words, "--quiet"],
                stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, start_new_session=os.name == "posix",
            )  # fmt: skip
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # a child that ended at once gives its error in the log
            process.stdin.write(json.dumps(config.to_mapping()).encode())
            process.stdin.close()
        return LiveRun(path, process, None)

    @staticmethod
    def in_thread(
        config: Config, out: str | Path, *, model: nn.Module | None = None, recipe: Recipe | None = None,
        parts: Mapping[str, Any] | None = None, resume: bool = False,
    ) -> LiveRun:  # fmt: skip
        """Start a run in a thread, for a model or parts of a method that exist in this process only."""
        from faal_lab.training.run import run

        def work() -> None:
            try:
                for _ in run(config, out, resume=resume, model=model, recipe=recipe, parts=parts):
                    pass
            except BaseException as error:
                live._error.append(error)

        Path(out).mkdir(parents=True, exist_ok=True)  # a follower would take a missing folder for deleted
        thread = threading.Thread(target=work, name="faal-run", daemon=True)
        live = LiveRun(out, None, thread)
        thread.start()
        return live

    @staticmethod
    def attach(path: str | Path) -> LiveRun:
        """Attach to a run that was started elsewhere, to steer it.

        Another kernel, papermill, or this kernel before its restart may have started it. Raises RunFolderError if there is
        no run.
        """
        return LiveRun(RunFolder.open(path).path, None, None)

    def running(self) -> bool:
        """Return whether the process or thread is still alive.

        For an attached run: whether its heartbeat shows a sign of life.
        """
        if self._process is not None:
            return self._process.poll() is None
        if self._thread is not None:
            return self._thread.is_alive()
        beat = read_heartbeat(self.folder.heartbeat_file)  # its status would read all its events, and this is called often
        return is_alive(beat) and beat is not None and beat["activity"] != "ended"

    def pause(self) -> None:
        """Pause before the next attack step."""
        self.folder.send(Command("pause"))

    def resume(self) -> None:
        """Resume after a pause."""
        self.folder.send(Command("resume"))

    def step(self) -> None:
        """Make one step, then pause."""
        self.folder.send(Command("step"))

    def turn(self, dial: str, value: float) -> None:
        """Turn a dial from the next batch on; raises UnknownName or ConfigError for an invalid one."""
        self.folder.send(Command("turn", dial, check_dial(dial, value, self.folder.config())))

    def stop(self) -> None:
        """Stop the run in order: its state is saved and can be resumed."""
        self.folder.send(Command("stop"))

    def wait(self, timeout: float | None = None) -> str:
        """Wait for the end and return the status ("done" or "stopped").

        Raises RunError if the run failed, TimeoutError after `timeout` seconds.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while self.running():
            if end is not None and time.monotonic() > end:
                raise TimeoutError(f"{self.folder.path} still runs after {timeout} seconds.")
            time.sleep(0.05)
        error = self.error()
        if error:
            raise RunError(error)
        return self.folder.status()

    def error(self) -> str:
        """Return the last output of a run that failed; empty otherwise."""
        if self._error:
            return f"{type(self._error[0]).__name__}: {self._error[0]}"
        if self._process is None or self._process.poll() in (None, 0):
            return ""
        log = self.folder.path / "log.txt"
        said = log.read_text(encoding="utf-8", errors="replace").strip() if log.exists() else ""
        return said[-2000:] or f"the process ended with exit code {self._process.returncode}"
