"""Build a network by name from the few numbers that define it, freeze one for an attack, and find its device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial

import torch
from torch import nn

from faal_lab.catalogue import FILTERS
from faal_lab.errors import ConfigError
from faal_lab.models.examine import train_mode
from faal_lab.models.external import from_path
from faal_lab.models.networks import SmallConvNet, preact_resnet_18, resnet_18, wide_resnet

MODELS: dict[str, Callable[..., nn.Module]] = {
    "small-cnn": SmallConvNet,
    "preact-resnet-18": preact_resnet_18,
    "resnet-18": resnet_18,
    "wrn-34-10": partial(wide_resnet, 34, 10),
    "wrn-28-10": partial(wide_resnet, 28, 10),
    "wrn-16-4": partial(wide_resnet, 16, 4),
}


@dataclass(frozen=True)
class ModelSpec:
    """The numbers that define a network's shape, kept in every checkpoint.

    `mean` and `std` are per channel, in [0, 1] units. `filters` of 0 means the network's default; older checkpoints lack it.
    """

    name: str
    num_classes: int
    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    filters: int = 0

    def differences(self, other: ModelSpec) -> list[str]:
        """List the reasons why weights of `self` do not fit `other`, empty if they do.

        The normalisation may differ.
        """
        mine, theirs = (asdict(replace(s, filters=s.filters or FILTERS.get(s.name, 0))) for s in (self, other))
        return [f"{k} is {mine[k]}, expected {theirs[k]}" for k in mine if k not in ("mean", "std") and mine[k] != theirs[k]]


def build(spec: ModelSpec, seed: int) -> nn.Module:
    """Build a freshly initialised network. The same seed gives the same weights.

    The global random state does not change. A name that is not in MODELS is a network from elsewhere (see `from_path`);
    raises ModelProblem or ImportError if it cannot be loaded.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        shape = (spec.num_classes, spec.channels, (spec.height, spec.width), spec.mean, spec.std)
        if spec.name not in MODELS:
            return from_path(spec.name, *shape)
        return MODELS[spec.name](*shape, **({"filters": spec.filters} if spec.filters else {}))


@contextmanager
def frozen(model: nn.Module, batch_norm: str = "eval") -> Iterator[nn.Module]:
    """Freeze the model: no parameter gradients, evaluation mode. Both are restored on exit.

    `batch_norm="train"` attacks in training mode, as the code of Rice et al. (ICML 2020) and CFA attack. Predictions then
    depend on the whole batch, and every step of the attack moves the running statistics.
    """
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    train_mode(model) if batch_norm == "train" else model.eval()
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    try:
        yield model
    finally:
        for module, training in modes:
            module.training = training
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def device_of(name: str) -> torch.device:
    """Return the device that a configuration names.

    Raises ConfigError if this machine does not have it.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"device {name!r} is not usable here: {str(error).splitlines()[0]}. Use auto or cpu.") from error
    return device
