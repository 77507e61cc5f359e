"""Long-tailed digits: the page is made of its counts, and says what they say."""

import csv
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import longtail_page
import numpy as np
import pytest
import yaml
from scipy.stats import t, ttest_1samp

from faal_lab.data.sets import load

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "results" / "digits-longtail"
STAGE = yaml.safe_load((ROOT / "reproduce" / "digits-longtail.yaml").read_text())["stages"]["scratch"]
ATTACKS = ("pgd-20", "cw-20", "clean")


class Counted:
    """The counts of a run, as its verdicts would give them."""

    def __init__(self, rows: dict[str, dict[str, tuple[int, int]]]) -> None:
        self.predicted = rows
        self.class_names = tuple(next(iter(rows.values())))

    def counts(self, attack: str) -> tuple[np.ndarray, np.ndarray]:
        stand, images = np.array(list(self.predicted[attack].values())).T
        return stand, images


@pytest.fixture(scope="module")
def seeds() -> Any:
    """Run -> its seeds, from the file of counts alone."""
    found: Any = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
    with (FOLDER / "counts.csv").open() as file:
        for row in csv.DictReader(file):
            found[row["run"]][int(row["seed"])][row["attack"]][row["class"]] = int(row["stand"]), int(row["images"])
    return {run: [Counted(own[seed]) for seed in sorted(own)] for run, own in found.items()}


@pytest.fixture(scope="module")
def text() -> str:
    return (FOLDER / "README.md").read_text(encoding="utf-8")


def sizes() -> list[int]:
    labels = load("digits", seed=0, imbalance=STAGE["parameters"]["imbalance"]).train.labels
    return labels.bincount(minlength=10).tolist()


def test_the_counts_make_the_page_again(seeds: Any, text: str) -> None:
    made = re.findall(r"faal-lab \d\S* at commit [0-9a-f]{12}, torch [\d.]+\d", " ".join(text.split()))
    assert len(made) == 1, "one version made all runs"
    again = longtail_page.page(seeds, sizes(), STAGE["parameters"]["epochs"], made[0])
    assert again.split() == text.split()
    assert {f"scratch/{row['label']}" for row in STAGE["list"]} == set(seeds)
    assert {len(group) for group in seeds.values()} == {len(STAGE["grid"]["seed"])} == {5}


def accuracies(seeds: Any, run: str, attack: str) -> np.ndarray:
    """[seeds, classes] in percent."""
    return np.array([[100 * stand / images for stand, images in own.predicted[attack].values()] for own in seeds[run]])


MEASURED = {"average": lambda a: a.mean(1), "worst class": lambda a: a.min(1), "rarest three": lambda a: a[:, 7:].mean(1)}


@pytest.mark.parametrize("attack", ATTACKS)
def test_differences_and_intervals_are_those_of_the_counts(seeds: Any, text: str, attack: str) -> None:
    table = text.partition(f"## {longtail_page.ATTACK_TITLES[attack]}\n")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")][2:]
    assert [f"scratch/{row[0]}" for row in rows] == list(seeds)
    control = accuracies(seeds, "scratch/at", attack)
    for name, *cells in rows:
        own = accuracies(seeds, f"scratch/{name}", attack)
        for place, of in enumerate(MEASURED.values()):
            assert cells[place].startswith(f"{of(own).mean():.1f} (")
            gained = of(own) - of(control)
            half = t.ppf(0.975, 4) * gained.std(ddof=1) / np.sqrt(5)
            shown = [float(number) for number in re.findall(r"[+-]\d+\.\d", cells[3 + place])]
            expected = [gained.mean(), gained.mean() - half, gained.mean() + half]
            assert shown == (pytest.approx(expected, abs=0.0501) if name != "at" else [])


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("measure", MEASURED)
def test_an_arm_is_above_or_below_by_holms_steps(seeds: Any, text: str, attack: str, measure: str) -> None:
    """The smallest p times their number, the next times one less; after the first that is not under 5 %, none counts."""
    of = MEASURED[measure]
    control = of(accuracies(seeds, "scratch/at", attack))
    gained = {run: of(accuracies(seeds, run, attack)) - control for run in seeds if run != "scratch/at"}
    p = {run: float(ttest_1samp(values, 0).pvalue) if values.any() else 1.0 for run, values in gained.items()}
    sure: dict[str, set[str]] = {"above": set(), "below": set()}
    for place, run in enumerate(sorted(p, key=lambda name: p[name])):
        if p[run] * (len(p) - place) >= 0.05:
            break
        sure["above" if gained[run].mean() > 0 else "below"].add(run.rpartition("/")[2])
    where = "On clean images" if attack == "clean" else f"Under {longtail_page.ATTACK_TITLES[attack]}"
    (line,) = re.findall(rf"- {where}, {measure}: above (.*); below (.*)\.\n", text)
    said = {side: set(re.findall(r"([\w-]+) \([+-]", names)) for side, names in zip(sure, line, strict=True)}
    assert said == sure


def test_the_picture_has_a_panel_for_each_arm_with_the_control_in_it(seeds: Any) -> None:
    figure: Any = longtail_page.picture(seeds, sizes(), "pgd-20")
    assert len(figure.data) == 2 * (len(seeds) - 1)
    assert [a.text for a in figure.layout.annotations] == [run.rpartition("/")[2] for run in seeds if run != "scratch/at"]
    assert [label.rpartition("(")[2] for label in figure.data[0].x] == [f"{n})" for n in sorted(sizes(), reverse=True)]
    for control, arm, run in zip(figure.data[::2], figure.data[1::2], [run for run in seeds if run != "scratch/at"], strict=True):
        assert list(control.y) == pytest.approx(accuracies(seeds, "scratch/at", "pgd-20").mean(0).tolist())
        assert list(arm.y) == pytest.approx(accuracies(seeds, run, "pgd-20").mean(0).tolist())
