"""What one machine has made, as files of a size that travels, for another one to go on from.

Everything is one archive, cut in pieces, with a list beside them. The folder that it was made of keeps the list's number, so that
old work is never taken for new, nor written over it.
"""

from __future__ import annotations

import hashlib
import io
import json
import secrets
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from faal_lab.runs.files import replace_file

PIECE = 15_000_000  # bytes; many places take files of 16 MB and no more
_LIST, _MARK = "state.json", "carried.json"


class CarriedError(RuntimeError):
    """A state that cannot be gone on from; the message says why, and what to do."""


def pack(files: Mapping[str, Path], root: Path, state: Path) -> None:
    """Write `files`, by their names in another `root`, to `state` instead of what was there; no files change nothing."""
    if not files:
        return
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:  # not compressed: weights hardly would be
        for name, file in sorted(files.items()):
            archive.write(file, name)
    pieces = [content.getbuffer()[start : start + PIECE] for start in range(0, content.tell(), PIECE)]
    state.mkdir(parents=True, exist_ok=True)
    old = _read(state / _LIST)
    _clear(state, old)  # what an earlier attempt left when the disk was full
    listed = [hashlib.sha256(piece).hexdigest() for piece in pieces]  # two may be alike: zeros, say
    for digest, piece in zip(listed, pieces, strict=True):
        replace_file(state / f"{digest[:24]}.piece", bytes(piece))
    mark = {"work": _read(root / _MARK).get("work") or secrets.token_hex(8), "number": old.get("number", 0) + 1}
    root.mkdir(parents=True, exist_ok=True)
    replace_file(root / _MARK, json.dumps(mark).encode())
    new = {**mark, "pieces": listed}
    replace_file(state / _LIST, json.dumps(new, indent=1).encode())  # until now the old list held
    _clear(state, new)


def unpack(state: Path, root: Path) -> bool:
    """Make `root` from `state`; False where `root` is as far already, or there is no state yet. Raises CarriedError."""
    listed = _read(state / _LIST)
    if not listed:
        if state.is_dir() and any(state.glob("*.piece")):
            raise CarriedError(f"{state} has pieces and no {_LIST}, which says what they make. Copy it there, too.")
        return False
    if root.is_dir() and any(root.iterdir()):
        mark = _read(root / _MARK)
        if mark.get("work") == listed["work"] and mark["number"] >= listed["number"]:
            return False
        raise CarriedError(
            f"{root} and {state} are of different work, or {state} is ahead. Move away the one that is not to be gone on with."
        )
    parts = []
    for digest in listed["pieces"]:
        piece = state / f"{digest[:24]}.piece"
        if not piece.is_file():
            raise CarriedError(f"{state} lacks {piece.name}. Copy it there.")
        parts.append(piece.read_bytes())
        if hashlib.sha256(parts[-1]).hexdigest() != digest:
            raise CarriedError(f"{piece} is damaged. Copy it again.")
    aside = root.with_name(f".{root.name}.unpacked")
    shutil.rmtree(aside, ignore_errors=True)
    with zipfile.ZipFile(io.BytesIO(b"".join(parts))) as archive:
        archive.extractall(aside)  # names that point outside are made to lie inside
    replace_file(aside / _MARK, json.dumps({"work": listed["work"], "number": listed["number"]}).encode())
    if root.is_dir():
        root.rmdir()
    aside.rename(root)  # whole or not at all
    return True


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _clear(state: Path, listed: dict[str, Any]) -> None:
    """Remove all pieces that are not of the list."""
    wanted = {digest[:24] for digest in listed.get("pieces", [])}
    for piece in state.glob("*.piece"):
        if piece.stem not in wanted:
            piece.unlink()
