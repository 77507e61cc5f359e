"""What the CIFAR-10 pipeline found: that pages and card say what the verdicts say, and that the kept network is usable."""

import json
import re
from pathlib import Path

import cifar10_page
import numpy as np
import pytest
import torch
from cifar10_found import of_unseen, paired, points
from conftest import draw_images
from model_card import card
from safetensors.torch import load_file

from faal_lab.data.images import stratified
from faal_lab.evaluation.suite import model_digest
from faal_lab.evaluation.verdicts import Verdicts
from faal_lab.models.build import ModelSpec, build
from faal_lab.models.weights import load_foreign
from faal_lab.runs.config import Config
from faal_lab.runs.events import RunFinished
from faal_lab.training.restore import load_model
from faal_lab.training.run import run

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "results" / "cifar10-narrow"
ARMS = {"base": "at", "control": "at-control", "FAAL": "at-faal", "FAAL with AWP": "at-faal-awp"}
ATTACKS = ("clean", "pgd-20", "cw-20", "apgd-ce+t", "autoattack")


def met(run: str, attack: str) -> Verdicts:
    """The run's verdicts of that attack on the most images it met."""
    return next(g[run] for g in cifar10_page.groups(FOLDER) if run in g and attack in g[run].predicted)


def by_class(found: Verdicts, attack: str) -> np.ndarray:
    """The share of each class's images, in percent, that stand the attack."""
    return 100 * np.array([np.mean(found.predicted[attack][found.labels == c] == c) for c in range(10)])


def section() -> str:
    return (ROOT / "docs" / "cifar10.md").read_text()


def test_the_page_is_made_from_these_verdicts() -> None:
    assert (FOLDER / "README.md").read_text() == cifar10_page.page(FOLDER, cifar10_page.groups(FOLDER))


KEPT = sorted(file.stem for file in FOLDER.glob("*.safetensors"))


@pytest.mark.parametrize("name", KEPT)
def test_card_and_verdicts_are_of_the_kept_weights(name: str) -> None:
    about, file = cifar10_page.about_of(FOLDER), FOLDER / f"{name}.safetensors"
    own = [group[name] for group in cifar10_page.groups(FOLDER) if name in group]
    assert (FOLDER / f"{name}.md").read_text() == card(file, about, own)
    made = about["settings"][name]
    model = build(ModelSpec(made["model"], 10, 3, 32, 32, (0.0,) * 3, (1.0,) * 3, made["filters"]), seed=0)
    assert load_foreign(model, 3, 10, file), "it brings its normalisation"
    assert {verdicts.header["model_sha256"] for verdicts in own} == {model_digest(model)}


def test_every_arm_is_kept() -> None:
    assert set(KEPT) == set(cifar10_page.about_of(FOLDER)["settings"])


@pytest.mark.parametrize("arm", ARMS)
def test_the_page_has_the_averages_and_worst_classes(arm: str) -> None:
    (line,) = re.findall(rf"\| {arm} \| ([^a-z]*?) \|$", section(), flags=re.M)
    for attack, said in zip(ATTACKS, line.split(" | "), strict=True):
        shares = by_class(met(ARMS[arm], attack), attack)
        assert [float(number) for number in said.split(" / ")] == pytest.approx([shares.mean(), shares.min()], abs=0.0501)


def test_the_page_has_the_differences() -> None:
    said = " ".join(section().split())
    shown = [
        (group, attack, other)
        for group in cifar10_page.groups(FOLDER)
        for attack in ATTACKS[1:]
        for other in ("at", "at-control")
    ]
    shown = [(group, attack, other) for group, attack, other in shown if attack in group["at-faal"].predicted]
    assert len(shown) == 2 * 5, "PGD-20, CW-20, APGD-CE+T, and AutoAttack twice: on 1,000 images, and on more of two classes"
    for group, attack, other in shown:
        assert points(paired(group, other, "at-faal", attack).worst) in said, (attack, other)
    first = [(next(group for group, met, _ in shown if met == attack), attack) for attack in ATTACKS[1:]]
    for group, attack in [*first, (first[0][0], "clean")]:
        assert points(paired(group, "at-control", "at-faal", attack).average) in said, attack
    for group, attack in (first[0], first[-1]):
        found = paired(group, "at-control", "at-faal-awp", attack)
        assert points(found.worst) in said, attack
        assert points(found.average) in said, attack
    for other in ("at", "at-faal"):
        assert points(paired(first[-1][0], other, "at-faal-awp", "autoattack").worst) in said, other


