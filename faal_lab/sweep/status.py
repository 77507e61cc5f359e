"""What became of a job: a small file beside its executed notebook, and a guess at how long jobs take.

Knows: files and clocks. Must not know: notebooks, processes.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from faal_lab.runs.files import patiently, replace_file
from faal_lab.runs.lock import is_alive, read_heartbeat
from faal_lab.sweep.plan import Job, Plan

STATUS, LOCK = "status.json", "lock"


@dataclass(frozen=True)
class Status:
    """`state` is running, done or failed; `seconds` is the work of all attempts that were not killed."""

    state: str
    fingerprint: str
    code: str
    stage: str
    notebook: str
    seconds: float = 0.0
    attempts: int = 1
    error: str = ""

    def write(self, home: Path) -> None:
        """Write it into a job's home; raises OSError."""
        home.mkdir(parents=True, exist_ok=True)
        replace_file(home / STATUS, json.dumps(asdict(self), indent=1).encode())


def read_status(home: Path) -> Status | None:
    """A job's last status; None where there is none that can be read."""
    try:
        return Status(**json.loads(patiently(lambda: (home / STATUS).read_text(encoding="utf-8"))))
    except (OSError, ValueError, TypeError):
        return None


def at_work(home: Path) -> bool:
    """Whether a process holds a job's lock."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(str(home / LOCK), timeout=0):
            return False
    except Timeout:
        return True


def progress_of(job: Job) -> tuple[str, float] | None:
    """What a running job does and which share is done, where it trains or evaluates: from the run folder's sign of life."""
    for folder in (job.folder, *map(Path, str(job.parameters.get("runs", "")).split(","))):
        beat = read_heartbeat(folder / "heartbeat.json")
        if is_alive(beat) and beat is not None and beat["activity"] != "ended":
            return str(beat["activity"]), float(beat.get("share", 0.0))
    return None


class Durations:
    """How long jobs took in earlier sweeps that lie in the same folder as this one."""

    def __init__(self, homes: Iterable[Path]) -> None:
        self._same: dict[str, float] = {}
        self._alike: dict[tuple[str, ...], list[float]] = defaultdict(list)
        for file in homes:
            status = read_status(file.parent)
            if status is not None and status.state == "done":
                self._same[status.fingerprint] = status.seconds
                for alike in ((status.notebook, status.stage), (status.notebook,)):
                    self._alike[alike].append(status.seconds)

    @staticmethod
    def beside(plan: Plan) -> Durations:
        """Of this sweep and of those beside it."""
        return Durations(plan.out.parent.glob(f"*/jobs/**/{STATUS}"))

    def of(self, job: Job, fingerprint: str) -> float | None:
        """Seconds that a job will take: what the same took, else the median of its stage, else of its notebook; None: unknown."""
        if fingerprint in self._same:
            return self._same[fingerprint]
        for alike in ((job.notebook.stem, job.stage), (job.notebook.stem,)):
            if self._alike[alike]:
                return statistics.median(self._alike[alike])
        return None
