"""Train, steer and check runs in one line each: functions behind `import faal_lab as fl`.

Wherever a function takes runs, a run is a `Run`, the path of its folder, or "name=path" to give it another name.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faal_lab.data.arrays import keep_arrays
from faal_lab.errors import ConfigError
from faal_lab.evaluation.balance import IMAGES, balanced
from faal_lab.evaluation.evaluate import Runs, read_verdicts
from faal_lab.evaluation.verdicts import Verdicts
from faal_lab.methods.presets import preset_settings
from faal_lab.methods.recipe import Recipe
from faal_lab.results.export import export_run
from faal_lab.runs import RunFolder, free_name
from faal_lab.runs.config import Config, check_dial
from faal_lab.runs.events import Command, Event
from faal_lab.runs.export import history_table
from faal_lab.runs.progress import shown
from faal_lab.training.background import LiveRun
from faal_lab.training.parameters import based_on, check_used, run_name
from faal_lab.training.restore import load_model
from faal_lab.training.run import OWN_PARTS, load_data, part_names
from faal_lab.training.run import run as steps

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

    from faal_lab.data.images import Splits

__all__ = ["Run", "balance", "open_run", "steps", "train"]


class Run(os.PathLike[str]):
    """Read and steer a run by its folder, whichever process trains it.

    Args:
        path: the run folder of a run that waits, trains or has ended.

    Raises:
        RunFolderError: the folder holds no run.

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
        """Return all settings of the run.

        Returns:
            The settings, frozen.

        >>> import faal_lab as fl
        >>> fl.open_run("notebooks/recorded/faal-steered").config.fairness
        'faal'
        """
        return self._folder.config()

    @property
    def status(self) -> str:
        """Return the state of the run.

        Returns:
            "waiting", "training" or another activity, "paused", "done", "stopped", "failed" or "lost" (its process is gone).

        >>> import faal_lab as fl
        >>> fl.open_run("notebooks/recorded/control").status
        'done'
        """
        return self._folder.status()

    @property
    def events(self) -> list[Event]:
        """Return all events of the run; those that a resume undid are left out.

        Returns:
            The events in order, such as `StepDone` and `EpochDone`.

        >>> import faal_lab as fl
        >>> events = fl.open_run("notebooks/recorded/control").events
        >>> events[0].steps_per_epoch, events[-1].correct["autoattack"][8]  # of class 8, 24 images withstand AutoAttack
        (20, 24)
        """
        return self._folder.events()

    @property
    def history(self) -> pd.DataFrame:
        """Return one row per step.

        Returns:
            Columns: loss and dials; for each class its weight, margin, count and correct images, such as `weights[8]`.

        >>> import faal_lab as fl
        >>> history = fl.open_run("notebooks/recorded/faal-steered").history
        >>> history.filter(like="weights").mean().idxmax()  # the heaviest class of the run
        'weights[8]'
        """
        return history_table(self.path)

    def turn(self, **dials: float) -> None:
        """Turn dials from the next batch on.

        Args:
            dials: tau, epsilon, learning_rate or fairness_on (1 or 0), each with its new value.

        Raises:
            UnknownName: there is no such dial; then nothing is turned.
            ConfigError: the run cannot take a value; then nothing is turned.

        >>> import faal_lab as fl
        >>> events = fl.steps(fl.Config(fairness="faal", batch_size=250), "runs/turned")
        >>> started = next(events)
        >>> fl.open_run("runs/turned").turn(tau=0.7)
        >>> next(events)
        DialTurned(step=0, dial='tau', old=0.5, new=0.7)
        """
        config = self.config
        for command in [Command("turn", name, check_dial(name, value, config)) for name, value in dials.items()]:
            self._folder.send(command)

    def pause(self) -> None:
        """Stop before the next attack step, until `resume`.

        >>> import faal_lab as fl
        >>> events = fl.steps(fl.Config(batch_size=250), "runs/paused")
        >>> started = next(events)
        >>> fl.open_run("runs/paused").pause()  # from another cell or process: here, next(events) would wait for `resume`
        """
        self._folder.send(Command("pause"))

    def resume(self) -> None:
        """Continue after a pause.

        >>> import faal_lab as fl
        >>> events = fl.steps(fl.Config(batch_size=250, attack_steps=1), "runs/resumed")
        >>> started, run = next(events), fl.open_run("runs/resumed")
        >>> run.pause()
        >>> run.resume()
        >>> next(events).step
        1
        """
        self._folder.send(Command("resume"))

    def stop(self) -> None:
        """End the run and save its state; `train(out=..., resume=True)` continues it.

        >>> import faal_lab as fl
        >>> events = fl.steps(fl.Config(batch_size=250), "runs/stopped")
        >>> started = next(events)
        >>> fl.open_run("runs/stopped").stop()
        >>> next(events)
        RunFinished(step=0, reason='stopped')
        """
        self._folder.send(Command("stop"))

    def data(self) -> Splits:
        """Load the run's images. Opening the test images is for `evaluate`.

        Returns:
            The parts .train, .validation and .test; each has .pixels, uint8 [N, channels, H, W], and .labels [N].

        >>> import faal_lab as fl
        >>> len(fl.open_run("notebooks/recorded/control").data().train)
        1000
        """
        return load_data(self.config)

    def verdicts(self, checkpoint: str = "last") -> Verdicts:
        """Return the predicted class of each test image under each attack.

        Args:
            checkpoint: "last" (default), or "best" (by validation).

        Returns:
            The verdicts of the latest evaluation.

        Raises:
            VerdictsError: the checkpoint was not evaluated, or its weights have changed since.

        >>> import faal_lab as fl
        >>> verdicts = fl.open_run("notebooks/recorded/control").verdicts()
        >>> survived, images = verdicts.counts("autoattack")  # of each class
        >>> int(survived[8]), int(images[8])
        (24, 58)
        """
        return read_verdicts(self.path, checkpoint)

    def model(self, checkpoint: str = "last", network: nn.Module | None = None) -> nn.Module:
        """Return the trained network on the CPU, in evaluation mode.

        Args:
            checkpoint: "last" (default), or "best" (by validation).
            network: for a run of a network of your own, an object of the same kind; default None.

        Returns:
            A module that takes pixels in [0, 1] and returns logits [B, C].

        >>> import torch
        >>> import faal_lab as fl
        >>> fl.open_run("notebooks/recorded/control").model()(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
        """
        return load_model(self.path, checkpoint, network)[0]

    def export(
        self, to: str, out: str | os.PathLike[str], *, checkpoint: str = "last", force: bool = False,
        network: nn.Module | None = None, say: Callable[[str], None] = print,
    ) -> Path:  # fmt: skip
        """Write the history or the weights for other tools; return the path.

        Args:
            to: replay (a page that plays the run); tensorboard, csv or parquet (folders of the history); safetensors,
                state_dict, robustbench or torchattacks (files of the weights), or timm (a folder of the weights).
            out: the file or folder, which is missing or empty.
            checkpoint: whose weights and verdicts: last, or best (by validation).
            force: replace an earlier export.
            network: as for `model`.
            say: what reports the files and values left out.

        Returns:
            `out`, as a path.

        Raises:
            UnknownName: there is no such format.
            RunFolderError: `out` is in use, or the run cannot be read.

        >>> import faal_lab as fl
        >>> run = fl.open_run("notebooks/recorded/control")
        >>> sorted(file.name for file in run.export("csv", "tables", say=lambda text: None).iterdir())
        ['epochs.csv', 'history.csv', 'test.csv']
        """
        if to == "replay":
            from faal_lab.widgets.panels import write_replay

            say(write_replay(self.path, Path(out), force))
        else:
            say(export_run(self.path, to, Path(out), checkpoint, force, network))
        return Path(out)


