"""The desk at which a run is watched: JupyterLab, a page with a workbench, and what processor time and frames they take."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any

import psutil
from in_browser import end_kernels, open_and_run, write_notebook

_QUIET, _PATIENCE = 0.15, 60  # cores that other work may use before a round, seconds to wait for that
_VIEW = "((document.querySelector('.faal-view') || {}).faal || {panels: new Map()})"
LAST = f"((({_VIEW}.panels.get('weights') || {{}}).data || {{x: [-1]}}).x.at(-1))"  # the last batch of the picture


class Desk:
    """A JupyterLab and a browser; `open` shows a folder of runs in a workbench, `shut` leaves neither page nor kernel."""

    def __init__(self, page: Any, address: str, server: int, root: Path) -> None:
        self.page, self.root = page, root
        self._address, self._server = address, server

    def open(self, runs: Path) -> None:
        """A fresh kernel and page with a workbench that takes up the run that is going on in `runs`."""
        pid = f"from pathlib import Path; import os; Path({str(self.root / 'kernel')!r}).write_text(str(os.getpid()))"
        write_notebook(self.root / "bench.ipynb", f"{pid}\nfrom faal_lab.widgets import Workbench\nWorkbench({str(runs)!r})")
        open_and_run(self.page, self._address, "bench.ipynb")
        self.page.wait_for_function(f"() => {LAST} > 0")

    def shut(self) -> None:
        """Close the page and end every kernel."""
        self.page.goto("about:blank")
        end_kernels(self._address)

    def kernel(self) -> psutil.Process:
        """The process of the open notebook's kernel."""
        return psutil.Process(int((self.root / "kernel").read_text()))

    def seconds(self, run: psutil.Process) -> dict[str, float]:
        """CPU seconds used so far by the run, by those who watch it, and by all together on this machine."""
        mine = psutil.Process()
        found = {
            "run": _cpu(run),
            "server": _cpu(psutil.Process(self._server)),
            "kernel": 0.0,
            "browser": 0.0,
            "driver": _cpu(mine),
        }
        with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
            found["kernel"] = _cpu(self.kernel())
        for child in mine.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                for start, part in (("chrom", "browser"), ("node", "driver")):
                    found[part] += _cpu(child) if child.name().startswith(start) else 0
        times = psutil.cpu_times()
        found["all"] = times.user + times.nice + times.system
        return found


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def cores(before: dict[str, float], after: dict[str, float], passed: float) -> dict[str, float]:
    """Cores in use over `passed` seconds by each part, and by `others`: all that is not ours."""
    used = {name: (after[name] - before[name]) / passed for name in after}
    others = used.pop("all") - sum(used.values())
    return {name: round(value, 3) for name, value in {**used, "others": others}.items()}


class Frames:
    """Counts what the page's websockets carry while it is `on`."""

    def __init__(self, page: Any) -> None:
        self.on, self.counts = False, {"in": [0, 0], "out": [0, 0]}
        page.on("websocket", self._meet)

    def _meet(self, socket: Any) -> None:
        socket.on("framereceived", lambda data: self._take("in", data))
        socket.on("framesent", lambda data: self._take("out", data))

    def _take(self, way: str, data: Any) -> None:
        if self.on:
            self.counts[way][0] += 1
            self.counts[way][1] += len(data)


def wait_for_quiet(patience: float = _PATIENCE) -> float:
    """Wait until other work leaves the cores alone, at most `patience` seconds; how many cores it used at the end.

    To be called while no run of ours is going on.
    """
    end = time.monotonic() + patience
    while True:
        used = psutil.cpu_percent(interval=3) / 100 * (psutil.cpu_count() or 1)
        if used < _QUIET or time.monotonic() > end:
            return used
        print(f"    other work uses {used:.1f} cores: waiting", flush=True)
