"""Declare all settings of a run in one flat, frozen record, with their types, ranges and names."""

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

from faal_lab.catalogue import (
    AMBIGUITY_SETS,
    AUGMENTATIONS,
    AVERAGING,
    BUFFERS,
    DATA_SETS,
    FAIRNESS,
    FILTERS,
    MEASURES,
    MODELS,
    NORMALIZATIONS,
    NORMS,
    OBJECTIVES,
    OWN,
    PATH_FORM,
    PRECISIONS,
    SCORES,
    STARTS,
    VALIDATIONS,
    VARIANTS,
    ZOO,
    check_combination,
)
from faal_lab.errors import ConfigError, RecipeError, check_name

LR_SCHEDULES = ("constant", "cosine", "one-cycle", "step")


CHOICES: dict[str, tuple[str, tuple[str, ...]]] = {
    "data": ("data set", DATA_SETS),
    "validation": ("validation", VALIDATIONS),
    "augment": ("augmentation", ("auto", *AUGMENTATIONS)),
    "normalization": ("normalization", NORMALIZATIONS),
    "base_checkpoint": ("checkpoint", ("last", "best")),
    "objective": ("objective", tuple(OBJECTIVES)),
    "fairness": ("fairness method", tuple(FAIRNESS)),
    "ambiguity": ("ambiguity set", tuple(AMBIGUITY_SETS)),
    "measure": ("measure", MEASURES),
    "score": ("class score", ("auto", *SCORES)),
    "variant": ("variant", VARIANTS),
    "norm": ("norm", NORMS),
    "batch_norm": ("BatchNorm mode", ("eval", "train")),
    "averaging": ("averaging", tuple(AVERAGING)),
    "average_buffers": ("treatment of buffers", BUFFERS),
    "solver": ("solver", ("exact", "cvxpy")),
    "attack_start": ("attack start", ("auto", *STARTS)),
    "precision": ("precision", PRECISIONS),
    "lr_schedule": ("learning-rate schedule", LR_SCHEDULES),
}

RANGES: dict[str, tuple[float, float]] = {
    "image_size": (0, 4096),
    "filters": (0, 4096),
    "imbalance": (1, math.inf),
    "tau": (0, math.inf),
    "multiplier": (0, math.inf),
    "fairness_start": (0, math.inf),
    "fairness_rate": (-1, 1e6),
    "fairness_strength": (-1, 1e6),
    "slack": (0, 1),
    "replays": (0, 1000),
    "awp_gamma": (0, 1),
    "awp_start": (0, math.inf),
    "average_decay": (-1, 1),
    "average_start": (0, math.inf),
    "average_threshold": (-1, 1),
    "score_decay": (0, 0.999_999),
    "beta": (0, 1e6),
    "epsilon": (0, 100),
    "attack_steps": (0, 10_000),
    "step_ratio": (0, 10),
    "epochs": (1, math.inf),
    "batch_size": (1, math.inf),
    "accumulation": (1, 65_536),
    "learning_rate": (0, 1e30),
    "momentum": (0, 1),
    "weight_decay": (0, 1e6),
    "validation_steps": (0, 10_000),
    "checkpoint_every": (0, math.inf),
    "seed": (0, 2**31 - 1),
    "split_seed": (0, 2**31 - 1),
}


def typed(name: str, value: Any, kind: type) -> Any:
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


def check_model(name: str, filters: int, normalization: str) -> None:
    """Raise UnknownName or ConfigError unless the network is one that can be named, with settings that it has."""
    if ":" not in name:
        check_name("model", name, MODELS)
    elif not PATH_FORM.fullmatch(name):
        raise ConfigError(f"model must be a known name, module:callable or {ZOO}NAME, got {name!r}.")
    if filters and name not in FILTERS:
        raise ConfigError(f"filters is a setting of {', '.join(FILTERS)}, not of {name}; got {filters}. Leave it at 0.")
    if name.startswith(ZOO) and normalization != "data":
        raise ConfigError(f"normalization={normalization}: {name} normalises inside. Leave it out.")


