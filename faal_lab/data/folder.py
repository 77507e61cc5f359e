"""Read images from folders, one a class, or from a CSV of files and labels.

A folder has the parts `train`, `val` and `test`, some of them, or none: then the parts are cut by seed. Each image is decoded
once and stays as uint8, in memory or in a file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from faal_lab.data.decode import decode
from faal_lab.data.images import DataProblem, Images, Splits, note
from faal_lab.data.parts import assembled
from faal_lab.data.storage import OnDisk, kept
from faal_lab.runs.progress import bar

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm"}
_NOT_OURS = {"__macosx", "thumbs.db", "desktop.ini"}  # left behind by operating systems
_NAMES = {
    "train": {"train", "training"}, "validation": {"val", "valid", "validation"}, "test": {"test", "testing"},
}  # fmt: skip
_COLUMNS = {
    "file": {"file", "filename", "path", "image"},
    "label": {"label", "class", "target"},
    "part": {"split", "part", "set"},
}


@dataclass(frozen=True)
class Listed:
    """The files of one part with their labels, and the files that were passed over."""

    files: list[Path]
    labels: list[int]
    skipped: list[Path]


def load_folder(seed: int, data_dir: str, image_size: int, download: bool = False, storage: str = "auto") -> Splits:
    """Read the folder `data_dir`. Raises DataProblem.

    `val` is the validation set where it exists, and otherwise 10 % of the training images. Without `test`, 20 % are cut off.
    """
    root = Path(data_dir)
    if not root.is_dir():
        raise DataProblem(f"data_dir {root} is not a folder.")
    folders = _parts(root)
    classes = _classes(folders["train"])
    parts = {part: _listed(folder, _matched(folder, classes, folders["train"])) for part, folder in folders.items()}
    return _splits(root, classes, parts, seed, image_size, storage)


def load_csv(seed: int, data_dir: str, image_size: int, download: bool = False, storage: str = "auto") -> Splits:
    """Read the CSV file `data_dir`: a row an image, with its file, its label and, where it is stated, its part.

    Paths are relative to the CSV. Raises DataProblem.
    """
    import pandas as pd

    source = Path(data_dir)
    try:
        table = pd.read_csv(source, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataProblem(f"{source} cannot be read as a CSV: {error}") from error
    named = {kind: [c for c in table.columns if c.strip().lower() in names] for kind, names in _COLUMNS.items()}
    for kind in ("file", "label"):
        if len(named[kind]) != 1:
            raise DataProblem(
                f"{source} has the columns {', '.join(table.columns)}; expected one named {kind} (and file, label, and split, if "
                "there are parts)."
            )
    part = [_part_name(word, source) for word in table[named["part"][0]]] if named["part"] else ["train"] * len(table)
    labels = table[named["label"][0]].tolist()
    classes = _distinct(sorted(set(labels)), source)
    parts = {
        name: Listed(
            [source.parent / f for f, p in zip(table[named["file"][0]], part, strict=True) if p == name],
            [classes.index(c) for c, p in zip(labels, part, strict=True) if p == name], [],
        )
        for name in _NAMES if name in part
    }  # fmt: skip
    missing = [file for listed in parts.values() for file in listed.files if not file.is_file()]
    if missing:
        raise DataProblem(f"{source} names {len(missing)} files that are not there, such as {missing[0]}.")
    return _splits(source, classes, parts, seed, image_size, storage)


def _part_name(word: str, source: Path) -> str:
    for part, names in _NAMES.items():
        if word.strip().lower() in names:
            return part
    raise DataProblem(f"{source} has a row of the part {word!r}; expected train, val or test.")


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not _foreign(p))


def _foreign(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in _NOT_OURS


def _parts(root: Path) -> dict[str, Path]:
    """Return part -> folder; a folder without parts is training as a whole. Names may have capitals."""
    found: dict[str, Path] = {}
    others = []
    for folder in _folders(root):
        part = next((part for part, names in _NAMES.items() if folder.name.lower() in names), "")
        if not part or not _folders(folder):  # a class may be called "train": it holds images, not folders
            others.append(folder.name)
        elif part in found:
            raise DataProblem(f"{root} has {found[part].name}/ and {folder.name}/; expected one folder of {part} images.")
        else:
            found[part] = folder
    if found and "train" not in found:
        raise DataProblem(
            f"{root} has {' and '.join(f'{p.name}/' for p in found.values())} and no train/; expected one folder a class in "
            "train/, or folders of classes alone, from which the parts are cut."
        )
    if found and others:
        note(f"Beside train/, {root} has {', '.join(others)}: not read.")
    return found or {"train": root}


def _distinct(classes: list[str], where: Path) -> list[str]:
    if len(classes) < 2:
        raise DataProblem(
            f"{where} has {len(classes)} class folder{'s' if len(classes) != 1 else ''} ({', '.join(classes) or 'none'}); "
            "at least two are needed, one sub-folder of images for each class."
        )
    twice = [name for name, count in Counter(name.casefold() for name in classes).items() if count > 1]
    if twice:
        alike = [name for name in classes if name.casefold() == twice[0]]
        raise DataProblem(f"The classes {' and '.join(alike)} of {where} differ in capitals alone. Merge or rename them.")
    return classes


def _classes(root: Path) -> list[str]:
    return _distinct([folder.name for folder in _folders(root)], root)


def _matched(root: Path, classes: Sequence[str], training: Path) -> dict[Path, int]:
    """Return class folder -> label of one part; capitals may differ from those of the training part."""
    known = {name.casefold(): label for label, name in enumerate(classes)}
    unknown = [folder.name for folder in _folders(root) if folder.name.casefold() not in known]
    if unknown:
        raise DataProblem(f"Class {', '.join(unknown)} is in {root} but absent from training ({training}).")
    return {folder: known[folder.name.casefold()] for folder in _folders(root)}


def _listed(root: Path, folders: Mapping[Path, int]) -> Listed:
    """List the images of a part; hidden, empty and other files are passed over."""
    files, labels, skipped = [], [], []
    for folder, label in folders.items():
        for file in sorted(folder.rglob("*")):
            if file.is_dir():
                continue
            if file.is_symlink() and not file.exists():
                raise DataProblem(f"{file} is a link to a file that is not there. Mend it, or remove it.")
            hidden = any(_foreign(Path(part)) for part in file.relative_to(root).parts)
            if hidden or file.suffix.lower() not in _SUFFIXES or not file.stat().st_size:
                skipped.append(file)
            else:
                files.append(file)
                labels.append(label)
    if not files:
        raise DataProblem(f"No image found under {root} (looked for {', '.join(sorted(_SUFFIXES))}).")
    if all(file.parent.parent != root for file in files):
        raise DataProblem(
            f"No class folder of {root} holds images itself, only folders of images. Did you mean data_dir={next(iter(folders))}?"
        )
    return Listed(files, labels, skipped)


def _splits(
    source: Path, classes: Sequence[str], parts: Mapping[str, Listed], seed: int, image_size: int, storage: str
) -> Splits:
    """Decode the files of all parts, and cut off those parts that are not there."""
    skipped = [file for listed in parts.values() for file in listed.skipped]
    if skipped:
        names = ", ".join(file.name for file in skipped[:3]) + (", ..." if len(skipped) > 3 else "")
        note(f"Passed over {len(skipped)} files that are no images or are empty: {names}.")
    everything = [file for listed in parts.values() for file in listed.files]
    pixels = _read(source, everything, image_size, storage)
    labels = [label for listed in parts.values() for label in listed.labels]
    whole, found, start = Images(pixels, torch.tensor(labels, dtype=torch.int64)), {}, 0
    for part, listed in parts.items():
        found[part] = whole.part(slice(start, start + len(listed.files)))
        start += len(listed.files)
    return assembled(source.name or source.resolve().name, classes, found, seed, str(source), everything)


def _read(source: Path, files: Sequence[Path], image_size: int, storage: str) -> torch.Tensor | OnDisk:
    """Decode images of one size: uint8 [N, 3, H, W]."""
    first, _ = decode(files[0])
    width, height = (image_size, image_size) if image_size else first.size

    def fill(pixels: np.ndarray) -> list[str]:
        from PIL import Image

        changes = Counter[str]()
        with bar(f"reading {source.name}", len(files), "image", quiet=len(files) < 2000) as told:
            for number, file in enumerate(files):
                told.at(number + 1)
                image, changed = decode(file)
                changes.update(changed)
                if image_size:
                    image = image.resize((image_size, image_size), Image.Resampling.BILINEAR)
                if image.size != (width, height):
                    raise DataProblem(
                        f"Images differ in size: {files[0].name} is {width}x{height}, {file.name} is "
                        f"{image.size[0]}x{image.size[1]}. Pass image_size=32 (or another side) to resize them all."
                    )
                pixels[number] = np.asarray(image, dtype=np.uint8).transpose(2, 0, 1)
        return [f"{count} of {len(files)} images were {change}." for change, count in changes.items()]

    stats = [(file, file.stat()) for file in files]
    identity = [(str(file.absolute()), stat.st_size, stat.st_mtime_ns) for file, stat in stats]
    pixels, notes = kept((len(files), 3, height, width), storage, [image_size, identity], fill)
    for said in notes:
        note(said)
    return pixels
