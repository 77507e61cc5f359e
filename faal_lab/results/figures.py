"""Turn records into plotly figures. A class has the same colour in each of them."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from faal_lab.evaluation.statistics import class_accuracy
from faal_lab.evaluation.verdicts import Verdicts
from faal_lab.results.tables import ATTACK_TITLES
from faal_lab.runs.history import History, thinned

if TYPE_CHECKING:
    import plotly.graph_objects as go

# Okabe and Ito's palette, distinct for colour-blind readers. Black is invisible on dark pages, so it is grey here.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#B5A900", "#7F7F7F")
RUN_COLOURS = tuple(_COLOURS[i] for i in (7, 0, 1, 2, 3, 4, 5, 6))  # grey: the first run, the baseline
KIND_COLOURS = {"clean": _COLOURS[1], "robust": _COLOURS[0]}
_DASHES = ("solid", "dash", "dot", "dashdot")
_SMALL = {"height": 360, "margin": {"l": 56, "r": 12, "t": 44, "b": 90}}
INK = "#7A7A7A"  # readable on white and on black
MANY_CLASSES = 20  # with more, a narrow page cannot show every bar's name


def class_style(index: int) -> dict[str, Any]:
    """Return colour and dash of a class's line; beyond eight classes the colours repeat in another dash."""
    return {"color": _COLOURS[index % 8], "dash": _DASHES[index // 8 % 4], "width": 1.8}


def styled(figure: go.Figure, **layout: Any) -> go.Figure:
    """Apply the look of all figures: transparent, for light and dark pages.

    Args:
        figure: a plotly figure; it is changed.
        layout: further settings of plotly's layout; they win.

    Returns:
        The same figure.

    >>> import plotly.graph_objects as go
    >>> from faal_lab.results import plot
    >>> plot.styled(go.Figure(), title="mine").layout.paper_bgcolor
    'rgba(0,0,0,0)'
    """
    grid: dict[str, Any] = {"gridcolor": "rgba(128,128,128,0.25)", "zerolinecolor": "rgba(128,128,128,0.5)"}
    figure.update_xaxes(**grid)
    figure.update_yaxes(**grid)
    look: dict[str, Any] = {"template": "none", "font": {"color": INK, "size": 12}, **_SMALL}
    look["legend"] = {"orientation": "h", "y": -0.22, "yanchor": "top"}  # below: beside the plot it squeezed a narrow page
    clear = {"paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)"}
    return figure.update_layout({**look, **clear, **layout})


def titled(title: str, *notes: str) -> dict[str, Any]:
    """Lay out a title for a narrow page: wrapped lines, the notes in small print below, and the margin.

    Returns the layout.
    """
    lines = textwrap.wrap(title, 46)
    small = [line for note in notes for line in textwrap.wrap(note, 58)]
    pad = {"l": 12, "t": 12 if len(lines) == 1 else 23}  # plotly puts the first of several lines higher
    text: dict[str, Any] = {"text": "<br>".join(lines), "font": {"size": 15}, "x": 0, "xanchor": "left", "pad": pad}
    text |= {"y": 1, "yanchor": "top", "yref": "container", "subtitle": {"text": "<br>".join(small), "font": {"size": 12}}}
    return {"title": text, "margin": {**_SMALL["margin"], "t": 30 + 20 * len(lines) + 16 * len(small)}}


def label_room(names: Sequence[str]) -> int:
    """Return the pixels below an axis for these labels on a narrow page.

    plotly turns long labels by 30 degrees there, or by 90 if they are many.
    """
    long, space = 16 + 6.5 * max(map(len, names)), 300 / len(names)
    return round(16 if long < space else min(110, long / 2 + 16 if space > 20 else long))


def legend_below(names: Iterable[str], room: int) -> dict[str, Any]:
    """Lay out a legend at the lower edge, and the margin for it and `room` pixels of labels above it."""
    lengths = [len(name) for name in names]
    columns = max(1, round(330 / (50 + 6.5 * max(lengths, default=0))))  # on a narrow page
    rows = math.ceil(len(lengths) / columns)
    legend = {"orientation": "h", "x": 0, "y": 0, "yref": "container", "yanchor": "bottom", "traceorder": "normal"}
    return {"legend": legend, "margin_b": room + 12 + 20 * rows}


def of_run(run: str) -> str:
    """Return the beginning of a title: the name of its run, or nothing."""
    return f"{run}: " if run else ""


def tabled(figure: go.Figure, columns: tuple[str, ...], rows: list[tuple[Any, ...]], width: int = 900) -> go.Figure:
    """Store the numbers of the figure as named columns in its `layout.meta`.

    `width` is the width that suits a picture of it, in pixels.
    """
    values = zip(*rows, strict=True) if rows else [()] * len(columns)
    table = {name: list(column) for name, column in zip(columns, values, strict=True)}
    return figure.update_layout(meta={"table": table, "width": width})


def class_order(verdict: Verdicts, attack: str) -> np.ndarray:
    """Return the order of the classes in a figure, int [C].

    It is their own; many classes are sorted worst first, those without images last.
    """
    correct, total = verdict.counts(attack)
    if len(total) <= MANY_CLASSES:
        return np.arange(len(total))
    return np.argsort(np.where(total > 0, correct / np.maximum(total, 1), 2), kind="stable")


def accuracy_bars(verdict: Verdicts, attack: str, order: np.ndarray, **look: Any) -> go.Bar:
    """Draw one bar a class, in percent, with its 95 % interval; classes in `order` [C]."""
    import plotly.graph_objects as go

    every = class_accuracy(*verdict.counts(attack))
    found = [every[c] for c in order]
    return go.Bar(
        x=[verdict.class_names[c] for c in order], y=[100 * e.value if e else None for e in found],
        error_y={
            "type": "data", "symmetric": False, "color": INK,
            "thickness": 1 if len(order) <= MANY_CLASSES else 0.5, "width": 2 if len(order) <= MANY_CLASSES else 0,
            "array": [100 * (e.high - e.value) if e else 0 for e in found],
            "arrayminus": [100 * (e.value - e.low) if e else 0 for e in found],
        },
        hovertemplate="%{x}: %{y:.1f} %", **look,
    )  # fmt: skip


def bar_rows(rows: int, titles: list[str], bars: Iterable[str], classes: Sequence[str], title: str) -> go.Figure:
    """Make an empty figure of `rows` rows of bars over the same classes.

    It has room for the class names, and for those of `bars` in a legend below.
    """
    from plotly.subplots import make_subplots

    many = len(classes) > MANY_CLASSES
    notes = [f"{len(classes)} classes, the worst under attack first; names as far as they fit."] if many else []
    head = titled(title, *notes)
    height = 230 if rows == 1 else 170 * rows
    gap = 44 / height if rows > 1 else 0
    figure = make_subplots(rows, 1, shared_xaxes=True, vertical_spacing=gap, subplot_titles=titles)
    figure.update_annotations(font={"size": 12}, x=0, xanchor="left")
    figure.update_yaxes(title="accuracy, %", range=[0, 100])
    figure.update_xaxes(type="category")
    styled(figure, **head, barmode="overlay" if many else "group", bargap=0.1 if many else 0.2)
    below = legend_below(bars, room=label_room(classes))
    top = head["margin"]["t"] + (16 if titles else 0)
    return figure.update_layout(below, margin_t=top, margin_r=24, height=height + top + below["margin_b"])


def class_bars(verdicts: dict[str, Verdicts], attack: str) -> go.Figure:
    """Draw the accuracy of each class under `attack`, one bar a run (the paper's Figure 2).

    Bars have 95 % intervals. Many classes are sorted by accuracy in the first run, and each run has its own row.
    """
    first = next(iter(verdicts.values()))
    order = class_order(first, attack)
    apart = len(order) > MANY_CLASSES and len(verdicts) > 1
    title = f"{ATTACK_TITLES[attack]} accuracy by class, with 95 % intervals"
    rows = (len(verdicts), list(verdicts)) if apart else (1, [])
    figure = bar_rows(*rows, verdicts, first.class_names, title)
    for number, (name, verdict) in enumerate(verdicts.items()):
        colour = RUN_COLOURS[number % 8]
        figure.add_trace(accuracy_bars(verdict, attack, order, name=name, marker_color=colour), 1 + number * apart, 1)
    return figure


def weights_over_batches(history: History, class_names: list[str], title: str, window: int = 10) -> go.Figure:
    """Draw the class weights (CDAW): every batch faint, the mean of the last `window` batches in front."""
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
    """Draw average and worst class on the validation images over epochs, clean and under attack."""
    import plotly.graph_objects as go

    figure = go.Figure()
    epochs = np.arange(1, len(history.epoch_step.values) + 1)
    for kind, colour in KIND_COLOURS.items():
        average, worst = history.validation_summary(kind)
        for label, values, dash in (("average", average, "solid"), ("worst class", worst, "dot")):
            line = {"color": colour, "dash": dash}
            figure.add_scatter(x=epochs, y=100 * values, mode="lines+markers", name=f"{kind}, {label}", line=line)
    figure.update_xaxes(title="epoch", tickformat="d", dtick=max(1, len(epochs) // 10))
    figure.update_yaxes(title="validation accuracy, %", range=[0, 100])
    return styled(figure, title="Validation after each epoch")


def compared_curves(histories: Mapping[str, History], kind: str) -> go.Figure:
    """Draw average and worst class of several runs on validation images over epochs.

    `kind` is "clean" or "robust". A run without validation images, or without a finished epoch, has no curve.
    """
    import plotly.graph_objects as go

    figure, shown = go.Figure(), []
    for number, (name, history) in enumerate(histories.items()):
        average, worst = history.validation_summary(kind)
        epochs = np.arange(1, len(average) + 1)
        if np.isnan(average).all():
            continue
        shown.append(name)
        for label, values, dash in (("average", average, "solid"), ("worst class", worst, "dot")):
            figure.add_scatter(
                x=epochs, y=100 * values, mode="lines+markers", name=name, legendgroup=name, showlegend=label == "average",
                line={"color": RUN_COLOURS[number % 8], "dash": dash, "width": 1.8},
                marker={"symbol": ("circle", "square", "diamond", "cross")[number // 8 % 4], "size": 5},
                hovertemplate=f"{label}, epoch %{{x}}: %{{y:.1f}} %",
            )  # fmt: skip
    longest = max((len(history.epoch_step.values) for history in histories.values()), default=0)
    figure.update_xaxes(title="epoch", tickformat="d", dtick=max(1, longest // 10))
    figure.update_yaxes(title="validation accuracy, %", range=[0, 101])
    how = {"clean": "clean", "robust": "under PGD"}[kind]
    head = titled(f"Validation after each epoch, {how}", "Lines: average; dotted: worst class.")
    styled(figure, **head)
    return figure.update_layout(legend_below(shown, room=44))


def balance_path(rows: Sequence[Mapping[str, Any]], name: str) -> go.Figure:
    """Draw the rounds of a balance, as `balance_rows` makes them: worst class over average, each with its interval."""
    import plotly.graph_objects as go

    figure, ends = go.Figure(), {}
    for axis, key in (("error_x", "average"), ("error_y", "worst")):
        up, down = ([abs(row[f"{key}_{end}"] - row[key]) for row in rows] for end in ("high", "low"))
        ends[axis] = {"array": up, "arrayminus": down, "color": "rgba(128,128,128,0.45)", "thickness": 1}
    chosen = next(number for number, row in enumerate(rows) if row["chosen"])
    figure.add_scatter(
        x=[row["average"] for row in rows], y=[row["worst"] for row in rows], mode="lines+markers+text", **ends,
        text=["no bias" if not row["round"] else str(row["round"]) for row in rows], textposition="top right",
        line={"color": _COLOURS[0]}, name="rounds", showlegend=False,
        marker={"size": [13 if n == chosen else 7 for n in range(len(rows))],
                "color": [_COLOURS[5] if n == chosen else _COLOURS[0] for n in range(len(rows))]},
        customdata=[row["worst_class"] for row in rows],
        hovertemplate="average %{x:.1f} %, worst class %{customdata} %{y:.1f} %<extra>round %{text}</extra>",
    )  # fmt: skip
    figure.update_xaxes(title="average under attack, %")
    figure.update_yaxes(title="worst class under attack, %", rangemode="tozero")
    said = f"{rows[0]['images']:,} validation images; orange: the chosen round. Lines: 95 % intervals."
    return styled(figure, **titled(f"Rounds of the balance of {name}", said))


# Pictures of a panel that moves with a slider are SVG in HTML: two live figures of plotly on one page lost updates, one or the
# other, in seven of eight loads on a busy machine; a figure made anew is drawn whole at each step.
_WIDE, _HIGH, _LEFT, _TOP, _RIGHT, _FOOT = 360, 240, 34, 8, 8, 44  # of a picture, and its margins
Counted = tuple[Sequence[int], Sequence[int]]  # of each class: the images that are right, and all images


def _text(x: float, y: float, text: str, anchor: str = "middle", turn: int = 0) -> str:
    turned = f" transform='rotate({turn} {x:.1f} {y:.1f})'" if turn else ""
    return f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}'{turned}>{html.escape(text)}</text>"


def _line(ends: tuple[float, float, float, float], look: str = "stroke='currentColor'") -> str:
    x1, y1, x2, y2 = ends
    return f"<line x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}' {look}/>"


def _up(percent: float) -> float:
    """Return the height of a percentage in a picture."""
    return _TOP + (_HIGH - _TOP - _FOOT) * (1 - percent / 100)


def _picture(title: str, said: str, parts: Iterable[str]) -> str:
    """Return an SVG with percent on its vertical axis, as wide as its place, for light and dark pages."""
    grid = [_line((_LEFT, _up(p), _WIDE - _RIGHT, _up(p)), "stroke='currentColor' opacity='0.2'") for p in range(0, 101, 20)]
    ticks = [_text(_LEFT - 5, _up(p) + 4, str(p), "end") for p in range(0, 101, 20)]
    style = (
        "width:100%;max-width:460px;font-size:11px;font-family:inherit;fill:currentColor;color:var(--jp-ui-font-color1,inherit)"
    )
    head = f"<div style='font-size:15px;line-height:1.4;padding-top:8px'>{html.escape(title)}</div>"
    svg = f"<svg viewBox='0 0 {_WIDE} {_HIGH}' role='img' aria-label='{html.escape(said, quote=True)}' style='{style}'>"
    return f"{head}{svg}{''.join([*grid, *ticks, *parts])}</svg>"


def _key(entries: Iterable[tuple[str, str]]) -> str:
    """Return the legend at the lower edge: an attribute list of a square, and its name."""
    found, x = [], float(_LEFT)
    for look, name in entries:
        found += [f"<rect x='{x}' y='{_HIGH - 13}' width='10' height='10' {look}/>", _text(x + 14, _HIGH - 4, name, "start")]
        x += 30 + 5.8 * len(name)
    return "".join(found)


def bias_bars(names: Sequence[str], without: Counted, shown: Counted, exact: bool) -> str:
    """Draw robust accuracy by class without a bias and with one, as HTML; the bars of an estimate are pale, with dashes."""
    slot = (_WIDE - _LEFT - _RIGHT) / len(names)
    pale = "" if exact else " fill-opacity='0.45' stroke='currentColor' stroke-dasharray='2 2'"
    looks, parts, said = (f"fill='{RUN_COLOURS[0]}'", f"fill='{RUN_COLOURS[1]}'{pale}"), [], []
    for number, (look, counted) in enumerate(zip(looks, (without, shown), strict=True)):
        right, total = (np.array(numbers) for numbers in counted)
        every = class_accuracy(right, total)
        for c, found in enumerate(every):
            if found is None:
                continue
            x, tall = _LEFT + slot * (c + 0.1 + 0.4 * number), _up(100 * found.value)
            told = f"{names[c]}: {100 * found.value:.1f} % ({100 * found.low:.1f} to {100 * found.high:.1f})"
            said += [told] if number else []
            parts.append(f"<rect x='{x:.1f}' y='{tall:.1f}' width='{0.4 * slot:.1f}' height='{_up(0) - tall:.1f}' {look}>")
            parts.append(f"<title>{html.escape(told)}</title></rect>")
            middle = x + 0.2 * slot
            parts.append(
                _line((middle, _up(100 * found.low), middle, _up(100 * found.high)), "stroke='currentColor' opacity='0.7'")
            )
    long = max(map(len, names)) * 6 > slot
    for c, name in enumerate(names if len(names) <= MANY_CLASSES else ()):
        x = _LEFT + slot * (c + 0.5)
        parts.append(_text(x, _up(0) + 13, name[:10], "end", -35) if long else _text(x, _up(0) + 13, name))
    key = _key(zip(looks, ("no bias", "this bias" if exact else "this bias, estimated"), strict=True))
    return _picture("Robust accuracy by class, %", "; ".join(said), [*parts, key])


def bias_path(rows: Sequence[Mapping[str, Any]], here: Mapping[str, Any], exact: bool) -> str:
    """Draw attacked biases (`balance_row` with a name and `by_hand`) and the present one, worst class over average, as HTML.

    The present point has its 95 % intervals; it is open if it is an estimate.
    """
    low = min(math.floor(row["average"]) - 3 for row in (*rows, here))
    high = max(math.ceil(row["average"]) + 3 for row in (*rows, here))
    step = next(s for s in (1, 2, 5, 10, 20) if (high - low) / s <= 7)

    def across(average: float) -> float:
        inner = min(max(average, low), high)
        return _LEFT + (_WIDE - _LEFT - _RIGHT) * (inner - low) / (high - low)

    ticks = [_text(across(p), _up(0) + 13, str(p)) for p in range(math.ceil(low / step) * step, high + 1, step)]
    parts, labels = [*ticks, _text(across((low + high) / 2), _up(0) + 26, "average under attack, %")], dict[str, str]()
    game = [(across(row["average"]), _up(row["worst"])) for row in rows if not row["by_hand"]]
    parts.append(f"<polyline points='{' '.join(f'{x:.1f},{y:.1f}' for x, y in game)}' fill='none' stroke='{_COLOURS[0]}'/>")
    for row in rows:
        x, y = across(row["average"]), _up(row["worst"])
        told = f"{row['name']}: average {row['average']:.1f} %, worst class {row['worst_class']} {row['worst']:.1f} %"
        colour, place = _COLOURS[2] if row["by_hand"] else _COLOURS[0], f"{x:.1f} {y:.1f}"
        parts.append(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='4' fill='{colour}'><title>{html.escape(told)}</title></circle>")
        name = row["name"].removeprefix("round ").replace("by hand ", "h")
        labels[place] = f"{labels[place]}, {name}" if place in labels else name  # two biases at one point share a label
    parts += [_text(float(place.split()[0]) - 9, float(place.split()[1]) - 7, name, "end") for place, name in labels.items()]
    x, y = across(here["average"]), _up(here["worst"])
    whisker = "stroke='currentColor' opacity='0.55'"
    parts.append(_line((across(here["average_low"]), y, across(here["average_high"]), y), whisker))
    parts.append(_line((x, _up(here["worst_low"]), x, _up(here["worst_high"])), whisker))
    fill = _COLOURS[5] if exact else "none"
    parts.append(f"<circle cx='{x:.1f}' cy='{y:.1f}' r='7' fill='{fill}' stroke='{_COLOURS[5]}' stroke-width='2'/>")
    key = [(f"fill='{_COLOURS[0]}'", "rounds"), (f"fill='{_COLOURS[2]}'", "by hand"),
           (f"fill='{fill}' stroke='{_COLOURS[5]}'", "here" if exact else "here, estimated")]  # fmt: skip
    said = f"average {here['average']:.1f} %, worst class {here['worst_class']} {here['worst']:.1f} %"
    return _picture("Worst class over average, %, with 95 % intervals", said, [*parts, _key(key)])
