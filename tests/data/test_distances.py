"""Distances between images of different classes: against a formula by hand, and on the project's own data."""

import pytest
import torch

from faal_lab.data.images import Images
from faal_lab.data.look import median_distance, nearest_other_class, sample_size, sentence
from faal_lab.data.sets import load
from faal_lab.runs.events import RunStarted, Watch


def images(pixels: list[list[int]], labels: list[int], most: int = 10) -> Images:
    return Images(torch.tensor(pixels, dtype=torch.uint8)[:, None, None], torch.tensor(labels), pixel_max=most)


@pytest.mark.parametrize("norm, order", [("linf", float("inf")), ("l2", 2)])
def test_against_the_formula(norm: str, order: float) -> None:
    torch.manual_seed(0)
    some = Images(torch.randint(0, 256, (30, 3, 4, 4), dtype=torch.uint8), torch.randint(0, 3, (30,)))
    pixels, labels = some.all()
    by_hand = [
        min(
            float(torch.linalg.vector_norm((a - b).flatten(), order))
            for b, other in zip(pixels, labels, strict=True)
            if other != own
        )
        for a, own in zip(pixels, labels, strict=True)
    ]
    assert sorted(nearest_other_class(some, norm).tolist()) == pytest.approx(sorted(by_hand), abs=1e-5)
    assert median_distance(some, norm) == pytest.approx(sorted(by_hand)[14], abs=1e-5)


def test_equal_images_of_two_classes_have_no_distance() -> None:
    assert median_distance(images([[3, 4], [3, 4]], [0, 1]), "l2") == 0
    assert median_distance(images([[0, 0], [3, 4], [0, 0]], [0, 1, 0]), "l2") == 0.5


def test_one_class_has_none() -> None:
    one = images([[3, 4], [5, 6]], [1, 1])
    assert median_distance(one, "linf") is None
    assert "not known" in sentence(one)


def test_the_sample_shrinks_with_the_images() -> None:
    assert sample_size(64, 1000) == 500
    assert sample_size(64, 80) == 80
    assert sample_size(3 * 32 * 32, 50_000) == 312
    assert sample_size(3 * 224 * 224, 50_000) == 44


@pytest.mark.parametrize("norm, epsilon, too_large", [("linf", 0.1, 0.4), ("l2", 0.5, 1.0)])
def test_the_digits(norm: str, epsilon: float, too_large: float) -> None:
    train = load("digits", seed=0).train
    distance = median_distance(train, norm)
    assert median_distance(train, norm) == distance, "the same at each call"
    for radius, kinds in ((epsilon, []), (too_large, ["epsilon"])):
        assert list(Watch([RunStarted(["0"], 1, 1, 0.5, radius, 0.1, distance)]).signs()) == kinds
    assert sentence(train).startswith("Median distance to the nearest image of another class: 0.75 in L-infinity, 1.96 in L2.")
