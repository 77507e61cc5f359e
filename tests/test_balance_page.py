"""The page of the balance says what its counts and verdicts say."""

import json
import re
from pathlib import Path

import balance_page
import balance_study
import numpy as np
import pytest
import yaml
from counted import counts
from scipy.stats import t

from faal_lab.evaluation.verdicts import Verdicts
from faal_lab.runs.config import Config

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "results" / "balance"
KEPT = ROOT / "results" / "cifar10-narrow"
TEXT = (FOLDER / "README.md").read_text(encoding="utf-8")
STAGES = yaml.safe_load((ROOT / "reproduce" / "digits-balance.yaml").read_text())["stages"]


def table(title: str) -> list[list[str]]:
    """The rows of the page's table of a title, as text."""
    part = TEXT.partition(f"## {title}\n")[2].partition("\n## ")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("|")][2:]


def numbers(text: str) -> list[float]:
    """The numbers of a cell."""
    return [float(number) for number in re.findall(r"[+-]?\d+\.\d", text)]


def test_both_arms_differ_in_the_balance_alone() -> None:
    rows = {row["label"]: row for row in STAGES["tuned"]["list"]}
    for name in [label for label in rows if not label.endswith("-balanced")]:
        biased = dict(rows[f"{name}-balanced"])
        assert biased.pop("balance") == "bias"
        assert biased | {"label": name} == rows[name]
        Config.from_mapping({k: v for k, v in rows[f"{name}-balanced"].items() if k != "label" and v is not None})
    assert STAGES["base-balanced"]["parameters"] == {"balance": "bias"}


@pytest.mark.parametrize("attack", balance_page.ATTACKS)
def test_the_digits_say_what_their_counts_say(attack: str) -> None:
    found = counts(FOLDER, attack)
    rows = table(f"Digits, {balance_page.ATTACK_TITLES[attack]}")
    assert [row[0] for row in rows] == list(balance_page.DIGITS)
    for name, average, worst, three, its_average, its_worst, _, more, more_worst in rows:
        plain, biased = found[name], found[f"{name}-balanced"]
        assert plain.shape == biased.shape == (5, 10)
        for said, shares in ((average, plain.mean(1)), (worst, plain.min(1)), (three, np.sort(plain, 1)[:, :3].mean(1)),
                             (its_average, biased.mean(1)), (its_worst, biased.min(1))):  # fmt: skip
            assert numbers(said)[0] == pytest.approx(shares.mean(), abs=0.0501)
        for said, gained in ((more, biased.mean(1) - plain.mean(1)), (more_worst, biased.min(1) - plain.min(1))):
            half = t.ppf(0.975, 4) * gained.std(ddof=1) / np.sqrt(5)
            assert numbers(said) == pytest.approx([gained.mean(), gained.mean() - half, gained.mean() + half], abs=0.0501)


@pytest.mark.parametrize("attack", balance_page.measured(FOLDER))
def test_cifar10_says_what_its_verdicts_say(attack: str) -> None:
    rows = table(f"CIFAR-10 (JPEG), {balance_page.ATTACK_TITLES[attack]}, 2,000 test images")
    assert [row[0] for row in rows] == [name.lower() for name in balance_page.CIFAR.values()]
    for row, name in zip(rows, balance_page.CIFAR, strict=True):
        right, total = Verdicts.read(FOLDER / f"{name}-balanced.npz").counts(attack)
        assert total.tolist() == [200] * 10
        assert numbers(row[4])[0] == pytest.approx(100 * (right / total).mean(), abs=0.0501)
        assert numbers(row[5])[0] == pytest.approx(100 * (right / total).min(), abs=0.0501)
        assert numbers(row[7])[0] == pytest.approx(numbers(row[4])[0] - numbers(row[1])[0], abs=0.11)
        assert numbers(row[8])[0] == pytest.approx(numbers(row[5])[0] - numbers(row[2])[0], abs=0.11)


def test_cifar10_without_a_bias_is_that_of_its_own_table() -> None:
    for row, name in zip(table("CIFAR-10 (JPEG), APGD-CE+T, 2,000 test images"), balance_page.CIFAR, strict=True):
        right, total = Verdicts.read(KEPT / f"{name}-apgd-ce+t.npz").counts("apgd-ce+t")
        assert numbers(row[1])[0] == pytest.approx(100 * (right / total).mean(), abs=0.0501)
        assert numbers(row[2])[0] == pytest.approx(100 * (right / total).min(), abs=0.0501)


def test_the_page_is_what_its_files_make() -> None:
    assert balance_page.page(FOLDER) == TEXT
    for question, (worst, _, _) in balance_page.digits_answers(FOLDER).items():
        assert worst in TEXT, question


def test_the_guide_says_what_the_page_says() -> None:
    said = " ".join((ROOT / "docs" / "balance.md").read_text(encoding="utf-8").split())
    answers = balance_page.digits_answers(FOLDER)
    for question in balance_page.QUESTIONS[1:3]:
        value, low, high = numbers(answers[question][0])
        assert f"{abs(value):.1f} points" in said
        assert f"{low:+.1f} to {high:+.1f})" in said
    assert f"{-numbers(answers[balance_page.QUESTIONS[1]][2])[0]:.1f} points less average" in said


def test_the_study_says_what_its_rows_say() -> None:
    rows = json.loads((FOLDER / "study.json").read_text())
    said = balance_page.study(FOLDER)
    assert said in TEXT
    for size in balance_study.SIZES:
        of = [min(row["judged"]) for row in rows if row.get("images a class") == size]
        assert len(of) == balance_study.DRAWS
        assert f"{size}: {100 * np.mean(of):.0f} %" in said
    for kind, title in balance_page.FITTED.items():
        for pull in balance_study.PULLS:
            of = [row for row in rows if row.get("fitted") == kind and row["pull"] == pull]
            assert len(of) == balance_study.DRAWS
            mean = 100 * np.mean([min(row["judged"]) for row in of])
            assert f"{title}, held by {pull:g}: {mean:.0f} %" in said
