"""Build a network by name from the few numbers that define it, freeze one for an attack, and find its device.

A network from elsewhere is named by `module:callable`, `file.py:callable`, a name of a package, or one of RobustBench's zoo.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from faal_lab import catalogue
from faal_lab.catalogue import FILTERS, ZOO
from faal_lab.errors import ConfigError, OwnPartError
from faal_lab.models.examine import ModelProblem, train_mode, try_model
from faal_lab.models.networks import SmallConvNet, preact_resnet_18, resnet_18, wide_resnet
from faal_lab.models.normalize import Normalize, Normalized
from faal_lab.models.processes import own_device

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


def from_path(
    path: str, num_classes: int, channels: int, size: tuple[int, int], mean: Sequence[float], std: Sequence[float]
) -> nn.Module:
    """Build the network named by `path`, and try it on two black images.

    "module:callable", "file.py:callable" or a package's name is called with num_classes=C and put behind our normalisation.
    "robustbench:NAME" comes with its weights and stays as it is: RobustBench's networks take pixels in [0, 1]. Raises
    ModelProblem, or ImportError without robustbench.
    """
    if path.startswith(ZOO):
        if (channels, *size) != (3, 32, 32):
            raise ModelProblem(
                f"{path} takes images of 3x32x32, these are {channels}x{size[0]}x{size[1]}. Choose another network."
            )
        model = _from_zoo(path.removeprefix(ZOO), num_classes)
    else:
        network = _called(path, num_classes)
        model = Normalized(Normalize(mean, std), network)
        model.training = network.training  # a network in evaluation mode as a whole is woken by training, its parts are not
    try_model(model, path, num_classes, (channels, *size))
    return model


def _called(path: str, num_classes: int) -> nn.Module:
    factory = _found(path)
    alone = f"{path} must be callable with num_classes={num_classes} alone"
    cure = "Write a function that takes num_classes and returns the network, and name that one."
    try:
        with suppress(ValueError):  # a builtin may show no signature: then only the call can fail
            inspect.signature(factory).bind(num_classes=num_classes)
    except TypeError as error:
        raise ModelProblem(f"{alone}: {error}. {cure}") from error
    try:
        network = factory(num_classes=num_classes)
    except TypeError as error:
        if "num_classes" not in str(error):  # an error inside the factory keeps its traceback
            raise
        raise ModelProblem(f"{alone}: {error}. {cure}") from error
    if not isinstance(network, nn.Module):
        raise ModelProblem(f"{path} must return a torch.nn.Module, got {type(network).__name__}. {cure}")
    return network


def _found(path: str) -> Callable[..., Any]:
    """Import the callable that `path` names."""
    try:
        found = catalogue.MODELS.load(path)
    except OwnPartError as error:
        raise ModelProblem(str(error)) from error.__cause__
    if not callable(found):
        raise ModelProblem(f"model={path} must name a callable, got {type(found).__name__}.")
    return found


def _from_zoo(name: str, num_classes: int) -> nn.Module:
    """Load RobustBench's L-infinity network `name` with its weights (Croce et al., NeurIPS Datasets 2021).

    The file is downloaded once to torch's hub folder; a run needs it whenever it is opened. Tested with robustbench 1.1.1 on
    files put there by hand; the download itself is untested.
    """
    dataset = {10: "cifar10", 100: "cifar100"}.get(num_classes)
    if dataset is None:
        raise ModelProblem(f"{ZOO}{name}: RobustBench's networks have 10 or 100 classes, the data {num_classes}.")
    try:
        load_model = _zoo_loader()
    except ImportError as error:
        raise ImportError(f"model={ZOO}{name} needs robustbench ({error}): pip install 'faal-lab[zoo]'") from error
    folder = Path(torch.hub.get_dir()) / "robustbench"
    try:
        return load_model(model_name=name, model_dir=str(folder), dataset=dataset, threat_model="Linf")
    except KeyError as error:
        raise ModelProblem(f"RobustBench has no network {name!r} for {dataset} under Linf; its page lists them.") from error
    except Exception as error:  # requests, gdown, huggingface_hub and pickle raise their own kinds of error
        reason = (str(error).splitlines() or [""])[0]
        raise ModelProblem(
            f"{ZOO}{name} could not be had: {type(error).__name__}: {reason} Without a network, download {name}.pt elsewhere "
            f"and put it at {folder / dataset / 'Linf' / name}.pt."
        ) from error


def _zoo_loader() -> Callable[..., nn.Module]:
    """Return `load_model` of RobustBench."""
    try:
        return importlib.import_module("robustbench.utils").load_model
    except ModuleNotFoundError as error:
        if error.name != "autoattack":
            raise
    # robustbench 1.1.1 depends on pyautoattack but imports it as `autoattack`, its name in git: add that name
    for name in ("", ".state"):
        sys.modules["autoattack" + name] = importlib.import_module("pyautoattack" + name)
    return importlib.import_module("robustbench.utils").load_model


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
    """Return the device that a configuration names; of several processes, "auto" and "cuda" give one to each.

    Raises ConfigError if this machine does not have it.
    """
    if name == "auto":
        return own_device(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        device = own_device(torch.device(name))
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"device {name!r} is not usable here: {str(error).splitlines()[0]}. Use auto or cpu.") from error
    return device
