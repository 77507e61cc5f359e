"""A live view of one run folder: panels and a status line. It reads the folder and nothing else.

A thread of its own reads and draws, so that neither the kernel nor the run waits for a picture.
"""

from __future__ import annotations

import html
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets as W

from faal_lab.ambiguity import AMBIGUITY_SETS
from faal_lab.ambiguity.multiplier import stated
from faal_lab.events import CommandRefused, RunFailed, RunResumed, SchemaError
from faal_lab.history import History
from faal_lab.runs import Follower, RunFolderError
from faal_lab.widgets.live_figure import LiveFigure
from faal_lab.widgets.panels import empty_panels, panel_lines, turn_marks

ENDED = ("done", "stopped", "failed", "lost")
_PERIOD = 0.1  # seconds between looks at the folder


class Dashboard(W.VBox):
    """Shows a run folder, finished or running, from this process or any other. `follow(path)` changes the run.

    `on_look` is called after each look at the folder, a few times a second, on the dashboard's thread.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        class_names: list[str] | None = None,
        on_look: Callable[[], None] | None = None,
    ) -> None:
        self.state = W.HTML("<b>no run yet</b>").add_class("faal-status")
        self.problem = W.HTML().add_class("faal-error")
        self.window = W.IntSlider(
            10, 1, 100, description="mean over", tooltip="Batches that training accuracy and margins are averaged over"
        )
        self.status = "none"
        self._on_look = on_look
        self._changed, self._ended, self._rewinds = False, "", 0
        self._names: list[str] = []
        self._ambiguity = ""  # of the run that is shown
        self._figure: LiveFigure | None = None
        self._follower: Follower | None = None
        self._history = History(0)
        self._seen = (0, 0)
        self._speed: deque[tuple[float, int]] = deque(maxlen=40)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self.window.observe(lambda _: setattr(self, "_changed", True), "value")
        super().__init__([self.state, self.problem, self.window])
        self._show_classes(class_names or [str(c) for c in range(10)])
        if path is not None:
            self.follow(path)
        threading.Thread(target=self._loop, name="faal-dashboard", daemon=True).start()

    def follow(self, path: str | Path) -> None:
        """Show another run from its beginning."""
        with self._lock:
            self._follower = Follower(path)
            self._history, self._seen = History(len(self._names)), (0, 0)
            self._speed.clear()
            self._ambiguity = ""
            self.status, self._ended, self._rewinds = "waiting", "", self._follower.rewinds
            self.problem.value = ""
            if self._figure is not None:
                self._figure.update({i: (empty, empty) for i, empty in self._blank().items()}, [])

    def _blank(self) -> dict[int, Any]:
        lines = panel_lines(History(len(self._names)), self._names, 1)
        return {i: y for i, (_, y) in lines.items()}

    def close(self) -> None:
        """End the thread and remove the widgets."""
        self._closed.set()
        super().close()

    def _show_classes(self, names: list[str]) -> None:
        if names == self._names:
            return
        self._names, self._history, self._seen = names, History(len(names)), (0, 0)
        self._figure = LiveFigure(empty_panels(names))
        self.children = (self.state, self.problem, self.window, self._figure.widget)

    def _loop(self) -> None:
        while not self._closed.wait(_PERIOD):
            try:
                with self._lock:
                    self._look()
                if self._on_look is not None:
                    self._on_look()
            except (RunFolderError, SchemaError, OSError) as error:
                self._say(str(error))
            except Exception:  # a thread's traceback would be printed under whichever cell ran last
                self._say(traceback.format_exc())

    def _say(self, text: str) -> None:
        shown = f"<pre style='color:var(--jp-error-color1,#b00020);white-space:pre-wrap'>{html.escape(text)}</pre>"
        if self.problem.value != shown:
            self.problem.value = shown

    def _look(self) -> None:
        """Read and draw once. A status in which nothing moves is drawn in any case, and remembered for reloads."""
        follower = self._follower
        if follower is None:
            return
        new = follower.poll()
        if follower.started is not None:
            self._show_classes(list(follower.started.class_names))
            self._ambiguity = self._ambiguity or follower.folder.config().ambiguity
        self._take(follower)
        self.status = status = follower.status()
        final = status in (*ENDED, "paused") and status != self._ended
        assert self._figure is not None
        if (final and new == 0) or (self._figure.ready() and self._changed):
            self._draw(follower)
            self._changed = False
            if final:
                self._figure.remember()
                self._ended = status
        elif status not in (*ENDED, "paused"):
            self._ended = ""
        self.state.value = self._status_line(follower, status)
        for event in reversed(follower.events[-20:]):
            if isinstance(event, RunResumed):
                break
            if isinstance(event, (RunFailed, CommandRefused)):
                self._say(event.error if isinstance(event, RunFailed) else event.reason)
                break

    def _take(self, follower: Follower) -> None:
        steps, epochs = self._seen
        if follower.rewinds != self._rewinds:  # a resume undid some
            self._rewinds, self._history, steps, epochs = follower.rewinds, History(len(self._names)), 0, 0
        if steps < len(follower.steps) or epochs < len(follower.epochs):
            self._changed = True
            self._history.add(follower.steps[steps:], follower.epochs[epochs:])
        self._seen = (len(follower.steps), len(follower.epochs))

    def _draw(self, follower: Follower) -> None:
        assert self._figure is not None
        lines = panel_lines(self._history, self._names, self.window.value)
        self._figure.update(lines, turn_marks(follower.turns))

    def _status_line(self, follower: Follower, status: str) -> str:
        started, steps = follower.started, follower.steps
        if started is None:
            return f"<b>{status}</b>"
        total, done = started.epochs * started.steps_per_epoch, steps[-1].step if steps else 0
        if not self._speed or self._speed[-1][1] != done:
            self._speed.append((time.monotonic(), done))
        words = [
            f"<b>{status}</b>",
            f"batch {done} of {total}",
            f"epoch {min(done // started.steps_per_epoch + 1, started.epochs)} of {started.epochs}",
        ]
        (since, first), (until, last) = self._speed[0], self._speed[-1]
        if status not in ENDED and until > since and last > first:
            rate = (last - first) / (until - since)
            words += [f"{rate:.1f} batches a second", f"{(total - done) / rate:.0f} s left"]
        if steps:
            radius = stated(AMBIGUITY_SETS[self._ambiguity](), steps[-1].tau, len(self._names))
            words.append(f"{radius}, spent {steps[-1].divergence:.3f}, epsilon {steps[-1].epsilon:g}")
            words.append(f"heaviest class {self._names[max(range(len(self._names)), key=steps[-1].weights.__getitem__)]}")
        return " · ".join(words)
