"""What the live dashboard costs a run, how quick it is and whether it stays small, with a real page open on the same cores.

    python benchmarks/dashboard.py           # about 20 minutes; JupyterLab and Chromium are started and ended
    python benchmarks/dashboard.py --quick   # two minutes, to see that it works

Cost: one run in a child process, as the workbench starts it, watched and not watched by turns. Watched means a kernel, a page of
JupyterLab and the workbench in it; not watched means that there is neither page nor kernel. Other work on the machine is told by
the cores it used in that window, beside the load average.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from desk import LAST, Desk, Frames, cores, wait_for_quiet
from in_browser import chromium, jupyter, write_notebook
from side_by_side import machine

from faal_lab.runs import Heartbeat, RunFolder
from faal_lab.runs.config import Config
from faal_lab.runs.events import EpochDone, RunStarted, StepDone
from faal_lab.training.background import LiveRun

TARGETS = {"cost at 10 classes": 0.03, "cost at 100 classes": 0.05, "seconds from batch to picture": 0.5}
_RATE, _LENGTH = 200, 20_000  # steps a second, steps of the made-up run
_PROBE = """() => { const view = document.querySelector('.faal-view').faal, panel = view.panels.get('weights'); let last = -1;
  window.seen = []; window.first = view.number;
  const look = () => { const x = panel.data && view.drawn === view.number ? panel.data.x.at(-1) : last;
    if (x !== last) window.seen.push([last = x, Date.now() / 1000]);
    requestAnimationFrame(look); };
  look(); }"""
_SEEN = "() => ({seen: window.seen, updates: document.querySelector('.faal-view').faal.number - window.first})"


def clock(folder: RunFolder) -> np.ndarray:
    """Step numbers and the times they were written at, [T, 2]."""
    records = map(json.loads, folder.timing_file.read_text().splitlines())
    return np.array([(r["step"], r["time"]) for r in records if r["event"] == "StepDone"]).reshape(-1, 2)


def rate(written: np.ndarray, start: float, end: float) -> float:
    """Steps a second of those of `written` [T, 2] between two clock times; raises ValueError where there are not two."""
    times = written[(written[:, 1] >= start) & (written[:, 1] <= end), 1]
    if len(times) < 2:
        raise ValueError(f"{len(times)} steps in {end - start:.0f} seconds; at least two are needed. Take longer windows.")
    return float((len(times) - 1) / (times[-1] - times[0]))


def costs(rounds: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Which share of its speed a run lost by being watched, over rounds: median, lowest, highest."""
    lost = [1 - r["watched"]["steps a second"] / r["alone"]["steps a second"] for r in rounds]
    return {"median": float(np.median(lost)), "low": min(lost), "high": max(lost)}


