"""Measure how near images of different classes are to each other.

If epsilon is at least half of the distance of two images, their balls meet: at the point between them no network can be right
for both (Yang et al., NeurIPS 2020, call half of the least distance the separation of the data).
"""

from __future__ import annotations

import torch

from faal_lab.data import keyed_random
from faal_lab.data.images import Images

_MOST = 500  # images in the sample
_BUDGET = 3e8  # differences of pixels to form: a quarter of a second; images of 224 x 224 pixels get a sample of 44
_ROWS = 50  # images compared at once
_ORDERS = {"linf": float("inf"), "l2": 2.0}


def sample_size(values: int, images: int) -> int:
    """Return the number of images to compare, of so many `values` each."""
    return min(images, _MOST, max(2, int((_BUDGET / values) ** 0.5)))


def nearest_other_class(images: Images, norm: str) -> torch.Tensor:
    """Return the distance of each sampled image to the nearest sampled one of another class: [K], in `norm`, pixels in [0, 1].

    The sample is the same at each call. It is not the whole set, so that true distances are not larger. [0] where all images of
    the sample are of one class.
    """
    count = sample_size(images.pixels[0].numel(), len(images))
    some = keyed_random.permutation(0, 0, len(images), images.labels.device)[:count]
    pixels, labels = images.batch(some)
    pixels, nearest = pixels.flatten(1), []
    for rows, own in zip(pixels.split(_ROWS), labels.split(_ROWS), strict=True):
        # by matrix products, two equal images would have a distance
        distances = torch.cdist(rows, pixels, p=_ORDERS[norm], compute_mode="donot_use_mm_for_euclid_dist")
        nearest.append(distances.masked_fill(own[:, None] == labels, float("inf")).amin(1))
    found = torch.cat(nearest)
    return found[torch.isfinite(found)]


def median_distance(images: Images, norm: str) -> float | None:
    """Return the median distance of an image to the nearest one of another class, rounded; None where a sample has one class.

    >>> from faal_lab.data.sets import load
    >>> median_distance(load("digits", seed=0).train, "linf")
    0.75
    """
    found = nearest_other_class(images, norm)
    return round(float(found.median()), 6) if len(found) else None


def sentence(images: Images) -> str:
    """State the median distances in both norms, and the epsilon that belongs to them."""
    found = {name: median_distance(images, norm) for name, norm in (("L-infinity", "linf"), ("L2", "l2"))}
    if None in found.values():
        return "The distances between classes are not known: a sample of the training images has one class."
    said = ", ".join(f"{distance:.3g} in {name}" for name, distance in found.items())
    return f"Median distance to the nearest image of another class: {said}. From half of it on, epsilon lets two classes meet."
