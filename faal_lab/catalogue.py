"""List the names of all parts, the facts that settings need, and the valid combinations.

Loads no part and no torch. A row names the class of a part ("module:Class" in this package). A class may repeat a fact of
its row (limits, terms); `tests/test_catalogue.py` checks that the two agree.
"""

from __future__ import annotations

import ast
import importlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from faal_lab.errors import RecipeError, check_name

OWN = -1.0  # the setting is left to the method
ANY_RADIUS = (0.0, math.inf)
PRICES = (1e-300, math.inf)  # of a penalised set, in place of a radius: a higher price is closer to the reference


@dataclass(frozen=True)
class Part:
    """A row: the class of a part, and the arguments of this row."""

    code: str  # "module:Class", below faal_lab
    arguments: dict[str, Any] = field(default_factory=dict, kw_only=True, hash=False)

    @property
    def make(self) -> Callable[..., Any]:
        """The class, or the class with the arguments of this row. Imports its module."""
        module, _, name = self.code.partition(":")
        found = getattr(importlib.import_module(f"faal_lab.{module}"), name)
        return partial(found, **self.arguments) if self.arguments else found

    def about(self) -> str:
        """Return the first paragraph of the class's docstring, and the halves that this row leaves out."""
        module, _, name = self.code.partition(":")
        text = " ".join(_docstrings(module)[name].strip().split("\n\n")[0].split())
        return text + "".join(f" Without {name}." for name, value in self.arguments.items() if value is False)


@cache
def _docstrings(module: str) -> dict[str, str]:
    """Read class name -> docstring from the source of a module; an import would load torch."""
    source = Path(__file__).parent.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8")
    return {node.name: ast.get_docstring(node) or "" for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}


@dataclass(frozen=True)
class AmbiguityPart(Part):
    """A set of class distributions."""

    limits: tuple[float, float] = ANY_RADIUS  # smallest and largest radius that has a meaning


@dataclass(frozen=True)
class ObjectivePart(Part):
    """A training loss."""

    terms: tuple[str, ...]  # cross-entropy first
    points: int = 1  # adversarial points of each image
    attacked: bool = True  # trains on attacked images


@dataclass(frozen=True)
class Method(Part):
    """A fairness method, with the properties of the paper's Table 4.

    `make` takes those of Recipe's settings that it names.
    """

    source: str
    acts_on: str  # the part of a training step that it changes
    updates: str  # "never", "once", or every "batch" or "epoch"
    validation: bool = False  # needs a validation split
    attacked: bool = True  # has no meaning without an attack
    terms: tuple[str, ...] = ()  # terms that the objective must have, for a method of one loss only
    targets: bool = False  # makes some attacks targeted
    delayed: bool = False  # needs the statistics of one epoch before it acts
    scales: bool = False  # scales the loss even before it acts

    @property
    def keeps_adversary(self) -> bool:
        """True if the method leaves phase 1 alone, so that any attack will do."""
        return "radius" not in self.acts_on and not self.targets

    def properties(self) -> str:
        """Return the properties of the paper's Table 4 in words.

        >>> from faal_lab.catalogue import FAIRNESS
        >>> FAIRNESS["faal"].properties()
        'Zhang et al., CVPR 2024; acts on loss, every batch; keeps the adversary; needs no validation split'
        """
        often = {"never": "", "once": ", once"}.get(self.updates, f", every {self.updates}")
        adversary = "keeps the adversary" if self.keeps_adversary else "changes the adversary"
        split = "needs a validation split" if self.validation else "needs no validation split"
        terms = f"; for objectives with the terms {' and '.join(self.terms)}" if self.terms else ""
        return f"{self.source or 'the control arm'}; acts on {self.acts_on}{often}; {adversary}; {split}{terms}"


AMBIGUITY_SETS: dict[str, AmbiguityPart] = {
    "kl": AmbiguityPart("dro.kl:KLBall"),
    "reverse-kl": AmbiguityPart("dro.reverse_kl:ReverseKLBall"),
    "chi-square": AmbiguityPart("dro.balls:ChiSquareBall"),
    "total-variation": AmbiguityPart("dro.balls:TotalVariationBall", (0.0, 1.0)),
    "hellinger": AmbiguityPart("dro.balls:HellingerBall", (0.0, 1.0)),
    "cvar": AmbiguityPart("dro.balls:CVaR", (1e-12, 1.0)),
    "wasserstein": AmbiguityPart("dro.wasserstein:WassersteinBall"),
    "simplex": AmbiguityPart("dro.balls:Simplex"),
    "point": AmbiguityPart("dro.balls:Point"),
    "kl-penalty": AmbiguityPart("dro.kl:KLPenalty", PRICES),
    "reverse-kl-penalty": AmbiguityPart("dro.reverse_kl:ReverseKLPenalty", PRICES),
}

OBJECTIVES: dict[str, ObjectivePart] = {
    "at": ObjectivePart("methods.objectives:AdversarialTraining", ("robust",)),
    "trades": ObjectivePart("methods.objectives:TRADES", ("clean", "robust")),
    "mart": ObjectivePart("methods.objectives:MART", ("boosted", "robust")),
    "bat": ObjectivePart("methods.objectives:BAT", ("source", "robust", "uniformity"), points=2),
    "standard": ObjectivePart("methods.objectives:StandardTraining", ("clean",), attacked=False),
}