@dataclass(frozen=True)
class Config:
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
    """Validation images: split (cut from the training images), none (all are trained on; no checkpoint is the best), or test
    (the test images, as some released codes do; every table says so of the run)."""
    imbalance: float = 1.0
    """Above 1, training images thin out exponentially from the first class to the last, which keeps 1/imbalance of its own."""
    augment: str = "auto"
    """Augmentation: none, crop-flip, or auto (what suits the data set)."""
    model: str = "small-cnn"
    """Network: small-cnn, preact-resnet-18, resnet-18, wrn-34-10, wrn-28-10, wrn-16-4; module:callable (yours, or
    torchvision.models:resnet18); or robustbench:NAME with its weights."""
    filters: int = 0
    """Filters of the first stage; 0 the network's own (small-cnn 24, preact-resnet-18 and resnet-18 64)."""
    normalization: str = "data"
    """Channel statistics inside the network: data (the training images'), none, or cifar; a base that has its own keeps it."""
    base: str = ""
    """Run folder or checkpoint file (also a foreign .pth, .pt, .safetensors) to start from; empty: random weights."""
    base_checkpoint: str = "last"
    """Which checkpoint of the base run: last, or best (by validation)."""
    objective: str = "at"
    """Training loss: at (PGD adversarial training), trades, mart, bat, or standard (clean images)."""
    beta: float = 6.0
    """Weight of the robust term of TRADES, MART and BAT."""
    fairness: str = "none"
    """Fairness method: none, faal, or one of its rivals (faal-lab methods lists them)."""
    fairness_start: int = 0
    """Epochs of plain training before the fairness method sets in (the paper's training from scratch: half of them)."""
    fairness_rate: float = OWN
    """How fast the weights of group-dro, frl, wat or cfol learn; negative: the method's own."""
    fairness_strength: float = OWN
    """Coefficient of fat, dafa, trix, csr, or CFA's smallest radius; negative: the method's own."""
    slack: float = 0.07
    """By how much FRL lets a class's error exceed the average."""
    variant: str = "paper"
    """Where a method's paper and its released code differ: paper, or release."""
    ambiguity: str = "kl"
    """FAAL's set of class distributions around uniform: kl (the paper's), or another one to compare."""
    tau: float = 0.5
    """Radius of that set; 0 is plain averaging (alpha, for cvar). Does not transfer between numbers of classes."""
    multiplier: float = 0.0
    """The radius stated as c*, the most that a class can count, in multiples of its share (above 1); 0 goes by tau."""
    measure: str = "margin"
    """What FAAL scores an image by: margin (the paper), or cross-entropy or error, its ablation."""
    score: str = "auto"
    """FAAL's class score: mean of margins, sum of them, running (over batches, for many classes), or auto (the variant's)."""
    score_decay: float = 0.9
    """What a running score keeps from batch to batch, below 1."""
    solver: str = "exact"
    """FAAL's solver: exact, or cvxpy (slow, for checking)."""
    attack_start: str = "auto"
    """Where training attacks begin: zero, uniform, gaussian, or auto (what the method's paper says)."""
    norm: str = "linf"
    """What the attack's radius is measured in: linf, or l2."""
    epsilon: float = 0.1
    """Attack radius."""
    attack_steps: int = 10
    """PGD steps of the training attack."""
    step_ratio: float = 0.25
    """Attack step as a fraction of epsilon."""
    batch_norm: str = "eval"
    """BatchNorm during training attacks: eval, or train (as in the code of PGD-AT and CFA: statistics of the batch)."""
    replays: int = 0
    """Free training: each batch is trained on so many times while one perturbation climbs along; 0 attacks by PGD."""
    awp_gamma: float = 0.0
    """Radius of the adversarial weight perturbation, relative to each weight tensor; 0 perturbs nothing."""
    awp_start: int = 0
    """Epochs before weights are perturbed."""
    averaging: str = "none"
    """Average of weights that the run delivers: none, ema (each step), or fawa (each epoch fair enough on validation)."""
    average_decay: float = OWN
    """What the average keeps of itself; negative: the method's own."""
    average_start: int = 0
    """Epochs before the average begins."""
    average_threshold: float = OWN
    """FAWA's least robust accuracy of the worst class; negative: the variant's own."""
    average_buffers: str = "average"
    """BatchNorm's statistics in an average: average, or copy (those of the last step)."""
    epochs: int = 4
    """Passes over the training images."""
    batch_size: int = 64
    """Images per step."""
    accumulation: int = 1
    """Parts of a batch that go through the network one after the other, where memory is short: one forward pass more a step.
    Class weights stay those of the whole batch; BatchNorm sees each part alone."""
    learning_rate: float = 0.05
    """Peak learning rate of SGD."""
    lr_schedule: str = "cosine"
    """Learning rate over the run: constant, cosine, one-cycle, or step (x0.1 at each of lr_drops)."""
    lr_drops: str = "0.5,0.75"
    """Where the step schedule drops, in shares of the run."""
    tau_changes: str = ""
    """Epochs at which tau is turned, as EPOCH:VALUE with commas between: 150:0.5."""
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
    precision: str = "float32"
    """Training's forward passes: float32, bfloat16 (all but pixels and first convolution), or auto (bfloat16 where the device
    has it and the network is a ResNet). Measuring is float32 always."""
    compile: bool = False
    """Compile the passes of full batches in training (torch.compile), for ResNets: quicker steps after a minute of compiling."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1, mps."""

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(Config).items():
            object.__setattr__(self, name, typed(name, getattr(self, name), kind))
        for name, (kind, valid) in CHOICES.items():
            check_name(kind, getattr(self, name), valid)
        check_model(self.model, self.filters, self.normalization)
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high or math.isinf(value):
                limit = f"at least {low}" if high == math.inf else f"between {low} and {high}"
                raise ConfigError(f"{name} must be {limit}, got {value}.")
        if self.norm == "linf" and self.epsilon > 1:
            raise ConfigError(f"epsilon must be between 0 and 1 for norm=linf, got {self.epsilon}.")
        low, high = AMBIGUITY_SETS[self.ambiguity].limits
        if not low <= self.tau <= high:
            raise ConfigError(f"tau must be between {low:g} and {high:g} for ambiguity={self.ambiguity}, got {self.tau}.")
        for epoch, tau in self.tau_schedule().items():
            if not 0 <= epoch < self.epochs:
                raise ConfigError(f"tau_changes names epoch {epoch}, and the run has the epochs 0 to {self.epochs - 1}.")
            if not low <= tau <= high:
                raise ConfigError(f"tau_changes wants tau {tau} at epoch {epoch}; it must be between {low:g} and {high:g}.")
        self.drops()
        if self.accumulation > 1 and (other := self._needs_whole_batches()):
            raise ConfigError(
                f"accumulation={self.accumulation} attacks a batch part by part, and {other} needs it whole. "
                "Set accumulation to 1 and lower batch_size."
            )
        if 2 * self.accumulation > max(2, self.batch_size):
            raise ConfigError(
                f"accumulation={self.accumulation} leaves parts of under two images of batch_size={self.batch_size}, of which "
                f"BatchNorm can learn nothing. Set it to {max(1, self.batch_size // 2)} or less."
            )
        if self.multiplier and self.tau_changes:
            raise ConfigError("multiplier and tau_changes both set the radius. Give one of them.")
        if 0 < self.multiplier <= 1:
            raise ConfigError(f"multiplier must be above 1 (or 0, to go by tau), got {self.multiplier}.")
        try:
            check_combination(
                self.objective, self.fairness, self.averaging, replays=self.replays, validation=self.validation != "none"
            )
        except RecipeError as error:
            raise ConfigError(str(error)) from error

        starts = {
            "fairness_start": self.fairness,
            "average_start": self.averaging,
            "awp_start": "awp" if self.awp_gamma else "none",
        }
        for name, part in starts.items():
            if part != "none" and getattr(self, name) >= self.epochs:
                raise ConfigError(
                    f"{name}={getattr(self, name)} is not within the {self.epochs} epochs of this run: {part} would never act. "
                    "Lower it, or train for longer."
                )

        if FAIRNESS[self.fairness].delayed and self.fairness_start == 0 and self.epochs < 2:
            raise ConfigError(
                f"fairness={self.fairness} learns from an epoch before it acts: in one epoch it would never act. "
                "Set epochs to 2 or more."
            )

    def _needs_whole_batches(self) -> str:
        """The setting whose attacks look at a batch as a whole; empty where none does."""
        if self.replays or self.batch_norm == "train":
            return "replays" if self.replays else "batch_norm=train"
        looks = self.fairness == "trix" or (self.fairness in ("frl-rm", "frl-rwrm") and self.variant == "release")
        return f"fairness={self.fairness}" if looks else ""

    def tau_schedule(self) -> dict[int, float]:
        """tau_changes as epoch -> tau; raises ConfigError."""
        try:
            pairs = [entry.split(":") for entry in self.tau_changes.split(",") if entry.strip()]
            found = {int(epoch): float(tau) for epoch, tau in pairs}
            if len(found) < len(pairs):
                raise ConfigError(f"tau_changes names an epoch twice: {self.tau_changes!r}.")
            return found
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(f"tau_changes must be like 100:0.25,150:0.5 (epoch:tau), got {self.tau_changes!r}.") from error

    def drops(self) -> tuple[float, ...]:
        """lr_drops as numbers; raises ConfigError."""
        try:
            shares = tuple(float(entry) for entry in self.lr_drops.split(",") if entry.strip())
        except ValueError:
            shares = (-1.0,)
        if not all(0 <= share <= 1 for share in shares):
            raise ConfigError(f"lr_drops must be shares of the run such as 0.5,0.75, got {self.lr_drops!r}.")
        return shares

    @staticmethod
    def from_mapping(mapping: Mapping[str, Any]) -> Config:
        """Build from names and values; raises UnknownName (nearest name offered) or ConfigError."""
        names = [f.name for f in fields(Config)]
        for name in mapping:
            check_name("setting", name, names)
        return Config(**mapping)

    def to_mapping(self) -> dict[str, Any]:
        """All settings as plain values."""
        return asdict(self)

    def digest(self) -> str:
        """A short hash of all settings."""
        return hashlib.sha256(json.dumps(self.to_mapping(), sort_keys=True).encode()).hexdigest()[:12]


