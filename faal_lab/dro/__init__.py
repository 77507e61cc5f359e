"""Solve for the worst class distribution in a set around a reference: FAAL's middle maximisation.

This package imports only the catalogue. To add a set, write its class, add a row to `AMBIGUITY_SETS` in `catalogue.py`, and
state it for CVXPY in `conic.py`, which is its oracle.
"""

from typing import Any

from faal_lab import catalogue
from faal_lab.dro.balls import ChiSquareBall, CVaR, Floored, HellingerBall, Point, Simplex, TotalVariationBall
from faal_lab.dro.base import AmbiguitySet, WorstCase
from faal_lab.dro.kl import KLBall, KLPenalty
from faal_lab.dro.reverse_kl import ReverseKLBall, ReverseKLPenalty
from faal_lab.dro.wasserstein import WassersteinBall

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
]
