"""Report what this machine offers, which packages are missing, and what they are for."""

from __future__ import annotations

import os
import platform
import shutil
from importlib import metadata

from faal_lab.catalogue import TABLES

_NEEDED_FOR = {
    "torch": "everything",
    "numpy": "everything",
    "safetensors": "checkpoints",
    "filelock": "one writer a run folder",
    "cyclopts": "the command line",
    "pandas": "tables of results",
    "scikit-learn": "the digits and stratified splits",
    "scipy": "intervals",
    "torchvision": "networks and data sets",
    "pillow": "image folders",
    "tqdm": "progress bars",
    "pyautoattack": "AutoAttack",
    "cvxpy": "solver=cvxpy, which checks the exact solver",
    "clarabel": "the conic solver behind cvxpy",
    "plotly": "figures and reports",
    "anywidget": "live figures",
    "ipywidgets": "live panels",
    "ipykernel": "notebooks",
    "jupyterlab": "faal-lab lab",
    "papermill": "faal-lab demo and batch runs",
}


def examine() -> tuple[str, list[str]]:
    """Return a report as text, and a list of faults, empty if there are none.

    A fault is a missing package, a broken part of an installed one, or convolutions that return wrong numbers here.
    """
    lines = [
        f"Python     {platform.python_version()} on {platform.platform()}",
        f"cores      {_cores()}",
        f"memory     {_memory()}",
    ]
    lines += [f"disk       {shutil.disk_usage('.').free / 2**30:.0f} GiB free here", f"device     {_device()}", ""]
    missing: list[str] = []
    for name in _NEEDED_FOR:
        try:
            lines.append(f"{name:<14} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    lines += [f"{name:<14} MISSING, needed for {_NEEDED_FOR[name]}: pip install {name}" for name in missing]
    said, sound = _convolutions()
    lines += [f"{'convolutions':<14} {said}"]
    for table in TABLES:
        others = [name for name in table if name not in table.ours]
        lines += [f"{'plugin':<14} {table.setting}={name}: {table[name].whose}" for name in others]
    broken = [fault for table in TABLES for fault in table.faults()]
    lines += [*(f"{'plugin':<14} BROKEN: {fault}" for fault in broken), ""]
    if missing:
        lines.append(f"{len(missing)} missing; pip install -e . brings them all.")
    else:
        lines.append("Nothing is missing." if sound else "Nothing is missing, but numbers made here are WRONG: see convolutions.")
    return "\n".join(lines), [*missing, *broken, *([] if sound else ["sound convolutions"])]


def _convolutions() -> tuple[str, bool]:
    """Try convolutions: return a line for the report, and whether their numbers can be trusted."""
    try:
        from faal_lab.models import layout
    except ImportError as error:
        return f"not tried: {error}", True
    return layout.examine()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    except (AttributeError, ValueError, OSError):
        return "unknown"


def _device() -> str:
    try:
        import torch
    except ImportError:
        return "unknown (torch is missing)"
    if torch.cuda.is_available():
        return f"cuda: {torch.cuda.get_device_name(0)}"
    return f"cpu, {torch.get_num_threads()} threads (no CUDA device)"
