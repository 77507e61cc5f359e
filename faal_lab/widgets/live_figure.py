"""A plotly FigureWidget for pictures that change when somebody turns a slider, not by themselves (`stream` is for those).

Every private name of plotly that the project uses is in this file, and a test holds it.
"""

from __future__ import annotations

import plotly.graph_objects as go


def live_widget(figure: go.Figure) -> go.FigureWidget:
    """A FigureWidget that follows the width of its page; all traces must be in it already, a reload would lose later ones."""
    widget = go.FigureWidget(figure)
    widget._config = {"responsive": True, "displaylogo": False}
    return widget
