"""The probe of an epoch: it finds planted defects, accuses no sound network, and touches no random state."""

import pytest
import torch
from torch import nn

from faal_lab.methods.predict import Attack, survivors
from faal_lab.runs.config import Config
from faal_lab.training.loop import train, validate
from faal_lab.training.measure import probe
from faal_lab.training.run import prepare
from faal_lab.training.trainer import Trainer


@pytest.fixture(scope="module")
def trained() -> Trainer:
    trainer = prepare(Config(epochs=3))
    list(train(trainer))
    return trainer


class Times(nn.Module):
    """A network whose logits are multiplied."""

    def __init__(self, inside: nn.Module, factor: float) -> None:
        super().__init__()
        self.inside, self.factor = inside, factor

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.factor * self.inside(images)


class Rounded(Times):
    """A network that rounds its pixels to quarters, which have no slope."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.inside((4 * images).round() / 4)


def found(model: nn.Module, trained: Trainer, steps: int = 10, ratio: float = 0.25) -> dict[str, int]:
    images = trained.splits.validation
    stands = survivors(model, images, Attack("cross-entropy", steps, ratio), 0.1, seed=0)
    return probe(model, images, stands, 0.1, seed=0, norm="linf", tick=lambda: None)


def test_a_sound_network(trained: Trainer) -> None:
    counts = found(trained.state.model, trained)
    assert counts | {"fell": 0} == {"images": 64, "no_slope": 0, "certain": 0, "stood": 16, "fell": 0}
    assert counts["fell"] <= 4


def test_saturated_logits_hide_images_from_cross_entropy_and_not_from_the_margin(trained: Trainer) -> None:
    counts = found(Times(trained.state.model, 1e4), trained)
    assert counts["certain"] > 48
    assert counts["no_slope"] > 32
    # the same images fall to an attack that keeps its slope: those that PGD left were not robust
    assert counts["fell"] > found(trained.state.model, trained)["fell"]


def test_a_network_without_a_slope(trained: Trainer) -> None:
    counts = found(Rounded(trained.state.model, 1.0), trained)
    assert counts["no_slope"] == 64
    assert counts["certain"] == 0


def test_a_pgd_that_is_too_weak(trained: Trainer) -> None:
    assert found(trained.state.model, trained, steps=1, ratio=0.01)["fell"] > found(trained.state.model, trained)["fell"]


def test_without_an_attack_none_is_made(trained: Trainer) -> None:
    counts = probe(trained.state.model, trained.splits.validation, None, 0.1, seed=0, norm="linf", tick=lambda: None)
    assert counts == {"images": 64, "no_slope": 0, "certain": 0, "stood": 0, "fell": 0}


def test_it_repeats_and_changes_nothing(trained: Trainer) -> None:
    model = trained.state.model
    model.train()
    before = [tensor.clone() for tensor in model.state_dict().values()]
    random, flags = torch.get_rng_state(), [p.requires_grad for p in model.parameters()]
    first, ticks = validate(trained).probe, []
    assert validate(trained).probe == first
    probe(model, trained.splits.validation, None, 0.1, seed=0, norm="linf", tick=lambda: ticks.append(1))
    assert ticks, "it can be interrupted"
    assert model.training
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values(), strict=True))
    assert torch.equal(torch.get_rng_state(), random)
