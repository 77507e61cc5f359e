"""Run the demo for one seed or several: the sweep `parameterized/demo.yaml`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from faal_lab.evaluation.groups import read_seeds
from faal_lab.results.tables import each_seed, notes, seed_sentences, text_table
from faal_lab.runs import free_name
from faal_lab.sweeps.plan import NOTEBOOKS, read_plan
from faal_lab.sweeps.run import sweep

FILE = NOTEBOOKS / "demo.yaml"
_QUICK = {"epochs": 1, "batch_size": 250, "attack_steps": 2}


def stated(seeds: Sequence[int], quick: bool = False) -> dict[str, Any]:
    """Return the demo's sweep, `quick` without AutoAttack."""
    plan = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    base = plan["stages"]["base"]
    if len(seeds) == 1:
        base["parameters"] = {"seed": seeds[0], "split_seed": seeds[0]}
    else:
        base |= {"parameters": {}, "list": [{"seed": seed, "split_seed": seed} for seed in seeds]}
    if quick:
        plan["name"] = "demo-quick"  # nobody shall take it for a result
        for stage in ("base", "control", "faal"):
            plan["stages"][stage]["parameters"] |= _QUICK
        plan["stages"]["verdicts"]["parameters"]["attacks"] = "clean,pgd-20,cw-20"
    return plan


def demo(out: str | Path | None = None, seeds: Sequence[int] = (0,), quick: bool = False) -> Path | None:
    """Train a robust model, make it fair, attack all models, write the report.

    Run it again with the same `out` to make only missing results.

    Args:
        out: folder for all results (default: a free name in runs/; runs/demo-seeds for several seeds).
        seeds: seeds of training and split, (0,) by default; for several, the report has means.
        quick: a few batches and no AutoAttack, to show that everything works; False by default.

    Returns:
        The path of the report; None if a job failed.

    Raises:
        SweepError: without a Jupyter kernel, or while another sweep is at work in `out`.

    >>> from faal_lab.sweeps.demo import demo
    >>> demo(quick=True)  # doctest: +SKIP
    """
    folder = Path(out) if out else free_name("runs", "demo") if len(seeds) == 1 else Path("runs/demo-seeds")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "demo.yaml"
    file.write_text(yaml.safe_dump(stated(seeds, quick), sort_keys=False), encoding="utf-8")
    if sweep(file, folder):
        return None
    jobs = read_plan(file, folder).jobs.values()
    runs = {stage: [str(job.product) for job in jobs if job.stage == stage] for stage in ("base", "control", "faal")}
    groups = read_seeds([f"{name}={','.join(paths)}" for name, paths in runs.items()])
    if quick:
        print("\nQuick: a few batches without AutoAttack, to show that everything works. The numbers mean nothing.")
    if len(seeds) == 1:
        print(f"\n{text_table({name: group[0] for name, group in groups.items()})}")
    else:
        for first in ("base", "control"):
            print("", *seed_sentences({first: groups[first], "faal": groups["faal"]}), sep="\n")
        print("", *notes(each_seed(groups)), sep="\n")
    print(f"\nReport: {folder / 'report.html'}")
    return folder / "report.html"
