"""Row of benchmarks/reliability.py on sweeps: killed, with jobs that fail and hang, shared by two processes.

The jobs are a notebook that writes down that it was begun, waits a little, and writes its result.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import yaml
from reliability_kills import Tries

from faal_lab.sweeps.status import read_status

_CELLS = (
    'out: str = ""\nfails: bool = False\nseconds: float = 0.0',
    'import os, pathlib, time\nfolder = pathlib.Path(out)\nwith open(folder / "begun", "a") as file:\n    file.write("x")\n'
    '(folder / "kernel").write_text(str(os.getpid()))\ntime.sleep(seconds)\n1 / (not fails)\n'
    '(folder / "result").write_text("done")',
)


def _written(folder: Path, jobs: list[dict[str, Any]], **more: object) -> Path:
    """A sweep of these jobs in one stage, and its notebook."""
    code = {"cell_type": "code", "execution_count": None, "outputs": []}
    cells = [{**code, "id": f"c{n}", "metadata": {}, "source": text} for n, text in enumerate(_CELLS)]
    cells[0]["metadata"] = {"tags": ["parameters"]}
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    (folder / "toy.ipynb").write_text(json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))
    stage = {"notebook": "toy.ipynb", "parameters": {"out": "{here}"}, "list": jobs}
    file = folder / "toy.yaml"
    file.write_text(yaml.safe_dump({"name": "toy", "threads": 1, "stages": {"work": stage}, **more}, sort_keys=False))
    return file


def _words(file: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "faal_lab", "sweep", str(file), "--out", str(file.parent / "out"), "--workers", "3", *more]


def _begun(out: Path) -> dict[str, int]:
    return {p.parent.name: len(p.read_text()) for p in out.glob("work/*/begun")}


def _results(out: Path) -> set[str]:
    return {p.parent.name for p in out.glob("work/*/result")}


def _orphans(out: Path) -> list[int]:
    """Kernels that still work on a sweep after half a minute."""
    kernels = [int(p.read_text() or 0) for p in out.glob("work/*/kernel")]
    until = time.monotonic() + 30
    while any(map(psutil.pid_exists, kernels)) and time.monotonic() < until:
        time.sleep(0.2)
    return [pid for pid in kernels if psutil.pid_exists(pid)]


def sweeps(folder: Path, quick: bool) -> dict[str, Any]:
    """Make sweeps that are killed, that fail in parts, that hang, and that two processes share."""
    tries = Tries()
    count, kills = (12, 1) if quick else (200, 10)
    _shared(folder, count, tries.note)
    for seed in range(kills):
        _ended(folder, seed, tries.note)
    if not quick:
        _hanging(folder, tries.note)
    return {"tried": tries.tried, "lost": tries.lost, "jobs": count, "ended before their time": kills}


_Note = Callable[[str, str], None]


def _shared(folder: Path, count: int, note: _Note) -> None:
    """Jobs of which one in twenty fails, made by two processes on one folder."""
    place = folder / "many"
    place.mkdir()
    bad = {f"j{n}" for n in range(7, count, 19)}  # one in twenty, in both shares
    file = _written(place, [{"label": f"j{n}", "fails": f"j{n}" in bad} for n in range(count)])
    shares = [subprocess.Popen(_words(file, "--shard", f"{n}/2"), stdout=subprocess.PIPE, text=True) for n in (1, 2)]
    said = "".join(share.communicate(timeout=900)[0] for share in shares)
    begun, made = _begun(place / "out"), _results(place / "out")
    for n in range(count):
        name = f"j{n}"
        status = read_status(place / "out" / "jobs" / "work" / name)
        why = "" if begun.get(name) == 1 else f"begun {begun.get(name, 0)} times, {status}"
        if name in bad:
            told = status is not None and (status.state, status.error) == ("failed", "ZeroDivisionError: division by zero")
            told = told and f"work/{name} failed: ZeroDivisionError" in said
            why = why or ("" if told else f"its failure is not told: {status}")
        elif name not in made or status is None or status.state != "done":
            why = why or "has no result"
        note(f"{count} jobs of two processes, {name}", why)
    codes = [share.returncode for share in shares]
    expected = [int(any(int(name[1:]) % 2 == part for name in bad)) for part in (0, 1)]
    note("exit codes of shares with failures", "" if codes == expected else f"{codes}, expected {expected}")


def _ended(folder: Path, seed: int, note: _Note) -> None:
    """A sweep that is ended by a signal while its jobs work, and started again."""
    place, drawn = folder / f"killed-{seed}", random.Random(seed)
    place.mkdir()
    file = _written(place, [{"label": f"j{n}", "seconds": 0.5} for n in range(6)])
    which = signal.SIGKILL if seed % 2 == 0 else (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)[seed // 2 % 3]
    sweep = subprocess.Popen(_words(file), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    until = time.monotonic() + 60
    while not list((place / "out").glob("work/*/begun")) and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(drawn.uniform(0, 4))
    os.kill(sweep.pid, which)
    sweep.wait(60)
    out = place / "out"
    orphans = _orphans(out)
    before = {p: p.stat().st_mtime_ns for p in out.glob("work/*/result")}
    states = {p: read_status(out / "jobs/work" / p.parent.name) for p in before}
    done = {p for p, status in states.items() if status is not None and status.state == "done"}
    again = subprocess.run(_words(file), capture_output=True, text=True, timeout=200)
    why = f"processes {orphans} are left" if orphans else ""
    if again.returncode != 0 or len(_results(place / "out")) != 6:
        why = why or f"started again, it ended with {again.returncode}: {again.stdout[-300:]}"
    if any(p.stat().st_mtime_ns != before[p] for p in done):
        why = why or "made again what was done"
    note(f"{which.name}, seed {seed}", why)


def _hanging(folder: Path, note: _Note) -> None:
    """A notebook that never ends, and a second sweep in a folder."""
    place = folder / "hangs"
    place.mkdir()
    jobs = [{"label": "a"}, {"label": "b", "seconds": 1000.0}, {"label": "c"}]
    file = _written(place, jobs, limit_hours=15 / 3600)
    ended = subprocess.run(_words(file), capture_output=True, text=True, timeout=200)
    good = ended.returncode == 1 and _results(place / "out") == {"a", "c"} and "work/b failed" in ended.stdout
    note("a notebook that hangs", "" if good and not _orphans(place / "out") else ended.stdout[-300:])
    first = subprocess.Popen(_words(file, "--force"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(4)
    second = subprocess.run(_words(file), capture_output=True, text=True, timeout=100)
    first.wait(200)
    good = second.returncode == 1 and "Another sweep is at work on" in second.stderr
    note("two sweeps in one folder", "" if good else second.stderr[-300:])
