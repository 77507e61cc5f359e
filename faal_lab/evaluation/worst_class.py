"""Between which ends the difference of two models' worst classes lies.

Knows: counts of paired verdicts. Must not know: images, models, sentences.

The minimum over classes is biased low, by more for the model whose classes are alike. Where one model's classes are tied and
the other's are not, a percentile bootstrap covers the truth in 53 to 64 of 100 simulated cases, a basic or a bias-corrected
one in 83 to 93. So no minimum is resampled here: with d(i, j) = B's accuracy on j minus A's on i, the difference of minima is
the highest over i of the lowest over j of d(i, j), and intervals of the d bound it.
"""

from __future__ import annotations

import numpy as np

_PICKING = 0.1  # of the error rate, for each model: that its truly worst class is not among the candidates


def worst_difference(tables: np.ndarray, error_rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Interval of min over classes of B minus min over classes of A, from tables [..., C, 4].

    A table counts the images of a class that both, only A, only B and neither have right; no class is empty.
    With i the truly worst class of A, every d(i, j) is at least the difference sought: it lies below the lowest over j of
    upper ends that hold together (Sidak over the candidates j), for whichever i among A's candidates is the worst. The lower
    end mirrors this. Candidates are the classes not shown to lie above another one. Where each model has one clear worst
    class, this is the interval of that one pair, 5 % wider than alone; where all classes are tied it is cautious.
    Returns (low [...], high [...]).
    """
    n = tables.sum(-1)  # [..., C]
    a, b = tables[..., :2].sum(-1), tables[..., [0, 2]].sum(-1)
    maybe_a, maybe_b = (_candidates(k, n, _PICKING * error_rate) for k in (a, b))
    tail = (0.5 - _PICKING) * error_rate
    together = _correlation(tables)
    reach_up, reach_down = (_z(tail, maybe.sum(-1))[..., None] for maybe in (maybe_b, maybe_a))
    (down_a, _), (_, up_b) = _reach(a, n, reach_up), _reach(b, n, reach_up)
    upper = (b / n)[..., None, :] - (a / n)[..., :, None] + _join(down_a, up_b, together)  # [..., i of A, j of B]
    (_, up_a), (down_b, _) = _reach(a, n, reach_down), _reach(b, n, reach_down)
    lower = (b / n)[..., None, :] - (a / n)[..., :, None] - _join(up_a, down_b, together)
    high = np.where(maybe_b[..., None, :], upper, np.inf).min(-1)
    low = np.where(maybe_a[..., :, None], lower, -np.inf).max(-2)
    high = np.where(maybe_a, high, -np.inf).max(-1)
    low = np.where(maybe_b, low, np.inf).min(-1)
    return np.maximum(low, -1.0), np.minimum(high, 1.0)


def _z(tail: float, together: np.ndarray) -> np.ndarray:
    """Normal quantile above which the largest of `together` independent errors lies with probability `tail`."""
    from scipy.stats import norm

    return norm.isf(-np.expm1(np.log1p(-tail) / np.maximum(together, 1)))


def _reach(k: np.ndarray, n: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far Wilson's interval reaches below and above the share k / n."""
    share, squared = k / n, z * z
    centre = (share + squared / (2 * n)) / (1 + squared / n)
    half = z / (1 + squared / n) * np.sqrt(share * (1 - share) / n + squared / (4 * n * n))
    return share - centre + half, centre + half - share


def _correlation(tables: np.ndarray) -> np.ndarray:
    """Of the two verdicts on an image in each class [..., C], with Newcombe's correction towards 0; 0 where undefined."""
    both, only_a, only_b, neither = np.moveaxis(tables.astype(float), -1, 0)
    n = tables.sum(-1)
    above = both * neither - only_a * only_b
    above = np.where(above > 0, np.maximum(above - n / 2, 0), above)
    below = np.sqrt((both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither))
    return above / np.where(below > 0, below, np.inf)


def _join(reach_a: np.ndarray, reach_b: np.ndarray, correlation: np.ndarray) -> np.ndarray:
    """Reach [..., i, j] of the interval of a difference (Newcombe 1998); only one class's own verdicts are paired."""
    squared = reach_a[..., :, None] ** 2 + reach_b[..., None, :] ** 2
    own = np.arange(correlation.shape[-1])
    squared[..., own, own] -= 2 * correlation * reach_a * reach_b
    return np.sqrt(np.maximum(squared, 0))


def _candidates(k: np.ndarray, n: np.ndarray, error_rate: float) -> np.ndarray:
    """Which classes may be the worst: bool [..., C]; the truly worst one is missing at most at `error_rate`."""
    others = np.array(max(1, n.shape[-1] - 1))
    down, up = _reach(k, n, _z(error_rate, others))
    share = k / n
    above = share[..., :, None] - share[..., None, :] - np.sqrt(down[..., :, None] ** 2 + up[..., None, :] ** 2)
    return np.asarray((above <= 0).all(-1))
