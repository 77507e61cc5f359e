"""Records become plotly figures; the same colour means the same class in each of them.

Knows: arrays and verdicts. Must not know: widgets, files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from faal_lab.evaluation import Verdicts, average_accuracy, class_accuracy, worst_accuracy
from faal_lab.history import History, thinned

if TYPE_CHECKING:
    import plotly.graph_objects as go

# Okabe and Ito's palette (distinct to colour-blind eyes), its black made grey so that it shows on dark pages too.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B5A900", "#7F7F7F")
_DASHES = ("solid", "dash", "dot", "dashdot")
_SMALL = {"height": 320, "margin": {"l": 56, "r": 12, "t": 44, "b": 44}}
INK = "#7A7A7A"  # text that can be read on white and on black
ATTACK_TITLES = {"clean": "Clean", "pgd-20": "PGD-20", "cw-20": "CW-20", "autoattack": "AutoAttack"}


def class_style(index: int) -> dict[str, Any]:
    """Colour and dash of a class's line: classes beyond the palette repeat its colours in another dash."""
    return {"color": _COLOURS[index % 8], "dash": _DASHES[index // 8 % 4], "width": 1.8}


def styled(figure: go.Figure, **layout: Any) -> go.Figure:
    """The look all figures share: transparent, so that it sits on a light and on a dark page."""
    grid: dict[str, Any] = {"gridcolor": "rgba(128,128,128,0.25)", "zerolinecolor": "rgba(128,128,128,0.5)"}
    figure.update_xaxes(**grid)
    figure.update_yaxes(**grid)
    look: dict[str, Any] = {"template": "none", "font": {"color": INK, "size": 12}, **_SMALL}
    return figure.update_layout(**look, paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", **layout)


def class_bars(verdicts: dict[str, Verdicts], attack: str) -> go.Figure:
    """Accuracy of each class under `attack`, one bar a run, with 95 % intervals (the paper's Figure 2)."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for number, (name, verdict) in enumerate(verdicts.items()):
        found = class_accuracy(*verdict.counts(attack))
        figure.add_bar(
            name=name, x=list(verdict.class_names), y=[100 * e.value if e else None for e in found],
            marker_color=_COLOURS[(7, 0, 1, 2, 3, 4, 5, 6)[number % 8]],
            error_y={
                "type": "data", "symmetric": False, "thickness": 1, "width": 2, "color": INK,
                "array": [100 * (e.high - e.value) if e else 0 for e in found],
                "arrayminus": [100 * (e.value - e.low) if e else 0 for e in found],
            },
            hovertemplate="%{x}: %{y:.1f} %<extra>" + name + "</extra>",
        )  # fmt: skip
    title = f"{ATTACK_TITLES[attack]} accuracy by class, with 95 % intervals"
    figure.update_yaxes(title="accuracy, %", range=[0, 100])
    figure.update_xaxes(title="class", type="category")
    return styled(figure, title=title, barmode="group", legend={"orientation": "h", "y": 1.08, "x": 1, "xanchor": "right"})


def class_lines(steps: np.ndarray, values: np.ndarray, class_names: list[str], title: str, unit: str) -> go.Figure:
    """One line a class over batches; `values` is [T, C]."""
    import plotly.graph_objects as go

    shown = thinned(len(steps))
    figure = go.Figure()
    for c, name in enumerate(class_names):
        figure.add_scatter(x=steps[shown], y=values[shown, c], mode="lines", name=name, line=class_style(c))
    figure.update_xaxes(title="batch")
    figure.update_yaxes(title=unit)
    return styled(figure, title=title)


def weights_over_batches(history: History, class_names: list[str], title: str) -> go.Figure:
    """The class weights (CDAW) of every batch."""
    return class_lines(history.step.values, history.weights.values, class_names, title, "class weight")


def validation_curves(history: History) -> go.Figure:
    """Average and worst class on the validation images over epochs, clean and under attack."""
    import plotly.graph_objects as go

    figure = go.Figure()
    epochs = np.arange(1, len(history.epoch_step.values) + 1)
    for kind, colour in (("clean", _COLOURS[1]), ("robust", _COLOURS[0])):
        values = 100 * history.validation(kind)
        for label, rows, dash in (("average", np.nanmean, "solid"), ("worst class", np.nanmin, "dot")):
            y = rows(values, axis=1) if len(values) else []
            line = {"color": colour, "dash": dash}
            figure.add_scatter(x=epochs, y=y, mode="lines+markers", name=f"{kind}, {label}", line=line)
    figure.update_xaxes(title="epoch")
    figure.update_yaxes(title="validation accuracy, %", range=[0, 100])
    return styled(figure, title="Validation after each epoch")


def result_rows(verdicts: dict[str, Verdicts]) -> list[dict[str, Any]]:
    """The result table: one row a run and attack, shares in percent with their 95 % intervals."""
    rows = []
    for run, verdict in verdicts.items():
        for attack in verdict.survived:
            counts = verdict.counts(attack)
            average, (worst, which) = average_accuracy(*counts), worst_accuracy(*counts)
            rows.append({
                "run": run, "attack": attack, "images": int(counts[1].sum()),
                "average": 100 * average.value, "average_low": 100 * average.low, "average_high": 100 * average.high,
                "worst": 100 * worst.value, "worst_low": 100 * worst.low, "worst_high": 100 * worst.high,
                "worst_class": verdict.class_names[which],
            })  # fmt: skip
    return rows
