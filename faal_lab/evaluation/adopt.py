"""Turn networks that were trained elsewhere into run folders.

Such a folder holds the weights at step 0 and the images to try them on; from then on it is like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from faal_lab.catalogue import DATA_SETS, MODELS, PATH_FORM, ZOO
from faal_lab.data.images import stratified
from faal_lab.errors import ConfigError, RunFolderError
from faal_lab.models.normalize import check_normalization
from faal_lab.runs import Checkpoint, CheckpointError, RunFolder, free_name, is_foreign, read_checkpoint, write_checkpoint
from faal_lab.runs.config import Config
from faal_lab.runs.events import RunFinished, RunStarted
from faal_lab.runs.files import tensors_sha256
from faal_lab.training.parameters import ADOPTION_SETTINGS
from faal_lab.training.restore import base_file, delivered, source_of, spec_of, split_of, to_checkpoint
from faal_lab.training.run import made_by, prepare
from faal_lab.training.trainer import Trainer

_KEPT = (*ADOPTION_SETTINGS, "epsilon", "base", "base_checkpoint", "device")
_ALIKE = [
    name for name in ADOPTION_SETTINGS if name != "download"
]  # a folder is used again if these and the weights are the same


def adopt(config: Config, out: str | Path, model: nn.Module | None = None, *, images: int | None = None) -> RunFolder:
    """Turn a network that was trained elsewhere into a run folder, at step 0.

    The network is `config.model` with the weights of the file `config.base` (empty: it brings its own), or the object `model`.
    Nothing is trained, so no image is held back for validation, and the test images stay closed. If `out` already holds the same
    weights with the same settings, it stays as it is.

    Args:
        config: the settings of images, network and attack; its other settings are ignored.
        out: the run folder.
        model: the network as an object, which takes pixels in [0, 1] and returns logits; default None.
        images: check that there are so many test images, and at least one per class; None (default) checks nothing.

    Returns:
        The run folder.

    Raises:
        RunFolderError: `out` holds anything else, or the file `config.base`; nothing is written.
        CheckpointError: a weight is not finite; nothing is written.
        FaalLabError: network, weights and images do not fit (see `training.run.prepare`); nothing is written.

    >>> import torch
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import RidgeClassifier
    >>> from faal_lab import Config, adopt
    >>> digits = load_digits()
    >>> fitted = RidgeClassifier().fit(digits.data / 16, digits.target)
    >>> linear = torch.nn.Linear(64, 10)
    >>> linear.weight.data, linear.bias.data = torch.tensor(fitted.coef_).float(), torch.tensor(fitted.intercept_).float()
    >>> adopt(Config(data="digits"), "runs/ridge", torch.nn.Sequential(torch.nn.Flatten(), linear)).status()
    'done'
    """
    config = Config(**{name: getattr(config, name) for name in _KEPT}, validation="none")
    who = str(Path(*Path(config.base).parts[-2:])) if config.base else config.model if model is None else type(model).__name__
    folder = RunFolder(out)
    if config.base and base_file(config).resolve().parent == folder.path.resolve():
        raise RunFolderError(f"{who} lies in {out}: what is found out about it is kept in a folder of its own. Name another one.")
    trainer = prepare(config, model, adopting=True)
    if images is not None:
        stratified(trainer.splits.test.labels, images, trainer.splits.num_classes)
    if not config.base:
        own = model is not None or config.model.startswith(ZOO)
        check_normalization(trainer.state.model, trainer.splits, "" if own else config.normalization, who)
    checkpoint = _checkpoint(trainer, who)
    if folder.config_file.exists():
        _check_same(folder, config, checkpoint, trainer.network.get("architecture", ""), who)
        return folder
    folder = RunFolder.create(out, config, made_by(trainer))
    write_checkpoint(folder.checkpoint(), checkpoint)
    with folder.recording() as recorder:
        dials = (config.tau, config.epsilon, config.learning_rate)
        recorder.write(RunStarted(list(trainer.splits.class_names), trainer.steps_per_epoch, 0, *dials))
        recorder.write(RunFinished(0, "done"))
    return folder


def _checkpoint(trainer: Trainer, who: str) -> Checkpoint:
    """Return the network at step 0 with a note on its origin; raises CheckpointError if it is not finite."""
    config, splits = trainer.config, trainer.splits
    checkpoint = to_checkpoint(trainer)
    for name, tensor in checkpoint.tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{who} is not finite in {name.removeprefix('model.')}. Choose other weights.")
    said = f"{who} was trained elsewhere: the training settings of its run folder are not its own."
    if not splits.own_test and not _trained_on_this_split(config):
        said += (
            f" {splits.name} has no test images of its own: the ones here are cut out by split_seed={config.split_seed}, and "
            f"{who} may have learned from them."
        )
    return replace(checkpoint, header={**checkpoint.header, "adopted": said})


def _trained_on_this_split(config: Config) -> bool:
    """Return whether a run of ours with the same split made the weights: its test images are unseen."""
    if not config.base or is_foreign(base_file(config)):
        return False
    header = read_checkpoint(base_file(config)).header
    return "adopted" not in header and split_of(header["source"]) == split_of(source_of(config))


def _check_same(folder: RunFolder, config: Config, checkpoint: Checkpoint, architecture: str, who: str) -> None:
    """Raise RunFolderError unless `folder` holds the same weights, adopted with the same settings."""
    stored = read_checkpoint(folder.checkpoint())
    if "adopted" not in stored.header:
        raise RunFolderError(f"{folder.path} already holds a run that was trained there. Name another folder for {who}.")
    before = folder.config()
    differing = [
        f"{name} is {getattr(before, name)!r} there, {getattr(config, name)!r} here"
        for name in _ALIKE
        if getattr(before, name) != getattr(config, name)
    ]
    if tensors_sha256(checkpoint.part("model")) != tensors_sha256(delivered(stored)):
        differing.append(f"its weights are not those of {who}")
    elif folder.versions().get("architecture", architecture) != architecture:
        differing.append(f"the architecture is not that of {who}")
    if differing:
        raise RunFolderError(f"{folder.path} already holds another model: {'; '.join(differing)}. Name another folder.")


@dataclass(frozen=True)
class _Candidate:
    """A model to adopt: the word that names it, its known settings, and a name for its folder."""

    word: str
    settings: dict[str, Any]
    stem: str


def run_folders(
    words: Sequence[str],
    stated: Mapping[str, Any],
    *,
    attacks: Sequence[str],
    images: int | None = None,
    out: str | Path | None = None,
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Return the run folders that `words` name; adopt the words that name other models.

    A model is adopted into `out`, or into a free name in runs/. `stated` are settings for it (of ADOPTION_SETTINGS, epsilon or
    device); a run folder has its own. `say` reports each adoption. All words, and the settings that `attacks` need, are checked
    before the first adoption. Raises ConfigError, RunFolderError, and the errors of `adopt`.
    """
    found = [_named(word) for word in dict.fromkeys(words)]
    candidates = [c for c in found if isinstance(c, _Candidate)]
    given = [name for name in stated if name in (*ADOPTION_SETTINGS, "base_checkpoint")]
    if not candidates and (given or out):
        names = ", ".join(f"--{name.replace('_', '-')}" for name in [*given, *(["out"] if out else [])])
        raise ConfigError(f"{names}: for models that are not run folders. {words[0]} is one and keeps its own; leave that out.")
    if out and len(candidates) > 1:
        raise ConfigError(
            f"--out names one folder, and {len(candidates)} models need one each. Leave it out, or take them one by one."
        )
    files = any("base" in c.settings for c in candidates)
    configs = [_config(c, stated, files, attacks) for c in candidates]
    adopted: dict[str, Path] = {}
    for candidate, config in zip(candidates, configs, strict=True):
        path = adopt(config, out or free_name("runs", candidate.stem), images=images).path
        say(f"{candidate.word} is the run folder {path} from now on: evaluate, compare or fine-tune that.")
        adopted[candidate.word] = path
    return [adopted[entry.word] if isinstance(entry, _Candidate) else entry for entry in found]


