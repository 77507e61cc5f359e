"""Timing contenders side by side: every round times each of them once, so that a slow minute of the machine hits all alike.

What is reported is the ratio within a round, its median and its spread; bare times differ from machine to machine.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any

import numpy as np
import torch
from tqdm import tqdm


def seconds(call: Callable[[], Any], at_least: float = 0.005) -> float:
    """Seconds of one call: the mean of as many as fill `at_least` seconds."""
    calls, started = 0, time.perf_counter()
    while True:
        call()
        calls += 1
        passed = time.perf_counter() - started
        if passed >= at_least:
            return passed / calls


def rounds(contenders: dict[str, Callable[[int], Any]], count: int, title: str) -> dict[str, list[float]]:
    """Seconds of each contender in each of `count` rounds; each gets its number, so that all see the same problem."""
    for call in contenders.values():
        call(0)  # warm: imports, compiled statements
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for number in tqdm(range(count), desc=title, leave=False):
        for name, call in contenders.items():
            found[name].append(seconds(lambda call=call, number=number: call(number)))
    return found


def ratio(slow: list[float], quick: list[float]) -> dict[str, float]:
    """How many times longer `slow` took than `quick`: median, and the 10 % and 90 % quantiles over rounds."""
    low, middle, high = np.quantile(np.divide(slow, quick), (0.1, 0.5, 0.9))
    return {"median": float(middle), "low": float(low), "high": float(high)}


def machine() -> dict[str, Any]:
    """What the figures were made on, in words that name no machine."""
    packages = ("torch", "numpy", "cvxpy", "clarabel", "scs", "ecos", "mpmath", "pyautoattack")
    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {"python": platform.python_version(), "threads": torch.get_num_threads(), "gpu": device, **versions}
