"""Read foreign checkpoints, fit them to one of our networks, and check that the pixels suit them.

The normalisation of a file is a trap. FAAL's release feeds some bases CIFAR statistics and others none, and the wrong choice
loads without an error. So use the normalisation that the file states. If it states none, try candidates on images, but never
on test images.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from faal_lab.catalogue import NORMALIZATIONS
from faal_lab.data.images import Images, Splits
from faal_lab.models.normalize import Normalize, Normalized, statistics
from faal_lab.runs import CheckpointError

_NESTED = ("state_dict", "model_state_dict", "model", "net")
_FRAMES = {"module", "_orig_mod"}  # parts that DataParallel and torch.compile add to every name
_SPREAD = {"mean": "std", "mu": "sigma"}
_PROBED = 512


class NormalizationWarning(UserWarning):
    """A foreign network classifies validation images badly.

    The message has the numbers, and the normalisation that would help.
    """


def read_foreign(file: Path) -> dict[str, torch.Tensor]:
    """Read the weights in a .safetensors, .pth or .pt file, by their names in the file, to the CPU.

    No code in the file runs. One level of state_dict, model_state_dict, model or net is opened. Raises CheckpointError.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found: Any = load_file(file)
    except SafetensorError as error:
        if file.suffix == ".safetensors":
            raise CheckpointError(f"{file} is damaged: {error}. Fetch it again.") from error
        found = _unpickled(file)
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{file} holds {type(found).__name__}, expected a state dict: names and tensors.")
    found = next((found[name] for name in _NESTED if isinstance(found.get(name), Mapping)), found)
    tensors = {str(n): t.detach() for n, t in found.items() if isinstance(t, torch.Tensor)}
    if not tensors:
        raise CheckpointError(
            f"{file} holds no weights: expected a state dict, alone or under {', '.join(_NESTED)}; got {_few(map(str, found))}."
        )
    broken = [n for n, t in tensors.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]
    if broken:
        raise CheckpointError(f"{file} is not finite in {_few(broken)}. Choose an earlier checkpoint of that training.")
    return tensors


def _unpickled(file: Path) -> Any:
    """Read a file of torch.save by torch's reader, which accepts only tensors and plain values."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"(?:GLOBAL|global|class) `?([\w.]+)", str(error)) if "nsupported" in str(error) else None
        if named is None:
            raise CheckpointError(f"{file} is damaged, or no file of torch.save. Fetch it again.") from error
        raise CheckpointError(
            f"{file} holds more than tensors ({named[1]}), and reading that could run code: it was not read. If you trust who "
            f"made it, convert it once: python -c \"import torch; c = torch.load('FILE', 'cpu', weights_only=False); "
            "torch.save(c.get('state_dict', c) if isinstance(c, dict) else c.state_dict(), 'weights.pt')\""
        ) from error
    except OSError:
        raise
    except Exception as error:  # a truncated file can raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0].partition(". ")[0]
        raise CheckpointError(f"{file} is damaged: {reason}. Fetch it again.") from error


def load_foreign(model: nn.Module, channels: int, num_classes: int, file: Path) -> bool:
    """Load a foreign file's weights into `model`; return whether its normalisation replaced ours.

    Prefixes of DataParallel and of an outer normalisation are removed from the names. TRADES' unused `sub_block1` is left out.
    Raises CheckpointError if names, shapes or the number of classes differ.
    """
    target = model.network if isinstance(model, Normalized) else model
    normalize = getattr(model, "normalize", None)
    normalize = normalize if isinstance(normalize, Normalize) else None
    inside = normalize is not None and target is model
    expected = {n: t for n, t in target.state_dict().items() if not (inside and n.startswith("normalize."))}
    tensors, mean, std = _unwrapped(read_foreign(file), set(expected))
    head = [name for name, layer in target.named_modules() if isinstance(layer, nn.Linear)][-1:]
    rows = [tensors[f"{name}.weight"].shape[0] for name in head if f"{name}.weight" in tensors]
    if rows and rows != [num_classes]:
        raise CheckpointError(f"{file} does not fit: the checkpoint has {rows[0]} classes, the data {num_classes}.")
    problems = _differences(tensors, expected)
    if problems:
        raise CheckpointError(
            f"The weights in {file} do not fit the network: {'; '.join(problems)}. Choose the network that they are of "
            "(model, filters)."
        )
    if mean is not None and std is not None:
        _set_normalization(normalize, mean, std, channels, file)
    target.load_state_dict(tensors, strict=False)  # the counter of a batch norm may be missing, as in old files
    return mean is not None


def _set_normalization(normalize: Normalize | None, mean: torch.Tensor, std: torch.Tensor, channels: int, file: Path) -> None:
    """Adopt a file's normalisation. Raises CheckpointError if it does not fit these images."""
    if normalize is None:
        raise CheckpointError(f"{file} has a normalisation of its own, and the network no place for it.")
    if not {mean.numel(), std.numel()} <= {1, channels} or not bool((std > 0).all()):
        raise CheckpointError(
            f"{file} normalises by mean {mean.flatten().tolist()} and std {std.flatten().tolist()}, expected one positive "
            f"std for each of {channels} channels."
        )
    normalize.mean.copy_(mean.reshape(-1, 1, 1).expand_as(normalize.mean))
    normalize.std.copy_(std.reshape(-1, 1, 1).expand_as(normalize.std))


