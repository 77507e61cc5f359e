"""Attacks, verdicts and intervals."""

import shutil
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw_images
from scipy.stats import binom, binomtest

from faal_lab.__main__ import main
from faal_lab.catalogue import DEFAULT_ATTACKS
from faal_lab.data.images import Images
from faal_lab.data.sets import load
from faal_lab.errors import RunFolderError, UnknownName
from faal_lab.evaluation.autoattack import attacks_for, autoattack, autoattack_note
from faal_lab.evaluation.evaluate import evaluate_run
from faal_lab.evaluation.groups import read_runs
from faal_lab.evaluation.statistics import average_accuracy, class_accuracy, worst_accuracy
from faal_lab.evaluation.suite import Manner, describe, evaluate
from faal_lab.evaluation.verdicts import Verdicts, VerdictsError
from faal_lab.methods.predict import PGD_ATTACKS, EvaluationError, survivors
from faal_lab.models.examine import ModelProblem
from faal_lab.results.report import write_report
from faal_lab.results.tables import text_table
from faal_lab.runs import CheckpointError, RunFolder
from faal_lab.runs.config import Config
from faal_lab.runs.events import Evaluated
from faal_lab.training.restore import load_model
from faal_lab.training.run import run


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
    assert autoattack_note(4) == "AutoAttack on 4 classes: APGD-T and FAB-T aim at the 3 others, not at nine."
    assert autoattack_note(10) is None
    for classes in (2, 3, 4):
        assert ("not APGD-T" in str(autoattack_note(classes))) == ("apgd-t" not in attacks_for(classes)), (
            "said where it is left out"
        )


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
    assert f'<p class="note">{note}</p>' in page
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
    whole = verdicts.to_bytes()
    for place in range(30, len(whole), 17):  # one byte flipped anywhere: the old file, damage that is said, never another error
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        with suppress(VerdictsError):
            assert Verdicts.read(file).predicted["clean"].tolist() == [0, 0, 1]
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


def test_average_of_equal_classes_has_the_exact_interval_of_the_whole() -> None:
    found = average_accuracy(np.array([60, 60]), np.array([100, 100]))
    assert found.value == pytest.approx(0.6)
    assert (found.low, found.high) == pytest.approx(binomtest(120, 200).proportion_ci(0.95, "exact"), abs=0.002)
    assert average_accuracy(np.zeros(10, int), np.full(10, 20)).high == pytest.approx(1 - 0.025 ** (1 / 200), abs=1e-3), "of 200"
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


class Head(torch.nn.Module):
    """A linear model whose logits are changed on the way out."""

    def __init__(self, change=lambda logits: logits) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.linear = torch.nn.Linear(16, 3)
        self.change = change

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.change(self.linear(images.flatten(1)))


