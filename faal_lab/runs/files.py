"""Writing a file so that a reader sees the old one or the new one, never half of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

_T = TypeVar("_T")
_TRIES, _WAIT = 10, 0.05  # Windows refuses to replace a file that somebody is reading; the reader is soon done


def replace_file(path: Path, content: bytes) -> None:
    """Write `content` beside `path`, flush it to disk, then rename it over `path`.

    Raises OSError naming the path; the file as it was stays in place.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(aside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        patiently(lambda: os.replace(aside, path))
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise type(error)(error.errno, f"cannot write {path}: {error.strerror}; what was there before is intact") from error


def patiently(action: Callable[[], _T]) -> _T:
    """Try `action` again for half a second while it raises PermissionError."""
    for _ in range(_TRIES - 1):
        try:
            return action()
        except PermissionError:
            time.sleep(_WAIT)
    return action()
