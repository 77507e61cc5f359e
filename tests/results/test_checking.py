"""Demands on runs: intervals at the boundary, what cannot be trusted, the JUnit file and the exit code."""

import math
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from scipy.stats import beta

from faal_lab.__main__ import main
from faal_lab.errors import ConfigError
from faal_lab.evaluation.statistics import average_accuracy, worst_accuracy
from faal_lab.evaluation.verdicts import Verdicts, VerdictsError
from faal_lab.results.check import Case, Demands, against, cases, judged, met, write_junit
from faal_lab.runs import RunFolder

ABOUT: dict[str, Any] = {"epsilon": 0.1, "norm": "linf", "deterministic": True, "findings": [], "data_sha256": "x"}


def verdicts(*right: int, each: int = 100, attack: str = "pgd-20", first: int = 0, **header: Any) -> Verdicts:
    """Classes of `each` images, of which `right` survive, beginning with image `first` of its class."""
    labels = np.repeat(np.arange(len(right)), each)
    place = np.tile(np.arange(each), len(right))
    stands = (place >= first) & (place < first + np.repeat(right, each))
    predicted = np.where(stands, labels, (labels + 1) % len(right))
    names = tuple("abcdefghij"[: len(right)])
    return Verdicts(labels, {"clean": labels, attack: predicted}, names, ABOUT | header)


def outcomes(found: list[Case]) -> dict[str, str]:
    return {case.name.partition(": ")[2]: case.outcome for case in found}


def kept(folder: Path, found: Verdicts, base: Path) -> Path:
    folder.mkdir(parents=True)
    shutil.copy(base / "config.json", folder)
    RunFolder(folder).verdicts_file().write_bytes(found.to_bytes())
    return folder


@pytest.mark.parametrize("kind", ["worst", "average"])
def test_a_minimum_is_held_against_the_whole_interval(kind: str) -> None:
    found = verdicts(50, 90)
    estimate = worst_accuracy(*found.counts("pgd-20"))[0] if kind == "worst" else average_accuracy(*found.counts("pgd-20"))
    low, high = 100 * estimate.low, 100 * estimate.high

    def outcome(least: float, sure: bool = False) -> str:
        return cases(found, "pgd-20", Demands(**{kind: least}, sure=sure))[-1].outcome

    assert outcome(low) == outcome(low, sure=True) == outcome(0) == "passed"
    assert outcome(math.nextafter(low, 100)) == outcome(high) == "undecided"
    assert outcome(math.nextafter(low, 100), sure=True) == outcome(high, sure=True) == "failed"
    assert outcome(math.nextafter(high, 100)) == outcome(100) == "failed"


def test_a_failure_has_all_its_numbers() -> None:
    tail = (1 - 0.95**0.5) / 2
    low, high = 100 * beta.ppf(tail, 50, 51), 100 * beta.ppf(1 - tail, 51, 50)
    *_, worst, average = cases(verdicts(90, 50), "pgd-20", Demands(worst=70, average=60))
    assert worst == Case(
        "pgd-20: worst class at least 70 %", "failed",
        f"50.0 % [{low:.1f}, {high:.1f}], class b, 50 of its 100, of 200 images, pgd-20 at epsilon 0.1 (linf): "
        "the whole interval lies below",
    )  # fmt: skip
    assert (average.name, average.outcome) == ("pgd-20: average at least 60 %", "passed")
    assert average.text.startswith("70.0 % [")


@pytest.mark.parametrize(
    "header, name, text",
    [
        ({"findings": ["Gradients are masked (class a)."]}, "no sign of masked gradients", "Gradients are masked (class a)."),
        ({"findings": None}, "no sign of masked gradients", "nobody looked; evaluate again"),
        ({"deterministic": False}, "deterministic", "two passes over the same images gave other logits"),
    ],
)
def test_a_number_that_cannot_be_trusted_does_not_pass(header: dict, name: str, text: str) -> None:
    found = verdicts(90, 90, **header)
    assert met({"run": cases(verdicts(90, 90), "pgd-20", Demands(average=50))})
    strict = cases(found, "pgd-20", Demands(average=50))
    assert outcomes(strict)[name] == "failed"
    assert text in {case.text for case in strict}
    assert not met({"run": strict})
    lenient = cases(found, "pgd-20", Demands(average=50, accept_findings=True))
    assert outcomes(lenient)[name] == "accepted"
    assert met({"run": lenient})
    assert "no sign of masked gradients" not in outcomes(cases(found, "clean", Demands(average=50))), "no attack, none misled"


def test_what_was_selected_on_test_is_said_beside_every_number() -> None:
    chosen, plain = verdicts(90, 90, selected_on_test=True), verdicts(90, 90)
    found = [*cases(chosen, "clean", Demands(worst=1, average=1))[1:], *against(plain, chosen, "clean", "it")]
    assert len(found) == 4
    assert all(", selected on test: " in case.text for case in found)
    assert "selected" not in str(cases(plain, "clean", Demands(worst=1)) + against(plain, plain, "clean", "it"))


