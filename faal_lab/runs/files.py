"""Write a file atomically, so that a reader sees the old one or the new one; check schemas and checksums; list versions."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from faal_lab.errors import FaalLabError, RunFolderError

_LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "safetensors", "pyautoattack")
_T = TypeVar("_T")

# The version of each format (docs/formats.md). Readers take this version and all before it, and ignore fields that they do not
# know: a field more keeps the number, a field of another meaning raises it. A record without a number is of version 1.
SCHEMAS = {
    "config": 1, "metrics": 1, "timing": 1, "command": 1, "heartbeat": 1, "checkpoint": 1, "verdicts": 1, "status": 1,
}  # fmt: skip
_SEAL = re.compile(rb', "check": "([0-9a-f]{8})"}$')
_ROWS = 4096  # of a tensor, hashed at once
_TRIES, _WAIT = 10, 0.05  # Windows refuses to replace a file that is open for reading: wait for the reader


def replace_file(path: Path, content: bytes) -> None:
    """Write `content` beside `path`, flush it to disk, then rename it over `path`.

    Raises OSError, which names the path; the old file then stays in place.
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


@contextmanager
def locked(lock: Path, other: FaalLabError) -> Iterator[None]:
    """Hold a lock file while a `with` statement runs; raise `other` where another process holds it."""
    from filelock import FileLock, Timeout

    own = FileLock(str(lock))
    try:
        own.acquire(timeout=0)
    except Timeout:
        raise other from None
    try:
        yield
    finally:
        own.release()


def check_schema(kind: str, record: object, where: object, error: type[FaalLabError]) -> None:
    """Raise `error` unless a record of a format of SCHEMAS is of a version that this faal_lab reads; `where` names it."""
    known = SCHEMAS[kind]
    if not isinstance(record, dict):
        raise error(f"{where} is damaged: expected a JSON object, got {type(record).__name__}.")
    stated = record.get("schema", 1)
    if type(stated) is not int or stated < 1:
        raise error(f"{where} is damaged: its schema is {stated!r}, expected a whole number from 1 to {known}.")
    if stated > known:
        raise error(
            f"{where} was made by a newer faal_lab (schema {stated}, this one reads up to {known}): pip install -U faal-lab"
        )


def checksum(record: Mapping[str, Any]) -> str:
    """Return the CRC-32 of a JSON object, whatever the order of its fields, as eight hexadecimal digits."""
    return f"{zlib.crc32(json.dumps(record, sort_keys=True).encode()):08x}"


def sealed(line: bytes, before: int) -> bytes:
    """Return a line of JSON with the CRC-32 of itself, and of all lines before it by theirs, as its last field `check`."""
    return line[:-1] + b', "check": "%08x"}' % zlib.crc32(line, before)


def seal_of(line: bytes) -> int | None:
    """Return the checksum that a line states; None for one of another program or of an older faal_lab."""
    found = _SEAL.search(line)
    return int(found[1], 16) if found else None


def settings_hash(folder: Path) -> str | None:
    """Return the hash that a folder's config.json states; None where there is none, or where the file is damaged."""
    try:
        record = json.loads((folder / "config.json").read_bytes())
        stated = record.pop("check", None)
        return str(record["hash"]) if stated in (None, checksum(record)) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def first_seal(file: Path) -> int | None:
    """Return what the first line of a run's file follows: the hash of the settings beside it. None where it is not known."""
    stated = settings_hash(file.parent)
    return None if stated is None else zlib.crc32(stated.encode())


def check_seals(lines: list[bytes], file: Path, before: int | None = None, number: int = 0) -> int | None:
    """Check the lines of a file, of which `number` were read before and ended with the checksum `before`.

    Returns the last checksum; None if no line has one. Raises RunFolderError for a line that is changed, missing, out of place
    or of another run.
    """
    for place, line in enumerate(lines, number + 1):
        stated = seal_of(line)
        if stated is None and before is None:
            continue
        start = first_seal(file) if before is None else before
        body = _SEAL.sub(b"}", line)
        if stated is None or (start is not None and stated != zlib.crc32(body, start)):
            raise RunFolderError(
                f"{file} is damaged: line {place} does not fit its checksum and the lines before it. "
                f"What can still be used: faal-lab verify {file.parent}"
            )
        before = stated
    return before


def whole_lines(content: bytes) -> list[bytes]:
    """Return the lines that are not empty, without a last one that has no line end: it is half written."""
    return [line for line in content.split(b"\n")[:-1] if line.strip()]


def cut_half_line(file: Path) -> bytes:
    """Cut off the half line that a killed writer may have left, so that the next one is not appended to it.

    Returns the last line that is left; empty where there is none.
    """
    if not file.exists():
        return b""
    with open(file, "rb+") as stream:
        content = stream.read()
        if content and not content.endswith(b"\n"):
            stream.truncate(content.rfind(b"\n") + 1)
    return (whole_lines(content) or [b""])[-1]


def patiently(action: Callable[[], _T]) -> _T:
    """Call `action`; try again for half a second while it raises PermissionError."""
    for _ in range(_TRIES - 1):
        try:
            return action()
        except PermissionError:
            time.sleep(_WAIT)
    return action()


def tensors_sha256(tensors: Mapping[str, Any], prefix: str = "") -> str:
    """Return the SHA-256 of `prefix` and of each tensor's name, type, shape and bytes, sorted by name.

    Images that lie in a file pass for a tensor: all are read a few at once.
    """
    import torch

    total = hashlib.sha256(prefix.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        for part in tensor.split(_ROWS) if tensor.shape else [tensor]:
            total.update(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return total.hexdigest()


def versions() -> dict[str, str]:
    """Return the versions behind a run: Python, faal-lab, the git commit and the libraries.

    The commit is "unknown" outside a git repository.
    """
    found = {"python": platform.python_version()}
    for name in ("faal-lab", *_LIBRARIES):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=5, check=True
        )
        found["commit"] = commit.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        found["commit"] = "unknown"
    return found
