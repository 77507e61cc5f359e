"""Splits, loading, augmentation; and what is said about images that cannot be learned from."""

import shutil
from pathlib import Path

import pytest
import torch
from conftest import draw_images
from PIL import Image

from faal_lab.data.batches import augmented
from faal_lab.data.images import DataProblem, Images, Splits
from faal_lab.data.sets import load
from faal_lab.errors import ConfigError, UnknownName


def test_digits_are_split_as_stated_and_without_overlap() -> None:
    splits = load("digits", seed=3)
    assert [len(p) for p in (splits.train, splits.validation, splits.test)] == [1000, 200, 597]
    images, labels = splits.train.all()
    assert images.shape == (1000, 1, 8, 8)
    assert images.min() == 0
    assert images.max() == 1
    assert torch.equal(torch.bincount(labels) > 95, torch.ones(10, dtype=torch.bool)), "stratified"
    rows = [set(map(bytes, part.pixels.flatten(1).numpy())) for part in (splits.train, splits.validation, splits.test)]
    assert not rows[0] & rows[1]
    assert not rows[0] & rows[2]
    assert not rows[1] & rows[2]


def test_the_seed_decides_the_split() -> None:
    first, again, other = (load("digits", seed=s).test.pixels for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_folder_is_split_by_seed(image_folder: Path) -> None:
    splits = load("folder", seed=0, data_dir=str(image_folder))
    assert splits.class_names == ("ant", "bee", "cow")
    assert [len(p) for p in (splits.train, splits.validation, splits.test)] == [84, 12, 24]
    assert splits.train.pixels.shape[1:] == (3, 12, 12)
    mean, std = splits.channel_statistics()
    assert len(mean) == len(std) == 3


def test_channel_statistics_in_chunks_are_those_of_the_whole() -> None:
    numbers = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 200, (300, 3, 5, 7), generator=numbers).to(torch.uint8)
    pixels[:, 2] = 77
    images = Images(pixels, torch.zeros(300, dtype=torch.int64))
    mean, std = Splits("made up", ("a",), images, images, images, "none").channel_statistics()
    whole = pixels.to(torch.float64) / 255
    assert mean == pytest.approx(whole.mean((0, 2, 3)).tolist(), abs=5.1e-5)
    assert std == pytest.approx([*whole.std((0, 2, 3), unbiased=False).tolist()[:2], 1e-3], abs=5.1e-5)


def test_a_folder_with_train_and_test_keeps_them(tmp_path: Path) -> None:
    draw_images(tmp_path / "set" / "train", {"a": 20, "b": 20})
    draw_images(tmp_path / "set" / "test", {"a": 5, "b": 7}, seed=1)
    splits = load("folder", seed=0, data_dir=str(tmp_path / "set"))
    assert torch.bincount(splits.test.labels).tolist() == [5, 7]
    assert (len(splits.train), len(splits.validation)) == (36, 4)


def test_images_can_be_resized(image_folder: Path) -> None:
    assert load("folder", seed=0, data_dir=str(image_folder), image_size=9).train.pixels.shape[2:] == (9, 9)


def test_classes_thin_out_in_their_order(tmp_path: Path) -> None:
    root = str(draw_images(tmp_path / "set", {"a": 100, "b": 100, "c": 60}))
    whole, tail = (load("folder", seed=0, data_dir=root, imbalance=r) for r in (1.0, 16.0))
    assert torch.bincount(whole.train.labels).tolist() == [70, 70, 42]
    assert torch.bincount(tail.train.labels).tolist() == [70, round(70 / 4), round(42 / 16)] == [70, 18, 3]
    for part in ("validation", "test"):
        assert torch.equal(getattr(whole, part).pixels, getattr(tail, part).pixels), "of training images alone"
    assert images(tail) < images(whole)
    again, other, more = (load("folder", seed=s, data_dir=root, imbalance=r) for s, r in ((0, 16.0), (1, 16.0), (0, 4.0)))
    assert torch.equal(tail.train.pixels, again.train.pixels)
    assert not torch.equal(tail.train.pixels, other.train.pixels)
    assert images(tail) < images(more), "a larger imbalance takes away more of the same"
    most = load("folder", seed=0, data_dir=root, imbalance=83.9)
    assert torch.bincount(most.train.labels).tolist() == [70, round(70 / 9.16), 1] == [70, 8, 1]
    for ratio, name, size in ((84.0, "c", 42), (1e6, "b", 70)):
        with pytest.raises(ConfigError, match=rf"would leave class {name} none of its {size} training images. Set it below 84,"):
            load("folder", seed=0, data_dir=root, imbalance=ratio)


def test_a_long_tail_of_digits_has_the_counts_of_its_formula() -> None:
    whole, tail = (load("digits", seed=0, imbalance=r) for r in (1.0, 20.0))
    assert torch.bincount(whole.train.labels).tolist() == [99, 101, 98, 102, 101, 101, 101, 100, 97, 100]
    assert torch.bincount(tail.train.labels).tolist() == [99, 72, 50, 38, 27, 19, 14, 10, 7, 5], "n_c * 20 ** (-c / 9), rounded"
    assert torch.equal(whole.test.pixels, tail.test.pixels)
    assert torch.equal(whole.validation.pixels, tail.validation.pixels)


