"""A training method as a product of parts: objective x fairness method, and where the attack begins.

Knows: which parts the paper's names stand for. Must not know: data, models, runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from faal_lab.adversary import NEEDS_CLEAN
from faal_lab.ambiguity import AMBIGUITY_SETS
from faal_lab.fairness import FAAL, FAIRNESS, Fairness, GroupDRO
from faal_lab.names import check_name
from faal_lab.objectives import OBJECTIVES, Objective

STARTS = ("zero", "uniform", "gaussian")

# The field's names -> (objective, fairness method); any other pair is as good a recipe.
RECIPES: dict[str, tuple[str, str]] = {
    "standard": ("standard", "none"),
    "pgd-at": ("at", "none"),
    "trades": ("trades", "none"),
    "mart": ("mart", "none"),
    "faal-at": ("at", "faal"),
    "faal-trades": ("trades", "faal"),
    "faal-mart": ("mart", "faal"),
}


@dataclass(frozen=True)
class Recipe:
    """One point of the product. Each part may be an object of the user's own."""

    objective: Objective
    fairness: Fairness
    start: str = "uniform"  # where the training attack begins, one of STARTS

    @staticmethod
    def of(
        objective: str,
        fairness: str,
        *,
        start: str = "auto",
        ambiguity: str = "kl",
        tau: float = 0.5,
        score: str = "mean",
        solver: str = "exact",
        decay: float = 0.9,
        beta: float = 6.0,
        measure: str = "margin",
        dro_rate: float = 0.01,
    ) -> Recipe:
        """Put a recipe together from names.

        `start="auto"` is the objective's own, uniform for AT, Gaussian for TRADES and MART; but the clean image under FAAL
        with AT (Algorithm 1; its release starts at random). FAAL's paper has one algorithm for all objectives, yet KL has no
        slope at the clean image, so there its start stays the objective's.
        """
        kind: Any = OBJECTIVES[check_name("objective", objective, OBJECTIVES)]
        loss: Objective = kind(beta=beta) if "beta" in getattr(kind, "__dataclass_fields__", ()) else kind()
        ball = AMBIGUITY_SETS[check_name("ambiguity set", ambiguity, AMBIGUITY_SETS)](tau)
        check_name("fairness method", fairness, FAIRNESS)
        built: dict[str, Callable[[], Fairness]] = {
            "faal": lambda: FAAL(ball, score, solver, decay, measure),
            "group-dro": lambda: GroupDRO(dro_rate),
        }
        method = built[fairness]() if fairness in built else FAIRNESS[fairness]()
        check_name("attack start", start, ("auto", *STARTS))
        if start == "auto":
            start = "zero" if fairness == "faal" and loss.attack_loss not in NEEDS_CLEAN else loss.start
        return Recipe(loss, method, start)

    @staticmethod
    def named(name: str, *, tau: float = 0.5) -> Recipe:
        """A recipe by the field's name, for example `Recipe.named("faal-at", tau=0.5)`; names in RECIPES."""
        objective, fairness = RECIPES[check_name("recipe", name, RECIPES)]
        return Recipe.of(objective, fairness, tau=tau)
