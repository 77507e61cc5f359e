"""What is kept beside verdicts: curves over radii and adversarial images."""

from pathlib import Path

import numpy as np
import pytest
import torch

from faal_lab.data.images import Images
from faal_lab.evaluation.masking import _growing
from faal_lab.evaluation.probes import chosen, whole_box
from faal_lab.evaluation.suite import evaluate
from faal_lab.evaluation.verdicts import RadiusCurve, Verdicts
from faal_lab.methods.predict import EvaluationError
from faal_lab.training.restore import load_model

NAMES = ("a", "b", "c")


@pytest.fixture
def images() -> Images:
    numbers = torch.Generator().manual_seed(0)
    return Images(torch.randint(0, 256, (90, 1, 4, 4), generator=numbers, dtype=torch.uint8), torch.arange(90) % 3)


@pytest.fixture
def verdicts(tiny_model: torch.nn.Module, images: Images) -> Verdicts:
    return evaluate(tiny_model.eval(), images, NAMES, epsilon=0.05, attacks=("clean", "pgd-20"))


def test_the_curve_begins_clean_and_ends_at_the_whole_box(verdicts: Verdicts) -> None:
    curve = verdicts.curve
    assert curve is not None
    assert curve.indices.tolist() == chosen(verdicts.labels, 3).tolist()
    assert len(curve.indices) == 60, "twenty of each class"
    assert np.allclose(curve.radii, [0, 0.0125, 0.025, 0.05, 0.075, 0.1, 0.2, 1])
    assert (curve.predicted[0] == verdicts.predicted["clean"][curve.indices]).all()
    stands = (curve.predicted == verdicts.labels[curve.indices]).mean(1)
    assert (np.diff(stands) <= 0).all(), "a linear model has no masked gradients"
    assert stands[-1] == 0


def test_the_whole_box_in_l2_holds_every_image(tiny_model: torch.nn.Module, images: Images) -> None:
    assert whole_box(images.pixels.shape, "l2") == 4.0
    curve = evaluate(tiny_model.eval(), images, NAMES, epsilon=0.5, norm="l2", attacks=("pgd-20",)).curve
    assert curve is not None
    assert curve.radii[-1] == 4.0
    with pytest.raises(EvaluationError, match=r"Square in L2 needs images of 5 pixels or more, got \[4, 4\]. Leave it out."):
        evaluate(tiny_model, images, NAMES, epsilon=0.5, norm="l2", attacks=("square",))


def test_examples_are_adversarial_and_in_the_ball(tiny_model: torch.nn.Module, images: Images, verdicts: Verdicts) -> None:
    shown = verdicts.examples
    assert shown is not None
    assert shown.attack == "pgd-20"
    assert verdicts.labels[shown.indices].tolist() == [0, 1, 2]
    assert np.abs(shown.adversarial - shown.clean).max() <= 0.05 + 1e-6
    assert shown.adversarial.min() >= 0
    assert shown.adversarial.max() <= 1
    assert (shown.clean == images.batch(torch.from_numpy(shown.indices))[0].numpy()).all()
    for pixels, belief in ((shown.clean, shown.clean_belief), (shown.adversarial, shown.adversarial_belief)):
        expected = tiny_model(torch.from_numpy(pixels)).softmax(1).detach().numpy()
        assert np.allclose(belief, expected, atol=1e-6)
    fooled = verdicts.survived["clean"] & ~verdicts.survived["pgd-20"]
    broken = [bool(fooled[verdicts.labels == c].any()) for c in range(3)]
    assert sum(broken) >= 2
    assert fooled[shown.indices].tolist() == broken, "where the attack broke an image, that is shown"
    assert (shown.adversarial_belief.argmax(1) == verdicts.predicted["pgd-20"][shown.indices]).all()


def test_a_verdict_file_keeps_both(verdicts: Verdicts, tmp_path: Path) -> None:
    file = tmp_path / "verdicts-last.npz"
    file.write_bytes(verdicts.to_bytes())
    read = Verdicts.read(file)
    for kind in ("curve", "examples"):
        mine, theirs = vars(getattr(verdicts, kind)), vars(getattr(read, kind))
        assert mine.keys() == theirs.keys()
        assert all(np.array_equal(mine[name], theirs[name]) for name in mine)
    without = Verdicts(verdicts.labels, {"clean": verdicts.predicted["clean"]}, NAMES, verdicts.header)
    file.write_bytes(without.to_bytes())
    assert Verdicts.read(file).curve is None
    joined = without.joined(verdicts)
    assert joined.curve is verdicts.curve
    assert joined.examples is verdicts.examples


def test_accuracy_that_rises_with_the_radius_is_a_sign() -> None:
    labels = np.repeat([0, 1], 10)
    falls = np.tile(labels, (3, 1))
    falls[1:, :] = 1 - labels
    assert _growing(RadiusCurve(np.arange(20), np.array([0, 0.1, 1]), falls), labels, ("a", "b")) == []
    rises = falls.copy()
    rises[1, 10:13], rises[2, 10:13] = 0, 1  # three images of b fall at 0.1 and stand again at 1
    found = _growing(RadiusCurve(np.arange(20), np.array([0, 0.1, 1]), rises), labels, ("a", "b"))
    assert [(f.sign, f.classes) for f in found] == [("radius", ("b",)), ("rising", ("b",))]


def test_nothing_but_clean_keeps_neither(base: Path) -> None:
    model, config, _ = load_model(base)
    some = Images(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4))
    verdicts = evaluate(model, some, tuple("0123456789"), epsilon=config.epsilon, attacks=("clean",))
    assert (verdicts.curve, verdicts.examples) == (None, None)
