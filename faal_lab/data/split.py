"""Split labels by seed: stratified splits, stratified parts, long-tailed parts."""

from __future__ import annotations

import numpy as np
import torch

from faal_lab.data import keyed_random
from faal_lab.data.images import DataProblem


def split_indices(labels: np.ndarray, sizes: tuple[int | float, ...], seed: int) -> list[torch.Tensor]:
    """Cut the images in disjoint parts of `sizes` (counts or fractions of all), and the rest as the last part.

    Each part holds the classes in the proportions of the whole. Raises ValueError where a class is too rare for that.
    """
    from sklearn.model_selection import train_test_split

    rest, parts = np.arange(len(labels)), []
    for size in sizes:
        count = round(size * len(labels)) if isinstance(size, float) else size
        part, rest = train_test_split(rest, train_size=count, random_state=seed, stratify=labels[rest])
        parts.append(part)
    return [torch.from_numpy(np.sort(part)) for part in (*parts, rest)]


def long_tailed(labels: np.ndarray, classes: int, imbalance: float, seed: int) -> torch.Tensor:
    """Which images [K] to keep so that class c of C holds its number times `imbalance ** (-c / (C - 1))`, at least one.

    Class 0 keeps all and the last class 1 / `imbalance` of its images, drawn by `seed`; a larger imbalance keeps a part
    of what a smaller one keeps. The profile is that of Cui et al.'s long-tailed CIFAR (CVPR 2019).
    """
    order, kept = np.random.default_rng(seed).permutation(len(labels)), []
    for c in range(classes):
        own = order[labels[order] == c]
        kept.append(own[: max(1, round(len(own) * imbalance ** (-c / (classes - 1))))])
    return torch.from_numpy(np.sort(np.concatenate(kept)))


def stratified(labels: torch.Tensor, count: int, classes: int) -> torch.Tensor:
    """Which `count` of the images [N] to take so that the `classes` have as many each as can be: int64 [count], rising.

    They are the first ones of a shuffle that never changes, class by class in turn: a larger count has all of a smaller one.
    Raises DataProblem where that is less than one a class, or more than there are.
    """
    totals = torch.bincount(labels, minlength=classes)
    least = int((totals > 0).sum())
    if not least <= count <= len(labels):
        raise DataProblem(f"images must be between {least} (one a class) and {len(labels)} (all there are), got {count}.")
    order = keyed_random.permutation(0, 0, len(labels), labels.device)
    by_class = torch.argsort(labels[order], stable=True)  # places in the shuffle, class after class
    turn = torch.empty_like(order)
    turn[by_class] = torch.cat([torch.arange(n, device=labels.device) for n in totals.tolist()])
    return order[torch.argsort(turn, stable=True)[:count]].sort().values
