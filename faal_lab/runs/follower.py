"""Follow a run from outside: read what was added, and drop what a resume undid.

The run may be in this process, in another one, on another machine, or long over.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from faal_lab.errors import RunFolderError
from faal_lab.runs.events import (
    DialTurned,
    EpochDone,
    Event,
    RunFailed,
    RunFinished,
    RunResumed,
    RunStarted,
    SchemaError,
    StepDone,
    from_record,
)
from faal_lab.runs.heartbeat import HEARTBEAT, is_alive, read_heartbeat

METRICS = "metrics.jsonl"


def status_of(events: list[Event], beat: dict[str, Any] | None) -> str:
    """The one word for a run's state, from its events and its heartbeat."""
    if is_alive(beat) and beat is not None and beat["activity"] != "ended":
        return str(beat["activity"])
    for event in reversed(events):
        if isinstance(event, RunFinished):
            return event.reason
        if isinstance(event, RunFailed):
            return "failed"
        if isinstance(event, RunResumed):
            break  # how it ended before it was resumed is over
    return "lost" if beat is not None else "waiting"


class Follower:
    """Keeps all events of a run, and its steps and epochs by kind. Costs one read of what is new a poll."""

    def __init__(self, path: str | Path, keep_steps: bool = True) -> None:
        self.path = Path(path)
        self._keep_steps = keep_steps  # a long run's steps take 3 kB each; who draws has arrays of them
        self.new: list[Event] = []
        self.restart()

    def restart(self) -> None:
        """Forget everything and read from the beginning at the next poll."""
        self._offset = 0
        self.events: list[Event] = []
        self.started: RunStarted | None = None
        self.latest: StepDone | None = None
        self.steps: list[StepDone] = []
        self.epochs: list[EpochDone] = []
        self.turns: list[DialTurned] = []
        self.restarts = getattr(self, "restarts", -1) + 1  # above 0: what was read so far is of a run that is gone

    def poll(self) -> int:
        """Read whole new lines into `new`; returns how many events came. A half-written last line waits for its end.

        Raises RunFolderError where the folder is gone, SchemaError on a record of another version.
        """
        file = self.path / METRICS
        try:
            if file.stat().st_size < self._offset:  # the run was deleted and made anew
                self.restart()
            with open(file, "rb") as stream:
                stream.seek(self._offset)
                content = stream.read()
        except FileNotFoundError:
            if self._offset or not self.path.exists():
                raise RunFolderError(f"{self.path} is gone: it was deleted or moved while it was followed.") from None
            return 0
        whole = content[: content.rfind(b"\n") + 1]
        lines = [line for line in whole.split(b"\n") if line.strip()]
        self.new = []
        for line in lines:
            try:
                self.new.append(from_record(json.loads(line)))
            except SchemaError:
                raise
            except ValueError as error:
                raise RunFolderError(f"{file} holds a line that is not JSON: {line[:80]!r}.") from error
        for event in self.new:
            self._take(event)
        self._offset += len(whole)
        return len(lines)

    def _take(self, event: Event) -> None:
        if isinstance(event, RunResumed):
            for name in ("events", "steps", "epochs", "turns"):
                kept = [e for e in getattr(self, name) if getattr(e, "step", 0) <= event.from_step]
                setattr(self, name, kept)
        if isinstance(event, StepDone):
            self.latest = event
            if self._keep_steps:
                self.events.append(event)
                self.steps.append(event)
            return
        self.events.append(event)
        if isinstance(event, RunStarted):
            self.started = event
        elif isinstance(event, EpochDone):
            self.epochs.append(event)
        elif isinstance(event, DialTurned):
            self.turns.append(event)

    def status(self) -> str:
        """The run's state in one word; see `RunFolder.status`."""
        return status_of(self.events, read_heartbeat(self.path / HEARTBEAT))
