"""Keep a user's own arrays, tensors or Dataset as one .npz file, and read such a file.

A file can be read again by a resumed run, a child process, a sweep and an evaluation; an object in a notebook cannot.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch

from faal_lab.data.images import DataProblem, Images, Splits, note
from faal_lab.data.parts import assembled

_PARTS = {"train": "train", "validation": "val", "test": "test"}  # part -> the end of its arrays' names, x_train and y_train
_CHANNELS = (1, 3, 4)
_LAYOUTS = ("NCHW", "NHWC")
_KEYS = (("image", "img"), ("label", "labels", "fine_label"))  # of an item by name, as Hugging Face's sets have
_OTHER_COLOURS = ("P", "PA", "CMYK", "YCbCr", "HSV", "LAB")  # modes of PIL whose numbers are no grey, red, green or blue


def load_npz(seed: int, data_dir: str, image_size: int, download: bool = False) -> Splits:
    """Read the .npz file `data_dir` with x_train, y_train and, where they are there, x_val, y_val, x_test, y_test.

    `layout` (NCHW or NHWC) and `class_names` may be there, too. Raises DataProblem.
    """
    source = Path(data_dir)
    if image_size:
        raise DataProblem("image_size is for files of images. Resize the arrays before they are saved.")
    try:
        with open(source, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            held = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, AttributeError, BadZipFile) as error:
        raise DataProblem(f"{source} cannot be read as .npz: {error}") from error
    layout = str(held["layout"]) if "layout" in held else ""
    parts = {}
    for part, end in _PARTS.items():
        if f"x_{end}" in held:
            if f"y_{end}" not in held:
                raise DataProblem(f"{source} has x_{end} and no y_{end}, the labels. It has {', '.join(held)}.")
            parts[part] = (held[f"x_{end}"], held[f"y_{end}"])
    if "train" not in parts:
        raise DataProblem(f"{source} has {', '.join(held) or 'nothing'}; expected x_train and y_train at least.")
    names = [str(name) for name in held["class_names"]] if "class_names" in held else None
    return _splits(parts, names, layout, seed, str(source))


def _splits(parts: Mapping[str, tuple[Any, Any]], names: Sequence[str] | None, layout: str, seed: int, where: str) -> Splits:
    labels = {part: _labels(y, f"{where}: y_{_PARTS[part]}") for part, (_, y) in parts.items()}
    classes = names or [str(c) for c in range(int(labels["train"].max()) + 1)]
    found = {}
    for part, (x, _) in parts.items():
        pixels = _pixels(np.asarray(x), layout, f"{where}: x_{_PARTS[part]}")
        if len(pixels) != len(labels[part]):
            raise DataProblem(f"{where} has {len(pixels)} {part} images and {len(labels[part])} labels; expected as many.")
        if int(labels[part].max()) >= len(classes):
            raise DataProblem(f"{where} has the label {int(labels[part].max())} in {part}, and {len(classes)} classes from 0 on.")
        found[part] = Images(pixels, labels[part])
    shapes = {part: tuple(images.pixels.shape[1:]) for part, images in found.items()}
    if len(set(shapes.values())) > 1:
        raise DataProblem(f"Images of {where} differ in shape: {', '.join(f'{p} {s}' for p, s in shapes.items())}.")
    return assembled(Path(where).stem, classes, found, seed, where)


def _labels(values: Any, what: str) -> torch.Tensor:
    labels = np.asarray(values).squeeze()
    if labels.ndim != 1 or not len(labels):
        raise DataProblem(f"{what} has the shape {np.shape(values)}; expected one label an image.")
    if labels.dtype.kind not in "iu" or labels.min() < 0:
        raise DataProblem(f"{what} must hold whole numbers from 0 on, got {labels.dtype} from {labels.min()} to {labels.max()}.")
    return torch.from_numpy(labels.astype(np.int64))


def _pixels(x: np.ndarray, layout: str, what: str) -> torch.Tensor:
    """Return uint8 [N, C, H, W] of an array of images, grey [N, H, W] or in one of two layouts."""
    if x.ndim == 3:
        x, layout = x[:, None], "NCHW"
    if x.ndim != 4 or not len(x):
        raise DataProblem(f"{what} has the shape {x.shape}; expected [N, H, W], [N, C, H, W] or [N, H, W, C].")
    if not layout:
        fits = [name for name, axis in zip(_LAYOUTS, (1, 3), strict=True) if x.shape[axis] in _CHANNELS]
        if len(fits) != 1:
            raise DataProblem(
                f"{what} has the shape {x.shape}, where the channels are not plain to see. State layout: NCHW or NHWC."
            )
        layout = fits[0]
    if layout not in _LAYOUTS:
        raise DataProblem(f"layout must be NCHW or NHWC, got {layout!r}.")
    x = np.moveaxis(x, 3, 1) if layout == "NHWC" else x
    if x.shape[1] not in _CHANNELS:
        raise DataProblem(f"{what} has {x.shape[1]} channels as {layout}; expected 1, 3 or 4.")
    if x.dtype == np.uint8:
        return torch.from_numpy(np.ascontiguousarray(x))
    if x.dtype.kind != "f":
        raise DataProblem(f"{what} is of {x.dtype}; expected uint8, or floats in [0, 1].")
    low, high = float(x.min()), float(x.max())
    if not (low >= 0 and high <= 1):  # a NaN fails, too
        raise DataProblem(f"{what} has values from {low:g} to {high:g}; expected floats in [0, 1]. Undo their normalisation.")
    levels = np.rint(255 * x.astype(np.float64)).astype(np.uint8)
    if np.abs(levels / 255 - x).max() > 1e-6:
        note(f"{what}: floats were rounded to 256 levels.")
    return torch.from_numpy(np.ascontiguousarray(levels))


def keep_arrays(data: Any, out: str | os.PathLike[str]) -> Path:
    """Check a user's own data and write it to `out`.npz; return the path.

    `data` is images with labels, (x, y); a map-style Dataset of (image, label); or a dict of these for train, validation and
    test, which may also have `class_names` and `layout`. Class names that are not stated are those of the Datasets. Raises
    DataProblem.
    """
    given = dict(data) if isinstance(data, Mapping) else {"train": data}
    extra = {name: np.asarray(given.pop(name)) for name in ("class_names", "layout") if name in given}
    if "class_names" not in extra and (names := _class_names(given)):
        extra["class_names"] = np.asarray(names)
    unknown = set(given) - set(_PARTS)
    if unknown or "train" not in given:
        raise DataProblem(f"data has the parts {', '.join(map(str, given))}; expected train, and if there are: validation, test.")
    arrays = {part: _pair(part, value) for part, value in given.items()}
    names = [str(name) for name in extra["class_names"]] if "class_names" in extra else None
    _splits(arrays, names, str(extra.get("layout", "")), 0, "data")  # what cannot be read is not written
    path = Path(f"{os.fspath(out)}.npz")
    held = {
        f"{axis}_{_PARTS[part]}": value for part, pair in arrays.items() for axis, value in zip("xy", pair, strict=True)
    } | extra
    if path.exists():
        with np.load(path, allow_pickle=False) as file:
            if set(file.files) != set(held) or not all(np.array_equal(file[name], held[name]) for name in held):
                raise DataProblem(f"{path} holds other data, which an earlier run may need. Choose another out, or remove it.")
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **held)  # pyright: ignore[reportArgumentType]
    return path


def _class_names(given: Mapping[str, Any]) -> list[str]:
    """Return the names that Datasets bring: `features["label"].names` of Hugging Face's, `classes` of torchvision's."""
    found: dict[str, list[str]] = {}
    for part, value in given.items():
        while isinstance(value, torch.utils.data.Subset):
            value = value.dataset
        features = getattr(value, "features", None)
        columns = features if isinstance(features, Mapping) else {}
        label = next((key for key in columns if key in _KEYS[1]), None)
        brought = getattr(value, "classes", None) if label is None else getattr(columns[label], "names", None)
        if isinstance(brought, list | tuple) and brought and all(isinstance(name, str) for name in brought):
            found[part] = list(brought)
    for part, names in found.items():
        first = next(iter(found))
        if names != found[first]:
            raise DataProblem(
                f"The Datasets for {first} and {part} name their classes {', '.join(found[first][:10])} and "
                f"{', '.join(names[:10])}; expected the same in the same order. If they mean the same, state class_names."
            )
    return next(iter(found.values()), [])


def _pair(part: str, value: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return images and labels as arrays, of a pair of arrays or tensors, or of a Dataset."""
    if isinstance(value, tuple | list) and len(value) == 2 and hasattr(value[0], "shape"):
        x, y = ((v.detach().cpu().numpy() if isinstance(v, torch.Tensor) else np.asarray(v)) for v in value)
        return x, y
    if not (hasattr(value, "__getitem__") and hasattr(value, "__len__")):
        raise DataProblem(
            f"data for {part} is {type(value).__name__}; expected (images, labels) or a Dataset with __len__ and __getitem__."
        )
    if not len(value):
        raise DataProblem(f"The Dataset for {part} is empty.")
    items = [_item(value[i]) for i in range(len(value))]
    shapes = sorted({x.shape for x, _ in items})
    if len(shapes) > 1:
        raise DataProblem(f"Images of the Dataset for {part} differ in shape, such as {shapes[0]} and {shapes[1]}. Resize them.")
    return np.stack([x for x, _ in items]), np.array([y for _, y in items])


def _item(item: Any) -> tuple[np.ndarray, int]:
    """Return image and label of one item: a pair, or a mapping with image and label, as Hugging Face's sets have."""
    if isinstance(item, Mapping):
        keys = [next((k for k in item if k in names), None) for names in _KEYS]
        if None in keys:
            raise DataProblem(f"An item of the Dataset has {', '.join(map(str, item))}; expected image and label.")
        item = tuple(item[key] for key in keys)
    x, y = item
    if getattr(x, "mode", "") in _OTHER_COLOURS:
        raise DataProblem(f"An image of the Dataset has the mode {x.mode}; expected L or RGB. Convert it by .convert('RGB').")
    x = x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)
    return x, int(y)
