"""The digits leaderboard: what it holds methods against, and that its page says what its counts say."""

import csv
import itertools
import re
from collections import defaultdict
from pathlib import Path

import cifar10_leaderboard
import leaderboard
import leaderboard_page
import numpy as np
import pictures
import plotly.graph_objects as go
import pytest
import yaml
from leaderboard import Mean, Row
from made_up import verdicts
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
        control = runs[leaderboard.control_of(row.get("epochs", 4), loss, stage, base, runs)]
        assert control["fairness"] == "none"
        assert control.get("objective", base) == loss
        assert control.get("epochs", 4) >= row.get("epochs", 4)
        same = {"beta", "attack_steps", "batch_size"} - ({"beta"} if row["fairness"].startswith("frl") else set())
        assert all(row.get(setting) == control.get(setting) for setting in same), name
        if stage == "equal" or row.get("epochs", 4) == 20:
            assert row.get("learning_rate") == control.get("learning_rate"), name


def test_a_finding_needs_an_interval_on_one_side_of_zero() -> None:
    def row(method: str, worst: float, against_control: tuple[float, float], against_faal: tuple[float, float], p: float) -> Row:
        mean, more = Mean(worst, worst - 1, worst + 1), Mean(sum(against_control) / 2, *against_control)
        return Row(method, 4, "at", "equal/at-control", mean, mean, mean, more, Mean(0, *against_faal), p)

    rows = [
        row("sure", 60, (1, 9), (2, 5), 0.001), row("chance", 55, (1, 9), (-2, 5), 0.04), row("faal", 50, (-1, 9), (0, 0), 0.1),
        row("worse", 40, (-9, -1), (-5, -2), 0.04), row("control", 45, (0, 0), (-5, -2), 1.0),
    ]  # fmt: skip
    said = leaderboard.findings("T", rows)
    assert said.startswith("**T**, 4 arms. Worst class above its control's: sure, chance; below: worse. ")
    assert "Corrected for 4 arms (Holm), above: sure; below: none. " in said
    assert said.endswith("FAAL's mean is number 3; shown above FAAL: sure; below: worse.")


def test_p_values_are_corrected_for_their_number() -> None:
    """Holm's own steps by hand: the smallest times 3, the next times 2, none below the one before."""
    assert leaderboard.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert leaderboard.holm([0.9, 0.6]) == [1.0, 1.0]


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


def test_the_digits_page_says_what_the_counts_say() -> None:
    found = counts()
    text = " ".join(
        (ROOT / "docs" / "digits.md").read_text().split("## The leaderboard of the digits")[1].split("\n## ")[0].split()
    )

    def both(label: str) -> str:
        return " and ".join(interval(found[f"own/{base}-{label}"]) for base in ("at", "trades"))

    gain = [interval(found[f"equal/{base}-faal"] - found[f"equal/{base}-control"], "+") for base in ("at", "trades")]
    faal = [interval(found[f"equal/{base}-faal"]) for base in ("at", "trades")]
    for said in (
        f"highest mean is FAAL's, {faal[0]}, {gain[0]} against its control; then frl-rw's, {interval(found['equal/at-frl-rw'])}.",
        f"it is frl-rw's, {interval(found['equal/trades-frl-rw'])}, then FAAL's, {faal[1]}, {gain[1]}.",
        f"made for networks that are trained out: {both('faal')}",
        f"here twenty epochs, reaches {both('faal-scratch')}",
        f"without any fairness method reach {both('control-20ep')}",
    ):
        assert said in text, said


def test_the_page_counts_what_is_shown() -> None:
    """Places of means; how many methods are not shown below FAAL; no arm above its control after Holm's correction."""
    undecided = []
    for panel, faal, scratch in (("equal/at", 1, 0), ("equal/trades", 2, 0), ("own/at", 0, 3), ("own/trades", 0, 3)):
        arms = [row for row in tables()[panel] if not row[0].startswith("control")]
        names = [row[0] for row in arms]
        assert not faal or names.index("faal") == faal - 1
        assert not scratch or names.index("faal-scratch") == scratch - 1
        assert len(arms) == (15 if scratch else 14)
        undecided.append(sum("(-" in row[6] and "to +" in row[6] for row in arms))
        assert not faal or not any("(+" in row[6] for row in arms), "none is above FAAL"
    assert undecided[:2] == [5, 8]
    page = (FOLDER / "README.md").read_text()
    assert re.findall(r"own protocol, from (?:PGD-AT|TRADES)\*\*.*\(Holm\), above: (\w+);", page) == ["none", "none"]


