"""Show the progress of a long task: a bar with an ETA in a terminal, whole lines everywhere else.

A log, a file or an executed notebook cannot rewrite a line. There a task prints a line when it begins, at most one every ten
seconds, and one when it ends.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from faal_lab.errors import RunFolderError
from faal_lab.runs.events import EpochDone, Event, RunFinished, RunResumed, RunStarted, StepDone, Watch
from faal_lab.runs.follower import Follower

EVERY = 10.0  # seconds between two lines
_REDRAW = 1.0  # seconds between two redraws of a bar: its clock moves even while torch loads or a network compiles
_COUNTED = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {elapsed}<{remaining} {rate_fmt} {postfix}"
_SHARED = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining} {postfix}"


class Bar:
    """The progress of one task. The caller reports it; a thread of its own shows it."""

    def __init__(self, title: str, total: float, unit: str, doing: str, where: str) -> None:
        self._title, self._total, self._unit = title, total, unit  # unit "": show only the share
        self._done = self._initial = 0.0
        self._doing, self._began = doing, time.monotonic()
        self._ended = threading.Event()
        self._tqdm = None
        if where == "terminal":
            from tqdm import tqdm

            layout = _COUNTED if unit else _SHARED
            self._tqdm = tqdm(total=total, desc=title, unit=unit, file=sys.stderr, mininterval=0.5, bar_format=layout)
            self._set(doing, refresh=True)
        self._lines, self._thread, self.stopped = where == "lines", None, False
        if self._lines:
            self._print("begins")
        if where != "nowhere":
            self._thread = threading.Thread(target=self._show, name="progress", daemon=True)
            self._thread.start()

    def at(self, done: float, total: float | None = None, doing: str | None = None) -> None:
        """Report the amount done, the total and the current activity; None keeps the last one."""
        self._done, self._total = done, self._total if total is None else total
        if self._tqdm is not None:
            self._tqdm.total = self._total
            self._tqdm.update(max(0, (int(done) if self._unit else round(done, 1)) - self._tqdm.n))
        if doing is not None:
            self._set(doing, refresh=False)

    def doing(self, what: str) -> None:
        """Report the current activity of a task that cannot measure its progress."""
        self._set(what, refresh=True)

    def begin_at(self, done: float, total: float) -> None:
        """Report an amount that was done before, and the total; the clock starts anew."""
        self._done = self._initial = done
        self._total, self._began = total, time.monotonic()
        if self._tqdm is not None:
            self._tqdm.initial = self._tqdm.n = done
            self._tqdm.total = total

    def write(self, text: str) -> None:
        """Print a line on standard output, above the bar if there is one."""
        if self._tqdm is not None:
            self._tqdm.write(text, file=sys.stdout)
        else:
            print(text)
        sys.stdout.flush()

    def close(self) -> None:
        """Show the end: "done", or the point where the task stopped if `stopped` is set."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        if self._tqdm is not None:
            self._tqdm.close()
        if self._lines:
            gone = clock(time.monotonic() - self._began)
            self._print(
                " ".join(filter(None, ("stopped", self._count() and f"at {self._count()}", f"after {gone}")))
                if self.stopped
                else f"done in {gone}"
            )

    def _set(self, what: str, *, refresh: bool) -> None:
        self._doing = what
        if self._tqdm is not None:
            self._tqdm.set_postfix_str(what, refresh=refresh)

    def _show(self) -> None:
        while not self._ended.wait(EVERY if self._lines else _REDRAW):
            if self._tqdm is not None:
                self._tqdm.refresh()
            else:
                self._print(", ".join(filter(None, (self._count(), self._clocks()))))

    def _print(self, text: str) -> None:
        said = f"{' '.join(self._title.split())}: {text}" + (f" | {self._doing}" if self._doing else "")
        # a notebook shows standard error on red, as if the task had failed
        stream = sys.stdout if type(sys.stderr).__module__.startswith("ipykernel") else sys.stderr
        stream.write(f"{said}\n")  # one call, line end included: print would write the line end by itself
        stream.flush()

    def _count(self) -> str:
        if not self._total:
            return ""  # the total is not known yet
        share = f"{100 * self._done / self._total:.0f} %"
        return f"{self._unit} {int(self._done)} of {self._total:.0f}, {share}" if self._unit else share

    def _clocks(self) -> str:
        gone = time.monotonic() - self._began
        made, left = self._done - self._initial, self._total - self._done
        return f"{clock(gone)} gone" + (f", about {clock(gone * left / made)} left" if made > 0 else "")