DIALS = ("tau", "epsilon", "learning_rate", "fairness_on")  # what may be turned while a run goes on

# What an adopted folder goes by beside epsilon, and what stands for "not given" in a notebook.
ADOPTION_SETTINGS: dict[str, Any] = {
    "data": "", "data_dir": "", "image_size": 0, "download": False, "split_seed": -1, "model": "", "filters": 0,
    "normalization": "", "norm": "", "seed": -1,
}  # fmt: skip


def check_dial(name: str, value: object, config: Config) -> float:
    """The value of a dial as a float in the range it has in a run with `config`; raises UnknownName or ConfigError."""
    check_name("dial", name, DIALS)
    if name == "fairness_on":  # no setting: every run begins with its fairness method on
        if value not in (0, 1):
            raise ConfigError(f"fairness_on must be 1 (the fairness method acts) or 0, got {value}.")
        if config.fairness == "none":
            raise ConfigError("fairness_on: the run has no fairness method to turn on or off (fairness=none).")
        return float(value)
    return getattr(replace(config, **{name: value}), name)


@cache
def field_docs() -> dict[str, str]:
    """The docstring line under each setting, for --help and tooltips."""
    body = ast.parse(inspect.getsource(Config)).body[0]
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for line, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and isinstance(after, ast.Expr):
            docs[line.target.id] = " ".join(str(ast.literal_eval(after.value)).split())
    return docs
