"""Phase 3's losses: from images to named per-sample terms, before any class is weighted.

Knows: one model, one batch. Must not know: classes, fairness, optimisers.
A new objective is one file and one row in `catalogue.OBJECTIVES`; an object with the same attributes can be passed directly.
"""

from typing import Any

from faal_lab import catalogue
from faal_lab.objectives.adversarial import AdversarialTraining
from faal_lab.objectives.bat import BAT
from faal_lab.objectives.mart import MART
from faal_lab.objectives.objective import Objective, Outcome, Terms, weighted
from faal_lab.objectives.standard import StandardTraining
from faal_lab.objectives.trades import TRADES

OBJECTIVES: dict[str, Any] = {name: row.make for name, row in catalogue.OBJECTIVES.items()}

__all__ = [
    "BAT",
    "MART",
    "OBJECTIVES",
    "TRADES",
    "AdversarialTraining",
    "Objective",
    "Outcome",
    "StandardTraining",
    "Terms",
    "weighted",
]
