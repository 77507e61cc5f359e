"""Check a plan before its first job. Papermill itself checks nothing, and fails hours later.

Papermill writes names unescaped into code. An unknown name is refused here and never reaches papermill.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from faal_lab.catalogue import ATTACKS
from faal_lab.errors import ConfigError, UnknownName, check_name
from faal_lab.methods.presets import preset_settings
from faal_lab.runs.config import Config
from faal_lab.sweeps.plan import Job, Plan, SweepError
from faal_lab.training.parameters import FINE_TUNING, listed

_SWEEPS_OWN = ("out", "resume")  # the sweep sets these for notebooks that train


@cache
def parameters_cell(notebook: Path) -> dict[str, Any]:
    """Return names and defaults in the cell tagged `parameters`. Raises SweepError without one."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SweepError(f"{notebook} is not a notebook: {error}.") from error
    for cell in cells:
        if "parameters" in cell.get("metadata", {}).get("tags", []):
            return _assigned("".join(cell["source"]), notebook)
    raise SweepError(f"{notebook.name} has no cell tagged `parameters`; papermill would put values before everything else.")


def _assigned(source: str, notebook: Path) -> dict[str, Any]:
    found = {}
    for line in ast.parse(source).body:
        targets = [line.target] if isinstance(line, ast.AnnAssign) else line.targets if isinstance(line, ast.Assign) else []
        value = line.value if isinstance(line, (ast.AnnAssign, ast.Assign)) else None
        if value is None or len(targets) != 1 or not isinstance(targets[0], ast.Name):
            raise SweepError(
                f"{notebook.name}: its parameters cell may hold lines `name: type = value` alone; line {line.lineno} is none."
            )
        found[targets[0].id] = ast.literal_eval(value)
    return found


def trains(notebook: Path) -> bool:
    """Return whether a notebook makes a run that can be resumed: it has parameters `out` and `resume`."""
    return set(_SWEEPS_OWN) <= set(parameters_cell(notebook))


def completed(job: Job) -> dict[str, Any]:
    """Return a job's parameters, with those that the sweep sets."""
    return {**job.parameters, "out": str(job.folder), "resume": True} if trains(job.notebook) else job.parameters


def check_plan(plan: Plan) -> None:
    """Raise SweepError with all mistakes found before a job runs (the first 12, then a count)."""
    mistakes = [f"{job.key}: {error}" for job in plan.jobs.values() for error in _mistakes(job, plan)]
    written: dict[Path, str] = {}
    for job in plan.jobs.values():
        place = Path(str(completed(job).get("out") or job.folder)).resolve()
        if place in written:
            mistakes.append(f"{job.key}: writes to {place.name}, and so does {written[place]}.")
        written[place] = job.key
    mistakes += _paper_mistakes(plan)
    if mistakes:
        more = f"\n... and {len(mistakes) - 12} more" if len(mistakes) > 12 else ""
        raise SweepError("\n".join(mistakes[:12]) + more)


def _mistakes(job: Job, plan: Plan) -> list[str]:
    try:
        known = parameters_cell(job.notebook)
        if trains(job.notebook):
            _check_training(job, known)
        else:
            for name, value in job.parameters.items():
                check_name(f"parameter of {job.notebook.name}", name, known)
                _check_type(name, value, known[name])
        out = job.parameters.get("out")
        if out and not Path(str(out)).resolve().is_relative_to(plan.out.resolve()):
            return [f"out must lie in the sweep's folder ({{here}}/...), got {out!r}."]
        for attack in listed(job.parameters["attacks"]) if "attacks" in known and "attacks" in job.parameters else ():
            check_name("attack", attack, ATTACKS)
    except (SweepError, UnknownName, ConfigError) as error:
        return [str(error)]
    return []


def _check_training(job: Job, shown: Mapping[str, Any]) -> None:
    """Check settings as the notebook will, except against those of the base, which may not exist yet."""
    for name in _SWEEPS_OWN:
        if name in job.parameters:
            raise SweepError(f"{name}: the sweep sets it; leave it out.")
    names = [*(f.name for f in fields(Config)), "recipe", "protocol"]
    for name in job.parameters:
        check_name("parameter", name, names)
    defaults = Config().to_mapping()
    for name, value in job.parameters.items():
        if name in defaults and value is not None:
            _check_type(name, value, defaults[name])
    given = {n: v for n, v in {**shown, **completed(job)}.items() if n not in _SWEEPS_OWN and v is not None}
    named = preset_settings(*(str(given.pop(kind, "")) for kind in ("recipe", "protocol")))
    hidden = [n for n in shown if n not in job.parameters and n in named and shown[n] not in (None, named[n])]
    if hidden:
        what = " and ".join(f"{name} {shown[name]!r} (over {named[name]!r})" for name in hidden)
        raise SweepError(
            f"{job.notebook.name} shows {what}, which would win over recipe and protocol. State {hidden[0]}: null to take "
            "theirs, or a value."
        )
    tuned = FINE_TUNING if given.get("base") else {}
    Config.from_mapping({**tuned, **named, **given})


def _check_type(name: str, value: Any, default: Any) -> None:
    """Raise SweepError if a value has another type than its default. An int is allowed for a float."""
    expected = type(default)
    if type(value) is expected or (expected is float and type(value) is int) or default is None:
        return
    cure = ""
    if isinstance(value, str) and expected in (int, float):
        cure = " It is text in YAML."
        with suppress(ValueError):
            number = expected(value)
            cure = f" YAML reads that as text; write {number!r}." if expected is float else f" Write {number} without quotes."
    raise SweepError(f"{name} must be of type {expected.__name__}, got {value!r} ({type(value).__name__}).{cure}")


def _paper_mistakes(plan: Plan) -> list[str]:
    titles = dict.fromkeys(job.title for job in plan.jobs.values())
    return [f"paper: {key!r} names no runs; there are {', '.join(titles)}." for key in plan.paper if key not in titles]
