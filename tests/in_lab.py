"""What the tests in a real browser share: a folder of their own in JupyterLab, what a page shows, what a run folder holds.

Every wait is for a post-condition. The fixtures `lab` and `page` are in conftest.py.
"""

import contextlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import in_browser
import pytest

from faal_lab.runs import RunFolder
from faal_lab.runs.events import Command, DialTurned, StepDone
from faal_lab.training.background import LiveRun

ROOT = Path(__file__).parent.parent
SCREENSHOTS = os.environ.get("FAAL_LAB_SCREENSHOTS", "")
# of every panel that was drawn: the last x, and the y of each line there
POINTS = """() => { const view = (document.querySelector('.faal-view') || {}).faal, found = {};
  for (const [id, p] of view ? view.panels : []) if (p.data && p.data.x.length) { const last = p.data.x.length - 1;
    found[id] = {x: p.data.x[last], y: Array.from({length: p.data.rows}, (_, r) => p.at(r, last))}; }
  return found; }"""
LAST = f"((({POINTS})().weights || {{x: -1}}).x)"
STATUS = "((document.querySelector('.faal-status') || {}).innerText || '')"


@dataclass(frozen=True)
class Lab:
    """One test's folder in JupyterLab: a copy of the notebooks, and beside them the runs they make."""

    address: str
    root: Path

    def change(self, notebook: str, old: str, new: str) -> None:
        """Replace what stands once in the source of a notebook."""
        path = self.root / notebook
        text, old, new = path.read_text(), json.dumps(old)[1:-1], json.dumps(new)[1:-1]
        assert text.count(old) == 1
        path.write_text(text.replace(old, new))

    def open(self, page: Any, notebook: str) -> None:
        """Open it, run all its cells, and wait until a picture is there."""
        in_browser.open_and_run(page, self.address, f"{self.root.name}/{notebook}")

    def run(self) -> RunFolder:
        """The only run in the folder `runs`."""
        (path,) = [p.parent for p in (self.root / "runs").glob("*/metrics.jsonl")]
        return RunFolder(path)

    def end(self) -> None:
        """Leave neither kernels nor runs behind."""
        in_browser.end_kernels(self.address)
        for beat in self.root.glob("runs/*/heartbeat.json"):
            if LiveRun(beat.parent).running():
                RunFolder(beat.parent).send(Command("stop"))


def require_browser() -> None:
    """Skip where Chromium or Playwright is missing; FAAL_LAB_REQUIRE_BROWSER=1 turns the skip into a failure."""
    try:
        import playwright  # noqa: F401
    except ImportError:
        _missing("Playwright is not installed (pip install -e '.[dev]')")
    if not in_browser.CHROMIUM:
        _missing("Chromium is not installed (on Debian: apt-get install chromium)")


def _missing(reason: str) -> None:
    if os.environ.get("FAAL_LAB_REQUIRE_BROWSER") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def own_folder(server: Path, name: str) -> Path:
    """A folder below the server's with a copy of the notebooks; a new one where a test is tried once more."""
    root = next(place for n in itertools.count() if not (place := server / f"{name}{f'-{n}' if n else ''}").exists())
    shutil.copytree(ROOT / "notebooks", root / "notebooks")
    return root


def shoot(page: Any, name: str) -> None:
    """Where FAAL_LAB_SCREENSHOTS names a folder, keep pictures to look at: the whole notebook, wide and narrow, light and dark."""
    if not SCREENSHOTS:
        return
    tallest = "() => Math.max(...[...document.querySelectorAll('.jp-NotebookPanel *')].map(e => e.scrollHeight))"
    for theme in ("Dark", "Light"):
        page.evaluate(f"() => window.jupyterapp.commands.execute('apputils:change-theme', {{theme: 'JupyterLab {theme}'}})")
        for width, height in ((1024, 768), (1440, 900)):
            page.set_viewport_size({"width": width, "height": height})
            page.wait_for_timeout(1500)
            page.screenshot(path=str(Path(SCREENSHOTS) / f"{name}-{width}-{theme}-screen.png"))
            page.set_viewport_size({"width": width, "height": min(9000, page.evaluate(tallest) + 150)})
            page.evaluate("() => document.querySelectorAll('.jp-NotebookPanel *').forEach(e => { e.scrollTop = 0; })")
            page.wait_for_timeout(1500)
            page.screenshot(path=str(Path(SCREENSHOTS) / f"{name}-{width}-{theme}.png"))
    page.set_viewport_size({"width": 1440, "height": 900})
    page.wait_for_timeout(1000)


def wait_until(condition: Any, seconds: float = 30) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("timed out")


def steps(run: RunFolder) -> list[StepDone]:
    return [e for e in run.events() if isinstance(e, StepDone)]


def turns(run: RunFolder) -> list[DialTurned]:
    return [e for e in run.events() if isinstance(e, DialTurned)]


def press_slider(page: Any, handle: str, key: str) -> None:
    """Press a key that moves a slider, again if a busy JupyterLab took the focus between focus and key."""
    from playwright.sync_api import TimeoutError

    now = "document.querySelector(handle).parentElement.style.transform"  # where it stands; its ARIA value is rounded to tenths
    before = page.evaluate(f"handle => {now}", handle)
    for _ in range(12):
        page.locator(handle).first.press(key)
        with contextlib.suppress(TimeoutError):
            page.wait_for_function(f"([handle, before]) => {now} !== before", arg=[handle, before], timeout=5000)
            return
    raise AssertionError(f"{key} never moved {handle}")


def press_tau_right(page: Any) -> None:
    press_slider(page, ".faal-tau .noUi-handle", "ArrowRight")


def run_again(page: Any) -> None:
    """Run all cells of the open notebook once more, to their end."""
    page.evaluate(in_browser.FIRE, "notebook:run-all-cells")
    page.wait_for_function("() => window.fired === 'ok'")


def start_and_see_it_move(page: Any) -> None:
    shown = page.evaluate(LAST)
    page.click("button.faal-start")
    page.wait_for_function(f"() => {LAST} !== {shown}")  # of the run that was shown before, if there was one
    page.wait_for_function(f"() => {LAST} > 3")
    before = page.evaluate(POINTS)
    page.wait_for_function(f"() => {LAST} > {before['weights']['x'] + 20}")
    after = page.evaluate(POINTS)
    assert before["weights"]["y"] != after["weights"]["y"], "class weights move"
    assert before["accuracy"]["y"] != after["accuracy"]["y"], "per-class robust accuracy moves"
    assert sum(after["weights"]["y"]) == pytest.approx(1, abs=1e-4)


# anywidget gives a widget two seconds to load, by the clock, and throws this on a busy machine also where the widget comes up
# a moment later. Where it does not, the picture that a test waits for never comes.
SLOW = "[anywidget] Failed to initialize model."


def watch(page: Any, address: str) -> None:
    """Let a page remember what it asks of other machines and what it logs as an error."""
    page.outside, page.errors = [], []
    page.on("request", lambda r: page.outside.append(r.url) if not r.url.startswith((address, "data:", "blob:")) else None)
    page.on("pageerror", lambda e: page.errors.append(str(e)) if SLOW not in str(e) else None)
    page.on("console", lambda m: page.errors.append(m.text) if m.type == "error" else None)


@contextlib.contextmanager
def clean(page: Any) -> Iterator[None]:
    """Whatever is done in here, nothing goes wrong in the page and nothing leaves the machine."""
    yield
    assert not any(text.strip() for text in page.locator(".faal-error, .faal-message pre").all_inner_texts())
    assert not page.outside
    assert not page.errors
