"""Turn a training state into a checkpoint, and a checkpoint into a state or a model."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import torch
from torch import nn

from faal_lab.data.images import Splits
from faal_lab.errors import RunFolderError
from faal_lab.methods.class_stats import ClassStats
from faal_lab.models.build import ModelSpec, build
from faal_lab.models.normalize import check_normalization
from faal_lab.models.shift import Shifted
from faal_lab.models.weights import load_foreign
from faal_lab.runs import Checkpoint, CheckpointError, RunFolder, is_foreign, read_checkpoint
from faal_lab.runs.config import Config
from faal_lab.training.trainer import Trainer


def base_file(config: Config) -> Path:
    """Return the checkpoint that a run starts from: a file, or a run folder's `base_checkpoint`.

    Raises CheckpointError if it does not exist.
    """
    path = Path(config.base).expanduser()
    if path.is_file():
        return path
    if not path.exists():
        raise CheckpointError(f"base {path} does not exist. Train it first: faal-lab run --out {path}")
    return _checkpoint_file(RunFolder.open(path), config.base_checkpoint)


def _checkpoint_file(folder: RunFolder, which: str) -> Path:
    """Return the path of a run's checkpoint.

    Raises CheckpointError for a best one of a run without validation images.
    """
    if which == "best" and folder.config().validation == "none":
        raise CheckpointError(f"{folder.path} has no best checkpoint: it was trained with validation=none. Use its last one.")
    return folder.checkpoint(which)


def load_weights(model: nn.Module, spec: ModelSpec, config: Config, file: Path, splits: Splits | None = None) -> bool:
    """Load a checkpoint's weights into `model`.

    Returns True if they are known to have been selected on test images. Raises CheckpointError if network, number of classes
    or split differ: another split of the same images would test the model on images that its base was trained on. A foreign
    file does not state its split; its normalisation is checked on the validation images of `splits`.
    """
    if file.is_file() and is_foreign(file):
        brought = load_foreign(model, spec.channels, spec.num_classes, file, config.base_checkpoint)
        if splits is not None:
            check_normalization(model, splits, "" if brought else config.normalization, file.name)
        return False
    checkpoint = read_checkpoint(file)
    differences = spec_of(checkpoint).differences(spec)
    source = checkpoint.header["source"]
    same_images = split_of(source) == {**split_of(source_of(config)), "split_seed": source["split_seed"]}
    if same_images and source["split_seed"] != config.split_seed:
        differences.append(
            f"split_seed is {source['split_seed']}, expected {config.split_seed} "
            "(the model would be tested on images its base was trained on)"
        )
    if checkpoint.header.get("wrapped"):
        differences.append("its bias of balance is around the network, not in it (fine-tune the run that was balanced)")
    if differences:
        raise CheckpointError(f"{file} does not fit this run: {'; '.join(differences)}. Choose another base, model or data set.")
    try:
        model.load_state_dict(delivered(checkpoint))
    except RuntimeError as error:
        raise CheckpointError(f"The weights in {file} do not fit the network {spec.name}: {error}") from error
    return bool(checkpoint.header.get("selected_on_test", False))


def delivered(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Return the weights that are the run's result: the averaged ones, once there are any."""
    return checkpoint.part("average") or checkpoint.part("model")


def spec_of(checkpoint: Checkpoint) -> ModelSpec:
    """Return the network that a checkpoint was made for."""
    stored = dict(checkpoint.header["spec"])
    return ModelSpec(**{**stored, "mean": tuple(stored["mean"]), "std": tuple(stored["std"])})


Source = dict[str, str | int | float]


def source_of(config: Config) -> Source:
    """Return the source of a run's images: data set, absolute folder, seed of the split, and imbalance other than 1."""
    where = str(Path(config.data_dir).expanduser().resolve()) if config.data_dir else ""
    thinned = {} if config.imbalance == 1 else {"imbalance": config.imbalance}
    return {"data": config.data, "data_dir": where, "split_seed": config.split_seed, **thinned}


def split_of(source: Source) -> Source:
    """Return the part of a source that decides which images are test images: imbalance takes training images alone."""
    return {name: source[name] for name in ("data", "data_dir", "split_seed")}


def to_checkpoint(trainer: Trainer) -> Checkpoint:
    """Collect all that is needed to resume.

    These are weights, their average, momentum, the fairness method's state, counters and dials.
    """
    state, spec = trainer.state, trainer.spec
    assert spec is not None, "what is saved knows the shape of its network"
    tensors = {f"model.{n}": t for n, t in state.model.state_dict().items()}
    tensors |= {f"fairness.{n}": t for n, t in state.recipe.fairness.state.items()}
    tensors |= {f"average.{n}": t for n, t in state.average.items()}
    if state.tally is not None:
        tensors |= {"tally.count": state.tally.count, **{f"tally.sums.{n}": t for n, t in state.tally.sums.items()}}
    if state.perturbation is not None:
        tensors["free.perturbation"] = state.perturbation
    for index, entry in state.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{n}": t for n, t in entry.items() if isinstance(t, torch.Tensor)}
    header = {
        "spec": asdict(spec), "source": source_of(trainer.config), "epoch": state.epoch, "batch": state.batch, "step": state.step,
        "begun": state.begun, "averaged": state.averaged, "commands_read": state.commands_read, "dials": dict(state.dials),
        "best": trainer.best, "selected_on_test": trainer.selected_on_test,
        **({"balanced": trainer.balanced} if trainer.balanced else {}),
    }  # fmt: skip
    return Checkpoint({n: t.detach().clone() for n, t in tensors.items()}, header)


