"""Keep decoded images in memory, or in a file from which they are read batch by batch.

The system holds as much of the file in memory as fits. It lies in a cache folder, so that a second run, a resumed one and an
evaluation decode nothing again.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch

from faal_lab.catalogue import STORAGES
from faal_lab.errors import FaalLabError, check_name

SHARE = 0.25  # of the memory; "auto" keeps larger sets on disk
_FORMAT = "1"  # a change of decoding needs another number: what is kept was decoded by the old one
_FORGOTTEN = 86_400  # seconds without a write, after which a half-written file is nobody's
_ADVISES = hasattr(os, "posix_fadvise")
_GROUPS, _OWN_GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


class StorageError(FaalLabError, OSError):
    """Images that fit neither in memory nor on the disk; the message names the cure."""


class OnDisk:
    """Images in a file, uint8 [N, C, H, W]. Indexed like a tensor, but each access reads; always on the CPU."""

    dtype, device = torch.uint8, torch.device("cpu")

    def __init__(self, file: Path, rows: torch.Tensor | None = None) -> None:
        self.file = file
        with open(file, "rb") as stream:
            np.lib.format.read_magic(stream)
            (count, *each), _, _ = np.lib.format.read_array_header_1_0(stream)
            self._start, self._each = stream.tell(), tuple(each)
        self.rows = torch.arange(count) if rows is None else rows  # int64 [N], places in the file
        self._size = int(np.prod(self._each, dtype=np.int64))  # bytes of an image
        # pages that come again after an epoch alone would push the network's out of memory, if they cannot all stay
        self._passing = _ADVISES and file.stat().st_size > memory() / 2

    @property
    def shape(self) -> torch.Size:
        """The shape, as of a tensor."""
        return torch.Size([len(self.rows), *self._each])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: torch.Tensor | int | slice) -> torch.Tensor:
        rows = self._rows(index)
        return torch.from_numpy(self._read(rows)) if rows.ndim else self[rows[None]][0]

    def _rows(self, index: torch.Tensor | int | slice) -> torch.Tensor:
        return self.rows[index.cpu() if isinstance(index, torch.Tensor) else index]

    def _runs(self, rows: torch.Tensor) -> list[tuple[int, int, int]]:
        """Return where images lie in the file, in its order: begin in bytes, and the places low to high in `rows` of a run."""
        places = rows.numpy()
        bounds = [0, *(np.flatnonzero(np.diff(places) != 1) + 1).tolist(), len(places)]
        return sorted((self._start + int(places[low]) * self._size, low, high) for low, high in pairwise(bounds) if low < high)

    def _read(self, rows: torch.Tensor) -> np.ndarray:
        found, runs = np.empty((len(rows), *self._each), dtype=np.uint8), self._runs(rows)
        try:
            with open(self.file, "rb", buffering=0) as stream:
                if _ADVISES and len(runs) > 1:
                    os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_RANDOM)  # the neighbours are not wanted
                for begin, low, high in runs:
                    view: Any = found[low:high]
                    stream.seek(begin)
                    if stream.readinto(view) < (high - low) * self._size:
                        raise StorageError(f"{self.file} is damaged: it ends early. Delete it; it is made again.")
                if self._passing:
                    self._advise(stream.fileno(), runs, os.POSIX_FADV_DONTNEED)
        except FileNotFoundError as error:
            raise StorageError(f"{self.file}, which holds the images, was removed meanwhile. Start again.") from error
        return found

    def ahead(self, index: torch.Tensor) -> None:
        """Have the system fetch the images `index` [B] from the disk while others are worked on. Not every system can."""
        if _ADVISES and self.file.exists():
            with open(self.file, "rb", buffering=0) as stream:
                self._advise(stream.fileno(), self._runs(self._rows(index)), os.POSIX_FADV_WILLNEED)

    def _advise(self, file: int, runs: list[tuple[int, int, int]], advice: int) -> None:
        """Advise the system on whole pages: of a part of a page it takes no advice."""
        for begin, low, high in runs:
            first = begin - begin % mmap.PAGESIZE
            end = -(-(begin + (high - low) * self._size) // mmap.PAGESIZE) * mmap.PAGESIZE
            os.posix_fadvise(file, first, end - first, advice)

    def part(self, index: torch.Tensor | slice) -> OnDisk:
        """Return the images at `index` [K] without reading them."""
        return OnDisk(self.file, self._rows(index))

    def joined(self, other: OnDisk) -> OnDisk:
        """Return these images and then those of another part of the same file."""
        return OnDisk(self.file, torch.cat([self.rows, other.rows]))

    def split(self, size: int) -> Iterator[torch.Tensor]:
        """Yield `size` images at once, in order."""
        return (self[slice(start, start + size)] for start in range(0, len(self), size))


def memory() -> int:
    """Return the memory of this machine, or of the container or job that limits it, in bytes."""
    import psutil

    limits = [psutil.virtual_memory().total]
    for file in _limits():
        with suppress(OSError, ValueError):  # "max": no limit
            limits.append(int(file.read_text()))
    return min(limits)


def free_memory(device: torch.device) -> int:
    """Return the bytes that this process can still take on a device."""
    import psutil

    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    return min(psutil.virtual_memory().available, memory() - psutil.Process().memory_info().rss)


def _limits() -> Iterator[Path]:
    """Yield the files with the limits of this process's control group and of those around it."""
    lines: list[str] = []
    with suppress(OSError):  # not Linux
        lines = _OWN_GROUP.read_text().splitlines()
    for line in lines:
        _, kinds, path = line.split(":", 2)
        root, name = (_GROUPS / "memory", "memory.limit_in_bytes") if kinds else (_GROUPS, "memory.max")
        if not kinds or "memory" in kinds.split(","):
            own = PurePosixPath("/", path)
            yield from (root / str(place).lstrip("/") / name for place in (own, *own.parents))