@pytest.mark.parametrize("name", ["digits", "folder"])
def test_validation_images_can_be_trained_on(name: str, image_folder: Path) -> None:
    where = str(image_folder) if name == "folder" else ""
    split, whole = (load(name, seed=0, data_dir=where, validation=v) for v in ("split", "none"))
    joined = torch.cat([split.train.pixels, split.validation.pixels])
    assert torch.equal(whole.train.pixels, joined)
    assert torch.equal(whole.train.labels, torch.cat([split.train.labels, split.validation.labels]))
    assert whole.train.pixel_max == whole.validation.pixel_max == split.train.pixel_max
    assert whole.validation.pixels.shape == (0, *joined.shape[1:])
    assert whole.validation.labels.shape == (0,)
    assert torch.equal(whole.test.pixels, split.test.pixels)
    tail = load(name, seed=0, data_dir=where, validation="none", imbalance=5.0)
    assert len(tail.train) < len(whole.train), "what is given back is thinned out too"
    with pytest.raises(UnknownName, match="Unknown validation 'all'"):
        load(name, seed=0, data_dir=where, validation="all")


def images(splits: Splits) -> set[bytes]:
    return {bytes(image) for image in splits.train.pixels.flatten(1).numpy()}


def one_class(root: Path) -> None:
    shutil.rmtree(root / "bee")
    shutil.rmtree(root / "cow")


def broken_file(root: Path) -> None:
    (root / "ant" / "000.png").write_bytes(b"not an image")


def truncated_file(root: Path) -> None:
    file = root / "bee" / "003.png"
    file.write_bytes(file.read_bytes()[:60])


def mixed_sizes(root: Path) -> None:
    Image.new("RGB", (20, 11)).save(root / "cow" / "zzz.png")


def no_images(root: Path) -> None:
    for file in root.rglob("*.png"):
        file.unlink()


def too_few(root: Path) -> None:
    for file in sorted((root / "ant").glob("*.png"))[1:]:
        file.unlink()


@pytest.mark.parametrize(
    "spoil, text",
    [
        (one_class, r"has 1 class folder \(ant\); at least two are needed"),
        (broken_file, r"Cannot read the image .*000\.png.* Repair it, or remove it"),
        (truncated_file, r"Cannot read the image .*003\.png"),
        (mixed_sizes, r"Images differ in size: 000\.png is 12x12, zzz\.png is 20x11\. Pass image_size=32"),
        (no_images, r"No image found under .*shapes"),
        (too_few, r"Too few images under .*shapes to cut off 2 parts by class: ant has 1\. Add images \(ten a class or more\)"),
        (shutil.rmtree, r"data_dir .*shapes is not a folder"),
    ],
)
def test_bad_folders(image_folder: Path, spoil, text: str) -> None:
    spoil(image_folder)
    with pytest.raises(DataProblem, match=text):
        load("folder", seed=0, data_dir=str(image_folder))


def test_a_class_absent_from_training(tmp_path: Path) -> None:
    draw_images(tmp_path / "set" / "train", {"a": 20, "b": 20})
    draw_images(tmp_path / "set" / "test", {"a": 5, "b": 5, "c": 5}, seed=1)
    with pytest.raises(DataProblem, match=r"Class c is in .*test but absent from training"):
        load("folder", seed=0, data_dir=str(tmp_path / "set"))
    (tmp_path / "set" / "train" / "c").mkdir()
    with pytest.raises(DataProblem, match=r"No training image of class c: its robustness cannot be learned"):
        load("folder", seed=0, data_dir=str(tmp_path / "set"))


def test_missing_folder_setting_and_unknown_augmentation() -> None:
    with pytest.raises(DataProblem, match="data='folder' needs data_dir"):
        load("folder", seed=0)
    with pytest.raises(UnknownName, match=r"Unknown data set 'digit'\. Did you mean 'digits'"):
        load("digit", seed=0)


def test_augmentation_moves_each_image_its_own_way() -> None:
    images = torch.rand(6, 3, 10, 10)
    index = torch.arange(6)
    moved = augmented(images, "crop-flip", 0, 0, index)
    assert moved.shape == images.shape
    assert torch.equal(moved[[4, 1]], augmented(images[[4, 1]], "crop-flip", 0, 0, index[[4, 1]]))
    assert torch.equal(augmented(images, "none", 0, 0, index), images)
    assert not torch.equal(moved, augmented(images, "crop-flip", 0, 1, index))


def test_a_crop_is_a_window_of_the_padded_image_or_its_mirror() -> None:
    images = torch.rand(20, 1, 6, 6) + 0.5
    moved = augmented(images, "crop-flip", 0, 0, torch.arange(20))
    for image, found in zip(images, moved, strict=True):
        padded = torch.nn.functional.pad(image, (4, 4, 4, 4))
        windows = [padded[:, r : r + 6, c : c + 6] for r in range(9) for c in range(9)]
        assert any(torch.equal(found, w) or torch.equal(found, w.flip(2)) for w in windows)


def test_a_folder_one_level_too_high_is_told(tmp_path: Path) -> None:
    for name in ("first", "second"):
        draw_images(tmp_path / "sets" / name, {"ant": 12, "bee": 12})
    with pytest.raises(DataProblem, match=r"holds images itself, only folders of images. Did you mean data_dir=.*first"):
        load("folder", seed=0, data_dir=str(tmp_path / "sets"))
