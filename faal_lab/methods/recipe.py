"""Make a training method as a product of parts: objective x fairness method x weight perturbation x average."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field, replace
from typing import Any

from faal_lab.catalogue import BUFFERS, FAIRNESS, OWN, STARTS, VARIANTS, check_combination
from faal_lab.dro import AMBIGUITY_SETS
from faal_lab.errors import RecipeError, check_name
from faal_lab.methods.averaging import Averaging
from faal_lab.methods.fairness.base import Fairness, NoFairness
from faal_lab.methods.objectives import OBJECTIVES, Objective
from faal_lab.methods.pgd import NEEDS_CLEAN
from faal_lab.methods.presets import PRESETS


@dataclass(frozen=True)
class Recipe:
    """One point of the product. Each part may be an object of the user's own."""

    objective: Objective
    fairness: Fairness
    start: str = "uniform"  # where the training attack begins, one of STARTS
    fairness_start: int = 0  # epochs before the fairness method acts; until then the run is `plain`
    plain: Recipe | None = None  # None: the same without a fairness method
    awp_gamma: float = 0.0  # radius of the weight perturbation, relative to each tensor's norm; 0 perturbs nothing
    awp_start: int = 0  # epochs before weights are perturbed
    averaging: Averaging = field(default_factory=Averaging)
    clean_forward: bool = False  # a clean forward pass that only moves BatchNorm, as the FAAL release makes

    def at(self, epoch: int, on: bool = True) -> Recipe:
        """What is trained by in an epoch: this one, or what it is before its fairness method acts or while that is off."""
        if on and epoch >= self.fairness_start:
            return self
        return self.plain if self.plain is not None else replace(self, fairness=NoFairness())

    @staticmethod
    def of(
        objective: str,
        fairness: str,
        *,
        variant: str = "paper",
        attack_start: str = "auto",
        ambiguity: str = "kl",
        score: str = "auto",
        solver: str = "exact",
        score_decay: float = 0.9,
        measure: str = "margin",
        beta: float = 6.0,
        fairness_start: int = 0,
        fairness_rate: float = OWN,
        fairness_strength: float = OWN,
        slack: float = 0.07,
        awp_gamma: float = 0.0,
        awp_start: int = 0,
        averaging: str = "none",
        average_decay: float = OWN,
        average_start: int = 0,
        average_threshold: float = OWN,
        average_buffers: str = "average",
        replays: int = 0,
        validation: bool = True,
    ) -> Recipe:
        """Put a recipe together from settings, named as in Config; negative ones are the method's own.

        Raises UnknownName, or RecipeError where the parts make no sense together.
        """
        check_combination(objective, fairness, averaging, replays=replays, validation=validation)
        check_name("variant", variant, VARIANTS)
        release = variant == "release"
        kind: Any = OBJECTIVES[objective]
        loss: Objective = kind(beta=beta) if "beta" in getattr(kind, "__dataclass_fields__", ()) else kind()
        ball = AMBIGUITY_SETS[check_name("ambiguity set", ambiguity, AMBIGUITY_SETS)]()  # its radius is the run's dial, tau
        score = {"auto": "sum" if release else "mean"}.get(score, score)
        settings: dict[str, Any] = {
            "ambiguity": ball, "score": score, "solver": solver, "score_decay": score_decay, "measure": measure,
            "rate": fairness_rate, "strength": fairness_strength, "slack": slack, "variant": variant, "objective": objective,
            "beta": beta,
        }  # fmt: skip
        row = FAIRNESS[fairness]
        taken = inspect.signature(row.make).parameters
        own = {n: v for n, v in settings.items() if n in taken and not (n in ("rate", "strength") and v < 0)}
        average = _averaging(averaging, release, average_decay, average_start, average_threshold, average_buffers)
        plain = Recipe(
            loss, row.make(**own) if row.scales else NoFairness(), loss.start if attack_start == "auto" else attack_start,
            awp_gamma=awp_gamma, awp_start=awp_start, averaging=average,
        )  # fmt: skip
        loss, start = _adapted(loss, fairness, objective, release)
        start = start if check_name("attack start", attack_start, ("auto", *STARTS)) == "auto" else attack_start
        return replace(
            plain, objective=loss, fairness=row.make(**own), start=start, fairness_start=fairness_start, plain=plain,
            clean_forward=release and fairness == "faal",
        )  # fmt: skip

    @staticmethod
    def named(name: str, **settings: Any) -> Recipe:
        """A recipe by the field's name, for example `Recipe.named("faal-trades-awp", beta=5.0)`; names in PRESETS.

        Settings given by name win over the preset's. Raises UnknownName, or RecipeError for a preset that is more than a recipe.
        """
        preset = PRESETS[check_name("recipe", name, PRESETS)]
        if "tau" in settings:
            raise RecipeError(
                f"tau is a dial of the run, not a part of its recipe. State it there: Config(tau={settings['tau']})."
            )
        known = inspect.signature(Recipe.of).parameters
        beyond = [f"{n}={v}" for n, v in preset.items() if n not in known or n == "replays"]
        if beyond:
            raise RecipeError(
                f"{name} is more than a recipe: it also sets {', '.join(beyond)}. "
                f"Use Config.from_mapping(preset_settings({name!r}))."
            )
        return Recipe.of(**(preset | settings))


def _adapted(loss: Objective, fairness: str, objective: str, release: bool) -> tuple[Objective, str]:
    """The objective as a fairness method attacks it, and where its attack begins unless that is stated.

    FAAL's begins at the clean image (Algorithm 1), but for KL, which has no slope there. In its release the start is the
    objective's, and MART attacks KL; in FAT's release TRADES is attacked as PGD-AT is.
    """
    changed: dict[str, str] = {}
    if release and (fairness, objective) == ("faal", "mart"):
        changed = {"attack_loss": "kl"}
    if release and (fairness, objective) == ("fat", "trades"):
        changed = {"attack_loss": "cross-entropy", "start": "uniform"}
    loss = replace(loss, **changed) if changed else loss  # pyright: ignore[reportArgumentType]
    zero = fairness == "faal" and not release and loss.attack_loss not in NEEDS_CLEAN
    return loss, "zero" if zero else loss.start


def _averaging(kind: str, release: bool, decay: float, start: int, threshold: float, buffers: str) -> Averaging:
    check_name("treatment of buffers", buffers, BUFFERS)
    own_decay = {"fawa": 0.88 if release else 0.85}.get(kind, 0.999)
    own_threshold = 0.24 if release else 0.2
    return Averaging(kind, decay if decay >= 0 else own_decay, start, threshold if threshold >= 0 else own_threshold, buffers)
