"""Allow one writer per run folder, and write a heartbeat for the programs that watch.

The lock is the operating system's: it ends with the process, even after a crash. The heartbeat is a small file: from it a program
on another machine sees whether the run still works.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faal_lab.errors import FaalLabError, RunFolderError
from faal_lab.runs.files import SCHEMAS, check_schema, patiently, replace_file

HEARTBEAT = "heartbeat.json"
BEAT = 1.0  # seconds between heartbeats
SILENT = 15.0  # seconds without one after which a run counts as lost


class RunLocked(FaalLabError, RuntimeError):
    """Another process writes to this run folder."""


class Heartbeat:
    """A context manager that locks a run folder for this process and writes its heartbeat.

    It writes each second, and when the activity changes.

    Args:
        folder: the run folder; it must exist.
        report: called ten times a second; returns the activity, such as "training", and the share of the work done in [0, 1].

    Raises:
        RunLocked: on entry, another process holds the folder.

    >>> from pathlib import Path
    >>> from faal_lab.runs import Heartbeat
    >>> with Heartbeat(Path(), lambda: ("training", 0.5)):
    ...     Path("heartbeat.json").is_file()
    True
    """

    def __init__(self, folder: Path, report: Callable[[], tuple[str, float]]) -> None:
        from filelock import FileLock

        # a run's generator may be closed in another thread than the one that started it, so the lock is not thread-local
        self._lock = FileLock(str(folder / "writer.lock"), thread_local=False)
        self._file, self._report = folder / HEARTBEAT, report
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="faal-heartbeat", daemon=True)

    def __enter__(self) -> Heartbeat:
        from filelock import Timeout

        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            beat: dict[str, Any] = {}
            with contextlib.suppress(RunFolderError):  # a newer faal_lab is writing
                beat = read_heartbeat(self._file) or {}
            who = f"process {beat.get('pid', '?')} on {beat.get('host', '?')}"
            raise RunLocked(
                f"{self._file.parent} is being written by {who} ({beat.get('activity', '?')}). Stop it first "
                f"(faal-lab tell {self._file.parent} stop), or give this run a folder of its own."
            ) from None
        self._say()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._say()
        self._lock.release()

    def _beat(self) -> None:
        said, when = "", 0.0
        while not self._done.wait(0.1):
            activity, _ = self._report()
            if activity != said or time.monotonic() - when >= BEAT:
                said, when = activity, time.monotonic()
                self._say()

    def _say(self) -> None:
        activity, share = self._report()
        record = {"schema": SCHEMAS["heartbeat"], "pid": os.getpid(), "host": socket.gethostname(), "activity": activity}
        record |= {"share": share, "time": time.time()}
        with contextlib.suppress(OSError):  # a full disk must not end the run
            replace_file(self._file, json.dumps(record).encode())


def read_heartbeat(file: Path) -> dict[str, Any] | None:
    """Return the last heartbeat, with its `age` in seconds; None if there is none that can be read.

    Raises RunFolderError if a newer faal_lab wrote it.
    """
    try:
        beat = json.loads(patiently(lambda: file.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return None
    check_schema("heartbeat", beat, file, RunFolderError)
    try:
        return beat | {"pid": int(beat["pid"]), "activity": beat["activity"], "age": max(0.0, time.time() - float(beat["time"]))}
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


def is_alive(beat: dict[str, Any] | None) -> bool:
    """Return whether a run's process is alive: by its recent beat and, on this host, its process id."""
    if beat is None or beat["age"] > SILENT:
        return False
    if beat.get("host") == socket.gethostname() and os.name == "posix":
        try:
            os.kill(int(beat["pid"]), 0)
        except (ProcessLookupError, OverflowError):  # a number that no process has
            return False
        except PermissionError:
            return True
    return True
