"""What a job's result depends on, as a hash: parameters, notebook, what it reads, the jobs before it; and the package.

Knows: bytes. Must not know: what they mean. Paths of the sweep's own folder are left out, so that a folder can be moved.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from faal_lab.sweep.plan import Job, Plan

_PACKAGE = Path(__file__).resolve().parents[1]
_PATHS = ("base", "runs", "data_dir")  # a plain word is a path in these alone
_ONLY_SHOW = ("widgets", "sweep")  # rooms that change no result


@cache
def code_version() -> str:
    """A hash over the package's sources, but for what only shows or deals out work."""
    total = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        place = path.relative_to(_PACKAGE)
        if place.parts[0] not in _ONLY_SHOW:
            total.update(str(place).encode() + b"\0" + path.read_bytes())
    return total.hexdigest()


def fingerprints(plan: Plan) -> dict[str, str]:
    """One hash a job, over all but the package's own version (`code_version`), which is the same for all of them."""
    found: dict[str, str] = {}
    for key, job in plan.jobs.items():  # in order: what a job needs stands before it
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
    """Files and folders that a job's parameters name, but for those of the sweep itself."""
    found = []
    for name, value in job.stated.items():
        for part in value.split(",") if isinstance(value, str) and "{" not in value else ():
            path = Path(part.strip()).expanduser()
            if part.strip() and (name in _PATHS or len(path.parts) > 1) and path.exists():
                found.append((f"{name} {part.strip()}", path))
    return found


def content(path: Path) -> str:
    """A hash of what a path holds: a file's bytes, a run folder's settings and weights, or names, sizes and times in a folder."""
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
