"""Load a data set by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from faal_lab.catalogue import DATA_SETS, STORAGES, VALIDATIONS
from faal_lab.data.arrays import load_npz
from faal_lab.data.folder import load_csv, load_folder
from faal_lab.data.images import DataProblem, Images, Splits, long_tailed, split_indices
from faal_lab.data.storage import OnDisk, kept
from faal_lab.data.torchvision import SOURCES, load_torchvision
from faal_lab.errors import OwnPartError, check_name
from faal_lab.runs.files import tensors_sha256

_DIGITS_TRAIN, _DIGITS_VALIDATION = 1000, 200  # the other 597 of 1,797 images are the test split


def _load_digits(seed: int, data_dir: str, image_size: int, download: bool) -> Splits:
    """Load scikit-learn's bundled handwritten digits: 8x8 pixels in 0..16, ten classes; no download."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("The digits come with scikit-learn: pip install scikit-learn") from error
    bunch: Any = load_digits()
    pixels = torch.from_numpy(bunch.images.astype(np.uint8))[:, None]
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    parts = split_indices(bunch.target, (_DIGITS_TRAIN, _DIGITS_VALIDATION), seed)
    train, validation, test = (Images(pixels[part], labels[part], pixel_max=16) for part in parts)
    return Splits("digits", tuple(str(d) for d in range(10)), train, validation, test, augmentation="none", own_test=False)


# The arguments are the seed of the split, data_dir, image_size, download; a loader ignores those that it does not need. Those of
# files take `storage`, too.
LOADERS: dict[str, Callable[..., Splits]] = {
    "digits": _load_digits,
    "folder": load_folder,
    "csv": load_csv,
    "npz": load_npz,
    **{name: partial(load_torchvision, name) for name in SOURCES},
}


_NEEDS = {
    "folder": "a folder with one sub-folder of images for each class",
    "csv": "a CSV with the columns file and label, and split if there are parts",
    "npz": "a file with the arrays x_train and y_train, and x_test, y_test, x_val, y_val if there are",
}


def _without_validation(splits: Splits) -> Splits:
    """Return the validation images to training, as in published protocols that train on all images."""
    nothing = splits.validation.part(torch.empty(0, dtype=torch.int64))
    return replace(splits, train=splits.train.joined(splits.validation), validation=nothing)


def _on_disk(splits: Splits) -> Splits:
    """Return a data set that was read into memory with its pixels in a file."""
    parts = ("train", "validation", "test")
    pixels = torch.cat([getattr(splits, part).pixels for part in parts])
    labels = torch.cat([getattr(splits, part).labels for part in parts])

    def fill(array: np.ndarray) -> list[str]:
        array[:] = pixels.numpy()
        return []

    filed, _ = kept(tuple(pixels.shape), "disk", [tensors_sha256({"pixels": pixels})], fill)
    whole, found, start = replace(splits.train, pixels=filed, labels=labels), {}, 0
    for part in parts:
        found[part] = whole.part(slice(start, start + len(getattr(splits, part))))
        start += len(found[part])
    return replace(splits, **found)


def load(
    name: str,
    *,
    seed: int,
    data_dir: str = "",
    image_size: int = 0,
    download: bool = False,
    imbalance: float = 1.0,
    validation: str = "split",
    storage: str = "auto",
) -> Splits:
    """Load a data set, split by `seed`.

    Args:
        name: a key of `LOADERS`, or the name that an installed package gives its loader.
        seed: the seed of the split.
        data_dir: the folder of the images, or of torchvision's files (empty: `data` in the working directory); unused for digits.
        image_size: resize images to this side in pixels (0 keeps their size); unused for digits.
        download: fetch missing files. Nothing is fetched otherwise.
        imbalance: above 1, thin out the training images by class (see `long_tailed`).
        validation: "split"; "none" trains on the validation images too and leaves that part empty; "test" also puts the test
            images there, as released codes do that select on them.
        storage: "memory", "disk" (a file in the cache folder), or "auto": disk for more than a quarter of the memory.

    Raises:
        UnknownName: there is no such data set or validation.
        DataProblem: the images cannot be learned from.
        StorageError: there is no room for them.
        ConfigError: imbalance would leave a class without an image.
    """
    check_name("data set", name, DATA_SETS)
    check_name("storage", storage, STORAGES)
    check_name("validation", validation, VALIDATIONS)
    if name in _NEEDS and not data_dir:
        raise DataProblem(f"data={name!r} needs data_dir, {_NEEDS[name]}.")
    loader = LOADERS[name] if name in LOADERS else DATA_SETS.load(name)
    loader = partial(loader, storage=storage) if name in _NEEDS else loader
    splits = loader(seed, str(Path(data_dir).expanduser()) if data_dir else "", image_size, download)
    if not isinstance(splits, Splits):
        raise OwnPartError(f"{DATA_SETS[name].label} must return faal_lab.data.images.Splits, got {type(splits).__name__}.")
    if storage == "disk" and not isinstance(splits.train.pixels, OnDisk):
        splits = _on_disk(splits)
    if validation != "split":
        splits = _without_validation(splits)
    if validation == "test":
        splits = replace(splits, validation=splits.test)
    counts = torch.bincount(splits.train.labels, minlength=splits.num_classes)
    missing = [splits.class_names[c] for c in (counts == 0).nonzero().flatten().tolist()]
    if missing:
        raise DataProblem(
            f"No training image of class {', '.join(missing)}: its robustness cannot be learned. Add images, or remove the class."
        )
    if imbalance != 1:
        kept = long_tailed(splits.train.labels.numpy(), splits.class_names, imbalance, seed)
        splits = replace(splits, train=splits.train.part(kept))
    return splits


__all__ = ["LOADERS", "DataProblem", "load"]
