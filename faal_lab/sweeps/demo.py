"""Run the demo: an adversarially trained model, made fair in four epochs, beside its control arm; then the report.

Each notebook is one papermill process. Its progress is read from the run folder it writes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from faal_lab.errors import FaalLabError
from faal_lab.evaluation.comparison import combine_seeds
from faal_lab.evaluation.verdicts import Verdicts
from faal_lab.results.figures import INK, RUN_COLOURS, styled
from faal_lab.results.tables import ATTACK_TITLES
from faal_lab.runs import RunFolder
from faal_lab.runs.files import replace_file
from faal_lab.runs.heartbeat import is_alive, read_heartbeat
from faal_lab.runs.progress import share_bar

if TYPE_CHECKING:
    import plotly.graph_objects as go


ROOT = Path(__file__).resolve().parents[2]  # the notebooks lie beside the package, in the checkout


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
    from faal_lab.evaluation.groups import read_runs
    from faal_lab.results.tables import result_rows, text_table

    verdicts = {run.name: run.verdicts for run in read_runs([str(out / n) for n in ("base", "control", "faal")])}
    print(f"\n{text_table(verdicts)}\n\nDone in {time.monotonic() - started:.0f} s. Report: {out / 'report.html'}")
    return result_rows(verdicts)


Rows = list[dict[str, Any]]
RUNS = ("base", "control", "faal")


def over_seeds(out: Path, seeds: list[int], quick: bool = False) -> Path:
    """The demo for several seeds, and what they say together; a finished seed is not made again.

    Writes `seeds.json` (returned) and `seeds.html` into `out`. Raises DemoError.
    """
    found: dict[int, Rows] = {}
    for seed in seeds:
        rows = out / _name(seed, quick) / "rows.json"
        if not rows.exists():
            print(f"\n== seed {seed} ==")
            made = demo(_cleared(rows.parent), seed, quick)
            replace_file(rows, json.dumps(made, indent=1).encode())
        found[seed] = json.loads(rows.read_text(encoding="utf-8"))
    tables = list(found.values())
    means, changes = mean_rows(tables), [*differences(tables, "base"), *differences(tables, "control")]
    print(f"\nMean over seeds {', '.join(map(str, seeds))}, in percent:\n{text_of(means, changes)}")
    path = out / "seeds.json"
    path.write_text(json.dumps({"seeds": found, "mean": means, "differences": changes}, indent=1), encoding="utf-8")
    attack = tables[0][-1]["attack"]
    folders = {run: [out / _name(seed, quick) / run for seed in seeds] for run in RUNS}
    seed_bars(folders, attack).write_html(out / "seeds.html", include_plotlyjs=True, config={"responsive": True})
    return path


def _name(seed: int, quick: bool) -> str:
    return f"seed-{seed}" + ("-quick" if quick else "")  # a quick try must never pass for the real thing


def _cleared(folder: Path) -> Path:
    """A folder for a seed whose earlier attempt did not finish: that attempt is moved aside, not deleted."""
    if folder.exists():
        number = 1
        while (aside := folder.with_name(f"{folder.name}.unfinished-{number}")).exists():
            number += 1
        folder.rename(aside)
    return folder


def mean_rows(tables: list[Rows]) -> Rows:
    """Average and worst class of each run and attack, averaged over tables of the same shape."""
    means = []
    for rows in zip(*tables, strict=True):
        average, worst = (float(np.mean([r[key] for r in rows])) for key in ("average", "worst"))
        means.append({"run": rows[0]["run"], "attack": rows[0]["attack"], "average": average, "worst": worst})
    return means


def differences(tables: list[Rows], against: str) -> Rows:
    """FAAL minus `against`, seed by seed: mean and 95 % t-interval over the seeds (NaN for one seed)."""
    made = []
    for attack in dict.fromkeys(row["attack"] for row in tables[0]):
        entry: dict[str, Any] = {"of": "faal", "against": against, "attack": attack}
        for key in ("average", "worst"):
            faal, other = (_column(tables, run, attack, key) for run in ("faal", against))
            found = combine_seeds(np.subtract(faal, other).tolist())
            entry[key] = [found.mean, *(np.nan if end is None else end for end in (found.low, found.high))]
        made.append(entry)
    return made


def _column(tables: list[Rows], run: str, attack: str, key: str) -> list[float]:
    return [row[key] for rows in tables for row in rows if (row["run"], row["attack"]) == (run, attack)]


def text_of(means: Rows, changes: Rows) -> str:
    """Means and differences for a terminal."""
    lines = [f"{r['run']:<10} {r['attack']:<11} average {r['average']:5.1f}   worst class {r['worst']:5.1f}" for r in means]
    lines.append("\nFAAL minus the other, seed by seed, with the 95 % interval over seeds:")
    for entry in changes:
        parts = [f"{key} {v[0]:+5.1f} [{v[1]:+5.1f}, {v[2]:+5.1f}]" for key, v in entry.items() if isinstance(v, list)]
        lines.append(f"{entry['against']:<10} {entry['attack']:<11} {'   '.join(parts)}")
    return "\n".join(lines)


def seed_bars(folders: dict[str, list[Path]], attack: str) -> go.Figure:
    """Accuracy of each class under `attack`: the mean over seeds, whiskers from the lowest to the highest seed."""
    import plotly.graph_objects as go

    figure, names = go.Figure(), ()
    for number, (run, paths) in enumerate(folders.items()):
        verdicts = [Verdicts.read(RunFolder(path).verdicts_file()) for path in paths]
        names = verdicts[0].class_names
        rates = np.array([100 * np.divide(*v.counts(attack)) for v in verdicts])  # [seeds, C]
        mean = rates.mean(0)
        figure.add_bar(
            name=run, x=list(names), y=mean, marker_color=RUN_COLOURS[number],
            error_y={
                "symmetric": False, "array": rates.max(0) - mean, "arrayminus": mean - rates.min(0),
                "thickness": 1, "width": 2, "color": INK,
            },
        )  # fmt: skip
    figure.update_yaxes(title="accuracy, %", range=[0, 100])
    figure.update_xaxes(title="class", type="category")
    count = len(next(iter(folders.values())))
    title = f"{ATTACK_TITLES[attack]} accuracy by class: mean of {count} seeds, whiskers from lowest to highest"
    return styled(figure, title=title, barmode="group")
