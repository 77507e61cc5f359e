"""Obey commands between two steps, and between two attack steps; Ctrl-C, SIGTERM and SIGHUP between two steps."""

from __future__ import annotations

import json
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

from faal_lab.errors import ConfigError, UnknownName, check_name
from faal_lab.models.processes import count, largest, told
from faal_lab.runs.config import check_dial
from faal_lab.runs.control import check_pace
from faal_lab.runs.events import COMMANDS, Command, CommandRefused, DialTurned
from faal_lab.training.trainer import Trainer

Poll = Callable[[], list[Command]]


class BatchAgain(Exception):
    """A dial was turned during an attack: the batch begins again with it.

    Noise is keyed, so nothing else changes.
    """


class Stopped(Exception):
    """A stop was asked for; the state is that of the last whole step."""


class Caught:
    """The signal that asked the run to end, if one came."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def commands(self) -> list[Command]:
        """Return a stop command once a signal came, else nothing."""
        return [Command("stop")] if self.signal else []

    def stop_if_any(self) -> None:
        """Raise Stopped once a signal came."""
        if self.signal:
            raise Stopped

    def raise_if_any(self) -> None:
        """End as the signal would have: raise KeyboardInterrupt or SystemExit."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal:
            raise SystemExit(128 + self.signal)


@contextmanager
def caught_signals() -> Iterator[Caught]:
    """Turn the first Ctrl-C, SIGTERM or SIGHUP into a stop between two steps.

    A second one ends the process at once. Of several processes it does nothing: torchrun hands on what each has got already.
    """
    caught = Caught()
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def handle(number: int, _: Any) -> None:
        caught.signal = number
        if count() > 1:
            return
        for name, old in before.items():  # a terminal that is closed sends SIGHUP twice
            signal.signal(name, signal.SIG_IGN if name == closed else old)
        with suppress(OSError):  # after SIGHUP the terminal is gone
            print("Stopping: the state is saved first. Once more to end at once.", file=sys.stderr)

    before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}
    closed = getattr(signal, "SIGHUP", None)  # not on Windows
    if closed is not None and signal.getsignal(closed) != signal.SIG_IGN:  # nohup asks to go on
        before[closed] = signal.getsignal(closed)
    for name in before:
        signal.signal(name, handle)
    try:
        yield caught
    finally:
        if threading.current_thread() is threading.main_thread():
            for name, old in before.items():
                if name == closed or signal.getsignal(name) is handle:  # a process that ends with others is not to be ended twice
                    signal.signal(name, signal.SIG_IGN if caught.signal and count() > 1 else old)


def _agreed(mine: list[Command]) -> list[Command]:
    """Return the commands of all processes: those of the first one, and a stop if another one is to end."""
    if count() == 1:
        return mine
    if not largest(len(mine)):
        return []
    stop = largest(any(command.do == "stop" for command in mine))
    first = [Command(**row) for row in json.loads(told(json.dumps([asdict(command) for command in mine])))]
    return first if not stop or any(command.do == "stop" for command in first) else [*first, Command("stop")]


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
        self.to_end = False  # of the epoch: then pause
        self.pace = 0.0  # batches a second, at most; 0: any
        self._begun = -math.inf  # when the last batch was
        self._looked, self._cost = -math.inf, 0.0

    def look(self, *, now: bool = False) -> None:
        """Read new commands, and block while paused. Raises Stopped on a stop."""
        if count() > 1 and not now:
            return  # all processes look, and wait, at the same moments: between two steps
        self._read(now)
        if now:
            self._hold()
        while self.paused and not self.singles and not self.to_end and not self.stop:
            self.state.activity = "paused"
            time.sleep(self._INTERVAL / 4)
            self._read(False)
        if self.stop:
            raise Stopped
        self.state.activity = f"training, {self.pace:g} batches a second at most" if self.pace else "training"

    def _hold(self) -> None:
        """Wait until the next batch may begin. Several processes all wait, and read commands only between two batches."""
        while self.pace and not self.paused and not self.stop and (left := self._begun + 1 / self.pace - time.monotonic()) > 0:
            time.sleep(min(left, self._INTERVAL / 4))
            if count() == 1:
                self._read(False)
        self._begun = time.monotonic()

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
        if count() == 1 and clock - self._looked < self._INTERVAL and not (now and self._cost < 0.002):
            return
        for command in _agreed(self.poll()):
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
        if do == "pace":
            self.pace = check_pace(command.value)
        self.paused = do in ("pause", "step", "epoch") or (self.paused and do != "resume")
        self.singles += do == "step"
        self.to_end = do == "epoch" or (self.to_end and do not in ("pause", "resume"))
        self.stop = self.stop or do == "stop"

    def obey(self) -> Iterator[DialTurned | CommandRefused]:
        """Yield the turns and refusals since the last call.

        The caller records them before a batch feels them.
        """
        for reason in self.refused:
            yield CommandRefused(self.state.step, reason)
        yield from self.turns
        self.refused, self.turns = [], []