def few_images(labels: list[int] | None = None) -> Images:
    pixels = torch.randint(0, 256, (12, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.int64)
    return Images(pixels.to(torch.uint8), torch.tensor(labels or [0, 1, 2] * 4), 255)


@pytest.mark.parametrize(
    "change, images, options, text",
    [
        (
            None,
            None,
            {"epsilon": 0.0},
            "epsilon must be above 0 to attack, got 0.0. For clean accuracy alone name the attack clean",
        ),
        ("train", None, {}, "The model is in training mode, where BatchNorm and dropout depend on the batch. Call model.eval"),
        (lambda z: z[:, :2], None, {}, r"The model must return logits \[12, 3\] here, got \[12, 2\]"),
        (lambda z: z / 0 * 0, None, {}, "The model returns logits that are not finite"),
        (None, None, {"epsilon": float("nan")}, "epsilon must be above 0 to attack, got nan"),
        (lambda z: (z, z), None, {}, r"The model must return logits \[12, 3\] here, got tuple"),
        (lambda z: z.detach(), None, {}, "The logits have no gradient by the pixels, and attacks need one"),
        ("double", None, {}, r"The model's weights are float64, expected float32. Call model.float\(\) first."),
        (None, few_images([0, 1, 3] * 4), {}, "Labels must be between 0 and 2, got 0 to 3"),
        (None, replace(few_images(), pixel_max=16), {}, r"Pixels must be in \[0, 1\] after division by 16, got up to"),
        (None, None, {"norm": "l1"}, "Unknown norm 'l1'.* Known: linf, l2"),
        (None, None, {"attacks": ("apgd-t",)}, "apgd-t compares four logits, and there are 3 classes"),
        (None, None, {"attacks": ("apgd-ce+t",)}, r"apgd-ce\+t compares four logits, and there are 3 classes"),
    ],
)
def test_what_cannot_be_evaluated(change, images: Images | None, options: dict, text: str) -> None:
    model = Head(change if callable(change) else lambda logits: logits)
    model.train(change == "train").to(torch.float64 if change == "double" else torch.float32)
    with pytest.raises(ValueError, match=text):
        evaluate(model, images or few_images(), ("a", "b", "c"), **({"epsilon": 0.1, "attacks": ("pgd-20",)} | options))


@pytest.mark.parametrize("attacks", [("noise",), ("pgd-20",), ("autoattack",)])
def test_logits_that_are_not_finite_on_attacked_images_alone(attacks: tuple[str, ...]) -> None:
    class OffTheGrid(Head):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            off = (255 * images - (255 * images).round()).abs().amax((1, 2, 3)) > 1e-3
            return torch.where(off[:, None], torch.nan, super().forward(images))

    model, images = OffTheGrid().eval(), few_images()
    assert evaluate(model, images, ("a", "b", "c"), epsilon=0.1, attacks=("clean",)).header["deterministic"]
    with pytest.raises(EvaluationError, match=r"not finite .NaN or infinite., if not on these images then on attacked ones"):
        evaluate(model, images, ("a", "b", "c"), epsilon=0.1, attacks=attacks, manner=Manner(queries=20))


def test_a_logit_that_is_not_finite_on_a_late_image() -> None:
    class Brittle(Head):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images) / images.amax((1, 2, 3))[:, None]

    pixels = torch.full((100, 1, 4, 4), 7, dtype=torch.uint8)
    pixels[90] = 0
    with pytest.raises(EvaluationError, match="logits that are not finite"):
        evaluate(Brittle().eval(), Images(pixels, torch.arange(100) % 3), ("a", "b", "c"), epsilon=0.1, attacks=("clean",))


def test_a_model_that_is_not_deterministic_is_flagged_in_every_table() -> None:
    settings = {"epsilon": 0.05, "attacks": ("clean", "fgsm")}
    shaky = evaluate(Head(lambda z: z + 0.01 * torch.randn_like(z)).eval(), few_images(), ("a", "b", "c"), **settings)
    calm = evaluate(Head().eval(), few_images(), ("a", "b", "c"), **settings)
    assert (shaky.header["deterministic"], calm.header["deterministic"]) == (False, True)
    assert "Not deterministic: shaky. Two passes" in text_table({"calm": calm, "shaky": shaky})
    assert "Not deterministic" not in text_table({"calm": calm})