def open_run(path: str | os.PathLike[str]) -> Run:
    """Return the run in a folder.

    Args:
        path: the run folder; its run may be active, in any process.

    Returns:
        The run, to read and to steer.

    Raises:
        RunFolderError: the folder holds no run.

    >>> import faal_lab as fl
    >>> fl.open_run("notebooks/recorded/control")
    Run('notebooks/recorded/control', done)
    """
    return Run(path)


def train(
    config: Config | None = None, *, out: str | os.PathLike[str] | None = None, base: Runs | None = None,
    recipe: str | Recipe = "", protocol: str = "", model: str | nn.Module = "", resume: bool = False, quiet: bool = False,
    processes: int = 1, **settings: Any,
) -> Run:  # fmt: skip
    """Train until the end, with a progress bar.

    Args:
        config: all settings at once; default None: give some of them by name.
        out: the run folder (default: a free name in runs/).
        base: a run or checkpoint file to fine-tune. Settings that are not given are then the base's, but for epochs (4),
            batch_size (50), learning_rate (0.01), starts of parts, accumulation and balance (none).
        recipe: a method by its name, such as "faal-trades-awp", or a Recipe of your own parts; default none.
        protocol: a paper's experiment by its name, such as "finetune-2ep"; default none.
        model: a network by its name (default small-cnn), or an object of your own that takes pixels in [0, 1] and returns logits.
        resume: continue the interrupted run in `out`; default False.
        quiet: show no bar; default False.
        processes: start so many processes here that train as one, on as many GPUs or with the cores divided; default 1: this one.
        settings: any setting of Config, such as fairness="faal", tau=0.5. objective, fairness, ambiguity and attack also take
            objects. data may be your own: (images, labels), a Dataset, or a dict of these for train, validation and test. It
            is kept beside the run, as `out`.npz.

    Returns:
        The finished run.

    Raises:
        UnknownName, ConfigError: where a setting makes no sense; then nothing is written.
        RunFolderError: where `out` already holds a run.
        RunError: where several processes failed.

    >>> import faal_lab as fl
    >>> run = fl.train(out="runs/small", epochs=1, batch_size=250, attack_steps=1, quiet=True)
    >>> run.status
    'done'
    """
    if out is None and "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError("Several processes share one run folder: give its path, out.")
    own, network = recipe if isinstance(recipe, Recipe) else None, None if isinstance(model, str) else model
    parts = {part: settings.pop(part) for part in OWN_PARTS if not isinstance(settings.get(part, ""), str)}
    if parts and recipe:
        raise ConfigError(f"recipe holds a method already: leave out {', '.join(parts)}, or recipe.")
    settings |= {"model": model} if isinstance(model, str) and model else {}
    images, place = None, free_name("runs", "data") if out is None else Path(out)
    if not isinstance(settings.get("data", ""), str):
        images = settings["data"]
        settings |= {"data": "npz", "data_dir": f"{place}.npz"}
    if resume and config is None:
        if out is None or settings or base is not None or protocol or (recipe and own is None):
            raise ConfigError(
                "resume=True takes its settings from the run folder: give out, and nothing else but objects of your own."
            )
        config = RunFolder.open(Path(out)).config()
    elif config is None:
        stated = {**settings, **part_names(parts), **({} if base is None else {"base": os.fspath(base)})}
        named = preset_settings("" if own else str(recipe), protocol)
        config = based_on(stated.get("base", ""), {**named, **stated})
        check_used(config, stated)
    elif settings or base is not None or protocol or (recipe and own is None):
        raise ConfigError("config holds all settings: change it (dataclasses.replace), or give settings by name without it.")
    if images is not None:
        keep_arrays(images, place, config.storage)  # after the settings: one that makes no sense leaves nothing behind
    folder = Path(out) if out is not None else free_name("runs", run_name(config))
    if processes > 1 and (own is not None or network is not None or parts):
        raise ConfigError("Objects of this process cannot reach others: name your parts by file.py:Name, or start torchrun.")
    if processes > 1:
        events = LiveRun.start(config, folder, resume=resume, processes=processes).events()
    else:
        events = steps(config, folder, resume=resume, model=network, recipe=own, parts=parts)
    for _ in shown(events, quiet, folder):
        pass
    return Run(folder)


