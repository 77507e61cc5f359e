"""List the names of all parts, the facts that settings need, and the valid combinations.

Loads no part and no torch. A row names the class of a part ("module:Class" in this package). A class may repeat a fact of
its row (limits, terms); `tests/test_catalogue.py` checks that the two agree. Installed packages add rows by entry points,
and a path such as "rules.py:Rule" has one too; their code is imported when the part is made.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import math
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from faal_lab.errors import OBJECT, OwnPartError, RecipeError, check_name, import_named

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

OWN = -1.0  # the setting is left to the method
ANY_RADIUS = (0.0, math.inf)
PRICES = (1e-300, math.inf)  # of a penalised set, in place of a radius: a higher price is closer to the reference


@dataclass(frozen=True)
class Part:
    """A row: the class of a part, and the arguments of this row."""

    code: str  # "module:Class", below faal_lab; of a part from elsewhere: its path
    arguments: dict[str, Any] = field(default_factory=dict, kw_only=True, hash=False)
    label: str = field(default="", kw_only=True)  # "fairness=rules.py:Rule", of a part from elsewhere alone
    whose: str = field(default="", kw_only=True)  # "your own code", or its package

    @property
    def make(self) -> Callable[..., Any]:
        """The class, or the class with the arguments of this row. Imports its module."""
        if self.label:
            found = import_named(self.label, self.code)
            made = inspect.isclass(found) or inspect.isroutine(found) or isinstance(found, partial)
            return found if made else lambda: found  # an object that is ready to use
        module, _, name = self.code.partition(":")
        found = getattr(importlib.import_module(f"faal_lab.{module}"), name)
        return partial(found, **self.arguments) if self.arguments else found

    def about(self) -> str:
        """Return the first paragraph of the class's docstring, and the halves that this row leaves out."""
        if self.label:
            return f"{self.whose}."
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

    terms: tuple[str, ...]  # cross-entropy first; empty: not known before the part is made
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
        if self.label:
            return self.whose
        often = {"never": "", "once": ", once"}.get(self.updates, f", every {self.updates}")
        adversary = "keeps the adversary" if self.keeps_adversary else "changes the adversary"
        split = "needs a validation split" if self.validation else "needs no validation split"
        terms = f"; for objectives with the terms {' and '.join(self.terms)}" if self.terms else ""
        return f"{self.source or 'the control arm'}; acts on {self.acts_on}{often}; {adversary}; {split}{terms}"


OWN_FORM = re.compile(r"(.+\.py|[^\W\d]\w*(\.\w+)*):[^\W\d]\w*(\.\w+)*")  # a file or a module, and a name in it
_Row = TypeVar("_Row", bound=Part)


@cache
def _installed() -> list[EntryPoint]:
    """List the entry points of installed packages for us, by the name of their package. Imports none of them."""
    from importlib import metadata

    found = metadata.entry_points()
    ours = [entry for group in found.groups if group.startswith("faal_lab.") for entry in found.select(group=group)]
    return sorted(ours, key=lambda entry: (_package(entry), entry.name))


def _package(entry: EntryPoint) -> str:
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist is not None else "a package"


