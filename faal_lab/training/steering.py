"""Obey commands between two steps, and between two attack steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence

from faal_lab.errors import ConfigError, UnknownName, check_name
from faal_lab.runs.config import check_dial
from faal_lab.runs.events import COMMANDS, Command, CommandRefused, DialTurned
from faal_lab.training.trainer import Trainer

Poll = Callable[[], list[Command]]


class BatchAgain(Exception):
    """A dial was turned during an attack: the batch begins again with it.

    Noise is keyed, so nothing else changes.
    """


class Stopped(Exception):
    """A stop was asked for; the state is that of the last whole step."""


class Steering:
    """The commands of one call of `train`. Turns dials, and blocks while paused."""

    _INTERVAL = 0.2  # seconds between looks during an attack, and if one look is slow (a network disk)

    def __init__(self, trainer: Trainer, poll: Poll, script: Sequence[DialTurned] = ()) -> None:
        self.state, self.config, self.poll = trainer.state, trainer.config, poll
        self._script = [turn for turn in script if turn.step >= trainer.state.step]
        self.turns: list[DialTurned] = []  # turned, not yet reported
        self.refused: list[str] = []
        self.paused, self.stop = False, False
        self.singles = 0  # steps that may be made while paused
        self._looked, self._cost = -math.inf, 0.0

    def look(self, *, now: bool = False) -> None:
        """Read new commands, and block while paused. Raises Stopped on a stop."""
        self._read(now)
        while self.paused and not self.singles and not self.stop:
            self.state.activity = "paused"
            time.sleep(self._INTERVAL / 4)
            self._read(False)
        if self.stop:
            raise Stopped
        self.state.activity = "training"

    def replay(self) -> None:
        """Turn the dials that the script turned after the step just made."""
        while self._script and self._script[0].step <= self.state.step:
            turn = self._script.pop(0)
            self._take(Command("turn", turn.dial, turn.new))

    def during_attack(self) -> None:
        """Read commands between two attack steps. Raises BatchAgain if a dial was turned."""
        self.look()
        if self.turns:
            raise BatchAgain

    def _read(self, now: bool) -> None:
        clock = time.monotonic()
        if clock - self._looked < self._INTERVAL and not (now and self._cost < 0.002):
            return
        for command in self.poll():
            self.state.commands_read = max(self.state.commands_read, command.number)
            try:
                self._take(command)
            except (UnknownName, ConfigError) as error:
                self.refused.append(str(error))
        self._looked = time.monotonic()
        self._cost = self._looked - clock

    def _take(self, command: Command) -> None:
        do = check_name("command", command.do, COMMANDS)
        if do == "turn":
            # Turn it as it is read: else a checkpoint could hold a turn as read without its new value.
            value, old = check_dial(command.dial, command.value, self.config), self.state.dials[command.dial]
            self.state.dials[command.dial] = value
            self.turns.append(DialTurned(self.state.step, command.dial, old, value))
        self.paused = do == "pause" or (self.paused and do != "resume") or do == "step"
        self.singles += do == "step"
        self.stop = self.stop or do == "stop"

    def obey(self) -> Iterator[DialTurned | CommandRefused]:
        """Yield the turns and refusals since the last call.

        The caller records them before a batch feels them.
        """
        for reason in self.refused:
            yield CommandRefused(self.state.step, reason)
        yield from self.turns
        self.refused, self.turns = [], []
