"""Read foreign checkpoints, and fit them to one of our networks.

The normalisation of a file is a trap. FAAL's release feeds some bases CIFAR statistics and others none, and the wrong choice
loads without an error. So use the normalisation that the file states; `normalize.check_normalization` tries it on images.
"""

from __future__ import annotations

import json
import pickle
import re
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from faal_lab.models.normalize import Normalize, Normalized
from faal_lab.runs import CheckpointError

_AVERAGES = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")  # of timm, and of others
_NESTED = (*_AVERAGES, "state_dict", "model_state_dict", "model", "net", "rmodel")  # in this order, as timm takes them
_AVERAGED_PARTS = {"ema", "model_ema", "ema_model", "swa_model", "averaged_model"}  # of a name
_FRAMES = {"module", "_orig_mod"}  # parts that DataParallel and torch.compile add to every name
_SPREAD = {"mean": "std", "mu": "sigma", "new_mean": "new_std"}


class WeightsWarning(UserWarning):
    """A foreign file holds more than the weights that were taken. The message names both."""


def read_foreign(file: Path, which: str = "last") -> dict[str, torch.Tensor]:
    """Read the weights in a .safetensors, .pth or .pt file, by their names in the file, to the CPU.

    No code in the file runs. State dicts under known names are opened: an average before raw weights, as timm does.

    Args:
        file: the file.
        which: the state dict to take of a file that holds `last` and `best`.

    Raises:
        CheckpointError: there are no weights in it, or it cannot be read.

    Warns WeightsWarning where the file holds other weights, too.
    """
    from safetensors import SafetensorError, safe_open

    stated: dict[str, str] = {}
    try:
        with safe_open(file, framework="pt") as opened:
            stated = opened.metadata() or {}
            found: Any = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        if file.suffix == ".safetensors":
            raise CheckpointError(f"{file} is damaged: {error}. Fetch it again.") from error
        found = _unpickled(file)
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{file} holds {type(found).__name__}, expected a state dict: names and tensors.")
    try:
        found = _opened(found, which, file)
    except RecursionError as error:
        raise CheckpointError(f"{file} is damaged: it holds itself. Fetch it again.") from error
    tensors = {str(n): t.detach() for n, t in found.items() if isinstance(t, torch.Tensor)}
    if not tensors:
        raise CheckpointError(
            f"{file} holds no weights: expected a state dict, alone or under {', '.join(_NESTED)}, last or best; got "
            f"{_few(map(str, found))}."
        )
    if stated.get("producer", "").startswith("faal_lab") and "mean" in stated:  # of faal-lab export
        try:
            tensors |= {
                f"normalize.{name}": torch.tensor([float(v) for v in json.loads(stated[name])]) for name in ("mean", "std")
            }
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{file} is damaged: its normalisation cannot be read ({error}). Export it again.") from error
    return tensors


def _opened(found: Mapping[Any, Any], which: str, file: Path) -> Mapping[Any, Any]:
    """Return the state dict inside `found`, at any depth; warn of others beside it."""
    order = (*_NESTED, which, *({"last", "best"} - {which}))
    held = [name for name in order if isinstance(found.get(name), Mapping) and _has_weights(found[name])]
    if not held:
        return found
    taken, others = held[0], held[1:]
    others += [n for n in _AVERAGES if n not in held and isinstance(found.get(n), (Mapping, list, tuple)) and len(found[n])]
    needed, own = _shapes(found[taken]), {n: v for n, v in found.items() if isinstance(v, torch.Tensor)}
    alike = {str(n): v for n, v in found.items() if n not in (*_NESTED, which, "last", "best", "unaveraged_model_state_dict")}
    others += [n for n, v in {**alike, "tensors beside it": own}.items() if isinstance(v, Mapping) and needed <= _shapes(v)]
    others += [n for n in ("unaveraged_model_state_dict",) if n in found]
    if others:
        average = ", the average, as timm does" if taken in _AVERAGES else ", the average" if "unaveraged" in others[-1] else ""
        cure = (
            f"base_checkpoint={others[0]} takes the other"
            if {taken, *others} == {"last", "best"}
            else "To use another, save it alone"
        )
        warnings.warn(
            f"{file} holds {taken} and {', '.join(others)}: {taken} was taken{average}. {cure}.", WeightsWarning, stacklevel=3
        )
    return _opened(found[taken], which, file)


