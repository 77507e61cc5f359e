"""A table of images and layouts that people have: each is read with the right pixels, or refused with a line that cures."""

import re
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import draw_images
from PIL import Image

import faal_lab as fl
from faal_lab.data.arrays import keep_arrays
from faal_lab.data.decode import decode
from faal_lab.data.images import DataNote, DataProblem
from faal_lab.data.sets import load
from faal_lab.errors import ConfigError

RAMP = np.arange(24, dtype=np.float64).reshape(4, 6) / 23  # 4 high, 6 wide, from black to white
GREY = np.rint(255 * RAMP).astype(np.uint8)
WIDE = np.dstack([GREY, GREY[::-1], 255 - GREY])


def saved(file: Path, pixels: Any, mode: str | None = None, **how: Any) -> Path:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(file, **how)
    return file


def oriented(file: Path, orientation: int) -> Path:
    image = Image.fromarray(WIDE)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(file, exif=exif)
    return file


def transparent(file: Path) -> Path:
    alpha = np.full((4, 6, 4), 255, dtype=np.uint8)
    alpha[..., :3], alpha[0, :, 3] = WIDE, 0
    return saved(file, alpha)


def half(file: Path) -> Path:
    return saved(file, np.dstack([WIDE, np.full((4, 6), 128, dtype=np.uint8)]))


def opaque(file: Path) -> Path:
    return saved(file, np.dstack([WIDE, np.full((4, 6), 255, dtype=np.uint8)]))


def palette(file: Path, **how: Any) -> Path:
    image = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6) % 3, "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.save(file, **how)
    return file


PALETTE = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], dtype=np.uint8)[np.arange(24).reshape(4, 6) % 3]


def animated(file: Path) -> Path:
    first, *rest = (Image.fromarray(np.full((4, 6), 40 * k, dtype=np.uint8)) for k in range(3))
    first.save(file, save_all=True, append_images=rest)
    return file


def cut(file: Path) -> Path:
    saved(file, np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    return file


def huge(file: Path) -> Path:
    """A PNG whose head promises 20,000 x 20,000 pixels."""
    head = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))  # noqa: E731
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))
    return file


def stated_range(file: Path) -> Path:
    values = (1000 * RAMP).astype(np.int32)
    return saved(file, values, tiffinfo={281: 1000})


def no_range(file: Path) -> Path:
    return saved(file, (1_000_000 * RAMP).astype(np.int32))


def white_is_zero(file: Path) -> Path:
    return saved(file, (65535 * RAMP).astype(np.uint16), tiffinfo={262: 0})


def wide_pgm(file: Path) -> Path:
    file.write_bytes(b"P5 6 4 65535\n" + np.rint(65535 * RAMP).astype(">u2").tobytes())
    return file


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, 2)


