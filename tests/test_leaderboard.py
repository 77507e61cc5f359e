"""The digits leaderboard: what it holds methods against, and that its page says what its counts say."""

import csv
import itertools
import re
from collections import defaultdict
from pathlib import Path

import leaderboard_page
import numpy as np
import pytest
import yaml
from leaderboard_page import Mean, Row
from scipy.stats import t

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "results" / "digits-leaderboard"
STAGES = yaml.safe_load((ROOT / "reproduce" / "digits-leaderboard.yaml").read_text())["stages"]


def test_every_method_has_its_control() -> None:
    """Of at least its own epochs, by the same loss, from the same base."""
    arms = itertools.product(("equal", "own"), ("at", "trades"))
    runs = {f"{stage}/{base}-{row['label']}": row for stage, base in arms for row in STAGES[stage]["list"]}
    for name, row in runs.items():
        stage, base = name.split("/")[0], name.split("/")[1].split("-")[0]
        loss = row.get("objective", base)
        control = runs[leaderboard_page.control_of(row.get("epochs", 4), loss, stage, base, runs)]
        assert control["fairness"] == "none"
        assert control.get("objective", base) == loss
        assert control.get("epochs", 4) >= row.get("epochs", 4)


def test_a_finding_needs_an_interval_on_one_side_of_zero() -> None:
    def row(method: str, worst: float, against_control: tuple[float, float], against_faal: tuple[float, float]) -> Row:
        mean = Mean(worst, worst - 1, worst + 1)
        return Row(method, 4, "equal/at-control", mean, mean, mean, Mean(0, *against_control), Mean(0, *against_faal))

    rows = [
        row("above", 60, (1, 9), (2, 5)), row("faal", 50, (-1, 9), (0, 0)), row("below", 40, (-9, -1), (-5, -2)),
        row("control", 45, (0, 0), (-5, -2)),
    ]  # fmt: skip
    (said,) = leaderboard_page.findings({"equal/at": rows})
    assert "of 1 (above) of 3 methods is above their control's, of 1 (below) below" in said
    assert "FAAL is number 2 of 3: 1 (above) are above it, 1 (below) below" in said


def counts() -> dict[str, np.ndarray]:
    """Run -> worst class under AutoAttack of each seed, in percent, from the file of counts alone."""
    lowest: dict[str, dict[int, float]] = defaultdict(lambda: defaultdict(lambda: 100.0))
    with (FOLDER / "counts.csv").open() as file:
        for row in csv.DictReader(file):
            if row["attack"] == "autoattack":
                stand = 100 * int(row["stand"]) / int(row["images"])
                lowest[row["run"]][int(row["seed"])] = min(stand, lowest[row["run"]][int(row["seed"])])
    return {run: np.array([found[seed] for seed in sorted(found)]) for run, found in lowest.items()}


def interval(values: np.ndarray, sign: str = "") -> str:
    mean, half = values.mean(), t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    low, high = (mean - half, mean + half) if sign else (max(0, mean - half), min(100, mean + half))
    return f"{mean + 0.0:{sign}.1f} ({low:{sign}.1f} to {high:{sign}.1f})"


def tables() -> dict[str, list[list[str]]]:
    """Panel -> the rows of its table on the page."""
    titles = {title: panel for panel, title in leaderboard_page.PANELS.items()}
    parts = re.split(r"^## AutoAttack: (.*)$", (FOLDER / "README.md").read_text(), flags=re.M)[1:]
    found = {}
    for title, text in zip(parts[::2], parts[1::2], strict=True):
        lines = [line for line in text.splitlines() if line.startswith("| ")]
        found[titles[title]] = [line.strip("| ").split(" | ") for line in lines[2:]]
    return found


def test_all_of_the_file_is_there() -> None:
    """Each of the sweep's methods, from both bases, by all seeds."""
    seeds = STAGES["base"]["grid"]["seed"]
    for panel, rows in tables().items():
        stage, _, base = panel.partition("/")
        assert {row[0] for row in rows} == {entry["label"] for entry in STAGES[stage]["list"]}, panel
        for entry in STAGES[stage]["list"]:
            assert len(counts()[f"{stage}/{base}-{entry['label']}"]) == len(seeds)
    assert set(tables()) == set(leaderboard_page.PANELS)


@pytest.mark.parametrize("panel", leaderboard_page.PANELS)
def test_the_page_says_what_the_counts_say(panel: str) -> None:
    found = counts()
    rows = tables()[panel]
    for method, _, worst, _, more, _, past, control in rows:
        mine = found[f"{panel}-{method}"]
        assert worst == interval(mine), method
        assert control == more == "-" or more == interval(mine - found[control], "+"), method
        assert method == "faal" or past == interval(mine - found[f"{panel}-faal"], "+"), method
    means = [found[f"{panel}-{row[0]}"].mean() for row in rows]
    assert means == sorted(means, reverse=True)


def test_the_readme_says_what_the_counts_say() -> None:
    found = counts()
    text = " ".join((ROOT / "README.md").read_text().split("## The leaderboard of the digits")[1].split("\n## ")[0].split())

    def gain(run: str, control: str) -> str:
        return interval(found[run] - found[control], "+")

    for said in (
        f"FAAL is first of 14 with {interval(found['equal/at-faal'])}, {gain('equal/at-faal', 'equal/at-control')} over the control",
        f"frl-rw second with {interval(found['equal/at-frl-rw'])};",
        f"frl-rw is first with {interval(found['equal/trades-frl-rw'])} and FAAL second with {interval(found['equal/trades-faal'])}",
        f"lift the worst class from {interval(found['base/at'])} to {interval(found['own/at-control-20ep'])}",
        f"by {gain('own/at-group-dro', 'own/at-control-20ep')} and {gain('own/at-cfa-ccm', 'own/at-control-20ep')}",
        f"not shown to gain: {gain('own/trades-faal', 'own/trades-control-2ep')}",
    ):
        assert said in text, said
    for panel, place in (("equal/at", 1), ("equal/trades", 2), ("own/at", 10), ("own/trades", 13)):
        methods = [row[0] for row in tables()[panel] if not row[0].startswith("control")]
        assert methods.index("faal") == place - 1
