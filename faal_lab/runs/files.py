"""Write a file atomically, so that a reader sees the old one or the new one; hash tensors; list versions of software."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch


_LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "safetensors", "pyautoattack")
_T = TypeVar("_T")
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


def patiently(action: Callable[[], _T]) -> _T:
    """Call `action`; try again for half a second while it raises PermissionError."""
    for _ in range(_TRIES - 1):
        try:
            return action()
        except PermissionError:
            time.sleep(_WAIT)
    return action()


def tensors_sha256(tensors: Mapping[str, torch.Tensor], prefix: str = "") -> str:
    """Return the SHA-256 of `prefix` and of each tensor's name, type, shape and bytes, sorted by name."""
    import torch

    total = hashlib.sha256(prefix.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
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
