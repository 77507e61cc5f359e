"""Train for two hours with a page that follows, a pause every minute and tau turned a thousand times: does anything grow?

    python benchmarks/endurance.py                # two hours; JupyterLab and Chromium are started and ended
    python benchmarks/endurance.py --minutes 3    # to see that it works

The run is the digits by one thread, in a child process, as the workbench starts it. Every ten seconds the memory, open files and
threads of the training, of the page's kernel and of the server are written down, and the page's heap after its rubbish was
collected. What comes out are slopes with 95 % intervals, from the tenth minute on, and what was promised of them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from dashboard import going, settings
from desk import LAST, Desk
from in_browser import chromium, jupyter, write_notebook
from side_by_side import machine

from faal_lab.results.check import verify
from faal_lab.runs import RunFolder
from faal_lab.runs.events import DialTurned, StepDone
from faal_lab.runs.follower import Follower
from faal_lab.training.background import LiveRun

FILE = Path(__file__).with_suffix(".json")
EVERY, PAUSED = 10.0, 5.0  # seconds from sample to sample, and of a pause
# What may grow by how much in an hour; the kernel keeps every batch's numbers for its pictures, so its memory goes by batches.
MOST = {"training MB": 2.0, "server MB": 2.0, "page heap MB": 2.0, "files": 1.0, "threads": 1.0, "kernel bytes a batch": 1000.0}


def slope(x: np.ndarray, y: np.ndarray, blocks: int = 20) -> dict[str, float]:
    """Growth of `y` for one of `x` with a 95 % interval, which leaves out each block of neighbours in turn (jackknife).

    >>> slope(np.arange(100.0), 3 * np.arange(100.0))
    {'slope': 3.0, 'low': 3.0, 'high': 3.0}
    """
    one = float(np.polyfit(x, y, 1)[0])
    parts = np.array_split(np.arange(len(x)), blocks)
    without = np.array([np.polyfit(np.delete(x, part), np.delete(y, part), 1)[0] for part in parts])
    wide = 2.093 * float(np.sqrt((blocks - 1) / blocks * ((without - without.mean()) ** 2).sum()))  # t of 19 degrees
    return {name: round(value, 6) + 0.0 for name, value in (("slope", one), ("low", one - wide), ("high", one + wide))}


def held(process: psutil.Process, name: str) -> dict[str, float]:
    """Megabytes, open files and threads of a process."""
    with process.oneshot():
        memory = process.memory_info().rss / 1e6
        return {f"{name} MB": round(memory, 3), f"{name} files": process.num_fds(), f"{name} threads": process.num_threads()}


def on_disk(folder: Path) -> dict[str, float]:
    """Megabytes and number of files of a run folder, without its records and commands."""
    files = [f for f in folder.iterdir() if f.is_file() and f.suffix not in (".jsonl", ".tmp")]
    return {"disk MB": round(sum(f.stat().st_size for f in files) / 1e6, 6), "disk files": len(files)}


def watched(desk: Desk, minutes: float, turns: int, out: Path) -> dict[str, Any]:
    """The run, its page, pauses and turns: samples every ten seconds, and what did not go as asked."""
    drawn, lost, samples = random.Random(0), [], []
    with (
        tempfile.TemporaryDirectory() as folder,
        going(settings(10, Path(folder)), Path(folder) / "runs", "1") as (run, training),
    ):
        live = LiveRun.attach(run.path)
        desk.open(run.path.parent)
        session, kernel = desk.page.context.new_cdp_session(desk.page), desk.kernel()
        server, follower = psutil.Process(desk._server), Follower(run.path, keep_steps=False)
        begun, sent, pauses = time.monotonic(), 0, 0
        while (passed := time.monotonic() - begun) < 60 * minutes:
            if passed > 60 * (pauses + 1):
                pauses += 1
                lost += paused(live, follower, pauses)
            while sent < turns * passed / (60 * minutes):
                live.turn("tau", round(drawn.uniform(0, 2), 6))
                sent += 1
            if len(samples) * EVERY <= passed:
                session.send("HeapProfiler.collectGarbage")
                follower.poll()
                sample = {"second": round(passed, 1), "step": follower.latest.step if follower.latest else 0}
                heap = session.send("Runtime.getHeapUsage")
                sample |= held(training, "training") | held(kernel, "kernel") | held(server, "server") | on_disk(run.path)
                sample["page heap MB"] = round((heap["usedSize"] + heap.get("backingStorageSize", 0)) / 1e6, 3)
                sample["load"] = os.getloadavg()[0]
                samples.append(sample)
                if len(samples) % 30 == 0:
                    out.write_text(json.dumps({"machine": machine(), "samples": samples}) + "\n")
                    print(sample, flush=True)
            desk.page.wait_for_timeout(500)
        live.stop()
        status = live.wait(60)
        follower.poll()
        last = follower.latest.step if follower.latest else 0
        desk.page.wait_for_function(f"() => {LAST} === {last}", timeout=60_000)  # the page has drawn the last batch
        made = sum(isinstance(e, DialTurned) for e in follower.events)
        lost += [] if status == "stopped" else [f"the run ended as {status}"]
        lost += [] if made == sent else [f"{sent} turns were sent, {made} are recorded"]
        lost += [case.text for case in verify(run.path) if case.outcome == "failed"]
        lost += left_over(run)
    desk.shut()
    return {"minutes": minutes, "batches": last, "turns": sent, "pauses": pauses, "lost": lost, "samples": samples}


def paused(live: LiveRun, follower: Follower, number: int) -> list[str]:
    """Pause, look whether the run stands still, and go on; what went wrong."""
    live.pause()
    until = time.monotonic() + 20
    while live.folder.status() != "paused" and time.monotonic() < until:
        time.sleep(0.05)
    follower.poll()
    time.sleep(PAUSED)
    moved = follower.poll() and [e for e in follower.new if isinstance(e, StepDone)]
    live.resume()
    return [f"pause {number}: {len(moved)} batches went by in it"] if moved else []


def left_over(run: RunFolder) -> list[str]:
    """Half-written files that stayed."""
    return [f"{f.name} is left" for f in run.path.rglob("*.tmp")]


def found(told: dict[str, Any]) -> dict[str, Any]:
    """The slopes of the samples from the tenth minute on (of a short run: from its first third), and what broke a promise."""
    every = told["samples"]
    start = min(600.0, every[-1]["second"] / 3)
    late = [sample for sample in every if sample["second"] >= start]
    columns = {name: np.array([float(sample[name]) for sample in late]) for name in late[0]}
    hours, batches = columns["second"] / 3600, columns["step"]
    slopes = {
        f"{name} an hour": slope(hours, values)
        for name, values in columns.items() if name not in ("second", "step", "load", "kernel MB")
    }  # fmt: skip
    slopes["kernel bytes a batch"] = slope(batches, 1e6 * columns["kernel MB"])
    above = []
    for name, one in slopes.items():
        most = next((value for word, value in MOST.items() if word in name), 0.001)  # of the disk: a kilobyte
        above += [f"{name}: {one['low']:g} at least, promised {most:g} at most"] if one["low"] > most else []
    return {"slopes": slopes, "lost": told["lost"] + above}


def main() -> None:
    """Train, watch, and write down."""
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("--minutes", type=float, default=120)
    words.add_argument("--turns", type=int, default=1000, help="of tau, spread over the whole")
    words.add_argument("--out", type=Path, default=FILE)
    options = words.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        root.mkdir()
        write_notebook(root / "bench.ipynb", "0")
        with jupyter(root, Path(folder), "bench.ipynb") as (address, server), chromium() as page:
            told = watched(Desk(page, address, server.pid, root), options.minutes, options.turns, options.out)
    told = {"machine": machine(), **told, **found(told)}
    told["samples"] = told["samples"][:: max(1, len(told["samples"]) // 120)]  # the file keeps one a minute
    options.out.write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps(told["slopes"], indent=1), *(told["lost"] or ["nothing was lost"]), sep="\n")


if __name__ == "__main__":
    main()
