"""Build a training method as objective x fairness method x weight perturbation x weight average."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field, replace
from typing import Any

from faal_lab.catalogue import (
    AMBIGUITY_SETS,
    ATTACKERS,
    BUFFERS,
    FAIRNESS,
    OBJECTIVES,
    OWN,
    PASSES,
    STARTS,
    VARIANTS,
    Table,
    check_combination,
)
from faal_lab.dro import AmbiguitySet
from faal_lab.errors import OwnPartError, RecipeError, check_name
from faal_lab.methods.averaging import Averaging
from faal_lab.methods.class_stats import CLASS_SCORES
from faal_lab.methods.fairness.base import Fairness, NoFairness, PlansAttacks, Samples
from faal_lab.methods.fairness.faal import FAAL
from faal_lab.methods.objectives import Objective
from faal_lab.methods.pgd import ATTACK_LOSSES, NEEDS_CLEAN, PGD, Attacker
from faal_lab.methods.presets import PRESETS
from faal_lab.methods.releases import Release, check_passes, release_of


@dataclass(frozen=True)
class Recipe:
    """A training method: objective x fairness x weight perturbation x average.

    Each part may be an object of the user's own.

    Args:
        objective: the training loss.
        fairness: the fairness method.
        attack: the training attack; default PGD.
        start: start of the training attack, one of STARTS; default "uniform".
        fairness_start: epochs before the fairness method acts (until then the run is `plain`); default 0.
        plain: the recipe without its fairness method; None (default): the same with NoFairness.
        awp_gamma: radius of the weight perturbation, relative to the norm of each tensor; 0 (default) perturbs nothing.
        awp_start: epochs before weights are perturbed; default 0.
        averaging: the weight average; default none.
        passes: the passes of a step in training mode, in order, such as "clean adv clean | clean", where "|" is the
            optimiser step; "" (default): the objective's own. Those that it does not need only move BatchNorm.

    >>> from faal_lab import Recipe
    >>> recipe = Recipe.named("faal-trades-awp", beta=5.0)
    >>> recipe.objective.beta, recipe.awp_gamma
    (5.0, 0.005)
    """

    objective: Objective
    fairness: Fairness
    attack: Attacker = field(default_factory=PGD)
    start: str = "uniform"
    fairness_start: int = 0
    plain: Recipe | None = None
    awp_gamma: float = 0.0
    awp_start: int = 0
    averaging: Averaging = field(default_factory=Averaging)
    passes: str = ""

    def __post_init__(self) -> None:
        if self.passes:
            check_passes(self.passes, self.objective)

    def at(self, epoch: int, on: bool = True) -> Recipe:
        """Return the recipe that trains in an epoch: this one, or `plain`.

        Args:
            epoch: the epoch, from 0.
            on: False while the fairness method is switched off; default True.

        Returns:
            This recipe from `fairness_start` on, if `on`; else `plain`, or this recipe with NoFairness.

        >>> from faal_lab import Recipe
        >>> recipe = Recipe.of("at", "faal", fairness_start=2)
        >>> [type(recipe.at(epoch).fairness).__name__ for epoch in range(4)]
        ['NoFairness', 'NoFairness', 'FAAL', 'FAAL']
        """
        if on and epoch >= self.fairness_start:
            return self
        return self.plain if self.plain is not None else replace(self, fairness=NoFairness())

    @staticmethod
    def of(
        objective: str | Objective,
        fairness: str | Fairness,
        *,
        variant: str = "paper",
        attack: str | Attacker = "pgd",
        attack_start: str = "auto",
        ambiguity: str | AmbiguitySet = "kl",
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
        batch_norm_passes: str = "auto",
        averaging: str = "none",
        average_decay: float = OWN,
        average_start: int = 0,
        average_threshold: float = OWN,
        average_buffers: str = "average",
        replays: int = 0,
        validation: bool = True,
        class_sizes: tuple[int, ...] = (),
    ) -> Recipe:
        """Build a recipe from settings, named as in Config.

        Args:
            objective: a row of OBJECTIVES, a path such as "losses.py:Loss", or an object.
            fairness: a row of FAIRNESS, a path, or an object, which keeps its own settings.
            variant: "paper" (default), or "release" for the authors' code.
            attack: "pgd" (default), a path, or an object.
            attack_start: one of STARTS; "auto" (default): that of the objective and the fairness method.
            ambiguity: a row of AMBIGUITY_SETS (default "kl"), a path, or an object. Its radius is the run's dial tau.
            score: "mean", "sum" or "running"; "auto" (default): "sum" for the release, else "mean".
            solver: "exact" (default) or "cvxpy".
            score_decay: factor on a running score from batch to batch, in [0, 1); default 0.9.
            measure: FAAL's score of an image: "margin" (default), "cross-entropy" or "error".
            beta: coefficient of the robust term; default 6.
            fairness_start: epochs before the fairness method acts; default 0.
            fairness_rate: step size of the method's updates; negative (default): its own.
            fairness_strength: strength of the method; negative (default): its own.
            slack: excess of a class's error over the average that FRL allows, in [0, 1]; default 0.07.
            awp_gamma: relative radius of the weight perturbation; default 0, none.
            awp_start: epochs before weights are perturbed; default 0.
            batch_norm_passes: passes in training mode, "fewest" or those of the "release"; "auto" (default): the variant's.
            averaging: "none" (default), "ema" or "fawa".
            average_decay: decay of the average; negative (default): 0.999, for FAWA 0.85 (release: 0.88).
            average_start: epochs before the average begins; default 0.
            average_threshold: worst robust class accuracy that FAWA demands; negative (default): 0.2 (release: 0.24).
            average_buffers: treatment of BatchNorm's statistics, "average" (default) or "copy".
            replays: steps on each batch in free training; default 0, no free training.
            validation: True (default) if the run has validation images.
            class_sizes: training images of each class, for an objective that takes them; empty (default): not known.

        Returns:
            The recipe; its `plain` trains the epochs before `fairness_start`.

        Raises:
            UnknownName: if a name is not in its table.
            RecipeError: if the parts make no sense together.
            OwnPartError: if a part from elsewhere cannot be loaded, or lacks something.

        >>> from faal_lab import Recipe
        >>> recipe = Recipe.of("trades", "faal", fairness_start=10)
        >>> type(recipe.at(9).fairness).__name__, type(recipe.at(10).fairness).__name__
        ('NoFairness', 'FAAL')
        """
        names = OBJECTIVES.text(objective), "faal" if type(fairness) is FAAL else FAIRNESS.text(fairness)
        facts: dict[str, Any] = {"replays": replays, "validation": validation, "attack": ATTACKERS.text(attack)}
        check_combination(*names, averaging, **facts)
        check_name("variant", variant, VARIANTS)
        check_name("BatchNorm passes", batch_norm_passes, PASSES)
        released = release_of(*names, variant, batch_norm_passes, awp_gamma > 0, replays)
        release = variant == "release"
        loss: Any = _made(OBJECTIVES, objective, {"beta": beta, "class_sizes": class_sizes})
        ball = _made(AMBIGUITY_SETS, ambiguity, {})  # its radius is the run's dial, tau
        score = {"auto": "sum" if release else "mean"}.get(score, score)
        settings: dict[str, Any] = {
            "ambiguity": ball, "score": score, "solver": solver, "score_decay": score_decay, "measure": measure,
            "rate": fairness_rate, "strength": fairness_strength, "slack": slack, "variant": variant, "objective": names[0],
            "beta": beta,
        }  # fmt: skip
        settings = {n: v for n, v in settings.items() if not (n in ("rate", "strength") and v < 0)}
        method: Any = _made(FAIRNESS, fairness, settings)
        _check_facts(names, loss, method, averaging, **facts)
        takes = isinstance(fairness, str) and "ambiguity" in inspect.signature(FAIRNESS[fairness].make).parameters
        if not takes and (not isinstance(ambiguity, str) or ":" in ambiguity):
            raise RecipeError(
                f"ambiguity={AMBIGUITY_SETS.text(ambiguity)}: fairness={names[1]} takes no set from outside. "
                "Choose fairness=faal, or hand the set to your method."
            )
        row = FAIRNESS[names[1]]
        # CFA's, DAFA's and TRIX's code has one step for all epochs
        one_code = release and ((row.delayed and row.attacked) or row.targets)
        early = _made(FAIRNESS, fairness, settings) if isinstance(fairness, str) and (row.scales or one_code) else NoFairness()
        if release and released is not None:
            loss = _as_released(loss, released)
        start = check_name("attack start", attack_start, ("auto", *STARTS))
        plain = Recipe(
            loss, early, _made(ATTACKERS, attack, {}), loss.start if start == "auto" else start, awp_gamma=awp_gamma,
            awp_start=awp_start,
            averaging=_averaging(averaging, release, average_decay, average_start, average_threshold, average_buffers),
            passes="" if released is None or batch_norm_passes == "fewest" else released.passes,
        )  # fmt: skip
        if start == "auto" and names[1] == "faal" and not release and loss.attack_loss not in NEEDS_CLEAN:
            start = "zero"  # Algorithm 1 starts at the clean image, where KL has no slope
        return replace(
            plain, fairness=method, start=plain.start if start == "auto" else start, fairness_start=fairness_start, plain=plain
        )

    @staticmethod
    def named(name: str, **settings: Any) -> Recipe:
        """Build a recipe by its name in the literature.

        Args:
            name: a row of PRESETS, for example "faal-trades-awp".
            **settings: arguments of `Recipe.of`; they win over those of the preset.

        Returns:
            The recipe.

        Raises:
            UnknownName: if there is no such preset.
            RecipeError: if the preset is more than a recipe, or `tau` is given: tau is a dial of the run.

        >>> from faal_lab import Recipe
        >>> Recipe.named("faal-mart").start
        'zero'
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


