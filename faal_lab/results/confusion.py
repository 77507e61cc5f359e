"""Draw the confusions of a network: flows from true to predicted class, and the whole matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from faal_lab.evaluation.statistics import confusion, spectral_norm
from faal_lab.evaluation.verdicts import Verdicts
from faal_lab.results.figures import (
    KIND_COLOURS,
    MANY_CLASSES,
    class_style,
    label_room,
    legend_below,
    of_run,
    styled,
    tabled,
    titled,
)
from faal_lab.results.tables import ATTACK_TITLES

if TYPE_CHECKING:
    import plotly.graph_objects as go

_STRONGEST = 20  # most flows drawn as bars
_LINKS = 40  # most flows drawn as links; more are a tangle
_PAD = 10  # least gap between two classes, in pixels
_LETTERS = 14  # longest name beside a flow
_WRITTEN = 12  # most columns of a matrix that leave room for numbers on a narrow page
_WIDE = 34  # height of a class in a flow, in pixels
_BLUES = [[0.0, "#D3E5F1"], [0.5, "#4C9CCB"], [1.0, "#003D60"]]  # opaque, so that numbers on them are readable on any page
_GREY = [[0, "#8C8C8C"], [1, "#8C8C8C"]]
_SHADES = {"already": ("wrong without the attack too", 0.95), "added": ("wrong through the attack", 0.4)}


@dataclass(frozen=True)
class Flows:
    """The wrong images by (true, predicted) class, F pairs, strongest first."""

    names: tuple[str, ...]
    pairs: np.ndarray  # int64 [F, 2]
    already: np.ndarray  # int64 [F]: images that are wrong without the attack too
    added: np.ndarray  # int64 [F]: images that the attack makes wrong
    total: np.ndarray  # int64 [C]: images of each true class
    parted: bool  # False: no clean predictions, or clean is shown; then all images are in `added`

    @staticmethod
    def of(verdict: Verdicts, attack: str) -> Flows:
        """Count the wrong images of each pair under `attack`."""
        wrong, classes = ~verdict.survived[attack], len(verdict.class_names)
        parted = "clean" in verdict.predicted and attack != "clean"
        before = wrong & ~verdict.survived["clean"] if parted else np.zeros_like(wrong)
        codes = verdict.labels * classes + verdict.predicted[attack]
        already, added = (np.bincount(codes[which], minlength=classes**2) for which in (before, wrong & ~before))
        order = np.argsort(-(already + added), kind="stable")[: np.count_nonzero(already + added)]
        pairs = np.stack([order // classes, order % classes], 1)
        return Flows(verdict.class_names, pairs, already[order], added[order], verdict.counts(attack)[1], parted)

    @cached_property
    def images(self) -> np.ndarray:
        """All wrong images of each pair, int64 [F]."""
        return self.already + self.added

    @cached_property
    def percent(self) -> np.ndarray:
        """All wrong images of each pair in percent of the true class, float64 [F]."""
        return 100 * self.images / self.total[self.pairs[:, 0]]

    def named(self, pair: np.ndarray) -> tuple[str, str]:
        """Return the names of a pair's two classes."""
        return self.names[pair[0]], self.names[pair[1]]


