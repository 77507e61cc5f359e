"""Solve for the worst class distribution in a set around a reference: FAAL's middle maximisation.

This package imports only the catalogue and errors. To add a set, write its class, add a row to `AMBIGUITY_SETS` in
`catalogue.py`, and state it for CVXPY in `conic.py`, which is its oracle.
"""

from typing import Any

import torch

from faal_lab import catalogue
from faal_lab.dro.balls import ChiSquareBall, CVaR, Floored, HellingerBall, Point, Simplex, TotalVariationBall
from faal_lab.dro.base import AmbiguitySet, WorstCase
from faal_lab.dro.kl import KLBall, KLPenalty
from faal_lab.dro.reverse_kl import ReverseKLBall, ReverseKLPenalty
from faal_lab.dro.wasserstein import WassersteinBall
from faal_lab.errors import check_name

AMBIGUITY_SETS: dict[str, Any] = {name: row.make for name, row in catalogue.AMBIGUITY_SETS.ours.items()}

__all__ = [
    "AMBIGUITY_SETS",
    "AmbiguitySet",
    "CVaR",
    "ChiSquareBall",
    "Floored",
    "HellingerBall",
    "KLBall",
    "KLPenalty",
    "Point",
    "ReverseKLBall",
    "ReverseKLPenalty",
    "Simplex",
    "TotalVariationBall",
    "WassersteinBall",
    "WorstCase",
    "solve",
]


def solve(
    scores: Any, tau: float = 0.5, *, ambiguity: str = "kl", reference: Any = None, present: Any = None
) -> WorstCase:  # fmt: skip
    """Find the worst class distribution within radius `tau` of a reference.

    This is FAAL's middle problem by itself.

    Args:
        scores: the score of each class, [..., C]; higher is worse.
        tau: radius of the set; default 0.5.
        ambiguity: name of the set in the catalogue; default "kl", the paper's.
        reference: its centre [C] (default: uniform).
        present: the classes that take part, bool [..., C] (default: all).

    Returns:
        Weights [..., C] on the simplex, the worst expected score [...], and their divergence [...] from the reference.

    Raises:
        UnknownName: there is no such set.
        ValueError: a shape does not fit, or a number is invalid.

    >>> import faal_lab as fl
    >>> fl.solve([0.9, 0.2, -0.3], tau=0.5).weights.round(decimals=3)
    tensor([0.7900, 0.1290, 0.0810], dtype=torch.float64)
    """
    known = catalogue.AMBIGUITY_SETS
    ball = known[check_name("ambiguity set", ambiguity, known)].make()
    centre, mask = (None if value is None else torch.as_tensor(value) for value in (reference, present))
    return ball.worst_case(torch.as_tensor(scores, dtype=torch.float64), tau, centre, mask)