def _shapes(found: Mapping[Any, Any]) -> Counter[torch.Size]:
    """Count the shapes of tensors in a state dict or those inside it; an optimizer has numbers for names, and none."""
    counts = Counter(v.shape for n, v in found.items() if isinstance(n, str) and isinstance(v, torch.Tensor) and v.ndim)
    return sum((_shapes(v) for n, v in found.items() if isinstance(n, str) and isinstance(v, Mapping)), counts)


def _has_weights(found: Mapping[Any, Any]) -> bool:
    """Return whether there are tensors in a state dict, or in one inside it."""
    inner = [found[name] for name in (*_NESTED, "last", "best") if isinstance(found.get(name), Mapping)]
    return any(isinstance(value, torch.Tensor) for value in found.values()) or any(map(_has_weights, inner))


_COMMANDS = {"os", "posix", "nt", "subprocess", "sys", "builtins", "runpy", "shutil", "socket"}  # no network needs these


def _unpickled(file: Path) -> Any:
    """Read a file of torch.save by torch's reader, which accepts only tensors and plain values."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"(?:GLOBAL|global|class) `?([\w.]+)", str(error)) if "nsupported" in str(error) else None
        if named is None:
            raise CheckpointError(f"{file} is damaged, or no file of torch.save. Fetch it again.") from error
        if named[1].partition(".")[0] in _COMMANDS:
            raise CheckpointError(f"{file} would call {named[1]} when it is read: it was not read. Do not open it.") from error
        raise CheckpointError(
            f"{file} holds more than tensors ({named[1]}), and reading that could run code: it was not read. If you trust who "
            'made it, convert it once, where the code that made it is installed: python -c "import torch; '
            "m = torch.nn.Module; c = torch.load('FILE', 'cpu', weights_only=False); c = c if isinstance(c, dict) else "
            "{'model': c}; c = {n: v.state_dict() if isinstance(v, m) else v for n, v in c.items()}; "
            "torch.save({n: v for n, v in c.items() if isinstance(v, torch.Tensor) or isinstance(v, dict) and "
            "v and all(isinstance(t, torch.Tensor) for t in v.values())}, 'weights.pt')\""
        ) from error
    except OSError:
        raise
    except Exception as error:  # a truncated file can raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0].partition(". ")[0]
        raise CheckpointError(f"{file} is damaged: {reason}. Fetch it again.") from error


def load_foreign(model: nn.Module, channels: int, num_classes: int, file: Path, which: str = "last") -> bool:
    """Load a foreign file's weights into `model`; return whether its normalisation replaced ours.

    The prefix is the one under which every tensor of the network is found in its shape: DataParallel, torch.compile, an outer
    normalisation, AveragedModel, Lightning, robustness and MAIR put different ones before the names. Counters and TRADES' unused
    `sub_block1` are left out.

    Args:
        model: the network.
        channels: of its images.
        num_classes: of its images.
        file: the foreign file.
        which: the state dict to take of a file that holds `last` and `best`.

    Raises:
        CheckpointError: names, shapes or the number of classes differ, or a weight is not finite.

    Warns WeightsWarning where the file holds other weights, too.
    """
    target = model.network if isinstance(model, Normalized) else model
    normalize = getattr(model, "normalize", None)
    normalize = normalize if isinstance(normalize, Normalize) else None
    inside = normalize is not None and target is model
    expected = {n: t for n, t in target.state_dict().items() if not (inside and n.startswith("normalize."))}
    found = read_foreign(file, which)
    shift = found.get("shift")
    around = (
        shift is not None and "shift" not in expected and all(n.startswith(("shift", "network.", "normalize.")) for n in found)
    )
    if around and bool((shift != 0).any()):
        raise CheckpointError(
            f"{file} holds a bias of balance around its network, the tensor shift, which would be lost. Use the run folder "
            "that it was exported from."
        )
    tensors, spread = _fitted(found, expected, file)
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
    broken = [n for n, t in tensors.items() if t.is_floating_point() and not bool(torch.isfinite(t).all())]
    if broken:
        raise CheckpointError(f"{file} is not finite in {_few(broken)}. Choose an earlier checkpoint of that training.")
    if spread is not None:
        _set_normalization(normalize, *spread, channels, file)
    target.load_state_dict(tensors, strict=False)  # the counter of a batch norm may be missing, as in old files
    return spread is not None


def _set_normalization(normalize: Normalize | None, mean: torch.Tensor, std: torch.Tensor, channels: int, file: Path) -> None:
    """Adopt a file's normalisation. Raises CheckpointError if it does not fit these images."""
    if normalize is None:
        raise CheckpointError(f"{file} has a normalisation of its own, and the network no place for it.")
    finite = bool(torch.isfinite(mean).all() and torch.isfinite(std).all())
    if not {mean.numel(), std.numel()} <= {1, channels} or not finite or not bool((std > 0).all()):
        raise CheckpointError(
            f"{file} normalises by mean {mean.flatten().tolist()} and std {std.flatten().tolist()}, expected finite "
            f"means and one positive std for each of {channels} channels."
        )
    normalize.mean.copy_(mean.reshape(-1, 1, 1).expand_as(normalize.mean))
    normalize.std.copy_(std.reshape(-1, 1, 1).expand_as(normalize.std))


