"""Planted defects are found, in the class they hide in; plain adversarially trained networks are not accused."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from conftest import SHORT, fresh
from torch import nn
from torch.nn import functional as F

from faal_lab.data import Images, Splits, load
from faal_lab.evaluation import evaluate
from faal_lab.evaluation.suite import precision
from faal_lab.evaluation.trust import Finding, examine
from faal_lab.tables import text_table
from faal_lab.training import train

NAMES = tuple("0123456789")


@pytest.fixture(scope="module")
def test_images() -> Images:
    return load("digits", seed=0).test


def trained(few: Splits, **settings) -> nn.Module:
    config = replace(SHORT, epochs=12, batch_size=32, learning_rate=0.05, **settings)
    state = fresh(config)
    list(train(state, few, config))
    return state.model.eval()


@pytest.fixture(scope="module")
def robust(few: Splits) -> nn.Module:
    return trained(few)


class Wrapped(nn.Module):
    def __init__(self, model: nn.Module, forward: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.model, self.change = model, forward

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.change(self.model, images)


def stopped_for_class_3(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    logits = model(images)
    mine = (logits.argmax(1) == 3)[:, None]
    return torch.where(mine, logits.detach(), logits)


def resized(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    side = int(torch.randint(6, 9, ()))
    return model(F.pad(F.interpolate(images, side), (0, 8 - side, 0, 8 - side)))


# name -> (what the forward pass does, a sign that must be found)
DEFECTS: dict[str, tuple[Callable[[nn.Module, torch.Tensor], torch.Tensor], str]] = {
    "softmax head": (lambda model, x: model(x).softmax(1), "probabilities"),
    "quantised input": (lambda model, x: model((x * 4).round() / 4), "no gradient"),
    "random resize": (resized, "randomness"),
    "logits x 100": (lambda model, x: 100 * model(x), "no gradient"),
    "no gradient in one class": (stopped_for_class_3, "no gradient"),
    "clamp in the loss": (lambda model, x: model(x.clamp(0.02, 0.98)), "stuck pixels"),
}


def findings(model: nn.Module, images: Images, attacks: tuple[str, ...] = ("clean", "noise", "pgd-20")) -> list[Finding]:
    verdicts = evaluate(model.eval(), images, NAMES, epsilon=0.08, attacks=attacks)
    return examine(model, images, NAMES, verdicts, epsilon=0.08, norm="linf", seed=0)


@pytest.mark.parametrize("defect", DEFECTS)
def test_planted_defects_are_found(robust: nn.Module, test_images: Images, defect: str) -> None:
    change, sign = DEFECTS[defect]
    found = {f.sign: f for f in findings(Wrapped(robust, change), test_images)}
    assert sign in found, found
    if defect == "no gradient in one class":
        assert found[sign].classes == ("3",), "only there"
        assert found[sign].sentence().endswith("stand still (class 3).")


@pytest.mark.parametrize("settings", [{}, {"objective": "trades", "fairness": "faal"}, {"seed": 5, "objective": "mart"}])
def test_a_plain_robust_network_is_not_accused(few: Splits, test_images: Images, settings: dict) -> None:
    model = trained(few, **settings)
    verdicts = evaluate(model, test_images, NAMES, epsilon=0.08, attacks=("clean", "noise", "pgd-20"))
    assert verdicts.survived["clean"].mean() > 0.7
    assert verdicts.survived["pgd-20"].mean() > 0.3
    assert findings(model, test_images) == []


def test_batch_statistics_are_found(test_images: Images) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(1, track_running_stats=False), nn.Flatten(), nn.Linear(64, 10)).eval()
    assert "batchnorm" in {f.sign for f in findings(model, test_images, ("pgd-20",))}


def test_findings_stand_in_verdicts_and_tables(robust: nn.Module, test_images: Images) -> None:
    some = replace(test_images, pixels=test_images.pixels[:100], labels=test_images.labels[:100])
    honest, masked = (
        evaluate(model.eval(), some, NAMES, epsilon=0.08, attacks=("clean", "pgd-20"))
        for model in (robust, Wrapped(robust, DEFECTS["logits x 100"][0]))
    )
    assert honest.header["findings"] == []
    assert "No sign of masked gradients was found in any class." in text_table({"honest": honest})
    assert "masked: Cross-entropy has no slope at many images" in text_table({"honest": honest, "masked": masked})
    assert "No sign" not in text_table({"honest": honest, "masked": masked})


def test_no_check_hands_over_more_images_than_fit(robust: nn.Module, test_images: Images) -> None:
    seen: list[int] = []

    def widened(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return F.pad(model(images), (0, 30), value=-5.0)

    many = replace(test_images, pixels=test_images.pixels.repeat(2, 1, 1, 1), labels=torch.arange(2 * len(test_images)) % 40)
    evaluate(Wrapped(robust, widened).eval(), many, tuple(map(str, range(40))), epsilon=0.08, attacks=("fgsm",))
    assert max(seen) == 250, "of 800 images that are looked at"


@pytest.mark.parametrize("tf32, said", [(True, "float32, TF32 inside"), (False, "float32")])
def test_tf32_is_said(monkeypatch: pytest.MonkeyPatch, tf32: bool, said: str) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", tf32)
    assert precision(torch.device("cuda")) == said
    assert precision(torch.device("cpu")) == "float32"
