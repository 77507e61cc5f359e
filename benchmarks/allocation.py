"""What it is worth to keep freed memory during a run, as every training and evaluation does where glibc allocates.

    python benchmarks/allocation.py          # two minutes on two cores

Passes of an attack (forward, and backward to the pixels) through PreActResNet-18 of 16 filters, at several sizes of a batch: by
turns as glibc does by itself and with its memory kept, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from side_by_side import machine, ratio
from tqdm import tqdm
from training import CASES, EPSILON, network, pictures

from faal_lab.methods.pgd import pgd
from faal_lab.models.build import frozen
from faal_lab.models.fast import memory_kept
from faal_lab.models.layout import placed

FILE = Path(__file__).with_suffix(".json")
WAYS = ("by itself", "kept")
BATCHES, IMAGES = (64, 128, 250, 500), 2000


def timed(way: str, batches: tuple[int, ...] = BATCHES, images: int = IMAGES) -> dict[str, dict[str, float]]:
    """Images a second, and page faults an image, of each size of a batch; the first two passes are not counted."""
    model, found = placed(network(CASES["preact-resnet-18, 16 filters"]), torch.device("cpu")), {}
    with memory_kept() if way == "kept" else nullcontext(), frozen(model):
        for size in batches:
            pixels, labels = pictures(size).batch(torch.arange(size))
            pgd(model, pixels, labels, radius=EPSILON, step=EPSILON / 4, steps=2)
            steps, before = max(1, images // size), resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            started = time.perf_counter()
            pgd(model, pixels, labels, radius=EPSILON, step=EPSILON / 4, steps=steps)
            passed = time.perf_counter() - started
            faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
            found[str(size)] = {"images a second": steps * size / passed, "faults an image": faults / (steps * size)}
    return found


def main() -> None:
    """Compare the two by turns, and write it down."""
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("--rounds", type=int, default=4)
    words.add_argument("--out", type=Path, default=FILE)
    words.add_argument("--way", choices=WAYS, help="measure one way in this process, and print it")
    options = words.parse_args()
    if options.way:
        print(json.dumps(timed(options.way)))
        return
    made: dict[str, list[Any]] = {way: [] for way in WAYS}
    for _ in tqdm(range(options.rounds), desc="rounds", leave=False):
        for way in WAYS:
            child = subprocess.run([sys.executable, __file__, "--way", way], capture_output=True, text=True, check=True)
            made[way].append(json.loads(child.stdout))
    found: dict[str, Any] = {"machine": machine(), "rounds": options.rounds, "batches": {}}
    for size in map(str, BATCHES):
        kept, plain = ([1 / one[size]["images a second"] for one in made[way]] for way in reversed(WAYS))
        faults = {way: round(sum(one[size]["faults an image"] for one in made[way]) / options.rounds, 1) for way in WAYS}
        found["batches"][size] = {"times as quick": ratio(plain, kept), "faults an image": faults}
        print(size, found["batches"][size])
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
