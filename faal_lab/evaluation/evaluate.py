"""Evaluate a run on its test images, and keep the verdicts in its folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import nn

from faal_lab.catalogue import ATTACKS, DEFAULT_ATTACKS
from faal_lab.data.images import Images, Splits, stratified
from faal_lab.errors import ConfigError, check_name
from faal_lab.evaluation import suite
from faal_lab.evaluation.adopt import run_folders
from faal_lab.evaluation.autoattack import autoattack_note
from faal_lab.evaluation.masking import between
from faal_lab.evaluation.suite import Manner, Progress
from faal_lab.evaluation.verdicts import Verdicts, VerdictsError
from faal_lab.models.build import device_of, frozen
from faal_lab.models.examine import architecture_sha256
from faal_lab.models.fast import compiled, memory_kept, try_to_compile
from faal_lab.models.layout import placed
from faal_lab.runs import Heartbeat, RunFolder, RunLocked, by_name, read_checkpoint
from faal_lab.runs.config import check_dial
from faal_lab.runs.events import Evaluated
from faal_lab.runs.files import locked, replace_file, tensors_sha256, versions
from faal_lab.runs.progress import share_bar
from faal_lab.training.parameters import listed
from faal_lab.training.restore import check_recorded, delivered, load_model
from faal_lab.training.run import load_data

Runs = str | os.PathLike[str]  # a run, the path of its folder, or "name=path" to give it another name


def evaluate(
    runs: Runs | Iterable[Runs], attacks: str | Sequence[str] = DEFAULT_ATTACKS, *, checkpoint: str = "last",
    epsilon: float | None = None, images: int | None = None, classes: str | Sequence[str] = (), model: str | nn.Module = "",
    out: str | os.PathLike[str] | None = None, quiet: bool = False, compile: bool = False, device: str = "auto",
    mode: str = "per-image", part: tuple[int, int] = (0, 1), say: Callable[[str], None] = print, **settings: Any,
) -> dict[str, Verdicts]:  # fmt: skip
    """Attack the test images of runs, and keep the verdicts in their folders.

    Args:
        runs: one or several; also checkpoint files, "robustbench:NAME" and "module:callable", which become run folders first.
        attacks: names of the catalogue, comma-separated or listed; default clean, pgd-20, cw-20 and autoattack.
        checkpoint: "last" (default), or "best" (by validation).
        epsilon: the radius (default: each run's own; models from elsewhere need one).
        images: take only so many test images, spread over the classes (default: all).
        classes: attack only the images of these classes (default: all).
        model: for a run of a network of your own, an object of the same kind; for a file of weights, its network's name.
        out: the run folder of a model from elsewhere (default: a free name in runs/).
        quiet: show no bar; default False.
        compile: run ResNets by torch.compile, for long attacks; default False.
        device: auto (default), cpu, cuda, cuda:1, mps.
        mode: AutoAttack's noise: per-image (default), or compat (upstream's own).
        part: (i, n): make the i-th of n parts of AutoAttack's batches, counted from 0; part 0 writes the verdicts.
        say: reports the models that became run folders; default `print`.
        settings: of models from elsewhere: data, data_dir, normalization, ...

    Returns:
        Verdicts by the runs' names.

    Raises:
        UnknownName: there is no such attack.
        ConfigError: a model from elsewhere lacks a setting, or an argument is for run folders only.
        RunFolderError: there is no such run or file.

    >>> import faal_lab as fl
    >>> run = fl.train(out="runs/tiny", epochs=1, batch_size=250, attack_steps=1, quiet=True)
    >>> verdicts = fl.evaluate(run, "clean,pgd-20", images=20, quiet=True)
    >>> list(verdicts["tiny"].survived)
    ['clean', 'pgd-20']
    """
    chosen = tuple(listed(attacks)) if isinstance(attacks, str) else tuple(attacks)
    for name in chosen:
        check_name("attack", name, ATTACKS)
    only = tuple(listed(classes)) if isinstance(classes, str) and classes else tuple(classes)
    words = [os.fspath(run) for run in ([runs] if isinstance(runs, (str, os.PathLike)) else runs)]
    strange = [word for word in words if not Path(word).expanduser().is_dir()]
    if strange and (checkpoint == "best" or part[1] > 1):
        raise ConfigError(f"--checkpoint best and --part are for run folders, and {strange[0]} is none.")
    network, named = (None, {"model": model} if model else {}) if isinstance(model, str) else (model, {})
    known = {**settings, **named, "device": device, **({} if epsilon is None else {"epsilon": epsilon})}
    folders = run_folders(words, known, attacks=chosen, images=images, out=None if out is None else Path(out), say=say)
    found = {}
    for name, folder in by_name(folders).items():
        with nullcontext() if quiet else share_bar(f"evaluate {folder.name}") as progress:
            found[name] = evaluate_run(
                folder, checkpoint=checkpoint, attacks=chosen, images=images, classes=only, epsilon=epsilon, model=network,
                device=device, mode=mode, part=part[0], parts=part[1], compile=compile, progress=progress,
            )  # fmt: skip
    return found


def evaluate_run(
    run_folder: str | Path,
    *,
    checkpoint: str = "last",
    attacks: tuple[str, ...] = DEFAULT_ATTACKS,
    epsilon: float | None = None,
    images: int | None = None,
    classes: tuple[str, ...] = (),
    model: nn.Module | None = None,
    device: str = "auto",
    mode: str = "per-image",
    part: int = 0,
    parts: int = 1,
    compile: bool = False,
    progress: Progress | None = None,
) -> Verdicts:
    """Evaluate a run on its test images, and keep the verdicts in its folder.

    The run records that its test images were opened. Verdicts of other attacks on the same weights, images and radius stay beside
    the new ones. `epsilon` is the run's own by default. `images` takes that many test images, spread over the classes. `classes`
    takes only images of these classes; the verdicts get a file of their own, since an average of some classes is another number.
    `model` is for a run whose network was passed as an object; it gets the run's weights. `progress` receives the activity and
    the share done. A killed evaluation resumes from the finished batches, which the folder keeps. Several processes may
    each compute a `part` of `parts`; the first one writes the verdicts. `compile` runs a ResNet's passes by torch.compile (see
    `try_to_compile`), worth its half minute in long attacks. Raises RunLocked while the run is still written to.
    """
    folder = RunFolder.open(run_folder)
    model, config, stored = load_model(folder.path, checkpoint, model)
    where = device_of(device)
    splits = load_data(config)
    test, notes = splits.test, [stored.header[kind] for kind in ("adopted", "balanced") if kind in stored.header]
    kept, given = folder.versions().get("architecture", ""), architecture_sha256(model)
    if kept and given != kept:
        notes.append("The network's architecture, or the source of its classes, is another than this run folder was made with.")
    if classes:
        wanted = sorted({splits.class_names.index(check_name("class", name, splits.class_names)) for name in classes})
        classes = tuple(splits.class_names[c] for c in wanted)
        test = test.part(torch.isin(test.labels, torch.tensor(wanted)).nonzero().flatten())
    if images is not None:
        test = test.part(stratified(test.labels, images, splits.num_classes))
    if len(test) < len(splits.test):
        notes.append(_said_of(test, splits))
    quick, not_compiled = try_to_compile(placed(model, where), config.model, test.pixels.shape[1:]) if compile else (None, "")
    radius = config.epsilon if epsilon is None else check_dial("epsilon", float(epsilon), config)
    header = {
        "data": splits.name, "split": "test", "checkpoint": checkpoint, "step": stored.header["step"],
        "versions": versions() | ({"compile": not_compiled} if not_compiled else {}),
        "weights_sha256": tensors_sha256(delivered(stored)), "selected_on_test": stored.header.get("selected_on_test", False),
        "images": images, **({"classes": list(classes)} if classes else {}), **({"compiled": True} if quick else {}),
    }  # fmt: skip
    now = ("evaluating", 0.0)

    def hear(what: str, share: float) -> None:
        nonlocal now
        now = (what, share)
        if progress is not None:
            progress(what, share)

    other = RunLocked(f"Another process makes part {part + 1} of {parts} of {folder.path}. Give this one another part.")
    lock = folder.path / f".part-{part + 1}-of-{parts}.lock"
    beat = Heartbeat(folder.path, lambda: now) if part == 0 else locked(lock, other)
    with memory_kept(), beat, frozen(model), compiled(model, quick):
        verdicts = suite.evaluate(
            placed(model, where), test.to(where), splits.class_names, epsilon=radius, norm=config.norm,
            attacks=attacks, seed=config.seed, header=header, progress=hear,
            manner=Manner(mode=mode, folder=folder.path, part=part, parts=parts),
        )  # fmt: skip
        aside, kept = None, verdicts
        if part == 0:
            aside, kept = _keep(folder, checkpoint, radius, verdicts, notes)
        about = {"findings": kept.header["findings"]} if "findings" in kept.header else {}
        verdicts = _noted(replace(verdicts, header=verdicts.header | about), [*notes, *([aside] if aside else [])])
        now = ("ended", 1.0)
    return verdicts


def read_verdicts(path: str | Path, checkpoint: str = "last") -> Verdicts:
    """Read the verdicts on a run's test images.

    Raises RunFolderError or VerdictsError where they are missing, or were measured on other weights.
    """
    folder = RunFolder.open(path)
    file, weights = folder.verdicts_file(checkpoint), folder.checkpoint(checkpoint)
    verdicts = Verdicts.read(file)
    measured = verdicts.header.get("weights_sha256")
    if measured and weights.is_file():
        held = read_checkpoint(weights)
        check_recorded(folder, held)
        if tensors_sha256(delivered(held)) != measured:
            raise VerdictsError(
                f"{file} was measured on other weights than {weights.name} holds: the run went on since, or the file is another "
                f"run's. Evaluate again: faal-lab evaluate {path} --checkpoint {checkpoint}"
            )
    return verdicts


def _said_of(some: Images, splits: Splits) -> str:
    """State the part of the test images that `some` is."""
    counts = torch.bincount(some.labels, minlength=splits.num_classes)
    least, most = int(counts[counts > 0].min()), int(counts.max())
    each = f"{least}" if least == most else f"{least} to {most}"
    left = [name for name, count in zip(splits.class_names, counts.tolist(), strict=True) if count]
    all_there = len(left) == len(splits.test.labels.unique())
    alone = "" if all_there else f" Of {', '.join(left)} alone: average, worst class and gap are theirs."
    return f"On {len(some)} of the {len(splits.test)} test images, {each} of each class, the same for every model.{alone}"


def _noted(verdicts: Verdicts, notes: list[str]) -> Verdicts:
    """Put all notes on the verdicts into the `note` of their header."""
    said = [*notes, autoattack_note(len(verdicts.class_names)) if "autoattack" in verdicts.predicted else None]
    note = {"note": " ".join(filter(None, said))} if any(said) else {}
    return replace(verdicts, header={**verdicts.header, **note})


def _keep(folder: RunFolder, checkpoint: str, radius: float, verdicts: Verdicts, notes: list[str]) -> tuple[str | None, Verdicts]:
    """Write the verdicts, joined to those measured alike; record that the test images were opened.

    Earlier verdicts that were measured otherwise are put aside. Returns a sentence with their place, or None, and the verdicts as
    written.
    """
    file, kept, aside = folder.verdicts_file(checkpoint, verdicts.header.get("classes", ())), verdicts, None
    if file.exists():
        with suppress(VerdictsError):  # damaged, or of an older format: nothing to join
            kept = verdicts.joined(Verdicts.read(file))
        if kept is verdicts:
            aside = f"Earlier verdicts, measured otherwise, are kept as {_put_aside(file)}."
    kept = _noted(_compared(kept), notes)
    replace_file(file, kept.to_bytes())
    for pieces in folder.path.glob(f"{suite.PIECES}-*"):
        shutil.rmtree(pieces, ignore_errors=True)
    counts = {name: verdicts.counts(name)[0].tolist() for name in verdicts.survived}
    total = verdicts.counts(next(iter(verdicts.survived)))[1].tolist()
    with folder.recording() as recorder:
        recorder.write(Evaluated(checkpoint, radius, total, counts))
    return aside, kept


def _put_aside(file: Path) -> str:
    """Rename a verdict file to the first free name; return that name."""
    taken = {path.name for path in file.parent.glob("earlier-*")}
    name = next(name for n in count(1) if (name := f"earlier-{n}-{file.name}") not in taken)
    file.rename(file.with_name(name))
    return name


def _compared(verdicts: Verdicts) -> Verdicts:
    """Add the findings between attacks of joined verdicts, which neither evaluation could see alone."""
    if "findings" not in verdicts.header:
        return verdicts
    said = [*verdicts.header["findings"], *(finding.sentence() for finding in between(verdicts))]
    return replace(verdicts, header=verdicts.header | {"findings": list(dict.fromkeys(said))})
