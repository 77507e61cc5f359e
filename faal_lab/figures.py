"""Records become plotly figures; the same colour means the same class in each of them.

Knows: arrays and verdicts. Must not know: widgets, files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from faal_lab.evaluation import Verdicts, class_accuracy
from faal_lab.history import History, thinned
from faal_lab.tables import ATTACK_TITLES

if TYPE_CHECKING:
    import plotly.graph_objects as go

# Okabe and Ito's palette (distinct to colour-blind eyes), its black made grey so that it shows on dark pages too.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B5A900", "#7F7F7F")
RUN_COLOURS = tuple(_COLOURS[i] for i in (7, 0, 1, 2, 3, 4, 5, 6))  # grey for the first: what the others are held against
_DASHES = ("solid", "dash", "dot", "dashdot")
_SMALL = {"height": 360, "margin": {"l": 56, "r": 12, "t": 44, "b": 90}}
INK = "#7A7A7A"  # text that can be read on white and on black


def class_style(index: int) -> dict[str, Any]:
    """Colour and dash of a class's line: classes beyond the palette repeat its colours in another dash."""
    return {"color": _COLOURS[index % 8], "dash": _DASHES[index // 8 % 4], "width": 1.8}


def styled(figure: go.Figure, **layout: Any) -> go.Figure:
    """The look all figures share: transparent, so that it sits on a light and on a dark page."""
    grid: dict[str, Any] = {"gridcolor": "rgba(128,128,128,0.25)", "zerolinecolor": "rgba(128,128,128,0.5)"}
    figure.update_xaxes(**grid)
    figure.update_yaxes(**grid)
    look: dict[str, Any] = {"template": "none", "font": {"color": INK, "size": 12}, **_SMALL}
    look["legend"] = {"orientation": "h", "y": -0.22, "yanchor": "top"}  # below: beside, it would squeeze a narrow page
    clear = {"paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)"}
    return figure.update_layout({**look, **clear, **layout})


def class_bars(verdicts: dict[str, Verdicts], attack: str) -> go.Figure:
    """Accuracy of each class under `attack`, one bar a run, with 95 % intervals (the paper's Figure 2)."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for number, (name, verdict) in enumerate(verdicts.items()):
        found = class_accuracy(*verdict.counts(attack))
        figure.add_bar(
            name=name, x=list(verdict.class_names), y=[100 * e.value if e else None for e in found],
            marker_color=RUN_COLOURS[number % 8],
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
    return styled(figure, title=title, barmode="group")


def weights_over_batches(history: History, class_names: list[str], title: str, window: int = 10) -> go.Figure:
    """The class weights (CDAW): every batch faint, the mean over the last `window` batches in front."""
    import plotly.graph_objects as go

    steps, raw = history.step.values, history.weights.values
    figure = go.Figure()
    if not len(steps):
        return styled(figure, title=title)
    shown, smooth = thinned(len(steps)), history.mean_weights(window)
    for c, name in enumerate(class_names):
        for values, front in ((raw, False), (smooth, True)):
            line = {**class_style(c), "width": 2.2 if front else 0.8}
            figure.add_scatter(
                x=steps[shown], y=values[shown, c], mode="lines", name=name, legendgroup=name, showlegend=front,
                line=line, opacity=1 if front else 0.3, hoverinfo="all" if front else "skip",
            )  # fmt: skip
    uniform = 1 / len(class_names)
    figure.add_hline(uniform, line={"color": INK, "width": 1, "dash": "dot"}, annotation_text="uniform")
    figure.update_xaxes(title="batch")
    figure.update_yaxes(title="class weight")
    return styled(figure, title=f"{title}<br><sup>faint: each batch; in front: mean of the last {window}</sup>")


def validation_curves(history: History) -> go.Figure:
    """Average and worst class on the validation images over epochs, clean and under attack."""
    import plotly.graph_objects as go

    figure = go.Figure()
    epochs = np.arange(1, len(history.epoch_step.values) + 1)
    for kind, colour in (("clean", _COLOURS[1]), ("robust", _COLOURS[0])):
        average, worst = history.validation_summary(kind)
        for label, values, dash in (("average", average, "solid"), ("worst class", worst, "dot")):
            line = {"color": colour, "dash": dash}
            figure.add_scatter(x=epochs, y=100 * values, mode="lines+markers", name=f"{kind}, {label}", line=line)
    figure.update_xaxes(title="epoch", tickformat="d", dtick=max(1, len(epochs) // 10))
    figure.update_yaxes(title="validation accuracy, %", range=[0, 100])
    return styled(figure, title="Validation after each epoch")
