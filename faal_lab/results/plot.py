"""Draw runs: `fl.plot.bars(base, fair)`.

Functions that draw verdicts take evaluated runs, or the verdicts that `fl.evaluate` returned. The figures are plotly's and
show themselves in a notebook. Functions that read run folders raise RunFolderError or VerdictsError if something is missing
or the runs were not evaluated alike.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from faal_lab.errors import check_name
from faal_lab.evaluation.evaluate import Runs
from faal_lab.evaluation.groups import reported, verdicts_of
from faal_lab.evaluation.verdicts import Verdicts
from faal_lab.results.confusion import confusion_flow, confusion_heatmap
from faal_lab.results.export import accuracy_over, all_pictures, check_formats, export_all
from faal_lab.results.figures import balance_path, class_bars, styled, validation_curves, weights_over_batches
from faal_lab.results.robustness import clean_and_robust_bars, image_strip, radius_curves
from faal_lab.results.tables import balance_rows, marked
from faal_lab.runs.config import settings
from faal_lab.runs.history import load_history
from faal_lab.training.parameters import listed

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = [
    "balance", "bars", "clean_and_robust", "confusion", "flow", "images", "over", "radii", "save", "styled", "validation",
    "weights",
]  # fmt: skip


def balance(run: Runs) -> go.Figure:
    """Draw the rounds of a balance: worst class over average, under attack.

    Args:
        run: a run that `fl.balance` made, or one with the setting balance.

    Returns:
        A plotly figure, in percent, with 95 % intervals.

    Raises:
        RunFolderError: the run was not balanced.

    >>> import faal_lab as fl
    >>> fair = fl.balance("notebooks/recorded/control", rounds=2, out="runs/drawn", quiet=True)
    >>> list(fl.plot.balance(fair).data[0].text)
    ['no bias', '1', '2']
    """
    path = os.fspath(run)
    return balance_path(balance_rows(path), Path(path).name)


def bars(*runs: Runs | Mapping[str, Verdicts], attack: str = "", checkpoint: str = "last") -> go.Figure:
    """Draw each class's accuracy under an attack, one bar per run.

    Args:
        runs: evaluated runs, or verdicts by name as `fl.evaluate` returned them.
        attack: default: the last one of the evaluation.
        checkpoint: "last" (default) or "best", the one of the verdicts.

    Returns:
        A plotly figure, in percent, with 95 % intervals.

    Raises:
        UnknownName: the runs were not evaluated under `attack`.

    >>> import numpy as np
    >>> from faal_lab.evaluation.verdicts import Verdicts
    >>> from faal_lab.results import plot
    >>> labels, predicted = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    >>> made = Verdicts(labels, {"clean": predicted}, ("cat", "dog"), {})
    >>> [round(y) for y in plot.bars({"base": made}).data[0].y]
    [50, 100]
    """
    found = verdicts_of(runs, checkpoint)
    return class_bars(marked(found), _attack(found, attack))


def clean_and_robust(*runs: Runs | Mapping[str, Verdicts], attack: str = "", checkpoint: str = "last") -> go.Figure:
    """Draw each class's accuracy on clean and on attacked images, one row per run.

    Args:
        runs: evaluated runs, or verdicts by name as `fl.evaluate` returned them.
        attack: default: the last one of the evaluation.
        checkpoint: "last" (default) or "best", the one of the verdicts.

    Returns:
        A plotly figure, in percent, with 95 % intervals.

    Raises:
        VerdictsError: the clean images were not evaluated, or `attack` is clean.

    >>> from faal_lab.results import plot
    >>> clean, robust = plot.clean_and_robust("notebooks/recorded/control").data
    >>> round(clean.y[8]), round(robust.y[8])  # class 8
    (95, 41)
    """
    found = verdicts_of(runs, checkpoint)
    return clean_and_robust_bars(marked(found), _attack(found, attack))


def confusion(run: Runs | Verdicts, attack: str = "", checkpoint: str = "last") -> go.Figure:
    """Draw the confusion matrix under an attack.

    Args:
        run: an evaluated run, or its verdicts.
        attack: default: the last one of the evaluation.
        checkpoint: "last" (default) or "best", the one of the verdicts.

    Returns:
        A plotly figure: the share of each true class (columns) taken for each other class (rows), in percent.

    >>> from faal_lab.results import plot
    >>> shares = plot.confusion("notebooks/recorded/control").data[0].z
    >>> float(shares[1][8].round(1))  # percent of class 8 that are taken for 1
    20.7
    """
    return _of_one(confusion_heatmap, run, attack, checkpoint)


def flow(run: Runs | Verdicts, attack: str = "", checkpoint: str = "last") -> go.Figure:
    """Draw the confusions under an attack as ribbons from true to predicted class.

    Args:
        run: an evaluated run, or its verdicts.
        attack: default: the last one of the evaluation.
        checkpoint: "last" (default) or "best", the one of the verdicts.

    Returns:
        A plotly figure; the width of a ribbon is a number of images.

    >>> from faal_lab.results import plot
    >>> max(plot.flow("notebooks/recorded/control").data[0].link.value)  # images of the widest ribbon, from 8 to 1
    9
    """
    return _of_one(confusion_flow, run, attack, checkpoint)


def radii(run: Runs | Verdicts, checkpoint: str = "last") -> go.Figure:
    """Draw each class's accuracy over growing attack radii.

    Args:
        run: an evaluated run, or its verdicts.
        checkpoint: "last" (default) or "best", the one of the verdicts.

    Returns:
        A plotly figure, in percent; radii in pixel units of [0, 1].

    Raises:
        VerdictsError: the verdicts have no radius curve.

    >>> from faal_lab.results import plot
    >>> [round(y) for y in plot.radii("notebooks/recorded/control").data[8].y]  # class 8, from radius 0 to 1
    [95, 90, 85, 70, 40, 5, 0, 0]
    """
    return radius_curves(*_one(run, checkpoint))


def images(run: Runs | Verdicts, checkpoint: str = "last") -> go.Figure:
    """Draw images of each class before and under attack, with the predicted classes.

    Args:
        run: an evaluated run, or its verdicts.
        checkpoint: "last" (default) or "best", the one of the verdicts.

    Returns:
        A plotly figure.

    Raises:
        VerdictsError: the verdicts have no example images.

    >>> from faal_lab.results import plot
    >>> plot.images("notebooks/recorded/control").layout.title.text
    'control: Images before and under CW-20'
    """
    return image_strip(*_one(run, checkpoint))


def weights(run: Runs) -> go.Figure:
    """Draw the class weights (CDAW) of every batch of a run.

    Args:
        run: a run folder.

    Returns:
        A plotly figure: for each class every batch, and the mean of the last 10.

    Raises:
        RunFolderError: the folder holds no run.

    >>> from faal_lab.results import plot
    >>> figure = plot.weights("notebooks/recorded/faal-steered")
    >>> max(figure.data, key=lambda line: sum(line.y)).name  # the heaviest class of the run
    '8'
    """
    history, names = load_history(os.fspath(run))
    return weights_over_batches(history, names, "Class weights (CDAW) of every batch")


def validation(run: Runs) -> go.Figure:
    """Draw average and worst class on validation images after each epoch of a run.

    Args:
        run: a run folder.

    Returns:
        A plotly figure, in percent.

    Raises:
        RunFolderError: the folder holds no run.

    >>> from faal_lab.results import plot
    >>> [line.name for line in plot.validation("notebooks/recorded/control").data]
    ['clean, average', 'clean, worst class', 'robust, average', 'robust, worst class']
    """
    return validation_curves(load_history(os.fspath(run))[0])


def over(*runs: Runs, setting: str, attack: str = "", checkpoint: str = "last") -> go.Figure:
    """Draw average and worst class over a setting in which runs differ, such as tau.

    Args:
        runs: evaluated runs.
        setting: the name of the setting.
        attack: default: the last one of the evaluation.
        checkpoint: "last" (default) or "best", the one of the verdicts.

    Returns:
        A plotly figure, in percent.

    Raises:
        UnknownName: there is no such setting, or no such attack in the evaluation.
        VerdictsError: the runs do not differ in the setting.

    >>> from faal_lab.results import plot
    >>> figure = plot.over("notebooks/recorded/control", "notebooks/recorded/faal-steered", setting="fairness")
    >>> figure.data[0].x
    ('faal', 'none')
    """
    check_name("setting", setting, settings())
    found = reported(runs, checkpoint)
    return accuracy_over(found, setting, found[0].verdicts.chosen(attack))


def save(
    *runs: Runs, out: Runs, formats: str = "html,csv", attack: str = "", setting: str = "", checkpoint: str = "last"
) -> list[str]:
    """Write every picture of some runs as files.

    Args:
        runs: evaluated alike.
        out: the folder for the files.
        formats: comma-separated, of html, png, csv; png needs the extra `pictures`; default "html,csv".
        attack: default: the last one of the evaluation.
        setting: also draw accuracy over this setting, such as tau; default none.
        checkpoint: "last" (default) or "best", the one of the verdicts.

    Returns:
        One line for each file written, and for each picture that cannot be drawn, with the reason.

    Raises:
        UnknownName: a format, attack or setting is unknown.
        ImportError: png needs kaleido, which is missing.
        OSError: a file cannot be written, or no browser was found.

    >>> from faal_lab.results import plot
    >>> plot.save("notebooks/recorded/control", out="pictures", formats="csv")[0]
    'Written: pictures/clean-and-autoattack.csv'
    """
    kinds = check_formats(listed(formats))
    return export_all(all_pictures(reported(runs, checkpoint), attack, setting), Path(out), kinds)


def _attack(found: Mapping[str, Verdicts], attack: str) -> str:
    """Return the attack, or the last one of the first run; raises UnknownName, or VerdictsError where images differ."""
    (first, base), *others = found.items()
    for name, other in others:
        base.check_same(other, f"{first} and {name}")
    return base.chosen(attack)


def _one(run: Runs | Verdicts, checkpoint: str) -> tuple[Verdicts, str]:
    """Return the verdicts of one run, and its name."""
    if isinstance(run, Verdicts):
        return run, ""
    ((name, found),) = verdicts_of([run], checkpoint).items()
    return found, name


def _of_one(draw: Callable[[Verdicts, str, str], go.Figure], run: Runs | Verdicts, attack: str, checkpoint: str) -> go.Figure:
    found, name = _one(run, checkpoint)
    return draw(found, _attack({name: found}, attack), name)
