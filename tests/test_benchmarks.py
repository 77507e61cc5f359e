"""The benchmarks run and say what they claim to: small here, whole by hand."""

import json
import sys
import warnings
from pathlib import Path

import pytest

from faal_lab.fairness import FAIRNESS

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def test_the_solvers_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import ambiguity as benchmark

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cvxpy says of an answer that it may be inaccurate: how inaccurate is measured here
        found = {"speed": [benchmark.speed(3, 2)], "digits": [benchmark.digits(3)], "sets": benchmark.families(1)}
    assert found["digits"][0]["errors"]["ours"]["weights"] < 1e-9
    assert found["digits"][0]["errors"]["ours"]["divergence, relative"] < 1e-9
    ratios = found["speed"][0]["times longer than ours"]
    assert all(r["low"] <= r["median"] <= r["high"] for r in ratios.values())
    assert ratios["CVXPY rebuilt, Clarabel"]["median"] > 1
    table = benchmark.tables(found)
    assert table.count("| 3 | CVXPY rebuilt") >= 4
    assert "| hellinger |" in table


def test_the_readme_states_what_was_measured() -> None:
    """Each figure of the README's table is one of the committed JSON."""
    readme = (BENCHMARKS.parent / "README.md").read_text()
    measured = json.loads((BENCHMARKS / "ambiguity.json").read_text())
    (ten,) = [entry for entry in measured["speed"] if entry["classes"] == 10]
    for key in ("times longer than ours", "times longer than ours at once, each"):
        for ratio in ten[key].values():
            assert "{median:,.0f} ({low:,.0f} to {high:,.0f})".format(**ratio) in readme
    (errors,) = [entry["errors"] for entry in measured["digits"] if entry["classes"] == 10]
    assert f"| {errors['ours']['weights']:.0e} | {errors['ours']['divergence, relative']:.0e} |" in readme


def test_the_docs_show_the_methods_as_they_were_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import methods

    measured = json.loads((BENCHMARKS / "methods.json").read_text())
    assert methods.table(measured["rows"]) in (BENCHMARKS.parent / "docs" / "methods.md").read_text()
    assert {row["name"] for row in measured["rows"]} <= {"base", *methods.arms()}, "a new method is measured when it can be"
    assert {settings["fairness"] for settings in methods.arms().values()} == set(FAIRNESS)


def test_the_methods_benchmark_goes_on_where_it_was_interrupted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    import methods

    chosen = {name: methods.arms()[name] for name in ("none-at", "faal-at")}
    monkeypatch.setattr(methods, "arms", lambda: chosen)
    words = ["methods.py", "--quick", "--out", str(tmp_path / "runs"), "--json", str(tmp_path / "found.json")]
    monkeypatch.setattr(sys, "argv", words)
    methods.main()
    first = (tmp_path / "found.json").read_text()
    rows = {row["name"]: row for row in json.loads(first)["rows"]}
    assert set(rows) == {"base", "none-at", "faal-at"}
    low, high = rows["faal-at"]["worst above control"][1:3]
    assert low <= rows["faal-at"]["worst above control"][0] <= high
    changed = (tmp_path / "runs-quick" / "faal-at" / "last.safetensors").stat().st_mtime_ns
    methods.main()
    assert (tmp_path / "found.json").read_text() == first
    assert (tmp_path / "runs-quick" / "faal-at" / "last.safetensors").stat().st_mtime_ns == changed, "not trained again"
