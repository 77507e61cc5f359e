"""The microscope shows what the training does: the same attack, weights and loss, bit for bit."""

import pytest
import torch
from conftest import fresh

from faal_lab.data.batches import Sampler
from faal_lab.data.images import Splits
from faal_lab.methods.fairness.base import NoFairness
from faal_lab.methods.fairness.faal import FAAL
from faal_lab.methods.microscope import phase_table, three_phases, walk
from faal_lab.methods.objectives import TRADES
from faal_lab.methods.pgd import pgd
from faal_lab.models.build import frozen
from faal_lab.results.teaching import phases_figure, walk_figure
from faal_lab.runs.config import Config
from faal_lab.training.attack import attack
from faal_lab.training.step import before_batch, step
from faal_lab.training.trainer import Trainer

CONFIG = Config(fairness="faal", tau=0.5, batch_size=40, attack_steps=3)
BALL = {"radius": CONFIG.epsilon, "step": CONFIG.epsilon * CONFIG.step_ratio, "steps": CONFIG.attack_steps}
NAMES = [str(c) for c in range(10)]


def test_a_walk_ends_where_pgd_ends(few: Splits) -> None:
    model, (images, labels) = fresh(CONFIG).model, few.validation.all()
    found = walk(model, images[0], int(labels[0]), **BALL)
    with frozen(model):
        end = pgd(model, images[:1], labels[:1], **BALL)
        logits = model(end)
    assert torch.equal(found.points[0], images[0])
    assert torch.equal(found.points[-1], end[0])
    assert torch.allclose(found.beliefs[-1], logits.softmax(1)[0], atol=1e-6)
    assert found.losses.tolist() == sorted(found.losses.tolist()), "a smooth small network: each step goes up"
    assert found.points.shape == (4, 1, 8, 8)


def test_the_first_step_that_fools_is_named(tiny_model: torch.nn.Module) -> None:
    image = torch.full((1, 4, 4), 0.5)
    label = int(tiny_model(image[None]).argmax())
    found = walk(tiny_model, image, label, radius=0.5, step=0.05, steps=10)
    right = (found.beliefs.argmax(1) == label).tolist()
    assert right[0]
    assert found.fooled_after(label) == right.index(False)
    assert walk(tiny_model, image, label, radius=0.5, step=0.0, steps=2).fooled_after(label) is None


def test_the_phases_are_those_of_a_training_step(few: Splits) -> None:
    trainer = Trainer(fresh(CONFIG), few, CONFIG)
    batch = Sampler(few.train, 0, 0, CONFIG.batch_size, "none").batch(0)
    mine = three_phases(trainer.state.model, batch.images, batch.labels, FAAL(), num_classes=10, tau=0.5, **BALL)
    attacked = attack(trainer, batch)
    done = step(trainer, batch, before_batch(trainer.state))
    assert torch.equal(mine.adv, attacked.images)
    assert mine.weighing.weights.tolist() == done.weights
    assert mine.stats.count.tolist() == done.count
    assert mine.loss.item() == done.loss


def test_tau_0_is_plain_training_bit_for_bit(few: Splits) -> None:
    model, (images, labels) = fresh(CONFIG).model, few.train.part(torch.arange(40)).all()
    gradients = []
    for fairness, tau in ((FAAL(), 0.0), (NoFairness(), 0.5)):
        found = three_phases(model, images, labels, fairness, num_classes=10, tau=tau, **BALL)
        gradients.append(torch.cat([g.flatten() for g in torch.autograd.grad(found.loss, list(model.parameters()))]))
    assert torch.equal(*gradients)


def test_another_attack_than_the_shown_one_is_refused(few: Splits) -> None:
    images, labels = few.validation.all()
    with pytest.raises(ValueError, match="and this objective kl. Take PGD-AT or MART"):
        three_phases(fresh(CONFIG).model, images, labels, FAAL(), num_classes=10, tau=0.5, objective=TRADES(), **BALL)


def test_table_and_pictures_hold_the_numbers(few: Splits) -> None:
    model, (images, labels) = fresh(CONFIG).model, few.train.all()
    held = labels != 3
    found = three_phases(model, images[held], labels[held], FAAL(), num_classes=10, tau=0.5, **BALL)
    lines = phase_table(found, NAMES).splitlines()
    hardest = int(found.weighing.weights.argmax())
    assert lines[1].split()[0] == NAMES[hardest], "the hardest class has the most weight and stands first"
    assert lines[10].split() == ["3", "0"], "an absent class has no numbers"
    assert sum(float(line.split()[6]) for line in lines[1:10]) == pytest.approx(100, abs=0.5)
    assert lines[-1].endswith(f"{found.loss.item():.4f} weighted")
    dots, means, bars = phases_figure(found, NAMES).data
    assert (len(dots.x), len(means.x), bars.y[3]) == (int(held.sum()), 9, 0)

    steps = walk(model, images[0], int(labels[0]), **BALL)
    drawn = walk_figure(steps, NAMES, int(labels[0]), CONFIG.epsilon)
    assert [f.name for f in drawn.frames] == ["0", "1", "2", "3"]
    first, last = drawn.frames[0].data, drawn.frames[-1].data
    assert (first[1].z == 128).all(), "nothing was added yet"
    assert (drawn.data[0].z == last[0].z).all(), "it opens at the last step"
    assert list(last[3].y) == pytest.approx(steps.losses.tolist())
