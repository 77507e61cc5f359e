"""A training method as a product of parts: objective x fairness method x weight perturbation x weight averaging.

Knows: how parts are made from settings, and which do not go together. Must not know: data, models, runs.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field, replace
from typing import Any

from faal_lab.adversary import NEEDS_CLEAN
from faal_lab.ambiguity import AMBIGUITY_SETS
from faal_lab.averaging import AVERAGING, BUFFERS, Averaging
from faal_lab.fairness import FAIRNESS, Fairness, about
from faal_lab.names import check_name
from faal_lab.objectives import OBJECTIVES, Objective
from faal_lab.presets import PRESETS

STARTS = ("zero", "uniform", "gaussian")
VARIANTS = ("paper", "release")
OWN = -1.0  # a setting that is left to the method


class RecipeError(ValueError):
    """Parts that make no sense together; the message says why, and what would."""


@dataclass(frozen=True)
class Recipe:
    """One point of the product. Each part may be an object of the user's own."""

    objective: Objective
    fairness: Fairness
    start: str = "uniform"  # where the training attack begins, one of STARTS
    awp_gamma: float = 0.0  # radius of the weight perturbation, relative to each tensor's norm; 0 perturbs nothing
    averaging: Averaging = field(default_factory=Averaging)
    clean_forward: bool = False  # a clean forward pass that only moves BatchNorm, as the FAAL release makes

    @staticmethod
    def of(
        objective: str,
        fairness: str,
        *,
        variant: str = "paper",
        attack_start: str = "auto",
        ambiguity: str = "kl",
        tau: float = 0.5,
        score: str = "auto",
        solver: str = "exact",
        score_decay: float = 0.9,
        measure: str = "margin",
        beta: float = 6.0,
        fairness_rate: float = OWN,
        fairness_strength: float = OWN,
        slack: float = 0.07,
        awp_gamma: float = 0.0,
        averaging: str = "none",
        average_decay: float = OWN,
        average_start: int = 0,
        average_threshold: float = OWN,
        average_buffers: str = "average",
        replays: int = 0,
        validation: bool = True,
    ) -> Recipe:
        """Put a recipe together from settings, named as in RunConfig; negative ones are the method's own.

        Raises UnknownName, or RecipeError where the parts make no sense together.
        """
        check_combination(objective, fairness, averaging, replays=replays, validation=validation)
        check_name("variant", variant, VARIANTS)
        release = variant == "release"
        kind: Any = OBJECTIVES[objective]
        loss: Objective = kind(beta=beta) if "beta" in getattr(kind, "__dataclass_fields__", ()) else kind()
        ball = AMBIGUITY_SETS[check_name("ambiguity set", ambiguity, AMBIGUITY_SETS)](tau)
        score = {"auto": "sum" if release else "mean"}.get(score, score)
        settings: dict[str, Any] = {
            "ambiguity": ball, "score": score, "solver": solver, "score_decay": score_decay, "measure": measure,
            "rate": fairness_rate, "strength": fairness_strength, "slack": slack, "variant": variant, "objective": objective,
            "beta": beta,
        }  # fmt: skip
        make = FAIRNESS[fairness].make
        taken = inspect.signature(make).parameters
        method = make(**{n: v for n, v in settings.items() if n in taken and not (n in ("rate", "strength") and v < 0)})
        if release and fairness == "faal" and objective == "mart":
            loss = replace(loss, attack_loss="kl")  # pyright: ignore[reportArgumentType]
        return Recipe(
            loss, method, _start(attack_start, loss, fairness, release), awp_gamma,
            _averaging(averaging, release, average_decay, average_start, average_threshold, average_buffers),
            clean_forward=release and fairness == "faal",
        )  # fmt: skip

    @staticmethod
    def named(name: str, **settings: Any) -> Recipe:
        """A recipe by the field's name, for example `Recipe.named("faal-trades-awp", tau=0.5)`; names in PRESETS.

        Settings given by name win over the preset's.
        """
        preset = PRESETS[check_name("recipe", name, PRESETS)]
        known = inspect.signature(Recipe.of).parameters
        return Recipe.of(**({n: v for n, v in preset.items() if n in known} | settings))


def _start(asked: str, loss: Objective, fairness: str, release: bool) -> str:
    """Where the attack begins. "auto" is the objective's own start, but the clean image under FAAL (Algorithm 1).

    FAAL's paper has one algorithm for all objectives, yet KL has no slope at the clean image, so there the start stays the
    objective's, as it does altogether in the release.
    """
    check_name("attack start", asked, ("auto", *STARTS))
    if asked != "auto":
        return asked
    return "zero" if fairness == "faal" and not release and loss.attack_loss not in NEEDS_CLEAN else loss.start


def _averaging(kind: str, release: bool, decay: float, start: int, threshold: float, buffers: str) -> Averaging:
    check_name("treatment of buffers", buffers, BUFFERS)
    own_decay = {"fawa": 0.88 if release else 0.85}.get(kind, 0.999)
    own_threshold = 0.24 if release else 0.2
    return Averaging(kind, decay if decay >= 0 else own_decay, start, threshold if threshold >= 0 else own_threshold, buffers)


def check_combination(objective: str, fairness: str, averaging: str, *, replays: int = 0, validation: bool = True) -> None:
    """Refuse parts that make no sense together: raises UnknownName or RecipeError."""
    loss: Any = OBJECTIVES[check_name("objective", objective, OBJECTIVES)]
    method = FAIRNESS[check_name("fairness method", fairness, FAIRNESS)]
    check_name("averaging", averaging, AVERAGING)
    loss = loss()
    if method.attacked and loss.attack_loss is None:
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
    if replays and (loss.points > 1 or loss.attack_loss is None or method.targets):
        raise RecipeError(
            f"replays={replays} (free training) has one perturbation that climbs the training loss: it cannot make what "
            f"objective={objective} with fairness={fairness} needs. Set replays to 0."
        )
    if not validation and (method.validation or averaging == "fawa"):
        which = f"fairness={fairness}" if method.validation else "averaging=fawa"
        raise RecipeError(f"{which} is decided on validation images, and there are none. Set validation to split.")


def parts() -> dict[str, dict[str, str]]:
    """Every objective, fairness method, averaging and ambiguity set: setting -> name -> what it is, in one line."""
    return {
        "objective": {name: about(kind) for name, kind in OBJECTIVES.items()},
        "fairness": {name: about(method.make) for name, method in FAIRNESS.items()},
        "averaging": {name: f"{does} ({source})" if source else does for name, (source, does) in AVERAGING.items()},
        "ambiguity": {name: about(kind) for name, kind in AMBIGUITY_SETS.items()},
    }
