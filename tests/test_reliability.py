"""Every row of the reliability figures, with few cases of each; and the page that is made from the whole measurement."""

import json
import sys
from pathlib import Path

import endurance
import numpy as np
import pytest
import reliability
import reliability_files
import reliability_words

ROOT = Path(__file__).parent.parent
WHOLE = json.loads(reliability.FILE.read_text())


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("row", list(reliability.ROWS))
def test_a_few_cases_of_each_row(row: str, tmp_path: Path, capsys) -> None:
    code = reliability.main(["--quick", "--rows", row, "--out", str(tmp_path / "few.json")])
    assert code == 0, capsys.readouterr().out


def test_what_grows_is_found() -> None:
    """The measure of the long run: a slope with its interval, and a planted growth."""
    drawn = np.random.default_rng(0)
    seconds = np.arange(0, 7200, 10.0)
    grown = endurance.slope(seconds / 3600, 500 + 3 * seconds / 3600 + drawn.normal(0, 0.5, len(seconds)))
    assert grown["low"] < 3 < grown["high"] < grown["low"] + 1
    names = [name for name in json.loads(endurance.FILE.read_text())["samples"][0] if name not in ("second", "step")]
    flat = [{"second": s, "step": int(s), **dict.fromkeys(names, 5.0)} for s in seconds]
    assert endurance.found({"samples": flat, "lost": []})["lost"] == []
    leaking = [{**sample, "training MB": 5 + 4 * sample["second"] / 3600} for sample in flat]
    assert endurance.found({"samples": leaking, "lost": []})["lost"] == ["training MB an hour: 4 at least, promised 2 at most"]


def test_every_promise_is_kept_by_the_whole_measurement() -> None:
    assert list(WHOLE["rows"]) == list(reliability.ROWS)
    for name, promise in reliability.ROWS.items():
        row = WHOLE["rows"][name]
        assert (row["promise"], row["met"], row["lost"]) == (promise.text, True, []), name
        assert row["tried"] >= promise.least, name
    killed = [WHOLE["rows"][name]["tried"] for name in reliability.ROWS if name.endswith("killed")]
    assert sum(killed) >= 200


def test_the_page_is_made_from_it() -> None:
    sys.path.insert(0, str(ROOT / "docs"))
    import reliability_page

    page = reliability_page.PAGE.read_text(encoding="utf-8")
    assert reliability_page.written(page) == page, "python docs/reliability_page.py writes it"


def test_a_loss_is_a_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """The measure itself: a reader that takes anything, and words that end in a traceback."""
    monkeypatch.setattr(reliability_files, "_outcome", lambda *_, **__: "silent: 1 in place of 2")
    found = reliability_files.damage(tmp_path, quick=True)
    assert len(found["lost"]) > 50
    assert reliability_words._many(20, reliability_words.TEXTS, lambda text: 1 / 0)
    monkeypatch.setitem(
        reliability.ROWS, "damage", reliability.Promise("Nothing is lost.", 1, lambda *_: {"tried": 1, "lost": ["a file"]})
    )
    assert reliability.main(["--rows", "damage", "--out", str(tmp_path / "lost.json")]) == 1
    assert "NOT MET  damage: 1 tried, 1 lost" in capsys.readouterr().out
