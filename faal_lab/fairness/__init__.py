"""Phase 2: who turns class statistics into class weights, radii or draws. One file a method.

Knows: class statistics and ambiguity sets. Must not know: models, images, files.
A new method is one file and one row in `catalogue.FAIRNESS`; an object with the same methods can be passed directly.
"""

from faal_lab.catalogue import FAIRNESS, Method
from faal_lab.fairness.cfa import CFA
from faal_lab.fairness.cfol import CFOL
from faal_lab.fairness.csr import CSR
from faal_lab.fairness.dafa import DAFA
from faal_lab.fairness.faal import FAAL
from faal_lab.fairness.fairness import (
    AddsTerms,
    AttackedBatch,
    AttackPlan,
    BeginsEpochs,
    EndsEpochs,
    Fairness,
    Measure,
    PlansAttacks,
    Samples,
    Weighing,
)
from faal_lab.fairness.fat import FAT
from faal_lab.fairness.frl import FRL
from faal_lab.fairness.group_dro import GroupDRO
from faal_lab.fairness.none import NoFairness
from faal_lab.fairness.trix import TRIX
from faal_lab.fairness.wat import WAT

__all__ = [
    "CFA", "CFOL", "CSR", "DAFA", "FAAL", "FAIRNESS", "FAT", "FRL", "TRIX", "WAT", "AddsTerms", "AttackPlan",
    "AttackedBatch", "BeginsEpochs", "EndsEpochs", "Fairness", "GroupDRO", "Measure", "Method", "NoFairness", "PlansAttacks",
    "Samples", "Weighing",
]  # fmt: skip
