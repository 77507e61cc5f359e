"""Class-wise robustness of any model on any images: attacks, per-image verdicts, intervals.

Knows: models, images, attacks, statistics. Must not know: how the model was trained, run folders, plots.
"""

from faal_lab.evaluation.attacks import PGD_ATTACKS, Attack, count_by_class, survivors
from faal_lab.evaluation.statistics import Estimate, average_accuracy, class_accuracy, worst_accuracy
from faal_lab.evaluation.suite import ATTACKS, DEFAULT_ATTACKS, Manner, Progress, evaluate, model_digest
from faal_lab.evaluation.upstream import MODES
from faal_lab.evaluation.verdicts import Verdicts, VerdictsError

__all__ = [
    "ATTACKS", "DEFAULT_ATTACKS", "MODES", "PGD_ATTACKS", "Attack", "Estimate", "Manner", "Progress", "Verdicts", "VerdictsError",
    "average_accuracy", "class_accuracy", "count_by_class", "evaluate", "model_digest", "survivors", "worst_accuracy",
]  # fmt: skip
