"""Phase 2: who turns class statistics into class weights. One file a method.

Knows: class statistics and ambiguity sets. Must not know: models, images, files.
A new method is one file and one row in `FAIRNESS`; an object with the same methods can be passed directly.
"""

from faal_lab.fairness.faal import FAAL
from faal_lab.fairness.fairness import Fairness, Weighing
from faal_lab.fairness.group_dro import GroupDRO
from faal_lab.fairness.none import NoFairness

FAIRNESS = {"none": NoFairness, "faal": FAAL, "group-dro": GroupDRO}

__all__ = ["FAAL", "FAIRNESS", "Fairness", "GroupDRO", "NoFairness", "Weighing"]
