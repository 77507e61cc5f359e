"""All settings of a run in one flat, frozen record.

Knows: every setting, its type, its default, its range. Must not know: how any of them is carried out.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from typing import Any, get_type_hints

from faal_lab.ambiguity import AMBIGUITY_SETS
from faal_lab.class_stats import CLASS_SCORES
from faal_lab.data import AUGMENTATIONS, LOADERS, VALIDATIONS
from faal_lab.fairness import FAIRNESS
from faal_lab.fairness.faal import SCORES
from faal_lab.models import MODELS
from faal_lab.names import check_name
from faal_lab.objectives import OBJECTIVES
from faal_lab.recipe import STARTS

LR_SCHEDULES = ("constant", "cosine", "one-cycle", "step")


class ConfigError(ValueError):
    """A setting of the wrong type or out of its range; the message names it, what was expected and what was got."""


@dataclass(frozen=True)
class RunConfig:
    """Settings of one training run. Radii are in pixel units of [0, 1]; 8/255 is 0.03137, not 0.031."""

    data: str = "digits"
    """Data set: digits, folder (your images, one sub-folder a class), cifar10, cifar100, svhn, stl10, mnist or fashion-mnist."""
    data_dir: str = ""
    """Folder of the images (with train/ and test/, or split by seed), or of torchvision's files (empty: ./data)."""
    download: bool = False
    """Fetch the data set where it is not in data_dir (checked by its hash)."""
    image_size: int = 0
    """Resize images to this side in pixels; 0 keeps their size. The digits keep theirs."""
    validation: str = "split"
    """Validation images: split (cut from the training images), or none (all are trained on; no checkpoint is the best)."""
    imbalance: float = 1.0
    """Training images of the first class for each of the last; above 1, classes thin out in order (Cui et al., CVPR 2019)."""
    augment: str = "auto"
    """Augmentation: none, crop-flip, or auto (what suits the data set)."""
    model: str = "small-cnn"
    """Network, trained from scratch unless base is given."""
    base: str = ""
    """Run folder or checkpoint file to start from; empty starts from random weights."""
    base_checkpoint: str = "last"
    """Which checkpoint of the base run: last, or best (by validation)."""
    objective: str = "at"
    """Training loss: at (PGD adversarial training), trades, mart, or standard (clean images)."""
    beta: float = 6.0
    """Weight of the robust term of TRADES and MART."""
    fairness: str = "none"
    """Class weighting: none, faal, or group-dro."""
    fairness_start: int = 0
    """Epochs of plain training before the class weighting sets in (the paper's training from scratch: half of them)."""
    dro_rate: float = 0.01
    """Step of group DRO's weights."""
    ambiguity: str = "kl"
    """FAAL's set of class distributions around uniform: kl (the paper's), or another one to compare."""
    tau: float = 0.5
    """Radius of that set; 0 is plain averaging (alpha, for cvar). Does not transfer between numbers of classes."""
    multiplier: float = 0.0
    """The radius stated as c*, the most that a class can count, in multiples of its share (above 1); 0 goes by tau."""
    measure: str = "margin"
    """What FAAL scores an image by: margin (the paper), or cross-entropy or error, its ablation."""
    score: str = "mean"
    """FAAL's class score: mean of margins (the paper), sum (the release), or running (over batches, for many classes)."""
    score_decay: float = 0.9
    """What a running score keeps from batch to batch, below 1."""
    solver: str = "exact"
    """FAAL's solver: exact, or cvxpy (slow, for checking)."""
    attack_start: str = "auto"
    """Where training attacks begin: zero, uniform, gaussian, or auto (what the method's paper says)."""
    epsilon: float = 0.1
    """L-infinity attack radius."""
    attack_steps: int = 10
    """PGD steps of the training attack."""
    step_ratio: float = 0.25
    """Attack step as a fraction of epsilon."""
    epochs: int = 4
    """Passes over the training images."""
    batch_size: int = 64
    """Images per step."""
    learning_rate: float = 0.05
    """Peak learning rate of SGD."""
    lr_schedule: str = "cosine"
    """Learning rate over the run: constant, cosine, one-cycle, or step (x0.1 at 1/2 and 3/4)."""
    momentum: float = 0.9
    """SGD momentum."""
    weight_decay: float = 5e-3
    """SGD weight decay."""
    validation_steps: int = 10
    """PGD steps of the attack on the validation images after each epoch."""
    checkpoint_every: int = 0
    """Also checkpoint every so many steps; 0 only after each epoch and on a stop."""
    seed: int = 0
    """Seed of the weights, the order and the noise."""
    split_seed: int = 0
    """Seed of the split in train, validation and test; a fine-tuning must keep its base's."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1, mps."""

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(RunConfig).items():
            object.__setattr__(self, name, _typed(name, getattr(self, name), kind))
        for name, (kind, valid) in _CHOICES.items():
            check_name(kind, getattr(self, name), valid)
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high or math.isinf(value):
                limit = f"at least {low}" if high == math.inf else f"between {low} and {high}"
                raise ConfigError(f"{name} must be {limit}, got {value}.")
        low, high = AMBIGUITY_SETS[self.ambiguity].limits
        if not low <= self.tau <= high:
            raise ConfigError(f"tau must be between {low:g} and {high:g} for ambiguity={self.ambiguity}, got {self.tau}.")
        if 0 < self.multiplier <= 1:
            raise ConfigError(f"multiplier must be above 1 (or 0, to go by tau), got {self.multiplier}.")

    @staticmethod
    def from_mapping(mapping: Mapping[str, Any]) -> RunConfig:
        """Build from names and values; raises UnknownName (nearest name offered) or ConfigError."""
        names = [f.name for f in fields(RunConfig)]
        for name in mapping:
            check_name("setting", name, names)
        return RunConfig(**mapping)

    def to_mapping(self) -> dict[str, Any]:
        """All settings as plain values."""
        return asdict(self)

    def digest(self) -> str:
        """A short hash of all settings."""
        return hashlib.sha256(json.dumps(self.to_mapping(), sort_keys=True).encode()).hexdigest()[:12]


