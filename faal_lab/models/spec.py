"""Networks by name, and the few numbers that make one again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import nn

from faal_lab.models.small import SmallConvNet

MODELS: dict[str, Callable[..., nn.Module]] = {"small-cnn": SmallConvNet}


@dataclass(frozen=True)
class ModelSpec:
    """What a network's shape depends on; kept in every checkpoint. `mean` and `std` are per channel, in [0, 1] units."""

    name: str
    num_classes: int
    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def differences(self, other: ModelSpec) -> list[str]:
        """Sentences on what keeps weights of `self` out of `other`, empty where they fit (normalisation may differ)."""
        mine, theirs = asdict(self), asdict(other)
        return [f"{k} is {mine[k]}, expected {theirs[k]}" for k in mine if k not in ("mean", "std") and mine[k] != theirs[k]]


def build(spec: ModelSpec, seed: int) -> nn.Module:
    """A freshly initialised network; the same seed gives the same weights and the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MODELS[spec.name](
            num_classes=spec.num_classes, channels=spec.channels, size=(spec.height, spec.width), mean=spec.mean, std=spec.std
        )
