"""Show a sweep: its plan, lines and a bar in a terminal, rows for a table."""

from __future__ import annotations

import heapq
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from faal_lab.errors import RunFolderError
from faal_lab.runs import RunFolder
from faal_lab.runs.progress import Bar
from faal_lab.sweeps.job import Order
from faal_lab.sweeps.plan import Job, Plan
from faal_lab.sweeps.status import Durations, Status, at_work, fingerprints, progress_of, read_status

_SHOWN = 3  # running jobs that the bar names


@dataclass(frozen=True)
class Row:
    """One job in a table. `share` is the finished part of its work, 0 to 1; 0 if unknown.

    `state` is waiting, running, stopped (its process is gone), done, failed or blocked.
    """

    key: str
    state: str
    share: float
    text: str


def span(seconds: float) -> str:
    """Format a duration: 12 s, 3 min, 2.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def running_text(job: Job, since: float, expected: float | None) -> tuple[str, float]:
    """Return text (activity, epoch, time left) and share of a job that began `since` seconds ago."""
    found = progress_of(job)
    share = found[1] if found else min(0.99, since / expected) if expected else 0.0
    words = [found[0]] if found and found[0] != "training" else []
    if found and found[0] == "training":
        words.append(_epoch(job, share))
    if share > 0.02:
        words.append(f"{span(since / share - since)} left")
    return ", ".join(filter(None, words)) or span(since), share


def _epoch(job: Job, share: float) -> str:
    try:
        epochs = RunFolder.open(job.folder).config().epochs
    except RunFolderError:
        return ""
    return f"epoch {min(epochs, int(share * epochs) + 1)} of {epochs}"


class Terminal:
    """A line for each start and end of a job and, in a terminal, a bar that names running jobs."""

    def __init__(self, plan: Plan, bar: Bar) -> None:
        self._plan, self._known = plan, dict[str, str]()
        self._began: dict[str, float] = {}
        self._hashes, self._durations = fingerprints(plan), Durations.beside(plan)
        self._bar, self._ended, self._reached = bar, 0, 0.0

    def told(self, state: Mapping[str, Status | str]) -> None:
        """Print the jobs whose state changed, and update the bar."""
        running, shares = [], 0.0
        for key, status in state.items():
            name = status if isinstance(status, str) else status.state
            if name == "running":
                self._began.setdefault(key, time.monotonic())
                text, share = running_text(
                    self._plan.jobs[key], time.monotonic() - self._began[key],
                    self._durations.of(self._plan.jobs[key], self._hashes[key]),
                )  # fmt: skip
                running.append(f"{key} ({text})")
                shares += share
            if self._known.get(key) != name:
                self._known[key] = name
                self._line(key, name, status)
        self._reached = max(self._reached, self._ended + shares)  # an estimate that falls must not turn the bar back
        self._bar.at(self._reached, doing="; ".join(running[:_SHOWN]) + (" ..." if len(running) > _SHOWN else ""))

    def _line(self, key: str, name: str, status: Status | str) -> None:
        if name == "running":
            said = "begun"
        elif isinstance(status, str):
            said = {"kept": "done earlier", "blocked": "not begun: one that it needs failed"}[status]
        elif name == "failed":
            said = f"FAILED: {status.error}\n  {self._plan.jobs[key].home}"
        else:
            said = f"done in {span(time.monotonic() - self._began.get(key, time.monotonic()))}"
        if name != "running":
            self._ended += 1
        self._bar.write(f"{key}: {said}")


def rows(plan: Plan) -> list[Row]:
    """Return one row per job, from the sweep's folder alone. Any process may be making the sweep."""
    found = []
    for key, job in plan.jobs.items():
        status = read_status(job.home)
        if status is None or status.state == "clearing":
            behind = [row.key for row in found if row.key in job.needs and row.state in ("failed", "blocked")]
            text = f"needs {behind[0]}" if behind else ""
            found.append(Row(key, "blocked" if behind else "waiting", 0.0, text))
        elif status.state == "running" and not at_work(job.home):
            found.append(Row(key, "stopped", 0.0, "started again, the sweep goes on with it"))
        elif status.state == "running":
            began = (job.home / "status.json").stat().st_mtime
            text, share = running_text(job, max(0.0, time.time() - began), None)
            found.append(Row(key, "running", share, text))
        else:
            found.append(Row(key, status.state, 1.0 if status.state == "done" else 0.0, status.error or span(status.seconds)))
    return found


def plan_text(plan: Plan, orders: Mapping[str, Order | None], workers: int) -> str:
    """List the jobs in order, and estimate the total time from earlier runs."""
    durations, hashes = Durations.beside(plan), fingerprints(plan)
    guessed = {key: durations.of(plan.jobs[key], hashes[key]) for key, order in orders.items() if order is not None}
    wide = max(map(len, plan.jobs), default=0)
    lines = [f"{plan.name}: {plan.about}".rstrip(": "), f"{len(plan.jobs)} jobs into {plan.out}", ""]
    for key, job in plan.jobs.items():
        guess = guessed.get(key)
        what = "done already" if orders[key] is None else f"about {span(guess)}" if guess is not None else "time unknown"
        after = f" after {', '.join(job.needs[:3])}{' ...' if len(job.needs) > 3 else ''}" if job.needs else ""
        lines.append(f"  {key:<{wide}}  {job.notebook.stem:<9} {what}{after}")
    known = [g for g in guessed.values() if g is not None]
    lines.append("")
    if not guessed:
        lines.append("Nothing is left to be made.")
    elif known:
        filled = {key: guess if guess is not None else sum(known) / len(known) for key, guess in guessed.items()}
        unknown = f"; {len(guessed) - len(known)} guessed from the others" if len(known) < len(guessed) else ""
        lines.append(
            f"About {span(_length(plan, filled, workers))} with {workers} at once, by earlier runs on this machine{unknown}."
        )
    else:
        lines.append("No earlier run tells how long that takes.")
    for unit, hours in plan.hours.items():
        lines.append(f"Its author's estimate: {hours:g} hours of {unit.upper()}.")
    return "\n".join(lines)


def _length(plan: Plan, seconds: Mapping[str, float], workers: int) -> float:
    """Return the seconds until the last job ends, if each starts as early as possible."""
    ends: dict[str, float] = {}
    free = [0.0] * max(1, workers)
    for key, job in plan.jobs.items():
        if key in seconds:
            begin = max([heapq.heappop(free), *(ends.get(need, 0.0) for need in job.needs)])
            ends[key] = begin + seconds[key]
            heapq.heappush(free, ends[key])
    return max(ends.values(), default=0.0)


def failed_text(plan: Plan, state: Mapping[str, Status | str]) -> str:
    """List failed jobs with error, notebook and log, then the jobs they block."""
    lines = []
    for key, status in state.items():
        if isinstance(status, Status) and status.state == "failed":
            home: Path = plan.jobs[key].home
            lines.append(f"{key} failed: {status.error}\n  notebook: {home / 'executed.ipynb'}\n  log: {home / 'log.txt'}")
    blocked = [key for key, status in state.items() if status == "blocked"]
    if blocked:
        lines.append(f"Not begun for that reason: {', '.join(blocked)}.")
    return "\n".join(lines)
