"""Which parts go together, by their rows alone."""

from __future__ import annotations

from faal_lab.catalogue import AVERAGING, FAIRNESS, OBJECTIVES
from faal_lab.errors import RecipeError, check_name


def check_combination(objective: str, fairness: str, averaging: str, *, replays: int = 0, validation: bool = True) -> None:
    """Refuse parts that make no sense together: raises UnknownName or RecipeError."""
    loss = OBJECTIVES[check_name("objective", objective, OBJECTIVES)]
    method = FAIRNESS[check_name("fairness method", fairness, FAIRNESS)]
    check_name("averaging", averaging, AVERAGING)
    if method.attacked and not loss.attacked:
        raise RecipeError(
            f"fairness={fairness} acts on attacks, and objective={objective} trains on clean images alone. "
            "Choose at, trades, mart or bat."
        )
    missing = [term for term in method.terms if term not in loss.terms]
    if missing:
        raise RecipeError(
            f"fairness={fairness} weighs the terms {' and '.join(method.terms)} apart, and objective={objective} has "
            f"{', '.join(loss.terms)}: there is no {missing[0]} term. Choose objective=trades."
        )
    if method.targets and loss.points > 1:
        raise RecipeError(
            f"objective={objective} needs attacks that run away from the true class through the decision boundary; "
            f"fairness={fairness} aims some at a target. Choose at, trades or mart."
        )
    if replays and (loss.points > 1 or not loss.attacked or method.targets):
        raise RecipeError(
            f"replays={replays} (free training) has one perturbation that climbs the training loss: it cannot make what "
            f"objective={objective} with fairness={fairness} needs. Set replays to 0."
        )
    if replays and method.acts_on == "sampling":
        raise RecipeError(
            f"replays={replays} (free training) uses each batch several times, and fairness={fairness} draws anew at each step. "
            "Set replays to 0."
        )
    if not validation and (method.validation or averaging == "fawa"):
        which = f"fairness={fairness}" if method.validation else "averaging=fawa"
        raise RecipeError(f"{which} is decided on validation images, and there are none. Set validation to split.")
