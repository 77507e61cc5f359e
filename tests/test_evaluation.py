"""Attacks, verdicts and intervals."""

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw_images
from scipy.stats import binom

from faal_lab.cli import main
from faal_lab.data import Images, load
from faal_lab.evaluation import (
    DEFAULT_ATTACKS,
    PGD_ATTACKS,
    Verdicts,
    VerdictsError,
    average_accuracy,
    class_accuracy,
    evaluate,
    survivors,
    worst_accuracy,
)
from faal_lab.evaluation.autoattack import attacks_for, autoattack, autoattack_note
from faal_lab.events import Evaluated
from faal_lab.experiment import evaluate_run, load_model
from faal_lab.names import UnknownName
from faal_lab.report import read_runs, write_report
from faal_lab.runs import CheckpointError, RunFolder


def test_counts_agree_with_a_loop(base: Path) -> None:
    model, _, _ = load_model(base)
    test = load("digits", seed=0).test
    images, labels = test.all()
    verdicts = evaluate(model, test, tuple("0123456789"), epsilon=0.1, attacks=("clean", "pgd-20"))
    right = model(images).argmax(1) == labels
    assert np.array_equal(verdicts.survived["clean"], right.numpy())
    correct, total = verdicts.counts("clean")
    for c in range(10):
        assert correct[c] == int(right[labels == c].sum())
        assert total[c] == int((labels == c).sum())
    assert not (verdicts.survived["pgd-20"] & ~verdicts.survived["clean"]).any(), "who is wrong clean is not robust"


def test_no_verdict_depends_on_the_other_images(base: Path) -> None:
    model, _, _ = load_model(base)
    test = load("digits", seed=0).test
    whole = survivors(model, test, PGD_ATTACKS["cw-20"], 0.1, seed=0)
    part = Images(test.pixels[:37], test.labels[:37], test.pixel_max)
    assert torch.equal(survivors(model, part, PGD_ATTACKS["cw-20"], 0.1, seed=0), whole[:37])


def test_a_larger_radius_never_helps_much_and_a_huge_one_breaks_all(base: Path) -> None:
    model, _, _ = load_model(base)
    test = load("digits", seed=0).test
    rates = [survivors(model, test, PGD_ATTACKS["pgd-20"], e, seed=0).float().mean() for e in (0.0, 0.05, 0.15, 0.8)]
    assert rates[0] >= rates[1] >= rates[2] >= rates[3]
    assert rates[3] < 0.02


def test_evaluating_a_run_keeps_verdicts_and_says_that_the_test_was_opened(base: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(base, tmp_path / "run"))
    seen: list[float] = []
    verdicts = evaluate_run(copy, attacks=("clean", "pgd-20"), progress=lambda _, share: seen.append(share))
    back = Verdicts.read(RunFolder(copy).verdicts_file())
    assert np.array_equal(back.survived["pgd-20"], verdicts.survived["pgd-20"])
    assert back.header["split"] == "test"
    assert back.header["epsilon"] == 0.1
    assert len(back.header["model_sha256"]) == 64
    last = RunFolder(copy).events()[-1]
    assert isinstance(last, Evaluated)
    assert last.correct["clean"] == verdicts.counts("clean")[0].tolist()
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1)
    assert RunFolder(copy).status() == "done"


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_autoattack_with_few_classes(classes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, classes)).eval()
    images, labels = torch.rand(12, 1, 4, 4, generator=generator), torch.randint(0, classes, (12,), generator=generator)
    found = autoattack(model, images, labels, epsilon=0.05, seed=0, num_classes=classes, queries=20)
    assert list(found) == attacks_for(classes)
    assert ("apgd-t" in found) == (classes >= 4)


def test_what_is_said_of_autoattack_with_few_classes() -> None:
    two, three = autoattack_note(2), autoattack_note(3)
    assert two is not None
    assert three is not None
    assert "AutoAttack on 2 classes is APGD-CE, FAB-T (at the one other class) and Square; not APGD-T" in two
    assert "the difference of two probabilities" in two
    assert "AutoAttack on 3 classes is APGD-CE, FAB-T (at 2 other classes) and Square; not APGD-T" in three
    assert "probabilities" not in three
    assert [autoattack_note(c) for c in (4, 10)] == [None, None]
    for classes in (2, 3, 4):
        assert (autoattack_note(classes) is None) == ("apgd-t" in attacks_for(classes)), "said where it is left out"