_CHOICES: dict[str, tuple[str, tuple[str, ...]]] = {
    "data": ("data set", tuple(LOADERS)),
    "validation": ("validation", VALIDATIONS),
    "augment": ("augmentation", ("auto", *AUGMENTATIONS)),
    "model": ("model", tuple(MODELS)),
    "base_checkpoint": ("checkpoint", ("last", "best")),
    "objective": ("objective", tuple(OBJECTIVES)),
    "fairness": ("fairness method", tuple(FAIRNESS)),
    "ambiguity": ("ambiguity set", tuple(AMBIGUITY_SETS)),
    "measure": ("measure", tuple(CLASS_SCORES)),
    "score": ("class score", SCORES),
    "solver": ("solver", ("exact", "cvxpy")),
    "attack_start": ("attack start", ("auto", *STARTS)),
    "lr_schedule": ("learning-rate schedule", LR_SCHEDULES),
}

_RANGES: dict[str, tuple[float, float]] = {
    "image_size": (0, 4096),
    "imbalance": (1, math.inf),
    "tau": (0, math.inf),
    "multiplier": (0, math.inf),
    "fairness_start": (0, math.inf),
    "dro_rate": (0, math.inf),
    "score_decay": (0, 0.999_999),
    "beta": (0, math.inf),
    "epsilon": (0, 1),
    "attack_steps": (0, 10_000),
    "step_ratio": (0, 10),
    "epochs": (1, math.inf),
    "batch_size": (1, math.inf),
    "learning_rate": (0, math.inf),
    "momentum": (0, 1),
    "weight_decay": (0, math.inf),
    "validation_steps": (0, 10_000),
    "checkpoint_every": (0, math.inf),
    "seed": (0, 2**31 - 1),
    "split_seed": (0, 2**31 - 1),
}

DIALS = ("tau", "epsilon", "learning_rate")  # what may be turned while a run goes on


def check_dial(name: str, value: object, config: RunConfig) -> float:
    """The value of a dial as a float in the range it has in a run with `config`; raises UnknownName or ConfigError."""
    check_name("dial", name, DIALS)
    return getattr(replace(config, **{name: value}), name)


def _typed(name: str, value: Any, kind: type) -> Any:
    """`value` as `kind`; an int is welcome where a float is expected, every other mix-up is an error."""
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        hint = " (papermill's -r and quoted YAML values are text: use -p, and write 1.0e-3, not 1e-3)"
        said = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}[kind]
        extra = hint if isinstance(value, str) and kind is not str else ""
        raise ConfigError(f"{name} must be {said}, got {value!r} ({type(value).__name__}){extra}.")
    if kind is float and math.isnan(value):
        raise ConfigError(f"{name} must be a number, got {value!r}.")
    return value


@cache
def field_docs() -> dict[str, str]:
    """The docstring line under each setting, for --help and tooltips."""
    body = ast.parse(inspect.getsource(RunConfig)).body[0]
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for line, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and isinstance(after, ast.Expr):
            docs[line.target.id] = str(ast.literal_eval(after.value))
    return docs
