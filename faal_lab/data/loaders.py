"""Data sets by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from faal_lab.data.dataset import Images, Splits
from faal_lab.data.folder import load_folder
from faal_lab.data.problem import DataProblem
from faal_lab.data.split import split_indices
from faal_lab.names import check_name

_DIGITS_TRAIN, _DIGITS_VALIDATION = 1000, 200  # the other 597 of 1,797 are the test split


def _load_digits(seed: int, data_dir: str, image_size: int) -> Splits:
    """scikit-learn's bundled handwritten digits: 8x8 pixels in 0..16, ten classes; no download."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("The digits come with scikit-learn: pip install scikit-learn") from error
    bunch: Any = load_digits()
    pixels = torch.from_numpy(bunch.images.astype(np.uint8))[:, None]
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    parts = split_indices(bunch.target, (_DIGITS_TRAIN, _DIGITS_VALIDATION), seed)
    train, validation, test = (Images(pixels[part], labels[part], pixel_max=16) for part in parts)
    return Splits("digits", tuple(str(d) for d in range(10)), train, validation, test, augmentation="none")


LOADERS: dict[str, Callable[[int, str, int], Splits]] = {"digits": _load_digits, "folder": load_folder}


def load(name: str, *, seed: int, data_dir: str = "", image_size: int = 0) -> Splits:
    """Load the data set `name` split by `seed`; `data_dir` and `image_size` are for "folder" (0 keeps the images' size).

    Raises UnknownName, or DataProblem where the images cannot be learned from.
    """
    check_name("data set", name, LOADERS)
    if name == "folder" and not data_dir:
        raise DataProblem("data='folder' needs data_dir, a folder with one sub-folder of images for each class.")
    splits = LOADERS[name](seed, str(Path(data_dir).expanduser()) if data_dir else "", image_size)
    counts = torch.bincount(splits.train.labels, minlength=splits.num_classes)
    missing = [splits.class_names[c] for c in (counts == 0).nonzero().flatten().tolist()]
    if missing:
        raise DataProblem(
            f"No training image of class {', '.join(missing)}: its robustness cannot be learned. Add images, or remove the class."
        )
    return splits


__all__ = ["LOADERS", "DataProblem", "load"]
