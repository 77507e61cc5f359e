"""Sets of class distributions around a reference, and the worst case in each: FAAL's middle maximisation.

Knows: class scores and simplices. Must not know: samples, models, training.
A new set is one file here and one row in `catalogue.AMBIGUITY_SETS`; its row in `conic` is its oracle.
"""

from typing import Any

from faal_lab import catalogue
from faal_lab.ambiguity.chi_square import ChiSquareBall
from faal_lab.ambiguity.cvar import CVaR
from faal_lab.ambiguity.floored import Floored
from faal_lab.ambiguity.hellinger import HellingerBall
from faal_lab.ambiguity.kl import KLBall, KLPenalty
from faal_lab.ambiguity.reverse_kl import ReverseKLBall, ReverseKLPenalty
from faal_lab.ambiguity.simplex import Point, Simplex
from faal_lab.ambiguity.total_variation import TotalVariationBall
from faal_lab.ambiguity.wasserstein import WassersteinBall
from faal_lab.ambiguity.worst_case import AmbiguitySet, WorstCase

AMBIGUITY_SETS: dict[str, Any] = {name: row.make for name, row in catalogue.AMBIGUITY_SETS.items()}

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
