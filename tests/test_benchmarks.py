"""The benchmarks run and say what they claim to: small here, whole by hand."""

import json
import sys
import warnings
from pathlib import Path

import pytest

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
