"""Make the three parts of a data set: from those that are there, or cut by seed; look for copies and blank images.

A copy is an image with the same pixels. Copies in two parts would let a network learn test images by heart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from faal_lab.data.images import DataProblem, Images, Splits, note, split_indices
from faal_lab.runs.progress import bar

_MANY = 200_000  # images whose reading takes long enough for a bar
_TEST, _VALIDATION = 0.2, 0.1  # fractions that are cut off where a part is missing


def assembled(name: str, classes: Sequence[str], parts: Mapping[str, Images], seed: int, where: str) -> Splits:
    """Return the splits of a data set of which some parts are there.

    Without a validation part, 10 % of the training images are cut off by seed; without a test part, 20 %. Raises DataProblem for
    copies in two parts, for one image with two labels, and where a class is too rare to be cut.
    """
    train, own_test = parts["train"], "test" in parts
    keys = {part: fingerprints(images) for part, images in parts.items()}
    _check_labels(keys, parts, classes, where)
    _check_copies(keys, where)
    _check_blank(train, keys["train"], classes, where)
    sizes = [] if own_test else [_TEST]
    sizes += [] if "validation" in parts else [_VALIDATION]
    rest, *cut = _cut(train.labels.numpy(), keys["train"], sizes, seed, classes, where)
    found = dict(parts) | {"train": train.part(rest)}
    for part, indices in zip([p for p in ("test", "validation") if p not in parts], cut, strict=True):
        found[part] = train.part(indices)
    if "validation" in parts and not own_test:
        note(f"{where} has no test part: {len(found['test'])} of its training images, chosen by seed, became it.")
    return Splits(
        name, tuple(classes), found["train"], found["validation"], found["test"], augmentation="crop-flip", own_test=own_test
    )


def fingerprints(images: Images) -> list[bytes]:
    """Return a hash of the pixels of each image."""
    found = []
    with bar("looking for copies", len(images), "image", quiet=len(images) < _MANY) as told:
        for chunk in images.chunks():
            found += [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in chunk.numpy()]
            told.at(len(found))
    return found


def _check_labels(keys: Mapping[str, list[bytes]], parts: Mapping[str, Images], classes: Sequence[str], where: str) -> None:
    seen: dict[bytes, int] = {}
    for part, own in keys.items():
        for key, label in zip(own, parts[part].labels.tolist(), strict=True):
            if seen.setdefault(key, label) != label:
                raise DataProblem(
                    f"One image of {where} is in the class {classes[seen[key]]} and in {classes[label]}. Remove one."
                )


def _check_copies(keys: Mapping[str, list[bytes]], where: str) -> None:
    for first, second in (("train", "test"), ("train", "validation"), ("validation", "test")):
        shared = set(keys.get(first, ())) & set(keys.get(second, ()))
        if shared:
            count = sum(key in shared for key in keys[second])
            raise DataProblem(
                f"{count} of the {len(keys[second])} {second} images of {where} are copies of {first} images, pixel by pixel. "
                f"Remove them from one of the two: what a network has learned by heart measures nothing."
            )


def _cut(
    labels: np.ndarray, keys: list[bytes], sizes: Sequence[float], seed: int, classes: Sequence[str], where: str
) -> list[torch.Tensor]:
    """Return the indices of what stays, and of each part that is cut off. Copies stay together."""
    if not sizes:
        return [torch.arange(len(labels))]
    first: dict[bytes, int] = {}
    original = np.array([first.setdefault(key, i) for i, key in enumerate(keys)])
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


def _check_blank(train: Images, keys: Sequence[bytes], classes: Sequence[str], where: str) -> None:
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
        elif int(own.sum()) > 1 and len({keys[i] for i in own.nonzero().flatten().tolist()}) == 1:
            note(f"All {int(own.sum())} training images of class {name} are the same image.")
