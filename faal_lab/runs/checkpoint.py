"""Write and read checkpoints: a safetensors file with its checksum. No code in it is executed."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faal_lab.errors import FaalLabError
from faal_lab.runs.files import SCHEMAS, check_schema, replace_file, settings_hash, tensors_sha256
from faal_lab.runs.follower import METRICS

if TYPE_CHECKING:
    import torch

_KEY = "faal_lab"


class CheckpointError(FaalLabError, RuntimeError):
    """A checkpoint is missing, damaged, foreign or not finite; the message names the file and the cure."""


@dataclass(frozen=True)
class Checkpoint:
    """Named tensors and a header of plain values.

    Args:
        tensors: the tensors by name, such as "model.conv1.weight".
        header: values that JSON can store.

    >>> import torch
    >>> from faal_lab.runs import Checkpoint
    >>> list(Checkpoint({"model.bias": torch.zeros(2), "sgd.lr": torch.ones(1)}, {}).part("model"))
    ['bias']
    """

    tensors: dict[str, torch.Tensor]
    header: dict[str, Any]

    def part(self, prefix: str) -> dict[str, torch.Tensor]:
        """Return the tensors of one part of the checkpoint.

        Args:
            prefix: the part's name, such as "model".

        Returns:
            The tensors whose names begin with `prefix.`, by the rest of their names.
        """
        return {n.removeprefix(prefix + "."): t for n, t in self.tensors.items() if n.startswith(prefix + ".")}


def digest(tensors: dict[str, torch.Tensor], header: dict[str, Any]) -> str:
    """Return the SHA-256 of the header and of the name, type, shape and bytes of every tensor."""
    return tensors_sha256(tensors, json.dumps(header, sort_keys=True))


def write_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically.

    Args:
        path: the file to write; an older one is replaced.
        checkpoint: its tensors and header.

    Raises:
        CheckpointError: a tensor is not finite; the last good file then stays in place.
        OSError: the file cannot be written.

    >>> from pathlib import Path
    >>> import torch
    >>> from faal_lab.runs import Checkpoint, read_checkpoint, write_checkpoint
    >>> write_checkpoint(Path("last.safetensors"), Checkpoint({"model.bias": torch.zeros(2)}, {"step": 7}))
    >>> read_checkpoint(Path("last.safetensors")).header
    {'step': 7}
    """
    import torch
    from safetensors.torch import save

    for name, tensor in checkpoint.tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{name} is not finite: {path} is left as it was, with the last good state.")
    tensors = {n: t.detach().cpu().contiguous() for n, t in checkpoint.tensors.items()}
    header = {"schema": SCHEMAS["checkpoint"], **_place(path), **checkpoint.header}  # inside, so that the checksum covers it
    stored = {"header": header, "sha256": digest(tensors, header)}
    with suppress(OSError), open(path.parent / METRICS, "rb+") as record:
        os.fsync(record.fileno())  # a checkpoint must not be ahead of the record, also after a loss of power
    replace_file(path, save(tensors, metadata={_KEY: json.dumps(stored, sort_keys=True)}))


def is_foreign(path: Path) -> bool:
    """Return whether a file is a checkpoint of another program.

    Args:
        path: the file.

    Returns:
        True if faal-lab did not write it. A damaged .safetensors file that cannot be opened counts as ours.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return _KEY not in (file.metadata() or {})
    except (SafetensorError, OSError):
        return path.suffix != ".safetensors"


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and verify its checksum.

    Args:
        path: a file that `write_checkpoint` wrote.

    Returns:
        Its tensors, on the CPU, and its header.

    Raises:
        CheckpointError: the file is missing, damaged, of a newer version, or was not written by faal-lab.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CheckpointError(
            f"No checkpoint at {path}. Its run has not ended an epoch yet: go on with it by faal-lab run --resume {path.parent}"
        )
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged or not a safetensors file: {error}. Use an earlier checkpoint.") from error
    if _KEY not in metadata:
        raise CheckpointError(f"{path} was not written by faal-lab (no faal_lab header).")
    try:
        stored = json.loads(metadata[_KEY])
        header, expected = stored["header"], stored["sha256"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged: its header cannot be read. Use an earlier checkpoint.") from error
    check_schema("checkpoint", header, path, CheckpointError)  # first: a newer version may compute its checksum otherwise
    if digest(tensors, header) != expected:
        raise CheckpointError(f"{path} is damaged: its SHA-256 differs from the stored one. Use an earlier checkpoint.")
    for what, here in _place(path).items():
        if header.get(what, here) != here:
            raise CheckpointError(
                f"{path} is of another {_PLACE[what]}: it was written for {header[what]}, not for {here}. To use it, copy it "
                "to a folder of its own."
            )
    return Checkpoint(tensors, {name: value for name, value in header.items() if name not in ("schema", *_PLACE)})


_PLACE = {"run": "run", "which": "checkpoint"}


def _place(path: Path) -> dict[str, str]:
    """Return the hash of the settings of the run folder that holds a file, and the checkpoint's name there; empty elsewhere."""
    settings = settings_hash(path.parent) if path.stem in ("last", "best") else None
    return {"run": settings, "which": path.stem} if settings is not None else {}