def test_the_page_says_how_far_trainings_lie_apart() -> None:
    found = json.loads((ROOT / "benchmarks" / "precision.json").read_text())
    first, *others, last = sorted(one["worst"] for one in found["values"]["float32"])
    assert f"worst classes of {first:.1f}, {', '.join(f'{o:.1f}' for o in others)} and {last:.1f} under" in " ".join(
        section().split()
    )


def test_the_page_says_which_class_is_worst() -> None:
    lowest = {(arm, attack): by_class(met(run, attack), attack).argmin() for arm, run in ARMS.items() for attack in ATTACKS}
    assert {key for key, c in lowest.items() if c != 3} == {("FAAL", "cw-20")}, "elsewhere the cat"
    assert lowest["FAAL", "cw-20"] == 4, "the deer"
    assert "The worst class is the cat, but for FAAL under CW-20, where it is the deer." in " ".join(section().split())


@pytest.mark.parametrize("run", ARMS.values())
def test_images_by_which_classes_were_chosen_can_be_left_out(run: str) -> None:
    (unseen,) = of_unseen(cifar10_page.groups(FOLDER))
    some, whole = (Verdicts.read(FOLDER / f"{run}-autoattack{classes}.npz") for classes in ("-cat-deer", ""))
    first = stratified(torch.arange(10).repeat_interleave(1000), 1000, 10)  # as the images lie: a thousand of each class
    seen = np.concatenate([first[first // 1000 == c].numpy() for c in (3, 4)]) - 3000
    few = np.isin(whole.labels, (3, 4))
    found, again = whole.predicted["autoattack"], some.predicted["autoattack"]
    assert np.array_equal(again[seen], found[few]), "an image's verdict does not depend on the others"
    expected = np.concatenate([np.delete(again, seen), found[~few]])
    assert np.array_equal(unseen[run].predicted["autoattack"], expected)
    assert np.bincount(unseen[run].labels).tolist() == [900 if c in (3, 4) else 100 for c in range(10)]


def test_the_choice_of_classes_made_no_gain() -> None:
    (unseen,) = of_unseen(cifar10_page.groups(FOLDER))
    for other in ("at-control", "at"):
        assert points(paired(unseen, other, "at-faal", "autoattack").worst) in " ".join(section().split())


@pytest.mark.filterwarnings("ignore::faal_lab.models.normalize.NormalizationWarning")  # it knows none of the drawn images
def test_the_kept_network_can_be_tuned(tmp_path: Path) -> None:
    images = draw_images(tmp_path / "images", {f"class{c}": 16 for c in range(10)}, size=32)
    made = cifar10_page.about_of(FOLDER)["settings"]["at"]
    network = {"model": made["model"], "filters": made["filters"], "base": str(FOLDER / "at.safetensors")}
    quick = {"epochs": 1, "batch_size": 16, "attack_steps": 1, "validation_steps": 1, "learning_rate": 0.0}
    config = Config(data="folder", data_dir=str(images), fairness="faal", epsilon=8 / 255, **network, **quick)
    assert [event for event in run(config, tmp_path / "run") if isinstance(event, RunFinished)][-1].reason == "done"
    kept, tuned = load_file(FOLDER / "at.safetensors"), load_model(tmp_path / "run")[0].state_dict()
    weights = [name for name in tuned if name.endswith("weight")]
    assert weights
    assert all(torch.equal(tuned[name].half(), kept[name]) for name in weights), "at a rate of zero they are the kept ones"
