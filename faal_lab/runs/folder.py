"""Open a run folder, and write to it.

config.json        every setting, its hash, versions of the libraries, the git commit, parts that were objects
metrics.jsonl      one event a line; the same bytes for the same seed
timing.jsonl       clock times, kept apart for that reason
control/           commands to the run, one file each
heartbeat.json     sign of life: process, host, activity
last.safetensors   the latest state; best.safetensors, the best by validation
verdicts-*.npz     per-image results of evaluations
log.txt            what a child process printed
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from faal_lab.errors import RunFolderError, UnknownName
from faal_lab.runs import control
from faal_lab.runs.config import Config
from faal_lab.runs.events import Command, Event, to_record
from faal_lab.runs.files import replace_file
from faal_lab.runs.follower import METRICS, Follower
from faal_lab.runs.heartbeat import HEARTBEAT

ENDED = ("done", "stopped", "failed", "lost")  # what a run's status may be once nothing comes any more


class RunFolder:
    """A run folder by its path. Reading one never changes it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.json"
        self.metrics_file = self.path / METRICS
        self.timing_file = self.path / "timing.jsonl"
        self.control = self.path / "control"
        self.heartbeat_file = self.path / HEARTBEAT

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @staticmethod
    def create(path: str | Path, config: Config, versions: dict[str, str], own: Mapping[str, str] | None = None) -> RunFolder:
        """Make a new run folder; raises RunFolderError where one is already there, or none can be made.

        `own` names the parts that were handed over as objects, which no setting says: {"model": "Linear"}.
        """
        folder = RunFolder(path)
        if folder.metrics_file.exists() or folder.config_file.exists():
            raise RunFolderError(
                f"{path} already holds a run. Choose another folder, resume it (faal-lab run --resume {path}), or delete it."
            )
        try:
            folder.control.mkdir(parents=True, exist_ok=True)
            record: dict[str, Any] = {"config": config.to_mapping(), "hash": config.digest(), "versions": versions}
            if own:
                record["own"] = dict(own)
            replace_file(folder.config_file, json.dumps(record, indent=1).encode())
        except OSError as error:
            raise RunFolderError(f"Cannot write to the run folder {path}: {error.strerror or error}. Choose another.") from error
        return folder

    @staticmethod
    def open(path: str | Path) -> RunFolder:
        """An existing run folder; raises RunFolderError where there is none."""
        folder = RunFolder(path)
        if not folder.config_file.is_file():
            raise RunFolderError(f"{path} is not a run folder (no config.json in it). Train one first: faal-lab run --out {path}")
        return folder

    def _header(self) -> dict[str, Any]:
        try:
            record = json.loads(self.config_file.read_text(encoding="utf-8"))
            known = {"config": record["config"], "hash": record["hash"], "versions": record["versions"]}
            return known | {"own": record.get("own", {})}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunFolderError(f"{self.config_file} cannot be read: {error}.") from error

    def config(self) -> Config:
        """The settings of the run."""
        try:
            return Config.from_mapping(self._header()["config"])
        except (UnknownName, ValueError) as error:
            raise RunFolderError(f"{self.config_file} is of another version of faal-lab: {error}") from error

    def versions(self) -> dict[str, str]:
        """Versions of Python, faal-lab and the libraries that made the run."""
        return self._header()["versions"]

    def own(self) -> dict[str, str]:
        """Which parts (model, recipe) were objects of the process that made the run, and of which class."""
        return self._header()["own"]

    def checkpoint(self, which: str = "last") -> Path:
        """Where the checkpoint `last` or `best` lies."""
        return self.path / f"{which}.safetensors"

    def verdicts_file(self, which: str = "last", classes: Sequence[str] = ()) -> Path:
        """Where the per-image verdicts of an evaluation of that checkpoint lie, on all classes or on `classes` alone."""
        of = "".join("-" + re.sub(r"\W", "_", name) for name in classes)
        return self.path / f"verdicts-{which}{of}.npz"

    def send(self, command: Command) -> Command:
        """Tell the run something; it listens a few times a second."""
        return control.send(self.control, command)

    @contextmanager
    def recording(self) -> Iterator[Recorder]:
        """Append events; each line is flushed, so that it can be followed."""
        _end_broken_line(self.metrics_file)
        with open(self.metrics_file, "a", encoding="utf-8") as metrics, open(self.timing_file, "a", encoding="utf-8") as timing:
            yield Recorder(metrics, timing)

    def events(self) -> list[Event]:
        """All events so far; those undone by a resume are left out."""
        follower = Follower(self.path)
        follower.poll()
        return follower.events

    def status(self) -> str:
        """What the run does: waiting, a live activity (training, paused, ...), done, stopped, failed, or lost."""
        follower = Follower(self.path)
        follower.poll()
        return follower.status()


class Recorder:
    """Writes events; clock times go to their own file."""

    def __init__(self, metrics: IO[str], timing: IO[str]) -> None:
        self._metrics, self._timing = metrics, timing

    def write(self, event: Event) -> None:
        """Append one event and the clock time it was written at."""
        self._metrics.write(json.dumps(to_record(event), allow_nan=False) + "\n")
        self._metrics.flush()
        step = getattr(event, "step", None)
        self._timing.write(json.dumps({"event": type(event).__name__, "step": step, "time": round(time.time(), 3)}) + "\n")
        self._timing.flush()


def _end_broken_line(file: Path) -> None:
    """A killed writer may have left half a line: cut it off, so that the next record starts on its own."""
    if not file.exists():
        return
    with open(file, "rb+") as stream:
        content = stream.read()
        if content and not content.endswith(b"\n"):
            stream.truncate(content.rfind(b"\n") + 1)


def by_name(paths: Iterable[str | Path]) -> dict[str, Path]:
    """Run folders by their last part, or by the whole path where two share it."""
    folders = list(dict.fromkeys(map(Path, paths)))
    names = [folder.name for folder in folders]
    return {str(folder) if names.count(folder.name) > 1 else folder.name: folder for folder in folders}


def free_name(parent: str | Path, stem: str) -> Path:
    """`parent/stem`, or `parent/stem-2`, ...: the first that is not taken."""
    path, number = Path(parent) / stem, 1
    while path.exists():
        number += 1
        path = Path(parent) / f"{stem}-{number}"
    return path