def balance(
    run: Runs, *, tau: float = 0.5, average_floor: float | None = None, rounds: int = 6, images: int = IMAGES, steps: int = 10,
    checkpoint: str = "last", epsilon: float | None = None, model: str | nn.Module = "", unseen: bool = False,
    device: str = "auto", out: str | os.PathLike[str] | None = None, quiet: bool = False, say: Callable[[str], None] = print,
    **settings: Any,
) -> Run:  # fmt: skip
    """Make a trained network fairer without training: find a bias for each class.

    The bias is added to the logits. It is found on validation images in rounds: each attacks them with the bias in the
    network, and moves the bias of a class by 1.5 times its robust error over the mean. `tau` and `average_floor` choose a
    round; `faal_lab.dro.balance` has the problem and its sources.

    Args:
        run: a run, or a network as `evaluate` takes it.
        tau: the class distributions that the bias is best for: a KL ball of this radius around uniform. From ln C on
            the worst class alone counts.
        average_floor: least robust accuracy in percent, mean over classes, on the validation images; default None.
        rounds: the most biases to try.
        images: validation images of a class (at most).
        steps: PGD steps of the attack.
        checkpoint: "last" (default), or "best" (by validation).
        epsilon: the radius of the attack; default the run's.
        model: as for `evaluate`.
        unseen: state that a network from elsewhere has not learned from the validation images, which split_seed cuts from the
            training images; default False.
        device: auto (default), cpu, cuda, cuda:1, mps.
        out: the new run folder (default: a free name in runs/).
        quiet: show no bar; default False.
        say: reports a network that became a run folder first; default `print`.
        settings: of a network from elsewhere: data, data_dir, ...

    Returns:
        A new run with the bias in its network; `events` has all rounds (`Balanced`).

    Raises:
        ConfigError: there are too few validation images, or the floor cannot be met.
        RunFolderError: there is no such run, or `out` holds one.

    >>> import faal_lab as fl
    >>> fair = fl.balance("notebooks/recorded/control", rounds=2, out="runs/balanced", quiet=True)
    >>> rounds = fair.events[1]
    >>> [f"{min(k / n for k, n in zip(right, rounds.count)):.0%}" for right in rounds.correct]  # the worst class
    ['37%', '47%', '47%']
    """
    return Run(balanced(
        run, tau=tau, average_floor=average_floor, rounds=rounds, images=images, steps=steps, checkpoint=checkpoint,
        epsilon=epsilon, model=model, unseen=unseen, device=device, out=out, quiet=quiet, say=say, settings=settings,
    ))  # fmt: skip
