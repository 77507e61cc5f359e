"""Ctrl-C and SIGTERM as something to be obeyed between two steps.

Knows: the signals of a process. Must not know: what is stopped.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from faal_lab.events import Command


class Caught:
    """Which signal asked the run to end."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def commands(self) -> list[Command]:
        """A stop, once a signal came."""
        return [Command("stop")] if self.signal else []

    def raise_if_any(self) -> None:
        """End as the signal would have; raises KeyboardInterrupt or SystemExit."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal:
            raise SystemExit(128 + self.signal)


@contextmanager
def caught_signals() -> Iterator[Caught]:
    """Turn the first Ctrl-C or SIGTERM into a stop between two steps; a second one ends the process at once."""
    caught = Caught()
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def handle(number: int, _: Any) -> None:
        caught.signal = number
        for name, old in before.items():
            signal.signal(name, old)
        print("Stopping: the state is saved first. Once more to end at once.", file=sys.stderr)

    before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}
    for name in before:
        signal.signal(name, handle)
    try:
        yield caught
    finally:
        if threading.current_thread() is threading.main_thread():
            for name, old in before.items():
                if signal.getsignal(name) is handle:
                    signal.signal(name, old)