def confusion_flow(verdict: Verdicts, attack: str, run: str = "") -> go.Figure:
    """Draw the wrong images under `attack` as flows from true to predicted class.

    The width of a flow is its number of images. Images that are also wrong without the attack are drawn apart. With many
    classes, the strongest flows are drawn as bars.
    """
    flows = Flows.of(verdict, attack)
    many = len(flows.names) > MANY_CLASSES
    most = _STRONGEST if many else _LINKS
    height = 20 + 24 * min(most, len(flows.pairs)) if many else max(300, _WIDE * len(flows.names))
    figure, how = (_strongest(flows), "") if many else _sankey(flows, height)
    notes = [f"{flows.images.sum()} of {len(verdict.labels)} images are taken for another class"]
    notes[0] += f", {flows.already.sum()} of them without the attack too." if flows.parted else "."
    if len(flows.pairs) > most:
        notes.append(f"Shown are the {most} strongest of {len(flows.pairs)} flows, {flows.images[:most].sum()} images.")
    head = titled(f"{of_run(run)}Who is taken for whom under {ATTACK_TITLES[attack]}", *notes, how)
    below = legend_below([shade for shade, _ in _SHADES.values()] if many and flows.parted else [], 50 if many else 0)
    height += head["margin"]["t"] + below["margin_b"]
    side = {} if many else dict.fromkeys(("margin_l", "margin_r"), 20 + 7 * min(_LETTERS, max(map(len, flows.names))))
    figure.update_layout(head).update_layout(below | side, height=height)
    columns = ("true", "predicted", "images", "percent_of_class", "wrong_on_clean_too", "wrong_through_attack")
    numbers = (flows.images.tolist(), flows.percent.tolist(), flows.already.tolist(), flows.added.tolist())
    return tabled(figure, columns, [(*flows.named(p), *rest) for p, *rest in zip(flows.pairs, *numbers, strict=True)])


def _sankey(flows: Flows, height: int) -> tuple[go.Figure, str]:
    """Draw the strongest flows as links in a plot of `height` pixels, classes in order; add a note."""
    import plotly.graph_objects as go

    links = []
    for i in np.lexsort(flows.pairs[:_LINKS].T[::-1]):
        (true, taken), (name, other) = flows.pairs[i].tolist(), flows.named(flows.pairs[i])
        for part, (shade, opacity) in _SHADES.items():
            images = int(getattr(flows, part)[i])
            count = f"{images} {'image' if images == 1 else 'images'}"
            text = f"{count} of {name} taken for {other} ({100 * images / flows.total[true]:.1f} %)"
            text += f"<br>{shade}" if flows.parted else ""
            if images:
                links.append((true, taken, images, _faded(true, opacity if flows.parted else 0.6), text))
    sources, targets, values, colours, texts = zip(*links, strict=True) if links else [()] * 5
    sides = [_piled(sources, values), _piled(targets, values)]
    figure = styled(go.Figure())
    places = _places(sides, height)
    nodes = [(side, c) for side, classes in enumerate(sides) for c in classes]
    for side, c in nodes:
        name = flows.names[c] if len(flows.names[c]) <= _LETTERS else flows.names[c][: _LETTERS - 1] + "…"
        look = {"xanchor": "left", "x": 1, "xshift": 8} if side else {"xanchor": "right", "x": 0, "xshift": -8}
        look |= {"xref": "paper", "yref": "paper", "yanchor": "middle", "showarrow": False}
        figure.add_annotation(text=name, y=1 - places[side, c], **look)
    figure.add_sankey(
        arrangement="snap",
        node={
            "customdata": [flows.names[c] for _, c in nodes], "color": [class_style(c)["color"] for _, c in nodes],
            "x": [0.999 if side else 0.001 for side, _ in nodes], "y": [places[node] for node in nodes],
            "pad": _PAD, "thickness": 12, "line": {"width": 0},
            "hovertemplate": "%{customdata}: %{value:d} images<extra></extra>",
        },
        link={
            "source": [nodes.index((0, c)) for c in sources], "target": [nodes.index((1, c)) for c in targets],
            "value": values, "color": colours, "customdata": texts, "hovertemplate": "%{customdata}<extra></extra>",
        },
    )  # fmt: skip
    note = "Left the true class, right what it is taken for."
    note += " Solid: wrong without the attack too; pale: through it." if flows.parted else ""
    return figure, note


