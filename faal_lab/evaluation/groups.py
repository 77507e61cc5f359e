"""Read evaluated run folders for reports and pictures: one run per name, with its other seeds."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from faal_lab.errors import ConfigError
from faal_lab.evaluation.evaluate import Runs, read_verdicts
from faal_lab.evaluation.verdicts import Verdicts, VerdictsError
from faal_lab.runs import RunFolder
from faal_lab.runs.events import RunStarted
from faal_lab.runs.history import History, load_history


@dataclass(frozen=True)
class Reported:
    """One evaluated run, with its history and the verdicts of its other seeds."""

    name: str
    folder: RunFolder
    verdicts: Verdicts
    history: History
    adopted: bool  # trained elsewhere
    others: tuple[Verdicts, ...] = ()  # of the same settings with other seeds

    @property
    def group(self) -> list[Verdicts]:
        """The verdicts of all seeds, this run's first."""
        return [self.verdicts, *self.others]

    @staticmethod
    def read(name: str, path: str | Path, checkpoint: str = "last") -> Reported:
        """Read a run; raises RunFolderError or VerdictsError for missing files or verdicts of other weights."""
        folder = RunFolder.open(path)
        verdicts = read_verdicts(path, checkpoint)
        adopted = any(isinstance(event, RunStarted) and event.epochs == 0 for event in folder.events())
        return Reported(name, folder, verdicts, load_history(path)[0], adopted)


def grouped(texts: Iterable[str]) -> dict[str, list[str]]:
    """Group run folders by name; most groups are one run.

    A text is `folder`, `name=folder`, or for seeds `name=folder,folder`; a repeated `name=` adds to its group. Raises
    VerdictsError for an empty group, or one name for two groups.
    """
    groups: dict[str, list[str]] = {}
    stated = set()
    for text in texts:
        whole = Path(text).exists()
        name, equals, rest = ("", "", "") if whole or Path(text.partition(",")[0]).exists() else text.partition("=")
        paths = [text] if whole else [part for part in (rest if equals else text).split(",") if part]
        if not paths:
            raise VerdictsError(f"{text!r} names no run folder; expected a group of seeds such as runs/a-0,runs/a-1.")
        name = name if equals else Path(paths[0]).name
        if name in groups and not (equals and name in stated):
            raise VerdictsError(f"Two groups are named {name}: tell them apart by name=path,path.")
        stated |= {name} if equals else set()
        groups.setdefault(name, []).extend(paths)
    return groups


def read_runs(texts: Iterable[str], checkpoint: str = "last") -> list[Reported]:
    """Read one run per name of `grouped`, with its seeds; raises VerdictsError if images or attacks vary."""
    runs = []
    for name, (first, *more) in grouped(texts).items():
        others = tuple(Reported.read(name, path, checkpoint).verdicts for path in more)
        runs.append(replace(Reported.read(name, first, checkpoint), others=others))
    for other in runs[1:]:
        for mine, theirs in zip(runs[0].group, other.group, strict=False):
            mine.check_same(theirs, f"{runs[0].name} and {other.name}")
    attacks = {tuple(verdicts.survived) for run in runs for verdicts in run.group}
    if len(attacks) > 1:
        raise VerdictsError(f"The runs were evaluated with different attacks: {sorted(attacks)}. Evaluate them alike.")
    return runs


def read_seeds(texts: Iterable[str], checkpoint: str = "last") -> dict[str, list[Verdicts]]:
    """Read the verdicts of all seeds of each name in `grouped`."""
    found = grouped(texts)
    return {name: [Reported.read(name, path, checkpoint).verdicts for path in paths] for name, paths in found.items()}


def reported(runs: Iterable[Runs], checkpoint: str = "last") -> list[Reported]:
    """Read evaluated runs with their verdicts, history and settings."""
    return read_runs([os.fspath(run) for run in runs], checkpoint)


def verdicts_of(runs: Sequence[Runs | Mapping[str, Verdicts]], checkpoint: str) -> dict[str, Verdicts]:
    """Return verdicts by name, of several seeds the first.

    Takes runs, or verdicts as `evaluate` returned them. Raises ConfigError if there are none.
    """
    return {name: group[0] for name, group in groups_of(runs, checkpoint).items()}


def groups_of(runs: Sequence[Runs | Mapping[str, Any]], checkpoint: str) -> dict[str, list[Verdicts]]:
    """Return the verdicts of each name, one for each of its seeds, in order.

    Raises ConfigError if there are none.
    """
    found: dict[str, list[Verdicts]] = {}
    for _, some in groupby(runs, lambda run: isinstance(run, Mapping)):
        folders: list[str] = []  # those that stand together, so that the seeds of one name find each other
        for run in some:
            if isinstance(run, Mapping):
                found |= {name: [v] if isinstance(v, Verdicts) else list(v) for name, v in run.items()}
            else:
                folders.append(os.fspath(run))
        found |= read_seeds(folders, checkpoint)
    if not found:
        raise ConfigError("Name at least one evaluated run.")
    return found