OVER_WHITE = np.where(np.arange(4)[:, None, None] == 0, 255, WIDE)
HALF = np.rint((WIDE.astype(float) * 128 + 255 * 127) / 255)
# name -> (how it is made, the pixels [H, W, 3] that must come out, how far they may be off, a word of the note)
READ: dict[str, tuple[Callable[[Path], Path], np.ndarray, int, str]] = {
    "grey-8.png": (lambda f: saved(f, GREY), grey(GREY), 0, ""),
    "grey-16.png": (lambda f: saved(f, np.rint(65535 * RAMP).astype(np.uint16)), grey(GREY), 0, "rounded"),
    "grey-16.tif": (lambda f: saved(f, np.rint(65535 * RAMP).astype(np.uint16)), grey(GREY), 0, "rounded"),
    "grey-16.pgm": (wide_pgm, grey(GREY), 0, "rounded"),
    "grey-float.tif": (lambda f: saved(f, RAMP.astype(np.float32)), grey(GREY), 0, "rounded"),
    "integers-with-a-range.tif": (stated_range, grey(np.rint(255 * (1000 * RAMP).astype(np.int32) / 1000)), 0, "rounded"),
    "black-and-white.png": (lambda f: saved(f, RAMP > 0.5), grey(np.where(RAMP > 0.5, 255, 0)), 0, ""),
    "colour.png": (lambda f: saved(f, WIDE), WIDE, 0, ""),
    "colour.bmp": (lambda f: saved(f, WIDE), WIDE, 0, ""),
    "colour.webp": (lambda f: saved(f, WIDE, lossless=True), WIDE, 0, ""),
    "colour.jpg": (lambda f: saved(f, np.full((16, 16, 3), (200, 60, 30), dtype=np.uint8)), np.full((16, 16, 3), (200, 60, 30)), 3, ""),
    "cmyk.jpg": (
        lambda f: saved(f, np.full((16, 16, 3), (200, 60, 30), dtype=np.uint8), "CMYK"), np.full((16, 16, 3), (200, 60, 30)), 4,
        "CMYK",
    ),
    "opaque-alpha.png": (opaque, WIDE, 0, ""),
    "transparent.png": (transparent, OVER_WHITE, 0, "white"),
    "half-transparent.png": (half, HALF, 1, "white"),
    "grey-and-alpha.png": (lambda f: saved(f, Image.fromarray(np.dstack([GREY, np.full_like(GREY, 255)]))), grey(GREY), 0, ""),
    "palette.png": (palette, PALETTE, 0, ""),
    "palette.gif": (palette, PALETTE, 0, ""),
    "palette-transparent.png": (
        lambda f: palette(f, transparency=0), np.where((PALETTE == [255, 0, 0]).all(-1, keepdims=True), 255, PALETTE), 0, "white",
    ),
    **{
        f"exif-{number}.jpg": (lambda f, n=number: oriented(f.with_suffix(".png"), n), turned, 0, "upright")
        for number, turned in (
            (2, WIDE[:, ::-1]), (3, WIDE[::-1, ::-1]), (4, WIDE[::-1]), (5, WIDE.transpose(1, 0, 2)),
            (6, np.rot90(WIDE, -1)), (7, WIDE[::-1, ::-1].transpose(1, 0, 2)), (8, np.rot90(WIDE)),
        )
    },
    "exif-1.jpg": (lambda f: oriented(f.with_suffix(".png"), 1), WIDE, 0, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_an_image_is_read_with_its_pixels(name: str, tmp_path: Path) -> None:
    make, expected, off, word = READ[name]
    image, changed = decode(make(tmp_path / name))
    found = np.asarray(image)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= off
    assert any(word in text for text in changed) if word else not changed


# name -> (how it is made, what is said)
REFUSED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "animated.gif": (animated, "has 3 frames; expected one image. Save each frame as a file"),
    "pages.tif": (animated, "has 3 frames; expected one image"),
    "truncated.jpg": (cut, "Cannot read the image .*truncated.jpg: .* Repair it, or remove it"),
    "truncated.png": (cut, "Cannot read the image .*truncated.png"),
    "huge.png": (huge, "huge.png is too large: .*Scale it down first"),
    "text.png": (lambda f: (f.write_text("no image") and f) or f, "Cannot read the image .*text.png"),
    "integers.tif": (no_range, "holds 32-bit integers and states no range for them .TIFF's MaxSampleValue.. Save it with 8 or 16"),
    "float-255.tif": (lambda f: saved(f, (255 * RAMP).astype(np.float32)), "has values from 0 to 255; expected 0 to 1. Scale them"),
    "float-nan.tif": (lambda f: saved(f, np.where(RAMP > 0.9, np.nan, RAMP).astype(np.float32)), "expected 0 to 1"),
    "negative.tif": (lambda f: saved(f, (-RAMP).astype(np.float32)), "has values from -1 to"),
    "white-is-zero.tif": (white_is_zero, "states that 0 is white; expected 0 to be black. Invert it"),
    "lab.tif": (lambda f: saved(f, Image.new("LAB", (6, 4))), "has the mode LAB; expected grey or colour"),
    "beyond-its-range.tif": (
        lambda f: saved(f, (2000 * RAMP).astype(np.int32), tiffinfo={281: 1000}), "has values from 0 to 2000; expected 0 to 1000",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_an_image_is_refused_with_its_name_and_the_cure(name: str, tmp_path: Path) -> None:
    make, text = REFUSED[name]
    with pytest.raises(DataProblem, match=text):
        decode(make(tmp_path / name))


def add(root: Path, name: str, content: bytes = b"x") -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(content)


CLASSES = {"ant": 20, "bee": 20}


def one_folder_a_class(root: Path) -> Path:
    return draw_images(root, CLASSES)


def train_val_test(root: Path, names: tuple[str, str, str] = ("train", "val", "test")) -> Path:
    for seed, (name, count) in enumerate(zip(names, (20, 6, 5), strict=True)):
        draw_images(root / name, dict.fromkeys(CLASSES, count), seed=seed)
    return root


def train_val(root: Path) -> Path:
    shutil.rmtree(train_val_test(root) / "test")
    return root


def train_test(root: Path) -> Path:
    shutil.rmtree(train_val_test(root, ("Train", "val", "Test")) / "val")
    return root


def classes_in_capitals(root: Path) -> Path:
    (train_val_test(root) / "test" / "ant").rename(root / "test" / "Ant")
    return root


def class_named_train(root: Path) -> Path:
    return draw_images(root, {"bus": 20, "train": 20})


def litter(root: Path) -> Path:
    one_folder_a_class(root)
    shutil.copytree(root / "ant", root / "ant" / ".ipynb_checkpoints")
    shutil.copytree(root / "ant", root / "__MACOSX" / "ant")
    for name in ("ant/._000.png", "ant/Thumbs.db", "bee/.DS_Store", "bee/notes.txt", "bee/desktop.ini"):
        add(root, name)
    add(root, "bee/empty.png", b"")
    return root


def links(root: Path) -> Path:
    one_folder_a_class(root / "images")
    (root / "linked").mkdir()
    for name in CLASSES:
        (root / "linked" / name).symlink_to(root / "images" / name)
    return root / "linked"


def links_to_files(root: Path) -> Path:
    """Images of which each is a link to a file outside the folder."""
    one_folder_a_class(root / "elsewhere")
    for file in (root / "elsewhere").rglob("*.png"):
        place = root / "linked" / file.relative_to(root / "elsewhere")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(file)
    return root / "linked"


def copies_in_one_class(root: Path) -> Path:
    one_folder_a_class(root)
    for number in range(6):
        shutil.copy(root / "ant" / "000.png", root / "ant" / f"copy{number}.png")
    return root


# name -> (how it is made, images of train, validation and test, whether test is the user's own, a word of the notes)
LAYOUTS: dict[str, tuple[Callable[[Path], Path], tuple[int, int, int], bool, str]] = {
    "one folder a class": (one_folder_a_class, (28, 4, 8), False, ""),
    "train, val, test": (train_val_test, (40, 12, 10), True, ""),
    "Training, Valid, Testing": (lambda r: train_val_test(r, ("Training", "Valid", "Testing")), (40, 12, 10), True, ""),
    "train, val": (train_val, (32, 12, 8), False, "8 of its training images, chosen by seed, became it"),
    "Train, Test": (train_test, (36, 4, 10), True, ""),
    "classes in capitals": (classes_in_capitals, (40, 12, 10), True, ""),
    "a class named train": (class_named_train, (28, 4, 8), False, ""),
    "what systems leave behind": (litter, (28, 4, 8), False, "Passed over 26 files"),
    "links": (links, (28, 4, 8), False, ""),
    "links to files outside": (links_to_files, (28, 4, 8), False, ""),
    "copies": (copies_in_one_class, (34, 4, 8), False, "6 images of .* are copies of others; copies stay in one part"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_read(name: str, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    make, sizes, own, word = LAYOUTS[name]
    splits = load("folder", seed=0, data_dir=str(make(tmp_path / "set")))
    said = " ".join(str(w.message) for w in recwarn.list if w.category is DataNote)
    total = sum(map(len, (splits.train, splits.validation, splits.test)))
    assert total == sum(sizes)
    if name != "copies":
        assert (len(splits.train), len(splits.validation), len(splits.test)) == sizes
    assert splits.own_test == own
    parts = [{image.tobytes() for image in part.pixels.numpy()} for part in (splits.train, splits.validation, splits.test)]
    assert not any(parts[a] & parts[b] for a, b in ((0, 1), (0, 2), (1, 2))), "no image in two parts"
    if word:
        assert re.search(word, said)
    else:
        assert said == ""


def shared(root: Path) -> Path:
    train_val_test(root)
    shutil.copy(root / "train" / "ant" / "000.png", root / "test" / "ant" / "copied.png")
    return root


def shared_with_validation(root: Path) -> Path:
    train_val_test(root)
    shutil.copy(root / "val" / "ant" / "000.png", root / "test" / "ant" / "copied.png")
    return root


def two_labels(root: Path) -> Path:
    one_folder_a_class(root)
    shutil.copy(root / "ant" / "000.png", root / "bee" / "same.png")
    return root


def capitals_alone(root: Path) -> Path:
    one_folder_a_class(root)
    return draw_images(root, {"Ant": 20}, seed=5)


def dead_link(root: Path) -> Path:
    one_folder_a_class(root)
    (root / "ant" / "gone.png").symlink_to(root / "nowhere.png")
    return root


def no_train(root: Path) -> Path:
    shutil.rmtree(train_val_test(root) / "train")
    return root


def two_trains(root: Path) -> Path:
    train_val_test(root)
    return draw_images(root / "training", CLASSES, seed=9).parent


def blank(root: Path) -> Path:
    for name, level in (("ant", 0), ("bee", 255)):
        (root / name).mkdir(parents=True)
        for index in range(20):
            saved(root / name / f"{index}.png", np.full((4 + 0, 4), level, dtype=np.uint8))
    return root


def few(root: Path) -> Path:
    return draw_images(root, {"ant": 20, "bee": 2})


def nested(root: Path) -> Path:
    return one_folder_a_class(root / "inner" / "ant").parents[1] and draw_images(root / "other" / "cat", {"x": 3}).parents[1]


BAD_LAYOUTS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "copies in train and test": (
        shared,
        r"1 of the 11 test images of .* are copies of train images, pixel by pixel, such as .*test.*\.png of .*train.*\.png\. Remove",
    ),
    "copies in val and test": (shared_with_validation, "1 of the 11 test images of .* are copies of validation images"),
    "one image, two labels": (two_labels, r"One image of .* is in the class ant \(.*ant.*\.png\) and in bee \(.*bee.*\.png\)"),
    "capitals alone": (capitals_alone, "The classes Ant and ant of .* differ in capitals alone. Merge or rename them"),
    "a dead link": (dead_link, "gone.png is a link to a file that is not there"),
    "no train": (no_train, "has test/ and val/ and no train/; expected one folder a class in train/"),
    "two trains": (two_trains, "has train/ and training/; expected one folder of train images"),
    "blank": (blank, "Every training image of .* is of one colour"),
    "few": (few, "Too few images under .* to cut off 2 parts by class: bee has 2. Add images .ten a class or more."),
    "nested": (nested, "holds images itself, only folders of images. Did you mean data_dir="),
    "a file": (lambda r: r.parent.mkdir(exist_ok=True) or saved(r.with_suffix(".png"), GREY), "is not a folder"),
}


@pytest.mark.parametrize("name", BAD_LAYOUTS)
@pytest.mark.filterwarnings("ignore::faal_lab.data.images.DataNote")
def test_a_layout_is_refused_with_the_cure(name: str, tmp_path: Path) -> None:
    make, text = BAD_LAYOUTS[name]
    with pytest.raises(DataProblem, match=text):
        load("folder", seed=0, data_dir=str(make(tmp_path / "set")))


def test_a_class_of_one_colour_is_reported(tmp_path: Path) -> None:
    draw_images(tmp_path / "set", CLASSES)
    for index in range(20):
        saved(tmp_path / "set" / "bee" / f"{index:03d}.png", np.full((12, 12, 3), 3 + index, dtype=np.uint8))
    with pytest.warns(DataNote, match="Every training image of class bee is of one colour"):
        load("folder", seed=0, data_dir=str(tmp_path / "set"))


def table(root: Path, columns: tuple[str, ...] = ("file", "label"), **more: Any) -> Path:
    one_folder_a_class(root / "images")
    rows = [(f"images/{name}/{n:03d}.png", name) for name in CLASSES for n in range(20)]
    pd.DataFrame(rows, columns=list(columns)).assign(**more).to_csv(root / "set.csv", index=False)
    return root / "set.csv"


def test_a_csv_is_read(tmp_path: Path) -> None:
    splits = load("csv", seed=0, data_dir=str(table(tmp_path)))
    assert (splits.class_names, len(splits.train), splits.own_test) == (("ant", "bee"), 28, False)
    parts = ["train"] * 12 + ["val"] * 3 + ["Test"] * 5
    splits = load("csv", seed=0, data_dir=str(table(tmp_path, ("Filename", "Class"), split=parts * 2)))
    assert (len(splits.train), len(splits.validation), len(splits.test), splits.own_test) == (24, 6, 10, True)
    expected = np.asarray(Image.open(tmp_path / "images" / "bee" / "000.png")).transpose(2, 0, 1)
    assert torch.equal(splits.train.pixels[12], torch.from_numpy(expected.copy()))


BAD_TABLES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "no label": (lambda r: table(r, ("file", "what")), "has the columns file, what; expected one named label"),
    "an odd part": (lambda r: table(r, split="holdout"), "has a row of the part 'holdout'; expected train, val or test"),
    "missing files": (lambda r: (table(r), shutil.rmtree(r / "images" / "bee"))[0], "names 20 files that are not there"),
    "not there": (lambda r: r / "nothing.csv", "cannot be read as a CSV"),
    "one class": (lambda r: table(r, label="ant"), "has 1 class folder"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_a_csv_is_refused_with_the_cure(name: str, tmp_path: Path) -> None:
    make, text = BAD_TABLES[name]
    with pytest.raises(DataProblem, match=text):
        load("csv", seed=0, data_dir=str(make(tmp_path)))


X = np.random.default_rng(0).integers(0, 255, (40, 6, 5, 3), dtype=np.uint8)
Y = np.arange(40) % 2
NCHW = torch.from_numpy(X).permute(0, 3, 1, 2).contiguous()


class Own(torch.utils.data.Dataset):
    """A map-style Dataset of somebody's own."""

    def __init__(self, floats: bool = False) -> None:
        self.floats = floats

    def __len__(self) -> int:
        return len(Y)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return (NCHW[index] / 255 if self.floats else NCHW[index]), int(Y[index])


class Named(Own):
    """Items by name, as those of Hugging Face's sets."""

    def __getitem__(self, index: int) -> Any:
        return {"image": Image.fromarray(X[index]), "label": int(Y[index])}


ARRAYS: dict[str, Any] = {
    "numpy, NHWC": (X, Y),
    "tensors, NCHW": (NCHW, torch.from_numpy(Y)),
    "floats in [0, 1]": (NCHW / 255, Y),
    "float64, NHWC": (X / 255, Y),
    "a Dataset": Own(),
    "a Dataset of floats": Own(floats=True),
    "items by name": Named(),
    "labels [N, 1]": (X, Y[:, None]),
    "with a layout": {"train": (X, Y), "layout": "NHWC"},
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_are_kept_and_read(name: str, tmp_path: Path) -> None:
    file = keep_arrays(ARRAYS[name], tmp_path / "mine")
    assert keep_arrays(ARRAYS[name], tmp_path / "mine") == file, "the same data again is no conflict"
    splits = load("npz", seed=0, data_dir=str(file))
    found = torch.cat([splits.train.pixels, splits.validation.pixels, splits.test.pixels])
    assert {p.numpy().tobytes() for p in found} == {p.numpy().tobytes() for p in NCHW}, "every pixel as it was"
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (28, 4, 8)


BAD_ARRAYS: dict[str, tuple[Any, str]] = {
    "normalised": ((NCHW / 128 - 1, Y), "has values from -1 to .*; expected floats in .0, 1.. Undo their normalisation"),
    "NaN": ((torch.full((40, 3, 6, 5), torch.nan), Y), "expected floats in"),
    "int32": ((X.astype(np.int32), Y), "is of int32; expected uint8, or floats"),
    "two channels": ((X[..., :2], Y), "where the channels are not plain to see. State layout"),
    "either layout": ((np.zeros((40, 3, 8, 3), dtype=np.uint8), Y), "not plain to see. State layout"),
    "a wrong layout": ({"train": (X, Y), "layout": "NCHW"}, "has 6 channels as NCHW; expected 1, 3 or 4"),
    "no such layout": ({"train": (X, Y), "layout": "CHWN"}, "layout must be NCHW or NHWC, got 'CHWN'"),
    "flat": ((X.reshape(40, -1), Y), "expected .N, H, W., .N, C, H, W. or .N, H, W, C."),
    "too few labels": ((X, Y[:-1]), "has 40 train images and 39 labels"),
    "one-hot labels": ((X, np.eye(2)[Y]), "expected one label an image"),
    "negative labels": ((X, Y - 1), "must hold whole numbers from 0 on"),
    "float labels": ((X, Y / 2), "must hold whole numbers from 0 on"),
    "an unknown part": ({"train": (X, Y), "dev": (X, Y)}, "data has the parts train, dev"),
    "no training part": ({"test": (X, Y)}, "expected train"),
    "a number": (3, "data for train is int; expected .images, labels. or a Dataset"),
    "train and test alike": ({"train": (X, Y), "test": (X, Y)}, "40 of the 40 test images of data are copies of train"),
    "other shapes": ({"train": (X, Y), "test": (X[:, 1:], Y)}, "differ in shape: train"),
    "an unknown label in test": (
        {"train": (X[:20], Y[:20]), "test": (X[20:], Y[20:] + 5)},
        "has the label 6 in test, and 2 classes",
    ),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_arrays_are_refused_with_the_cure(name: str, tmp_path: Path) -> None:
    data, text = BAD_ARRAYS[name]
    with pytest.raises(DataProblem, match=text):
        keep_arrays(data, tmp_path / "mine")
    assert not list(tmp_path.iterdir()), "what cannot be read is not written"


class Labelled(Named):
    """Stands in for Hugging Face's Dataset: the label's feature has names."""

    def __init__(self, names: Any = ("even", "odd"), key: str = "label") -> None:
        super().__init__()
        self.features = {"image": object(), key: SimpleNamespace(names=names) if names else object()}


class Classes(Own):
    """Stands in for torchvision's: `classes` in the order of the labels."""

    def __init__(self, classes: Any = ("even", "odd")) -> None:
        super().__init__()
        self.classes = classes


NAMED: dict[str, tuple[Any, list[str]]] = {
    "a feature's": (Labelled(), ["even", "odd"]),
    "a feature's of another key": (Labelled(["even", "odd"], "fine_label"), ["even", "odd"]),
    "of a feature without": (Labelled(None), ["0", "1"]),
    "classes": (Classes(), ["even", "odd"]),
    "classes of a subset of a subset": (torch.utils.data.Subset(torch.utils.data.Subset(Classes(), range(40)), range(40)), ["even", "odd"]),
    "classes with synonyms": (Classes([("even", "straight"), ("odd",)]), ["0", "1"]),
    "classes that are none": (Classes([]), ["0", "1"]),
    "stated ones go before": ({"train": Classes(), "class_names": ["a", "b"]}, ["a", "b"]),
    "stated ones settle a difference": (
        {"train": torch.utils.data.Subset(Classes(), range(30)), "test": torch.utils.data.Subset(Labelled(("EVEN", "ODD")), range(30, 40)), "class_names": ["a", "b"]},
        ["a", "b"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NAMED)
def test_a_dataset_brings_its_class_names(name: str, tmp_path: Path) -> None:
    data, expected = NAMED[name]
    splits = load("npz", seed=0, data_dir=str(keep_arrays(data, tmp_path / "mine")))
    assert list(splits.class_names) == expected


def test_class_names_that_differ_are_refused(tmp_path: Path) -> None:
    data = {"train": Classes(), "test": Classes(("odd", "even"))}
    with pytest.raises(DataProblem, match="for train and test name their classes even, odd and odd, even; expected the same"):
        keep_arrays(data, tmp_path / "mine")
    with pytest.raises(DataProblem, match="has the label 1 in train, and 1 classes"):
        keep_arrays(Classes(["even"]), tmp_path / "mine")


@pytest.mark.parametrize("mode", ["P", "CMYK", "HSV"])
def test_pil_images_of_other_colours_are_refused(mode: str, tmp_path: Path) -> None:
    class Palette(Named):
        def __getitem__(self, index: int) -> Any:
            return {"image": Image.fromarray(X[index]).convert(mode), "label": int(Y[index])}

    with pytest.raises(DataProblem, match=f"has the mode {mode}; expected L or RGB. Convert it"):
        keep_arrays(Palette(), tmp_path / "mine")


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("form", [None, "numpy", "torch"])
def test_a_dataset_of_hugging_face(mode: str, form: str | None, tmp_path: Path) -> None:
    """Their own objects, where the package is installed; `Labelled` stands in for them elsewhere."""
    datasets = pytest.importorskip("datasets", reason="datasets is not installed: see 'Other libraries' in CONTRIBUTING.md")
    datasets.disable_progress_bars()
    names = ["ant", "bee", "cow"]
    features = datasets.Features({"image": datasets.Image(mode=mode), "label": datasets.ClassLabel(names=names)})

    def made(count: int, seed: int) -> tuple[np.ndarray, Any]:
        shape = (count, 8, 8) if mode == "L" else (count, 8, 8, 3)
        pixels = np.random.default_rng(seed).integers(0, 255, shape, dtype=np.uint8)
        return pixels, datasets.Dataset.from_dict(
            {"image": [Image.fromarray(x) for x in pixels], "label": [i % 3 for i in range(count)]}, features=features
        ).with_format(form)

    (train, first), (val, second), (test, third) = (made(count, seed) for seed, count in enumerate((30, 9, 12)))
    file = keep_arrays(datasets.DatasetDict(train=first, validation=second, test=third), tmp_path / "whole")
    splits = load("npz", seed=0, data_dir=str(file))
    assert list(splits.class_names) == names
    for images, pixels in ((splits.train, train), (splits.validation, val), (splits.test, test)):
        expected = torch.from_numpy(pixels[:, None] if mode == "L" else pixels.transpose(0, 3, 1, 2))
        assert torch.equal(images.pixels, expected)
        assert images.labels.tolist() == [i % 3 for i in range(len(pixels))]
    quick: dict[str, Any] = {"epochs": 1, "batch_size": 10, "attack_steps": 1, "validation_steps": 1, "filters": 4, "quiet": True}
    run = fl.train(data=first, epsilon=0.03, out=tmp_path / "run", **quick)
    assert list(run.data().class_names) == names
    assert len(run.data().train) == 21, "the parts that are missing are cut off"


def test_a_hostile_npz_runs_nothing(tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", x_train=np.array([{"a": 1}], dtype=object), y_train=Y)
    with pytest.raises(DataProblem, match="cannot be read as .npz"):
        load("npz", seed=0, data_dir=str(tmp_path / "bad.npz"))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "bad.npz").read_bytes()[:100])
    with pytest.raises(DataProblem, match="cannot be read as .npz"):
        load("npz", seed=0, data_dir=str(tmp_path / "cut.npz"))


def test_other_data_of_an_earlier_run_is_not_written_over(tmp_path: Path) -> None:
    keep_arrays((X, Y), tmp_path / "mine")
    with pytest.raises(DataProblem, match="holds other data, which an earlier run may need"):
        keep_arrays((X[::-1].copy(), Y), tmp_path / "mine")


def test_a_setting_that_makes_no_sense_leaves_no_copy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="epsilon"):
        fl.train(data=(X, Y), epsilon=-1.0, out=tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_run_on_own_arrays_is_trained_evaluated_and_read_again(tmp_path: Path) -> None:
    quick: dict[str, Any] = {"epochs": 1, "batch_size": 14, "attack_steps": 1, "validation_steps": 1, "filters": 4, "quiet": True}
    run = fl.train(data={"train": (X, Y), "class_names": ["even", "odd"]}, epsilon=0.03, out=tmp_path / "run", **quick)
    assert (run.config.data, Path(run.config.data_dir)) == ("npz", tmp_path / "run.npz")
    verdicts = fl.evaluate(run, "clean,pgd-20", quiet=True)["run"]
    assert verdicts.class_names == ("even", "odd")
    assert len(verdicts.labels) == 8
    assert len(run.data().train) == 28
