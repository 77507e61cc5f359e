"""Rows and sentences from verdicts, each against a number worked out by hand."""

from pathlib import Path

import numpy as np
import pytest
from made_up import ABOUT, parsed, verdicts

from faal_lab.__main__ import main
from faal_lab.evaluation.evaluate import evaluate_run
from faal_lab.evaluation.groups import read_runs, read_seeds
from faal_lab.evaluation.suite import describe
from faal_lab.evaluation.verdicts import Verdicts, VerdictsError
from faal_lab.methods.objectives import OBJECTIVES
from faal_lab.methods.predict import PGD_ATTACKS
from faal_lab.results.check import Demands, cases
from faal_lab.results.formats import result_table
from faal_lab.results.report import figures_of, write_report
from faal_lab.results.tables import (
    SPREAD_TITLES,
    averages_note,
    group_rows,
    labels_of,
    result_rows,
    seed_sentences,
    spread_rows,
    spread_table,
    text_table,
)
from faal_lab.runs import RunFolder, read_checkpoint
from faal_lab.runs.config import Config
from faal_lab.training.parameters import run_command
from faal_lab.training.restore import load_model
from faal_lab.training.run import run


def test_how_unequal_classes_are() -> None:
    first, second = spread_rows({"base": verdicts([80, 40]), "fair": verdicts([70, 60])})
    assert first["gap"] == pytest.approx(40)
    assert first["deviation"] == pytest.approx(20)
    assert first["normalised"] == pytest.approx(20 / 60)
    assert first["gini"] == pytest.approx(10 / 60), "mean absolute difference 20 of the four pairs, over twice the mean of 60"
    assert first["ratio"] == pytest.approx(40 / 60)
    assert first["tenth"] == pytest.approx(40)
    assert (first["boundary"], first["boundary_class"]) == (pytest.approx(60), "b")
    assert first["spectral"] == pytest.approx(0.6), "off the diagonal 0.2 and 0.6"
    assert first["rho"] is None
    assert second["rho"] == pytest.approx((60 - 40) / 40 - (60 - 65) / 60)
    assert first["corrected_low"] <= first["corrected"] <= first["corrected_high"]
    text = spread_table({"base": verdicts([80, 40]), "fair": verdicts([70, 60])})
    assert all(title in text for title in SPREAD_TITLES.values())
    assert "+0.58" in text.splitlines()[-1]


def test_a_class_without_images_and_a_base_at_zero() -> None:
    some = Verdicts(np.array([0, 0, 2]), {"pgd-20": np.array([0, 1, 0])}, ("a", "b", "c"), ABOUT)
    row, other = spread_rows({"x": some, "y": some})
    assert (row["gap"], row["boundary"], other["rho"]) == (pytest.approx(50), None, None)


def test_labels_stand_in_every_table() -> None:
    marked = verdicts([80, 40], selected_on_test=True, deterministic=False, findings=["Something is off."])
    labels = ["selected on test", "not deterministic", "masked gradients?"]
    assert labels_of(marked) == labels
    assert all(row["labels"] == labels for row in result_rows({"x": marked}))
    lines = text_table({"x": marked, "y": verdicts([80, 40])}).splitlines()
    assert sum("[selected on test]" in line for line in lines) == 2
    assert any(line.startswith("Selected on test: x.") for line in lines)


def test_seeds_together() -> None:
    base = [verdicts([80, 40]), verdicts([80, 50]), verdicts([80, 45])]
    fair = [verdicts([80, 60]), verdicts([80, 60]), verdicts([80, 60])]
    worst, average = seed_sentences({"base": base, "fair": fair})
    assert (
        worst == "fair against base, worst class: 15.0 points over 3 seeds (95 % t interval 2.6 to 27.4)."
    )  # 15 +- 4.303 * 5 / sqrt 3
    assert average == "fair against base, average: 7.5 points over 3 seeds (95 % t interval 1.3 to 13.7)."
    with pytest.raises(VerdictsError, match="base has 3 runs and fair 2; expected one for each seed"):
        seed_sentences({"base": base, "fair": fair[:2]})


def test_attacks_are_described_as_they_are() -> None:
    pytest.importorskip("pyautoattack")
    from pyautoattack import AutoAttack

    upstream = AutoAttack(lambda x: x, norm="Linf", eps=0.1, device="cpu")
    assert [upstream.apgd.n_iter, upstream.apgd_targeted.n_iter, upstream.fab.n_iter, upstream.square.n_queries] == [
        100,
        100,
        100,
        5000,
    ]
    three, ten = verdicts([1, 1, 1]), verdicts([1] * 10)
    assert "at each of 9 other classes; Square, 5,000 queries" in describe("autoattack", ten)
    assert "APGD on the targeted" not in describe("autoattack", three)
    assert "at each of 2 other classes" in describe("autoattack", three)
    assert describe("pgd-20", ten).startswith("20 steps of 0.25 epsilon up the cross-entropy, from a uniform point")
    assert describe("noise", ten).startswith("10 uniform draws")
    assert {describe(name, ten) for name in PGD_ATTACKS}.__len__() == len(PGD_ATTACKS)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_command_of_a_run_gives_its_settings(objective: str, tmp_path: Path) -> None:
    import shlex

    config = Config(objective=objective, epochs=3, download=True, data_dir="my images", tau=0.25)
    words = shlex.split(run_command(config, tmp_path))
    stated = parsed(words[1:])[1]["stated"]
    assert Config(**stated) == config
    assert len(stated) <= 5, "what is usual is not said"


