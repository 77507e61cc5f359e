"""Train, steer, evaluate, compare and show in one line each: the functions behind `import faal_lab as fl`.

Wherever a function takes runs, a run is a `Run`, the path of its folder, or "name=path" to give it another name.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faal_lab.catalogue import AMBIGUITY_SETS, ATTACKS, DEFAULT_ATTACKS
from faal_lab.errors import ConfigError, check_name
from faal_lab.evaluation.adopt import run_folders
from faal_lab.evaluation.evaluate import evaluate_run, read_verdicts
from faal_lab.evaluation.groups import grouped
from faal_lab.evaluation.verdicts import Verdicts
from faal_lab.methods.presets import preset_settings
from faal_lab.methods.recipe import Recipe
from faal_lab.results import check as demands
from faal_lab.results import formats, tables
from faal_lab.results.export import export_run
from faal_lab.results.plot import Runs, groups_of, reported
from faal_lab.results.published import read_paper
from faal_lab.results.report import headlines, write_report
from faal_lab.runs import RunFolder, by_name, free_name
from faal_lab.runs.config import Config, check_dial
from faal_lab.runs.events import Command, Event
from faal_lab.runs.export import history_table
from faal_lab.runs.progress import share_bar, shown
from faal_lab.training.parameters import based_on, check_used, listed, run_name
from faal_lab.training.restore import load_model
from faal_lab.training.run import load_data
from faal_lab.training.run import run as steps

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from faal_lab.data.images import Splits
    from faal_lab.dro import WorstCase

__all__ = [
    "Run", "check", "compare", "evaluate", "open_run", "report", "solve", "steps", "table", "train",
]  # fmt: skip


class Run(os.PathLike[str]):
    """A run by its folder: what it is, what it does, what came of it. Works on runs of any process, running or long over.

    >>> import faal_lab as fl
    >>> run = fl.open_run("notebooks/recorded/control")
    >>> run.status, run.config.objective
    ('done', 'at')
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._folder = RunFolder.open(Path(path))
        self.path = self._folder.path

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}, {self.status})"

    @property
    def config(self) -> Config:
        """All settings of the run."""
        return self._folder.config()

    @property
    def status(self) -> str:
        """What the run does: waiting, training, paused, ..., done, stopped, failed, or lost."""
        return self._folder.status()

    @property
    def events(self) -> list[Event]:
        """Everything the run reported; what a resume undid is left out."""
        return self._folder.events()

    @property
    def history(self) -> pd.DataFrame:
        """One row per step: loss, dials, and per class weight, margin, count and correct images."""
        return history_table(self.path)

    def turn(self, **dials: float) -> None:
        """Turn tau, epsilon, learning_rate or fairness_on from the next batch on: `run.turn(tau=0.7)`.

        Raises UnknownName or ConfigError, and then turns nothing.
        """
        config = self.config
        for command in [Command("turn", name, check_dial(name, value, config)) for name, value in dials.items()]:
            self._folder.send(command)

    def pause(self) -> None:
        """Stop before the next attack step, until `resume`."""
        self._folder.send(Command("pause"))

    def resume(self) -> None:
        """Continue after a pause."""
        self._folder.send(Command("resume"))

    def stop(self) -> None:
        """End the run in order: its state is saved, and `train(out=..., resume=True)` continues it."""
        self._folder.send(Command("stop"))

    def data(self) -> Splits:
        """Load the run's images: .train, .validation, .test. Opening the test images is for `evaluate`."""
        return load_data(self.config)

    def verdicts(self, checkpoint: str = "last") -> Verdicts:
        """Return what each test image was taken for; raises VerdictsError where the run was not evaluated."""
        return read_verdicts(self.path, checkpoint)

    def model(self, checkpoint: str = "last", network: nn.Module | None = None) -> nn.Module:
        """Return the trained network on the CPU, in evaluation mode.

        Args:
            checkpoint: last, or best (by validation).
            network: for a run of a network of your own, an object of the same kind.
        """
        return load_model(self.path, checkpoint, network)[0]

    def export(
        self, to: str, out: str | os.PathLike[str], *, checkpoint: str = "last", force: bool = False,
        network: nn.Module | None = None, say: Callable[[str], None] = print,
    ) -> Path:  # fmt: skip
        """Write the history or the weights for other tools; return the path.

        Args:
            to: tensorboard, csv or parquet (folders of the history); safetensors, state_dict or robustbench (files of the
                weights), or timm (a folder of the weights).
            out: the file or folder, which is missing or empty.
            checkpoint: whose weights and verdicts: last, or best (by validation).
            force: replace an earlier export.
            network: as for `model`.
            say: what reports the files and values left out.
        """
        say(export_run(self.path, to, Path(out), checkpoint, force, network))
        return Path(out)


def open_run(path: str | os.PathLike[str]) -> Run:
    """Return the run in a folder; raises RunFolderError where there is none."""
    return Run(path)


