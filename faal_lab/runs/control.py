"""Send commands to a run as small files, one per command: `control/000001.json`.

Appending to one file is not atomic on network disks, so each command is a file of its own, linked into place. The numbers order
the commands of all writers.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from faal_lab.errors import ConfigError, RunFolderError, check_name
from faal_lab.runs.config import Config, check_dial
from faal_lab.runs.events import COMMANDS, Command
from faal_lab.runs.files import SCHEMAS, check_schema


def _number(path: Path) -> int:
    return int(path.stem) if path.suffix == ".json" and path.stem.isdigit() else 0


def last_number(control: Path) -> int:
    """Return the highest number among the commands sent so far; 0 if there is none."""
    return max((_number(p) for p in control.glob("*.json")), default=0)


def spoken(words: str, config: Config) -> Command:
    """Return the command that words name: pause, resume, step, stop, or DIAL=VALUE.

    Raises UnknownName, or ConfigError for a value that the dial of this run does not take.
    """
    dial, equals, value = words.partition("=")
    if not equals:
        return Command(check_name("command", words, COMMANDS[:-1]))
    try:
        number = float(value)
    except ValueError:
        raise ConfigError(f"{dial} must be a number, got {value!r}.") from None
    return Command("turn", dial, check_dial(dial, number, config))


def send(control: Path, command: Command) -> Command:
    """Send a command to a run.

    Args:
        control: the run's folder of commands; created where it is missing.
        command: the command; its number is ignored.

    Returns:
        The command with the number it got.

    Raises:
        OSError: the folder cannot be written.

    >>> from pathlib import Path
    >>> from faal_lab.runs import CommandReader, send
    >>> from faal_lab.runs.events import Command
    >>> send(Path("control"), Command("pause")).number
    1
    >>> [command.do for command in CommandReader(Path("control")).poll()]
    ['pause']
    """
    control.mkdir(exist_ok=True)
    aside = control / f".{secrets.token_hex(8)}.tmp"
    number = last_number(control)
    try:
        while True:
            number += 1
            numbered = replace(command, number=number)
            aside.write_text(json.dumps({"schema": SCHEMAS["command"], **asdict(numbered)}), encoding="utf-8")
            try:
                _appear(aside, control / f"{number:06d}.json")
                return numbered
            except FileExistsError:
                continue  # another writer took this number
    finally:
        aside.unlink(missing_ok=True)


def _appear(source: Path, target: Path) -> None:
    """Link a whole file into place unless the name is taken; os.replace would overwrite a command."""
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:  # no hard links here: Windows' rename refuses an existing target by itself
        if target.exists():
            raise FileExistsError(target) from None
        os.rename(source, target)


class CommandReader:
    """A reader of the commands to a run, in order.

    Args:
        control: the run's folder of commands.
        after: skip the commands up to this number.
    """

    def __init__(self, control: Path, after: int = 0) -> None:
        self.control, self.after = control, after

    def poll(self) -> list[Command]:
        """Return the commands sent since the last call.

        Returns:
            The commands by number. A file that is unreadable or of a newer version becomes an unknown command, which the run
            refuses.
        """
        try:
            names = sorted((n for n in os.listdir(self.control) if n.endswith(".json")), key=lambda n: _number(Path(n)))
        except FileNotFoundError:
            return []
        commands = []
        for name in names:
            number = _number(Path(name))
            if number <= self.after:
                continue
            self.after = number
            record: dict[str, Any] = {}
            try:
                read = json.loads((self.control / name).read_text(encoding="utf-8"))
                check_schema("command", read, name, RunFolderError)
                record = read
            except RunFolderError as error:
                record = {"do": str(error)}
            except (OSError, ValueError):
                pass
            commands.append(Command(str(record.get("do", name)), str(record.get("dial", "")), record.get("value", 0.0), number))
        return commands
