"""What the CIFAR-10 pipeline found: that page, card and README say what the verdicts say, and that the kept network is usable."""

import re
from pathlib import Path

import cifar10_page
import numpy as np
import pytest
import torch
from conftest import draw_images
from model_card import card
from safetensors.torch import load_file

from faal_lab.config import RunConfig
from faal_lab.evaluation import Verdicts, compare
from faal_lab.events import RunFinished
from faal_lab.experiment import run
from faal_lab.restore import load_model

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "results" / "cifar10-narrow"
ARMS = {"base": "at", "control": "at-control", "FAAL": "at-faal"}
ATTACKS = ("clean", "pgd-20", "cw-20", "autoattack")


def met(run: str, attack: str) -> Verdicts:
    """The run's verdict file with that attack."""
    found = {file.stem: Verdicts.read(file) for file in FOLDER.glob("*.npz")}
    (one,) = (v for name, v in found.items() if attack in v.predicted and name == f"{run}-{'-'.join(v.predicted)}")
    return one


def by_class(run: str, attack: str) -> np.ndarray:
    """The share of each class's images, in percent, that stand the attack."""
    found = met(run, attack)
    return 100 * np.array([np.mean(found.predicted[attack][found.labels == c] == c) for c in range(10)])


def section() -> str:
    return (ROOT / "README.md").read_text().split("\n## CIFAR-10")[1].split("\n## ")[0]


def test_the_page_is_made_from_these_verdicts() -> None:
    assert (FOLDER / "README.md").read_text() == cifar10_page.page(FOLDER, cifar10_page.groups(FOLDER))


def test_the_card_is_of_these_weights() -> None:
    own = [group["at"] for group in cifar10_page.groups(FOLDER) if "at" in group]
    assert (FOLDER / "at.md").read_text() == card(FOLDER / "at.safetensors", cifar10_page.about_of(FOLDER), own)


@pytest.mark.parametrize("arm", ARMS)
def test_the_readme_has_the_averages_and_worst_classes(arm: str) -> None:
    (line,) = re.findall(rf"\| {arm} \| ([^a-z]*?) \|$", section(), flags=re.M)
    for attack, said in zip(ATTACKS, line.split(" | "), strict=True):
        if (arm, attack) == ("control", "autoattack"):
            assert said == "-", "it was not attacked by it yet"
            continue
        shares = by_class(ARMS[arm], attack)
        assert [float(number) for number in said.split(" / ")] == pytest.approx([shares.mean(), shares.min()], abs=0.0501)


def test_the_readme_has_the_differences() -> None:
    shown = [(attack, other) for attack in ("pgd-20", "cw-20") for other in ("at", "at-control")]
    for attack, other in (*shown, ("autoattack", "at")):
        one, two = met(other, attack), met("at-faal", attack)
        assert np.array_equal(one.labels, two.labels)
        worst = compare(one.labels, *(v.predicted[attack] == one.labels for v in (one, two)), 10).worst
        said = f"{100 * worst.value:+.1f} ({100 * worst.low:+.1f} to {100 * worst.high:+.1f})"
        assert said in " ".join(section().split()), (attack, other, said)


@pytest.mark.filterwarnings("ignore::faal_lab.foreign.NormalizationWarning")  # it knows none of the drawn images
def test_the_kept_network_can_be_tuned(tmp_path: Path) -> None:
    images = draw_images(tmp_path / "images", {f"class{c}": 16 for c in range(10)}, size=32)
    made = cifar10_page.about_of(FOLDER)["settings"]["at"]
    network = {"model": made["model"], "filters": made["filters"], "base": str(FOLDER / "at.safetensors")}
    quick = {"epochs": 1, "batch_size": 16, "attack_steps": 1, "validation_steps": 1, "learning_rate": 0.0}
    config = RunConfig(data="folder", data_dir=str(images), fairness="faal", epsilon=8 / 255, **network, **quick)
    assert [event for event in run(config, tmp_path / "run") if isinstance(event, RunFinished)][-1].reason == "done"
    kept, tuned = load_file(FOLDER / "at.safetensors"), load_model(tmp_path / "run")[0].state_dict()
    weights = [name for name in tuned if name.endswith("weight")]
    assert weights
    assert all(torch.equal(tuned[name].half(), kept[name]) for name in weights), "at a rate of zero they are the kept ones"
