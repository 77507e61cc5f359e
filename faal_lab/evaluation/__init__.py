"""Class-wise robustness of any model on any images: attacks, per-image verdicts, intervals.

Knows: models, images, attacks, statistics. Must not know: how the model was trained, run folders, plots.
"""

from faal_lab.evaluation.attacks import PGD_ATTACKS, Attack, count_by_class, survivors
from faal_lab.evaluation.statistics import Estimate, average_accuracy, class_accuracy, worst_accuracy
from faal_lab.evaluation.suite import ATTACKS, Progress, evaluate
from faal_lab.evaluation.verdicts import Verdicts, VerdictsError

__all__ = [
    "ATTACKS", "PGD_ATTACKS", "Attack", "Estimate", "Progress", "Verdicts", "VerdictsError", "average_accuracy", "class_accuracy",
    "count_by_class", "evaluate", "survivors", "worst_accuracy",
]  # fmt: skip