def _named(word: str) -> Path | _Candidate:
    """Resolve a word to a run folder, or to a model to adopt."""
    path = Path(word).expanduser()
    if path.is_dir():
        return RunFolder.open(path).path
    if path.is_file():
        stem = f"{path.resolve().parent.name}-{path.stem}" if path.stem in ("last", "best") else path.stem
        return _Candidate(word, {**({} if is_foreign(path) else _known_of(path)), "base": str(path)}, stem)
    if PATH_FORM.fullmatch(word):
        return _Candidate(word, {"model": word}, word.partition(":")[2])
    raise RunFolderError(
        f"{word} is not a run folder, nor a checkpoint file that is there, nor of the form {ZOO}NAME or module:callable."
    )


def _known_of(file: Path) -> dict[str, Any]:
    """Return the known settings of one of our checkpoints: from its run folder, else from its header."""
    checkpoint = read_checkpoint(file)
    spec, source = spec_of(checkpoint), checkpoint.header["source"]
    if spec.name not in MODELS and ":" not in spec.name:
        raise CheckpointError(
            f"{file} is of a network of its own ({spec.name}), which no name stands for. In Python: "
            "fl.adopt(config, out, model=...)"
        )
    if (file.parent / "config.json").is_file():
        config = RunFolder.open(file.parent).config()
        return {name: getattr(config, name) for name in (*ADOPTION_SETTINGS, "epsilon")}
    known = {"model": spec.name, "filters": spec.filters, **{n: source[n] for n in ("data", "data_dir", "split_seed")}}
    square = spec.height == spec.width and source["data"] != "digits"
    return {**known, "image_size": spec.height if square else 0}


def _config(candidate: _Candidate, stated: Mapping[str, Any], files: bool, attacks: Sequence[str]) -> Config:
    """Return a candidate's settings, stated or else known; raises ConfigError where one is missing."""
    word, known = candidate.word, candidate.settings
    if "base" not in known:  # the word is a network itself: --model is for files of weights
        named = [name for name in ("model", "filters") if name in stated]
        if named and not files:
            raise ConfigError(f"--{named[0]} is for a file of weights, and {word} is a network already. Leave it out.")
        stated = {name: value for name, value in stated.items() if name not in named}
    settings = {**known, **stated}
    if "model" not in settings:
        raise ConfigError(
            f"{word} holds weights alone. Name their network by --model: {', '.join(MODELS)}, or module:callable such as "
            "torchvision.models:resnet18."
        )
    if "data" not in settings:
        raise ConfigError(f"Name the images to try {word} on by --data: {', '.join(DATA_SETS)}.")
    if set(attacks) != {"clean"} and settings.get("epsilon", 0) <= 0:
        got = f", got {settings['epsilon']}" if "epsilon" in settings else ""
        raise ConfigError(
            f"Name the radius to attack {word} at by --epsilon, above 0{got}: in pixels of [0, 1], so that 8/255, usual for "
            "CIFAR, is 0.03137. For clean accuracy alone name the attack clean."
        )
    return Config.from_mapping({"epsilon": 0.0, **settings})
