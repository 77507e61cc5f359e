"""Send commands to a run as small files, one per command: `control/000001.json`.

Appending to one file is not atomic on network disks, so each command is a file of its own, linked into place. The numbers order
the commands of all writers.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from faal_lab.catalogue import FAIRNESS
from faal_lab.errors import ConfigError, FaalLabError, RunFolderError, check_name
from faal_lab.runs.config import Config, check_dial
from faal_lab.runs.events import COMMANDS, Command, DialTurned
from faal_lab.runs.files import SCHEMAS, check_schema
from faal_lab.runs.follower import Follower


def _number(path: Path) -> int:
    return int(path.stem) if path.suffix == ".json" and path.stem.isdigit() else 0


def last_number(control: Path) -> int:
    """Return the highest number among the commands sent so far; 0 if there is none."""
    return max((_number(p) for p in control.glob("*.json")), default=0)


def spoken(words: str, config: Config) -> Command:
    """Return the command that words name: pause, resume, step, epoch, stop, pace=NUMBER, or DIAL=VALUE.

    Raises UnknownName, or ConfigError for a value that the dial of this run does not take.
    """
    dial, equals, value = words.partition("=")
    if not equals:
        return Command(check_name("command", words, COMMANDS[:-2]))
    try:
        number = float(value)
    except ValueError:
        raise ConfigError(f"{dial} must be a number, got {value!r}.") from None
    if dial == "pace":
        return Command("pace", value=check_pace(number))
    return Command("turn", dial, check_dial(dial, number, config))


def check_pace(value: object) -> float:
    """Return a number of batches a second, 0 for as many as it makes; raises ConfigError for anything else."""
    if not isinstance(value, (int, float)) or not (value == 0 or 0.01 <= value <= 1e6):
        raise ConfigError(f"pace must be a number of batches a second from 0.01 on, or 0 for as fast as it goes; got {value!r}.")
    return float(value)


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


# The dials of a run: the values of its last batch, and those that wait for the next one. A run records a turn when it goes on, so
# a paused run's turns are only in its folder of commands.
_OWN_METHODS = {"recipe", "fairness"}  # parts whose code the page does not read


def weighs(config: Config, own: set[str]) -> bool:
    """Return whether a run has a fairness method. `own`: its parts that are objects."""
    return config.fairness != "none" or bool(own & _OWN_METHODS)


def reads_tau(config: Config, own: set[str]) -> bool:
    """Return whether tau does something: in FAAL, and perhaps in a method from elsewhere."""
    return config.fairness == "faal" or bool(own & _OWN_METHODS) or bool(FAIRNESS[config.fairness].label)


def held(turns: Sequence[DialTurned], last: int) -> list[DialTurned]:
    """Return the turns whose value a batch up to `last` had.

    Several turns of a dial between two batches are one: from the first old value to the last new one.
    """
    merged: dict[tuple[str, int], DialTurned] = {}
    for turn in turns:
        earlier = merged.get((turn.dial, turn.step), turn)
        merged[turn.dial, turn.step] = replace(turn, old=earlier.old)
    return [turn for turn in merged.values() if turn.step < last and turn.old != turn.new]


def turned(turn: DialTurned) -> str:
    """Return dial and new value in words.

    >>> turned(DialTurned(3, "learning_rate", 0.5, 0.7)), turned(DialTurned(3, "fairness_on", 1, 0))
    ('learning rate 0.7', 'fairness off')
    """
    if turn.dial == "fairness_on":
        return f"fairness {'on' if turn.new else 'off'}"
    return f"{turn.dial.replace('_', ' ')} {turn.new:g}"


class Dials:
    """The dials of the run in a folder.

    `wanted` are the values for the next batch, by dial; {} before the run began.
    """

    def __init__(self, path: Path) -> None:
        self._reader = CommandReader(path / "control")
        self._asked: list[Command] = []
        self._now: dict[str, float] = {}
        self.wanted: dict[str, float] = {}

    def look(self, follower: Follower, config: Config | None) -> None:
        """Read new commands, and the turns that `follower` has read."""
        started, last = follower.started, follower.latest.step if follower.latest else 0
        if started is None or config is None:
            return
        for command in self._reader.poll():
            if command.do == "turn":
                with suppress(FaalLabError, TypeError):  # the run refuses it
                    self._asked.append(replace(command, value=check_dial(command.dial, command.value, config)))
        first = {"tau": started.tau, "epsilon": started.epsilon, "learning_rate": started.learning_rate, "fairness_on": 1.0}
        self._now = first | {turn.dial: turn.new for turn in follower.turns if turn.step < last}
        recorded = {turn.dial: turn.new for turn in follower.turns}
        self.wanted = first | recorded | {command.dial: command.value for command in self._unread(follower.turns)}

    def _unread(self, turns: Sequence[DialTurned]) -> list[Command]:
        """Return the commands without a recorded turn. A run obeys commands in their order."""
        asked = self._asked
        for turn in turns:
            same = [i for i, command in enumerate(asked) if (command.dial, command.value) == (turn.dial, turn.new)]
            if same:
                asked = [command for command in asked[: same[0]] if command.dial != turn.dial] + asked[same[0] + 1 :]
        return asked

    def waiting(self) -> list[str]:
        """Return each dial, in words, whose value the last batch did not have."""
        turns = (DialTurned(0, dial, self._now[dial], value) for dial, value in self.wanted.items())
        return [turned(turn) for turn in turns if turn.old != turn.new]
