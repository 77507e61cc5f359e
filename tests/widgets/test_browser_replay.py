"""A run as one page that plays it by itself: no Python, no network, and small enough to send."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import in_browser
import numpy as np
import pytest
from in_lab import SCREENSHOTS, require_browser, watch

import faal_lab as fl
from faal_lab.errors import ConfigError, RunFolderError
from faal_lab.runs import RunFolder
from faal_lab.runs.config import Config
from faal_lab.runs.events import EpochDone, RunResumed, RunStarted, StepDone
from faal_lab.runs.history import load_history
from faal_lab.widgets.panels import write_replay

STEERED = Path(__file__).parents[2] / "notebooks" / "recorded" / "faal-steered"
WEIGHTS = """() => { const panel = window.faal.view.panels.get('weights'), last = panel.data.x.length - 1;
  return [panel.data.x[last], Array.from({length: panel.data.rows}, (_, r) => panel.at(r, last))]; }"""


PARTS = """
from faal_lab.dro import KLBall
from faal_lab.methods.objectives import AdversarialTraining


class Mine(KLBall):
    pass


class Loss(AdversarialTraining):
    pass
"""


def a_long_run(path: Path, names: list[str], steps: int, **settings: Any) -> Path:
    """A run of so many steps of made-up numbers, with an epoch each 100."""
    random, count = np.random.default_rng(0), len(names)
    folder = RunFolder.create(path, Config(epochs=max(1, steps // 100), fairness="faal", **settings), {})
    with folder.recording() as recorder:
        recorder.write(RunStarted(names, 100, max(1, steps // 100), 0.5, 0.1, 0.05))
        for step in range(1, steps + 1):
            weights, margin = (random.random(count).tolist() for _ in range(2))
            of, right = [4] * count, random.integers(0, 5, count).tolist()
            recorder.write(StepDone(step, (step - 1) // 100, 1.0, 0.5, 0.1, 0.05, weights, 0.2, of, margin, right, None))
            if step % 100 == 0:
                recorder.write(EpochDone(step // 100, step, [9] * count, [8] * count, random.integers(0, 10, count).tolist()))
    return path


@pytest.mark.parametrize("classes", [10, 100])
def test_ten_thousand_steps_can_be_sent(classes: int, tmp_path: Path) -> None:
    run = a_long_run(tmp_path / "run", [f"class {c}" for c in range(classes)], 10_000)
    said = write_replay(run, tmp_path / "page.html")
    size = (tmp_path / "page.html").stat().st_size
    assert size < 1_500_000
    assert said == f"{tmp_path / 'page.html'}: plays 10000 batches in a browser, {size / 1e6:.2f} MB."


def test_nothing_in_a_run_becomes_part_of_the_page(tmp_path: Path) -> None:
    names = ["</script><img src=x>", "<b>bee</b>", "&amp;"]
    run = a_long_run(tmp_path / "run & <i>", names, 3)
    fl.open_run(run).export("replay", tmp_path / "page.html", say=lambda _: None)
    page = (tmp_path / "page.html").read_text()
    assert not re.search("<img|<b>bee|<i>|</script><", page.replace("</script><script", "").replace("</script></body", ""))
    assert "run &amp; &lt;i&gt;</h1>" in page
    assert str(tmp_path) not in page, "no place of this machine"


def test_what_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "page.html"
    place.write_text("mine")
    with pytest.raises(ConfigError, match=r"page\.html exists already"):
        write_replay(STEERED, place)
    assert place.read_text() == "mine"
    write_replay(STEERED, place, force=True)
    assert place.read_text().startswith("<!doctype html>")
    RunFolder.create(tmp_path / "empty", Config(), {})
    again = a_long_run(tmp_path / "again", ["a", "b"], 2)
    with RunFolder(again).recording() as recorder:
        recorder.write(RunResumed(0, 100))
    for run in (tmp_path / "empty", again):
        with pytest.raises(RunFolderError, match="no run that made a step"):
            write_replay(run, tmp_path / "other.html")
    assert not (tmp_path / "other.html").exists()


def test_parts_of_somebody_are_named_without_their_paths(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "parts.py").write_text(PARTS)
    named = {kind: f"{tmp_path}/home/parts.py:{name}" for kind, name in (("ambiguity", "Mine"), ("objective", "Loss"))}
    run = a_long_run(tmp_path / "run", ["a", "b"], 3, **named)
    write_replay(run, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "objective parts.py:Loss" in page
    assert "Divergence (parts.py:Mine)" in page
    assert str(tmp_path) not in page


@pytest.mark.browser
def test_hundreds_of_epochs_stand_in_their_places(tmp_path: Path) -> None:
    require_browser()
    write_replay(a_long_run(tmp_path / "run", ["a", "b"], 45_000), tmp_path / "page.html")  # 450 epochs, 400 points
    with in_browser.browser() as context:
        page: Any = context.new_page()
        page.goto(f"{(tmp_path / 'page.html').as_uri()}#step=22500")
        page.wait_for_function("() => window.faal && window.faal.view.drawn > 0")
        shown = page.evaluate("Array.from(window.faal.view.panels.get('epochs').data.x)")
        assert 223 <= shown[-1] <= 225
        assert shown == sorted(shown)


@pytest.mark.browser
def test_the_page_plays_without_a_network(tmp_path: Path) -> None:
    require_browser()
    place = tmp_path / "page.html"
    fl.open_run(STEERED).export("replay", place, say=lambda _: None)
    history, names = load_history(STEERED)
    with in_browser.browser() as context:
        context.set_offline(True)
        page: Any = context.new_page()
        watch(page, "file://")
        page.goto(f"{place.as_uri()}#step=40")
        page.wait_for_function("() => window.faal && window.faal.view.drawn > 0")
        assert page.inner_text(".faal-where") == "batch 40 of 160, epoch 2", "a link leads to a moment"
        step, weights = page.evaluate(WEIGHTS)
        assert step == 40
        np.testing.assert_allclose(weights, history.mean_weights(10)[39], rtol=1e-6)

        page.click(".faal-table summary")
        rows = page.locator(".faal-table tbody tr").all_inner_texts()
        assert [row.split()[0] for row in rows] == names
        shown = [float(row.split()[2]) for row in rows]
        np.testing.assert_allclose(shown, 100 * history.accuracy(10)[39], rtol=6e-3)

        page.focus(".faal-scrub")
        page.keyboard.press("ArrowRight")
        page.wait_for_function("() => document.querySelector('.faal-where').innerText.startsWith('batch 41 of')")
        assert page.evaluate("location.hash") == "#step=41", "the address is a link to it"
        assert page.get_attribute(".faal-scrub", "aria-valuetext") == "batch 41 of 160, epoch 3"
        assert [mark["text"] for mark in page.evaluate("window.faal.view.marks")] == []

        page.select_option(".faal-speed", "10")
        page.click(".faal-play")
        page.wait_for_function("() => document.querySelector('.faal-where').innerText.startsWith('batch 160 of')")
        page.wait_for_function("() => document.querySelector('.faal-play').innerText === 'Play'")
        assert page.evaluate("window.faal.view.marks.length") > 0, "what was turned is marked"
        bars = page.evaluate("Array.from(window.faal.view.panels.get('classes').data.y)")
        np.testing.assert_allclose(bars, 100 * history.validation("robust")[-1], rtol=1e-6)

        page.click(".faal-chip:has-text('8')")
        assert page.locator("tr.faal-followed").inner_text().split()[0] == "8"
        if SCREENSHOTS:
            for scheme, width in (("light", 1440), ("dark", 1440), ("light", 390), ("dark", 390)):
                page.emulate_media(color_scheme=scheme)
                page.set_viewport_size({"width": width, "height": 900})
                page.wait_for_timeout(500)
                page.screenshot(path=str(Path(SCREENSHOTS) / f"replay-{width}-{scheme}.png"))
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, "nothing is wider than a phone"
        assert not page.outside
        assert not page.errors
