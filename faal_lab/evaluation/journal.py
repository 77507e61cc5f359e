"""What an interrupted evaluation has finished: one line a batch, appended and flushed, in a folder that several may share.

Knows: attacks, batches and predictions by number. Must not know: models, images. A folder is named by a hash of what its
verdicts depend on, so that those of another model, radius or data set are never taken for one's own.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

Batch = tuple[str, int]  # attack, number of the batch among those left at its beginning


class Journal:
    """Predictions of finished batches. Without a folder it remembers nothing beyond the process."""

    def __init__(self, folder: Path | None, identity: dict[str, Any], part: int = 0) -> None:
        self._done: dict[Batch, list[int]] = {}
        self._read: dict[Path, int] = {}  # bytes of each part's file that were read
        self.folder, self._file = None, None
        if folder is not None:
            text = json.dumps(identity, sort_keys=True)
            self.folder = folder / f"autoattack-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "identity.json").write_text(text + "\n", encoding="utf-8")
            self._file = self.folder / f"part-{part}.jsonl"
            _end_broken_line(self._file)

    def done(self) -> dict[Batch, list[int]]:
        """All finished batches, of every part: (attack, batch) -> predicted classes."""
        for path in sorted(self.folder.glob("part-*.jsonl")) if self.folder else ():
            with open(path, "rb") as file:
                file.seek(self._read.get(path, 0))
                lines = file.read().split(b"\n")
            self._read[path] = self._read.get(path, 0) + sum(len(line) + 1 for line in lines[:-1])  # the last one may grow yet
            for line in lines[:-1]:
                try:
                    attack, batch, predicted = json.loads(line)
                except ValueError:
                    continue  # broken off by a kill; that batch is made again
                self._done[attack, batch] = predicted
        return self._done

    def add(self, attack: str, batch: int, predicted: list[int]) -> None:
        """Keep a finished batch."""
        self._done[attack, batch] = predicted
        if self._file is not None:
            with open(self._file, "a", encoding="utf-8") as file:
                file.write(json.dumps([attack, batch, predicted]) + "\n")


def _end_broken_line(path: Path) -> None:
    """A kill in mid-write leaves half a line: the next one must not be appended to it."""
    if path.exists() and (content := path.read_bytes()) and not content.endswith(b"\n"):
        with open(path, "ab") as file:
            file.write(b"\n")
