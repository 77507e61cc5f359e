"""One plotly FigureWidget that is fed several times a second without choking the browser.

Every private name of plotly that the project uses is in this file, and a test holds each of them.
A FigureWidget re-sends whole arrays and queues without limit: so at most HERTZ updates a second, each sent only
after the browser has drawn the one before (or two seconds have passed: nobody is looking).
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import plotly.graph_objects as go

HERTZ = 4.0
_PATIENCE = 2.0  # seconds to wait for a browser that does not answer


def live_widget(figure: go.Figure) -> go.FigureWidget:
    """A FigureWidget that follows the width of its page."""
    widget = go.FigureWidget(figure)
    widget._config = {"responsive": True, "displaylogo": False}
    return widget


class LiveFigure:
    """A FigureWidget with a throttle. `figure` must hold all its traces: later ones would be lost on a page reload."""

    def __init__(self, figure: go.Figure) -> None:
        self.widget = live_widget(figure)
        self._busy, self._sent = False, -_PATIENCE
        self.widget.observe(self._drawn, "_js2py_traceDeltas")

    def _drawn(self, change: Any) -> None:
        if change["new"]:
            self._busy = False

    def ready(self) -> bool:
        """Whether an update may be sent now."""
        waited = time.monotonic() - self._sent
        return waited >= 1 / HERTZ and (not self._busy or waited >= _PATIENCE)

    def update(self, lines: dict[int, tuple[np.ndarray, np.ndarray]], shapes: list[dict[str, Any]] | None = None) -> None:
        """Give traces (by index) new x and y, and the figure new shapes, in one message.

        Numbers travel as int32 and float32, which plotly sends as bytes; other types would go as text.
        """
        self._busy, self._sent = True, time.monotonic()
        with self.widget.batch_update():
            for index, (x, y) in lines.items():
                trace: Any = self.widget.data[index]
                trace.x = x.astype(np.int32) if np.issubdtype(x.dtype, np.number) else x
                trace.y = y.astype(np.float32)
            if shapes is not None:
                self.widget.layout.shapes = shapes

    def remember(self) -> None:
        """Renew the picture that a reloaded page starts from; it costs a whole figure, so do it at pauses and ends."""
        self.widget._repr_mimebundle_()
