"""Make the jobs of a plan, each after the jobs it needs, and report their states."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Protocol

from faal_lab.runs import RunFolder
from faal_lab.sweeps import job as jobs
from faal_lab.sweeps.checks import completed, trains
from faal_lab.sweeps.job import Order
from faal_lab.sweeps.plan import Job, Plan, SweepError
from faal_lab.sweeps.status import Status, code_version, fingerprints, read_status

_LOOK = 0.2  # seconds between two polls
KEPT, BLOCKED = "kept", "blocked"  # done earlier; not started, because a job that it needs failed


class Engine(Protocol):
    """A place that makes jobs: this machine or others."""

    def free(self) -> bool:
        """Return whether it can take a job now."""
        ...

    def start(self, order: Order) -> None:
        """Start a job. Raises OSError if its folder is not writable."""
        ...

    def ended(self) -> list[tuple[str, Status]]:
        """Return the jobs that ended since the last call, with their outcomes."""
        ...

    def close(self) -> None:
        """End the running jobs in order."""
        ...


class Local:
    """Processes of this machine: one job per GPU, or CPU threads shared evenly between jobs."""

    def __init__(self, workers: int, gpus: Sequence[int], threads: int, more: tuple[str, ...]) -> None:
        own = {"OMP_NUM_THREADS": str(threads or max(1, cores() // workers)), "CUDA_VISIBLE_DEVICES": ""}
        self._free = [{"CUDA_VISIBLE_DEVICES": str(gpu)} for gpu in gpus] or [own] * workers
        self._more = more
        self._running: dict[str, tuple[Order, dict[str, str], subprocess.Popen[bytes]]] = {}

    def free(self) -> bool:
        """Return whether it can take a job now."""
        return bool(self._free)

    def start(self, order: Order) -> None:
        """Start a job. Raises OSError if its folder is not writable."""
        own = self._free.pop()
        try:
            self._running[order.key] = order, own, jobs.start(order, jobs.environment(self._more, own))
        except OSError:
            self._free.append(own)
            raise

    def ended(self) -> list[tuple[str, Status]]:
        """Return the jobs that ended since the last call, with their outcomes."""
        found = []
        for key, (order, own, process) in list(self._running.items()):
            if process.poll() is not None:
                del self._running[key]
                self._free.append(own)
                found.append((key, jobs.outcome(order, process.returncode)))
        return found

    def close(self) -> None:
        """End the running jobs. All get SIGTERM first, so that none waits for another."""
        for _, _, process in self._running.values():
            with suppress(OSError):
                process.terminate()
        for _, _, process in self._running.values():
            jobs.stop(process)


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def local_engine(plan: Plan, workers: int = 0, gpus: Sequence[int] | None = None) -> Local:
    """Return an engine for this machine: all its GPUs or the given `gpus`, else `workers` processes.

    `workers` also limits the number of GPUs. 0: all GPUs, or one process per core, at most four. Raises SweepError for a GPU
    that does not exist.
    """
    import torch

    count = torch.cuda.device_count()
    missing = [gpu for gpu in gpus or () if gpu not in range(count)]
    if missing:
        raise SweepError(
            f"GPU {missing[0]} is not there: this machine has {count or 'none'}{f', from 0 to {count - 1}' if count else ''}."
        )
    chosen = list(range(count))[: workers or None] if gpus is None else list(gpus)[: workers or None]
    return Local(workers or min(4, cores()), chosen, plan.threads, plan.environment)


def wanted(plan: Plan, *, force: bool = False, any_code: bool = False) -> dict[str, Order | None]:
    """Return the order for each job; None if it is done with the same parameters, inputs and code.

    any_code: keep results of another version of the package. force: keep no result.
    """
    hashes, found = fingerprints(plan), dict[str, Order | None]()
    for key, job in plan.jobs.items():
        before = read_status(job.home)
        done = before is not None and before.state == "done"
        kept = done and before is not None and before.fingerprint == hashes[key] and (any_code or before.code == code_version())
        if kept and not force and _is_there(job) and all(found.get(need) is None for need in job.needs):
            found[key] = None
        else:
            words = (str(job.notebook), completed(job), str(job.folder), str(job.home), hashes[key], code_version())
            found[key] = Order(key, job.stage, *words, anew=force or done, limit=3600 * plan.limit_hours)
    return found


def _is_there(job: Job) -> bool:
    """Return whether a job's result still exists."""
    return RunFolder(job.folder).checkpoint().is_file() if trains(job.notebook) else job.folder.is_dir()


def make_all(
    plan: Plan, engine: Engine, orders: dict[str, Order | None], told: Callable[[dict[str, Status | str]], None] = lambda _: None
) -> dict[str, Status | str]:
    """Make every job of `orders` (see `wanted`).

    Calls `told` with the state of all jobs a few times a second. Returns the outcome of each: a Status (done or
    failed), KEPT or BLOCKED. A failure stops only the jobs that depend on it.
    """
    sorter = TopologicalSorter({key: set(job.needs) & set(plan.jobs) for key, job in plan.jobs.items()})
    sorter.prepare()
    state: dict[str, Status | str] = {}
    queue: list[str] = []
    try:
        while sorter.is_active():
            for key in sorter.get_ready():
                order = orders[key]
                if order is None or any(_stands_in_the_way(state.get(need)) for need in plan.jobs[key].needs):
                    state[key] = KEPT if order is None else BLOCKED
                    sorter.done(key)
                else:
                    queue.append(key)
            while queue and engine.free():
                key = queue.pop(0)
                order = orders[key]
                assert order is not None
                state[key] = Status("running", order.fingerprint, order.code, order.stage, Path(order.notebook).stem)
                try:
                    engine.start(order)
                except OSError as error:
                    state[key] = replace(_running(state[key]), state="failed", error=f"{type(error).__name__}: {error}")
                    sorter.done(key)
            for key, status in engine.ended():
                state[key] = status
                sorter.done(key)
            told(state)
            if sorter.is_active():
                time.sleep(_LOOK)
    finally:
        engine.close()
    return state


def _running(status: Status | str) -> Status:
    assert isinstance(status, Status)
    return status


def _stands_in_the_way(status: Status | str | None) -> bool:
    return status == BLOCKED or (isinstance(status, Status) and status.state == "failed")


def succeeded(state: dict[str, Status | str]) -> bool:
    """Return whether every job is done."""
    return all(status == KEPT or (isinstance(status, Status) and status.state == "done") for status in state.values())