def test_a_loss_against_the_baseline_fails_and_a_gain_or_none_does_not() -> None:
    base = verdicts(80, 90)

    def found(*right: int) -> dict[str, str]:
        return outcomes(against(verdicts(*right), base, "pgd-20", "base"))

    assert found(60, 70) == {"worst class not below base's": "failed", "average not below base's": "failed"}
    assert found(80, 60) == {"worst class not below base's": "failed", "average not below base's": "failed"}
    assert found(60, 100)["average not below base's"] == "passed"
    assert found(60, 100)["worst class not below base's"] == "failed"
    assert set(found(79, 90).values()) == set(found(80, 90).values()) == set(found(95, 95).values()) == {"passed"}
    text = against(verdicts(60, 70), base, "pgd-20", "base")[1].text
    assert text.startswith("-20.0 points [-2")
    assert text.endswith("paired on 200 images: it is lower")
    with pytest.raises(VerdictsError, match="the baseline and this run differ in epsilon: 0.1 against 0.2"):
        against(verdicts(60, 70, epsilon=0.2), base, "pgd-20", "base")


@pytest.mark.parametrize(
    "given, text",
    [
        ({}, "Nothing is demanded. Name a --worst-min, an --average-min or a --baseline."),
        ({"worst": 0.4}, "0.4 reads as 0.4 %; for 40 % write 40."),
        ({"average": 0.999}, "0.999 reads as 0.999 %; for 99.9 % write 99.9."),
        ({"worst": 101}, "A minimum must be between 0 and 100, in percent, got 101."),
        ({"worst": -1}, "A minimum must be between 0 and 100, in percent, got -1."),
        ({"worst": math.nan}, "A minimum must be between 0 and 100, in percent, got nan."),
    ],
)
def test_demands_that_make_none(given: dict, text: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(ConfigError) as caught:
        Demands(**given)
    assert str(caught.value) == text
    words = [w for n, v in given.items() for w in (f"--{n}-min={v}",)]
    assert main(["check", "run", *words]) == 2
    assert capsys.readouterr().err == f"faal-lab: {text}\n"


@pytest.mark.parametrize("least", [0, 1, 100])
def test_zero_one_and_a_hundred_are_percent(least: float) -> None:
    assert Demands(worst=least).worst == least


def test_the_command_ends_by_its_answers_and_writes_junit(base: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    kept(Path("good"), verdicts(90, 90), base)
    kept(Path("bad"), verdicts(40, 90), base)
    assert main(["check", "good", "--worst-min", "70", "--average-min", "85"]) == 0
    assert capsys.readouterr().out.endswith("3 passed, 1 undecided: all demands are met.\n")
    assert main(["check", "good", "--worst-min", "70", "--average-min", "85", "--sure"]) == 1
    words = ["--worst-min", "70", "--average-min", "60", "--baseline", "good", "--junit", "made/for/it.xml"]
    assert main(["check", "good", "bad", "nowhere", *words]) == 1
    said = capsys.readouterr().out
    assert "  failed    pgd-20: worst class at least 70 %: 40.0 % [" in said
    assert "  error     verdicts: nowhere is not a run folder" in said
    suites = list(ET.parse("made/for/it.xml").getroot())
    assert [s.get("name") for s in suites] == ["good", "bad", "nowhere"]
    counts = [[int(s.get(n, "")) for n in ("tests", "failures", "errors", "skipped")] for s in suites]
    assert counts == [[6, 0, 0, 0], [6, 3, 0, 1], [1, 0, 1, 0]]
    failure = suites[1].find("testcase[@name='pgd-20: worst class at least 70 %']/failure")
    assert failure is not None
    assert "class a, 40 of its 100, of 200 images, pgd-20 at epsilon 0.1 (linf)" in failure.get("message", "")
    skipped = suites[1].find("testcase[@name='pgd-20: average at least 60 %']/skipped")
    assert skipped is not None
    assert skipped.get("message", "").startswith("undecided: 65.0 % [")
    assert not list(Path("made/for").glob(".*")), "written aside and renamed"


@pytest.mark.parametrize(
    "words, text",
    [
        (["run", "--attack", "pgd20"], "Unknown attack 'pgd20'. Did you mean 'pgd-20'?"),
        (["run", "--checkpoint", "best"], "Make them first: faal-lab evaluate run --checkpoint best"),
        (["run", "--baseline", "none"], "none is not a run folder"),
        (["run", "--baseline", "other"], "the baseline and this run were evaluated on different images"),
        (["damaged"], "is damaged"),
    ],
)
def test_what_is_missing_fails_and_stands_in_the_file(
    base: Path, tmp_path: Path, words: list[str], text: str, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    kept(Path("run"), verdicts(90, 90), base)
    kept(Path("other"), verdicts(90, 90, each=120), base)
    RunFolder(kept(Path("damaged"), verdicts(9), base)).verdicts_file().write_bytes(b"PK")
    assert main(["check", *words, "--average-min", "50", "--junit", "junit.xml"]) == 1
    assert text in capsys.readouterr().out
    (error,) = ET.parse("junit.xml").getroot().iter("error")
    assert text in error.get("message", "")
    Path("taken").touch()
    assert main(["check", "run", "--average-min", "50", "--junit", "taken/junit.xml"]) == 1
    assert "faal-lab: " in capsys.readouterr().err


def test_runs_of_the_same_name_are_told_apart_and_names_fit_in_xml(base: Path, tmp_path: Path) -> None:
    folders = [kept(tmp_path / place / "run\x01", verdicts(90, 90), base) for place in ("a", "b")]
    found = judged(folders, Demands(worst=50))
    assert list(found) == [str(folder) for folder in folders]
    write_junit(found, tmp_path / "junit.xml")
    assert [s.get("name") for s in ET.parse(tmp_path / "junit.xml").getroot()] == [
        str(f).replace("\x01", "\ufffd") for f in folders
    ]