_Pair = tuple[torch.Tensor, torch.Tensor]  # mean and std of a normalisation


def _fitted(
    tensors: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], file: Path
) -> tuple[dict[str, torch.Tensor], _Pair | None]:
    """Return the tensors by the network's own names, and mean and std of a normalisation around it.

    A tensor that may change what the network computes stays among them, so that it is found unexpected.
    """
    whole, nearest = _prefixes(tensors, expected)
    bare = {".".join(part for part in n.split(".") if part not in _FRAMES): t for n, t in tensors.items()}
    if not whole and len(bare) == len(tensors):  # a part of the network was compiled, or the names differ otherwise
        tensors = bare
        whole, nearest = _prefixes(tensors, expected)
    if not any("sub_block1" in n.split(".") for n in expected):
        tensors = {n: t for n, t in tensors.items() if "sub_block1" not in n.split(".")}
    whole.sort(key=lambda p: (_AVERAGED_PARTS.isdisjoint(p.split(".")), "attacker" in p.split("."), len(p)))
    prefix, *copies = whole or [nearest]
    twice = {copy + n for copy in copies for n in expected}
    rest = {n: t for n, t in tensors.items() if n not in twice and not (n.startswith(prefix) and n[len(prefix) :] in expected)}
    spread, known = _normalization(rest, prefix, file)
    said = [f"{copy}*" for copy in copies if not _equal(tensors, expected, prefix, copy)]
    mine = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix) and n not in rest and n not in twice}
    left = []
    for name, tensor in rest.items():
        if name in known or (tensor.ndim == 0 and not tensor.is_floating_point()):  # a counter; a learned scale is none
            continue
        if not whole or name.startswith(prefix) or _acts(name, prefix):
            mine[name.removeprefix(prefix)] = tensor
        elif tensor.ndim:  # a score or a temperature of another part is no weight
            left.append(name)
    if said or left:
        average = "" if _AVERAGED_PARTS.isdisjoint(prefix.split(".")) else ", the average"
        more = [*said, *([f"{len(left)} tensor{'s' * (len(left) > 1)} of other parts ({_few(left)})"] if left else [])]
        warnings.warn(
            f"{file} holds {prefix}* and {' and '.join(more)}: {prefix}* was taken{average}. To use another, save it alone.",
            WeightsWarning, stacklevel=3,
        )  # fmt: skip
    return mine, spread


def _prefixes(tensors: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> tuple[list[str], str]:
    """List the prefixes under which all expected tensors are found, and name the one under which most names are."""
    found = Counter[str]()
    for name in tensors:
        parts = name.split(".")
        for cut in range(len(parts)):
            if ".".join(parts[cut:]) in expected:
                found["".join(part + "." for part in parts[:cut])] += 1
    needed = [(n, t.shape) for n, t in expected.items() if not n.endswith("num_batches_tracked")]
    whole = [p for p in found if all(p + n in tensors and tensors[p + n].shape == shape for n, shape in needed)]
    return whole, max(found, key=lambda p: (found[p], -len(p)), default="")


def _equal(tensors: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], one: str, other: str) -> bool:
    """Return whether the network has the same weights under two prefixes."""
    return all(torch.equal(tensors[one + n], tensors[other + n]) for n in expected if one + n in tensors and other + n in tensors)