def _faded(index: int, opacity: float) -> str:
    red, green, blue = (int(class_style(index)["color"][i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def _piled(classes: Sequence[int], values: Sequence[int]) -> dict[int, int]:
    """Return class -> images of all its links on one side, in the order of the classes."""
    return {c: sum(v for d, v in zip(classes, values, strict=True) if d == c) for c in sorted(set(classes))}


def _places(sides: list[dict[int, int]], height: int) -> dict[tuple[int, int], float]:
    """Compute (side, class) -> its middle, from 0 at the top to 1, in a plot of `height` pixels.

    Without these places plotly reorders the classes and writes their names over the links.
    """
    free = _PAD * (max(map(len, sides)) - 1)
    found = {}
    for side, piled in enumerate(sides):
        top, scale = 0.0, (height - free) / max(1, sum(piled.values()))
        gap = (height - scale * sum(piled.values())) / max(1, len(piled) - 1)
        for c, images in piled.items():
            found[side, c] = min(0.999, max(0.001, (top + scale * images / 2) / height))
            top += scale * images + gap
    return found


def _strongest(flows: Flows) -> go.Figure:
    """Draw the strongest flows as bars."""
    import plotly.graph_objects as go

    shown = slice(_STRONGEST)
    labels = [" → ".join(flows.named(pair)) for pair in flows.pairs[shown]]
    figure = go.Figure()
    for (part, (shade, _)), colour in zip(_SHADES.items(), KIND_COLOURS.values(), strict=True):
        if flows.parted or part == "added":
            figure.add_bar(
                y=labels, x=getattr(flows, part)[shown], orientation="h", name=shade, marker_color=colour,
                customdata=flows.percent[shown],
                hovertemplate="%{y}: %{x} images<br>all of this flow: %{customdata:.1f} % of the class<extra></extra>",
            )  # fmt: skip
    figure.update_yaxes(autorange="reversed", automargin=True, tickfont={"size": 11}, dtick=1)
    figure.update_xaxes(title={"text": "images", "standoff": 8})
    return styled(figure, barmode="stack", showlegend=flows.parted)


def confusion_heatmap(verdict: Verdicts, attack: str, run: str = "") -> go.Figure:
    """Draw the share of each true class (column) that is taken for each class (row) under `attack`.

    The diagonal is apart, in grey.
    """
    import plotly.graph_objects as go

    names, classes = list(verdict.class_names), len(verdict.class_names)
    shares = confusion(verdict.labels, verdict.predicted[attack], classes)
    percent, right = np.where(shares > 0, 100 * shares, np.nan), np.eye(classes, dtype=bool)
    look: dict[str, Any] = {"x": names, "y": names, "hoverongaps": False}
    look["hovertemplate"] = "%{z:.1f} % of %{x} are taken for %{y}<extra></extra>"
    look |= {"xgap": 1, "ygap": 1} if classes <= MANY_CLASSES else {}
    look |= {"texttemplate": "%{z:.0f}", "textfont": {"size": 10}} if classes <= _WRITTEN else {}
    bar = {
        "orientation": "h", "thickness": 10, "ticksuffix": " %",
        "lenmode": "pixels", "len": 250, "x": 0, "xanchor": "left", "y": 0, "yref": "container", "yanchor": "bottom",
    }  # fmt: skip
    figure = go.Figure()
    blue: dict[str, Any] = {"zmin": 0, "colorscale": _BLUES, "colorbar": bar, "showscale": classes > _WRITTEN}
    figure.add_heatmap(z=np.where(right, np.nan, percent), **blue, **look)
    figure.add_heatmap(z=np.where(right, percent, np.nan), colorscale=_GREY, showscale=False, **look)
    axis = {"type": "category", "constrain": "domain", "showgrid": False, "zeroline": False, "automargin": True}
    figure.update_xaxes(constraintoward="left", **axis)
    figure.update_yaxes(autorange="reversed", scaleanchor="x", constraintoward="top", **axis)
    norm = f"spectral norm without the diagonal {spectral_norm(shares):.3f}"
    notes = ["Columns: true class. Rows: taken for, in percent of it.", "Grey: what is right. Empty: no image."]
    head = titled(f"{of_run(run)}Confusions under {ATTACK_TITLES[attack]}, {norm}", *notes)
    table = [(names[c], names[r], 100 * shares[r, c]) for c in range(classes) for r in range(classes) if shares[r, c]]
    room = 12 + label_room(names) + (40 if classes > _WRITTEN else 0)
    styled(figure, **head).update_layout(margin_b=room, margin_r=24, height=380 + head["margin"]["t"] + room)
    return tabled(figure, ("true", "predicted", "percent"), table, width=520)
