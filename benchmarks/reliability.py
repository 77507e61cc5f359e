"""Make every promise of safety a figure: what was tried, how often, what was lost.

    make reliability                                  # all rows
    python benchmarks/reliability.py --rows damage signals
    python benchmarks/reliability.py --quick --out few.json   # few cases of each, as the tests do

It runs on Linux.

A row is a promise with a number of tries and a list of losses; it is met if the list is empty and the tries are as many as
promised. The JSON is written after each row, so that an interrupted measurement keeps what it has. `docs/reliability.md` is
written from it by `docs/reliability_page.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import reliability_disk as disk
import reliability_files as files
import reliability_kills as kills
import reliability_masking as masking
import reliability_numbers as numbers
import reliability_servers as servers
import reliability_sweeps as sweeps
import reliability_words as words
import torch
from side_by_side import machine

AT_ONCE = 2  # rows, of one thread each: of such small networks a second thread makes a batch hardly quicker
FILE = Path(__file__).with_suffix(".json")
Measure = Callable[[Path, bool], dict[str, Any]]  # an empty folder, whether few cases will do -> "tried", "lost", and more


@dataclass(frozen=True)
class Promise:
    """What is promised, how many tries make it a figure, and what tries it."""

    text: str
    least: int  # tries of a whole measurement
    measure: Measure


ROWS = {
    "training killed": Promise(
        "Training killed by SIGKILL at a random instant leaves a readable folder; resumed, it ends as if nothing had happened.",
        120,
        kills.training,
    ),
    "evaluation killed": Promise(
        "An evaluation killed at a random instant and started again gives the same verdict for each image.", 60, kills.evaluation
    ),
    "report killed": Promise("A report killed at a random instant leaves the old page or the new one, whole.", 10, kills.report),
    "signals": Promise(
        "SIGINT, SIGTERM and SIGHUP end a training with its exit code, at most one step lost. No process stays.",
        60,
        kills.signals,
    ),
    "sweeps": Promise(
        "Each job of a sweep is made once, also by two processes; one that fails or hangs is named, and the rest goes on.",
        200,
        sweeps.sweeps,
    ),
    "disk and clock": Promise(
        "A full, read-only, slow or shared disk, or a clock set back, changes no number; what cannot be written is named.",
        30,
        disk.disk,
    ),
    "damage": Promise(
        "A file of a run that is changed, cut, emptied or exchanged is refused by its name, or changes no number.",
        1000,
        files.damage,
    ),
    "not finite": Promise(
        "A value that is not finite, or a label out of range, ends a training there in one line; the last good state stays.",
        24,
        files.not_finite,
    ),
    "hostile files": Promise(
        "No file of a stranger runs code, leaves its folder, or takes memory without bound.", 40, files.hostile
    ),
    "servers": Promise(
        "JupyterLab and the page listen on 127.0.0.1 alone, and refuse whoever has no token, another origin or another name.",
        300,
        servers.servers,
    ),
    "same seed": Promise("The same seed gives the same bytes where that is promised.", 10, numbers.same),
    "intervals": Promise("A 95 % interval holds the truth in at least 94.5 % of simulated evaluations.", 40, numbers.intervals),
    "mixed up": Promise("Verdicts of other weights, images or settings are not joined or compared.", 20, numbers.mixed_up),
    "masked gradients": Promise(
        "Every kind of masked gradients is found, and no network without is accused.", 100, masking.masking
    ),
    "fuzzing": Promise(
        "Settings, sweep files, records and command lines of any form give our errors, no traceback.", 20000, words.fuzz
    ),
}


def measured(name: str, quick: bool) -> dict[str, Any]:
    """Measure a row in a folder of its own."""
    promise, begun = ROWS[name], time.monotonic()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        found = promise.measure(Path(folder).resolve(), quick)
    met = not found["lost"] and (quick or found["tried"] >= promise.least)
    return {"promise": promise.text, "met": met, **found, "seconds": round(time.monotonic() - begun)}


def apart(name: str, quick: bool) -> dict[str, Any]:
    """Measure a row in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "row.json"
        words = [sys.executable, __file__, "--rows", name, "--out", str(out), *(["--quick"] if quick else [])]
        ended = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if not out.exists():
            return {"promise": ROWS[name].text, "met": False, "tried": 0, "lost": [ended.stderr[-500:]], "seconds": 0}
        return json.loads(out.read_text())["rows"][name]


def main(arguments: list[str] | None = None) -> int:
    """Measure the rows, write them down, and return 1 where one is not met."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few cases of each row")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--out", type=Path, default=FILE, help="the JSON; rows that are not measured are kept in it")
    options = parser.parse_args(arguments)
    if options.quick and options.out == FILE:
        parser.error("--quick needs --out: the committed figures are of whole measurements")
    told = json.loads(options.out.read_text()) if options.out.exists() else {}
    rows = told.get("rows", {})
    pool = ThreadPoolExecutor(1 if options.quick else AT_ONCE)
    alone = options.quick or len(options.rows) == 1
    torch.set_num_threads(torch.get_num_threads() if alone else 1)  # as it stands in the JSON
    longest_first = sorted(options.rows, key=lambda name: -rows.get(name, {"seconds": math.inf})["seconds"])
    work = {pool.submit(measured if alone else apart, name, options.quick): name for name in longest_first}
    for future in as_completed(work):
        rows[name := work[future]] = future.result()
        row, ordered = rows[name], {n: rows[n] for n in ROWS if n in rows}
        options.out.write_text(json.dumps({"machine": machine(), "rows": ordered}, indent=1) + "\n")
        print(
            f"{'met' if row['met'] else 'NOT MET':<8} {name}: {row['tried']} tried, {len(row['lost'])} lost, {row['seconds']} s"
        )
        for loss in row["lost"][:10]:
            print(f"         {loss}")
    return 0 if all(rows[name]["met"] for name in options.rows) else 1


if __name__ == "__main__":
    sys.exit(main())
