"""Make the three parts of a data set: from those that are there, or cut by seed; look for copies and blank images.

A copy is an image with the same pixels. Copies in two parts would let a network learn test images by heart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from faal_lab.data.images import DataProblem, Images, Splits, note, split_indices
from faal_lab.runs.progress import bar

_MANY = 200_000  # images whose reading takes long enough for a bar
_TEST, _VALIDATION = 0.2, 0.1  # fractions that are cut off where a part is missing


def assembled(
    name: str, classes: Sequence[str], parts: Mapping[str, Images], seed: int, where: str, files: Sequence[Path] = ()
) -> Splits:
    """Return the splits of a data set of which some parts are there; `files` are the images' names, part after part.

    Without a validation part, 10 % of the training images are cut off by seed; without a test part, 20 %. Raises DataProblem for
    copies in two parts, for one image with two labels, and where a class is too rare to be cut.
    """
    train, own_test = parts["train"], "test" in parts
    own = originals([parts[part] for part in parts])
    called = [str(file) for file in files] or [f"image {i}" for part in parts.values() for i in range(len(part))]
    _check_labels(own, parts, classes, where, called)
    _check_copies(own, parts, where, called)
    first = own[list(parts).index("train")]
    first = first - first[0]  # counted from the first training image: no copy lies outside
    _check_blank(train, first, classes, where)
    sizes = [] if own_test else [_TEST]
    sizes += [] if "validation" in parts else [_VALIDATION]
    rest, *cut = _cut(train.labels.numpy(), first, sizes, seed, classes, where)
    found = dict(parts) | {"train": train.part(rest)}
    for part, indices in zip([p for p in ("test", "validation") if p not in parts], cut, strict=True):
        found[part] = train.part(indices)
    if "validation" in parts and not own_test:
        note(f"{where} has no test part: {len(found['test'])} of its training images, chosen by seed, became it.")
    return Splits(
        name, tuple(classes), found["train"], found["validation"], found["test"], augmentation="crop-flip", own_test=own_test
    )


def originals(parts: Sequence[Images]) -> list[np.ndarray]:
    """Return for each image of each part the number of the first image with the same pixels, counted over all parts."""
    total, done = sum(map(len, parts)), 0
    hashes = np.empty((total, 2), dtype=np.uint64)
    with bar("looking for copies", total, "image", quiet=total < _MANY) as told:
        for chunk in (chunk for images in parts for chunk in images.chunks()):
            for image in chunk.numpy():
                hashes[done] = np.frombuffer(hashlib.blake2b(image.tobytes(), digest_size=16).digest(), dtype=np.uint64)
                done += 1
            told.at(done)
    order = np.lexsort(hashes.T)  # stable: of the same pixels, the first comes first
    begins = np.append(True, (hashes[order][1:] != hashes[order][:-1]).any(1))
    first = np.empty(total, dtype=np.int64)
    first[order] = order[begins][np.cumsum(begins) - 1]
    return np.split(first, np.cumsum([len(images) for images in parts])[:-1])


def _check_labels(
    own: Sequence[np.ndarray], parts: Mapping[str, Images], classes: Sequence[str], where: str, called: Sequence[str]
) -> None:
    labels = np.concatenate([images.labels.numpy() for images in parts.values()])
    first = np.concatenate(own)
    for i in np.flatnonzero(labels != labels[first]).tolist():
        one, two = (f"{classes[labels[k]]} ({called[k]})" for k in (first[i], i))
        raise DataProblem(f"One image of {where} is in the class {one} and in {two}. Remove one.")


def _check_copies(own: Sequence[np.ndarray], parts: Mapping[str, Images], where: str, called: Sequence[str]) -> None:
    held = dict(zip(parts, own, strict=True))
    starts = dict(zip(parts, np.cumsum([0, *map(len, own)])[:-1].tolist(), strict=True))
    for first, second in (("train", "test"), ("train", "validation"), ("validation", "test")):
        copies = np.flatnonzero(np.isin(held.get(second, ()), held.get(first, ())))
        if len(copies):
            one = starts[second] + int(copies[0])
            other = starts[first] + int(np.flatnonzero(held[first] == held[second][copies[0]])[0])
            raise DataProblem(
                f"{len(copies)} of the {len(held[second])} {second} images of {where} are copies of {first} images, pixel by "
                f"pixel, such as {called[one]} of {called[other]}. Remove them from one of the two: what a network has learned "
                "by heart measures nothing."
            )


def _cut(
    labels: np.ndarray, original: np.ndarray, sizes: Sequence[float], seed: int, classes: Sequence[str], where: str
) -> list[torch.Tensor]:
    """Return the indices of what stays, and of each part that is cut off. Copies stay together."""
    if not sizes:
        return [torch.arange(len(labels))]
    single = np.flatnonzero(original == np.arange(len(labels)))
    if len(single) < len(labels):
        note(f"{len(labels) - len(single)} images of {where} are copies of others; copies stay in one part.")
    try:
        kept = 1 - _TEST - _VALIDATION if len(sizes) == 2 else 1 - sizes[0]
        whole, *cut = split_indices(labels[single], (kept, *reversed(sizes[1:])), seed)
    except ValueError as error:
        counts = np.bincount(labels[single], minlength=len(classes))
        rare = int(counts.argmin())
        raise DataProblem(
            f"Too few images under {where} to cut off {len(sizes)} parts by class: {classes[rare]} has {counts[rare]}. "
            "Add images (ten a class or more), or make folders train/, val/ and test/ yourself."
        ) from error
    order = [whole, *reversed(cut)]
    return [torch.from_numpy(np.flatnonzero(np.isin(original, single[part.numpy()]))) for part in order]


def _check_blank(train: Images, original: np.ndarray, classes: Sequence[str], where: str) -> None:
    """Report classes whose images say nothing; raises DataProblem if all are so."""
    ends = [torch.stack([chunk.flatten(1).amin(1), chunk.flatten(1).amax(1)]) for chunk in train.chunks()]
    low, high = torch.cat(ends, 1)
    constant = low == high
    if bool(constant.all()):
        raise DataProblem(f"Every training image of {where} is of one colour, such as {int(low[0])}. Nothing can be learned.")
    for c, name in enumerate(classes):
        own = train.labels == c
        if bool(own.any()) and bool(constant[own].all()):
            note(f"Every training image of class {name} is of one colour. Was it read or converted wrongly?")
        elif int(own.sum()) > 1 and len(np.unique(original[own.numpy()])) == 1:
            note(f"All {int(own.sum())} training images of class {name} are the same image.")