def test_two_classes_are_trained_on_and_evaluated(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("faal_lab.evaluation.suite.autoattack", partial(autoattack, queries=200))
    root = draw_images(tmp_path / "pets", {"cat": 30, "dog": 30})
    words = ["--data", "folder", "--data-dir", str(root), "--out", str(tmp_path / "run"), "--epsilon", "0.02", "--quiet"]
    assert main(["run", *words, "--epochs", "10", "--attack-steps", "2", "--learning-rate", "0.02", "--fairness", "faal"]) == 0
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    note = autoattack_note(2)
    assert note in capsys.readouterr().out.splitlines()
    verdicts = Verdicts.read(RunFolder(tmp_path / "run").verdicts_file())
    assert list(verdicts.survived) == list(DEFAULT_ATTACKS)
    assert verdicts.header["note"] == note
    counts = [int(verdicts.counts(attack)[0].sum()) for attack in DEFAULT_ATTACKS]
    assert counts[0] == max(counts)
    assert counts[-1] > 0, "some stood until the last attack"
    page = write_report(read_runs([str(tmp_path / "run")]), tmp_path / "report.html").read_text()
    assert f"<p class='note'>{note}</p>" in page
    assert main(["evaluate", str(tmp_path / "run"), "--attacks", "clean,pgd-20"]) == 0
    assert "AutoAttack" not in capsys.readouterr().out


def test_verdict_files(tmp_path: Path) -> None:
    verdicts = Verdicts(np.array([0, 1, 1]), {"clean": np.array([0, 0, 1])}, ("a", "b"), {"epsilon": 0.1})
    file = tmp_path / "verdicts-last.npz"
    file.write_bytes(verdicts.to_bytes())
    back = Verdicts.read(file)
    assert back.header == {"epsilon": 0.1}
    assert [a.tolist() for a in back.counts("clean")] == [[1, 1], [1, 2]]
    file.write_bytes(verdicts.to_bytes()[:50])
    with pytest.raises(VerdictsError, match=r"is damaged.*Evaluate again"):
        Verdicts.read(file)
    with pytest.raises(VerdictsError, match="No verdicts at .* Make them first: faal-lab evaluate"):
        Verdicts.read(tmp_path / "none.npz")
    np.savez(file, header=np.array({"a": 1}, dtype=object))
    with pytest.raises(VerdictsError, match="is damaged"):
        Verdicts.read(file)


def test_unknown_attacks_and_missing_checkpoints(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"Unknown attack 'pgd20'\. Did you mean 'pgd-20'\? Known: clean, noise, fgsm, pgd-20"):
        evaluate_run(shutil.copytree(base, tmp_path / "run"), attacks=("pgd20",))
    RunFolder(tmp_path / "run").checkpoint().unlink()
    with pytest.raises(CheckpointError, match="No checkpoint at"):
        evaluate_run(tmp_path / "run", attacks=DEFAULT_ATTACKS)


def test_class_intervals_are_wilsons() -> None:
    (found, empty) = class_accuracy(np.array([337, 0]), np.array([1000, 0]))
    assert found is not None
    assert (100 * found.low, 100 * found.high) == pytest.approx((30.8, 36.7), abs=0.06)
    assert empty is None


def test_average_of_equal_classes_is_wilsons_interval_of_the_whole() -> None:
    found = average_accuracy(np.array([60, 60]), np.array([100, 100]))
    assert found.value == pytest.approx(0.6)
    assert (found.low, found.high) == pytest.approx((0.531, 0.666), abs=0.004)
    for edge in (np.array([0, 0]), np.array([100, 100])):
        low_high = average_accuracy(edge, np.array([100, 100]))
        assert 0 <= low_high.low <= low_high.value <= low_high.high <= 1
        assert low_high.high - low_high.low > 0.005


@pytest.mark.parametrize("truth", [[0.8] * 9 + [0.5], [0.5] * 10, [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99]])
def test_intervals_cover_the_truth(truth: list[float]) -> None:
    numbers = np.random.default_rng(0)
    total = np.full(10, 60)
    trials, worst, average = 400, 0, 0
    for _ in range(trials):
        correct = numbers.binomial(total, truth)
        low_high, which = worst_accuracy(correct, total)
        worst += low_high.low <= min(truth) <= low_high.high
        assert low_high.value == correct[which] / 60 == (correct / 60).min()
        mean = average_accuracy(correct, total)
        average += mean.low <= np.mean(truth) <= mean.high
    # a true coverage of 95 % falls below these counts once in a thousand times
    least = binom.ppf(0.001, trials, 0.95)
    assert worst >= least
    assert average >= least