def test_a_page_is_made_where_no_browser_is(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_browser(*_: object, **__: object) -> None:
        raise RuntimeError("Kaleido requires Google Chrome to be installed.")

    monkeypatch.setattr(go.Figure, "write_image", no_browser)
    monkeypatch.setattr(pictures, "find_spec", lambda _: object())
    pictures.draw(go.Figure(), tmp_path / "bars.png")
    assert "bars.png was not drawn: it needs Chromium or Chrome" in capsys.readouterr().out
    monkeypatch.setattr(pictures, "find_spec", lambda _: None)
    pictures.draw(go.Figure(), tmp_path / "bars.png")
    assert "it needs kaleido" in capsys.readouterr().out


def test_every_arm_of_cifar10_has_a_control_of_its_loss() -> None:
    stages = yaml.safe_load((ROOT / "reproduce" / "cifar10-leaderboard.yaml").read_text())["stages"]
    arms = {row["label"]: row for stage in ("tuned", "others") for row in stages[stage]["list"]}
    assert len(arms) >= 16
    for name, row in arms.items():
        control = cifar10_leaderboard.control_of(name)
        assert (control == "") == name.startswith("control")
        assert not control or arms[control]["fairness"] == "none"
        assert not control or arms[control].get("objective") == row.get("objective"), name
        assert cifar10_leaderboard.arm(f"others/at-{name}") == cifar10_leaderboard.arm(f"strong/tuned-at-{name}") == name
        assert cifar10_leaderboard.control_of(f"{name} + bias") == name
    assert stages["strong"]["parameters"]["filters"] == stages["base"]["parameters"]["filters"]
    assert stages["strong"]["parameters"]["epsilon"] == stages["base"]["parameters"]["epsilon"]


def test_an_arm_of_cifar10_is_held_against_control_and_faal() -> None:
    """Worst classes 20, 22, 24 against 10, 12, 11 and 20, 21, 22, so +10, +10, +13 and 0, +1, +2 points; the rest by Student."""

    def group(*worst: int) -> list:
        return [verdicts([k, 50, 60, 70], seed=seed) for seed, k in enumerate(worst)]

    arms = {"base": group(5, 5, 5), "control": group(10, 12, 11), "faal": group(20, 21, 22), "wat": group(20, 22, 24)}
    found = cifar10_leaderboard.table(arms, "pgd-20")
    assert [row[0] for row in found.rows] == ["wat", "faal", "control", "base"], "the most robust worst class first"
    row = dict(zip(found.head, found.rows[0], strict=True))
    half = [t.ppf(0.975, 2) * np.std(d, ddof=1) / 3**0.5 for d in ([10, 10, 13], [0, 1, 2])]
    assert row["worst class against its control: points (over seeds)"] == f"+11.0 ({11 - half[0]:+.1f} to {11 + half[0]:+.1f})"
    assert row["worst class against FAAL: points (over seeds)"] == f"+1.0 ({1 - half[1]:+.1f} to {1 + half[1]:+.1f})"
    p = {
        name: 2 * t.sf(np.mean(d) / np.std(d, ddof=1) * 3**0.5, 2)
        for name, d in {"wat": [10, 10, 13], "faal": [10, 9, 11]}.items()
    }
    assert row["worst class against its control: p, Holm"] == f"{max(p['wat'], 2 * min(p.values())):.3f}"
    assert row["worst three, %"].startswith(f"{(22 + 50 + 60) / 3:.1f} ")
    assert row["seeds"] == "3"
    assert found.notes == [
        "There is no winner. The highest mean is that of wat; corrected for 6 pairs (Holm) it cannot be told from faal."
    ]
    clear = cifar10_leaderboard.table({**arms, "wat": group(40, 42, 43)}, "pgd-20")
    assert clear.notes[0].startswith("The winner is wat: its worst class is above every other arm's, corrected for 6 pairs")
    later = cifar10_leaderboard.table({**arms, "dafa": group(30)}, "pgd-20")
    assert dict(zip(later.head, later.rows[0], strict=True))["worst class against FAAL: p, Holm"] == "-", (
        "one seed is not held against three"
    )
