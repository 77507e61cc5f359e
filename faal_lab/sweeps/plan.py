"""Turn a sweep file into jobs: notebook, parameters, folder, and the jobs each one needs."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import yaml

from faal_lab.errors import FaalLabError, check_name, check_part
from faal_lab.sweeps.shipped import HOME, sweep_file

NOTEBOOKS = HOME / "parameterized"
_TOP = ("name", "about", "hours", "limit_hours", "threads", "environment", "cluster", "stages", "paper", "kept")
_STAGE = ("notebook", "each", "after", "parameters", "grid", "list")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_REFERENCE = re.compile(r"\{([^{}]*)\}")


class SweepError(FaalLabError, ValueError):
    """A mistake in a sweep. The message states its place and the cure."""


@dataclass(frozen=True)
class Job:
    """One papermill run, with parameters as in the file (`stated`) and with references resolved."""

    stage: str
    label: str
    notebook: Path
    stated: dict[str, Any]
    parameters: dict[str, Any]
    needs: tuple[str, ...]
    title: str  # its name in a report, shared by its other seeds
    folder: Path  # of its result: the run folder if it trains
    home: Path  # executed notebook, log, status

    @property
    def key(self) -> str:
        """The job's name in the sweep."""
        return f"{self.stage}/{self.label}" if self.label else self.stage

    @property
    def product(self) -> Path:
        """The run folder that `{each}` stands for: `out` unless that is a file, else the folder."""
        out = Path(str(self.parameters.get("out") or self.folder))
        return self.folder if out.suffix[1:].isalpha() else out  # runs/tau-0.5 is a folder


@dataclass(frozen=True)
class Plan:
    """All jobs of a sweep, each after the jobs it needs."""

    name: str
    about: str
    out: Path
    jobs: dict[str, Job]
    hours: dict[str, float] = field(default_factory=dict)
    limit_hours: float = 0.0  # a job that takes longer is ended and counts as failed; 0: none
    threads: int = 0
    environment: tuple[str, ...] = ()
    cluster: dict[str, Any] = field(default_factory=dict)
    paper: dict[str, Any] = field(default_factory=dict)

    def only(self, keys: set[str]) -> Plan:
        """Return the same plan with these jobs alone."""
        return Plan(**{**self.__dict__, "jobs": {key: job for key, job in self.jobs.items() if key in keys}})

    def reports(self) -> set[str]:
        """Return the keys of the jobs that read whole stages, and that no job needs."""
        needed = {need for job in self.jobs.values() for need in job.needs}
        return {key for key, job in self.jobs.items() if job.needs and key not in needed and "{each}" not in str(job.stated)}

    def needed_by(self, key: str) -> set[str]:
        """Return a job's key and those of all jobs it needs, directly or not."""
        found = {key}
        for need in self.jobs[key].needs:
            found |= self.needed_by(need)
        return found


