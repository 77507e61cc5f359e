"""Load CIFAR-10, CIFAR-100, SVHN, STL-10, MNIST and Fashion-MNIST by torchvision.

torchvision compares hashes before it reads. It checks CIFAR's pickles, SVHN and STL-10 each time, but the archives of MNIST and
Fashion-MNIST only after a download. The files unpacked from those archives are plain numbers without a hash.
"""

from __future__ import annotations

import pickle
import warnings
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from faal_lab.data.images import DataProblem, Images, Splits, split_indices

_VALIDATION, _VALIDATION_MOST = 0.1, 3000  # a fraction of the training images; the most images
_CHUNK = 500  # images resized at once
_FOLDER = "data"  # in the working directory, if there is no data_dir


@dataclass(frozen=True)
class _Source:
    """One of torchvision's sets: its name there, and its files under the data folder."""

    kind: str  # the class in torchvision.datasets
    archives: tuple[str, ...]  # the files to fetch, or to copy by hand
    unpacked: tuple[str, ...]  # the files in them
    augmentation: str  # digits must not be mirrored
    option: str = "train"  # the argument that selects the part to read
    parts: tuple[Any, Any] = (True, False)
    labels: str = "targets"
    channels: int = 1  # the axis of [N, ...] that the channels are on


def _cifar(classes: int, folder: str) -> _Source:
    return _Source(f"CIFAR{classes}", (f"cifar-{classes}-python.tar.gz",), (folder,), "crop-flip", channels=3)


def _mnist(kind: str) -> _Source:
    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    files = tuple(f"{kind}/raw/{name}-ubyte" for name in names)
    return _Source(kind, tuple(f"{file}.gz" for file in files), files, "none")


_BY_SPLIT: dict[str, Any] = {"option": "split", "parts": ("train", "test"), "labels": "labels"}
_SVHN = ("train_32x32.mat", "test_32x32.mat")

SOURCES = {
    "cifar10": _cifar(10, "cifar-10-batches-py"),
    "cifar100": _cifar(100, "cifar-100-python"),
    "svhn": _Source("SVHN", _SVHN, _SVHN, "none", **_BY_SPLIT),
    "stl10": _Source("STL10", ("stl10_binary.tar.gz",), ("stl10_binary",), "crop-flip", **_BY_SPLIT),
    "mnist": _mnist("MNIST"),
    "fashion-mnist": _mnist("FashionMNIST"),
}

# torchvision raises these for files that are absent, damaged or unexpected; and if it cannot fetch them.
_UNREADABLE = (RuntimeError, OSError, ValueError, TypeError, LookupError, AssertionError, EOFError, pickle.UnpicklingError)
_UNFETCHED = (*_UNREADABLE, HTTPException)


def load_torchvision(name: str, seed: int, data_dir: str, image_size: int, download: bool) -> Splits:
    """Read the set `name` of SOURCES from `data_dir` (empty: the folder `data` in the working directory).

    Its own test images are the test split. Validation is 10 % of its training images but at most 3,000, by class and seed.
    Missing files are fetched only with `download`. `image_size` resizes images (pixels; 0 keeps their size). Raises DataProblem.
    """
    source, root = SOURCES[name], folder_of(data_dir)
    (pixels, labels, classes), (test_pixels, test_labels, _) = _obtained(name, source, root, download)
    held = min(round(_VALIDATION * len(labels)), _VALIDATION_MOST)
    try:
        train, validation = split_indices(labels.numpy(), (len(labels) - held,), seed)
    except ValueError as error:
        raise DataProblem(f"Too few images of {name} in {root.resolve()} to split them by class: {error}") from error
    pixels, test_pixels = resized(pixels, image_size), resized(test_pixels, image_size)
    first, second = Images(pixels[train], labels[train]), Images(pixels[validation], labels[validation])
    return Splits(name, classes, first, second, Images(test_pixels, test_labels), source.augmentation)


def folder_of(data_dir: str) -> Path:
    """Return the folder of torchvision's files: `data_dir`, or `data` in the working directory where that is empty."""
    return Path(data_dir or _FOLDER).expanduser()


