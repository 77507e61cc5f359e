"""Sets of class distributions around a reference, and the worst case in each: FAAL's middle maximisation.

Knows: class scores and simplices. Must not know: samples, models, training.
A new set is one file here and one row in `AMBIGUITY_SETS`.
"""

from faal_lab.ambiguity.kl import KLBall
from faal_lab.ambiguity.worst_case import AmbiguitySet, WorstCase

AMBIGUITY_SETS = {"kl": KLBall}

__all__ = ["AMBIGUITY_SETS", "AmbiguitySet", "KLBall", "WorstCase"]
