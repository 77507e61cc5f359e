"""Split labels by seed: stratified splits, stratified parts, long-tailed parts."""

from __future__ import annotations

import numpy as np
import torch

from faal_lab.data import keyed_random
from faal_lab.data.images import DataProblem


def split_indices(labels: np.ndarray, sizes: tuple[int | float, ...], seed: int) -> list[torch.Tensor]:
    """Cut the images into disjoint parts of `sizes` (counts, or fractions of all), and the rest.

    Each part has the class proportions of the whole. Raises ValueError if a class is too rare for that.
    """
    from sklearn.model_selection import train_test_split

    rest, parts = np.arange(len(labels)), []
    for size in sizes:
        count = round(size * len(labels)) if isinstance(size, float) else size
        part, rest = train_test_split(rest, train_size=count, random_state=seed, stratify=labels[rest])
        parts.append(part)
    return [torch.from_numpy(np.sort(part)) for part in (*parts, rest)]


def long_tailed(labels: np.ndarray, classes: int, imbalance: float, seed: int) -> torch.Tensor:
    """Choose images [K] so that class c of C keeps its number times `imbalance ** (-c / (C - 1))`.

    Class 0 keeps all images, the last class 1 / `imbalance` of its own, drawn by `seed`; every class keeps at least one. A larger
    imbalance keeps a part of what a smaller one keeps. The profile is that of Cui et al.'s long-tailed CIFAR (CVPR 2019).
    """
    order, kept = np.random.default_rng(seed).permutation(len(labels)), []
    for c in range(classes):
        own = order[labels[order] == c]
        kept.append(own[: max(1, round(len(own) * imbalance ** (-c / (classes - 1))))])
    return torch.from_numpy(np.sort(np.concatenate(kept)))


def stratified(labels: torch.Tensor, count: int, classes: int) -> torch.Tensor:
    """Choose `count` of the images [N] so that the `classes` have numbers as equal as possible.

    Returns int64 [count], ascending: the first images of a fixed shuffle, class by class in turn. A larger count includes every
    smaller one. Raises DataProblem for a count of less than one per class, or of more than N.
    """
    totals = torch.bincount(labels, minlength=classes)
    least = int((totals > 0).sum())
    if not least <= count <= len(labels):
        raise DataProblem(f"images must be between {least} (one a class) and {len(labels)} (all there are), got {count}.")
    order = keyed_random.permutation(0, 0, len(labels), labels.device)
    by_class = torch.argsort(labels[order], stable=True)  # positions in the shuffle, class after class
    turn = torch.empty_like(order)
    turn[by_class] = torch.cat([torch.arange(n, device=labels.device) for n in totals.tolist()])
    return order[torch.argsort(turn, stable=True)[:count]].sort().values
