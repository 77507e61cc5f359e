"""Pictures of one attack step by step, and of one batch's margins and class multipliers.

Knows: walks and phases, plotly. Must not know: models, runs, widgets. The slider is part of the figure: a saved page has it too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from faal_lab.figures import INK, KIND_COLOURS, class_style, styled
from faal_lab.microscope import Phases, Walk

if TYPE_CHECKING:
    import plotly.graph_objects as go

_WRONG = "#D55E00"
_SPREAD = 0.5  # how wide the dots of a class lie


def _pixels(image: torch.Tensor) -> np.ndarray:
    """[channels, H, W] in [0, 1] as uint8 [H, W, 3]."""
    values = (255 * image.clamp(0, 1)).round().to(torch.uint8).cpu().numpy()
    return np.repeat(values, 3, 0).transpose(1, 2, 0) if len(values) == 1 else values.transpose(1, 2, 0)


def walk_figure(found: Walk, names: Sequence[str], label: int, radius: float) -> go.Figure:
    """One attack with a slider over its steps: image, what was added, belief in each class, loss so far.

    What was added is drawn so that plus and minus `radius` are white and black, and grey is nothing. It opens at the last step.
    """
    from plotly.subplots import make_subplots

    last = len(found.losses) - 1
    titles = ["image", "added (grey: nothing)", "what the model believes", "loss that the attack ascends"]
    figure = make_subplots(
        2, 3, specs=[[{}, {}, {}], [{"colspan": 3}, None, None]], subplot_titles=titles, row_heights=[0.6, 0.4],
        column_widths=[0.25, 0.25, 0.5], horizontal_spacing=0.08, vertical_spacing=0.2,
    )  # fmt: skip
    for trace, place in zip(
        _walk_traces(found, names, label, radius, last), [(1, 1), (1, 2), (1, 3), (2, 1), (2, 1)], strict=True
    ):
        figure.add_trace(trace, *place)
    for column in (1, 2):
        figure.update_xaxes(visible=False, row=1, col=column)
        figure.update_yaxes(visible=False, row=1, col=column)
    figure.update_yaxes(range=[0, 1], row=1, col=3)
    figure.update_xaxes(type="category", row=1, col=3)
    figure.update_xaxes(title="steps of PGD", range=[-0.3, last + 0.3], dtick=max(1, last // 10), row=2, col=1)
    figure.update_yaxes(title="cross-entropy", rangemode="tozero", row=2, col=1)
    figure.frames = [
        {"name": str(k), "data": _walk_traces(found, names, label, radius, k), "traces": [0, 1, 2, 3, 4]} for k in range(last + 1)
    ]
    at_once = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    stops = [{"method": "animate", "label": str(k), "args": [[str(k)], at_once]} for k in range(last + 1)]
    slider = {"steps": stops, "active": last, "currentvalue": {"prefix": "after step "}, "pad": {"t": 44}, "len": 1.0}
    figure.update_annotations(font_size=13)
    styled(figure, height=560, margin={"l": 56, "r": 16, "t": 36, "b": 20}, showlegend=False, sliders=[slider])
    return figure


def _walk_traces(found: Walk, names: Sequence[str], label: int, radius: float, k: int) -> list[Any]:
    """The five traces of `walk_figure` after step `k`."""
    import plotly.graph_objects as go

    belief, losses = found.beliefs[k].tolist(), found.losses.tolist()
    top = int(found.beliefs[k].argmax())
    colours = [KIND_COLOURS["robust"] if c == label else _WRONG if c == top else INK for c in range(len(names))]
    added = 0.5 + (found.points[k] - found.points[0]) / (2 * radius)
    line = {"color": INK, "width": 2}
    mark = {"size": 12, "color": _WRONG if top != label else KIND_COLOURS["robust"]}
    return [
        go.Image(z=_pixels(found.points[k]), hoverinfo="skip"),
        go.Image(z=_pixels(added), hoverinfo="skip"),
        go.Bar(x=list(names), y=belief, marker={"color": colours}, hovertemplate="%{x}: %{y:.3f}<extra></extra>"),
        go.Scatter(x=list(range(len(losses))), y=losses, mode="lines+markers", line=line, marker={"size": 5, "color": INK}),
        go.Scatter(x=[k], y=[losses[k]], mode="markers", marker=mark, hovertemplate="step %{x}: %{y:.3f}<extra></extra>"),
    ]


def phases_figure(found: Phases, names: Sequence[str]) -> go.Figure:
    """One batch: the margin of each image and the mean of each class above, what each class's loss is multiplied by below."""
    from plotly.subplots import make_subplots

    labels, margins = found.labels.cpu().numpy(), found.margins.cpu().numpy()
    means, held = found.stats.mean("margin").cpu().numpy(), found.stats.present.cpu().numpy()
    colours = [class_style(c)["color"] for c in range(len(names))]
    titles = ["margin of each image (above 0: wrong), bar: mean of the class", "C x weight: what the loss of the class counts"]
    figure = make_subplots(2, 1, shared_xaxes=True, vertical_spacing=0.14, subplot_titles=titles, row_heights=[0.6, 0.4])
    places = np.arange(len(names))
    figure.add_scatter(
        x=labels + _beside(labels), y=margins, mode="markers", marker={"size": 6, "color": [colours[c] for c in labels]},
        customdata=[names[c] for c in labels], hovertemplate="%{customdata}: %{y:.3f}<extra></extra>", row=1, col=1,
    )  # fmt: skip
    dash = {"symbol": "line-ew", "size": 26, "line": {"width": 3, "color": INK}}
    figure.add_scatter(x=places[held], y=means[held], mode="markers", marker=dash, row=1, col=1,
                       hovertemplate="mean %{y:.3f}<extra></extra>")  # fmt: skip
    figure.add_bar(x=places, y=found.multipliers.cpu().numpy(), marker_color=colours, row=2, col=1,
                   texttemplate="%{y:.2f}", textposition="outside", cliponaxis=False,
                   hovertemplate="%{y:.3f} times<extra></extra>")  # fmt: skip
    ruler: Any = {"color": INK, "width": 1, "dash": "dot"}
    figure.add_hline(0, line=ruler, row=1, col=1)  # pyright: ignore[reportArgumentType]
    figure.add_hline(1, line=ruler, row=2, col=1)  # pyright: ignore[reportArgumentType]
    figure.update_yaxes(title="margin", range=[-1.05, 1.05], row=1, col=1)
    figure.update_yaxes(title="times", rangemode="tozero", row=2, col=1)
    figure.update_xaxes(tickvals=places, ticktext=list(names), range=[-0.6, len(names) - 0.4], zeroline=False)
    figure.update_annotations(font_size=13)
    return styled(figure, height=520, margin={"l": 56, "r": 16, "t": 36, "b": 40}, showlegend=False)


def _beside(labels: np.ndarray) -> np.ndarray:
    """Where the dot of each image lies beside the middle of its class, so that dots of one height do not cover each other."""
    offsets = np.zeros(len(labels))
    for c in np.unique(labels):
        mine = np.flatnonzero(labels == c)
        offsets[mine] = np.linspace(-_SPREAD / 2, _SPREAD / 2, len(mine)) if len(mine) > 1 else 0
    return offsets
