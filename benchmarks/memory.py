"""How much memory a training step takes at its highest: ours, without its quick paths, and the release's recipe written down.

    python benchmarks/memory.py              # six minutes on two cores

The same networks, batches and contenders as `training.py`, two batches each, in a process of its own: of a GPU what torch took at
its highest, of a CPU by how much the process grew (on Linux; elsewhere too little is found). Weights, momentum and the images are
part of it; libraries are not.

What `step_memory` predicts is held to that: of a GPU to what torch took, of a CPU to a process whose tensors are mapped one by
one (MALLOC_MMAP_THRESHOLD_), so that a freed one leaves no gap. How much more glibc's own way takes is the size of its gaps.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from side_by_side import machine
from tqdm import tqdm
from training import CASES, Case, cases, default_file, network, ours, plain, training

from faal_lab.models.build import device_of
from faal_lab.models.fast import has_bfloat16, memory_kept, takes_bfloat16
from faal_lab.training.measure import step_memory

_STATUS = Path("/proc/self/status")
CONTENDERS = ("written down", "ours, plain", "ours")
PREDICTED = {  # other networks and batches than the table's
    "small-cnn": Case("small-cnn", 24, 1024, 2),
    "preact-resnet-18, 16 filters": Case("preact-resnet-18", 16, 128, 2),
    "preact-resnet-18": Case("preact-resnet-18", 64, 48, 2),
    "wrn-34-10": CASES["wrn-34-10"],
}


def peak(case: Case, who: str, name: str, **changes: Any) -> float:
    """MB that two batches take at their highest. Call it in a process that has done nothing else."""
    device = torch.device(name)
    for warm in CONTENDERS:  # libraries that are loaded when they are first used are not part of it
        _contender(Case("preact-resnet-18", 2, 4, 1), warm, device)()
    gc.collect()
    with memory_kept():  # its end hands back what is free, which would be used again without being counted
        pass
    before = _highest(device, afresh=True)
    _contender(case, who, device, **changes)()
    return _highest(device) - before


def _contender(case: Case, who: str, device: torch.device, **changes: Any) -> Callable[[], None]:
    return plain(case, device) if who == "written down" else ours(case, device, quick=who == "ours", **changes)


def _highest(device: torch.device, *, afresh: bool = False) -> float:
    """MB at their highest so far, or from now on."""
    if device.type == "cuda":
        if afresh:
            torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.max_memory_allocated(device) / 1e6
    if _STATUS.is_file():  # Linux, where getrusage would begin with the memory of the process that started this one
        if afresh:
            Path("/proc/self/clear_refs").write_text("5")
        return int(re.findall(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())[0]) * 1024 / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # macOS


def compared(case: Case, device: torch.device) -> dict[str, Any]:
    """MB of each contender, and how many times more than ours the others take."""
    found = {}
    for who in tqdm(CONTENDERS, leave=False):
        with ProcessPoolExecutor(1, get_context("spawn")) as alone:
            found[who] = round(alone.submit(peak, replace(case, batches=2), who, str(device)).result())
    return {"batch": case.batch, "MB": found, "written down / ours": found["written down"] / found["ours"]}


def prediction(case: Case, device: torch.device, precision: str = "float32") -> dict[str, float]:
    """MB that a step takes at its highest: predicted, measured, and with the allocator's gaps."""
    held = step_memory(training(case, device, precision=precision)) / 1e6
    found = {"predicted": held, "measured": _alone(case, device, precision, MALLOC_MMAP_THRESHOLD_="65536")}
    return found | {"with gaps": _alone(case, device, precision)}


def _alone(case: Case, device: torch.device, precision: str, **environment: str) -> float:
    before = dict(os.environ)
    os.environ.update(environment)  # which a process reads when it begins
    try:
        with ProcessPoolExecutor(1, get_context("spawn")) as alone:
            return alone.submit(peak, replace(case, batches=2), "ours", str(device), precision=precision).result()
    finally:
        os.environ.clear()
        os.environ.update(before)


def main() -> None:
    """Measure every network, and write it down."""
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("--quick", action="store_true", help="the small networks")
    words.add_argument("--device", default="auto")
    words.add_argument("--out", type=Path, help="default: memory.json beside this file, of a GPU results/memory-CARD.json")
    options = words.parse_args()
    device = device_of(options.device)
    out = options.out or default_file(device, "memory")
    out.parent.mkdir(parents=True, exist_ok=True)
    found = {name: compared(case, device) for name, case in cases(device, options.quick)}
    ways = ("float32", *(["bfloat16"] if has_bfloat16(device) else []))
    guessed = [
        {"network": name, "batch": case.batch, "precision": way, **prediction(case, device, way)}
        for name, case in PREDICTED.items()
        for way in ways
        if takes_bfloat16(network(case)) or way == "float32"
    ]
    result = {"machine": {**machine(), "device": device.type}, "cases": found, "predicted": guessed}
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
