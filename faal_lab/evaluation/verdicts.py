"""Per-image verdicts of an evaluation, kept in one npz with a JSON header.

Knows: labels, attacks by name, who survived. Must not know: models. Every table is computed from these, so that
nothing has to be attacked again to be read again.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


class VerdictsError(RuntimeError):
    """A verdict file that is missing or damaged."""


@dataclass(frozen=True)
class Verdicts:
    """Labels [N], survivors [N] of each attack, and what they were measured with."""

    labels: np.ndarray  # int64 [N]
    survived: dict[str, np.ndarray]  # attack -> bool [N]
    class_names: tuple[str, ...]
    header: dict[str, Any]  # epsilon, seed, checkpoint, data set, versions, note, ...

    def counts(self, attack: str) -> tuple[np.ndarray, np.ndarray]:
        """(survivors [C], images [C]) under `attack`."""
        classes = len(self.class_names)
        total = np.bincount(self.labels, minlength=classes)
        return np.bincount(self.labels[self.survived[attack]], minlength=classes), total

    def to_bytes(self) -> bytes:
        """The npz file."""
        header = {"class_names": list(self.class_names), **self.header}
        arrays: dict[str, Any] = {f"survived/{name}": np.asarray(flags, dtype=bool) for name, flags in self.survived.items()}
        file = io.BytesIO()
        np.savez_compressed(file, header=np.array(json.dumps(header)), labels=self.labels, **arrays)
        return file.getvalue()

    @staticmethod
    def read(path: Path) -> Verdicts:
        """Read a verdict file; nothing in it is executed. Raises VerdictsError."""
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
                header = json.loads(str(stored["header"]))
                survived = {n.removeprefix("survived/"): stored[n] for n in stored.files if n.startswith("survived/")}
                return Verdicts(stored["labels"], survived, tuple(header.pop("class_names")), header)
        except FileNotFoundError as error:
            raise VerdictsError(f"No verdicts at {path}. Make them first: faal-lab evaluate {path.parent}") from error
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise VerdictsError(f"{path} is damaged: {error}. Evaluate again: faal-lab evaluate {path.parent}") from error
