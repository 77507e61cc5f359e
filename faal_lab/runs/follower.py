"""Follow a run from outside: read its new events, and drop those that a resume undid.

The run may be in this process, in another one or on another machine, or it may have ended long ago.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from faal_lab.errors import RunFolderError
from faal_lab.runs.events import (
    Balanced,
    DialTurned,
    EpochDone,
    Event,
    RunFailed,
    RunFinished,
    RunResumed,
    RunStarted,
    StepDone,
    from_record,
)
from faal_lab.runs.files import check_seals, whole_lines
from faal_lab.runs.heartbeat import HEARTBEAT, is_alive, read_heartbeat

METRICS = "metrics.jsonl"


def status_of(events: list[Event], beat: dict[str, Any] | None) -> str:
    """Return a run's state in one word, from its events and its heartbeat; see `RunFolder.status`."""
    if is_alive(beat) and beat is not None and beat["activity"] != "ended":
        return str(beat["activity"])
    for event in reversed(events):
        if isinstance(event, RunFinished):
            return event.reason
        if isinstance(event, RunFailed):
            return "failed"
        if isinstance(event, RunResumed):
            break  # an end before the resume no longer counts
    return "lost" if beat is not None else "waiting"


class Follower:
    """The events of a run, and its steps, epochs and dial changes by kind. A poll reads only what is new.

    Args:
        path: the run folder.
        keep_steps: keep every StepDone in `events` and `steps`; without it only the newest, in `latest`.

    >>> from faal_lab.runs import Follower, RunFolder
    >>> from faal_lab.runs.config import Config
    >>> from faal_lab.runs.events import RunFinished
    >>> folder = RunFolder.create("runs/followed", Config(), {})
    >>> with folder.recording() as recorder:
    ...     recorder.write(RunFinished(12, "stopped"))
    >>> follower = Follower(folder.path)
    >>> follower.poll(), follower.status()
    (1, 'stopped')
    """

    def __init__(self, path: str | Path, keep_steps: bool = True) -> None:
        self.path = Path(path)
        self._keep_steps = keep_steps  # a step takes 3 kB, too much in a long run: plots use History's arrays
        self.new: list[Event] = []
        self.restart()

    def restart(self) -> None:
        """Forget all events; the next poll reads from the beginning."""
        self._offset, self._seal, self._lines = 0, None, 0
        self.events: list[Event] = []
        self.started: RunStarted | None = None
        self.latest: StepDone | None = None
        self.steps: list[StepDone] = []
        self.epochs: list[EpochDone] = []
        self.turns: list[DialTurned] = []
        self.restarts = getattr(self, "restarts", -1) + 1  # above 0: the events read before belong to a run that is gone

    def poll(self) -> int:
        """Read the new events into `new`, and add them to the others.

        A line that is only half written is read by a later poll.

        Returns:
            The number of new events.

        Raises:
            RunFolderError: the folder is gone, or a line is not JSON, damaged or of a newer version of faal-lab.
        """
        file = self.path / METRICS
        try:
            if file.stat().st_size < self._offset:  # the run was deleted and started anew
                self.restart()
            with open(file, "rb") as stream:
                stream.seek(self._offset)
                content = stream.read()
        except FileNotFoundError:
            if self._offset or not self.path.exists():
                raise RunFolderError(f"{self.path} is gone: it was deleted or moved while it was followed.") from None
            return 0
        whole = content[: content.rfind(b"\n") + 1]
        lines = whole_lines(content)
        self.new = []
        for line in lines:
            try:
                self.new.append(from_record(json.loads(line), file))
            except (ValueError, RecursionError) as error:
                raise RunFolderError(f"{file} holds a line that is not JSON: {line[:80]!r}.") from error
        seal = check_seals(lines, file, self._seal, self._lines)  # last: a newer version may compute it otherwise
        for event in self.new:
            self._take(event)
        self._offset, self._seal, self._lines = self._offset + len(whole), seal, self._lines + len(lines)
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
        if isinstance(event, Balanced):  # a run has one: killed before it was saved, it is made again after the resume
            self.events = [e for e in self.events if not isinstance(e, Balanced)]
        self.events.append(event)
        if isinstance(event, RunStarted):
            self.started = event
        elif isinstance(event, EpochDone):
            self.epochs.append(event)
        elif isinstance(event, DialTurned):
            self.turns.append(event)

    def status(self) -> str:
        """Return the run's state in one word; see `RunFolder.status`."""
        return status_of(self.events, read_heartbeat(self.path / HEARTBEAT))
