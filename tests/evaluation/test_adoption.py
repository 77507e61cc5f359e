"""Any model becomes a run folder without training, and is then evaluated, compared and fine-tuned like one."""

import shutil
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import draw_images
from torch import nn

from faal_lab.__main__ import main
from faal_lab.data.images import DataProblem, stratified
from faal_lab.data.sets import load
from faal_lab.errors import ConfigError, RunFolderError
from faal_lab.evaluation.adopt import adopt, run_folders
from faal_lab.evaluation.evaluate import evaluate_run
from faal_lab.evaluation.groups import read_runs
from faal_lab.evaluation.verdicts import Verdicts
from faal_lab.models.normalize import NormalizationWarning
from faal_lab.results.report import write_report
from faal_lab.runs import CheckpointError, RunFolder
from faal_lab.runs.config import Config
from faal_lab.runs.events import Evaluated, RunFinished, RunStarted
from faal_lab.training.restore import load_model
from faal_lab.training.run import run

pytestmark = pytest.mark.filterwarnings(
    "ignore::faal_lab.models.normalize.NormalizationWarning"
)  # nothing here was trained for long
DIGITS = ["--data", "digits", "--epsilon", "0.1", "--attacks", "clean,fgsm"]


@pytest.fixture
def theirs(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The weights of `base` as somebody else would publish them; the working directory is another one."""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    torch.save({"state_dict": load_model(base)[0].state_dict()}, tmp_path / "theirs" / "weights.pth")
    return tmp_path / "theirs" / "weights.pth"


def test_a_foreign_file_is_evaluated_as_the_run_it_was_taken_from(theirs: Path, base: Path, capsys) -> None:
    lies_there = sorted(theirs.parent.iterdir())
    assert main(["evaluate", str(theirs), "--model", "small-cnn", *DIGITS]) == 0
    said = capsys.readouterr().out
    assert f"{theirs} is the run folder runs/weights from now on: evaluate, compare or fine-tune that." in said
    assert "theirs/weights.pth was trained elsewhere: the training settings of its run folder are not its own." in said
    assert (
        "digits has no test images of its own: the ones here are cut out by split_seed=0, and theirs/weights.pth may have learned"
        in said
    )
    folder = RunFolder.open("runs/weights")
    started, finished, evaluated = folder.events()
    assert isinstance(started, RunStarted)
    assert (started.epochs, finished, folder.status()) == (0, RunFinished(0, "done"), "done")
    assert isinstance(evaluated, Evaluated)
    original = evaluate_run(shutil.copytree(base, "original"), attacks=("clean", "fgsm"), epsilon=0.1)
    kept = Verdicts.read(folder.verdicts_file())
    assert {n: p.tolist() for n, p in kept.predicted.items()} == {n: p.tolist() for n, p in original.predicted.items()}
    assert kept.header["model_sha256"] == original.header["model_sha256"]
    assert sorted(theirs.parent.iterdir()) == lies_there, "nothing is written where a foreign file lies"
    capsys.readouterr()
    assert main(["evaluate", "runs/weights/last.safetensors", "--attacks", "clean"]) == 0
    assert "weights/last.safetensors may have learned from them" in capsys.readouterr().out, "a copy knows no more"


def test_two_files_of_the_same_name_get_a_folder_each(theirs: Path, tmp_path: Path) -> None:
    (tmp_path / "others").mkdir()
    words = [str(theirs), shutil.copy(theirs, tmp_path / "others"), str(theirs)]
    said: list[str] = []
    found = run_folders(words, {"data": "digits", "model": "small-cnn"}, attacks=["clean"], say=said.append)
    assert found == [Path("runs/weights"), Path("runs/weights-2")]
    assert len(said) == 2


def test_an_adopted_folder_is_compared_reported_and_fine_tuned_but_not_resumed(theirs: Path, base: Path, capsys) -> None:
    mine = shutil.copytree(base, "mine")
    assert main(["evaluate", "mine", str(theirs), "--model", "small-cnn", *DIGITS, "--images", "100"]) == 0
    assert "mine and weights do not differ: they have the same verdict on every image." in capsys.readouterr().out
    assert main(["compare", str(mine), "runs/weights"]) == 0
    page = write_report(read_runs(["mine", "runs/weights"]), "report.html").read_text()
    assert "On 100 of the 597 test images, 10 of each class, the same for every model." in page
    quick = ["--epochs", "1", "--batch-size", "500", "--attack-steps", "1", "--validation-steps", "1", "--quiet"]
    assert main(["run", "--base", "runs/weights", *quick, "--out", "tuned"]) == 0
    assert RunFolder("tuned").config().data == "digits"
    capsys.readouterr()
    assert main(["run", "--resume", "runs/weights"]) == 1
    assert "was trained elsewhere: there is nothing to go on with. Fine-tune it: faal-lab run --base" in capsys.readouterr().err


def test_our_own_file_of_a_long_tail_has_unseen_test_images(theirs: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["--imbalance", "10", "--epochs", "1", "--filters", "4", "--attack-steps", "1", "--validation-steps", "1"]
    assert main(["run", *words, "--out", "runs/tail"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "runs/tail/last.safetensors", "--attacks", "clean"]) == 0
    assert "may have learned" not in capsys.readouterr().out, "thinning out takes no test image"


@pytest.mark.parametrize("outside", [False, True])
def test_our_own_file_knows_its_images_and_network(theirs: Path, base: Path, outside: bool, capsys) -> None:
    folder = Path(shutil.copytree(base, "mine"))
    file = folder / "last.safetensors"
    if outside:
        file = file.rename("copied.safetensors")
        assert main(["evaluate", str(file), "--attacks", "fgsm"]) == 1
        assert "Name the radius to attack copied.safetensors at by --epsilon" in capsys.readouterr().err
    before = sorted(folder.iterdir())
    words = ["--epsilon", "0.1"] if outside else []
    assert main(["evaluate", str(file), "--attacks", "clean,fgsm", *words]) == 0
    assert "may have learned" not in capsys.readouterr().out, "its split is the one it was trained on"
    assert sorted(folder.iterdir()) == before
    config = RunFolder("runs/copied" if outside else "runs/mine-last").config()
    assert (config.data, config.model, config.epsilon, config.base) == ("digits", "small-cnn", 0.1, str(file))
    assert main(["evaluate", str(file), "--split-seed", "5", *DIGITS]) == 1
    assert "the model would be tested on images its base was trained on" in capsys.readouterr().err


def test_out_is_used_again_for_the_same_weights_alone(theirs: Path, base: Path, tmp_path: Path) -> None:
    config = Config(data="digits", epsilon=0.1, base=str(theirs))
    folder = adopt(config, "one")
    written = folder.metrics_file.read_bytes()
    assert adopt(replace(config, epsilon=0.2, tau=0.1), "one").metrics_file.read_bytes() == written
    with pytest.raises(RunFolderError, match=r"one already holds another model: norm is 'linf' there, 'l2' here\. Name another"):
        adopt(replace(config, norm="l2"), "one")
    weights = torch.load(theirs)["state_dict"]
    torch.save({n: t * 1.5 for n, t in weights.items()}, tmp_path / "other.pth")
    with pytest.raises(RunFolderError, match=r"one already holds another model: its weights are not those of \S+/other\.pth\."):
        adopt(replace(config, base=str(tmp_path / "other.pth")), "one")
    with pytest.raises(
        RunFolderError, match="already holds a run that was trained there. Name another folder for theirs/weights.pth"
    ):
        adopt(config, base)
    with pytest.raises(
        RunFolderError, match="theirs/weights.pth lies in .*: what is found out about it is kept in a folder of its own"
    ):
        adopt(config, theirs.parent)
    torch.save({n: t * torch.inf if n.endswith("bias") else t for n, t in weights.items()}, tmp_path / "broken.pth")
    with pytest.raises(CheckpointError, match=r"broken\.pth is not finite in"):
        adopt(replace(config, base=str(tmp_path / "broken.pth")), "two")
    assert not Path("two").exists()


def test_a_network_handed_over_in_python(theirs: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    adopt(Config(epsilon=0.1), "mine", network)
    found = evaluate_run("mine", attacks=("clean",), model=nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    pixels, _ = load("digits", seed=0).test.all()
    assert found.predicted["clean"].tolist() == network(pixels).argmax(1).tolist()
    assert found.header["note"].startswith("Sequential was trained elsewhere: ")
    with torch.no_grad():
        network[1].bias[0] = torch.nan
    with pytest.raises(CheckpointError, match=r"Sequential is not finite in 1\.bias"):
        adopt(Config(), "none", network)


def ours(num_classes: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))


def test_a_callable_and_robustbench_bring_their_weights(theirs: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    module = types.ModuleType("made_up")
    module.make = ours
    monkeypatch.setitem(sys.modules, "made_up", module)
    with pytest.warns(
        NormalizationWarning, match=r"made_up:make is right on \d+\.\d% of 512 training images with normalization=none"
    ):
        assert main(["evaluate", "made_up:make", "--normalization", "none", "--data", "digits", "--attacks", "clean"]) == 0
    pixels, labels = load("digits", seed=0).test.all()
    right = ours(10)(pixels).argmax(1) == labels
    assert Verdicts.read(RunFolder("runs/make").verdicts_file()).survived["clean"].tolist() == right.tolist()

    package, utils = types.ModuleType("robustbench"), types.ModuleType("robustbench.utils")
    utils.load_model = lambda **asked: nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    monkeypatch.setitem(sys.modules, "robustbench", package)
    monkeypatch.setitem(sys.modules, "robustbench.utils", utils)
    classes = {f"c{i}": 12 for i in range(10)}
    for seed, part in enumerate(("train", "test")):
        draw_images(tmp_path / "set" / part, classes, size=32, seed=seed)
    words = ["--data", "folder", "--data-dir", str(tmp_path / "set"), "--attacks", "clean"]
    capsys.readouterr()
    assert main(["evaluate", "robustbench:Tiny2020Net", *words]) == 0
    assert "may have learned" not in capsys.readouterr().out, "this set has test images of its own"
    assert RunFolder("runs/Tiny2020Net").config().epsilon == 0, "an attack has to be told its radius"
    assert main(["evaluate", "runs/Tiny2020Net", "--attacks", "fgsm"]) == 1
    assert "epsilon must be above 0 to attack" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words, text",
    [
        (["W", "--data", "digits"], "W holds weights alone. Name their network by --model: small-cnn"),
        (["W", "--model", "small-cnn"], "Name the images to try W on by --data: digits, folder, csv, npz, cifar10"),
        (["W", "--model", "small-cnn", "--data", "digits"], "Name the radius to attack W at by --epsilon, above 0: in pixels"),
        (["W", "--model", "small-cnn", "--data", "digits", "--epsilon", "0"], "by --epsilon, above 0, got 0.0"),
        (["W", "--model", "small-cnn", "--data", "digits", "--epsilon", "nan"], "epsilon must be a number, got nan"),
        (["W", "--model", "smal-cnn", *DIGITS], "Unknown model 'smal-cnn'. Did you mean 'small-cnn'?"),
        (
            ["W", "--model", "small-cnn", *DIGITS, "--images", "0"],
            "images must be between 10 (one a class) and 597 (all there are)",
        ),
        (["W", "--model", "small-cnn", *DIGITS, "--images", "598"], "images must be between 10 (one a class) and 597"),
        (["W", "--model", "small-cnn", *DIGITS, "--checkpoint", "best"], "--checkpoint best and --part are for run folders"),
        (["W", "--model", "small-cnn", *DIGITS, "--part", "1/2"], "--checkpoint best and --part are for run folders"),
        (["W", "V", "--model", "small-cnn", *DIGITS, "--out", "x"], "--out names one folder, and 2 models need one each"),
        (
            ["B", "--data", "digits", "--out", "x"],
            "--data, --out: for models that are not run folders. B is one and keeps its own",
        ),
        (["D"], "D is not a run folder (no config.json in it)"),
        (
            ["no.pth"],
            "no.pth is not a run folder, nor a checkpoint file that is there, nor of the form robustbench:NAME or module:",
        ),
        (["no_such_module:make", *DIGITS], "there is no module no_such_module"),
        (["math:pi", *DIGITS], "math:pi must name a callable, got float"),
        (["builtins:dict", *DIGITS], "builtins:dict must return a torch.nn.Module, got dict"),
        (["torch.nn:Identity", *DIGITS], "torch.nn:Identity must give logits [2, 10]"),
        (["math:sqrt", "--model", "small-cnn", *DIGITS], "--model is for a file of weights, and math:sqrt is a network already"),
    ],
)
def test_what_cannot_be_evaluated_is_said_before_anything_is_written(
    theirs: Path, base: Path, tmp_path: Path, words: list[str], text: str, capsys
) -> None:
    shutil.copy(theirs, theirs.parent / "second.pth")
    places = {"W": str(theirs), "V": str(theirs.parent / "second.pth"), "B": str(base), "D": str(theirs.parent)}
    assert main(["evaluate", *(places.get(word, word) for word in words)]) == 1
    said = capsys.readouterr().err
    for letter, place in places.items():
        text = text.replace(f"{letter} ", f"{place} ")
    assert text in said
    assert said.splitlines()[-1].startswith("faal-lab: ")
    assert not list(Path().iterdir())


def test_all_words_are_understood_before_the_first_is_adopted(theirs: Path) -> None:
    with pytest.raises(RunFolderError, match="nowhere is not a run folder"):
        run_folders([str(theirs), "nowhere"], {"data": "digits", "model": "small-cnn"}, attacks=["clean"])
    assert not Path("runs").exists()


def test_a_module_that_does_not_import_is_told_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    (tmp_path / "broken_here.py").write_text("x = undefined_name\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "broken_here:make", *DIGITS]) == 1
    text = "importing broken_here fails with NameError: name 'undefined_name' is not defined. To see where: python -c \"import broken_"
    assert text in capsys.readouterr().err


def test_fewer_images_are_spread_over_the_classes_and_hold_each_other() -> None:
    labels = torch.tensor([0] * 50 + [1] * 3 + [2] * 20)
    few, more, all_of_them = (stratified(labels, count, 4) for count in (10, 20, 73))
    assert torch.bincount(labels[few]).tolist() in ([4, 3, 3], [3, 3, 4])
    assert torch.bincount(labels[more]).tolist() in ([9, 3, 8], [8, 3, 9])
    assert set(few.tolist()) < set(more.tolist())
    assert all_of_them.tolist() == list(range(73))
    assert few.tolist() == sorted(few.tolist())
    for count in (2, 74):
        with pytest.raises(
            DataProblem, match=rf"images must be between 3 \(one a class\) and 73 \(all there are\), got {count}\."
        ):
            stratified(labels, count, 4)


def test_verdicts_on_fewer_images_stand_in_for_those_on_all(base: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(base, tmp_path / "run"))
    evaluate_run(copy, attacks=("clean", "fgsm"))
    few = evaluate_run(copy, attacks=("clean",), images=25)
    kept = Verdicts.read(RunFolder(copy).verdicts_file())
    assert (len(kept.labels), list(kept.predicted)) == (25, ["clean"])
    assert few.header["note"] == (
        "On 25 of the 597 test images, 2 to 3 of each class, the same for every model. "
        "Earlier verdicts, measured otherwise, are kept as earlier-1-verdicts-last.npz."
    )
    again = evaluate_run(copy, attacks=("fgsm",), images=25)
    assert list(Verdicts.read(RunFolder(copy).verdicts_file()).predicted) == ["fgsm", "clean"], "measured alike: kept"
    assert again.labels.tolist() == few.labels.tolist()
    evaluate_run(copy, attacks=("clean",))
    assert "note" not in Verdicts.read(RunFolder(copy).verdicts_file()).header


def test_a_run_without_validation_probes_the_normalisation_on_training_images(theirs: Path) -> None:
    blank = {n: torch.zeros_like(t) if n.startswith("classifier") else t for n, t in torch.load(theirs)["state_dict"].items()}
    torch.save({n: t for n, t in blank.items() if not n.startswith("normalize")}, "blank.pth")
    config = Config(base="blank.pth", validation="none", epochs=1, attack_steps=1, batch_size=500)
    with pytest.warns(NormalizationWarning, match=r"blank\.pth is right on \d+\.\d% of 512 training images"):
        next(run(config, "run"))


def test_settings_that_do_not_go_together_are_refused_as_in_training(theirs: Path) -> None:
    with pytest.raises(ConfigError, match="filters is a setting of small-cnn"):
        run_folders([str(theirs)], {"data": "digits", "model": "wrn-16-4", "filters": 3}, attacks=["clean"])
