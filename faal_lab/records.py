"""A run's records as files that other programs read.

Knows: events, plain text formats. Must not know: widgets, plots.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from faal_lab.events import EpochDone, RunStarted, StepDone, to_record
from faal_lab.runs import RunFolder, RunFolderError


def run_files(path: str | Path) -> dict[str, bytes]:
    """Steps and epochs as CSV, one column a number and class, and settings with all events as JSON, by their file names.

    Raises RunFolderError where the folder holds no run that was started.
    """
    folder = RunFolder.open(path)
    events = folder.events()
    names = next((e.class_names for e in events if isinstance(e, RunStarted)), None)
    if names is None:
        raise RunFolderError(f"{path} holds no run that was started.")
    stem = folder.path.name
    whole = {"config": folder.config().to_mapping(), "versions": folder.versions(), "events": [to_record(e) for e in events]}
    return {
        f"{stem}-steps.csv": _table([e for e in events if isinstance(e, StepDone)], names),
        f"{stem}-epochs.csv": _table([e for e in events if isinstance(e, EpochDone)], names),
        f"{stem}.json": json.dumps(whole).encode(),
    }


def _table(events: list[StepDone] | list[EpochDone], names: list[str]) -> bytes:
    """One row an event; a list becomes a column for each class, a list that is missing stays away."""
    rows = []
    for event in events:
        row: dict[str, object] = {}
        for key, value in vars(event).items():
            if isinstance(value, list):
                row |= {f"{key}[{name}]": number for name, number in zip(names, value, strict=True)}
            elif value is not None:
                row[key] = value
        rows.append(row)
    file = io.StringIO()
    writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)), restval="")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()
