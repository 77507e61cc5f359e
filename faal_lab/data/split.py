"""Stratified splits by seed, and long-tailed ones.

Knows: labels. Must not know: images.
"""

from __future__ import annotations

import numpy as np
import torch


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