def test_the_command_of_a_fine_tuning(base: Path, tmp_path: Path) -> None:
    inherited = RunFolder.open(base).config().to_mapping()
    config = Config(**{**inherited, "base": str(base), "epochs": 4, "batch_size": 50, "learning_rate": 0.01, "fairness": "faal"})
    assert run_command(config, tmp_path).split()[2:] == [f"--base={base}", "--fairness=faal", f"--out={tmp_path}"]
    gone = Config(base=str(tmp_path / "gone"), epochs=2)
    assert "--epochs=2" in run_command(gone, "out")


def test_selection_on_test_images_is_labelled_and_inherited(quick: Config, tmp_path: Path, capsys) -> None:
    settings = quick.to_mapping()
    chosen, tuned = tmp_path / "chosen", tmp_path / "tuned"
    list(run(Config(**{**settings, "validation": "test"}), chosen))
    validated = [e for e in RunFolder(chosen).events() if type(e).__name__ == "EpochDone"]
    assert sum(validated[-1].count) == 597, "the test images"
    list(run(Config(**{**settings, "base": str(chosen), "base_checkpoint": "best"}), tuned))
    for path in (chosen, tuned):
        assert evaluate_run(path, attacks=("clean",)).header["selected_on_test"]
    assert main(["compare", f"{chosen},{chosen}", f"{tuned},{tuned}"]) == 0
    assert "Selected on test: chosen 1, chosen 2, tuned 1, tuned 2." in capsys.readouterr().out
    page = write_report(read_runs([str(chosen), str(tuned)]), tmp_path / "page.html").read_text()
    assert "chosen [selected on test]" in page
    assert "tuned [selected on test]" in page


def test_verdicts_of_other_weights_are_refused(base: Path, quick: Config, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    import shutil

    mine, other = shutil.copytree(base, tmp_path / "mine"), tmp_path / "other"
    list(run(Config(**{**quick.to_mapping(), "seed": 1}), other))
    for path in (mine, other):
        evaluate_run(path, attacks=("clean",))
    assert load_model(mine)[2].header == read_checkpoint(mine / "last.safetensors").header
    shutil.copy(other / "verdicts-last.npz", mine)
    with pytest.raises(VerdictsError, match=r"was measured on other weights than last.safetensors holds.*Evaluate again"):
        read_runs([str(mine)])
    assert main(["report", str(mine)]) == 1
    assert "was measured on other weights" in capsys.readouterr().err
    assert main(["check", str(mine), "--average-min", "0"]) == 1, "a pipeline must not pass a run by another one's verdicts"
    assert "was measured on other weights" in capsys.readouterr().out
    assert main(["check", str(other), "--baseline", str(mine)]) == 1
    assert "against the baseline: " in capsys.readouterr().out


def test_commands_compare_and_report(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    import shutil

    paths = [str(shutil.copytree(base, tmp_path / name)) for name in ("a-0", "a-1", "b-0", "b-1")]
    for path in paths:
        evaluate_run(path, attacks=("clean", "pgd-20"))
    capsys.readouterr()
    assert main(["compare", f"a={paths[0]},{paths[1]}", f"b={paths[2]},{paths[3]}"]) == 0
    assert "b against a, worst class: 0.0 points over 2 seeds (95 % t interval 0.0 to 0.0)." in capsys.readouterr().out
    assert main(["compare", *paths[:2]]) == 0
    assert "worst class, selection allowed for" in capsys.readouterr().out
    assert main(["report", *paths[:2], "--out", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "from a uniform point of the ball" in page
    assert "faal-lab evaluate" in page
    assert main(["compare", ",".join(paths[:2]), paths[2]]) == 1
    assert "a-0 has 2 runs and b-0 1; expected one for each seed in both." in capsys.readouterr().err
    assert main(["compare", ",".join(paths[:2]), "b=,"]) == 1
    assert "'b=,' names no run folder; expected a group of seeds" in capsys.readouterr().err
    odd = shutil.copytree(paths[0], tmp_path / "b=0")
    assert list(read_seeds([f"{odd},{paths[1]}"])) == ["b=0"]
    names = {"a": paths[0], "a-flow": paths[1]}  # one name begins the other
    drawn = figures_of(read_runs([f"{name}={path}" for name, path in names.items()]))
    assert [len(drawn[f"What the attack does to {name}"]) for name in names] == [4, 4]
    with pytest.raises(VerdictsError, match="Two groups are named a-0"):
        read_seeds([paths[0], paths[0]])


def test_both_averages_are_named_where_they_differ() -> None:
    labels = np.repeat([0, 1, 2], [250, 20, 5])
    right = np.concatenate([np.arange(250) < 245, np.arange(20) < 10, np.arange(5) < 1])
    predicted = np.where(right, labels, (labels + 1) % 3)
    uneven = Verdicts(labels, {"pgd-20": predicted}, ("cat", "dog", "emu"), {**ABOUT})
    (row,) = result_rows({"mine": uneven})
    assert row["average"] == pytest.approx(100 * (245 / 250 + 10 / 20 + 1 / 5) / 3)
    assert row["overall"] == pytest.approx(100 * 256 / 275)
    (note,) = averages_note([row])
    assert "The average is the mean over classes" in note
    assert f"Over images: mine, PGD-20: 93.1 % ({row['overall_low']:.1f} to {row['overall_high']:.1f})." in note
    assert note in text_table({"mine": uneven})
    assert note in result_table(group_rows({"mine": [uneven]})).notes
    assert averages_note(result_rows({"even": verdicts([80, 40])})) == []
    (case,) = [case for case in cases(uneven, "pgd-20", Demands(average=50)) if "average" in case.name]
    assert "mean over classes, 93.1 % over images" in case.text
