"""Declare all settings of a run in one flat, frozen record.

Each setting is declared once: type, default, range or valid names, and help. The command line, the parameters of notebooks,
`faal-lab settings` and the workbench's tooltips read these declarations. All of them accept a subclass of Config with more
settings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from functools import cache
from typing import Any, TypeVar, get_type_hints

from faal_lab.catalogue import (
    AMBIGUITY_SETS,
    ATTACKERS,
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
    PASSES,
    PATH_FORM,
    PRECISIONS,
    SCORES,
    STARTS,
    STORAGES,
    VALIDATIONS,
    VARIANTS,
    ZOO,
    check_combination,
    facts_of_releases,
)
from faal_lab.errors import ConfigError, RecipeError, check_name
from faal_lab.settings import Setting, setting

LR_SCHEDULES = ("constant", "cosine", "one-cycle", "step")

_Kind = TypeVar("_Kind", bound="Config")


@cache
def settings(kind: type[Config] | None = None) -> dict[str, Setting]:
    """Return a Config class's declarations by name, in order; raises ConfigError for a plain field."""
    kind = kind or Config
    types, found = get_type_hints(kind), {}
    for entry in fields(kind):
        if not {"about", "among", "kind", "low", "high"} <= entry.metadata.keys() or entry.default is MISSING:
            raise ConfigError(f"{kind.__name__}.{entry.name} must be declared by setting(default, about=...).")
        known = dict(entry.metadata)
        known["kind"] = known["kind"] or entry.name.replace("_", " ")
        found[entry.name] = Setting(name=entry.name, type=types[entry.name], default=entry.default, **known)
    return found


def check_model(name: str, filters: int, normalization: str) -> None:
    """Raise UnknownName or ConfigError for an unknown network, or for a setting that it does not have."""
    if ":" not in name:
        check_name("model", name, MODELS)
    elif not PATH_FORM.fullmatch(name):
        raise ConfigError(f"model must be a known name, module:callable, FILE.py:callable or {ZOO}NAME, got {name!r}.")
    if filters and name not in FILTERS:
        raise ConfigError(f"filters is a setting of {', '.join(FILTERS)}, not of {name}; got {filters}. Leave it at 0.")
    if name.startswith(ZOO) and normalization != "data":
        raise ConfigError(f"normalization={normalization}: {name} normalises inside. Leave it out.")


def check_release(objective: str, fairness: str, setting: str, awp: bool = False, replays: int = 0) -> dict[str, str]:
    """Return the facts of a combination's released code, which `setting` asks for.

    Raises RecipeError if there is none; the message names those that exist.
    """
    known = facts_of_releases()["release"]
    rows, wanted = known.get("none" if FAIRNESS[fairness].label else fairness, {}), objective + ("-awp" if awp else "")
    if wanted in rows and not replays:
        return rows[wanted]
    what = f"fairness={fairness}" + (f" for objective={objective}" if rows else "")
    what += (" with awp_gamma above 0" if rows and awp else "") + (f" with free training (replays={replays})" if replays else "")
    there = f"It has {', '.join(rows)}." if rows else f"Releases are known of {', '.join(known)}."
    raise RecipeError(f"{setting}: there is no released code of {what}. {there} Choose one of these, or the paper's form.")


