"""Find the device of a run, and the versions of the software that made it."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch

from faal_lab.errors import ConfigError

_LIBRARIES = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "safetensors", "pyautoattack")


def device_of(name: str) -> torch.device:
    """Return the device that a configuration names.

    Raises ConfigError if this machine does not have it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"device {name!r} is not usable here: {str(error).splitlines()[0]}. Use auto or cpu.") from error
    return device


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
