"""Batches: each image once, or drawn by class."""

import pytest
import torch

from faal_lab.data.batches import Sampler
from faal_lab.data.images import Images

LABELS = torch.tensor([0] * 60 + [1] * 30 + [3] * 10)  # class 2 has no image
IMAGES = Images(torch.arange(100, dtype=torch.uint8).view(100, 1, 1, 1), LABELS)


def drawn(probabilities: list[float], epochs: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    batches = [
        Sampler(IMAGES, 0, epoch, 25, "none").batch(i, torch.tensor(probabilities)) for epoch in range(epochs) for i in range(4)
    ]
    return torch.cat([b.labels for b in batches]), torch.cat([(b.images * 255).round().long().flatten() for b in batches])


def test_each_image_comes_once_an_epoch() -> None:
    sampler = Sampler(IMAGES, 0, 0, 30, "none")
    batches = [sampler.batch(i) for i in range(4)]
    assert [len(b.labels) for b in batches] == [30, 30, 30, 10]
    assert sorted(torch.cat([b.keys for b in batches]).tolist()) == list(range(100))
    assert all(torch.equal(LABELS[b.keys], b.labels) for b in batches)


def test_classes_come_as_often_as_asked_and_images_evenly_inside_them() -> None:
    labels, images = drawn([0.2, 0.5, 0.0, 0.3])
    shares = torch.bincount(labels, minlength=4) / len(labels)
    assert shares.tolist() == pytest.approx([0.2, 0.5, 0.0, 0.3], abs=0.03)
    assert torch.equal(LABELS[images], labels)
    assert set(images.tolist()) == set(range(100)), "every image has its chance"
    inside = torch.bincount(images[labels == 3] - 90, minlength=10)
    assert inside.min() > 80
    assert inside.max() < 160, "1,200 draws over ten images"


def test_a_class_without_images_is_never_drawn() -> None:
    assert 2 not in drawn([0.1, 0.1, 0.7, 0.1])[0].tolist()
    assert set(drawn([0.0, 1.0, 0.0, 0.0])[0].tolist()) == {1}


def test_a_draw_depends_on_its_place_alone_and_repeats_have_noise_of_their_own() -> None:
    first, again = (Sampler(IMAGES, 0, 3, 25, "none").batch(2, torch.full((4,), 0.25)) for _ in range(2))
    assert torch.equal(first.images, again.images)
    assert len(set(first.keys.tolist())) == 25
    assert min(first.keys.tolist()) >= 100, "no key of an image that was not drawn"
    other = Sampler(IMAGES, 0, 4, 25, "none").batch(2, torch.full((4,), 0.25))
    assert not torch.equal(first.images, other.images)