def delays(written: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Seconds from the writing of each batch [T, 2] to the first picture [K, 2] that has it, but for those in the very first."""
    inside = written[(written[:, 0] > seen[0, 0]) & (written[:, 0] <= seen[-1, 0])]
    return seen[np.searchsorted(seen[:, 0], inside[:, 0]), 1] - inside[:, 1]


def quantiles(values: np.ndarray) -> dict[str, float]:
    """Median, 95 % quantile and largest."""
    return {"median": float(np.median(values)), "95 %": float(np.quantile(values, 0.95)), "largest": float(values.max())}


def settings(classes: int, folder: Path) -> Config:
    """The digits, or a folder of made-up images of 8x8 in so many classes; a run that does not end by itself."""
    if classes == 10:
        return Config(fairness="faal", epochs=100_000)
    return Config(data="folder", data_dir=str(draw(folder / "images", classes)), fairness="faal", epochs=100_000)


def draw(folder: Path, classes: int) -> Path:
    """40 images of 8x8 of each class: noise around a picture of the class's own."""
    from PIL import Image

    numbers = np.random.default_rng(0)
    for c in range(classes):
        (folder / f"class-{c:03d}").mkdir(parents=True)
        own = numbers.integers(40, 215, (8, 8, 3))
        for n in range(40):
            pixels = np.clip(own + numbers.integers(-40, 40, (8, 8, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"class-{c:03d}" / f"{n}.png")
    return folder


@contextlib.contextmanager
def going(config: Config, runs: Path, threads: str) -> Iterator[tuple[RunFolder, psutil.Process]]:
    """A run in a child process; `threads` is its OMP_NUM_THREADS, "" torch's own choice."""
    kept = os.environ.pop("OMP_NUM_THREADS", None)
    if threads:
        os.environ["OMP_NUM_THREADS"] = threads
    live = LiveRun.start(config, runs / "run")
    os.environ.pop("OMP_NUM_THREADS", None)
    if kept is not None:
        os.environ["OMP_NUM_THREADS"] = kept
    try:
        while not live.folder.metrics_file.exists() or len(clock(live.folder)) < 20:
            if not live.running():
                raise RuntimeError(live.error())
            time.sleep(0.2)
        beat = json.loads(live.folder.heartbeat_file.read_text())
        yield live.folder, psutil.Process(beat["pid"])
    finally:
        live.stop()
        live.wait(60)


def overhead(desk: Desk, classes: int, threads: str, rounds: int, window: float) -> dict[str, Any]:
    """Steps a second, watched and alone by turns, in windows of `window` seconds."""
    title = f"cost, {classes} classes, {threads + ' thread' if threads else 'default threads'}"
    found: dict[str, Any] = {"classes": classes, "OMP_NUM_THREADS": threads or "default", "seconds": window, "rounds": []}
    with tempfile.TemporaryDirectory() as folder:
        config = settings(classes, Path(folder))
        for number in range(rounds):
            quiet = wait_for_quiet()
            entry: dict[str, Any] = {"load before": os.getloadavg()[0], "cores of others before": quiet}
            with going(config, Path(folder) / str(number), threads) as (run, process):
                for part in ("alone", "watched") if number % 2 == 0 else ("watched", "alone"):
                    entry[part] = _window(desk, run, process, part == "watched", window)
            found["rounds"].append(entry)
            print(f"  {title}, round {number + 1} of {rounds}: {costs([entry])['median']:+.1%}", entry, flush=True)
    return found | {"cost": costs(found["rounds"])}


def _window(desk: Desk, run: RunFolder, process: psutil.Process, watched: bool, seconds: float) -> dict[str, Any]:
    desk.open(run.path.parent) if watched else desk.shut()
    desk.page.wait_for_timeout(4000)  # what the opening cost is over
    start, before = time.time(), desk.seconds(process)
    desk.page.wait_for_timeout(1000 * seconds)
    end, after = time.time(), desk.seconds(process)
    used = cores(before, after, end - start)
    desk.shut()
    return {"steps a second": round(rate(clock(run), start, end), 2), "cores": used}


def latency(desk: Desk, classes: int, window: float) -> dict[str, Any]:
    """Seconds from a batch to its picture, and what an update sends, over `window` seconds of a watched run on one thread."""
    quiet, frames = wait_for_quiet(), Frames(desk.page)
    with tempfile.TemporaryDirectory() as folder, going(settings(classes, Path(folder)), Path(folder) / "runs", "1") as (run, _):
        desk.open(run.path.parent)
        desk.page.wait_for_timeout(3000)
        desk.page.evaluate(_PROBE)
        frames.on = True
        desk.page.wait_for_timeout(1000 * window)
        frames.on = False
        found = desk.page.evaluate(_SEEN)
        late = delays(clock(run), np.array(found["seen"]))
    desk.shut()
    each = {
        f"{what} {way} an update": round(value / found["updates"], 1)
        for way, counts in frames.counts.items() for what, value in zip(("frames", "bytes"), counts, strict=True)
    }  # fmt: skip
    answer = {"classes": classes, "cores of others before": quiet, "batches": len(late), "updates": found["updates"]}
    answer |= {"seconds from batch to picture": quantiles(late), **each}
    print(f"  latency, {classes} classes:", answer, flush=True)
    return answer


def made_up(number: int, classes: int, epoch: int = 100) -> list[StepDone | EpochDone]:
    """Batch `number` of a run that nobody trained, and its epoch's end where it is one."""
    numbers = np.random.default_rng(number)
    weights, count = numbers.dirichlet(np.full(classes, 5.0)), numbers.multinomial(64, np.full(classes, 1 / classes))
    correct = numbers.binomial(count, 0.7)
    margin = [float(m) if n else None for m, n in zip(numbers.normal(-0.3, 0.2, classes), count, strict=True)]
    step = StepDone(
        number, (number - 1) // epoch, float(numbers.gamma(2.0)), 0.5, 0.1, 0.05, weights.tolist(), 0.5, count.tolist(), margin,
        correct.tolist(), correct.tolist(),
    )  # fmt: skip
    held = [20] * classes
    ends = number % epoch == 0
    return [step, EpochDone(number // epoch, number, held, correct.tolist(), correct.tolist())] if ends else [step]


def memory(desk: Desk, classes: int, length: int) -> dict[str, Any]:
    """What kernel and page hold while a made-up run of `length` steps goes by, after the page's rubbish was collected."""
    found: dict[str, Any] = {"classes": classes, "steps a second": _RATE, "samples": []}
    done = threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder.create(Path(folder) / "runs" / "run", Config(fairness="faal"), {})
        written = [0]

        def write() -> None:
            with Heartbeat(run.path, lambda: ("training", written[0] / length)), run.recording() as recorder:
                recorder.write(RunStarted([f"class {c}" for c in range(classes)], 100, length // 100, 0.5, 0.1, 0.05))
                started = time.monotonic()
                while written[0] < length and not done.is_set():
                    for _ in range(min(int((time.monotonic() - started) * _RATE) + 20, length) - written[0]):
                        written[0] += 1
                        for event in made_up(written[0], classes):
                            recorder.write(event)
                    time.sleep(0.02)
                done.wait()

        writer = threading.Thread(target=write)
        writer.start()
        try:
            time.sleep(1)
            desk.open(run.path.parent)
            session = desk.page.context.new_cdp_session(desk.page)
            for share in np.linspace(0.1, 1, 7):
                desk.page.wait_for_function(f"() => {LAST} >= {int(share * length)}", timeout=600_000)
                found["samples"].append(_held(desk, session))
                print(f"  memory, {classes} classes:", found["samples"][-1], flush=True)
        finally:
            done.set()
            writer.join()
    desk.shut()
    first, last = found["samples"][0], found["samples"][-1]
    grown = {key: round((last[key] - first[key]) / (last["step"] - first["step"]) * 1e6) for key in ("kernel MB", "page heap MB")}
    return found | {"bytes a step": grown}


def _held(desk: Desk, session: Any) -> dict[str, float]:
    """Megabytes of kernel and page, and how many nodes and listeners the page has."""
    session.send("HeapProfiler.collectGarbage")
    heap, counters = session.send("Runtime.getHeapUsage"), session.send("Memory.getDOMCounters")
    page = heap["usedSize"] + heap.get("backingStorageSize", 0)
    return {
        "step": int(desk.page.evaluate(f"() => {LAST}")), "kernel MB": round(desk.kernel().memory_info().rss / 1e6, 2),
        "page heap MB": round(page / 1e6, 2), "page nodes": counters["nodes"], "page listeners": counters["jsEventListeners"],
    }  # fmt: skip


def main() -> None:
    """Measure what is asked for, and write it down after each piece."""
    here = Path(__file__)
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("--quick", action="store_true", help="short windows, one round")
    words.add_argument("--pieces", default="one thread,latency,memory,cost", help="which to make (%(default)s)")
    words.add_argument("--rounds", type=int, default=3)
    words.add_argument("--out", type=Path, default=here.with_suffix(".json"))
    options = words.parse_args()
    found: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    rounds, window, length = (1, 8.0, 1000) if options.quick else (options.rounds, 30.0, _LENGTH)
    pieces = {
        "latency": lambda desk, classes: latency(desk, classes, window),
        "memory": lambda desk, classes: memory(desk, classes, length),
        "cost": lambda desk, classes: overhead(desk, classes, "", rounds, window),
        "one thread": lambda desk, classes: overhead(desk, classes, "1", rounds, window),
    }
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        root.mkdir()
        write_notebook(root / "bench.ipynb", "0")
        with jupyter(root, Path(folder), "bench.ipynb") as (address, server), chromium() as page:
            desk = Desk(page, address, server.pid, root)
            for piece in options.pieces.split(","):
                for classes in (10, 100):
                    found[f"{piece}, {classes} classes"] = pieces[piece](desk, classes)
                    found["machine"] = {**machine(), "cores": os.cpu_count(), "targets": TARGETS}
                    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
