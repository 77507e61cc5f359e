"""Keep a user's own arrays, tensors or Dataset as one .npz file, and read such a file.

A file can be read again by a resumed run, a child process, a sweep and an evaluation; an object in a notebook cannot.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile

import numpy as np
import torch

from faal_lab.data.images import DataProblem, Images, Splits, note
from faal_lab.data.parts import assembled
from faal_lab.data.storage import kept
from faal_lab.errors import FaalLabError
from faal_lab.runs.progress import bar

_PARTS = {"train": "train", "validation": "val", "test": "test"}  # part -> the end of its arrays' names, x_train and y_train
_CHANNELS = (1, 3, 4)
_LAYOUTS = ("NCHW", "NHWC")
_KEYS = (("image", "img"), ("label", "labels", "fine_label"))  # of an item by name, as Hugging Face's sets have
_OTHER_COLOURS = ("P", "PA", "CMYK", "YCbCr", "HSV", "LAB")  # modes of PIL whose numbers are no grey, red, green or blue
_BYTES = 16_000_000  # read from a file at once


def load_npz(seed: int, data_dir: str, image_size: int, download: bool = False, storage: str = "auto") -> Splits:
    """Read the .npz file `data_dir` with x_train, y_train and, where they are there, x_val, y_val, x_test, y_test.

    `layout` (NCHW or NHWC) and `class_names` may be there, too. Raises DataProblem.
    """
    if image_size:
        raise DataProblem("image_size is for files of images. Resize the arrays before they are saved.")
    return _read(Path(data_dir), seed, storage, data_dir)


def _read(source: Path, seed: int, storage: str, where: str) -> Splits:
    try:
        with open(source, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            return _splits(file, source.stat().st_mtime_ns, seed, storage, where)
    except (OSError, ValueError, EOFError, AttributeError, TypeError, BadZipFile) as error:
        if isinstance(error, FaalLabError):
            raise
        raise DataProblem(f"{where} cannot be read as .npz: {error}") from error


def _splits(file: Any, written: int, seed: int, storage: str, where: str) -> Splits:
    """Read the images of an open .npz, of the time `written`, a few at once: they need not fit in memory."""
    parts = {part: f"x_{end}" for part, end in _PARTS.items() if f"x_{end}" in file}
    for axis in parts.values():
        if f"y{axis[1:]}" not in file:
            raise DataProblem(f"{where} has {axis} and no y{axis[1:]}, the labels. It has {', '.join(file.files)}.")
    if "train" not in parts:
        raise DataProblem(f"{where} has {', '.join(file.files) or 'nothing'}; expected x_train and y_train at least.")
    labels = {part: _labels(file[f"y{axis[1:]}"], f"{where}: y{axis[1:]}") for part, axis in parts.items()}
    names = [str(name) for name in file["class_names"]] if "class_names" in file else None
    classes = names or [str(c) for c in range(int(labels["train"].max()) + 1)]
    layout, shapes, layouts = str(file["layout"]) if "layout" in file else "", {}, {}
    for part, axis in parts.items():
        shape = _shape(file, axis)
        layouts[part], (count, *shapes[part]) = _layout(shape, layout, f"{where}: {axis}")
        if count != len(labels[part]):
            raise DataProblem(f"{where} has {count} {part} images and {len(labels[part])} labels; expected as many.")
        if int(labels[part].max()) >= len(classes):
            raise DataProblem(f"{where} has the label {int(labels[part].max())} in {part}, and {len(classes)} classes from 0 on.")
    if any(shape != shapes["train"] for shape in shapes.values()):
        raise DataProblem(f"Images of {where} differ in shape: {', '.join(f'{p} {tuple(s)}' for p, s in shapes.items())}.")

    def fill(pixels: np.ndarray) -> list[str]:
        rounded, start = [], 0
        for part, axis in parts.items():
            what, changed = f"{where}: {axis}", False
            for chunk in _chunks(file, axis):
                levels, off = _levels(chunk, layouts[part], what)
                pixels[start : start + len(levels)] = levels
                start, changed = start + len(levels), changed or off
            rounded += [f"{what}: floats were rounded to 256 levels."] if changed else []
        return rounded

    identity = [(info.filename, info.file_size, info.CRC) for info in file.zip.infolist()]
    total = sum(len(own) for own in labels.values())
    pixels, notes = kept((total, *shapes["train"]), storage, [written, layout, identity], fill)
    for said in notes:
        note(said)
    whole, found, start = Images(pixels, torch.cat(list(labels.values()))), {}, 0
    for part in parts:
        found[part] = whole.part(slice(start, start + len(labels[part])))
        start += len(labels[part])
    return assembled(Path(where).stem, classes, found, seed, where)


def _shape(file: Any, name: str) -> tuple[int, ...]:
    with file.zip.open(f"{name}.npy") as stream:
        return _head(stream)[0]


def _head(stream: Any) -> tuple[tuple[int, ...], np.dtype, bool]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, kind = read(stream)
    if kind.hasobject:
        raise ValueError("an array holds Python objects; expected numbers.")
    return shape, kind, fortran


def _chunks(file: Any, name: str) -> Iterator[np.ndarray]:
    """Yield an array of an open .npz, a few rows at once."""
    with file.zip.open(f"{name}.npy") as stream:
        shape, kind, fortran = _head(stream)
        if fortran:  # column after column: no row is in one piece
            yield file[name]
            return
        total, *rest = shape
        each = kind.itemsize * int(np.prod(rest, dtype=np.int64))
        rows = max(1, _BYTES // each)
        for start in range(0, total, rows):
            count = min(rows, total - start)
            content = stream.read(count * each)
            if len(content) < count * each:
                raise EOFError(f"{name} ends early")
            yield np.frombuffer(content, dtype=kind).reshape(count, *rest)


def _labels(values: Any, what: str) -> torch.Tensor:
    labels = np.asarray(values).squeeze()
    if labels.ndim != 1 or not len(labels):
        raise DataProblem(f"{what} has the shape {np.shape(values)}; expected one label an image.")
    if labels.dtype.kind not in "iu" or labels.min() < 0:
        raise DataProblem(f"{what} must hold whole numbers from 0 on, got {labels.dtype} from {labels.min()} to {labels.max()}.")
    return torch.from_numpy(labels.astype(np.int64))


def _layout(shape: tuple[int, ...], layout: str, what: str) -> tuple[str, tuple[int, int, int, int]]:
    """Return the layout of an array of images, grey [N, H, W] or in one of two layouts, and its (N, C, H, W)."""
    if len(shape) == 3 and all(shape):
        return "NHW", (shape[0], 1, shape[1], shape[2])
    if len(shape) != 4 or not all(shape):
        raise DataProblem(f"{what} has the shape {shape}; expected [N, H, W], [N, C, H, W] or [N, H, W, C].")
    if not layout:
        fits = [name for name, axis in zip(_LAYOUTS, (1, 3), strict=True) if shape[axis] in _CHANNELS]
        if len(fits) != 1:
            raise DataProblem(
                f"{what} has the shape {shape}, where the channels are not plain to see. State layout: NCHW or NHWC."
            )
        layout = fits[0]
    if layout not in _LAYOUTS:
        raise DataProblem(f"layout must be NCHW or NHWC, got {layout!r}.")
    channels, height, width = shape[1:] if layout == "NCHW" else (shape[3], shape[1], shape[2])
    if channels not in _CHANNELS:
        raise DataProblem(f"{what} has {channels} channels as {layout}; expected 1, 3 or 4.")
    return layout, (shape[0], channels, height, width)


def _levels(x: np.ndarray, layout: str, what: str) -> tuple[np.ndarray, bool]:
    """Return some images as uint8 [N, C, H, W], and whether floats were rounded."""
    x = x[:, None] if layout == "NHW" else np.moveaxis(x, 3, 1) if layout == "NHWC" else x
    if x.dtype == np.uint8:
        return x, False
    if x.dtype.kind != "f":
        raise DataProblem(f"{what} is of {x.dtype}; expected uint8, or floats in [0, 1].")
    low, high = float(x.min()), float(x.max())
    if not (low >= 0 and high <= 1):  # a NaN fails, too
        raise DataProblem(f"{what} has values from {low:g} to {high:g}; expected floats in [0, 1]. Undo their normalisation.")
    levels = np.rint(255 * x.astype(np.float64)).astype(np.uint8)
    return levels, bool(np.abs(levels / 255 - x).max() > 1e-6)


def keep_arrays(data: Any, out: str | os.PathLike[str], storage: str = "auto") -> Path:
    """Check a user's own data and write it to `out`.npz; return the path.

    `data` is images with labels, (x, y); a map-style Dataset of (image, label); or a dict of these for train, validation and
    test, which may also have `class_names` and `layout`. Class names that are not stated are those of the Datasets, whose items
    are written one by one. Raises DataProblem.
    """
    given = dict(data) if isinstance(data, Mapping) else {"train": data}
    extra = {name: np.asarray(given.pop(name)) for name in ("class_names", "layout") if name in given}
    if "class_names" not in extra and (names := _class_names(given)):
        extra["class_names"] = np.asarray(names)
    unknown = set(given) - set(_PARTS)
    if unknown or "train" not in given:
        raise DataProblem(f"data has the parts {', '.join(map(str, given))}; expected train, and if there are: validation, test.")
    path = Path(f"{os.fspath(out)}.npz")
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with ZipFile(half, "w", ZIP_STORED) as file:
            for name, value in extra.items():
                _write(file, name, value)
            for part, value in given.items():
                _write_part(file, part, value)
        _read(half, 0, storage, "data")  # what cannot be read is not kept
        if path.exists():
            if _members(path) != _members(half):
                raise DataProblem(f"{path} holds other data, which an earlier run may need. Choose another out, or remove it.")
        else:
            half.rename(path)
    finally:
        half.unlink(missing_ok=True)
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


def _members(path: Path) -> set[tuple[str, int, int]]:
    with ZipFile(path) as file:
        return {(info.filename, info.file_size, info.CRC) for info in file.infolist()}


def _write(file: ZipFile, name: str, value: np.ndarray) -> None:
    with file.open(f"{name}.npy", "w", force_zip64=True) as stream:
        np.lib.format.write_array(stream, np.asarray(value, order="C"), allow_pickle=False)


def _write_part(file: ZipFile, part: str, value: Any) -> None:
    """Write images and labels of a part: of a pair of arrays or tensors, or of a Dataset, item by item."""
    x, y = f"x_{_PARTS[part]}", f"y_{_PARTS[part]}"
    if isinstance(value, tuple | list) and len(value) == 2 and hasattr(value[0], "shape"):
        for name, v in zip((x, y), value, strict=True):
            _write(file, name, v.detach().cpu().numpy() if isinstance(v, torch.Tensor) else np.asarray(v))
        return
    if not (hasattr(value, "__getitem__") and hasattr(value, "__len__")):
        raise DataProblem(
            f"data for {part} is {type(value).__name__}; expected (images, labels) or a Dataset with __len__ and __getitem__."
        )
    if not len(value):
        raise DataProblem(f"The Dataset for {part} is empty.")
    first, _ = _item(value[0])
    head = {"descr": np.lib.format.dtype_to_descr(first.dtype), "fortran_order": False, "shape": (len(value), *first.shape)}
    labels = []
    with (
        file.open(f"{x}.npy", "w", force_zip64=True) as stream,
        bar(f"reading {part}", len(value), "image", quiet=len(value) < 2000) as told,
    ):
        np.lib.format.write_array_header_1_0(stream, head)
        for i in range(len(value)):
            image, label = _item(value[i])
            if image.shape != first.shape or image.dtype != first.dtype:
                raise DataProblem(
                    f"Images of the Dataset for {part} differ in shape or type, such as {first.shape} {first.dtype} and "
                    f"{image.shape} {image.dtype}. Resize or convert them."
                )
            stream.write(np.ascontiguousarray(image).tobytes())
            labels.append(label)
            told.at(i + 1)
    _write(file, y, np.array(labels))


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