@dataclass(frozen=True)
class Config:
    """Set up one training run. Radii are in pixels of [0, 1]: 8/255 is 0.03137.

    Args:
        **settings: any of the fields below; `faal-lab settings` prints the type, default, range and meaning of each.

    Raises:
        UnknownName: a name, such as that of a network, is not in its list.
        ConfigError: a value is of the wrong type or out of range, or two settings exclude each other.

    >>> from faal_lab import Config
    >>> config = Config.from_mapping({"fairness": "faal", "tau": 0.3, "epochs": 9, "tau_changes": "5:0.1"})
    >>> config.to_mapping()["tau"], config.tau_schedule(), config.drops(), len(config.digest())
    (0.3, {5: 0.1}, (0.5, 0.75), 12)
    """

    # fmt: off
    data: str = setting("digits", among=DATA_SETS, kind="data set", about=
        "Data set: digits, folder (your images, one sub-folder a class), csv, npz, cifar10, cifar100, svhn, stl10, mnist or "
        "fashion-mnist.")
    data_dir: str = setting("", about=
        "Folder of the images (with train/, val/, test/, or cut by seed), the CSV or npz file, or torchvision's files "
        "(empty: ./data).")
    download: bool = setting(False, about="Fetch the data set where it is not in data_dir (checked by its hash).")
    storage: str = setting("auto", among=STORAGES, about=
        "Where decoded images are kept: memory, disk (a file in the cache folder, read batch by batch), or auto (disk for more "
        "than a quarter of the memory).")
    image_size: int = setting(0, low=0, high=4096, about=
        "Resize images to this side in pixels; 0 keeps their size. The digits keep theirs.")
    validation: str = setting("split", among=VALIDATIONS, about=
        "Validation images: split (cut from the training images), none (all are trained on; no checkpoint is the best), "
        "or test (the test images, as some released codes do; every table says so of the run).")
    imbalance: float = setting(1.0, low=1, about=
        "Above 1, training images thin out exponentially from the first class to the last, which keeps 1/imbalance of its "
        "own.")
    augment: str = setting("auto", among=("auto", *AUGMENTATIONS), kind="augmentation", about=
        "Augmentation: none, crop-flip, randaugment (two operations of RandAugment an image), randaugment-crop-flip, or auto "
        "(what suits the data set).")
    model: str = setting("small-cnn", about=
        "Network: small-cnn, preact-resnet-18, resnet-18, wrn-34-10, wrn-28-10, wrn-16-4; module:callable or FILE.py:callable "
        "(yours, or torchvision.models:resnet18); or robustbench:NAME with its weights.")
    filters: int = setting(0, low=0, high=4096, about=
        "Filters of the first stage; 0 the network's own (small-cnn 24, preact-resnet-18 and resnet-18 64).")
    normalization: str = setting("data", among=NORMALIZATIONS, about=
        "Channel statistics inside the network: data (the training images'), none, or cifar; a base that has its own "
        "keeps it.")
    base: str = setting("", about=
        "Run folder or checkpoint file (also a foreign .pth, .pt, .safetensors) to start from; empty: random weights.")
    base_checkpoint: str = setting("last", among=("last", "best"), kind="checkpoint", about=
        "Which checkpoint of the base run: last, or best (by validation); also of a foreign file that holds both.")
    objective: str = setting("at", among=OBJECTIVES, about=
        "Training loss: at (PGD adversarial training), trades, mart, bat, standard (clean images), bsl, or your FILE.py:NAME.")
    beta: float = setting(6.0, low=0, high=1e6, about="Weight of the robust term of TRADES, MART and BAT.")
    fairness: str = setting("none", among=FAIRNESS, kind="fairness method", about=
        "Fairness method: none, faal, one of its rivals (faal-lab methods lists them), or your FILE.py:NAME, module:NAME.")
    fairness_start: int = setting(0, low=0, about=
        "Epochs of plain training before the fairness method sets in (the paper's training from scratch: half of them).")
    fairness_rate: float = setting(OWN, low=-1, high=1e6, about=
        "How fast the weights of group-dro, frl, wat or cfol learn; negative: the method's own.")
    fairness_strength: float = setting(OWN, low=-1, high=1e6, about=
        "Coefficient of fat, dafa, trix, csr, sy-far, robust-lt, or CFA's smallest radius; negative: the method's own.")
    slack: float = setting(0.07, low=0, high=1, about="By how much FRL lets a class's error exceed the average.")
    variant: str = setting("paper", among=VARIANTS, about=
        "Where a method's paper and its released code differ: paper, or release (if there is one for this objective).")
    ambiguity: str = setting("kl", among=AMBIGUITY_SETS, kind="ambiguity set", about=
        "FAAL's set of class distributions around uniform: kl (the paper's), another one to compare, or your FILE.py:NAME.")
    tau: float = setting(0.5, low=0, about=
        "Radius of that set; 0 is plain averaging (alpha, for cvar). Does not transfer between numbers of classes.")
    multiplier: float = setting(0.0, low=0, about=
        "The radius stated as c*, the most that a class can count, in multiples of its share (above 1); 0 goes by tau.")
    measure: str = setting("margin", among=MEASURES, about=
        "What FAAL scores an image by: margin (the paper), or cross-entropy or error, its ablation.")
    score: str = setting("auto", among=("auto", *SCORES), kind="class score", about=
        "FAAL's class score: mean of margins, sum of them, running (over batches, for many classes), or auto (the "
        "variant's).")
    score_decay: float = setting(0.9, low=0, high=0.999_999, about="What a running score keeps from batch to batch, below 1.")
    solver: str = setting("exact", among=("exact", "cvxpy"), about="FAAL's solver: exact, or cvxpy (slow, for checking).")
    attack: str = setting("pgd", among=ATTACKERS, kind="training attack", about=
        "Training attack: pgd, or your FILE.py:NAME, module:NAME. Validation and evaluation have their own.")
    attack_start: str = setting("auto", among=("auto", *STARTS), about=
        "Where training attacks begin: zero, uniform, gaussian, gaussian-uncut (not cut to the pixel box before the first "
        "step, as in most released codes), or auto (what the method's paper says).")
    norm: str = setting("linf", among=NORMS, about="What the attack's radius is measured in: linf, or l2.")
    epsilon: float = setting(0.1, low=0, high=100, about="Attack radius.")
    attack_steps: int = setting(10, low=0, high=10_000, about="PGD steps of the training attack.")
    step_ratio: float = setting(0.25, low=0, high=2, about="Attack step as a fraction of epsilon; 2 crosses the whole ball.")
    batch_norm: str = setting("auto", among=("auto", "eval", "train"), kind="BatchNorm mode", about=
        "BatchNorm during training attacks: eval, train (statistics of the batch), or auto (eval; with variant=release the "
        "code's, which is train for PGD-AT, AWP and CFA with AT).")
    batch_norm_passes: str = setting("auto", among=PASSES, kind="BatchNorm passes", about=
        "Passes of a step through the network in training mode: fewest (1 for at, 2 for trades and mart), release (those of "
        "the released code, up to 2 forward passes more, which only move BatchNorm's statistics), or auto (release with "
        "variant=release, else fewest).")
    replays: int = setting(0, low=0, high=1000, about=
        "Free training: each batch is trained on so many times while one perturbation climbs along; 0 attacks by PGD.")
    awp_gamma: float = setting(0.0, low=0, high=1, about=
        "Radius of the adversarial weight perturbation, relative to each weight tensor; 0 perturbs nothing.")
    awp_start: int = setting(0, low=0, about="Epochs before weights are perturbed.")
    averaging: str = setting("none", among=AVERAGING, about=
        "Average of weights that the run delivers: none, ema (each step), or fawa (each epoch fair enough on validation).")
    average_decay: float = setting(OWN, low=-1, high=1, about="What the average keeps of itself; negative: the method's own.")
    average_start: int = setting(0, low=0, about="Epochs before the average begins.")
    average_threshold: float = setting(OWN, low=-1, high=1, about=
        "FAWA's least robust accuracy of the worst class; negative: the variant's own.")
    average_buffers: str = setting("average", among=BUFFERS, kind="treatment of buffers", about=
        "BatchNorm's statistics in an average: average, or copy (those of the last step).")
    epochs: int = setting(4, low=1, about="Passes over the training images.")
    batch_size: int = setting(64, low=1, about="Images per step.")
    accumulation: int = setting(1, low=0, high=65_536, about=
        "Parts of a batch that go through the network one by one, where memory is short (0: as many as it takes, by prediction): "
        "one forward pass more a step. Class weights stay those of the whole batch; BatchNorm sees each part alone.")
    learning_rate: float = setting(0.05, low=0, high=1e30, about="Peak learning rate of SGD.")
    lr_schedule: str = setting("cosine", among=LR_SCHEDULES, kind="learning-rate schedule", about=
        "Learning rate over the run: constant, cosine, one-cycle, or step (x0.1 at each of lr_drops).")
    lr_drops: str = setting("0.5,0.75", about="Where the step schedule drops, in shares of the run.")
    tau_changes: str = setting("", about="Epochs at which tau is turned, as EPOCH:VALUE with commas between: 150:0.5.")
    momentum: float = setting(0.9, low=0, high=1, about="SGD momentum.")
    weight_decay: float = setting(5e-3, low=0, high=1e6, about="SGD weight decay.")
    validation_steps: int = setting(10, low=0, high=10_000, about=
        "PGD steps of the attack on the validation images after each epoch.")
    balance: str = setting("none", among=("none", "bias"), about="After training: bias makes classes fairer by their logits.")
    balance_tau: float = setting(0.5, low=0, about="Radius of the KL ball of class weights that the balance is best for.")
    balance_floor: float = setting(0.0, low=0, high=100, about="Least average on them, in percent, that a balance must leave.")
    checkpoint_every: int = setting(0, low=0, about="Also checkpoint every so many steps; 0 only after each epoch and on a stop.")
    seed: int = setting(0, low=0, high=2**31 - 1, about="Seed of the weights, the order and the noise.")
    split_seed: int = setting(0, low=0, high=2**31 - 1, about=
        "Seed of the split in train, validation and test; a fine-tuning must keep its base's.")
    precision: str = setting("float32", among=PRECISIONS, about=
        "Training's forward passes: float32, bfloat16 (all but pixels and first convolution), or auto (bfloat16 where the "
        "device has it and the network is a ResNet). Measuring is float32 always.")
    compile: bool = setting(False, about=
        "Compile the passes of full batches in training (torch.compile), for ResNets: quicker steps after a minute of "
        "compiling.")
    device: str = setting("auto", about="auto (a GPU if there is one), cpu, cuda, cuda:1, mps.")
    # fmt: on

    def __post_init__(self) -> None:
        for name, declared in settings(type(self)).items():
            object.__setattr__(self, name, declared.checked(getattr(self, name)))
        check_model(self.model, self.filters, self.normalization)
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
        try:
            check_combination(
                self.objective,
                self.fairness,
                self.averaging,
                replays=self.replays,
                validation=self.validation != "none",
                attack=self.attack,
            )
            for name in ("variant", "batch_norm_passes"):
                if getattr(self, name) == "release":
                    check_release(self.objective, self.fairness, f"{name}=release", self.awp_gamma > 0, self.replays)
        except RecipeError as error:
            raise ConfigError(str(error)) from error
        if self.accumulation > 1 and (other := needs_whole_batches(self)):
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
        awp = "awp" if self.awp_gamma else "none"
        starts = {"fairness_start": self.fairness, "average_start": self.averaging, "awp_start": awp}
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

    def attack_mode(self, first_batch: bool = False) -> str:
        """Return BatchNorm's mode during training attacks.

        Args:
            first_batch: True for the first batch of an epoch after the first; default False.

        Returns:
            "eval" or "train": `batch_norm`, or for "auto" that of the variant.

        >>> from faal_lab import Config
        >>> Config(batch_norm="train").attack_mode(), Config().attack_mode(), Config(variant="release").attack_mode()
        ('train', 'eval', 'train')
        """
        if self.batch_norm != "auto" or self.variant != "release":
            return "eval" if self.batch_norm == "auto" else self.batch_norm
        facts = check_release(self.objective, self.fairness, "variant=release", self.awp_gamma > 0, self.replays)
        mode = facts.get("batch_norm", "eval")
        return facts.get("first_batch", mode) if first_batch else mode

    def tau_schedule(self) -> dict[int, float]:
        """Parse tau_changes.

        Returns:
            The new tau by epoch.

        Raises:
            ConfigError: the text is not of the form 100:0.25,150:0.5, or names an epoch twice.
        """
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
        """Parse lr_drops.

        Returns:
            The shares of the run, in [0, 1], at which the step schedule drops.

        Raises:
            ConfigError: an entry is not a number in [0, 1].
        """
        try:
            shares = tuple(float(entry) for entry in self.lr_drops.split(",") if entry.strip())
        except ValueError:
            shares = (-1.0,)
        if not all(0 <= share <= 1 for share in shares):
            raise ConfigError(f"lr_drops must be shares of the run such as 0.5,0.75, got {self.lr_drops!r}.")
        return shares

    @classmethod
    def from_mapping(cls: type[_Kind], mapping: Mapping[str, Any]) -> _Kind:
        """Create a Config from names and values.

        Args:
            mapping: the values by name; the others keep their defaults.

        Returns:
            All settings.

        Raises:
            UnknownName: a setting does not exist; the message offers the nearest name.
            ConfigError: a value is invalid.
        """
        for name in mapping:
            check_name("setting", name, settings(cls))
        return cls(**mapping)

    def to_mapping(self) -> dict[str, Any]:
        """Return the values of all settings by name.

        Returns:
            A dict of plain values, which `from_mapping` takes.
        """
        return asdict(self)

    def digest(self) -> str:
        """Hash all settings.

        Returns:
            12 hexadecimal digits.
        """
        return hashlib.sha256(json.dumps(self.to_mapping(), sort_keys=True).encode()).hexdigest()[:12]


DIALS = ("tau", "epsilon", "learning_rate", "fairness_on")  # these can be turned during a run


def check_dial(name: str, value: object, config: Config) -> float:
    """Return a dial's value as a float; raises UnknownName or ConfigError if the run cannot take it."""
    check_name("dial", name, DIALS)
    if name == "fairness_on":  # not a setting: every run begins with its fairness method on
        if value not in (0, 1):
            raise ConfigError(f"fairness_on must be 1 (the fairness method acts) or 0, got {value}.")
        if config.fairness == "none":
            raise ConfigError("fairness_on: the run has no fairness method to turn on or off (fairness=none).")
        return float(value)
    return getattr(replace(config, **{name: value}), name)


def needs_whole_batches(config: Config) -> str:
    """Return the setting that needs the whole batch at once; empty if none does."""
    if config.replays or config.attack_mode() == "train":
        return "replays" if config.replays else "batch_norm=train"
    looks = config.fairness in ("trix", "sy-far") or (config.fairness in ("frl-rm", "frl-rwrm") and config.variant == "release")
    return f"fairness={config.fairness}" if looks else ""
