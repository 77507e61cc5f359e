"""Write weights as files that others load: safetensors, a state dict, RobustBench's, torchattacks' or timm's layout.

safetensors        FILE.safetensors: the network's own names; normalisation, classes and architecture in the metadata
state_dict         FILE.pt: a plain dict of tensors by the network's own names; the normalisation is not in it
robustbench        FILE.pt: normalize.mean and .std [1, C, 1, 1], and model.*; FILE.json in the shape of its model_info
torchattacks       the same FILE.pt; FILE_loader.py, which puts a network behind the normalisation and loads it, by torch alone
timm               a folder with model.safetensors and config.json, which states the normalisation

Loads torch only when it writes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faal_lab import __version__
from faal_lab.errors import ConfigError, check_name
from faal_lab.runs.export import free_place
from faal_lab.runs.files import replace_file

if TYPE_CHECKING:
    import torch
    from torch import nn

FORMATS = ("safetensors", "state_dict", "robustbench", "torchattacks", "timm")
_LOADER = '''"""Load a network with its normalisation in front: images [B, C, H, W] in [0, 1] become logits [B, classes].

    model = load(network)  # a network of your code; its weights have the names that the file has after "model."
    attack = torchattacks.{attack}(model, eps=EPSILON, alpha=EPSILON / 4, steps=20)

The normalisation is inside: leave out set_normalization_used. Foolbox's PyTorchModel takes bounds=(0, 1).
"""

from collections import OrderedDict
from pathlib import Path

import torch
from torch import nn

FILE = Path(__file__).with_name({file!a})
ARCHITECTURE = {architecture!a}
IMAGE = {image!a}  # channels, height, width
CLASSES = {classes!a}
NORM, EPSILON = {norm!a}, {epsilon!a}  # of the attack, for pixels in [0, 1]


class Normalize(nn.Module):
    """(images - mean) / std per channel."""

    def __init__(self, mean, std):
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)

    def forward(self, images):
        return (images - self.mean) / self.std


def load(network, file=FILE):
    """Return the network behind its normalisation, with the weights of the file, in evaluation mode on the CPU."""
    weights = torch.load(file, map_location="cpu", weights_only=True)
    layers = OrderedDict(model=network)
    if "normalize.mean" in weights:
        layers = OrderedDict(normalize=Normalize(weights["normalize.mean"], weights["normalize.std"]), model=network)
    model = nn.Sequential(layers)
    model.load_state_dict(weights)
    return model.eval()
'''


@dataclass(frozen=True)
class Origin:
    """The numbers that go with the weights.

    `percent` is the measured accuracy by attack, empty where the run has no verdicts; `worst` that of the worst class.
    """

    architecture: str
    image: tuple[int, int, int]  # channels, height, width
    class_names: Sequence[str]
    data: str = ""
    norm: str = "linf"
    epsilon: float = 0.0
    percent: Mapping[str, float] = field(default_factory=dict)
    worst: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    images: int = 0


def export_weights(model: nn.Module, origin: Origin, to: str, out: str | Path, force: bool = False) -> str:
    """Write a network's weights; return a sentence about it.

    Args:
        model: the network, on any device; it stays as it is.
        origin: the numbers that go with it.
        to: safetensors, state_dict, robustbench, torchattacks or timm.
        out: the file, or for timm the folder. It is missing, or an empty folder.
        force: replace an earlier export.

    Raises:
        UnknownName: there is no such format.
        ConfigError: `out` is in use, or the format has no place for a bias around the network.

    >>> from faal_lab.models.build import ModelSpec, build
    >>> from faal_lab.models.export import Origin, export_weights
    >>> model = build(ModelSpec("preact-resnet-18", 2, 3, 8, 8, (0.5,) * 3, (0.25,) * 3, filters=2), seed=0)
    >>> print(export_weights(model, Origin("preact-resnet-18", (3, 8, 8), ["cat", "dog"]), "safetensors", "cats.safetensors"))
    Written: cats.safetensors. Its normalisation, mean [0.5, 0.5, 0.5] and std [0.25, 0.25, 0.25], is in its metadata.
    """
    from faal_lab.models.shift import Shifted

    check_name("format of weights", to, FORMATS)
    if isinstance(model, Shifted) and to not in ("safetensors", "state_dict"):
        raise ConfigError(
            f"{to} has no place for the bias of balance, which is around this network and not in it. Export it to safetensors or "
            "state_dict, where it is the tensor shift."
        )
    place = free_place(Path(out), force, folder=to == "timm")
    card, loader = place.with_suffix(".json"), place.with_name(f"{place.stem}_loader.py")
    if to == "robustbench" and free_place(card, force, folder=False) == place:
        raise ConfigError(f"{place} must not end in .json: its description is put there. Name a file such as model.pt.")
    if to == "torchattacks":
        free_place(loader, force, folder=False)
    weights, mean, std = parted(model)
    shown = f"mean {_rounded(mean)} and std {_rounded(std)}" if mean and std else ""
    none = "It has no normalisation of ours: what the network does to pixels is its own."
    if to == "safetensors":
        replace_file(place, _safetensors(weights, origin, mean, std))
        said = f"Its normalisation, {shown}, is in its metadata."
    elif to == "state_dict":
        replace_file(place, _saved(weights))
        said = f"Its normalisation is not in it: put {shown} before the network."
    elif to == "robustbench":
        replace_file(place, _saved(framed(weights, mean, std)))
        replace_file(card, json.dumps(model_info(origin), indent=2).encode())
        said = f"Its normalisation, {shown}, is in it. {card} is in the shape of model_info."
        none = f"It has no normalisation of ours. {card} is in the shape of model_info."
    elif to == "torchattacks":
        replace_file(place, _saved(framed(weights, mean, std)))
        replace_file(loader, loader_of(origin, place.name).encode())
        said = f"Its normalisation, {shown}, is in it. {loader} loads it: load(network) takes images in [0, 1]."
        none = f"It has no normalisation of ours. {loader} loads it."
    else:
        replace_file(place / "model.safetensors", _safetensors(weights, origin, mean, std))
        replace_file(place / "config.json", json.dumps(timm_config(origin, mean, std), indent=2).encode())
        said = f"Its normalisation, {shown}, is in config.json, for the images."
    return f"Written: {place}. {said if shown else none}"


Numbers = list[float] | None


def parted(model: nn.Module) -> tuple[dict[str, torch.Tensor], Numbers, Numbers]:
    """Return a network's tensors by its own names, and mean and std of our normalisation before it."""
    from faal_lab.models.normalize import Normalize, Normalized
    from faal_lab.models.shift import Shifted

    if isinstance(model, Shifted):
        weights, mean, std = parted(model.network)
        return {**{f"network.{n}": t for n, t in weights.items()}, "shift": model.state_dict()["shift"].cpu().clone()}, mean, std
    network = model.network if isinstance(model, Normalized) else model
    normalize = getattr(model, "normalize", None)
    tensors = {n: t.detach().cpu().clone().contiguous() for n, t in network.state_dict().items()}
    if not isinstance(normalize, Normalize):
        return tensors, None, None
    if network is model:
        tensors = {n: t for n, t in tensors.items() if not n.startswith("normalize.")}
    return tensors, normalize.mean.flatten().tolist(), normalize.std.flatten().tolist()


