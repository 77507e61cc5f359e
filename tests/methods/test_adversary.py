"""PGD: its bounds, its gradient, what it leaves alone."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from faal_lab.data import keyed_random
from faal_lab.methods.awp import weight_perturbed
from faal_lab.methods.pgd import ATTACK_LOSSES, boundary_pair, climber, pgd, pgd_until_fooled, start_point
from faal_lab.models.build import frozen


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


def test_a_sample_stands_still_at_its_first_fooled_iterate_and_costs_nothing_more(tiny_model: nn.Module, batch: tuple) -> None:
    images, labels = batch
    start = start_point(images, 0.1, torch.rand(images.shape, generator=torch.Generator().manual_seed(3)))
    expected, seen, forwards = start.clone(), [], 0
    for _ in range(4):  # by hand: every sample by itself
        right = tiny_model(expected).argmax(1) == labels
        seen.append(int(right.sum()))
        moved = pgd(tiny_model, images, labels, radius=0.1, step=0.05, steps=1, start=expected)
        expected = torch.where(right.view(-1, 1, 1, 1), moved, expected)

    def count(module: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        nonlocal forwards
        forwards += len(inputs[0])

    hook = tiny_model.register_forward_pre_hook(count)
    found = pgd_until_fooled(tiny_model, images, labels, radius=0.1, step=0.05, steps=4, start=start)
    hook.remove()
    assert torch.allclose(found, expected, atol=1e-6)
    assert len(images) > seen[0] > seen[-1] > 0, "some are fooled at once, some later, some never"
    assert forwards == len(images) + sum(seen[:-1])
    everyone = pgd_until_fooled(tiny_model, images, (tiny_model(images).argmax(1) + 1) % 3, radius=0.1, step=0.05, steps=4)
    assert torch.equal(everyone, images)


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


# --- norms, targets, both sides of the boundary, weights ---


def images_and_labels(count: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.rand(count, 1, 4, 4, generator=generator), torch.randint(0, 3, (count,), generator=generator)


def test_l2_attacks_stay_in_the_ball_and_the_box_and_use_the_whole_radius(tiny_model: nn.Module) -> None:
    images, labels = images_and_labels()
    images = 0.2 + 0.6 * images
    radius = torch.linspace(0.1, 0.6, len(images))
    adv = pgd(tiny_model, images, labels, radius=radius, step=radius / 2, steps=10, norm="l2")
    lengths = (adv - images).flatten(1).norm(dim=1)
    assert bool((lengths <= radius + 1e-6).all())
    assert 0 <= adv.min() <= adv.max() <= 1
    free = (adv > 0).flatten(1).all(1) & (adv < 1).flatten(1).all(1)
    assert torch.allclose(lengths[free], radius[free], atol=1e-5), "a linear model's loss rises to the edge"
    assert int(free.sum()) > 3
    one = pgd(tiny_model, images, labels, radius=1.0, step=0.1, steps=1, norm="l2")
    gradient = tiny_model[1].weight
    p = tiny_model(images).softmax(1)
    hot = torch.nn.functional.one_hot(labels, 3)
    by_hand = ((p - hot) @ gradient).view_as(images).detach()
    by_hand = images + 0.1 * by_hand / by_hand.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    assert torch.allclose(one, by_hand.clamp(0, 1), atol=1e-6)


def test_l2_starts_are_uniform_in_the_ball() -> None:
    noise = torch.rand(4000, 1, 1, 3, generator=torch.Generator().manual_seed(0))
    moved = start_point(torch.full_like(noise, 0.5), 0.3, noise, norm="l2") - 0.5
    length = moved.flatten(1).norm(dim=1) / 0.3
    assert float(length.max()) <= 1 + 1e-5
    assert float((length**3).mean()) == pytest.approx(0.5, abs=0.02), "the cube of the length is uniform in three dimensions"
    assert float((length**3).std()) == pytest.approx(12**-0.5, abs=0.02)
    assert torch.allclose(moved.flatten(1).mean(0), torch.zeros(3), atol=0.01)


def test_a_target_is_approached_and_minus_one_is_untargeted(tiny_model: nn.Module) -> None:
    images, labels = images_and_labels()
    target = torch.where(torch.arange(12) % 2 == 0, (labels + 1) % 3, -1)
    options = {"radius": 0.3, "step": 0.1, "steps": 5}
    mixed = pgd(tiny_model, images, labels, target=target, **options)
    plain = pgd(tiny_model, images, labels, **options)
    aimed = target >= 0
    assert torch.equal(mixed[~aimed], plain[~aimed])
    before, after = (tiny_model(x).log_softmax(1)[aimed].gather(1, target[aimed, None]) for x in (images, mixed))
    assert bool((after > before).all())
    assert not torch.equal(mixed[aimed], plain[aimed])


def test_the_boundary_pair_lies_on_either_side(tiny_model: nn.Module) -> None:
    images, labels = images_and_labels(60)
    with frozen(tiny_model):
        climb = climber(tiny_model, images, labels, radius=0.2, step=0.02, loss="cross-entropy")
        points = [images]
        for _ in range(10):
            points.append(climb(points[-1])[1])
        inner, outer = boundary_pair(climb, images, labels, 10, lambda: None)
        right = torch.stack([tiny_model(x).argmax(1) == labels for x in points])  # [11, B]
    kinds = set()
    for i in range(60):
        wrong = (~right[:, i]).nonzero().flatten().tolist()
        first = wrong[0] if wrong else None
        kinds.add("never" if first is None else "at once" if first == 0 else "on the way")
        assert torch.equal(inner[i], points[10 if first is None else max(0, first - 1)][i])
        assert torch.equal(outer[i], points[10 if first is None else min(10, first + 1)][i])
    assert kinds == {"never", "at once", "on the way"}


def network_with_batch_norm() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


def test_batchnorm_in_the_attack_is_as_asked() -> None:
    model = network_with_batch_norm().train()
    images, labels = images_and_labels()
    for mode, moves in (("eval", 0), ("train", 3)):
        before = int(model[1].num_batches_tracked)
        with frozen(model, mode):
            pgd(model, images, labels, radius=0.1, step=0.05, steps=3)
        assert int(model[1].num_batches_tracked) - before == moves
        assert model.training
        assert all(p.requires_grad for p in model.parameters())


def test_weights_are_perturbed_by_gamma_of_their_norm_up_the_gradient_and_restored() -> None:
    model = network_with_batch_norm().train()
    images, labels = images_and_labels()

    def loss() -> torch.Tensor:
        return nn.functional.cross_entropy(model(images), labels)

    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    buffers = [b.clone() for b in model.buffers()]
    gradients = dict(zip(before, torch.autograd.grad(loss(), list(model.parameters())), strict=True))
    for buffer, old in zip(model.buffers(), buffers, strict=True):
        buffer.copy_(old)
    low = loss().item()
    for buffer, old in zip(model.buffers(), buffers, strict=True):
        buffer.copy_(old)
    with weight_perturbed(model, lambda: [loss()], 0.05):
        for name, p in model.named_parameters():
            move = p.detach() - before[name]
            if p.ndim > 1:
                assert float(move.norm()) == pytest.approx(0.05 * float(before[name].norm()), rel=1e-4)
                up = gradients[name] / gradients[name].norm()
                assert torch.allclose(move / move.norm(), up, atol=1e-4)
            else:
                assert not bool(move.any()), f"{name} has one dimension: biases and BatchNorm's scales stay"
        assert all(torch.equal(b, old) for b, old in zip(model.buffers(), buffers, strict=True)), (
            "the proxy's forward left no trace"
        )
        assert loss().item() > low
        with torch.no_grad():
            model[3].bias += 1  # what an optimiser does inside stays
    for name, p in model.named_parameters():
        assert torch.allclose(p, before[name] + (name == "3.bias"), rtol=1e-6, atol=1e-7)


def test_after_an_error_perturbed_weights_are_exactly_what_they_were() -> None:
    model = network_with_batch_norm()
    images, labels = images_and_labels()
    before = [p.detach().clone() for p in model.parameters()]
    with (
        pytest.raises(RuntimeError, match="in the middle"),
        weight_perturbed(model, lambda: [nn.functional.cross_entropy(model(images), labels)], 0.1),
    ):
        raise RuntimeError("in the middle")
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
