"""Name the settings of the literature: recipes (the method) and protocols (epochs and learning rates).

A recipe's settings win over a protocol's; a user's win over both.
"""

from __future__ import annotations

from typing import Any

from faal_lab.catalogue import FAIRNESS, parts
from faal_lab.errors import check_name

Settings = dict[str, Any]

_PLAIN: Settings = {"fairness": "none", "averaging": "none"}  # a baseline stays plain under a protocol that averages
_CODAT: Settings = {"fairness": "faal", "ambiguity": "chi-square", "measure": "cross-entropy"}  # after its abstract
_FRL: Settings = {"objective": "trades", "beta": 1.5, "fairness": "frl-rwrm", "fairness_start": 0, "averaging": "none"}
_CFA: Settings = {"fairness": "cfa", "fairness_start": 10, "averaging": "fawa", "average_start": 50}

# The rows of FAAL's Tables 1 to 3 (Zhang et al., CVPR 2024), their control arms, and the rivals they do not show.
PRESETS: dict[str, Settings] = {
    "standard": {"objective": "standard", **_PLAIN},
    "pgd-at": {"objective": "at", **_PLAIN},
    "pgd-at-ema": {"objective": "at", "fairness": "none", "averaging": "ema"},
    "pgd-at-awp": {"objective": "at", **_PLAIN, "awp_gamma": 0.01},
    "fgsm-rs": {"objective": "at", **_PLAIN, "attack_start": "uniform", "attack_steps": 1, "step_ratio": 1.25},
    "free-at": {"objective": "at", **_PLAIN, "attack_start": "zero", "replays": 8},
    "trades": {"objective": "trades", **_PLAIN},
    "trades-ema": {"objective": "trades", "fairness": "none", "averaging": "ema"},
    "trades-awp": {"objective": "trades", **_PLAIN, "awp_gamma": 0.005, "awp_start": 10},
    "mart": {"objective": "mart", **_PLAIN},
    "bat": {"objective": "bat", **_PLAIN},
    "faal-at": {"objective": "at", "fairness": "faal"},
    "faal-trades": {"objective": "trades", "fairness": "faal"},
    "faal-mart": {"objective": "mart", "fairness": "faal"},
    "faal-at-awp": {"objective": "at", "fairness": "faal", "awp_gamma": 0.01},
    "faal-trades-awp": {"objective": "trades", "fairness": "faal", "awp_gamma": 0.005},
    "frl-rw": {**_FRL, "fairness": "frl-rw", "slack": 0.1},
    "frl-rwrm-0.05": {**_FRL, "slack": 0.05},
    "frl-rwrm-0.07": {**_FRL, "slack": 0.07},
    "cfa-at": {"objective": "at", **_CFA},
    "cfa-trades": {"objective": "trades", **_CFA},
    "wat-trades": {"objective": "trades", "fairness": "wat", "fairness_start": 0, "averaging": "none"},
    "fat-at": {"objective": "at", "fairness": "fat", "fairness_start": 0, "averaging": "none"},
    "dafa-trades": {"objective": "trades", "fairness": "dafa", "fairness_start": 70, "averaging": "none"},
    "trix-trades": {"objective": "trades", "fairness": "trix", "fairness_start": 70, "averaging": "none"},
    "cfol-at": {"objective": "at", "fairness": "cfol", "fairness_start": 0, "averaging": "none"},
    "csr-trades": {"objective": "trades", "fairness": "csr", "averaging": "none"},
    "sy-far-at": {"objective": "at", "fairness": "sy-far", "averaging": "none"},
    "robust-lt-at": {"objective": "at", "fairness": "robust-lt", "fairness_start": 0, "averaging": "none"},
    "fair-tat-at": {"objective": "at", "fairness": "fair-tat", "fairness_start": 0, "averaging": "none"},
    "codat-at": {"objective": "at", **_CODAT, "attack_start": "uniform", "averaging": "none"},
    "group-dro-at": {"objective": "at", "fairness": "group-dro", "averaging": "none"},
}

_CIFAR: Settings = {
    "data": "cifar10", "epsilon": 8 / 255, "attack_steps": 10, "step_ratio": 0.25, "batch_size": 128, "momentum": 0.9,
    "weight_decay": 5e-4, "lr_schedule": "step",
}  # fmt: skip

# The experiments of the same paper. It states no batch size, momentum or weight decay: those are its release's.
PROTOCOLS: dict[str, Settings] = {
    "finetune-2ep": {**_CIFAR, "epochs": 2, "learning_rate": 0.01, "lr_drops": "0.5", "tau": 0.5},
    "finetune-cifar100-2ep": {
        **_CIFAR, "data": "cifar100", "epochs": 2, "learning_rate": 0.01, "lr_drops": "0.5", "tau": 0.05,
    },
    "finetune-frl-80ep": {**_CIFAR, "epochs": 80, "learning_rate": 0.001, "lr_drops": "0.5"},
    "scratch-200ep": {
        **_CIFAR, "model": "preact-resnet-18", "epochs": 200, "learning_rate": 0.1, "lr_drops": "0.5,0.75",
        "fairness_start": 100, "tau": 0.25, "tau_changes": "150:0.5", "averaging": "ema", "average_start": 100,
    },
    "cifar100-100ep": {
        **_CIFAR, "data": "cifar100", "model": "resnet-18", "epochs": 100, "learning_rate": 0.1, "lr_drops": "0.75,0.9",
        "tau": 0.05,
    },
}  # fmt: skip


def preset_settings(recipe: str = "", protocol: str = "") -> Settings:
    """Return the settings of a recipe under a protocol; each may be empty. Raises UnknownName."""
    chosen = PRESETS[check_name("recipe", recipe, PRESETS)] if recipe else {}
    return {**(PROTOCOLS[check_name("protocol", protocol, PROTOCOLS)] if protocol else {}), **chosen}


def listing() -> str:
    """List parts, recipes and protocols with their sources, for a terminal."""
    lines = []
    for setting, rows in parts().items():
        lines.append(f"\n--{setting}")
        for name, what in rows.items():
            lines.append(f"  {name:<18} {what}")
            lines += [f"  {'':<18} [{FAIRNESS[name].properties()}]"] if setting == "fairness" and not FAIRNESS[name].label else []
    for title, named in (("recipe (settings that have a name)", PRESETS), ("protocol (how long, at which rates)", PROTOCOLS)):
        lines += [f"\n--{title}", *(f"  {name:<18} {_as_text(chosen)}" for name, chosen in named.items())]
    return "\n".join(lines)


def _as_text(chosen: dict[str, Any]) -> str:
    return " ".join(f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in chosen.items())
