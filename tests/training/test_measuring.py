"""What fairness methods may measure, and free training's perturbation, against the same made by hand."""

from dataclasses import replace

import pytest
import torch
from conftest import SHORT, fresh
from torch.nn import functional as F

from faal_lab.data.batches import Batch, Sampler
from faal_lab.data.images import Splits
from faal_lab.methods.predict import Attack, predictions
from faal_lab.training.attack import attack
from faal_lab.training.loop import train
from faal_lab.training.measure import Measurement
from faal_lab.training.trainer import Trainer


@pytest.fixture
def trained(few: Splits):
    """A state after two epochs, on splits whose test images would raise if they were read."""
    blind = replace(few, test=None)  # pyright: ignore[reportArgumentType]
    state = fresh(SHORT)
    list(train(Trainer(state, blind, SHORT)))
    return state, blind


def test_validation_errors_are_one_minus_class_accuracy(trained) -> None:
    state, splits = trained
    clean, robust = Measurement.of(Trainer(state, splits, SHORT)).validation_errors(5)
    labels = splits.validation.labels
    for found, kind in ((clean, None), (robust, Attack("cross-entropy", 5))):
        right = predictions(state.model, splits.validation, kind, 0.1, seed=0) == labels
        by_hand = [1 - right[labels == c].float().mean().item() for c in range(10)]
        assert found.tolist() == pytest.approx(by_hand, abs=1e-6)
    assert bool((robust >= clean).all())


def test_the_confusion_counts_every_training_image_once(trained) -> None:
    state, splits = trained
    confusion = Measurement.of(Trainer(state, splits, SHORT)).training_confusion(3)
    assert torch.equal(confusion.sum(0), torch.bincount(splits.train.labels, minlength=10))
    predicted = predictions(state.model, splits.train, Attack("cross-entropy", 3), 0.1, seed=0)
    by_hand = torch.zeros(10, 10, dtype=torch.int64)
    for p, y in zip(predicted.tolist(), splits.train.labels.tolist(), strict=True):
        by_hand[p, y] += 1
    assert torch.equal(confusion, by_hand)


@pytest.mark.parametrize("objective", ["at", "trades", "bat", "standard"])
def test_the_validation_cost_is_the_training_loss_by_class(trained, objective: str) -> None:
    _, splits = trained
    config = replace(SHORT, objective=objective, attack_steps=0, attack_start="zero")
    state = fresh(config)
    cost = Measurement.of(Trainer(state, splits, config)).validation_cost()
    images, labels = splits.validation.all()
    adv = torch.stack([images, images]) if objective == "bat" else images  # without steps the attack stays where it starts
    with torch.no_grad():
        terms = state.recipe.objective(state.model.eval(), images, adv, labels).terms
    total = sum(terms.values())
    assert cost.tolist() == pytest.approx([total[labels == c].mean().item() for c in range(10)], rel=1e-5)


def test_free_training_climbs_with_the_gradient_of_the_step_itself(few: Splits) -> None:
    config = replace(SHORT, replays=3, epochs=1)
    state = fresh(config)
    steps = train(Trainer(state, few, config))
    by_hand = torch.zeros(128, 1, 8, 8)
    for step in range(6):
        images, labels, *_ = Sampler(few.train, 0, 0, 128, "none").batch(step // 3)
        adv = (images + by_hand).clamp(images - 0.1, images + 0.1).clamp(0, 1).requires_grad_()
        model = fresh(config).model
        model.load_state_dict(state.model.state_dict())
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(adv), labels), adv)
        by_hand = ((adv + 0.1 * gradient.sign()).clamp(images - 0.1, images + 0.1) - images).detach()
        next(steps)
        assert state.perturbation is not None
        assert torch.allclose(state.perturbation, by_hand, atol=1e-6)
    assert state.step == 6


def test_l2_training_attacks_stay_in_their_ball(few: Splits) -> None:
    config = replace(SHORT, norm="l2", epsilon=0.7)
    state = fresh(config)
    images, labels, keys, _ = Sampler(few.train, 0, 0, 64, "none").batch(0)
    adv = attack(Trainer(state, few, config), Batch(images, labels, keys)).images
    lengths = (adv - images).flatten(1).norm(dim=1)
    assert float(lengths.max()) <= 0.7 + 1e-5
    assert float((adv - images).abs().max()) > 0.1
    assert [e for e in train(Trainer(state, few, replace(config, epochs=1))) if e]


def test_measuring_moves_no_batchnorm_and_follows_epsilon(few: Splits) -> None:
    config = replace(SHORT, model="preact-resnet-18", batch_norm="train", objective="trades")
    state = fresh(config)
    before = {n: b.clone() for n, b in state.model.named_buffers()}
    measure = Measurement.of(Trainer(state, few, config))
    cost = measure.validation_cost()
    assert torch.equal(measure.validation_cost(), cost)
    assert all(torch.equal(b, before[n]) for n, b in state.model.named_buffers())
    state.dials["epsilon"] = 0.3
    assert torch.equal(measure.validation_cost(), cost), "a dial that is turned meanwhile holds from the next step"
    wider = Measurement.of(Trainer(state, few, config))
    assert bool((wider.validation_errors(5)[1] >= measure.validation_errors(5)[1]).all())
    assert not torch.equal(wider.validation_cost(), cost)


def test_without_validation_images_measuring_says_so(few: Splits) -> None:
    none = replace(few, validation=replace(few.validation, pixels=few.validation.pixels[:0], labels=few.validation.labels[:0]))
    measure = Measurement.of(Trainer(fresh(SHORT), none, SHORT))
    for call in (measure.validation_cost, lambda: measure.validation_errors(2)):
        with pytest.raises(ValueError, match="measures on validation images, and there are none"):
            call()
