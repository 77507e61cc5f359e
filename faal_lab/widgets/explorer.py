"""Explore an ambiguity set: turn scores, radius and set, and see the worst case move.

`live_widget` is a plotly FigureWidget for pictures that change when somebody turns a slider (`stream` is for those that change
by themselves). Every private name of plotly that the project uses is in this file, and a test holds it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import ipywidgets as W
import plotly.graph_objects as go

from faal_lab.catalogue import PRICES
from faal_lab.dro import AMBIGUITY_SETS
from faal_lab.dro.radius import largest_multiplier, radius_for_multiplier, stated
from faal_lab.results.teaching import explorer_figure, explorer_values
from faal_lab.widgets.stream import Pane


class WholeFigure(go.FigureWidget):
    """Tells the page of itself when it is whole.

    Plotly's own does so before it has data and sends those afterwards; a page that is busy may draw in between, and then
    the picture stays empty.
    """

    _whole = False

    def open(self) -> None:
        """Open the line to the page, at the second call: the first is ipywidgets', in the middle of plotly's constructor."""
        if self._whole:
            super().open()


def live_widget(figure: go.Figure) -> go.FigureWidget:
    """A FigureWidget that follows the width of its page; all traces must be in it already, a reload would lose later ones."""
    widget = WholeFigure(figure)
    widget._config = {"responsive": True, "displaylogo": False}
    widget._whole = True
    widget.open()
    return widget


_WITHOUT_RADIUS = ("simplex", "point")
_BALLS = [name for name, kind in AMBIGUITY_SETS.items() if kind.limits != PRICES]
_STEP = 0.02  # of the radius slider, in powers of ten


def _snapped(radius: float) -> float:
    """The nearest place of the radius slider; a browser would move it there, and the picture would jump."""
    return 10 ** min(max(round(math.log10(radius) / _STEP) * _STEP, -3), 1)


class Explorer(Pane):
    """Sliders for the scores of each class, for the radius, and a list of sets, beside the picture of the worst case.

    Three classes show the simplex. Where "keep c*" is ticked, another set is taken at the radius with the same largest
    multiplier.
    """

    def __init__(
        self, scores: Sequence[float] = (-0.6, -0.2, 0.3), names: Sequence[str] | None = None, radius: float = 0.2
    ) -> None:
        names = list(names) if names is not None else ["ABCDEFGHIJKLMNOPQRSTUVWXYZ"[c % 26] for c in range(len(scores))]
        wide = W.Layout(width="20rem")
        self.set = W.Dropdown(options=_BALLS, value="kl", description="set", layout=wide).add_class("faal-set")
        self.radius = W.FloatLogSlider(
            value=_snapped(radius), base=10, min=-3, max=1, step=_STEP, description="radius", layout=wide, readout_format=".3f",
            tooltip="How far the distribution may be from uniform, in the set's own measure (for cvar: alpha)",
        ).add_class("faal-radius")  # fmt: skip
        self.keep = W.Checkbox(value=True, description="keep c* when the set changes", indent=False, layout=wide)
        self.scores = [
            W.FloatSlider(value=s, min=-1, max=1, step=0.02, description=name, layout=W.Layout(width="17rem")).add_class(
                "faal-score"
            )
            for s, name in zip(scores, names, strict=True)
        ]
        self.said = W.HTML().add_class("faal-said")
        self.figure = live_widget(explorer_figure(self.ball(), self._values(), names))
        for widget in (self.radius, *self.scores):
            widget.observe(lambda _: self.draw(), "value")
        self.set.observe(self._change_set, "value")
        wrap = W.Layout(flex_flow="row wrap")
        super().__init__(
            [W.HBox([self.set, self.radius, self.keep], layout=wrap), W.HBox(self.scores, layout=wrap), self.said, self.figure]
        )
        self._say(self.ball())

    def _values(self) -> list[float]:
        return [slider.value for slider in self.scores]

    def _limited(self, kind: Any, radius: float) -> float:
        return min(max(radius, kind.limits[0]), kind.limits[1])

    def ball(self) -> Any:
        """The set as the controls stand; a radius beyond what the set allows is taken at its limit."""
        kind = AMBIGUITY_SETS[str(self.set.value)]
        return kind() if self.set.value in _WITHOUT_RADIUS else kind(self._limited(kind, self.radius.value))

    def _change_set(self, change: dict[str, Any]) -> None:
        old, new, classes = AMBIGUITY_SETS[change["old"]], AMBIGUITY_SETS[change["new"]], len(self.scores)
        if self.keep.value and not {change["old"], change["new"]} & set(_WITHOUT_RADIUS):
            most = largest_multiplier(old(self._limited(old, self.radius.value)), classes)
            most = min(max(most, 1 + 1e-6), classes * (1 - 1e-6))
            self.radius.value = _snapped(radius_for_multiplier(new(), most, classes))
        self.draw()

    def draw(self) -> None:
        """Show the worst case of the scores as they stand."""
        ball, scores = self.ball(), self._values()
        with self.figure.batch_update():
            traces: Any = self.figure.data
            for trace, (x, y) in zip(traces, explorer_values(ball, scores), strict=False):
                trace.x, trace.y = x, y
        self._say(ball)

    def _say(self, ball: Any) -> None:
        radius = (
            "no radius" if math.isinf(ball.radius) or self.set.value == "point" else stated(ball, ball.radius, len(self.scores))
        )
        self.said.value = f"<b>{self.set.value}</b>: {radius}"
