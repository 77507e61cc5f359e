"""Store per-image verdicts in one npz with a JSON header, and journal an unfinished evaluation.

Every table is computed from verdicts, so that no attack has to be repeated.
"""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from faal_lab.catalogue import ATTACKS
from faal_lab.errors import FaalLabError, check_name
from faal_lab.runs.files import SCHEMAS, check_schema, cut_half_line


class VerdictsError(FaalLabError, RuntimeError):
    """A verdict file is missing, damaged, or of another model or data set."""


@dataclass(frozen=True)
class RadiusCurve:
    """Predictions for some images of each class under PGD-20 at growing radii, for accuracy by radius."""

    indices: np.ndarray  # int64 [M], among the images of the evaluation
    radii: np.ndarray  # float64 [R], rising from 0, which is clean
    predicted: np.ndarray  # int64 [R, M]


@dataclass(frozen=True)
class Examples:
    """A few images before and after an attack, with the model's probabilities for both."""

    attack: str
    indices: np.ndarray  # int64 [K], among the images of the evaluation
    clean: np.ndarray  # float32 [K, channels, H, W] in [0, 1]
    adversarial: np.ndarray  # the same
    clean_belief: np.ndarray  # float32 [K, C]: softmax of the logits
    adversarial_belief: np.ndarray  # the same


@dataclass(frozen=True)
class Verdicts:
    """Labels [N], predictions [N] under each attack, and the conditions of their measurement."""

    labels: np.ndarray  # int64 [N]
    predicted: dict[str, np.ndarray]  # attack -> int64 [N]; the label itself where no attempt succeeded
    class_names: tuple[str, ...]
    header: dict[str, Any]  # epsilon, norm, seed, checkpoint, data set, hashes, versions, ...
    curve: RadiusCurve | None = None  # None: only clean was asked for
    examples: Examples | None = None

    @cached_property
    def survived(self) -> dict[str, np.ndarray]:
        """Bool [N] by attack: True where the image is still classified correctly."""
        return {name: found == self.labels for name, found in self.predicted.items()}

    def chosen(self, attack: str) -> str:
        """Return the attack, or the last one; raises UnknownName, or VerdictsError if it was not evaluated."""
        name = check_name("attack", attack, ATTACKS) if attack else list(self.predicted)[-1]
        if name not in self.predicted:
            have = ", ".join(self.predicted)
            hint = f"First: faal-lab evaluate RUN --attacks {have},{name}"
            raise VerdictsError(f"{name} was not evaluated; there are {have}. {hint}")
        return name

    def counts(self, attack: str) -> tuple[np.ndarray, np.ndarray]:
        """Return (survivors [C], images [C]) under `attack`."""
        classes = len(self.class_names)
        total = np.bincount(self.labels, minlength=classes)
        return np.bincount(self.labels[self.survived[attack]], minlength=classes), total

    def to_bytes(self) -> bytes:
        """Return the content of the npz file."""
        header = {"schema": SCHEMAS["verdicts"], "class_names": list(self.class_names), **self.header}
        arrays: dict[str, Any] = {f"predicted/{name}": np.asarray(p, dtype=np.int32) for name, p in self.predicted.items()}
        for extra in filter(None, (self.curve, self.examples)):
            arrays |= {f"{_EXTRAS[type(extra)]}/{f.name}": np.asarray(getattr(extra, f.name)) for f in fields(extra)}
        file = io.BytesIO()
        np.savez_compressed(file, header=np.array(json.dumps(header)), labels=self.labels, **arrays)
        return file.getvalue()

    @staticmethod
    def read(path: Path) -> Verdicts:
        """Read a verdict file; nothing in it is executed.

        Raises VerdictsError if it is missing, damaged, or of a newer version. Entries of the header that this version does not
        know are kept, arrays are ignored.
        """
        which = path.stem.removeprefix("verdicts-")
        again = f"faal-lab evaluate {path.parent}" + ("" if which == "last" else f" --checkpoint {which}")
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
                header = json.loads(str(stored["header"]))
                check_schema("verdicts", header, path, VerdictsError)
                header.pop("schema", None)
                names = [n for n in stored.files if n.startswith("predicted/")]
                if not names:
                    raise VerdictsError(f"{path} holds no predictions; an older faal-lab made it. Evaluate again: {again}")
                predicted = {n.removeprefix("predicted/"): stored[n].astype(np.int64) for n in names}
                curve = RadiusCurve(**_extra(stored, RadiusCurve)) if "curve/radii" in stored else None
                taken = _extra(stored, Examples)
                examples = Examples(str(taken.pop("attack")), **taken) if taken else None
                return Verdicts(stored["labels"], predicted, tuple(header.pop("class_names")), header, curve, examples)
        except FileNotFoundError as error:
            raise VerdictsError(f"No verdicts at {path}. Make them first: {again}") from error
        except VerdictsError:
            raise
        except Exception as error:  # a damaged file makes zip, numpy and JSON fail in any way
            raise VerdictsError(f"{path} is damaged: {error}. Evaluate again: {again}") from error

    def joined(self, older: Verdicts) -> Verdicts:
        """Add `older` verdicts of other attacks; return `self` alone if these were measured otherwise."""
        alike = (
            "model_sha256",
            "architecture_sha256",
            "data_sha256",
            "epsilon",
            "norm",
            "seed",
            "mode",
            "checkpoint",
            "precision",
        )
        if any(self.header.get(key) != older.header.get(key) for key in alike):
            return self
        # in the order of the older file, so that AutoAttack stays last where it was
        predicted = {name: self.predicted.get(name, old) for name, old in older.predicted.items()}
        new = {name: found for name, found in self.predicted.items() if name not in predicted}
        curve, examples = self.curve or older.curve, self.examples or older.examples
        return Verdicts(self.labels, new | predicted, self.class_names, {**older.header, **self.header}, curve, examples)

    def check_same(self, other: Verdicts, what: str) -> None:
        """Raise VerdictsError unless images, classes, radius and norm are equal; `what` names the pair."""
        if self.class_names != other.class_names or not np.array_equal(self.labels, other.labels):
            raise VerdictsError(f"{what} were evaluated on different images. Evaluate them on the same data set and split.")
        for key in ("data_sha256", "epsilon", "norm"):
            mine, theirs = self.header.get(key), other.header.get(key)
            if mine != theirs:
                raise VerdictsError(f"{what} differ in {key}: {mine} against {theirs}. Evaluate them alike.")


