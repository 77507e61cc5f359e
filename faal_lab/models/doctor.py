"""Report what this machine offers, which packages are missing, and what they are for."""

from __future__ import annotations

import os
import platform
import shutil
from importlib import metadata
from typing import Any

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


def doctor() -> int:
    """Show versions, device, cores, memory, and what is missing and what it is for. Returns 1 where something is."""
    text, missing = examine()
    print(text)
    return 1 if missing else 0


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
    solvers, wrong = _solvers()
    lines += [f"{'solver':<14} {line}" for line in solvers]
    for table in TABLES:
        others = [name for name in table if name not in table.ours]
        lines += [f"{'plugin':<14} {table.setting}={name}: {table[name].whose}" for name in others]
    broken = [fault for table in TABLES for fault in table.faults()]
    lines += [*(f"{'plugin':<14} BROKEN: {fault}" for fault in broken), ""]
    if missing:
        lines.append(f"{len(missing)} missing; pip install -e . brings them all.")
    else:
        see = " and ".join([*([] if sound else ["convolutions"]), *(["solver"] if wrong else [])])
        lines.append(f"Nothing is missing, but numbers made here are WRONG: see {see}." if see else "Nothing is missing.")
    return "\n".join(lines), [*missing, *broken, *([] if sound else ["sound convolutions"]), *wrong]


def _convolutions() -> tuple[str, bool]:
    """Try convolutions: return a line for the report, and whether their numbers can be trusted."""
    try:
        from faal_lab.models import layout
    except ImportError as error:
        return f"not tried: {error}", True
    return layout.examine()


def _solvers() -> tuple[list[str], list[str]]:
    """State which solver of ambiguity sets runs on which device, and why; return faults of a kernel that was tried."""
    try:
        import torch

        from faal_lab.dro import fused
    except ImportError as error:
        return [f"not tried: {error}"], []
    lines, faults = ["cpu: tensors, and plain floats for one small KL problem"], []
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        name = f"cuda:{index} ({torch.cuda.get_device_name(device)})"
        off = 0.0 if fused.refusal(device) else _trial(device)
        refused = fused.refusal(device)  # the trial may have found a reason
        if refused:
            lines.append(f"{name}: tensors, because {refused}")
        elif off <= 1e-9:
            lines.append(f"{name}: one fused Triton kernel, tried: its weights are within {off:.0e} of the CPU's")
        else:
            lines.append(f"{name}: WRONG: weights of the fused kernel are off by {off:.0e}; set FAAL_LAB_FUSED=0 and report it")
            faults.append(f"a sound fused solver on cuda:{index}")
    return lines, faults


def _trial(device: Any) -> float:
    """Return the largest difference of weights, by the fused kernel on a device, from those on the CPU; infinity for NaN."""
    import torch

    from faal_lab.dro import AMBIGUITY_SETS, fused

    scores, off = torch.sin(torch.arange(30.0, dtype=torch.float64)).view(3, 10), 0.0
    for make in AMBIGUITY_SETS.values():
        kernel = getattr(ball := make(), "kernel", "")
        if kernel and (found := fused.solve(kernel, scores.to(device), ball.radius, None, None)) is not None:
            apart = float((found[0].cpu() - ball.worst_case(scores).weights).abs().max())
            off = max(off, apart if apart == apart else float("inf"))
    return off


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
