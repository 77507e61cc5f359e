"""Show a sweep in a notebook: finished jobs, progress of running ones, errors of failed ones.

The sweep is a separate process, started here or in a terminal, so a restart of the kernel loses nothing.
"""

from __future__ import annotations

import html
import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import ipywidgets as W

from faal_lab.sweeps.checks import check_plan
from faal_lab.sweeps.plan import read_plan
from faal_lab.sweeps.view import Row, rows
from faal_lab.widgets.stream import Pane

_PERIOD = 1.0  # seconds between two reads of the folder
_SIGNS = {"done": "✓", "running": "▶", "stopped": "■", "failed": "✗", "blocked": "-", "waiting": "·"}
_COLOURS = {"failed": "var(--jp-error-color1, #b00020)", "running": "var(--jp-brand-color1, #1976d2)"}


class SweepPanel(Pane):
    """A table of a sweep file's jobs, with buttons to start and stop the sweep.

    Args:
        file: the sweep file, in YAML.
        out: folder of the sweep (default: runs/NAME).
        workers: jobs at once; 0, the default, is one per GPU or core, at most four without GPUs.

    Raises:
        SweepError, UnknownName: for a mistake in the file.
    """

    def __init__(self, file: str | Path, out: str | Path | None = None, workers: int = 0) -> None:
        self.plan = read_plan(file, out)
        check_plan(self.plan)
        self._words = ["sweep", str(file), "--out", str(self.plan.out), "--workers", str(workers)]
        self._process: subprocess.Popen[bytes] | None = None
        self._closed, self._shown = threading.Event(), ""
        self.start = W.Button(description="Start", tooltip="Make what is not done yet").add_class("faal-sweep-start")
        self.stop = W.Button(description="Stop", tooltip="End the jobs in order; Start goes on", disabled=True)
        self.bar = W.IntProgress(0, 0, len(self.plan.jobs))
        self.table = W.HTML().add_class("faal-sweep")
        self.message = W.HTML()
        self.start.on_click(lambda _: self.begin())
        self.stop.on_click(lambda _: self.end())
        super().__init__([W.HBox([self.start, self.stop, self.bar]), self.message, self.table])
        self.look()
        threading.Thread(target=self._loop, name="faal-sweep", daemon=True).start()

    def begin(self) -> None:
        """Start the sweep for jobs not done yet, in a process that outlives this kernel."""
        if self._process is not None and self._process.poll() is None:
            return
        self.plan.out.mkdir(parents=True, exist_ok=True)
        with open(self.plan.out / "sweep.log", "wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "faal_lab", *self._words], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=os.name == "posix",
            )  # fmt: skip
        self.look()

    def end(self) -> None:
        """End the sweep that was started here. Its jobs save their state."""
        if self._process is not None:
            self._process.send_signal(2 if os.name == "posix" else 1)

    def close(self) -> None:
        """Remove the widgets. The sweep continues."""
        self._closed.set()
        super().close()

    def _loop(self) -> None:
        while not self._closed.wait(_PERIOD):
            try:
                self.look()
            except OSError as error:
                self.message.value = html.escape(str(error))

    def look(self) -> None:
        """Read the folder once and update the table."""
        found = rows(self.plan)
        mine = self._process is not None and self._process.poll() is None
        self.start.disabled, self.stop.disabled = mine, not mine
        counts = Counter(row.state for row in found)
        self.bar.value = counts["done"]
        said = ", ".join(f"{counts[state]} {state}" for state in _SIGNS if counts[state])
        shown = f"<b>{html.escape(self.plan.name)}</b>: {said}{_last_words(self)}<table>{''.join(map(_row, found))}</table>"
        if shown != self._shown:
            self._shown = self.table.value = shown


def _row(row: Row) -> str:
    text = html.escape(row.text if row.state != "failed" else row.text.splitlines()[-1] if row.text else "")
    share = f"<progress value='{row.share:.2f}'></progress>" if row.state == "running" else ""
    cells = (_SIGNS.get(row.state, ""), html.escape(row.key), row.state)
    narrow = "".join(f"<td style='white-space:nowrap;padding-right:1em;vertical-align:top'>{cell}</td>" for cell in cells)
    style = f"line-height:1.45;color:{_COLOURS.get(row.state, 'inherit')}"
    return f"<tr style='{style}'>{narrow}<td>{share} {text}</td></tr>"


def _last_words(panel: SweepPanel) -> str:
    """Return the end of the command's log if it failed, else ""."""
    process, log = panel._process, panel.plan.out / "sweep.log"
    if process is None or process.poll() in (None, 0) or not log.exists():
        return ""
    words = log.read_text(encoding="utf-8", errors="replace").strip()[-800:]
    return f"<pre style='color:var(--jp-error-color1,#b00020);white-space:pre-wrap'>{html.escape(words)}</pre>"
