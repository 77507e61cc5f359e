"""How much memory a training step takes at its highest: ours, without its quick paths, and the release's recipe written down.

    python benchmarks/memory.py              # six minutes on two cores

The same networks, batches and contenders as `training.py`, two batches each, in a process of its own: of a GPU what torch took at
its highest, of a CPU by how much the process grew (on Linux; elsewhere too little is found). Weights, momentum and the images are
part of it; libraries are not.
"""

from __future__ import annotations

import argparse
import gc
import json
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
from training import Case, cases, default_file, ours, plain

from faal_lab.models.build import device_of
from faal_lab.models.fast import memory_kept

_STATUS = Path("/proc/self/status")
CONTENDERS = ("written down", "ours, plain", "ours")


def peak(case: Case, who: str, name: str) -> float:
    """MB that two batches take at their highest. Call it in a process that has done nothing else."""
    device = torch.device(name)
    for warm in CONTENDERS:  # libraries that are loaded when they are first used are not part of it
        _contender(Case("preact-resnet-18", 2, 4, 1), warm, device)()
    gc.collect()
    with memory_kept():  # its end hands back what is free, which would be used again without being counted
        pass
    before = _highest(device, afresh=True)
    _contender(case, who, device)()
    return _highest(device) - before


def _contender(case: Case, who: str, device: torch.device) -> Callable[[], None]:
    return plain(case, device) if who == "written down" else ours(case, device, quick=who == "ours")


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
    out.write_text(json.dumps({"machine": {**machine(), "device": device.type}, "cases": found}, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
