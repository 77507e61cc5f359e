"""A plotly FigureWidget for pictures that change when somebody turns a slider, not by themselves (`stream` is for those).

Every private name of plotly that the project uses is in this file, and a test holds it.
"""

from __future__ import annotations

import plotly.graph_objects as go


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
