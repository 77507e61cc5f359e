"""What each setting may be: its type, its range, the names it is one of.

Knows: plain values and the tables of names. Must not know: how a setting is carried out.
"""

from __future__ import annotations

import math
from typing import Any

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
    PATH_FORM,
    PRECISIONS,
    SCORES,
    STARTS,
    VALIDATIONS,
    VARIANTS,
    ZOO,
)
from faal_lab.errors import ConfigError, check_name

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
