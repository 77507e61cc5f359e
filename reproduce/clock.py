"""How long a long computation may go on in this piece, and how long each of its steps took over all pieces."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from faal_lab.runs.files import replace_file

Settings = dict[str, Any]


class OutOfTime(Exception):
    """The minutes of this piece are over; everything is kept."""


class Clock:
    """When to stop; and what is known of each step: how long it took over all pieces, and more."""

    def __init__(self, file: Path, minutes: float) -> None:
        self.file, self.end = file, time.monotonic() + 60 * minutes if minutes else float("inf")
        self.about: Settings = json.loads(file.read_text()) if file.is_file() else {}
        self.ahead = False  # whether this piece has finished anything

    def note(self, kind: str, name: str, value: Any) -> None:
        """Write down something of a step."""
        self.about.setdefault(kind, {})[name] = value
        replace_file(self.file, json.dumps({**self.about, "machine": machine()}, indent=1).encode() + b"\n")

    def look(self) -> None:
        """Raises OutOfTime."""
        if time.monotonic() > self.end:
            raise OutOfTime

    @contextmanager
    def counting(self, step: str) -> Iterator[None]:
        """Add what is done in here to the time of `step`, also where it is interrupted."""
        started = time.monotonic()
        try:
            yield
        finally:
            before = self.about.get("seconds", {}).get(step, 0.0)
            self.note("seconds", step, round(before + time.monotonic() - started, 1))


def machine() -> Settings:
    """What it ran on, in words that name no machine."""
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    versions = {"torch": torch.__version__.split("+")[0], "python": platform.python_version()}
    return {**versions, "threads": torch.get_num_threads(), "gpu": card}
