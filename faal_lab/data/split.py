"""Stratified splits by seed."""

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