def train(
    config: Config | None = None, *, out: str | os.PathLike[str] | None = None, base: Runs | None = None,
    recipe: str | Recipe = "", protocol: str = "", model: str | nn.Module = "", resume: bool = False, quiet: bool = False,
    **settings: Any,
) -> Run:  # fmt: skip
    """Train until the end, with a progress bar.

    Args:
        config: all settings at once; or give some of them by name.
        out: the run folder (default: a free name in runs/).
        base: a run or checkpoint file to fine-tune. Settings that are not given are then the base's, but for epochs (4),
            batch_size (50) and learning_rate (0.01).
        recipe: a method by its name, such as "faal-trades-awp", or a Recipe of your own parts.
        protocol: a paper's experiment by its name, such as "finetune-2ep".
        model: a network by its name, or an object of your own that takes pixels in [0, 1] and returns logits.
        resume: continue the interrupted run in `out`.
        quiet: show no bar.
        settings: any setting of Config, such as fairness="faal", tau=0.5.

    Returns:
        The finished run.

    Raises:
        UnknownName, ConfigError: where a setting makes no sense; then nothing is written.
        RunFolderError: where `out` already holds a run.

    >>> import faal_lab as fl
    >>> run = fl.train(out="runs/small", epochs=1, batch_size=250, attack_steps=1, quiet=True)
    >>> run.status
    'done'
    """
    own, network = recipe if isinstance(recipe, Recipe) else None, None if isinstance(model, str) else model
    settings |= {"model": model} if isinstance(model, str) and model else {}
    if resume and config is None:
        if out is None or settings or base is not None or protocol or (recipe and own is None):
            raise ConfigError(
                "resume=True takes its settings from the run folder: give out, and nothing else but model and recipe."
            )
        config = RunFolder.open(Path(out)).config()
    elif config is None:
        stated = {**settings, **({} if base is None else {"base": os.fspath(base)})}
        named = preset_settings("" if own else str(recipe), protocol)
        config = based_on(stated.get("base", ""), {**named, **stated})
        check_used(config, stated)
    elif settings or base is not None or protocol or (recipe and own is None):
        raise ConfigError("config holds all settings: change it (dataclasses.replace), or give settings by name without it.")
    folder = Path(out) if out is not None else free_name("runs", run_name(config))
    for _ in shown(steps(config, folder, resume=resume, model=network, recipe=own), quiet):
        pass
    return Run(folder)


