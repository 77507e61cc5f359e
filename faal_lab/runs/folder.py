"""Create, open, read and write run folders.

config.json        every setting, their hash, versions of the libraries, the git commit, parts that were objects
metrics.jsonl      one event per line; the same bytes for the same seed
timing.jsonl       clock times, in a file of their own so that metrics.jsonl does not depend on the clock
control/           commands to the run, one file each
heartbeat.json     process, host and activity, written each second
writer.lock        locked by the process that writes
last.safetensors   the latest state; best.safetensors: the best state by validation
verdicts-*.npz     per-image results of evaluations
autoattack-*/      finished batches of AutoAttack, from which a killed evaluation resumes
pgd-*/             those of the other attacks, until the verdicts are there
log.txt            the output of a child process

docs/formats.md describes each field.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from faal_lab.errors import RunFolderError
from faal_lab.runs import control
from faal_lab.runs.config import Config
from faal_lab.runs.events import Command, Event, to_record
from faal_lab.runs.files import (
    SCHEMAS,
    check_schema,
    check_seals,
    checksum,
    cut_half_line,
    first_seal,
    replace_file,
    seal_of,
    sealed,
    whole_lines,
)
from faal_lab.runs.follower import METRICS, Follower
from faal_lab.runs.heartbeat import HEARTBEAT

ENDED = ("done", "stopped", "failed", "lost")  # the states of a run that sends no more events


_LEFT = re.compile(r"\.(?:last\.safetensors|best\.safetensors|heartbeat\.json|config\.json|verdicts-.*\.npz)\.(\d+)\.tmp")
_FIELDS = {"schema", "config", "hash", "versions", "own"}  # of config.json before it had a checksum


class RunFolder:
    """A run folder. Reading never changes it.

    Args:
        path: its path; `open` and `create` also check that it holds a run, or none.

    >>> from faal_lab.runs import RunFolder
    >>> from faal_lab.runs.config import Config
    >>> folder = RunFolder.create("runs/example", Config(tau=0.3), {"faal-lab": "1.0"})
    >>> folder.config().tau, folder.status()
    (0.3, 'waiting')
    """

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
        """Create a new run folder.

        Args:
            path: the folder; its parents are created too.
            config: the settings of the run.
            versions: the versions of Python, faal-lab and the libraries.
            own: the parts that were passed as objects, which no setting names, such as {"model": "Linear"}.

        Returns:
            The new folder, without events.

        Raises:
            RunFolderError: the folder already holds a run, or cannot be written.
        """
        folder = RunFolder(path)
        if folder.metrics_file.exists() or folder.config_file.exists():
            raise RunFolderError(
                f"{path} already holds a run. Choose another folder, resume it (faal-lab run --resume {path}), or delete it."
            )
        try:
            folder.control.mkdir(parents=True, exist_ok=True)
            record: dict[str, Any] = {"schema": SCHEMAS["config"], "config": config.to_mapping()}
            record |= {"hash": config.digest(), "versions": versions}
            if own:
                record["own"] = dict(own)
            record["check"] = checksum(record)
            replace_file(folder.config_file, json.dumps(record, indent=1).encode())
        except OSError as error:
            raise RunFolderError(f"Cannot write to the run folder {path}: {error.strerror or error}. Choose another.") from error
        return folder

    @staticmethod
    def open(path: str | Path) -> RunFolder:
        """Open an existing run folder.

        Args:
            path: the folder.

        Raises:
            RunFolderError: there is no run in it.
        """
        folder = RunFolder(path)
        if not folder.config_file.is_file():
            raise RunFolderError(f"{path} is not a run folder (no config.json in it). Train one first: faal-lab run --out {path}")
        return folder

    def _header(self) -> dict[str, Any]:
        try:
            record = json.loads(self.config_file.read_text(encoding="utf-8"))
            check_schema("config", record, self.config_file, RunFolderError)
            stated = record.pop("check", None)  # an older faal_lab wrote none, and no other fields than these
            if (stated is not None or record.keys() - _FIELDS) and stated != checksum(record):
                said = "does not fit its checksum. If you changed it on purpose, delete its last field, check."
                raise RunFolderError(f"{self.config_file} is damaged: it {said}")
            known = {"config": record["config"], "hash": record["hash"], "versions": record["versions"]}
            return known | {"own": record.get("own", {})}
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise RunFolderError(f"{self.config_file} cannot be read: {error}.") from error

    def config(self) -> Config:
        """Return the settings of the run.

        Raises:
            RunFolderError: config.json cannot be read, or is of a newer or an unlike version of faal-lab.
        """
        try:
            return Config.from_mapping(self._header()["config"])
        except (ValueError, TypeError) as error:  # UnknownName and ConfigError are ValueErrors
            hint = "" if "Unknown setting" in str(error) else " Or it names a part of a package that is not installed here."
            raise RunFolderError(f"{self.config_file} is of another version of faal-lab: {error}{hint}") from error

    def made_with(self, config: Config) -> bool:
        """Return whether these are the settings of the run; the number of parts that it chose for itself is 0 in them."""
        mine, theirs = self.config().to_mapping(), config.to_mapping()
        return mine == (theirs if config.accumulation else theirs | {"accumulation": mine["accumulation"]})

    def versions(self) -> dict[str, str]:
        """Return the versions of Python, faal-lab and the libraries that the run was created with."""
        return self._header()["versions"]

    def own(self) -> dict[str, str]:
        """Return the parts (model, recipe, fairness, ...) that were passed as objects, with the names of their classes."""
        return self._header()["own"]

    def checkpoint(self, which: str = "last") -> Path:
        """Return the path of a checkpoint; the file may be missing.

        Args:
            which: "last" or "best".
        """
        return self.path / f"{which}.safetensors"

    def verdicts_file(self, which: str = "last", classes: Sequence[str] = ()) -> Path:
        """Return the path of the per-image verdicts of an evaluation; the file may be missing.

        Args:
            which: the evaluated checkpoint, "last" or "best".
            classes: the names of the evaluated classes; empty for all.
        """
        of = "".join("-" + re.sub(r"\W", "_", name) for name in classes)
        return self.path / f"verdicts-{which}{of}.npz"

    def send(self, command: Command) -> Command:
        """Send a command to the run, which reads commands a few times a second.

        Args:
            command: the command; its number is ignored.

        Returns:
            The command with its number.
        """
        return control.send(self.control, command)

    @contextmanager
    def recording(self) -> Iterator[Recorder]:
        """Open the folder for new events, in a `with` statement.

        Returns:
            A recorder. It flushes each line, so that another program can follow the run.
        """
        for left in self.path.glob(".*.tmp"):  # of a writer that was killed: ours ends with our number
            found = _LEFT.fullmatch(left.name)
            if found and int(found[1]) != os.getpid():
                with suppress(OSError):
                    left.unlink()
        seals = [self._last_seal(file) for file in (self.metrics_file, self.timing_file)]
        # without a buffer: what a full disk did not take must not come after it, when there is room again
        with open(self.metrics_file, "ab", 0) as metrics, open(self.timing_file, "ab", 0) as timing:
            yield Recorder([metrics, timing], seals)

    @staticmethod
    def _last_seal(file: Path) -> int:
        """Return the checksum that the next line of a file follows."""
        last = seal_of(cut_half_line(file))
        return (first_seal(file) or 0) if last is None else last

    def times(self) -> list[tuple[str, int | None, float]]:
        """Return the name, the step (None for the first record) and the clock time of each event.

        Raises:
            RunFolderError: timing.jsonl is damaged, or of a newer version of faal-lab.
        """
        try:
            lines = whole_lines(self.timing_file.read_bytes()) if self.timing_file.exists() else []
            records = [json.loads(line) for line in lines]
            for record in records:
                check_schema("timing", record, self.timing_file, RunFolderError)
            told = [(str(record["event"]), record["step"], float(record["time"])) for record in records]
            if not all(step is None or isinstance(step, int) for _, step, _ in told):
                raise TypeError("a step that is no whole number")
            check_seals(lines, self.timing_file)
            return told
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise RunFolderError(
                f"{self.timing_file} is damaged: it holds a line that is no time ({error}). Without the file no times are needed."
            ) from error

    def events(self) -> list[Event]:
        """Return all events so far, without those that a resume undid."""
        follower = Follower(self.path)
        follower.poll()
        return follower.events

    def status(self) -> str:
        """Return the run's state in one word.

        Returns:
            waiting, a live activity (training, paused, ...), done, stopped, failed or lost.
        """
        follower = Follower(self.path)
        follower.poll()
        return follower.status()


class Recorder:
    """A writer of events; their clock times go to a file of their own."""

    def __init__(self, files: Sequence[IO[bytes]], seals: list[int]) -> None:
        self._files, self._seals = files, seals

    def write(self, event: Event) -> None:
        """Append one event, and the current time to the file of clock times.

        Raises OSError, which names the file; a half-written line is none for readers, and the next writer cuts it off.
        """
        step = getattr(event, "step", None)
        told = {"event": type(event).__name__, "schema": SCHEMAS["timing"], "step": step, "time": round(time.time(), 3)}
        for which, record in enumerate((to_record(event), told)):
            line = sealed(json.dumps(record, allow_nan=False).encode(), self._seals[which])
            left = line + b"\n"
            try:
                while left:
                    left = left[self._files[which].write(left) :]
            except OSError as error:
                why = f"cannot write {self._files[which].name}: {error.strerror}; what was there before is intact"
                raise type(error)(error.errno, why) from error
            self._seals[which] = seal_of(line) or 0


def by_name(paths: Iterable[str | Path]) -> dict[str, Path]:
    """Name run folders by the last part of their path, or by the whole path where two share that part.

    Args:
        paths: the folders; one that comes twice counts once.

    Returns:
        The path of each name.

    >>> from faal_lab.runs import by_name
    >>> list(by_name(["runs/base", "runs/faal", "old/faal"]))
    ['base', 'runs/faal', 'old/faal']
    """
    folders = list(dict.fromkeys(map(Path, paths)))
    names = [folder.name for folder in folders]
    return {str(folder) if names.count(folder.name) > 1 else folder.name: folder for folder in folders}


def free_name(parent: str | Path, stem: str) -> Path:
    """Return the first free path of `parent/stem`, `parent/stem-2`, `parent/stem-3`, ...

    Args:
        parent: the folder to look in; it may be missing.
        stem: the preferred name.

    Returns:
        A path where nothing exists; nothing is created.

    >>> from pathlib import Path
    >>> from faal_lab.runs import free_name
    >>> Path("taken/base").mkdir(parents=True)
    >>> free_name("taken", "base").name
    'base-2'
    """
    path, number = Path(parent) / stem, 1
    while path.exists():
        number += 1
        path = Path(parent) / f"{stem}-{number}"
    return path
