"""PGD: its bounds, its gradient, what it leaves alone."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from faal_lab import keyed_random
from faal_lab.adversary import ATTACK_LOSSES, frozen, pgd, start_point


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(20, 1, 4, 4, generator=generator), torch.randint(0, 3, (20,), generator=generator)


@pytest.mark.parametrize("loss", list(ATTACK_LOSSES))
def test_stays_in_ball_and_box_and_raises_the_loss(tiny_model: nn.Module, batch: tuple, loss: str) -> None:
    images, labels = batch
    start = start_point(images, 0.1, torch.rand(images.shape))
    clean = tiny_model(images).detach()
    adv = pgd(tiny_model, images, labels, radius=0.1, step=0.025, steps=10, loss=loss, start=start, clean_logits=clean)
    assert (adv - images).abs().max() <= 0.1 + 1e-6
    assert adv.min() >= 0
    assert adv.max() <= 1
    ascend = ATTACK_LOSSES[loss]
    assert bool((ascend(tiny_model(adv), labels, clean) > ascend(tiny_model(images), labels, clean)).all())


def test_a_loss_against_the_clean_prediction_asks_for_it(tiny_model: nn.Module, batch: tuple) -> None:
    with pytest.raises(ValueError, match="'kl' needs the logits of the clean images"):
        pgd(tiny_model, *batch, radius=0.1, step=0.1, steps=1, loss="kl")


def test_kl_has_no_slope_at_the_clean_image(tiny_model: nn.Module, batch: tuple) -> None:
    images, labels = batch
    x = images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(ATTACK_LOSSES["kl"](tiny_model(x), labels, tiny_model(images).detach()).sum(), x)
    assert float(slope.abs().max()) < 1e-6, "which is why TRADES starts beside it"


def test_gaussian_starts_lie_beside_the_image() -> None:
    images, noise = torch.full((4, 1, 8, 8), 0.5), keyed_random.normal(0, 0, torch.arange(4), 3, (1, 8, 8))
    assert torch.allclose(start_point(images, 0.1, noise, "gaussian") - images, 0.001 * noise, atol=1e-7)


def test_one_step_is_the_sign_of_the_gradient(tiny_model: nn.Module, batch: tuple) -> None:
    images, labels = batch
    x = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(tiny_model(x), labels), x)
    by_hand = (images + 0.05 * gradient.sign()).clamp(0, 1)
    assert torch.allclose(pgd(tiny_model, images, labels, radius=0.05, step=0.05, steps=1), by_hand, atol=1e-6)


def test_a_pixel_on_the_border_of_the_box_can_come_back(tiny_model: nn.Module) -> None:
    images = torch.zeros(1, 1, 4, 4)
    start = torch.full_like(images, 0.0)
    adv = pgd(tiny_model, images, torch.tensor([0]), radius=0.2, step=0.05, steps=4, start=start)
    weights = tiny_model[1].weight
    assert bool((adv > 0).any()), "pixels at exactly 0 move where the loss wants them up"
    assert weights.grad is None


def test_radius_and_step_for_each_sample(tiny_model: nn.Module, batch: tuple) -> None:
    images, labels = batch
    radius = torch.linspace(0, 0.1, 20)
    adv = pgd(tiny_model, images, labels, radius=radius, step=radius / 4, steps=10)
    moved = (adv - images).abs().flatten(1).amax(1)
    assert bool((moved <= radius + 1e-6).all())
    assert moved[0] == 0


def test_no_step_returns_the_start(tiny_model: nn.Module, batch: tuple) -> None:
    images, labels = batch
    start = start_point(images, 0.1, torch.rand(images.shape))
    assert torch.equal(pgd(tiny_model, images, labels, radius=0.1, step=0.1, steps=0, start=start), start)


def test_a_fooled_sample_is_left_alone(tiny_model: nn.Module, batch: tuple) -> None:
    images, labels = batch
    wrong = tiny_model(images).argmax(1) != labels
    adv = pgd(tiny_model, images, labels, radius=0.1, step=0.05, steps=3, keep_fooled=True)
    assert bool(wrong.any())
    assert torch.equal(adv[wrong], images[wrong])


def test_frozen_leaves_no_trace() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3)).train()
    model[0].weight.requires_grad_(False)
    model[1].eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with frozen(model):
        assert not model.training
        pgd(model, torch.rand(5, 1, 4, 4), torch.zeros(5, dtype=torch.long), radius=0.1, step=0.1, steps=3)
    assert model.training
    assert not model[1].training
    assert [p.requires_grad for p in model.parameters()] == [False, True, True, True, True, True]
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_tick_is_called_between_steps(tiny_model: nn.Module, batch: tuple) -> None:
    calls: list[int] = []
    pgd(tiny_model, *batch, radius=0.1, step=0.1, steps=7, tick=lambda: calls.append(1))
    assert len(calls) == 7