def last_state(folder: RunFolder) -> Checkpoint | None:
    """Read the state from which a run is resumed; None before its first checkpoint.

    Raises CheckpointError if it is damaged, and RunFolderError as `check_recorded` does.
    """
    if not folder.checkpoint().exists():
        return None
    checkpoint = read_checkpoint(folder.checkpoint())
    check_recorded(folder, checkpoint)
    return checkpoint


def check_recorded(folder: RunFolder, checkpoint: Checkpoint) -> None:
    """Raise RunFolderError if a run's record ends before the state of a checkpoint: its last lines are missing."""
    header, file = checkpoint.header, folder.metrics_file
    if header.keys() & {"adopted", "apart"} or not file.exists():
        return  # the steps were made elsewhere; weights may travel alone
    with open(file, "rb") as stream:
        first = stream.readline()
    if first and b'"event": "RunStarted"' not in first:
        return  # they did, and were evaluated since
    for kind, field in (("StepDone", "step"), ("EpochDone", "epoch")):
        recorded, stated = _last_record(file, kind).get(field, 0), header.get(field, 0)
        if not (isinstance(recorded, int) and isinstance(stated, int)) or recorded < stated:
            raise RunFolderError(
                f"{file} is damaged: it ends with {field} {recorded}, and a checkpoint is of {field} {stated}. What can still be "
                f"used: faal-lab verify {folder.path}. Its weights can start another run: faal-lab run --base {folder.path}"
            )


def _last_record(file: Path, kind: str) -> dict[str, Any]:
    """Return the last whole record of a kind in a long file; empty if there is none, or if its line cannot be read."""
    with (
        suppress(ValueError, TypeError, RecursionError),
        open(file, "rb") as stream,
        mmap(stream.fileno(), 0, access=ACCESS_READ) as content,
    ):
        at = content.rfind(f'"event": "{kind}"'.encode(), 0, content.rfind(b"\n") + 1)
        record = json.loads(content[content.rfind(b"\n", 0, at) + 1 : content.find(b"\n", at)]) if at > 0 else {}
        return record if isinstance(record, dict) else {}
    return {}


def from_checkpoint(trainer: Trainer, checkpoint: Checkpoint) -> None:
    """Restore a fresh training to a checkpoint of the same run, bit for bit."""
    state, header = trainer.state, checkpoint.header
    state.model.load_state_dict(checkpoint.part("model"))
    where = next(state.model.parameters()).device

    def part(name: str) -> dict[str, torch.Tensor]:
        return {n: t.to(where) for n, t in checkpoint.part(name).items()}

    remembered = state.recipe.fairness.state
    remembered.clear()
    remembered.update(part("fairness"))
    state.average = part("average")
    state.perturbation = part("free").get("perturbation")
    if count := part("tally"):
        state.tally = ClassStats(count["count"], part("tally.sums"))
    entries: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in checkpoint.part("optimizer").items():
        index, key = name.split(".", 1)
        entries.setdefault(int(index), {})[key] = tensor
    state.optimizer.load_state_dict({**state.optimizer.state_dict(), "state": entries})
    state.epoch, state.batch, state.step = header["epoch"], header["batch"], header["step"]
    state.begun, state.averaged = header.get("begun", state.epoch), header.get("averaged", 0)
    state.commands_read, state.dials = header["commands_read"], state.dials | header["dials"]
    trainer.best, trainer.balanced = header["best"], header.get("balanced", "")
    trainer.selected_on_test |= header.get("selected_on_test", False)


def load_model(
    run_folder: str | Path, which: str = "last", model: nn.Module | None = None
) -> tuple[nn.Module, Config, Checkpoint]:
    """Load the trained network of a run, on the CPU in evaluation mode.

    `model` is needed if the run had a network of its own: an object of the same kind, which gets the run's weights. Raises
    RunFolderError or CheckpointError.
    """
    folder = RunFolder.open(run_folder)
    config, checkpoint = folder.config(), read_checkpoint(_checkpoint_file(folder, which))
    spec = spec_of(checkpoint)
    if model is None and spec.name != config.model:
        raise RunFolderError(
            f"{run_folder} was trained with a network of its own ({spec.name}). In Python hand one over (model=...); to use it "
            "from the command line, train it by its path: --model my_module:make_net."
        )
    model = build(spec, config.seed) if model is None else model
    if checkpoint.header.get("wrapped"):
        model = Shifted(model, spec.num_classes)
    try:
        model.load_state_dict(delivered(checkpoint))
    except RuntimeError as error:
        raise CheckpointError(f"The weights of {run_folder} do not fit the network {spec.name}: {error}") from error
    return model.eval(), config, checkpoint
