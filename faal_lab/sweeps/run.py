"""Run a sweep file: read it, check it, make its jobs, report."""

from __future__ import annotations

import json
from pathlib import Path

from faal_lab.runs.files import locked
from faal_lab.runs.progress import bar
from faal_lab.sweeps.checks import check_plan
from faal_lab.sweeps.engine import Engine, cores, local_engine, make_all, succeeded, wanted
from faal_lab.sweeps.job import Order
from faal_lab.sweeps.plan import Plan, SweepError, read_plan, shard
from faal_lab.sweeps.view import Terminal, failed_text, plan_text


def sweep(
    file: str | Path, out: Path | None = None, *, workers: int = 0, gpus: str | None = None, where: str = "local", part: str = "",
    dry_run: bool = False, force: bool = False, any_code: bool = False, report_only: bool = False,
) -> int:  # fmt: skip
    """Make the jobs of a sweep file, or print the plan.

    Run it again to make only missing results: jobs that are done are kept, and interrupted runs are resumed.

    Args:
        file: a sweep file in YAML, or the name of one that comes along, such as "digits".
        out: folder of the sweep (default: runs/NAME).
        workers: jobs at once; 0, the default, is one per GPU or core, at most four without GPUs.
        gpus: GPUs to use, such as "0,1"; "none" for the CPU; None, the default, for all.
        where: "local" (default), "dask://HOST:PORT", or "cluster" for the queue that the file states.
        part: make one share of the jobs, such as "2/3"; "" (default) makes all.
        dry_run: print jobs, order and expected time; make nothing.
        force: make every job anew.
        any_code: keep results of another version of faal_lab.
        report_only: make the reports alone, anew, from the verdicts in the folder that the file names as `kept`.

    Returns:
        0 if every job is done (or `dry_run`), else 1.

    Raises:
        SweepError, UnknownName: for a mistake in file or arguments, before any job starts.

    >>> from pathlib import Path
    >>> from faal_lab.sweeps.run import sweep
    >>> file = Path("seeds.yaml")
    >>> _ = file.write_text("{name: seeds, stages: {base: {notebook: train, grid: {seed: [0, 1]}}}}")
    >>> sweep(file, workers=1, dry_run=True)
    seeds
    2 jobs into runs/seeds
    <BLANKLINE>
      base/0  train     time unknown
      base/1  train     time unknown
    <BLANKLINE>
    No earlier run tells how long that takes.
    0
    """
    if workers < 0:
        raise SweepError(f"--workers must be 0 or more, got {workers}.")
    plan = read_plan(file, out, from_kept=report_only)
    check_plan(plan)
    plan = shard(plan, part) if part else plan
    orders = wanted(plan, force=force or report_only, any_code=any_code)
    if report_only:
        orders = {key: order if key in plan.reports() else None for key, order in orders.items()}
    if dry_run:
        print(plan_text(plan, orders, workers or min(4, cores())))
        return 0
    _check_kernel()
    plan.out.mkdir(parents=True, exist_ok=True)
    other = SweepError(f"Another sweep is at work on {plan.out}. Wait for it, end it, or choose another --out.")
    with locked(plan.out / f"sweep{'-' + part.replace('/', '-of-') if part else ''}.lock", other):
        _write_paper(plan)
        state = _made(plan, orders, workers, gpus, where)
    if not succeeded(state):
        print(f"\n{failed_text(plan, state)}\nStarted again, the sweep makes only what is not done.")
        return 1
    print(f"\n{'The reports' if report_only else f'All {len(plan.jobs)} jobs'} are done: {plan.out}")
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


def _write_paper(plan: Plan) -> None:
    """Write the paper's numbers for the report notebook, by the names of runs in the report."""
    if plan.paper:
        (plan.out / "paper.json").write_text(json.dumps(plan.paper, indent=1), encoding="utf-8")