def _unwrapped(
    tensors: dict[str, torch.Tensor], expected: set[str]
) -> tuple[dict[str, torch.Tensor], torch.Tensor | None, torch.Tensor | None]:
    """Return the tensors by the network's own names, and mean and std of a normalisation around it."""
    if not tensors.keys() <= expected:
        tensors = {".".join(part for part in n.split(".") if part not in _FRAMES): t for n, t in tensors.items()}
    tensors = {n: t for n, t in tensors.items() if "sub_block1" not in n.split(".") or n in expected}
    mean = std = None
    for name in [n for n in tensors if n not in expected]:
        prefix, _, last = name.rpartition(".")
        spread = f"{prefix}.{_SPREAD.get(last)}".removeprefix(".")
        if last in _SPREAD and spread in tensors:
            mean, std = tensors.pop(name), tensors.pop(spread)
            break
    while not tensors.keys() & expected:
        first = {n.partition(".")[0] for n in tensors}
        if len(first) != 1 or not all("." in n for n in tensors):
            break
        tensors = {n.partition(".")[2]: t for n, t in tensors.items()}  # "1." comes from a Sequential, "model." from a wrapper
    return tensors, mean, std


def _differences(tensors: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> list[str]:
    """List the reasons why tensors do not fit a network, empty if they do."""
    missing = [n for n in expected if n not in tensors and not n.endswith("num_batches_tracked")]
    unexpected = [n for n in tensors if n not in expected]
    shapes = [
        f"{n} {list(t.shape)}, expected {list(expected[n].shape)}"
        for n, t in tensors.items()
        if n in expected and t.shape != expected[n].shape
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
    return [f"{len(names)} {what} ({_few(names)})" for what, names in kinds if names]


def _few(names: Any) -> str:
    """Return the first three of `names` as text."""
    names = list(names)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def check_normalization(model: nn.Module, splits: Splits, used: str, who: str) -> None:
    """Warn if a foreign network sees images badly, or better with another normalisation.

    The images are up to 512 of validation, or of training if there are none. Badly is below 1.5 times chance; better is 5 points
    of accuracy more. `used` names its normalisation ("" is its own, for which no other is tried), and `who` the network in the
    warning. Costs up to three passes over those images.
    """
    normalize = getattr(model, "normalize", None)
    images, kind = (splits.validation, "validation") if len(splits.validation) else (splits.train, "training")
    right, total = _right(model, images)
    others, how = {}, "" if used else " with the normalisation that it brought"
    if used and isinstance(normalize, Normalize):
        others, how = _right_with_others(model, normalize, splits, images, used), f" with normalization={used}"
    shown = {name: f"{count / total:.1%}" for name, count in others.items()}
    said = f"{who} is right on {right / total:.1%} of {total} {kind} images{how}"
    best = max(others, key=lambda name: others[name], default="")
    if best and others[best] > right + 0.05 * total:
        near = [name for name in others if others[name] >= others[best] - 0.05 * total]
        seen = " and ".join(f"on {shown[name]} with {name}" for name in near)
        so = "so" if len(near) == 1 else "by one of these, which its author knows"  # a few images cannot tell them apart
        cure = f"{seen}. It was most likely trained {so}: --normalization {' or '.join(near)}"
    elif right < 1.5 * total / splits.num_classes:
        tried = f", no better with {' or '.join(shown)}" if shown else ""
        cure = f"{1 / splits.num_classes:.1%} is chance{tried}. Are its classes in this order, its images of this kind?"
    else:
        return
    warnings.warn(f"{said}, {cure}", NormalizationWarning, stacklevel=2)


def _right_with_others(model: nn.Module, normalize: Normalize, splits: Splits, images: Images, used: str) -> dict[str, int]:
    """Count right answers with each other normalisation, and restore the network's own."""
    mean, std, channels = normalize.mean.clone(), normalize.std.clone(), len(normalize.mean)
    counts = {}
    try:
        for name in NORMALIZATIONS:
            if name == used or (name == "cifar" and channels != 3):
                continue
            other = Normalize(*statistics(name, channels, splits.channel_statistics())).to(mean.device)
            normalize.mean.copy_(other.mean)
            normalize.std.copy_(other.std)
            counts[name] = _right(model, images)[0]
    finally:
        normalize.mean.copy_(mean)
        normalize.std.copy_(std)
    return counts


def _right(model: nn.Module, images: Images) -> tuple[int, int]:
    """Count right answers on up to 512 images, spread over all: folders are sorted by class."""
    chosen = torch.linspace(0, len(images) - 1, min(len(images), _PROBED)).long()
    device, training = next(model.parameters()).device, model.training
    model.eval()
    try:
        with torch.no_grad():
            right = 0
            for part in chosen.to(images.labels.device).split(128):
                pixels, labels = images.batch(part)
                right += int((model(pixels.to(device)).argmax(1) == labels.to(device)).sum())
    finally:
        model.train(training)
    return right, len(chosen)
