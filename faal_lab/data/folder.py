"""Read a folder of images with one sub-folder per class, below `train/` and `test/` or split by seed.

Reading is the cost: each image is decoded once and stays in memory as uint8.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from faal_lab.data.images import DataProblem, Images, Splits, split_indices
from faal_lab.runs.progress import bar

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
_TEST, _VALIDATION = 0.2, 0.1  # fractions, if the folder has no parts of its own


def _classes(root: Path) -> list[str]:
    return sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _read(root: Path, classes: list[str], image_size: int) -> tuple[torch.Tensor, np.ndarray]:
    """Read all images under `root/<class>/`: uint8 [N, 3, H, W], and their labels [N]."""
    from PIL import Image, UnidentifiedImageError

    files = [(f, c) for c, name in enumerate(classes) for f in sorted((root / name).rglob("*")) if f.suffix.lower() in _SUFFIXES]
    if not files:
        raise DataProblem(f"No image found under {root} (looked for {', '.join(sorted(_SUFFIXES))}).")
    if all(file.parent.parent != root for file, _ in files):
        raise DataProblem(
            f"No class folder of {root} holds images itself, only folders of images. Did you mean data_dir={root / classes[0]}?"
        )
    arrays, first = [], None
    with bar(f"reading {root.name}", len(files), "image", quiet=len(files) < 2000) as told:
        for number, (file, _) in enumerate(files, 1):
            told.at(number)
            try:
                with Image.open(file) as opened:
                    image = opened.convert("RGB")
            except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
                raise DataProblem(f"Cannot read the image {file}: {error}. Repair it, or remove it.") from error
            if image_size:
                image = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
            first = first or (file, image.size)
            if image.size != first[1]:
                raise DataProblem(
                    f"Images differ in size: {first[0].name} is {first[1][0]}x{first[1][1]}, {file.name} is "
                    f"{image.size[0]}x{image.size[1]}. Pass image_size=32 (or another side) to resize them all."
                )
            arrays.append(np.asarray(image, dtype=np.uint8))
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
    return pixels, np.array([label for _, label in files], dtype=np.int64)


def _part(pixels: torch.Tensor, labels: np.ndarray, indices: torch.Tensor) -> Images:
    return Images(pixels[indices], torch.from_numpy(labels)[indices])


def _cut(labels: np.ndarray, sizes: tuple[float, ...], seed: int, root: Path) -> list[torch.Tensor]:
    try:
        return split_indices(labels, sizes, seed)
    except ValueError as error:
        raise DataProblem(f"Too few images under {root} to split them by class: {error}") from error


def load_folder(seed: int, data_dir: str, image_size: int, download: bool = False) -> Splits:
    """Read the folder `data_dir`, in one of the two forms that the module docstring gives.

    With `train/` and `test/`, validation is 10 % of the training images. Otherwise validation is 10 % and test 20 % of all.
    Raises DataProblem.
    """
    root = Path(data_dir)
    if not root.is_dir():
        raise DataProblem(f"data_dir {root} is not a folder.")
    divided = (root / "train").is_dir() and (root / "test").is_dir()
    source = root / "train" if divided else root
    classes = _classes(source)
    if len(classes) < 2:
        raise DataProblem(
            f"{source} has {len(classes)} class folder{'s' if len(classes) != 1 else ''} ({', '.join(classes) or 'none'}); "
            "at least two are needed, one sub-folder of images for each class."
        )
    pixels, labels = _read(source, classes, image_size)
    name = root.name
    if not divided:
        parts = _cut(labels, (1 - _TEST - _VALIDATION, _VALIDATION), seed, root)
        train, validation, test = (_part(pixels, labels, part) for part in parts)
        return Splits(name, tuple(classes), train, validation, test, augmentation="crop-flip", own_test=False)
    unknown = sorted(set(_classes(root / "test")) - set(classes))
    if unknown:
        raise DataProblem(f"Class {', '.join(unknown)} is in {root / 'test'} but absent from training ({root / 'train'}).")
    test_pixels, test_labels = _read(root / "test", classes, image_size)
    if test_pixels.shape[1:] != pixels.shape[1:]:
        raise DataProblem(
            f"Training images are {tuple(pixels.shape[2:])}, test images {tuple(test_pixels.shape[2:])}: "
            "pass image_size=32 (or another side) to resize them all."
        )
    train_part, validation_part = _cut(labels, (1 - _VALIDATION,), seed, root)
    test = Images(test_pixels, torch.from_numpy(test_labels))
    train, validation = _part(pixels, labels, train_part), _part(pixels, labels, validation_part)
    return Splits(name, tuple(classes), train, validation, test, augmentation="crop-flip")
