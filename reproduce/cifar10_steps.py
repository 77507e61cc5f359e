"""What the CIFAR-10 pipeline makes, in order, at its two scales. What is finished first is worth most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from faal_lab.methods.presets import preset_settings

Settings = dict[str, Any]


@dataclass(frozen=True)
class Train:
    """A run: its settings, and which run it starts from."""

    name: str
    settings: Settings
    base: str = ""


@dataclass(frozen=True)
class Measure:
    """Attacks on so many test images (0: all), of some classes alone where they are named, for several runs."""

    runs: tuple[str, ...]
    attacks: tuple[str, ...]
    images: int = 0
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Keep:
    """A run's weights in float16, to be kept beside its verdicts: what comes after goes by these."""

    run: str


Step = Train | Measure | Keep
STRONG, QUICK, ADAPTIVE = ("autoattack",), ("clean", "pgd-20", "cw-20"), ("apgd-ce+t",)
# precision and compile: a third of the time on a card or processor that has bfloat16; every verdict is float32 all the same
_COMMON: Settings = {"epsilon": 8 / 255, "weight_decay": 5e-4, "precision": "auto", "compile": True, "checkpoint_every": 50}


def _from_scratch(**settings: Any) -> Settings:
    rate: Settings = {"batch_size": 128, "learning_rate": 0.2, "lr_schedule": "one-cycle"}
    return {**_COMMON, **rate, "model": "preact-resnet-18", **settings}


def _tuned(recipe: str, protocol: str = "finetune-2ep", **settings: Any) -> Settings:
    """A recipe under one of the paper's protocols; data and network are the base's."""
    named = preset_settings(recipe, protocol)
    return {**named, **_COMMON, **settings}


# FAAL's attack begins at the clean image, PGD-AT's at random: a control that differs in more than class weights tells little.
_AS_FAAL: dict[str, Settings] = {"pgd-at": {"attack_start": "zero"}}


def _arms(base: str, **recipes: str) -> list[Train]:
    return [Train(f"{base}-{arm}", _tuned(recipe, **_AS_FAAL.get(recipe, {})), base) for arm, recipe in recipes.items()]


NARROW: list[Step] = [
    Train("at", _from_scratch(filters=16, objective="at", epochs=12, attack_steps=4)),
    Keep("at"),
    *_arms("at", control="pgd-at", faal="faal-at"),
    Keep("at-control"),
    Keep("at-faal"),
    Measure(("at", "at-control", "at-faal"), QUICK),
    Measure(("at", "at-faal", "at-control"), STRONG, 1000),
    Measure(("at", "at-faal", "at-control"), STRONG, classes=("cat", "deer")),  # 100 of a class do not tell which is worst
    Measure(("at", "at-faal", "at-control"), ADAPTIVE, 2000),
    *_arms("at", **{"faal-awp": "faal-at-awp"}),
    Keep("at-faal-awp"),
    Measure(("at-faal-awp",), QUICK),
    Measure(("at-faal-awp",), STRONG, 1000),
    Measure(("at-faal-awp",), STRONG, classes=("cat", "deer")),
    Measure(("at-faal-awp",), ADAPTIVE, 2000),
]
_AT = ("at", "at-control", "at-faal", "at-faal-awp")
_TRADES = ("trades", "trades-control", "trades-faal", "trades-faal-awp")
_FRL = "frl-rwrm-0.05"
FULL: list[Step] = [
    Train("at", _from_scratch(objective="at", epochs=40)),
    *_arms("at", control="pgd-at", faal="faal-at", **{"faal-awp": "faal-at-awp"}),
    Measure(_AT, QUICK),
    Measure(_AT, STRONG, 2000),
    Train("trades", _from_scratch(objective="trades", epochs=40)),
    *_arms("trades", control="trades", faal="faal-trades", **{"faal-awp": "faal-trades-awp"}),
    Measure(_TRADES, QUICK),
    Measure(_TRADES, STRONG, 2000),
    Train("trades-frl", _tuned(_FRL, "finetune-frl-80ep"), "trades"),
    Measure(("trades-frl",), QUICK),
    Measure(("trades-frl",), STRONG, 2000),
    Train("wrn", _from_scratch(model="wrn-34-10", objective="at", epochs=30)),
    *_arms("wrn", control="pgd-at", faal="faal-at"),
    Measure(("wrn", "wrn-control", "wrn-faal"), QUICK),
    Measure(("wrn", "wrn-control", "wrn-faal"), STRONG, 2000),
]
SCALES = {"narrow": NARROW, "full": FULL}