def resized(pixels: torch.Tensor, side: int) -> torch.Tensor:
    """Resize uint8 images [N, C, H, W] to `side` x `side` (bilinear, antialiased).

    A `side` of 0 or of their own size returns them unchanged.
    """
    if not side or tuple(pixels.shape[2:]) == (side, side):
        return pixels
    chunks = []
    for chunk in pixels.split(_CHUNK):
        scaled = F.interpolate(chunk.to(torch.float32), (side, side), mode="bilinear", antialias=True)
        chunks.append(scaled.round().clamp(0, 255).to(torch.uint8))
    return torch.cat(chunks)


_Part = tuple[torch.Tensor, torch.Tensor, tuple[str, ...]]  # pixels uint8 [N, C, H, W], labels int64 [N], class names


def _obtained(name: str, source: _Source, root: Path, download: bool) -> list[_Part]:
    """Read both parts; if that fails and `download` is set, fetch them first. Raises DataProblem."""
    old = root / source.kind / "processed" / "training.pt"
    if old.exists():  # torchvision would read it first, without a check
        raise DataProblem(f"{old.resolve()} was made by an old torchvision and has no hash to check. Delete its folder.")
    try:
        return _read(source, root)
    except _UNREADABLE as error:
        if not download:
            raise (_damaged if _any_there(source, root) else _missing)(name, source, root, error) from error
    try:
        _opened(source, root, download=True)
        return _read(source, root)  # STL-10's files are checked only if they are read again after the download
    except _UNFETCHED as error:
        local = _any_there(source, root) and not isinstance(error, (OSError, HTTPException))
        raise (_damaged if local else _unfetched)(name, source, root, error) from error


def _opened(source: _Source, root: Path, *, download: bool) -> list[Any]:
    """Open both parts as torchvision's objects. Print nothing but a download's bar (to stderr)."""
    try:
        from torchvision import datasets
    except ImportError as error:
        raise ImportError(f"{source.kind} is read by torchvision: pip install torchvision") from error
    kind = getattr(datasets, source.kind)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"dtype\(\): align")  # numpy 2.4 warns about CIFAR's old pickles
        return [kind(root, **{source.option: part}, download=download) for part in source.parts]


def _read(source: _Source, root: Path) -> list[_Part]:
    return [_tensors(source, part) for part in _opened(source, root, download=False)]


def _tensors(source: _Source, part: Any) -> _Part:
    """Convert torchvision's arrays to our layout. Raises ValueError if they do not belong together."""
    pixels, labels = torch.as_tensor(part.data), torch.as_tensor(getattr(part, source.labels)).to(torch.int64)
    pixels = (pixels[:, None] if pixels.ndim == 3 else pixels).movedim(source.channels, 1).contiguous()
    names = tuple(map(str, range(10))) if source.kind == "SVHN" else tuple(getattr(part, "classes", ()))
    if len(pixels) != len(labels) or int(labels.max()) >= len(names):
        raise ValueError(f"{len(pixels)} images, {len(labels)} labels up to {int(labels.max())}, {len(names)} class names")
    return pixels, labels, names


def _any_there(source: _Source, root: Path) -> bool:
    return any((root / file).exists() for file in source.unpacked)


def _missing(name: str, source: _Source, root: Path, error: Exception) -> DataProblem:
    return DataProblem(
        f"{name} is not in {root.resolve()} (data_dir; the folder {_FOLDER!r} where none is given). Fetch it with --download "
        f"(download=True). Without a connection: {_by_hand(source, root)}"
    )


def _damaged(name: str, source: _Source, root: Path, error: Exception) -> DataProblem:
    return DataProblem(
        f"{name} in {root.resolve()} is damaged, incomplete or not the original ({_said(error)}). Delete "
        f"{', '.join(source.unpacked)} there and fetch it again with --download (download=True)."
    )


def _unfetched(name: str, source: _Source, root: Path, error: Exception) -> DataProblem:
    return DataProblem(f"{name} could not be fetched: {_said(error)}. Without a connection: {_by_hand(source, root)}")


def _by_hand(source: _Source, root: Path) -> str:
    return (
        f"copy {', '.join(source.archives)} into {root.resolve()} from a machine that fetched them with --download, "
        "and pass --download here too: what is there is checked and unpacked, not fetched."
    )


def _said(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
