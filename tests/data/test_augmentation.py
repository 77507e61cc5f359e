"""RandAugment, keyed by image: torchvision's operations, drawn as the rest of the noise is."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.transforms import v2

from faal_lab.data import keyed_random
from faal_lab.data.batches import Sampler, _operations, augmented
from faal_lab.data.images import DataProblem, Images
from faal_lab.runs import RunFolder, read_checkpoint
from faal_lab.runs.config import Config
from faal_lab.runs.events import StepDone
from faal_lab.training.run import run

COUNT = 120
LEVELS = torch.randint(0, 256, (COUNT, 3, 12, 10), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
KEYS = torch.arange(COUNT)
BOTH = ("randaugment", "randaugment-crop-flip")


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(8, 8), (12, 10), (32, 32)])
def test_operations_are_those_of_torchvision(size: tuple[int, int], channels: int) -> None:
    """Of a private method, which this test alone may call: RandAugment(2, 8) of AT-BSL's release."""
    images = torch.randint(0, 256, (30, channels, *size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    theirs, operations = v2.RandAugment(2, 8), _operations(*size)
    assert len(operations) == len(theirs._AUGMENTATION_SPACE) == 14
    for (name, (strengths, signed)), operation in zip(theirs._AUGMENTATION_SPACE.items(), operations, strict=True):
        marks = strengths(31, *size)
        for sign in (-1, 1):
            strength = 0.0 if marks is None else float(marks[8]) * (sign if signed else 1)
            expected: Any = theirs._apply_image_or_video_transform(images, name, strength, theirs.interpolation, theirs._fill)
            assert torch.equal(operation(images, sign), expected), (name, sign)


@pytest.mark.parametrize("kind", BOTH)
def test_an_image_changes_by_its_key_and_by_nothing_else(kind: str) -> None:
    images = LEVELS / 255
    whole = augmented(images, kind, 0, 0, KEYS)
    assert torch.equal(whole, augmented(images, kind, 0, 0, KEYS))
    order = KEYS.flip(0)
    assert torch.equal(whole[order], augmented(images[order], kind, 0, 0, order)), "the order of a batch"
    assert torch.equal(whole, torch.cat([augmented(i[None], kind, 0, 0, k[None]) for i, k in zip(images, KEYS, strict=True)]))
    before = torch.get_num_threads()
    torch.set_num_threads(1 if before > 1 else 2)
    assert torch.equal(whole, augmented(images, kind, 0, 0, KEYS)), "the number of threads"
    torch.set_num_threads(before)


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize(("seed", "epoch", "shift"), [(1, 0, 0), (0, 1, 0), (0, 0, COUNT)])
def test_another_seed_epoch_or_key_draws_other_operations(kind: str, seed: int, epoch: int, shift: int) -> None:
    same = LEVELS[:1].expand(COUNT, -1, -1, -1) / 255
    first, other = augmented(same, kind, 0, 0, KEYS), augmented(same, kind, seed, epoch, KEYS + shift)
    differ = (first != other).flatten(1).any(1)
    assert int(differ.sum()) > 0.8 * COUNT
    assert len({bytes(image.numpy()) for image in first}) > 50, "of 14 x 14 draws with signs, one image takes many forms"


@pytest.mark.parametrize("channels", [1, 3])
def test_values_are_levels_of_eight_bits(channels: int) -> None:
    images = torch.cat([LEVELS[:, :channels] / 255, torch.randint(0, 17, (COUNT, channels, 12, 10)) / 16])
    found = augmented(images, "randaugment", 3, 2, torch.arange(2 * COUNT))
    assert (found.shape, found.dtype) == (images.shape, torch.float32)
    assert torch.allclose((found * 255).round(), found * 255, atol=1e-4)
    assert 0 <= float(found.min()) < float(found.max()) <= 1


def test_crops_and_mirrors_stay_as_they_were() -> None:
    """Its numbers come after those of crop-flip, which so keeps its bits, alone and after RandAugment."""
    few, more = (keyed_random.uniform(0, 3, KEYS, keyed_random.AUGMENT, (n,)) for n in (3, 7))
    assert torch.equal(few, more[:, :3])
    grey = torch.full((COUNT, 1, 12, 10), 128 / 255)
    blank = augmented(grey, "crop-flip", 0, 0, KEYS) == 0
    flat = augmented(grey, "randaugment-crop-flip", 0, 0, KEYS) == 0
    assert bool((flat | ~blank).all()), "a border that a crop leaves black is black in both"


def test_images_of_other_channels_are_refused() -> None:
    with pytest.raises(DataProblem, match="needs images of 1 or 3 channels, got 2. Set augment to crop-flip or none"):
        augmented(torch.rand(2, 2, 8, 8), "randaugment", 0, 0, torch.arange(2))


def test_batches_of_another_size_have_the_same_images() -> None:
    images = Images(LEVELS, torch.zeros(COUNT, dtype=torch.int64))
    found = []
    for size in (7, 50):
        sampler = Sampler(images, 0, 1, size, "randaugment")
        batches = [sampler.batch(n) for n in range(-(-COUNT // size))]
        keys = torch.cat([b.keys for b in batches])
        found.append(torch.cat([b.images for b in batches])[keys.argsort()])
    assert torch.equal(*found)
    assert not torch.equal(found[0], LEVELS / 255)


def test_a_run_resumed_in_mid_epoch_ends_the_same(tmp_path: Path) -> None:
    config = Config(augment="randaugment", epochs=2, batch_size=250, attack_steps=1, validation_steps=1, filters=4)
    events = run(config, tmp_path / "cut")
    for event in events:
        if isinstance(event, StepDone) and event.step == 3:
            break
    events.close()
    list(run(config, tmp_path / "cut", resume=True))
    list(run(config, tmp_path / "whole"))
    list(run(Config.from_mapping(config.to_mapping() | {"augment": "none"}), tmp_path / "plain"))
    cut, whole, plain = (read_checkpoint(RunFolder(tmp_path / name).checkpoint()).tensors for name in ("cut", "whole", "plain"))
    assert all(torch.equal(cut[name], whole[name]) for name in whole)
    assert not all(torch.equal(plain[name], whole[name]) for name in whole)