_FORMS = {  # setting -> what its part must have
    "objective": ("terms", "points", "attack_loss", "start", "__call__"),
    "fairness": ("needs", "state", "weigh"),
    "ambiguity": ("limits", "worst_case"),
    "attack": ("__call__",),
}


def _made(table: Table[Any], given: Any, settings: dict[str, Any]) -> Any:
    """Make a part from a name or a path, with those settings that it takes; an object is the part itself."""
    made, label = given, f"{table.setting}={table.text(given)}"
    if isinstance(given, str):
        kind = {"ambiguity": "ambiguity set", "attack": "training attack"}.get(table.setting, table.setting)
        row = table[check_name(kind, given, table)]
        make, label = row.make, row.label
        taken = inspect.signature(make).parameters
        try:
            made = make(**{name: value for name, value in settings.items() if name in taken})
        except Exception as error:  # any line of the user's code may fail
            if not label:
                raise
            cure = "It must be a class, or a function, that needs no arguments but settings of a run."
            raise OwnPartError(f"{label}: making it fails with {type(error).__name__}: {error}. {cure}") from error
        if not label:
            return made
    if lacks := [name for name in _FORMS[table.setting] if not hasattr(made, name)]:
        kind = "class: hand over an object of it" if inspect.isclass(made) else type(made).__name__
        raise OwnPartError(f"{label} must have {', '.join(_FORMS[table.setting])}; {', '.join(lacks)} is missing, got a {kind}.")
    if inspect.isclass(made):
        raise OwnPartError(f"{label} must be an object, got the class {made.__name__}. Call it: {made.__name__}().")
    if table is OBJECTIVES:
        check_name(f"start of {label}", made.start, STARTS)
        check_name(f"attack loss of {label}", made.attack_loss or "kl", ATTACK_LOSSES)
    for need in made.needs if table is FAIRNESS else ():
        check_name(f"class score that {label} needs", need, (*CLASS_SCORES, "loss", "softmax"))
    return made


