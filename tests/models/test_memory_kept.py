"""Freed memory stays in the process during a run, and goes back to the system after it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
CODE = """
import resource, torch
from pathlib import Path
from faal_lab.models.fast import memory_kept

def faults():
    "Page faults for each 4 kB that ten tensors of 40 MB take, one after another."
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(10_000_000).add(1)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / (10 * 2 * 40e6 / 4096)

def megabytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6

torch.ones(10_000_000).add(1)
before = megabytes()
with memory_kept():
    faults()
    kept = faults()
    with memory_kept():
        pass
    still = faults()
    held = megabytes() - before
print(kept, still, held, megabytes() - before, faults())
"""


def faults(**more: str) -> list[float]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, timeout=120, env={**plain, **more}, check=True
    )
    return [float(word) for word in done.stdout.split()]


@GLIBC
def test_a_block_keeps_freed_memory_and_gives_it_back() -> None:
    kept, still, held, after, plain = faults()
    assert kept <= plain / 10, "a system with large pages has few faults, but each without need"
    assert still <= plain / 10, "an inner block ends nothing"
    assert held > 30, "the second tensor's memory is still there"
    assert after < 10


@GLIBC
@pytest.mark.parametrize("own", [{"MALLOC_TRIM_THRESHOLD_": "131072"}, {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"}])
def test_who_sets_the_allocator_keeps_it(own: dict[str, str]) -> None:
    kept, *_, plain = faults(**own)
    assert kept >= plain / 2
