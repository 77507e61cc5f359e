"""Export a run for other tools: tables as CSV or Parquet, event files for TensorBoard. Loads no torch.

history            one row a step: what `Run.history` shows; a list of one number per class is one column per class
epochs             one row an epoch: validation accuracy, average, worst class and each class, clean and under PGD
test               one row an attack and class: what `faal-lab evaluate` found; only for runs with verdicts

A run that is still training gives what it has reported so far. What a resume undid is left out.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from faal_lab.errors import ConfigError, RunFolderError, check_name, csv_cell
from faal_lab.runs.events import EpochDone, Event, RunStarted, StepDone
from faal_lab.runs.files import replace_file
from faal_lab.runs.folder import ENDED, RunFolder
from faal_lab.runs.follower import METRICS
from faal_lab.runs.history import History, events_rows

if TYPE_CHECKING:
    import pandas as pd

FORMATS = {"csv": "", "parquet": "pyarrow", "tensorboard": "tensorboard"}  # and the package of the extra `export` that writes it
Tests = Mapping[str, tuple[Sequence[int], Sequence[int]]]  # attack -> correct and all test images, per class
_OURS = ".faal-lab"  # ends the names of our event files: others in the folder, as of Keras, stay


def free_place(out: Path, force: bool, folder: bool) -> Path:
    """Return `out` if an export may be written there; its parents are created.

    Args:
        out: the file or folder.
        force: replace what an export of the same kind would name alike.
        folder: whether it is to be a folder.

    Raises:
        ConfigError: something is there already, or it belongs to a run.
    """
    place = out if folder else out.parent
    run = place.resolve().parent if place.resolve().name == "control" else place  # a file in control/ is a command
    if (run / METRICS).exists() or _holds_settings(run / "config.json"):
        raise ConfigError(f"{place} is a run folder: an export there could replace a part of the run. Name another place.")
    if out.exists() and not (out.is_dir() if folder else out.is_file()):  # or a device is renamed away: --out /dev/null
        raise ConfigError(f"{out} must be a {'folder' if folder else 'file'}, and is none. Name another place.")
    if not force and out.exists() and (not folder or any(out.iterdir())):
        raise ConfigError(f"{out} exists already. Name another place, or replace what is there by --force.")
    place.mkdir(parents=True, exist_ok=True)
    return out


def _holds_settings(file: Path) -> bool:
    """Return whether a config.json is a run's; timm's has the same name."""
    try:
        return {"config", "hash"} <= set(json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError):
        return False


def export_tables(path: str | Path, to: str, out: str | Path, tests: Tests | None = None, force: bool = False) -> str:
    """Write a run's history into a folder; return a sentence about it.

    Args:
        path: the run folder.
        to: csv, parquet or tensorboard.
        out: the folder, which is missing or empty.
        tests: correct and all test images by attack, per class.
        force: replace an earlier export in `out`.

    Raises:
        RunFolderError: there is no run, or it is damaged.
        ImportError: the format needs a package that is missing.
        ConfigError: `out` is in use.

    >>> from faal_lab.runs.export import export_tables
    >>> print(export_tables("notebooks/recorded/faal-steered", "csv", "exported"))
    Written: exported/history.csv (160 rows), exported/epochs.csv (8 rows).
    """
    package = FORMATS[check_name("format of tables", to, FORMATS)]
    if package and find_spec(package) is None:
        raise ImportError(f"The export to {to} needs {package}: pip install 'faal-lab[export]'. csv needs no extra.")
    run = _Recorded.read(path)
    place = free_place(Path(out), force, folder=True)
    status = run.folder.status()
    said = _tensorboard(run, place, tests or {}) if to == "tensorboard" else _tables(run, place, to, tests or {})
    return said + ("" if status in ENDED else f" The run is {status}: this is what it has reported so far.")


@dataclass(frozen=True)
class _Recorded:
    """What a run folder holds at this moment."""

    folder: RunFolder
    names: list[str]
    events: list[Event]

    @staticmethod
    def read(path: str | Path) -> _Recorded:
        """Read a run; raises RunFolderError where a record is not whole."""
        folder = RunFolder.open(path)
        try:
            events = folder.events()
            names = next((e.class_names for e in events if isinstance(e, RunStarted)), None)
            if names is None:
                raise RunFolderError(f"{path} holds no run that was started.")
            for event in events:
                _check(event, names)
        except (AttributeError, TypeError, ValueError, OverflowError) as error:
            if isinstance(error, RunFolderError):
                raise
            raise RunFolderError(f"{folder.metrics_file} is damaged: {error}. Restore it, or train again.") from error
        return _Recorded(folder, names, events)

    @property
    def steps(self) -> list[StepDone]:
        """The optimiser steps, in order."""
        return [e for e in self.events if isinstance(e, StepDone)]

    @property
    def epochs(self) -> list[EpochDone]:
        """The epochs, in order."""
        return [e for e in self.events if isinstance(e, EpochDone)]

    @cached_property
    def history(self) -> History:
        """The same as arrays."""
        history = History(len(self.names))
        history.add(self.events)
        return history

    def times(self) -> dict[tuple[str, int], float]:
        """Return the clock time of each step and epoch; of one that a resume made again, the later."""
        return {(event, step): time for event, step, time in self.folder.times() if step is not None}


_NUMBERS = ("loss", "tau", "epsilon", "learning_rate", "divergence")


def _check(event: Event, names: list[str]) -> None:
    """Raise ValueError unless a step or an epoch has its numbers, and one for each class in its lists."""
    needed = {StepDone: ("loss", "weights", "count", "margin"), EpochDone: ("count", "clean_correct")}
    absent = [name for name in needed.get(type(event), ()) if getattr(event, name) is None]
    lists = {name: v for name, v in vars(event).items() if isinstance(v, list) and name != "class_names"}
    if absent or any(len(v) != len(names) for v in lists.values()):
        got = f"without {absent[0]}" if absent else f"with lists of {sorted({len(v) for v in lists.values()})} numbers"
        raise ValueError(f"expected {len(names)} numbers a class list, got a {type(event).__name__} {got}")
    if isinstance(event, RunStarted):
        "".join(names).encode()  # TypeError for a number, ValueError for half a surrogate pair
    if isinstance(event, (StepDone, EpochDone)):
        for value in (*(getattr(event, n, None) for n in _NUMBERS), *(v for held in lists.values() for v in held)):
            math.isnan(0 if value is None else value)  # TypeError for a text or a list, OverflowError for a huge integer
        if type(event.step) is not int or not 0 <= event.step < 2**63:
            raise ValueError(f"expected a whole number as step, got {str(event.step)[:40]!r}")


def history_table(path: str | Path) -> pd.DataFrame:
    """Return one row per step: loss, dials, and per class weight, margin, count and correct images.

    Raises RunFolderError where no run was started in the folder.
    """
    return _steps_table(_Recorded.read(path))


def _steps_table(run: _Recorded) -> pd.DataFrame:
    import pandas as pd

    rows = [{n: math.nan if v is None else v for n, v in row.items()} for row in events_rows(run.steps, run.names)]
    return pd.DataFrame(rows or {"step": []})


def _epochs_table(run: _Recorded) -> pd.DataFrame:
    """Return one row per epoch: validation accuracy of average, worst and each class, and its images."""
    import pandas as pd

    columns: dict[str, Any] = {"epoch": [e.epoch for e in run.epochs], "step": [e.step for e in run.epochs]}
    for kind in ("clean", "robust"):
        columns[f"{kind}_average"], columns[f"{kind}_worst"] = run.history.validation_summary(kind)
    for kind in ("clean", "robust"):
        columns |= {f"{kind}_accuracy[{name}]": run.history.validation(kind)[:, i] for i, name in enumerate(run.names)}
    columns |= {f"count[{name}]": [e.count[i] for e in run.epochs] for i, name in enumerate(run.names)}
    return pd.DataFrame(columns)


def _tables(run: _Recorded, out: Path, to: str, tests: Tests) -> str:
    import pandas as pd

    tables = {"history": _steps_table(run), "epochs": _epochs_table(run)}
    rows = [
        {"attack": attack, "class": name, "correct": right, "count": total, "accuracy": right / total if total else math.nan}
        for attack, counts in tests.items()
        for name, right, total in zip(run.names, *counts, strict=True)
    ]
    if rows or (out / f"test.{to}").exists():  # by --force: rows of other weights must not stay beside this history
        tables["test"] = pd.DataFrame(rows, columns=["attack", "class", "correct", "count", "accuracy"])
    for name, table in tables.items():
        written = table.map(csv_cell).to_csv(index=False) if to == "csv" else table.to_parquet(index=False, engine="pyarrow")
        assert written is not None, "without a path, pandas returns the content"
        content = written.encode() if isinstance(written, str) else written
        replace_file(out / f"{name}.{to}", content)
    return "Written: " + ", ".join(f"{out / name}.{to} ({len(table)} rows)" for name, table in tables.items()) + "."


def tag_names(names: Sequence[str]) -> list[str]:
    """Return class names as parts of tags: letters, digits, _ . - and spaces, each name once.

    MLflow takes no other characters; a slash would open a group of its own.

    >>> from faal_lab.runs.export import tag_names
    >>> tag_names(["cat", "great tit (m)", "great tit [m]", "a/b"])
    ['cat', 'great tit _m_', 'great tit _m_-2', 'a_b']
    """
    found: list[str] = []
    for number, name in enumerate(names):
        clean = re.sub(r"[^\w.\- ]", "_", name)
        stem, again = clean if clean.strip(". ") else f"class-{number}", 2
        clean = stem
        while clean in found:
            clean, again = f"{stem}-{again}", again + 1
        found.append(clean)
    return found


Point = tuple[int, float, dict[str, float | None]]  # step, clock time, values by tag


def scalars(run: _Recorded, tests: Tests) -> dict[str, list[Point]]:
    """Return all points of a run by sub-folder: train, validation, and test where it was evaluated."""
    names, times = tag_names(run.names), run.times()
    last = run.folder.metrics_file.stat().st_mtime  # where timing.jsonl has no time: that of the point before

    def by_class(tag: str, values: Iterable[float | None] | None) -> dict[str, float | None]:
        return {} if values is None else {f"{tag}/{name}": v for name, v in zip(names, values, strict=True)}

    train: list[Point] = []
    for s in run.steps:
        last = times.get(("StepDone", s.step), last)
        values: dict[str, float | None] = {"train/loss": s.loss, "train/divergence": s.divergence}
        values |= {f"dials/{dial}": getattr(s, dial) for dial in ("tau", "epsilon", "learning_rate")}
        values |= by_class("weights", s.weights) | by_class("train/margin", s.margin) | by_class("radii", s.radii)
        for kind, correct in (("robust", s.robust_correct), ("clean", s.clean_correct)):
            values |= by_class(f"train/{kind}_accuracy", None if correct is None else _shares(correct, s.count))
        train.append((s.step, last, values))
    validation: list[Point] = []
    for row, e in enumerate(run.epochs):
        when, values = times.get(("EpochDone", e.step), last), {}
        for kind in ("clean", "robust"):
            average, worst = run.history.validation_summary(kind)
            values |= {f"validation/{kind}_average": average[row], f"validation/{kind}_worst": worst[row]}
            values |= by_class(f"validation/{kind}_accuracy", run.history.validation(kind)[row])
        validation.append((e.step, when, values))
    step = run.steps[-1].step if run.steps else 0
    test = {tag: v for attack, counts in tests.items() for tag, v in by_class(f"test/{attack}", _shares(*counts)).items()}
    return {"train": train, "validation": validation, "test": [(step, last, test)] if test else []}


def _shares(part: Sequence[int], whole: Sequence[int]) -> Iterator[float]:
    return (right / total if total else math.nan for right, total in zip(part, whole, strict=True))


def _tensorboard(run: _Recorded, out: Path, tests: Tests) -> str:
    """Write a folder of event files for each sub-folder, without values that are NaN."""
    event_pb2: Any = import_module("tensorboard.compat.proto.event_pb2")  # their names are made when they are loaded
    summary_pb2: Any = import_module("tensorboard.compat.proto.summary_pb2")
    from tensorboard.summary.writer.event_file_writer import EventFileWriter

    written, left, tags = 0, 0, set[str]()
    points = scalars(run, tests)
    for old in (file for folder in points for file in (out / folder).glob(f"events.out.tfevents.*{_OURS}")):
        old.unlink()  # of an earlier export: TensorBoard would draw both
    for folder in (name for name, held in points.items() if held):
        writer = EventFileWriter(str(out / folder), filename_suffix=_OURS)
        for step, when, values in points[folder]:
            known = {tag: float(v) for tag, v in values.items() if v is not None and np.isfinite(v)}
            written, left, tags = written + len(known), left + len(values) - len(known), tags | known.keys()
            held = [summary_pb2.Summary.Value(tag=tag, simple_value=v) for tag, v in known.items()]
            writer.add_event(event_pb2.Event(wall_time=when, step=step, summary=summary_pb2.Summary(value=held)))
        writer.close()
    without = f" {left} left out: they were not measured there." if left else ""
    return f"Written: {out} ({written} scalars of {len(tags)} tags).{without} Look at it: tensorboard --logdir {out}"
