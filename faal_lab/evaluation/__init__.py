"""Class-wise robustness of any model on any images: attacks, per-image verdicts, intervals.

Knows: models, images, attacks, statistics. Must not know: how the model was trained, run folders, plots.
"""

from faal_lab.evaluation.attacks import PGD_ATTACKS, Attack, count_by_class, survivors
from faal_lab.evaluation.comparison import (
    ClassDifference,
    Comparison,
    Difference,
    McNemar,
    Seeds,
    combine_seeds,
    compare,
    mcnemar,
)
from faal_lab.evaluation.statistics import (
    Estimate,
    Lowest,
    Spread,
    average_accuracy,
    boundary_error,
    class_accuracy,
    confusion,
    minimum_bias,
    rho,
    spectral_norm,
    spread,
    wilson,
    worst_accuracy,
    worst_share,
)
from faal_lab.evaluation.suite import (
    EvaluationError,
    Manner,
    Progress,
    describe,
    evaluate,
    model_digest,
)
from faal_lab.evaluation.trust import Finding, between, examine
from faal_lab.evaluation.verdicts import Examples, RadiusCurve, Verdicts, VerdictsError

__all__ = [
    "PGD_ATTACKS",
    "Attack",
    "ClassDifference",
    "Comparison",
    "Difference",
    "Estimate",
    "EvaluationError",
    "Examples",
    "Finding",
    "Lowest",
    "Manner",
    "McNemar",
    "Progress",
    "RadiusCurve",
    "Seeds",
    "Spread",
    "Verdicts",
    "VerdictsError",
    "average_accuracy",
    "between",
    "boundary_error",
    "class_accuracy",
    "combine_seeds",
    "compare",
    "confusion",
    "count_by_class",
    "describe",
    "evaluate",
    "examine",
    "mcnemar",
    "minimum_bias",
    "model_digest",
    "rho",
    "spectral_norm",
    "spread",
    "survivors",
    "wilson",
    "worst_accuracy",
    "worst_share",
]  # fmt: skip
