"""The dashboard's panels as one figure with subplots, and how a run's history fills them.

Must not know: widgets; it makes a plain figure and arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from faal_lab.events import DialTurned
from faal_lab.figures import class_style, styled
from faal_lab.history import History, thinned

TITLES = (
    "Class weights (CDAW), each batch", "Robust accuracy by class, training batches",
    "Class margins, training (above 0: wrong)", "Training loss",
    "Validation after each epoch", "Validation by class, PGD, last epoch",
)  # fmt: skip
_CLASS_PANELS = 3  # the first three panels have a line for each class
_CURVES = (("clean, average", 1, "solid"), ("clean, worst", 1, "dot"), ("PGD, average", 0, "solid"), ("PGD, worst", 0, "dot"))

Lines = dict[int, tuple[np.ndarray, np.ndarray]]


def empty_panels(class_names: list[str]) -> go.Figure:
    """The figure with every trace it will ever have."""
    figure = make_subplots(rows=3, cols=2, subplot_titles=TITLES, vertical_spacing=0.12, horizontal_spacing=0.09)
    for panel in range(_CLASS_PANELS):
        row, column = divmod(panel, 2)
        for c, name in enumerate(class_names):
            figure.add_scatter(
                x=[], y=[], mode="lines", name=f"class {name}", legendgroup=name, showlegend=panel == 0, line=class_style(c),
                row=row + 1, col=column + 1,
            )  # fmt: skip
    figure.add_scatter(
        x=[], y=[], mode="lines", name="loss", showlegend=False, line={"color": "#0072B2", "width": 1.5}, row=2, col=2
    )
    for name, colour, dash in _CURVES:
        line = {**class_style(colour), "dash": dash}
        figure.add_scatter(x=[], y=[], mode="lines+markers", name=name, showlegend=False, line=line, row=3, col=1)
    colours = [class_style(c)["color"] for c in range(len(class_names))]
    figure.add_bar(x=class_names, y=[0.0] * len(class_names), marker_color=colours, showlegend=False, name="PGD", row=3, col=2)
    for row, column, title in ((1, 1, "weight"), (1, 2, "%"), (2, 1, "margin"), (2, 2, "loss"), (3, 1, "%"), (3, 2, "%")):
        figure.update_yaxes(title_text=title, row=row, col=column)
    for row, column in ((1, 2), (3, 1), (3, 2)):
        figure.update_yaxes(range=[0, 101], row=row, col=column)
    figure.update_xaxes(type="category", row=3, col=2)
    for row, column, title in ((2, 1, "batch"), (2, 2, "batch"), (3, 1, "epoch"), (3, 2, "class")):
        figure.update_xaxes(title_text=title, title_standoff=2, row=row, col=column)
    figure.update_annotations(font_size=13)
    styled(figure, uirevision="keep", legend={"orientation": "h", "y": -0.08, "yanchor": "top"})
    return figure.update_layout(height=880, autosize=True, margin={"l": 56, "r": 16, "t": 36, "b": 60})


def panel_lines(history: History, class_names: list[str], window: int) -> Lines:
    """What every trace shows now, by trace index; class panels are means over the last `window` batches, weights are not."""
    classes = len(class_names)
    shown = thinned(len(history.step.values))
    steps = history.step.values[shown]
    lines: Lines = {}
    panels = (history.weights.values, 100 * history.accuracy(window), history.mean_margin(window))
    for panel, values in enumerate(panels):
        for c in range(classes):
            lines[panel * classes + c] = (steps, values[shown, c])
    after = _CLASS_PANELS * classes
    lines[after] = (steps, history.loss.values[shown])
    epochs = np.arange(1, len(history.epoch_step.values) + 1)
    for number, values in enumerate((*history.validation_summary("clean"), *history.validation_summary("robust"))):
        lines[after + 1 + number] = (epochs, 100 * values)
    robust = 100 * history.validation("robust")
    latest = np.nan_to_num(robust[-1]) if len(robust) else np.zeros(classes)
    lines[after + 1 + len(_CURVES)] = (np.array(class_names), latest)
    return lines


def turn_marks(turns: list[DialTurned]) -> list[dict[str, Any]]:
    """A vertical line in the batch panels where a dial was turned, with what was turned written beside the first."""
    marks = []
    for turn in turns:
        for panel, axis in enumerate(("", "2", "3", "4")):
            mark: dict[str, Any] = {
                "type": "line", "xref": f"x{axis}", "yref": f"y{axis} domain", "x0": turn.step, "x1": turn.step, "y0": 0, "y1": 1,
                "line": {"color": "#7A7A7A", "width": 1, "dash": "dash"},
            }  # fmt: skip
            if panel == 0:
                text = {"text": f"{turn.dial} {turn.new:g}", "textposition": "end", "textangle": 0}
                mark["label"] = {**text, "xanchor": "left", "yanchor": "top", "font": {"size": 10}}
            marks.append(mark)
    return marks
