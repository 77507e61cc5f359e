"""How long the epochs of runs took, by the clock times in their folders, beside what each method asks for (the paper's Table 4).

Knows: run folders, the rows of FAIRNESS. Must not know: tables of accuracy, figures.
An epoch is all between two ends of epochs: training, what a fairness method measures, validation.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from faal_lab.errors import ConfigError
from faal_lab.fairness import FAIRNESS
from faal_lab.runs import RunFolder, RunFolderError


def epoch_seconds(run_folder: str | Path) -> list[float]:
    """Seconds of each epoch from the second on: the first one also compiles, fills caches and waits for files.

    Epochs in which the run stood still between a stop and a resume are left out. Raises RunFolderError where none is left.
    """
    folder = RunFolder.open(run_folder)
    try:
        records = [json.loads(line) for line in folder.timing_file.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{folder.timing_file} cannot be read: {error}.") from error
    seconds, begun = [], None
    for record in records:
        if record["event"] == "RunResumed":
            begun = None
        elif record["event"] == "EpochDone":
            if begun is not None:
                seconds.append(record["time"] - begun)
            begun = record["time"]
    if not seconds:
        raise RunFolderError(f"{run_folder} has no two epochs in a row to take the time of. Train for at least two.")
    return seconds


def time_rows(runs: Mapping[str, str | Path], paper: Mapping[str, float] | None = None) -> list[dict[str, Any]]:
    """One row a run: minutes an epoch (median, shortest, longest), times longer than the first run, and the method's properties.

    `paper` has a paper's minutes by the names of runs. Raises RunFolderError.
    """
    rows: list[dict[str, Any]] = []
    for name, path in runs.items():
        minutes = np.array(epoch_seconds(path)) / 60
        config = RunFolder.open(path).config()
        first = rows[0]["minutes"] if rows else float(np.median(minutes))
        rows.append({
            "run": name, "epochs": len(minutes), "minutes": float(np.median(minutes)), "shortest": float(minutes.min()),
            "longest": float(minutes.max()), "times": float(np.median(minutes)) / first, "device": config.device,
            "paper": (paper or {}).get(name), "properties": FAIRNESS[config.fairness].properties(),
        })  # fmt: skip
    for row in rows:
        row["paper_times"] = row["paper"] / rows[0]["paper"] if row["paper"] and rows[0]["paper"] else None
    return rows


def minutes_of(entries: Iterable[str]) -> dict[str, float]:
    """A paper's minutes from texts as `name=2.63`; raises ConfigError."""
    found = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            equals = ""
        if not equals or not found[name] > 0:
            raise ConfigError(f"a paper's minutes must be like name=2.63, got {entry!r}.")
    return found
