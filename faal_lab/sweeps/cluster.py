"""Run jobs on other machines that see the same files, by Dask distributed (the extra `cluster`).

A job watches its parent process, so it ends when its worker dies. The scheduler gives the job to another worker, where a run
resumes from its last checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from faal_lab.errors import check_name
from faal_lab.sweeps import job as jobs
from faal_lab.sweeps.job import Order
from faal_lab.sweeps.plan import Plan, SweepError
from faal_lab.sweeps.status import Status

_QUEUES = ("slurm", "pbs", "sge", "lsf", "htcondor", "oar", "moab")
_TRIES = 3  # workers that may die during a job before the job counts as failed


class Cluster:
    """A Dask scheduler. Each thread of its workers makes one job at a time."""

    def __init__(self, client: Any, plan: Plan, owned: Any = None) -> None:
        self._client, self._owned, self._more = client, owned, plan.environment
        self._own = {"OMP_NUM_THREADS": str(plan.threads)} if plan.threads else {}
        self._running: dict[str, tuple[Order, Any]] = {}

    def free(self) -> bool:
        """Return whether a worker thread is free. Without workers, one job waits at the scheduler."""
        return len(self._running) < max(1, sum(self._client.nthreads().values()))

    def start(self, order: Order) -> None:
        """Hand a job to the scheduler."""
        future = self._client.submit(_make, order.__dict__, self._more, self._own, key=f"faal-{order.key}-{id(self)}", pure=False)
        self._running[order.key] = order, future

    def ended(self) -> list[tuple[str, Status]]:
        """Return the jobs that ended since the last call, with their outcomes."""
        found = []
        for key, (order, future) in list(self._running.items()):
            if future.done():
                del self._running[key]
                found.append((key, self._outcome(order, future)))
        return found

    def _outcome(self, order: Order, future: Any) -> Status:
        if future.status == "finished":
            return Status(**future.result())
        status = jobs.outcome(order, 1)
        error = f"{type(future.exception()).__name__}: {future.exception()}" if future.status == "error" else future.status
        return Status(**{**status.__dict__, "state": "failed", "error": error})

    def close(self) -> None:
        """Cancel running jobs, and end the workers that were started for this sweep."""
        for order, future in self._running.values():
            with suppress(OSError):
                (Path(order.home) / jobs.END).touch()
            future.cancel(force=True)
        self._client.close()
        if self._owned is not None:
            self._owned.close()


def _make(order: Mapping[str, Any], more: tuple[str, ...], own: Mapping[str, str]) -> dict[str, Any]:
    """Make the job on a worker. The worker's own GPU is in its environment already."""
    import os

    device = {name: os.environ[name] for name in ("CUDA_VISIBLE_DEVICES",) if name in os.environ}
    threads = {"OMP_NUM_THREADS": str(_threads())} if "OMP_NUM_THREADS" not in own else {}
    return jobs.execute(Order(**order), jobs.environment(more, {**device, **threads, **own}))


def _threads() -> int:
    """Return the cores of the worker's machine for each of the worker's threads."""
    from distributed import get_worker

    from faal_lab.sweeps.engine import cores

    return max(1, cores() // max(1, get_worker().state.nthreads))


def connect(where: str, plan: Plan, workers: int) -> Cluster:
    """Connect to a scheduler ("dask://HOST:PORT"), or start one for this sweep ("cluster").

    The second needs `cluster: {queue: slurm, workers: 4, ...}` in the sweep file; dask-jobqueue gets all other entries. Raises
    SweepError.
    """
    try:
        from distributed import Client
    except ImportError as error:
        raise SweepError("Other machines need Dask: pip install 'faal-lab[cluster]'.") from error
    if where.startswith("dask://"):
        address = where.removeprefix("dask://")
        try:
            return _configured(Client(address if "://" in address else f"tcp://{address}", timeout="10s"), plan)
        except OSError as error:
            raise SweepError(
                f"No Dask scheduler answers at {address}: start one (dask scheduler) or mend the address."
            ) from error
    if where != "cluster":
        raise SweepError(f"--where must be local, dask://HOST:PORT or cluster, got {where!r}.")
    settings = dict(plan.cluster)
    queue = check_name("queue in `cluster`", settings.pop("queue", ""), _QUEUES)
    count = workers or int(settings.pop("workers", 1))
    settings.pop("workers", None)
    try:
        import dask_jobqueue  # pyright: ignore[reportMissingImports] (of the extra `cluster`)
    except ImportError as error:
        raise SweepError("A queue needs dask-jobqueue: pip install 'faal-lab[cluster]'.") from error
    kind = {"slurm": "SLURM", "pbs": "PBS", "sge": "SGE", "lsf": "LSF", "htcondor": "HTCondor", "oar": "OAR", "moab": "Moab"}
    try:
        owned = getattr(dask_jobqueue, f"{kind[queue]}Cluster")(**settings)
    except (TypeError, ValueError) as error:
        raise SweepError(f"cluster: dask-jobqueue refuses these settings: {error}") from error
    owned.scale(jobs=count)
    return _configured(Client(owned), plan, owned)


def _configured(client: Any, plan: Plan, owned: Any = None) -> Cluster:
    client.run_on_scheduler(_allow)
    return Cluster(client, plan, owned)


def _allow(dask_scheduler: Any = None) -> None:
    """Let a job lose its worker several times: the scheduler's default, but a site may have set 0."""
    dask_scheduler.allowed_failures = max(_TRIES, dask_scheduler.allowed_failures)
