"""Record the state of a job beside its notebook, estimate durations, hash the inputs of a result.

A result depends on parameters, notebook, files it reads, the jobs it needs, and the package.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from faal_lab.errors import RunFolderError
from faal_lab.runs.files import SCHEMAS, check_schema, patiently, replace_file
from faal_lab.runs.heartbeat import is_alive, read_heartbeat
from faal_lab.sweeps.plan import Job, Plan, SweepError

STATUS, LOCK = "status.json", "lock"


@dataclass(frozen=True)
class Status:
    """A job's state (running, done, failed, clearing) and the `seconds` of attempts not killed."""

    state: str
    fingerprint: str
    code: str
    stage: str
    notebook: str
    seconds: float = 0.0
    attempts: int = 1
    error: str = ""

    def write(self, home: Path) -> None:
        """Write the status to a job's home. Raises OSError."""
        home.mkdir(parents=True, exist_ok=True)
        replace_file(home / STATUS, json.dumps({"schema": SCHEMAS["status"], **asdict(self)}, indent=1).encode())


def read_status(home: Path) -> Status | None:
    """Return a job's last status; None if there is none, or it cannot be read. Raises SweepError if it is of a newer version."""
    try:
        record = json.loads(patiently(lambda: (home / STATUS).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None
    check_schema("status", record, home / STATUS, SweepError)
    try:
        return Status(**{f.name: record[f.name] for f in fields(Status) if f.name in record})
    except TypeError:
        return None


def at_work(home: Path) -> bool:
    """Return whether a process holds a job's lock."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(str(home / LOCK), timeout=0):
            return False
    except Timeout:
        return True


def progress_of(job: Job) -> tuple[str, float] | None:
    """Return activity and finished share (0 to 1) from a run's heartbeat; None without one."""
    for folder in (job.folder, *map(Path, str(job.parameters.get("runs", "")).split(","))):
        beat = None
        with suppress(RunFolderError):  # of a newer faal_lab: the job itself reports it
            beat = read_heartbeat(folder / "heartbeat.json")
        if is_alive(beat) and beat is not None and beat["activity"] != "ended":
            return str(beat["activity"]), float(beat.get("share", 0.0))
    return None


class Durations:
    """Durations of jobs in this sweep and in those beside it (folders with the same parent)."""

    def __init__(self, homes: Iterable[Path]) -> None:
        self._same: dict[str, float] = {}
        self._alike: dict[tuple[str, ...], list[float]] = defaultdict(list)
        for file in homes:
            status = None
            with suppress(SweepError):  # another sweep, of a newer faal_lab: it tells nothing
                status = read_status(file.parent)
            if status is not None and status.state == "done":
                self._same[status.fingerprint] = status.seconds
                for alike in ((status.notebook, status.stage), (status.notebook,)):
                    self._alike[alike].append(status.seconds)

    @staticmethod
    def beside(plan: Plan) -> Durations:
        """Read durations from the sweep of `plan` and from those beside it."""
        return Durations(plan.out.parent.glob(f"*/jobs/**/{STATUS}"))

    def of(self, job: Job, fingerprint: str) -> float | None:
        """Estimate seconds: of the same job, else median of its stage, else of its notebook, else None."""
        if fingerprint in self._same:
            return self._same[fingerprint]
        for alike in ((job.notebook.stem, job.stage), (job.notebook.stem,)):
            if self._alike[alike]:
                return statistics.median(self._alike[alike])
        return None


_PACKAGE = Path(__file__).resolve().parents[1]
_PATHS = ("base", "run", "runs", "data_dir")  # only in these can a word without a slash be a path
_ONLY_SHOW = ("widgets", "sweeps")  # folders that change no result


@cache
def code_version() -> str:
    """Hash the package's sources, except folders that only show or distribute work."""
    total = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.[pj][y2]")):
        place = path.relative_to(_PACKAGE)
        if place.parts[0] not in _ONLY_SHOW:
            total.update(str(place).encode() + b"\0" + path.read_bytes())
    return total.hexdigest()


def fingerprints(plan: Plan) -> dict[str, str]:
    """Hash each job's inputs, except the package's version (`code_version`), which is the same for all."""
    found: dict[str, str] = {}
    for key, job in plan.jobs.items():  # in order: needed jobs come first
        record = {
            "parameters": job.stated,
            "notebook": hashlib.sha256(job.notebook.read_bytes()).hexdigest(),
            "inputs": {name: content(path) for name, path in _inputs(job)},
            "needs": {need: found[need] for need in job.needs},
            "paper": plan.paper if any("{paper}" in str(value) for value in job.stated.values()) else {},
        }
        found[key] = hashlib.sha256(json.dumps(record, sort_keys=True, default=str).encode()).hexdigest()
    return found


def _inputs(job: Job) -> list[tuple[str, Path]]:
    """Return files and folders that a job's parameters name, except references such as {base} or {here}."""
    found = []
    for name, value in job.stated.items():
        for part in value.split(",") if isinstance(value, str) and "{" not in value else ():
            code = ".py:" in part  # "rules.py:Rule": another rule in the file makes another run
            path = Path((part.rpartition(":")[0] if code else part).strip()).expanduser()
            if part.strip() and (name in _PATHS or len(path.parts) > 1 or code) and path.exists():
                found.append((f"{name} {part.strip()}", path))
    return found


def content(path: Path) -> str:
    """Hash a file's bytes, a run's settings and weights, or a folder's names, sizes and times."""
    if path.is_file():
        return _file(path)
    if (path / "config.json").is_file():
        weights = [p for p in sorted(path.glob("*.safetensors")) if p.is_file()]
        return _hash([[p.name, _file(p)] for p in (path / "config.json", *weights)])
    listing = [
        [str(p.relative_to(path)), s.st_size, s.st_mtime_ns] for p in sorted(path.rglob("*")) if p.is_file() for s in (p.stat(),)
    ]
    return _hash(listing)


def _file(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