_XU, _WEI = "Xu et al., ICML 2021", "Wei et al., CVPR 2023"
_TRADES = ("clean", "robust")
_FRL, _CFA = "methods.fairness.frl:FRL", "methods.fairness.cfa:CFA"
FAIRNESS: dict[str, Method] = {
    "none": Method("methods.fairness.base:NoFairness", "", "nothing", "never", attacked=False),
    "faal": Method("methods.fairness.faal:FAAL", "Zhang et al., CVPR 2024", "loss", "batch", attacked=False),
    "group-dro": Method("methods.fairness.group_dro:GroupDRO", "Sagawa et al., ICLR 2020", "loss", "batch", attacked=False),
    "frl-rw": Method(_FRL, _XU, "loss", "epoch", validation=True, terms=_TRADES, arguments={"remargin": False}),
    "frl-rm": Method(_FRL, _XU, "radius", "epoch", validation=True, arguments={"reweight": False}),
    "frl-rwrm": Method(_FRL, _XU, "loss, radius", "epoch", validation=True, terms=_TRADES),
    "cfa": Method(_CFA, _WEI, "radius, beta", "epoch", delayed=True, scales=True),
    "cfa-ccm": Method(_CFA, _WEI, "radius", "epoch", delayed=True, arguments={"regularise": False}),
    "cfa-ccr": Method(_CFA, _WEI, "beta", "epoch", terms=_TRADES, delayed=True, scales=True, arguments={"margin": False}),
    "wat": Method(
        "methods.fairness.wat:WAT", "Li and Liu, AAAI 2023", "loss", "epoch", validation=True, attacked=False, delayed=True
    ),
    "fat": Method("methods.fairness.fat:FAT", "Ma et al., NeurIPS 2022", "loss", "batch", attacked=False),
    "dafa": Method("methods.fairness.dafa:DAFA", "Lee et al., ICLR 2024", "loss, radius", "once", delayed=True),
    "trix": Method("methods.fairness.dafa:TRIX", "Medi et al., arXiv 2507.07768", "loss, radius, target", "batch", targets=True),
    "cfol": Method("methods.fairness.cfol:CFOL", "Pethick et al., TMLR 2023", "sampling", "batch", attacked=False),
    "csr": Method("methods.fairness.csr:CSR", "Jin et al., ICLR 2025", "loss", "epoch", terms=_TRADES),
}

# name -> (source, description)
AVERAGING: dict[str, tuple[str, str]] = {
    "none": ("", "The last weights are the result."),
    "ema": (
        "Wang and Wang, ICLR 2022",
        "Exponential average of the weights after each step; the decay rises over the first ones.",
    ),
    "fawa": (
        "Wei et al., CVPR 2023",
        "Exponential average of the weights after each epoch whose worst class on validation images is robust enough.",
    ),
}
BUFFERS = ("average", "copy")  # BatchNorm's statistics: averaged like the weights, or copied from the last step

# Each subpackage keeps the code for these names in a registry with the same keys.
DATA_SETS = ("digits", "folder", "csv", "npz", "cifar10", "cifar100", "svhn", "stl10", "mnist", "fashion-mnist")
VALIDATIONS = ("split", "none", "test")
AUGMENTATIONS = ("none", "crop-flip")
MODELS = ("small-cnn", "preact-resnet-18", "resnet-18", "wrn-34-10", "wrn-28-10", "wrn-16-4")
FILTERS = {"small-cnn": 24, "preact-resnet-18": 64, "resnet-18": 64}  # of the first stage, for networks with a choice
PATH_FORM = re.compile(r"robustbench:\S+|[^\W\d]\w*(\.\w+)*:[^\W\d]\w*(\.\w+)*")  # a network from elsewhere
ZOO = "robustbench:"
NORMALIZATIONS = ("data", "none", "cifar")
PRECISIONS = ("auto", "float32", "bfloat16")
NORMS = ("linf", "l2")
MEASURES = ("margin", "cross-entropy", "error")
SCORES = ("mean", "sum", "running")
STARTS = ("zero", "uniform", "gaussian")
VARIANTS = ("paper", "release")
ATTACKS = (
    "clean", "noise", "fgsm", "pgd-20", "pgd-100", "cw-20", "apgd-ce", "apgd-t", "fab-t", "square", "apgd-ce+t", "autoattack",
)  # fmt: skip
DEFAULT_ATTACKS = ("clean", "pgd-20", "cw-20", "autoattack")
MODES = ("per-image", "compat")  # AutoAttack's noise
EXPORTS = ("tensorboard", "csv", "parquet", "safetensors", "state_dict", "robustbench", "timm")


def parts() -> dict[str, dict[str, str]]:
    """Describe every objective, fairness method, average and ambiguity set.

    Returns:
        setting -> name -> description in one line.

    >>> from faal_lab.catalogue import parts
    >>> parts()["averaging"]["none"]
    'The last weights are the result.'
    """
    return {
        "objective": {name: row.about() for name, row in OBJECTIVES.items()},
        "fairness": {name: row.about() for name, row in FAIRNESS.items()},
        "averaging": {name: f"{does} ({source})" if source else does for name, (source, does) in AVERAGING.items()},
        "ambiguity": {name: row.about() for name, row in AMBIGUITY_SETS.items()},
    }


def check_combination(objective: str, fairness: str, averaging: str, *, replays: int = 0, validation: bool = True) -> None:
    """Refuse parts that make no sense together.

    Args:
        objective: a name in OBJECTIVES.
        fairness: a name in FAIRNESS.
        averaging: a name in AVERAGING.
        replays: steps on each batch in free training; 0 (default) is no free training.
        validation: True (default) if the run has validation images.

    Raises:
        UnknownName: if a name is not in its table.
        RecipeError: if the parts do not go together; the message states a combination that works.

    >>> from faal_lab.catalogue import check_combination
    >>> check_combination("trades", "csr", "none")
    >>> check_combination("at", "csr", "none")
    Traceback (most recent call last):
        ...
    faal_lab.errors.RecipeError: fairness=csr weighs the terms clean and robust apart, and objective=at has robust:
    there is no clean term. Choose objective=trades.
    """
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
