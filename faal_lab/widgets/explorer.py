"""Explore an ambiguity set: change scores, radius and set, and see the worst case move.

`live_widget` is a plotly FigureWidget for figures that change with a slider; `stream` draws those that change by themselves.
Every private name of plotly that the project uses is in this file (a test checks it).
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

import ipywidgets as W
import plotly.graph_objects as go

from faal_lab.catalogue import AMBIGUITY_SETS, PRICES
from faal_lab.dro.radius import largest_multiplier, radius_for_multiplier, stated
from faal_lab.errors import OwnPartError
from faal_lab.results.teaching import explorer_figure, explorer_values
from faal_lab.widgets.stream import Pane


class WholeFigure(go.FigureWidget):
    """A FigureWidget that connects to the page only once it is complete.

    Plotly's own connects first and sends its data afterwards. A busy page drew in between, and the figure stayed empty.
    """

    _whole = False

    def open(self) -> None:
        """Connect to the page. The first call does nothing: it comes from within plotly's constructor."""
        if self._whole:
            super().open()


def live_widget(figure: go.Figure) -> go.FigureWidget:
    """Return a FigureWidget as wide as its page. A reload of the page loses traces added later."""
    widget = WholeFigure(figure)
    widget._config = {"responsive": True, "displaylogo": False}
    widget._whole = True
    widget.open()
    return widget


_WITHOUT_RADIUS = ("simplex", "point")
_BALLS = [name for name, row in AMBIGUITY_SETS.items() if row.limits != PRICES]
_STEP = 0.02  # of the radius slider, in powers of ten


def _snapped(radius: float) -> float:
    """Round a radius to a step of the slider. A browser would do so itself, and the picture would jump."""
    return 10 ** min(max(round(math.log10(radius) / _STEP) * _STEP, -3), 1)


class Explorer(Pane):
    """Explore ambiguity sets: sliders for scores and radius, and the worst case.

    With three classes the figure is the simplex. If "keep c*" is ticked, a new set gets the radius with the same largest
    multiplier.

    Args:
        scores: score of each class, in [-1, 1]; three classes by default.
        names: name of each class (default: A, B, C, ...).
        radius: first radius, from 0.001 to 10, rounded to a step of the slider (0.2 by default).

    >>> from faal_lab.widgets import Explorer
    >>> explorer = Explorer(scores=(0.5, 0.0, -0.5))
    >>> explorer.set.value = "chi-square"  # as a choice in the list does
    >>> explorer.ball().__class__.__name__
    'ChiSquareBall'
    >>> explorer.draw()
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
        """Return the set that the controls state.

        Returns:
            An ambiguity set. A radius outside its limits is clipped.
        """
        kind = AMBIGUITY_SETS[str(self.set.value)].make
        return kind() if self.set.value in _WITHOUT_RADIUS else kind(self._limited(kind, self.radius.value))

    def _change_set(self, change: dict[str, Any]) -> None:
        try:
            old, new, classes = AMBIGUITY_SETS[change["old"]].make, AMBIGUITY_SETS[change["new"]].make, len(self.scores)
        except OwnPartError as error:
            self.set.value, self.said.value = change["old"], html.escape(str(error))
            return
        if self.keep.value and not {change["old"], change["new"]} & set(_WITHOUT_RADIUS):
            most = largest_multiplier(old(self._limited(old, self.radius.value)), classes)
            most = min(max(most, 1 + 1e-6), classes * (1 - 1e-6))
            self.radius.value = _snapped(radius_for_multiplier(new(), most, classes))
        self.draw()

    def draw(self) -> None:
        """Show the worst case of the scores on the sliders."""
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