def cache_folder() -> Path:
    """Return the folder of decoded images: FAAL_LAB_CACHE, or .cache/faal_lab in the home folder."""
    stated = os.environ.get("FAAL_LAB_CACHE", "")
    return Path(stated).expanduser() if stated else Path.home() / ".cache" / "faal_lab"


def kept(
    shape: tuple[int, ...], storage: str, identity: Sequence[object], fill: Callable[[np.ndarray], list[str]]
) -> tuple[torch.Tensor | OnDisk, list[str]]:
    """Return images of `shape` [N, C, H, W] and the notes on them, which `fill` writes and returns.

    `identity` tells this set from all others: a file of the same identity is taken as it is. Raises StorageError, and what `fill`
    raises; no half-written file stays.
    """
    check_name("storage", storage, STORAGES)
    size = int(np.prod(shape, dtype=np.int64))
    if storage == "memory" or (storage == "auto" and size <= SHARE * memory()):
        try:
            pixels = np.empty(shape, dtype=np.uint8)
        except MemoryError as error:
            raise StorageError(f"The images take {size / 1e9:.1f} GB, more memory than there is. Set storage=disk.") from error
        return torch.from_numpy(pixels), fill(pixels)
    key = hashlib.sha256(json.dumps([_FORMAT, shape, *identity], default=str).encode()).hexdigest()[:32]
    file = cache_folder() / f"{key}.npy"
    about = file.with_suffix(".json")
    if not (file.exists() and about.exists()):
        _write(file, about, shape, size, fill)
    said = json.loads(about.read_text(encoding="utf-8"))["notes"]
    if storage == "auto":
        share = f"{SHARE:.0%} of the memory ({memory() / 1e9:.1f} GB)"
        said = [*said, f"The images take {size / 1e9:.1f} GB, more than {share}: they are kept decoded in {file}."]
    return OnDisk(file), said


def _write(file: Path, about: Path, shape: tuple[int, ...], size: int, fill: Callable[[np.ndarray], list[str]]) -> None:
    cure = "Set FAAL_LAB_CACHE to a folder on a larger disk, or make the images smaller by image_size."
    half = file.with_name(f"{file.stem}-{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        for left in file.parent.glob("*.part"):  # of a process that was killed
            if time.time() - left.stat().st_mtime > _FORGOTTEN:
                left.unlink()
        free = shutil.disk_usage(file.parent).free
        if size > free:
            raise StorageError(f"The images take {size / 1e9:.1f} GB, and {file.parent} has {free / 1e9:.1f} GB left. {cure}")
        written = np.lib.format.open_memmap(half, "w+", np.uint8, shape)
        if hasattr(os, "posix_fallocate"):  # a full disk is an error now, and not a signal at a later write
            with open(half, "rb+") as stream:
                os.posix_fallocate(stream.fileno(), 0, half.stat().st_size)
        notes = fill(written)
        written.flush()
        about.write_text(json.dumps({"notes": notes}), encoding="utf-8")
        os.replace(half, file)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"Decoded images cannot be kept in {file.parent}: {error}. {cure}") from error
    finally:
        with suppress(OSError):
            half.unlink(missing_ok=True)
