"""Carry out `faal-lab sweep`: read, check, make, report."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from faal_lab.runs.progress import bar
from faal_lab.sweeps.checks import check_plan
from faal_lab.sweeps.engine import Engine, cores, local_engine, make_all, succeeded, wanted
from faal_lab.sweeps.job import Order
from faal_lab.sweeps.plan import Plan, SweepError, read_plan, shard
from faal_lab.sweeps.view import Terminal, failed_text, plan_text


def sweep(
    file: Path, out: Path | None = None, *, workers: int = 0, gpus: str | None = None, where: str = "local", part: str = "",
    dry_run: bool = False, force: bool = False, any_code: bool = False,
) -> int:  # fmt: skip
    """Make a sweep, or say what it would make; 0 where every job is done. Raises SweepError before anything starts."""
    if workers < 0:
        raise SweepError(f"--workers must be 0 or more, got {workers}.")
    plan = read_plan(file, out)
    check_plan(plan)
    plan = shard(plan, part) if part else plan
    orders = wanted(plan, force=force, any_code=any_code)
    if dry_run:
        print(plan_text(plan, orders, workers or min(4, cores())))
        return 0
    _check_kernel()
    with _alone(plan, part):
        _write_paper(plan)
        state = _made(plan, orders, workers, gpus, where)
    if not succeeded(state):
        print(f"\n{failed_text(plan, state)}\nStarted again, the sweep makes only what is not done.")
        return 1
    print(f"\nAll {len(plan.jobs)} jobs are done: {plan.out}")
    return 0


def _made(plan: Plan, orders: dict[str, Order | None], workers: int, gpus: str | None, where: str) -> dict:
    engine: Engine
    if where == "local":
        engine = local_engine(plan, workers, _numbers(gpus))
    else:
        from faal_lab.sweeps.cluster import connect

        engine = connect(where, plan, workers)
    with bar(plan.name, len(plan.jobs), "job") as told:
        state = make_all(plan, engine, orders, Terminal(plan, told).told)
        told.stopped = not succeeded(state)
        return state


def _numbers(gpus: str | None) -> list[int] | None:
    if gpus is None or gpus == "none":
        return None if gpus is None else []
    try:
        return [int(number) for number in gpus.split(",")]
    except ValueError:
        raise SweepError(f"--gpus must be numbers such as 0,1, or none, got {gpus!r}.") from None


def _check_kernel() -> None:
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        KernelSpecManager().get_kernel_spec("python3")
    except NoSuchKernel:
        raise SweepError("There is no Jupyter kernel named python3 to run notebooks in: pip install ipykernel.") from None


@contextmanager
def _alone(plan: Plan, part: str) -> Iterator[None]:
    """Hold the sweep's folder; raises SweepError where another sweep is at work on it."""
    from filelock import FileLock, Timeout

    plan.out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(str(plan.out / f"sweep{'-' + part.replace('/', '-of-') if part else ''}.lock"))
    try:
        with lock.acquire(timeout=0):
            yield
    except Timeout:
        raise SweepError(f"Another sweep is at work on {plan.out}. Wait for it, end it, or choose another --out.") from None


def _write_paper(plan: Plan) -> None:
    """The paper's numbers, by the names that a report gives to the runs, where its notebook can find them."""
    if plan.paper:
        (plan.out / "paper.json").write_text(json.dumps(plan.paper, indent=1), encoding="utf-8")
