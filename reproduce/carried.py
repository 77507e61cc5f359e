"""Run folders as files of a size that travels: what a machine that is lent for minutes gives back, and the next one goes on from.

Knows: files, pieces, checksums. Must not know: what is in a run folder, which runs are needed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from faal_lab.runs.files import replace_file

PIECE = 15_000_000  # bytes; many places take files of 16 MB and no more
_LIST = "state.json"


class CarriedError(RuntimeError):
    """A piece is missing or damaged; the message names it."""


def pack(files: Iterable[Path], root: Path, into: Path) -> None:
    """Write `files` of `root` to `into`, in pieces. A file that lies there already is not written again; others are removed."""
    into.mkdir(parents=True, exist_ok=True)
    listed: dict[str, Any] = {}
    for file in sorted(files):
        content = file.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        names = [f"{digest[:16]}.{number:03d}" for number in range(max(1, -(-len(content) // PIECE)))]
        for number, name in enumerate(names):
            if not (into / name).is_file():
                replace_file(into / name, content[number * PIECE : (number + 1) * PIECE])
        listed[file.relative_to(root).as_posix()] = {"sha256": digest, "pieces": names}
    replace_file(into / _LIST, json.dumps(listed, indent=1).encode())  # last: until then the old list holds
    wanted = {name for entry in listed.values() for name in entry["pieces"]}
    for old in into.glob("*.[0-9][0-9][0-9]"):
        if old.name not in wanted:
            old.unlink()


def unpack(state: Path, root: Path) -> int:
    """Write the files of `state` under `root`; returns how many. Raises CarriedError before anything is written."""
    if not (state / _LIST).is_file():
        return 0
    found = {}
    for name, entry in json.loads((state / _LIST).read_text(encoding="utf-8")).items():
        missing = [piece for piece in entry["pieces"] if not (state / piece).is_file()]
        if missing:
            raise CarriedError(
                f"{state} lacks {', '.join(missing)}, of which {name} is made. Copy it there, or start without it."
            )
        content = b"".join((state / piece).read_bytes() for piece in entry["pieces"])
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            raise CarriedError(
                f"{name} in {state} is damaged: its checksum does not fit. Copy {', '.join(entry['pieces'])} again."
            )
        path = root / name
        if not path.resolve().is_relative_to(root.resolve()):
            raise CarriedError(f"{state / _LIST} names {name}, which lies outside {root}.")
        found[path] = content
    for path, content in found.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)
    return len(found)