def framed(weights: Mapping[str, torch.Tensor], mean: Numbers, std: Numbers) -> dict[str, torch.Tensor]:
    """Return the tensors of RobustBench's Sequential of `normalize` and `model`."""
    import torch

    inner = {f"model.{n}": t for n, t in weights.items()}
    if mean is None or std is None:
        return inner
    return {"normalize.mean": torch.tensor(mean).view(1, -1, 1, 1), "normalize.std": torch.tensor(std).view(1, -1, 1, 1), **inner}


def model_info(origin: Origin) -> dict[str, Any]:
    """Return the fields of RobustBench's model_info. Accuracies are text in percent; what is not known is empty."""
    worst = origin.worst.items()
    said = [
        f"{attack}: worst class {name} {value:.2f}, all images {origin.percent[attack]:.2f}" for attack, (name, value) in worst
    ]
    footnote = f"Percent of {origin.images} test images, {origin.norm}. {'; '.join(said)}." if said else ""
    known = {
        "dataset": origin.data, "architecture": origin.architecture.rpartition(":")[2], "eps": _radius(origin.epsilon),
        "footnote": footnote,
        "clean_acc": _percent(origin, "clean"), "autoattack_acc": _percent(origin, "autoattack"),
    }  # fmt: skip
    fields = (
        "link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue", "architecture", "eps",
        "clean_acc", "reported", "autoattack_acc", "footnote", "unreliable",
    )  # fmt: skip
    return {name: known.get(name, "") for name in fields}


def loader_of(origin: Origin, file: str) -> str:
    """Return the Python text that loads `file`, a file beside it. It imports torch alone."""
    return _LOADER.format(
        file=file, architecture=origin.architecture, image=tuple(origin.image), classes=list(origin.class_names),
        norm=origin.norm, epsilon=origin.epsilon, attack="PGDL2" if origin.norm == "l2" else "PGD",
    )  # fmt: skip


def timm_config(origin: Origin, mean: Numbers, std: Numbers) -> dict[str, Any]:
    """Return the content of timm's config.json. Images are taken whole: no cropping."""
    channels, names = origin.image[0], list(origin.class_names)
    about = {
        "input_size": list(origin.image), "mean": mean or [0.0] * channels, "std": std or [1.0] * channels, "crop_pct": 1.0,
        "num_classes": len(names), "label_names": names,
    }  # fmt: skip
    architecture = origin.architecture.rpartition(":")[2]  # of timm.models.resnet:resnet18, the name that timm knows
    return {"architecture": architecture, "num_classes": len(names), "label_names": names, "pretrained_cfg": about}


def _safetensors(weights: Mapping[str, torch.Tensor], origin: Origin, mean: Numbers, std: Numbers) -> bytes:
    from safetensors.torch import save

    about: dict[str, Any] = {
        "architecture": origin.architecture, "input_size": origin.image, "class_names": list(origin.class_names),
        **({"mean": mean, "std": std} if mean else {}),
    }  # fmt: skip
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in about.items()}
    return save(dict(weights), metadata={"format": "pt", "producer": f"faal_lab {__version__}", **texts})


def _saved(tensors: dict[str, torch.Tensor]) -> bytes:
    import torch

    file = io.BytesIO()
    torch.save(tensors, file)
    return file.getvalue()


def _radius(epsilon: float) -> str:
    """Return a radius as RobustBench writes it: 8/255, or the number where it is no such fraction."""
    levels = epsilon * 255
    return "" if epsilon <= 0 else f"{round(levels)}/255" if abs(levels - round(levels)) < 1e-4 else f"{epsilon:g}"


def _percent(origin: Origin, attack: str) -> str:
    return f"{origin.percent[attack]:.2f}" if attack in origin.percent else ""


def _rounded(values: Numbers) -> list[float]:
    return [round(value, 4) for value in values or ()]