class Table(Mapping[str, _Row], Generic[_Row]):
    """The rows of a setting by name: ours, then those of installed packages.

    A path of the user's own has a row, too, but is not listed. Entry points are read when a name is not ours, or all names
    are listed.
    """

    def __init__(self, setting: str, group: str, ours: dict[str, _Row], other: _Row, paths: bool = True) -> None:
        self.setting, self.group = setting, f"faal_lab.{group}"
        self.ours, self._other = ours, other
        self.also = " Or your own: FILE.py:NAME, module:NAME." if paths else ""

    def __getitem__(self, name: str) -> _Row:
        if name in self.ours:
            return self.ours[name]
        label = f"{self.setting}={name}"
        if self.also and isinstance(name, str) and OWN_FORM.fullmatch(name):
            return replace(self._other, code=name, label=label, whose="your own code")
        entry = self._theirs[0][name]
        package = _package(entry)
        about = entry.dist.metadata["Summary"] if entry.dist is not None and "Summary" in entry.dist.metadata else ""
        whose = f"{about.rstrip('.')} (package {package})" if about else f"Package {package}"
        return replace(self._other, code=entry.value, label=f"{label} (package {package})", whose=whose)

    def __iter__(self) -> Iterator[str]:
        return iter([*self.ours, *self._theirs[0]])

    def __len__(self) -> int:
        return len(list(iter(self)))

    @cached_property
    def _theirs(self) -> tuple[dict[str, EntryPoint], dict[str, str]]:
        """The entry points by name, and what is wrong with the others."""
        found: dict[str, EntryPoint] = {}
        faults: dict[str, str] = {}
        for entry in _installed():
            if entry.group != self.group:
                continue
            said = f"{self.setting}={entry.name} of the package {_package(entry)} is not used:"
            if entry.name in self.ours or entry.name in found:
                path = f", or use its path, {entry.value}" if self.also else ""
                first = "faal_lab's own" if entry.name in self.ours else f"that of {_package(found[entry.name])}"
                faults[entry.name] = f"{said} {first} has the name. Rename it there{path}."
            elif not re.fullmatch(r"[\w.+-]+", entry.name) or not OWN_FORM.fullmatch(entry.value):
                faults[entry.name] = f"{said} a name has letters, digits, '-', '_' and '.', and stands for module:NAME."
            else:
                found[entry.name] = entry
        return found, faults

    def load(self, name: str) -> Any:
        """Import the object that a path or a name of a package stands for. Raises OwnPartError."""
        row = self[name]
        return import_named(row.label, row.code)

    def clash(self, name: str) -> str:
        """Return why a package's part of this name is not used; empty if there is none."""
        return self._theirs[1].get(name, "")

    def faults(self) -> list[str]:
        """Import the parts of installed packages; return what is wrong with them, a line each."""
        found = list(self._theirs[1].values())
        for name in self._theirs[0]:
            try:
                _ = self[name].make
            except OwnPartError as error:
                found.append(str(error))
        return found

    def text(self, given: Any) -> str:
        """Return the text that stands for a part in the settings: the name or path itself, or "object:module.Class"."""
        if isinstance(given, str):
            return given
        kind = given if inspect.isroutine(given) or inspect.isclass(given) else type(given)
        return f"{OBJECT}:{kind.__module__}." + re.sub(r"\W", "_", kind.__name__)