def evaluate(
    runs: Runs | Iterable[Runs], attacks: str | Sequence[str] = DEFAULT_ATTACKS, *, checkpoint: str = "last",
    epsilon: float | None = None, images: int | None = None, classes: str | Sequence[str] = (), model: str | nn.Module = "",
    out: str | os.PathLike[str] | None = None, quiet: bool = False, compile: bool = False, device: str = "auto",
    mode: str = "per-image", part: tuple[int, int] = (0, 1), say: Callable[[str], None] = print, **settings: Any,
) -> dict[str, Verdicts]:  # fmt: skip
    """Attack the test images of runs, and keep the verdicts in their folders.

    Args:
        runs: one or several; also checkpoint files, "robustbench:NAME" and "module:callable", which become run folders first.
        attacks: names of the catalogue, comma-separated or listed.
        checkpoint: last, or best (by validation).
        epsilon: the radius (default: each run's own; models from elsewhere need one).
        images: take only so many test images, spread over the classes.
        classes: attack only the images of these classes.
        model: for a run of a network of your own, an object of the same kind; for a file of weights, its network's name.
        out: the run folder of a model from elsewhere (default: a free name in runs/).
        quiet: show no bar.
        compile: run ResNets by torch.compile, for long attacks.
        device: auto, cpu, cuda, cuda:1, mps.
        mode: AutoAttack's noise: per-image, or compat (upstream's own).
        part: (i, n): make the i-th of n parts of AutoAttack's batches, counted from 0; part 0 writes the verdicts.
        say: what reports which models became run folders.
        settings: of models from elsewhere: data, data_dir, normalization, ...

    Returns:
        Verdicts by the runs' names.

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


def compare(
    *runs: Runs | Mapping[str, Verdicts] | Mapping[str, list[Verdicts]], attack: str = "", checkpoint: str = "last"
) -> tables.Comparisons | tables.Sentences:
    """Compare evaluated runs with the first one, paired on the same images.

    Args:
        runs: two or more, or what `evaluate` returned; groups of seeds as "runs/a-0,runs/a-1", "name=..." to name one, or as
            {name: [verdicts, ...]}.
        attack: default: the last one of the evaluation.
        checkpoint: which checkpoint's verdicts.

    Returns:
        Name -> Comparison: differences of average, worst class and each class, with intervals. Printed as sentences. Of groups
        of seeds only the sentences: mean differences over the seeds.
    """
    groups = groups_of(runs, checkpoint)
    if len(groups) < 2:
        raise ConfigError(f"compare needs at least two runs, got {next(iter(groups))} alone.")
    if any(len(group) > 1 for group in groups.values()):
        return tables.Sentences(tables.seed_sentences(groups, attack))
    return tables.Comparisons(tables.comparisons({name: group[0] for name, group in groups.items()}, attack))


def table(
    *runs: Runs | Mapping[str, Verdicts] | Mapping[str, list[Verdicts]], kind: str = "results", attack: str = "",
    checkpoint: str = "last", paper: Sequence[str] = (),
) -> pd.DataFrame:  # fmt: skip
    """Return numbers of runs as a DataFrame that shows itself with intervals.

    Args:
        runs: evaluated runs, or what `evaluate` returned; groups of seeds as of `compare` give means over them, and the
            inequality of their first seed. For "times" finished runs.
        kind: "results" (average and worst class of each attack, in percent with 95 % intervals), "inequality" (how unequal the
            classes are under one attack), or "times" (minutes an epoch, and what the method asks for).
        attack: only this one (default: all; for "inequality" the last one).
        checkpoint: which checkpoint's verdicts.
        paper: for "times": a paper's minutes, as name=2.63.
    """
    check_name("kind of table", kind, ("results", "inequality", "times"))
    if kind == "times":
        folders = grouped(os.fspath(run) for run in runs if not isinstance(run, Mapping))
        rows = tables.time_rows({name: paths[0] for name, paths in folders.items()}, tables.minutes_of(paper))
        return formats.ResultTable.of(rows, formats.times_table(rows), ["run"])
    groups = groups_of(runs, checkpoint)
    if attack:
        for group in groups.values():
            check_name("attack", attack, group[0].survived)
    if kind == "inequality":
        rows = tables.spread_rows(tables.marked({name: group[0] for name, group in groups.items()}), attack)
        return formats.ResultTable.of(rows, formats.inequality_table(rows), ["run", "attack"])
    rows = [row for row in tables.group_rows(groups) if attack in ("", row["attack"])]
    said = tables.notes(
        {f"{name} {n}" if len(group) > 1 else name: v for name, group in groups.items() for n, v in enumerate(group, 1)}
    )
    return formats.ResultTable.of(rows, formats.result_table(rows, said), ["run", "attack"])


def report(
    *runs: Runs, out: str | os.PathLike[str] = "report.html", title: str = "Class-wise robustness",
    paper: str | os.PathLike[str] | None = None, checkpoint: str = "last",
) -> Path:  # fmt: skip
    """Write one HTML page on evaluated runs that opens offline, and its tables as CSV, LaTeX and Markdown. Print its headlines.

    Args:
        runs: evaluated runs; the first is what the others are held against.
        out: the page; its tables get its name.
        title: the page's title.
        paper: a YAML or JSON file of a paper's numbers, to stand beside ours.
        checkpoint: which checkpoint's verdicts.

    Returns:
        The page's path.
    """
    beside = read_paper(Path(paper)) if paper else None
    found = reported(runs, checkpoint)
    page = write_report(found, Path(out), title, beside)
    print(*headlines(found), sep="\n")
    return page


def check(
    *runs: Runs, worst: float | None = None, average: float | None = None, baseline: Runs | None = None, sure: bool = False,
    accept_findings: bool = False, attack: str = "", checkpoint: str = "last", junit: str | os.PathLike[str] | None = None,
) -> bool:  # fmt: skip
    """Hold evaluated runs to demands by their intervals, print each answer, and return whether all hold.

    Args:
        runs: evaluated runs.
        worst: percent: fail where the worst class is shown to be lower.
        average: percent: fail where the average is shown to be lower.
        baseline: fail where either is shown to be lower than this run's.
        sure: fail also where an interval contains the minimum.
        accept_findings: let pass signs of masked gradients, and chance in the model.
        attack: default: the last one of the evaluation.
        checkpoint: which checkpoint's verdicts.
        junit: write the answers as JUnit XML to this file, too.
    """
    held = None if baseline is None else os.fspath(baseline)
    asked = demands.Demands(worst, average, held, sure=sure, accept_findings=accept_findings)
    found = demands.check([os.fspath(run) for run in runs], asked, attack, checkpoint)
    print("\n".join(demands.lines(found)))
    if junit is not None:
        demands.write_junit(found, Path(junit))
    return demands.met(found)


def solve(
    scores: Any, tau: float = 0.5, *, ambiguity: str = "kl", reference: Any = None, present: Any = None
) -> WorstCase:  # fmt: skip
    """Find the worst class distribution within radius `tau` of a reference: FAAL's middle problem by itself.

    Args:
        scores: how badly each class does, [..., C]; higher is worse.
        tau: radius of the set.
        ambiguity: which set, a name of the catalogue; kl is the paper's.
        reference: its centre [C] (default: uniform).
        present: which classes take part, bool [..., C] (default: all).

    Returns:
        weights [..., C] on the simplex, the worst expected score [...], and how far the weights are from the reference [...].

    >>> import faal_lab as fl
    >>> fl.solve([0.9, 0.2, -0.3], tau=0.5).weights.round(decimals=3)
    tensor([0.7900, 0.1290, 0.0810], dtype=torch.float64)
    """
    import torch

    ball = AMBIGUITY_SETS[check_name("ambiguity set", ambiguity, AMBIGUITY_SETS)].make()
    centre, mask = (None if value is None else torch.as_tensor(value) for value in (reference, present))
    return ball.worst_case(torch.as_tensor(scores, dtype=torch.float64), tau, centre, mask)
