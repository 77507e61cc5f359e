"""Show one run folder live: panels and a status line. The folder is only read.

A separate thread reads and draws, so that neither the kernel nor the run waits for a picture.
"""

from __future__ import annotations

import html
import re
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import ipywidgets as W

from faal_lab.catalogue import AMBIGUITY_SETS
from faal_lab.dro.radius import stated
from faal_lab.errors import RunFolderError
from faal_lab.runs import ENDED, Follower, RunFolder
from faal_lab.runs.config import Config
from faal_lab.runs.control import Dials, reads_tau, weighs
from faal_lab.runs.events import CommandRefused, RunFailed, RunResumed, RunStarted
from faal_lab.runs.history import History, run_files
from faal_lab.widgets.panels import panel_spec, pictures, turn_marks, validation_result
from faal_lab.widgets.setup import error_text
from faal_lab.widgets.stream import Pane, StreamView

GONE = "gone"  # the state of a run whose folder was deleted or moved
_PERIOD = 0.1  # seconds between two reads of the folder
_LINE = 1.6  # seconds between two status lines with the same state


class Dashboard(Pane):
    """Show a run folder live, finished or running, from this process or any other.

    A run that is paused or has ended can be replayed: the slider shows its state after any batch.

    Args:
        path: the run folder; None (default) waits for `follow`.
        class_names: names of the classes until the run states its own (default: "0" to "9").
        on_look: called after each read of the folder, several times a second, on the dashboard's thread; None by default.

    >>> from faal_lab.widgets import Dashboard
    >>> dashboard = Dashboard()
    >>> dashboard.status
    'none'
    >>> dashboard.follow("runs/later")  # it need not exist yet
    >>> dashboard.close()
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
            10, 1, 100, description="mean over", tooltip="Batches that weights, training accuracy and margins are averaged over"
        )
        self.until = W.IntSlider(0, 0, 0, description="at batch", layout=W.Layout(width="20rem"), disabled=True)
        self.play = W.Play(0, 0, 0, interval=250, disabled=True, tooltip="Play the run again")
        tip = "Panels as PNG, metrics as CSV, everything as JSON"
        self.save = W.Button(description="Save", layout=W.Layout(width="6rem"), tooltip=tip, disabled=True)
        for control, name in ((self.window, "window"), (self.until, "until"), (self.save, "save")):
            control.add_class(f"faal-{name}")
        self.status = "none"
        self._on_look = on_look
        self._changed, self._ended, self._said, self._told, self._restarts = False, "", "", 0.0, 0
        self._stale = False  # the status line is behind the panels
        self._ambiguity, self._radius, self._weighs, self._reads_tau = "kl", (-1.0, ""), True, True
        self._follower: Follower | None = None
        self._dials, self._waits = Dials(Path()), list[str]()
        self._settings: Config | None = None
        self._speed: deque[tuple[float, int]] = deque(maxlen=40)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._names = class_names or [str(c) for c in range(10)]
        self._history = History(len(self._names))
        self.view = StreamView(panel_spec(self._names))
        self.view.observe(self._change, "followed")
        W.jslink((self.play, "value"), (self.until, "value"))
        for control in (self.window, self.until):
            control.observe(self._change, "value")
        self.save.on_click(lambda _: self._offer())
        controls = W.HBox([self.window, self.play, self.until, self.save], layout=W.Layout(flex_flow="row wrap"))
        super().__init__([self.state, self.problem, controls, self.view])
        self.add_class("faal-dashboard")
        if path is not None:
            self.follow(path)
        threading.Thread(target=self._loop, name="faal-dashboard", daemon=True).start()

    @property
    def dials(self) -> Dials:
        """Return the dials of the run that is shown.

        Returns:
            Its dials; `wanted` are the values for the next batch, {} before the run began.

        >>> import faal_lab as fl
        >>> dashboard = fl.Dashboard("runs/waits")
        >>> dashboard.dials.wanted
        {}
        >>> dashboard.close()
        """
        return self._dials

    def follow(self, path: str | Path) -> None:
        """Show another run from its beginning.

        Args:
            path: the run folder; it need not exist yet.
        """
        with self._lock:
            self._follower, self._dials = Follower(path, keep_steps=False), Dials(Path(path))
            self._history = History(len(self._names))
            self._speed.clear()
            self.status, self._ended, self._said, self._restarts = "waiting", "", "", 0
            self._settings = None
            self.problem.value = ""
            self.view.zoom, self.view.asked = None, True

    def leave(self) -> None:
        """Show no run.

        >>> import faal_lab as fl
        >>> dashboard = fl.Dashboard("notebooks/recorded/control")
        >>> dashboard.leave()
        >>> dashboard.status
        'none'
        >>> dashboard.close()
        """
        with self._lock:
            self._follower, self._dials, self._history = None, Dials(Path()), History(len(self._names))
            self.status, self.state.value = "none", "<b>no run</b>"
            self._let_replay(False)
            self.view.pulse(False)
            self.view.show(pictures(self._history, 1), [])

    def close(self) -> None:
        """End the thread and remove the widgets."""
        self._closed.set()
        super().close()

    def _change(self, _: object) -> None:
        self._changed = True

    def _loop(self) -> None:
        while not self._closed.wait(_PERIOD):
            said = _error_of(self._locked_look)
            if self._on_look is not None:  # also after an error: else the controls would stay as they were
                said = "\n".join(filter(None, [said, _error_of(self._on_look)]))
            shown = error_text(said) if said else ""  # an error that has passed disappears
            if self.problem.value != shown:
                self.problem.value = shown

    def _locked_look(self) -> str:
        with self._lock:
            return self._look()

    def _look(self) -> str:
        """Read and draw once, and return the run's error ("" if there is none).

        The last picture of a run that ended or paused is drawn regardless of the throttle.
        """
        follower = self._follower
        if follower is None:
            return ""
        try:
            self._take(follower)
        except RunFolderError:
            if not follower.path.exists():
                self.status = self._said = GONE
                self.state.value = f"<b>{GONE}</b>"
                self.view.pulse(False)
            raise
        self.status = status = follower.status()
        self.view.pulse(status not in ENDED)
        still = status in (*ENDED, "paused")
        final = still and status != self._ended and not follower.new
        drawn = final or (self.view.ready() and (self._changed or self.view.asked))
        if drawn:
            self._draw(follower)
        self._dials.look(follower, self._settings)
        waits = [] if status == "done" else self._dials.waiting()
        turned, self._waits = waits != self._waits, waits
        self._ended = status if final else self._ended if still else ""
        self._let_replay(still)
        now = time.monotonic()
        self._stale |= drawn
        due = self._stale and now - self._told >= _LINE  # a message slows a run on the same cores
        if final or turned or due or status != self._said:
            self._said, self._told, self._stale, self.state.value = status, now, False, self._status_line(follower, status)
        if drawn and still:
            self.view.still(_plain(f"{follower.path.name}: {self.state.value}"))
        for event in reversed(follower.events[-20:]):
            if isinstance(event, RunResumed):
                break
            if isinstance(event, (RunFailed, CommandRefused)):
                return event.error if isinstance(event, RunFailed) else event.reason
        return ""

    def _take(self, follower: Follower) -> None:
        """Add new records to the history; start anew if the run or its classes changed."""
        follower.poll()
        started = follower.started
        if follower.restarts != self._restarts:
            self._restarts, self._history, self._settings = follower.restarts, History(len(self._names)), None
        if started is not None and follower.new:
            if self._settings is None:
                self._settings = self._set_panels(started)
            self._history.add(follower.new)
            self._changed = True

    def _set_panels(self, started: RunStarted) -> Config:
        """Make the panels of a run that began, and return its settings."""
        assert self._follower is not None
        folder, names = RunFolder(self._follower.path), list(started.class_names)
        config, own = folder.config(), set(folder.own())
        self._weighs, self._reads_tau = weighs(config, own), reads_tau(config, own)
        self._names, self._ambiguity, self._history, self._radius = names, config.ambiguity, History(len(names)), (-1.0, "")
        spec = panel_spec(
            names, config.ambiguity, weighs=self._weighs, tau=self._reads_tau, batches=max(1, started.steps_per_epoch)
        )
        if self.view.spec != spec:
            self.view.spec = spec
        return config

    def _draw(self, follower: Follower) -> None:
        self._changed = False
        until = None if self.until.disabled else self.until.value
        shown = pictures(self._history, self.window.value, self.view.zoom, until, self.view.followed)
        if not self._reads_tau:
            shown["divergence"] = replace(shown["divergence"], y=shown["divergence"].y[:1])
        last = follower.latest.step if follower.latest else 0
        self.view.show(shown, turn_marks(follower.turns, last if until is None else min(until, last)))

    def _let_replay(self, still: bool) -> None:
        """Extend the slider to the run's last batch, and enable it while the run is paused or has ended."""
        last = int(self._history.step.values[-1]) if len(self._history.step.values) else 0
        if self.until.disabled != (not still or not last) or (still and self.until.max != last):
            for control in (self.until, self.play):
                control.max = last
                control.value = last
                control.disabled = not still or not last
            self.play.step = max(1, last // 80)
        self.save.disabled = not last

    def _offer(self) -> None:
        """Offer the run's files and a PNG of the panels for download."""
        with self._lock:
            if self._follower is not None:
                path = self._follower.path
                self.view.save(run_files(path), f"{path.name}.png")

    def _status_line(self, follower: Follower, status: str) -> str:
        started, latest = follower.started, follower.latest
        if started is None:
            return f"<b>{status}</b>"
        total, done = started.epochs * started.steps_per_epoch, latest.step if latest else 0
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
        if latest:
            if self._radius[0] != latest.tau:  # c* needs a search: only if tau changed
                row = AMBIGUITY_SETS[self._ambiguity]  # a dashboard runs no code of a path that a run names
                said = f"tau {latest.tau:.3g}" if row.label else stated(row.make(), latest.tau, len(self._names))
                self._radius = latest.tau, said
            spent = [f"{self._radius[1]}, spent {latest.divergence:.3f}"] if self._reads_tau else []
            words.append(", ".join([*spent, f"epsilon {latest.epsilon:g}"]))
            heaviest = max(latest.weights)
            if self._weighs and latest.weights.count(heaviest) == 1:
                words.append(f"heaviest class {self._names[latest.weights.index(heaviest)]}")
        words += [f"{text} waits for the next batch" for text in self._waits]
        signs = self._history.signs().values()
        result = ""
        if status == "done" and self._settings is not None:
            result = validation_result(self._settings, self._names, follower.epochs, follower.path)
        notes = [f"Note: {text}" for text in signs]
        return "<br>".join([" · ".join(words), *map(html.escape, filter(None, [result, *notes]))])


def _plain(status: str) -> str:
    """Return a status line as text."""
    return html.unescape(re.sub("<[^>]+>", "", status.replace("<br>", "\n")))


def _error_of(act: Callable[[], str | None]) -> str:
    """Call `act`, and return what it says or why it failed."""
    try:
        return act() or ""
    except (RunFolderError, OSError) as error:
        return str(error)
    except Exception:  # a thread's traceback would be printed under the cell that ran last
        return traceback.format_exc()
