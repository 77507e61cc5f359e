"""Phase 1: perturb images inside a ball, or weights inside theirs, so that a model errs.

Knows: a model as a function from images in [0, 1] to logits. Must not know: training, classes' weights, data sets.
"""

from faal_lab.adversary.awp import weight_perturbed
from faal_lab.adversary.losses import ATTACK_LOSSES, NEEDS_CLEAN
from faal_lab.adversary.norms import NORMS
from faal_lab.adversary.pgd import AttackTick, boundary_pair, climber, frozen, pgd, pgd_until_fooled, start_point

__all__ = [
    "ATTACK_LOSSES",
    "NEEDS_CLEAN",
    "NORMS",
    "AttackTick",
    "boundary_pair",
    "climber",
    "frozen",
    "pgd",
    "pgd_until_fooled",
    "start_point",
    "weight_perturbed",
]