def _acts(name: str, prefix: str) -> bool:
    """Return whether a tensor beside the network may change what reaches it: a layer of its Sequential, or a normalisation."""
    parent, _, last = prefix.removesuffix(".").rpartition(".")
    beside = name.removeprefix(f"{parent}." if parent else "")
    return (last.isdecimal() and beside.partition(".")[0].isdecimal()) or re.search("norm|preproc", name) is not None


def _place(place: str, prefix: str) -> str:
    """Return where a normalisation at `place` is, by its name: before the network, beside it, or elsewhere."""
    outer = prefix.split(".")[:-1]
    levels = [".".join(outer[:depth]) for depth in range(len(outer) + 1)]
    parent, _, last = place.rpartition(".")
    if place in levels or parent not in levels:
        return "before" if place in levels else "elsewhere"
    after = outer[levels.index(parent)] if parent != levels[-1] else ""
    if last.isdecimal():  # a layer of a Sequential
        return "elsewhere" if after.isdecimal() and int(last) > int(after) else "before"
    return "before" if re.search("norm|preproc", last) else "beside"


def _normalization(rest: dict[str, torch.Tensor], prefix: str, file: Path) -> tuple[_Pair | None, set[str]]:
    """Return mean and std of a normalisation before the network, and the names of all such pairs.

    A pair elsewhere, of a teacher or a metric, is not the network's: `_acts` refuses it, or a warning names it. Beside an
    n_classes, as in MAIR's files, mean and std are notes: its forward pass does not use them. Raises CheckpointError where
    several differ, and none is the network's neighbour.
    """
    known, elsewhere = set[str](), set[str]()
    found, beside = list[tuple[str, _Pair]](), list[tuple[str, _Pair]]()
    for name, tensor in rest.items():
        place, dot, last = name.rpartition(".")
        spread = f"{place}{dot}{_SPREAD.get(last, '')}"
        if last not in _SPREAD or spread not in rest:
            continue
        known |= {name, spread}
        if f"{place}{dot}n_classes" in rest:
            warnings.warn(
                f"{file} notes {name} {tensor.flatten().tolist()} and {spread} {rest[spread].flatten().tolist()}, as MAIR does, "
                "whose forward pass does not apply them: they were not applied.", WeightsWarning, stacklevel=4,
            )  # fmt: skip
        elif (where := _place(place, prefix)) == "elsewhere":
            elsewhere |= {name, spread}
        else:
            pairs = found if where == "before" else beside
            if not any(torch.equal(tensor.flatten(), m.flatten()) and torch.equal(rest[spread], s) for _, (m, s) in pairs):
                pairs.append((place, (tensor, rest[spread])))
    if len(beside) == 1 and not found:
        raise CheckpointError(
            f"{file} holds mean and std at {beside[0][0]}, and its names do not state whether the network is behind them. Save "
            "the weights without them, or with them at normalize."
        )
    found = found or beside
    known -= set() if found else elsewhere
    if len(found) > 1:
        parent = prefix.removesuffix(".").rpartition(".")[0]
        found = [(place, pair) for place, pair in found if parent in (place, place.rpartition(".")[0])] or found
    if len(found) > 1:
        raise CheckpointError(
            f"{file} holds {len(found)} normalisations, at {_few(place for place, _ in found)}. Save the weights with "
            "the one that the network is behind."
        )
    return (found[0][1] if found else None), known


def _differences(tensors: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> list[str]:
    """List the reasons why tensors do not fit a network, empty if they do."""
    missing = [n for n in expected if n not in tensors and not n.endswith("num_batches_tracked")]
    unexpected = [n for n in tensors if n not in expected]
    shapes = [
        f"{n} {list(t.shape)}, expected {list(expected[n].shape)}"
        for n, t in tensors.items()
        if n in expected and t.shape != expected[n].shape
    ]
    plain = {n: t.layout is torch.strided and not t.is_meta and t.is_floating_point() for n, t in tensors.items()}
    types = [f"{n} {t.dtype}" for n, t in tensors.items() if n in expected and expected[n].is_floating_point() and not plain[n]]
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes), ("no plain floats", types))
    return [f"{len(names)} {what} ({_few(names)})" for what, names in kinds if names]


def _few(names: Any) -> str:
    """Return the first three of `names` as text."""
    names = list(names)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