def _check_facts(names: tuple[str, str], loss: Objective, method: Fairness, averaging: str, **settings: Any) -> None:
    """Check the combination again by the facts that parts from elsewhere show once they are made."""
    rows = OBJECTIVES[names[0]], FAIRNESS[names[1]]
    if rows[0].label:
        attacked = loss.attack_loss is not None
        rows = replace(rows[0], terms=tuple(loss.terms), points=loss.points, attacked=attacked), rows[1]
    if rows[1].label:
        acts_on = "sampling" if isinstance(method, Samples) else "loss"
        rows = rows[0], replace(rows[1], attacked=isinstance(method, PlansAttacks), acts_on=acts_on)
    check_combination(*names, averaging, rows=rows, **settings)


def _as_released(loss: Any, released: Release) -> Any:
    """Return the objective with the release's attack and start; BAT's points each get an ascent of their own."""
    changed = {"start": released.start} | ({"attack_loss": released.attack} if released.attack is not None else {})
    return replace(loss, **changed, **({"ascents": 2} if loss.points == 2 else {}))


def _averaging(kind: str, release: bool, decay: float, start: int, threshold: float, buffers: str) -> Averaging:
    check_name("treatment of buffers", buffers, BUFFERS)
    own_decay = {"fawa": 0.88 if release else 0.85}.get(kind, 0.999)
    own_threshold = 0.24 if release else 0.2
    return Averaging(kind, decay if decay >= 0 else own_decay, start, threshold if threshold >= 0 else own_threshold, buffers)