def test_apgd_in_turn_is_how_autoattack_begins() -> None:
    """Both losses of APGD, the second on what the first left: the first two of AutoAttack's four."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 30), torch.nn.ReLU(), torch.nn.Linear(30, 5)).eval()
    for parameter in model[3].parameters():
        parameter.data *= 1000  # cross-entropy is flat where the logits are that far apart; the other loss is not
    images = Images(torch.randint(0, 256, (40, 1, 4, 4), dtype=torch.uint8), torch.zeros(40, dtype=torch.int64))
    pixels, _ = images.all()
    images = replace(images, labels=model(pixels).argmax(1))
    found = evaluate(model, images, tuple("abcde"), epsilon=0.1, attacks=("apgd-ce", "apgd-ce+t"))
    in_turn = autoattack(model, pixels, images.labels, epsilon=0.1, seed=0, num_classes=5, attacks=("apgd-ce", "apgd-t"))
    assert found.predicted["apgd-ce+t"].tolist() == in_turn["apgd-t"].tolist()
    first, both = (int(found.survived[attack].sum()) for attack in ("apgd-ce", "apgd-ce+t"))
    assert 0 < both < first
    said = "in turn on those left: APGD on cross-entropy, 100 iterations; APGD on the targeted DLR loss, 100 iterations at each of 4 "
    assert describe("apgd-ce+t", found).startswith(said)


def test_single_attacks_noise_and_fgsm() -> None:
    model, images = Head().eval(), few_images()
    pixels, _ = images.all()
    labels = torch.where(torch.arange(12) < 9, model(pixels).argmax(1), images.labels)
    images = replace(images, labels=labels)
    attacks = ("clean", "noise", "fgsm", "pgd-20", "pgd-100", "apgd-ce", "square")
    found = evaluate(model, images, ("a", "b", "c"), epsilon=0.1, attacks=attacks, manner=Manner(queries=200))
    stand = {name: int(flags.sum()) for name, flags in found.survived.items()}
    assert stand["clean"] >= stand["noise"] >= stand["pgd-20"] >= stand["pgd-100"]
    assert stand["clean"] > stand["apgd-ce"]
    pixels.requires_grad_()
    (slope,) = torch.autograd.grad(torch.nn.functional.cross_entropy(model(pixels), labels), pixels)
    up = (pixels + 0.1 * slope.sign()).clamp(0, 1)
    by_hand = torch.where(model(pixels).argmax(1) == labels, model(up).argmax(1), model(pixels).argmax(1))
    assert found.predicted["fgsm"].tolist() == by_hand.tolist()


def test_verdicts_of_another_model_data_set_or_radius_are_told_apart() -> None:
    model, images = Head().eval(), few_images()

    def measured(these: Images = images, epsilon: float = 0.05) -> Verdicts:
        return evaluate(model, these, ("a", "b", "c"), epsilon=epsilon, attacks=("clean",))

    first = measured()
    with pytest.raises(VerdictsError, match="A and B differ in epsilon: 0.05 against 0.1. Evaluate them alike"):
        first.check_same(measured(epsilon=0.1), "A and B")
    with pytest.raises(VerdictsError, match="A and B differ in data_sha256"):
        first.check_same(measured(replace(images, pixels=images.pixels // 2)), "A and B")
    with pytest.raises(VerdictsError, match="A and B were evaluated on different images"):
        first.check_same(measured(few_images([0] * 12)), "A and B")
    with torch.no_grad():
        model.linear.weight += 1
    assert measured().header["model_sha256"] != first.header["model_sha256"]


def test_compare_says_it_in_a_sentence(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    runs = [Path(shutil.copytree(base, tmp_path / name)) for name in ("a", "b")]
    assert main(["evaluate", *map(str, runs), "--attacks", "clean,noise"]) == 0
    assert "a and b do not differ: they have the same verdict on every image." in capsys.readouterr().out
    assert main(["compare", *map(str, runs), "--attack", "clean"]) == 0
    assert capsys.readouterr().out.startswith("a and b do not differ: they have the same verdict on every image.\n")
    page = write_report(read_runs([str(r) for r in runs]), tmp_path / "report.html").read_text()
    assert "Paired on the same images, class by class, under Noise" in page
    assert "597 images" in page
    assert main(["compare", *map(str, runs), "--attack", "pgd20"]) == 1
    assert "Unknown attack 'pgd20'." in capsys.readouterr().err
    evaluate_run(runs[1], attacks=("clean", "noise"), epsilon=0.2)
    assert main(["compare", *map(str, runs)]) == 1
    assert "a and b differ in epsilon: 0.1 against 0.2. Evaluate them alike." in capsys.readouterr().err


def test_two_processes_do_not_make_one_part(base: Path, capsys: pytest.CaptureFixture) -> None:
    from filelock import FileLock

    with FileLock(str(base / ".part-2-of-2.lock")):
        assert main(["evaluate", str(base), "--attacks", "clean", "--part", "2/2"]) != 0
    assert f"Another process makes part 2 of 2 of {base}. Give this one another part." in capsys.readouterr().err
    (base / ".part-2-of-2.lock").unlink(missing_ok=True)


@pytest.mark.parametrize("text", ["2", "0/2", "3/2", "a/b", "1/0"])
def test_a_part_that_is_none(base: Path, text: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["evaluate", str(base), "--part", text]) == 1
    assert f"part must be like 2/3, the second of three, got '{text}'." in capsys.readouterr().err


def test_verdicts_of_other_attacks_measured_alike_are_kept(base: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(base, tmp_path / "run"))
    evaluate_run(copy, attacks=("clean", "fgsm"))
    evaluate_run(copy, attacks=("noise",))
    kept = Verdicts.read(RunFolder(copy).verdicts_file())
    assert set(kept.predicted) == {"clean", "fgsm", "noise"}
    for name in ("earlier-1-verdicts-last.npz", "earlier-2-verdicts-last.npz"):
        before = RunFolder(copy).verdicts_file().read_bytes()
        found = evaluate_run(copy, attacks=("clean",), epsilon=0.2 if "1" in name else 0.3)
        file = RunFolder(copy).verdicts_file()
        assert set(Verdicts.read(file).predicted) == {"clean"}, "another radius is another measurement"
        assert "note" not in Verdicts.read(file).header
        assert found.header["note"] == f"Earlier verdicts, measured otherwise, are kept as {name}."
        assert (copy / name).read_bytes() == before


def test_some_classes_alone(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    copy = Path(shutil.copytree(base, tmp_path / "run"))
    whole = evaluate_run(copy, attacks=("clean", "pgd-20"))
    before = RunFolder(copy).verdicts_file().read_bytes()
    assert main(["evaluate", str(copy), "--attacks", "clean,pgd-20", "--classes", "8, 3"]) == 0
    assert "Of 3, 8 alone: average, worst class and gap are theirs." in " ".join(capsys.readouterr().out.split())
    some, kept = np.isin(whole.labels, [3, 8]), Verdicts.read(RunFolder(copy).verdicts_file("last", ["3", "8"]))
    assert np.array_equal(kept.labels, whole.labels[some])
    assert np.array_equal(kept.predicted["clean"], whole.predicted["clean"][some])
    assert set(kept.predicted) == {"clean", "pgd-20"}
    assert RunFolder(copy).verdicts_file().read_bytes() == before, "and do not take the place of all"
    assert main(["evaluate", str(copy), "--classes", "3,eight"]) == 1
    assert "Unknown class 'eight'. Known: 0, 1, " in capsys.readouterr().err


def test_attacks_evaluated_one_by_one_are_held_against_each_other(base: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(base, tmp_path / "run"))
    evaluate_run(copy, attacks=("pgd-20",))
    file = RunFolder(copy).verdicts_file()
    kept = Verdicts.read(file)
    file.write_bytes(replace(kept, predicted={"pgd-20": kept.labels}).to_bytes())  # as if it had broken nothing
    found = evaluate_run(copy, attacks=("noise",))
    said = "Random noise breaks images that PGD-20 leaves"
    for header in (found.header, Verdicts.read(file).header):
        assert [text.startswith(said) for text in header["findings"]].count(True) == 1
    evaluate_run(copy, attacks=("fgsm",))
    assert any(text.startswith(said) for text in Verdicts.read(file).header["findings"]), "looking again hides nothing"


def test_verdicts_of_an_older_format_say_so(tmp_path: Path) -> None:
    file = tmp_path / "verdicts-best.npz"
    header = np.array('{"class_names": ["a", "b"]}')
    np.savez(file, header=header, labels=np.array([0, 1]), **{"survived/clean": np.array([True, False])})
    with pytest.raises(
        VerdictsError, match=r"holds no predictions; an older faal-lab made it. Evaluate again: .* --checkpoint best"
    ):
        Verdicts.read(file)


@pytest.mark.parametrize(
    "words, text",
    [
        (["--epsilon", "nan"], "epsilon must be a number, got nan"),
        (["--epsilon", "2", "--attacks", "square"], "epsilon must be between 0 and 1 for norm=linf, got 2.0"),
        (["--epsilon", "0", "--attacks", "clean,pgd-20"], "epsilon must be above 0 to attack, got 0.0"),
    ],
)
def test_a_radius_that_is_none(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture, words: list[str], text: str) -> None:
    copy = shutil.copytree(base, tmp_path / "run")
    assert main(["evaluate", str(copy), *words]) == 1
    assert text in capsys.readouterr().err
    assert not RunFolder(Path(copy)).verdicts_file().exists()


def test_a_run_of_ones_own_network_is_evaluated_with_it(quick: Config, tmp_path: Path) -> None:
    def network() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))

    trained = network()
    list(run(quick, tmp_path / "own", model=trained))
    found = evaluate_run(tmp_path / "own", attacks=("clean", "fgsm"), model=network())
    pixels, _ = load("digits", seed=0).test.all()
    assert found.predicted["clean"].tolist() == trained(pixels).argmax(1).tolist()
    with pytest.raises(RunFolderError, match=r"a network of its own \(Sequential\). In Python hand one over .model=...."):
        evaluate_run(tmp_path / "own", attacks=("clean",))
    with pytest.raises(CheckpointError, match="do not fit the network Sequential"):
        evaluate_run(tmp_path / "own", attacks=("clean",), model=torch.nn.Sequential(torch.nn.Linear(64, 10)))
    for bad in (torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 7)), torch.nn.Linear(3, 2)):
        with pytest.raises(ModelProblem, match=r"must give logits \[2, 10\]|does not take images of 1x8x8"):
            list(run(quick, tmp_path / "bad", model=bad))
    assert not (tmp_path / "bad").exists()
