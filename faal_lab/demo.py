"""The main job: an adversarially trained model, made fair in four epochs, beside its control arm; then the report.

Knows: which parameterized notebooks to run in which order. Must not know: what they do inside.
Each notebook is one papermill process; its progress is read from the run folder it writes, like anybody's.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faal_lab.errors import FaalLabError
from faal_lab.progress import share_bar
from faal_lab.runs import RunFolder
from faal_lab.runs.lock import is_alive, read_heartbeat

ROOT = Path(__file__).resolve().parent.parent  # the notebooks lie beside the package, in the checkout


class DemoError(FaalLabError, RuntimeError):
    """A notebook that failed; the message is its last lines and where the executed copy lies."""


@dataclass(frozen=True)
class Job:
    """One papermill run: which notebook, with what, and the run folders that tell its progress."""

    title: str
    notebook: str
    parameters: dict[str, Any]
    watched: tuple[Path, ...] = ()


def jobs(out: Path, seed: int, quick: bool) -> list[Job]:
    """The five notebooks of the demo. `quick` is a few batches and no AutoAttack: it shows that all works, nothing else."""
    names = {name: out / name for name in ("base", "control", "faal")}
    base: dict[str, Any] = {"out": str(names["base"]), "seed": seed, "split_seed": seed}
    tuned: dict[str, Any] = {"base": str(names["base"])}
    if quick:
        base |= {"epochs": 1, "batch_size": 250, "attack_steps": 2}
        tuned |= {"epochs": 1, "batch_size": 250, "attack_steps": 2}
    attacks = "clean,pgd-20,cw-20" + ("" if quick else ",autoattack")
    control = {**tuned, "out": str(names["control"]), "fairness": "none"}
    faal = {**tuned, "out": str(names["faal"]), "fairness": "faal"}
    todo = [
        Job("train base by PGD-AT", "train", base, (names["base"],)),
        Job("fine-tune by plain AT (control)", "finetune", control, (names["control"],)),
        Job("fine-tune by FAAL", "finetune", faal, (names["faal"],)),
    ]  # fmt: skip
    runs = ",".join(map(str, names.values()))
    todo.append(Job("evaluate all three", "evaluate", {"runs": runs, "attacks": attacks}, tuple(names.values())))
    report = {"runs": runs, "out": str(out / "report.html")}
    return [*todo, Job("write the report", "report", report)]


def execute(job: Job, out: Path, label: str) -> None:
    """Run one notebook by papermill, showing a progress bar; raises DemoError where it fails."""
    source = ROOT / "parameterized" / f"{job.notebook}.ipynb"
    if not source.is_file():
        raise DemoError(f"{source} is missing: the demo runs from a checkout (pip install -e .), where the notebooks lie.")
    copy = out / f"{job.title.split(' (')[0].replace(' ', '-')}.ipynb"
    words = [
        sys.executable,
        "-m",
        "papermill",
        str(source),
        str(copy),
        "-k",
        "python3",
        "--no-progress-bar",
        "--cwd",
        os.getcwd(),
    ]
    for name, value in job.parameters.items():
        words += ["-p", name, str(value)]
    log = copy.with_suffix(".log")
    with open(log, "wb") as stream, share_bar(f"{label} {job.title:<32}", doing="starting a Jupyter kernel and torch") as told:
        process = subprocess.Popen(words, stdout=stream, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                _follow(job.watched, told)
                time.sleep(0.2)
        except KeyboardInterrupt:
            process.wait()  # the terminal sent it the same signal: let it save its state
            raise
    if process.returncode:
        with open(log, encoding="utf-8", errors="replace") as stream:
            tail = "".join(deque(stream, 12))
        raise DemoError(f"{job.title} failed (exit code {process.returncode}); the executed notebook is {copy}.\n{tail}")


def _follow(watched: tuple[Path, ...], told: Callable[[str, float], None]) -> None:
    """Tell the progress of the run folder at work; each of several is an equal part of the whole."""
    for number, path in enumerate(watched):
        beat = read_heartbeat(RunFolder(path).heartbeat_file)
        if beat is not None and is_alive(beat) and beat["activity"] != "ended":
            title = f"{path.name}: {beat['activity']}" if len(watched) > 1 else str(beat["activity"])
            told(title, (number + float(beat.get("share", 0))) / len(watched))


def demo(out: Path, seed: int = 0, quick: bool = False) -> list[dict[str, Any]]:
    """Run the main job into `out` and print its table; returns the table's rows. Raises DemoError."""
    out.mkdir(parents=True)
    todo = jobs(out, seed, quick)
    started = time.monotonic()
    for number, job in enumerate(todo, 1):
        execute(job, out, f"{number}/{len(todo)}")
    from faal_lab.evaluated import read_runs
    from faal_lab.tables import result_rows, text_table

    verdicts = {run.name: run.verdicts for run in read_runs([str(out / n) for n in ("base", "control", "faal")])}
    print(f"\n{text_table(verdicts)}\n\nDone in {time.monotonic() - started:.0f} s. Report: {out / 'report.html'}")
    return result_rows(verdicts)