_open: list[Bar] = []


@contextmanager
def bar(title: str, total: float = 0, unit: str = "", doing: str = "", *, quiet: bool = False) -> Iterator[Bar]:
    """Show a task while it runs, and nothing if `quiet`.

    Only this function chooses the form: a bar in a terminal, lines elsewhere.
    """
    where = "nowhere" if quiet else "terminal" if sys.stderr.isatty() else "lines"
    shown_bar = Bar(title, total, unit, doing, where)
    _open.append(shown_bar)
    try:
        yield shown_bar
    except BaseException:
        shown_bar.stopped = True
        raise
    finally:
        _open.remove(shown_bar)
        shown_bar.close()


def doing(what: str) -> None:
    """Report the current activity to the innermost open bar, if any, from code that has no access to it."""
    if _open:
        _open[-1].doing(what)


def clock(seconds: float) -> str:
    """Format a length of time as 0:07 or 1:02:03."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def shown(events: Iterable[Event], quiet: bool = False, folder: str | Path | None = None) -> Iterator[Event]:
    """Pass events on; show the number of steps done, the latest validation result, and once each what looks wrong.

    `folder` is the run's: a resumed run is judged together with its earlier epochs.
    """
    with bar("training", 0, "batch", "preparing" if "torch" in sys.modules else "loading torch", quiet=quiet) as told:
        watch, noted = Watch(), set[str]()
        for event in events:
            watch.see(event)
            if isinstance(event, StepDone):
                told.at(event.step)
            elif isinstance(event, RunResumed):
                told.begin_at(event.from_step, event.steps or 0)
                told.doing("")
                watch = watch if folder is None else _before(folder, told)
            elif isinstance(event, RunStarted):
                told.begin_at(0, event.epochs * event.steps_per_epoch)  # loading and compiling are not counted as steps
                told.doing("")
            elif isinstance(event, EpochDone):
                told.doing(validation_line(event))
            elif isinstance(event, RunFinished):
                told.stopped = event.reason != "done"
            if isinstance(event, (RunStarted, EpochDone)):
                for kind, text in watch.signs().items():
                    if kind not in noted and not quiet:
                        told.write(f"Note: {text}")
                    noted.add(kind)
            yield event


def _before(folder: str | Path, told: Bar) -> Watch:
    """Read the record of a run that is resumed; a damaged one is reported, and the run goes on."""
    follower = Follower(folder, keep_steps=False)
    try:
        follower.poll()
    except RunFolderError as error:
        told.write(f"Note: {error} What looked wrong before the resume is not known.")
        return Watch()
    return Watch(follower.new)


def validation_line(event: EpochDone) -> str:
    """Format the validation of an epoch as one line."""
    robust = [100 * k / n for k, n in zip(event.robust_correct, event.count, strict=True) if n]
    if not robust:
        return f"epoch {event.epoch}: no validation images"
    return f"epoch {event.epoch}: PGD average {sum(robust) / len(robust):.1f} %, worst class {min(robust):.1f} %"


@contextmanager
def share_bar(title: str, quiet: bool = False, doing: str = "") -> Iterator[Callable[[str, float], None]]:
    """Yield a function by which a task reports its activity and the share done in [0, 1]; show both."""
    with bar(title, 100, "", doing, quiet=quiet) as told:
        yield lambda what, share: told.at(100 * share, doing=what)
        told.at(100, doing="")