class _Loader(yaml.SafeLoader):
    """SafeLoader (no tag makes an object) that refuses a repeated name; PyYAML keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        twice = next((n for i, n in enumerate(names) if n in names[:i]), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"{twice!r} stands there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def read_plan(file: str | Path, out: str | Path | None = None, *, from_kept: bool = False) -> Plan:
    """Read a sweep file, or one that the package brings by its name; `out` defaults to `runs/<name>`.

    from_kept: jobs read the folder that the file names as `kept` where they name other jobs. Raises SweepError or UnknownName.
    """
    file = sweep_file(file)
    try:
        found = yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise SweepError(f"{file} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise SweepError(f"{file} is not a sweep file in YAML: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("stages"), dict) or not found["stages"]:
        raise SweepError(
            f"{file}: expected a mapping with `name` and `stages` (name: {{notebook: ...}}); see reproduce/digits.yaml."
        )
    for key in found:
        check_name(f"entry of {file.name}", key, _TOP)
    name = _name(found.get("name"), "name")
    root = Path(out) if out else Path("runs") / name
    kept = _kept(found, file) if "kept" in found else None
    if from_kept and not (kept and kept.is_dir()):
        where = f"{kept} is missing" if kept else f"{file} names none (kept: ../results/{name})"
        raise SweepError(f"Reports alone are made from a folder of kept verdicts, and {where}.")
    stages = {_name(s, "stage"): _stage(s, settings, found["stages"]) for s, settings in found["stages"].items()}
    jobs: dict[str, Job] = {}
    for stage in _in_order(stages):
        for job in _jobs(stage, stages[stage], jobs, root, file.parent, kept if from_kept and kept else root):
            if job.key in jobs:
                raise SweepError(
                    f"{job.key}: two jobs have this name and would write to one folder. Give their entries a `label`."
                )
            jobs[job.key] = job
    return Plan(
        name, str(found.get("about", "")), root, jobs, _mapping(found, "hours"), _limit(found),
        _whole(found, "threads"),
        tuple(map(str, found.get("environment") or ())), _mapping(found, "cluster"), _mapping(found, "paper"),
    )  # fmt: skip


def _name(value: object, what: str) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value) or value in ("jobs", "each", "here", "paper"):
        raise SweepError(f"{what}: expected letters, digits, dots and dashes (not jobs, each, here, paper), got {value!r}.")
    return value


def _kept(found: Mapping[str, Any], file: Path) -> Path:
    if not isinstance(found["kept"], str):
        raise SweepError(f"kept: expected a folder, relative to {file.parent}, got {found['kept']!r}.")
    return file.parent / found["kept"]


def _mapping(found: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = found.get(name) or {}
    if not isinstance(value, dict) or not all(isinstance(k, str) for k in value):
        raise SweepError(f"{name}: expected names and values, got {value!r}.")
    return value


def _whole(found: Mapping[str, Any], name: str) -> int:
    value = found.get(name, 0)
    if type(value) is not int or value < 0:
        raise SweepError(f"{name}: expected a whole number, got {value!r}.")
    return value


def _limit(found: Mapping[str, Any]) -> float:
    value = found.get("limit_hours", 0)
    if type(value) not in (int, float) or not 0 <= value < float("inf"):
        raise SweepError(f"limit_hours: expected a number of hours, such as 2.5 (0: no limit), got {value!r}.")
    return float(value)


def _stage(name: str, settings: object, stages: Mapping[str, Any]) -> dict[str, Any]:
    """Check the entries of a stage, and return them with absent ones as empty."""
    if not isinstance(settings, dict):
        raise SweepError(f"stage {name}: expected {{notebook: ..., parameters: ...}}, got {settings!r}.")
    for key in settings:
        check_name(f"entry of stage {name}", key, _STAGE)
    if not isinstance(settings.get("notebook"), str):
        raise SweepError(f"stage {name}: expected a `notebook`, such as train, finetune, evaluate or report.")
    found = {"notebook": settings["notebook"]}
    for key in ("parameters", "grid"):
        found[key] = _mapping(settings, key)
    for key in ("each", "after"):
        found[key] = settings.get(key) or []
        if not isinstance(found[key], list):
            raise SweepError(f"stage {name}: {key} must be a list of stages, such as [base], got {found[key]!r}.")
        for other in found[key]:
            check_name(f"stage in `{key}` of stage {name}", other, stages)
    for parameter, values in found["grid"].items():
        if not isinstance(values, list) or not values:
            raise SweepError(f"stage {name}: grid.{parameter} must be a list of values, got {values!r}.")
    found["list"] = settings.get("list") or [{}]
    if not isinstance(found["list"], list) or not all(isinstance(entry, dict) for entry in found["list"]):
        raise SweepError(f"stage {name}: list must hold sets of parameters (- {{fairness: faal}}), got {found['list']!r}.")
    known = {*stages, "each", "here", "paper"}
    found["uses"] = {ref for text in _texts(settings) for ref in _REFERENCE.findall(text)}
    for reference in found["uses"]:
        check_name(f"reference of stage {name}", reference, known)
    if "each" in found["uses"] and not found["each"]:
        raise SweepError(f"stage {name}: {{each}} needs an entry `each: [STAGE]` that says of which stages.")
    return found


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, Sequence):
        for inner in value:
            yield from _texts(inner)


def _in_order(stages: Mapping[str, dict[str, Any]]) -> list[str]:
    before = {name: {*s["each"], *s["after"], *(s["uses"] & set(stages))} for name, s in stages.items()}
    try:
        return list(TopologicalSorter(before).static_order())
    except CycleError as error:
        raise SweepError(f"The stages wait for each other: {' needs '.join(reversed(error.args[1]))}.") from error


def _jobs(
    stage: str, settings: dict[str, Any], made: Mapping[str, Job], out: Path, beside: Path, source_root: Path
) -> Iterator[Job]:
    """Return the jobs of one stage: upstream jobs x entries of the list x the grid."""
    notebook = _notebook(settings["notebook"], beside)
    of_stage = {s: [j for j in made.values() if j.stage == s] for s in {j.stage for j in made.values()}}
    upstream: list[Job | None] = [j for s in settings["each"] for j in of_stage[s]] or [None]
    waits = [j.key for s in (*settings["after"], *(settings["uses"] & set(of_stage))) for j in of_stage[s]]
    combined = [dict(zip(settings["grid"], v, strict=True)) for v in itertools.product(*settings["grid"].values())]
    entries: list[dict[str, Any]] = settings["list"]
    for source, entry, point in ((s, e, p) for s in upstream for e in entries for p in combined):
        own = {k: v for k, v in entry.items() if k != "label"}
        label, title = _labels(source, entry, point, len(settings["each"]) > 1)
        folder = out / stage / label if label else out / stage
        stated = {**settings["parameters"], **own, **point}
        known = {s: ",".join(f"{j.title}={_below(source_root, out, j)}" for j in jobs) for s, jobs in of_stage.items()}
        known |= {
            "here": str(folder),
            "paper": str(out / "paper.json"),
            "each": str(source.product) if source is not None else "",
        }
        needs = tuple(dict.fromkeys([source.key, *waits] if source is not None else waits))
        home = out / "jobs" / folder.relative_to(out)
        full = f"{stage}/{title}" if title else stage
        yield Job(stage, label, notebook, stated, _resolved(stated, known), needs, full, folder, home)


def _below(root: Path, out: Path, job: Job) -> Path:
    return root / job.product.relative_to(out) if job.product.is_relative_to(out) else job.product


def _labels(source: Job | None, entry: dict[str, Any], point: dict[str, Any], several: bool) -> tuple[str, str]:
    """Name a job within its stage: for its folder and, without the seed, for a report."""
    found = []
    for seedless in (False, True):
        values = point if "label" in entry else {**entry, **point}
        if values.get("split_seed") == values.get("seed"):
            values = {name: value for name, value in values.items() if name != "split_seed"}  # one seed for both
        parts = [str(entry["label"])] if "label" in entry else []
        parts += [str(value) for name, value in values.items() if not (seedless and name == "seed")]
        if source is not None:
            above = (source.title, source.title.partition("/")[2]) if seedless else (source.key, source.label)
            parts.insert(0, above[0].replace("/", "-") if several else above[1])
        found.append("-".join(filter(None, (re.sub(r"[^A-Za-z0-9._]+", "-", part).strip("-.") for part in parts))))
    return found[0], found[1]


def _resolved(value: Any, known: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return _REFERENCE.sub(lambda found: known[found[1]], value)
    if isinstance(value, dict):
        return {name: _resolved(inner, known) for name, inner in value.items()}
    return [_resolved(inner, known) for inner in value] if isinstance(value, list) else value


def _notebook(name: str, beside: Path) -> Path:
    """Find a notebook by name in parameterized/, or by a path relative to the sweep file."""
    path = beside / name if name.endswith(".ipynb") else NOTEBOOKS / f"{name}.ipynb"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in NOTEBOOKS.glob("*.ipynb"))) or f"none: {NOTEBOOKS} is missing"
        raise SweepError(f"notebook {name!r}: there is no {path}. Known by name: {known}.")
    return path


def shard(plan: Plan, text: str) -> Plan:
    """Return part i of n of a plan (`text` is "i/n").

    A part has a share of the jobs that no other job needs, and all jobs that these need. Jobs that gather a stage, such as a
    report, are in no part. Make them without a shard, once the folders of all parts are together. Raises ConfigError if `text`
    is not such a fraction.
    """
    first, count = check_part("--shard", text)
    gathering: set[str] = set()
    for key, job in plan.jobs.items():
        stages = [plan.jobs[need].stage for need in job.needs]
        if len(set(stages)) < len(stages) or gathering & set(job.needs):
            gathering.add(key)
    wanted = {need for key, job in plan.jobs.items() if key not in gathering for need in job.needs}
    ends = [key for key in plan.jobs if key not in gathering and key not in wanted]
    return plan.only({key for end in ends[first::count] for key in plan.needed_by(end)})