_EXTRAS = {RadiusCurve: "curve", Examples: "examples"}  # the beginnings of their arrays' names


def _extra(stored: Any, kind: type[RadiusCurve | Examples]) -> dict[str, Any]:
    """Return the arrays of `kind` in an opened npz by its fields; others are ignored."""
    names = {f.name: f"{_EXTRAS[kind]}/{f.name}" for f in fields(kind)}
    return {field: stored[name] for field, name in names.items() if name in stored.files}


Batch = tuple[str, int]  # attack, number of the batch among the images left when it began


class Journal:
    """The predictions of finished batches, in a folder or, without one, in memory only."""

    def __init__(self, folder: Path | None, identity: dict[str, Any], part: int = 0, kind: str = "autoattack") -> None:
        self._done: dict[Batch, list[int]] = {}
        self._read: dict[Path, int] = {}  # bytes read so far of each part's file
        self.folder, self._file = None, None
        text = json.dumps(identity, sort_keys=True)
        self._key = zlib.crc32(text.encode())
        if folder is not None:
            self.folder = folder / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "identity.json").write_text(text + "\n", encoding="utf-8")
            self._file = self.folder / f"part-{part}.jsonl"
            cut_half_line(self._file)

    def done(self) -> dict[Batch, list[int]]:
        """Return the predicted classes of all finished batches of all parts, by (attack, batch)."""
        for path in sorted(self.folder.glob("part-*.jsonl")) if self.folder else ():
            with open(path, "rb") as file:
                file.seek(self._read.get(path, 0))
                lines = file.read().split(b"\n")
            self._read[path] = self._read.get(path, 0) + sum(len(line) + 1 for line in lines[:-1])  # the last line may still grow
            for line in lines[:-1]:
                entry, _, check = line.rpartition(b" ")
                if check == self._check(entry):  # else cut off by a kill, or damaged: compute that batch again
                    attack, batch, predicted = json.loads(entry)
                    self._done[attack, batch] = predicted
        return self._done

    def add(self, attack: str, batch: int, predicted: list[int]) -> None:
        """Add a finished batch."""
        self._done[attack, batch] = predicted
        if self._file is not None:
            entry = json.dumps([attack, batch, predicted]).encode()
            with open(self._file, "ab") as file:
                file.write(entry + b" " + self._check(entry) + b"\n")

    def _check(self, entry: bytes) -> bytes:
        """Return the checksum of an entry, under these conditions: a file of another folder does not fit."""
        return b"%08x" % zlib.crc32(entry, self._key)

    @staticmethod
    def whole(file: Path) -> tuple[int, int]:
        """Return how many batches of a part's file fit their checksums, and how many there are."""
        try:
            key = zlib.crc32((file.parent / "identity.json").read_bytes().rstrip(b"\n"))
        except OSError:
            key = None
        lines = [line.rpartition(b" ") for line in file.read_bytes().split(b"\n")[:-1]]
        return sum(key is not None and check == b"%08x" % zlib.crc32(entry, key) for entry, _, check in lines), len(lines)

    def of(self, attack: str) -> Pieces:
        """Return the batches of one attack."""
        return Pieces(self, attack)


@dataclass(frozen=True)
class Pieces:
    """The finished batches of one attack in a journal, by number."""

    journal: Journal
    attack: str

    def done(self) -> dict[int, list[int]]:
        """Return the predicted classes of each."""
        return {number: found for (attack, number), found in self.journal.done().items() if attack == self.attack}

    def add(self, number: int, predicted: list[int]) -> None:
        """Keep one."""
        self.journal.add(self.attack, number, predicted)
