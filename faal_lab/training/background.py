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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from faal_lab.errors import ConfigError, FaalLabError, RunFolderError
from faal_lab.methods.recipe import Recipe
from faal_lab.models.processes import launch
from faal_lab.runs import RunFolder
from faal_lab.runs.config import Config, check_dial
from faal_lab.runs.control import check_pace
from faal_lab.runs.events import Command, Event
from faal_lab.runs.follower import Follower
from faal_lab.runs.heartbeat import is_alive, read_heartbeat

_PATIENCE = 20.0  # seconds for a process that is to end; a step of a wide network may take some


class RunError(FaalLabError, RuntimeError):
    """A run that ended with an error; the message is the end of its output."""


class LiveRun:
    """A run in the background, while the caller does something else.

    Commands travel through the run folder alone.
    """

    def __init__(
        self, path: str | Path, processes: Sequence[subprocess.Popen[bytes]] = (), thread: threading.Thread | None = None
    ) -> None:
        self.folder = RunFolder(path)
        self._processes, self._thread = processes, thread
        self._follower = Follower(path, keep_steps=False)
        self._error: list[BaseException] = []

    @staticmethod
    def start(config: Config, out: str | Path, *, resume: bool = False, processes: int = 1) -> LiveRun:
        """Start a run in a child process, or in several that train as one; it continues if this process ends.

        Its output goes to log.txt in the folder. Raises RunFolderError if `out` already holds a run and `resume` is False,
        and ConfigError if the run to resume has other settings.
        """
        path = Path(out)
        if not resume and (path / "config.json").exists():
            raise RunFolderError(f"{path} already holds a run. Choose another folder, or resume it.")
        if resume and not RunFolder.open(path).made_with(config):
            raise ConfigError(f"{path} was made with other settings; resume it with those.")
        path.mkdir(parents=True, exist_ok=True)
        live = LiveRun(path)
        live._follower.poll()  # what was recorded before is no event of this run
        words = ["run", "--resume", str(path)] if resume else ["run", "--out", str(path), "--config", "-"]
        with open(path / "log.txt", "ab") as log:
            started = launch(
                [sys.executable, "-m", "faal_lab", *words, "--quiet"], processes,
                stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, start_new_session=os.name == "posix",
            )  # fmt: skip
        for process in started:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # a child that ended at once gives its error in the log
                process.stdin.write(json.dumps(config.to_mapping()).encode())
                process.stdin.close()
        live._processes = started
        return live

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
        live = LiveRun(out, thread=thread)
        thread.start()
        return live

    @staticmethod
    def attach(path: str | Path) -> LiveRun:
        """Attach to a run that was started elsewhere, to steer it.

        Another kernel, papermill, or this kernel before its restart may have started it. Raises RunFolderError if there is
        no run.
        """
        return LiveRun(RunFolder.open(path).path)

    def running(self) -> bool:
        """Return whether the process or thread is still alive.

        For an attached run: whether its heartbeat shows a sign of life.
        """
        if self._processes:
            return any(process.poll() is None for process in self._processes)
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

    def epoch(self) -> None:
        """Go on to the end of the epoch, with its validation, then pause."""
        self.folder.send(Command("epoch"))

    def pace(self, batches: float) -> None:
        """Make so many batches a second at most; 0: as many as it makes. Raises ConfigError for a number that makes no sense."""
        self.folder.send(Command("pace", value=check_pace(batches)))

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
        if not (codes := [code for process in self._processes if (code := process.poll())]):
            return ""
        log = self.folder.path / "log.txt"
        said = log.read_text(encoding="utf-8", errors="replace").strip() if log.exists() else ""
        if len(self._processes) > 1:  # all say the same of settings that make no sense
            said = "\n".join(dict.fromkeys(line.removeprefix("faal-lab: ") for line in said.splitlines()))
        return said[-2000:] or f"the process ended with exit code {codes[0]}"

    def _end(self) -> None:
        """Ask the processes to end in order, and end those that do not."""
        began = time.monotonic()
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(max(0.0, began + _PATIENCE - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def events(self) -> Iterator[Event]:
        """Yield the events of a run as they are recorded, until it has ended; if the caller stops, so does the run.

        Raises RunError if the run failed.
        """
        try:
            while True:
                ended = not self.running()
                if self._follower.poll():
                    yield from self._follower.new
                if ended:
                    break
                if any(process.poll() for process in self._processes):
                    self._end()  # one was lost; the others may wait for it
                time.sleep(0.1)
        except BaseException:
            self._end()
            raise
        if error := self.error():
            raise RunError(error)