_AMBIGUITY_SETS: dict[str, AmbiguityPart] = {
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

_OBJECTIVES: dict[str, ObjectivePart] = {
    "at": ObjectivePart("methods.objectives:AdversarialTraining", ("robust",)),
    "trades": ObjectivePart("methods.objectives:TRADES", ("clean", "robust")),
    "mart": ObjectivePart("methods.objectives:MART", ("boosted", "robust")),
    "bat": ObjectivePart("methods.objectives:BAT", ("source", "robust", "uniformity"), points=2),
    "standard": ObjectivePart("methods.objectives:StandardTraining", ("clean",), attacked=False),
    "bsl": ObjectivePart("methods.objectives:BalancedSoftmax", ("robust",)),
}

_XU, _WEI = "Xu et al., ICML 2021", "Wei et al., CVPR 2023"
_TRADES = ("clean", "robust")
_FRL, _CFA = "methods.fairness.frl:FRL", "methods.fairness.cfa:CFA"
_FAIRNESS: dict[str, Method] = {
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
    "sy-far": Method("methods.fairness.sy_far:SyFAR", "Najjar et al., USENIX Security 2026", "loss", "batch", attacked=False),
    "robust-lt": Method("methods.fairness.cfa:RobustLT", "Zhang et al., CVPR 2026", "radius", "epoch"),
    "fair-tat": Method("methods.fairness.dafa:FairTAT", "after Medi et al., WACV 2025", "target", "epoch", targets=True),
}

ATTACKERS = Table("attack", "attacks", {"pgd": Part("methods.pgd:PGD")}, Part(""))  # of training; ATTACKS: of an evaluation
AMBIGUITY_SETS = Table("ambiguity", "sets", _AMBIGUITY_SETS, AmbiguityPart(""))
OBJECTIVES = Table("objective", "objectives", _OBJECTIVES, ObjectivePart("", ()))
FAIRNESS = Table("fairness", "fairness", _FAIRNESS, Method("", "", "loss", "batch", attacked=False))

# name -> (source, description)
AVERAGING: dict[str, tuple[str, str]] = {
    "none": ("", "The last weights are the result."),
    "ema": ("Wang and Wang, ICLR 2022", "Exponential average of the weights after each step; the decay rises at first."),
    "fawa": (
        "Wei et al., CVPR 2023",
        "Exponential average of the weights after each epoch whose worst class on validation images is robust enough.",
    ),
}
BUFFERS = ("average", "copy")  # BatchNorm's statistics: averaged like the weights, or copied from the last step

# Each subpackage keeps the code for these names in a registry with the same keys.
_DATA_SETS = ("digits", "folder", "csv", "npz", "cifar10", "cifar100", "svhn", "stl10", "mnist", "fashion-mnist")
DATA_SETS = Table("data", "data", dict.fromkeys(_DATA_SETS, Part("")), Part(""), paths=False)
VALIDATIONS = ("split", "none", "test")
STORAGES = ("auto", "memory", "disk")
AUGMENTATIONS = ("none", "crop-flip", "randaugment", "randaugment-crop-flip")
_MODELS = ("small-cnn", "preact-resnet-18", "resnet-18", "wrn-34-10", "wrn-28-10", "wrn-16-4")
MODELS = Table("model", "models", dict.fromkeys(_MODELS, Part("")), Part(""))
FILTERS = {"small-cnn": 24, "preact-resnet-18": 64, "resnet-18": 64}  # of the first stage, for networks with a choice
PATH_FORM = re.compile(r"robustbench:\S+|" + OWN_FORM.pattern)  # a network from elsewhere
ZOO = "robustbench:"
TABLES: tuple[Table[Any], ...] = (OBJECTIVES, FAIRNESS, AMBIGUITY_SETS, ATTACKERS, MODELS, DATA_SETS)
NORMALIZATIONS = ("data", "none", "cifar")
PRECISIONS = ("auto", "float32", "bfloat16")
NORMS = ("linf", "l2")
MEASURES = ("margin", "cross-entropy", "error")
SCORES = ("mean", "sum", "running")
STARTS = ("zero", "uniform", "gaussian", "gaussian-uncut")
VARIANTS = ("paper", "release")
PASSES = ("auto", "fewest", "release")
ATTACKS = (
    "clean", "noise", "fgsm", "pgd-20", "pgd-100", "cw-20", "apgd-ce", "apgd-t", "fab-t", "square", "apgd-ce+t", "autoattack",
)  # fmt: skip
DEFAULT_ATTACKS = ("clean", "pgd-20", "cw-20", "autoattack")
MODES = ("per-image", "compat")  # AutoAttack's noise
EXPORTS = ("replay", "tensorboard", "csv", "parquet", "safetensors", "state_dict", "robustbench", "torchattacks", "timm")


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


def check_combination(
    objective: str, fairness: str, averaging: str, *, replays: int = 0, validation: bool = True, attack: str = "pgd",
    rows: tuple[ObjectivePart, Method] | None = None,
) -> None:  # fmt: skip
    """Refuse parts that make no sense together.

    Args:
        objective: a name in OBJECTIVES.
        fairness: a name in FAIRNESS.
        averaging: a name in AVERAGING.
        replays: steps on each batch in free training; 0 (default) is no free training.
        validation: True (default) if the run has validation images.
        attack: a name in ATTACKERS; default "pgd".
        rows: the facts of the two parts; default: those of the tables, which know little of parts from elsewhere.

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
    loss, method = rows or (loss, method)
    if method.attacked and not loss.attacked:
        raise RecipeError(
            f"fairness={fairness} acts on attacks, and objective={objective} trains on clean images alone. "
            "Choose at, trades, mart, bat or bsl."
        )
    missing = [term for term in method.terms if term not in loss.terms]
    if loss.terms and missing:
        raise RecipeError(
            f"fairness={fairness} weighs the terms {' and '.join(method.terms)} apart, and objective={objective} has "
            f"{', '.join(loss.terms)}: there is no {missing[0]} term. Choose objective=trades."
        )
    if method.targets and loss.points > 1:
        raise RecipeError(
            f"objective={objective} needs attacks that run away from the true class through the decision boundary; "
            f"fairness={fairness} aims some at a target. Choose at, trades or mart."
        )
    if attack != "pgd" and (replays or loss.points > 1 or not loss.attacked or method.targets):
        raise RecipeError(
            f"attack={attack} finds one image from a start and a radius; replays={replays}, objective={objective} with "
            f"fairness={fairness} need another or none. Set replays to 0, objective to at, trades or mart, fairness not to trix."
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


@cache
def facts_of_releases() -> dict[str, Any]:
    """Read releases.toml: `release` holds fairness method -> objective (with "-awp" under perturbed weights) -> facts."""
    return tomllib.loads(Path(__file__).with_name("releases.toml").read_text(encoding="utf-8"))
