"""Draw live panels as one anywidget: the page gets arrays as bytes and draws them on canvas.

`Pane` is the base of every panel. A page without widgets prints one sentence in its place, instead of its contents.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets as W
import numpy as np
import traitlets


class Pane(W.VBox):
    """A column of widgets. Pages without widgets print its repr, cut by ipywidgets after 110 characters."""

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"{name}: no widgets here. In JupyterLab's environment: pip install jupyterlab_widgets anywidget; reload"

    def _repr_mimebundle_(self, *asked: Any, **more: Any) -> Any:
        """Return what a notebook shows, after a place for the picture that a saved notebook keeps."""
        for view in streams(self):
            view.keep_stills()
        return super()._repr_mimebundle_(*asked, **more)


def streams(widget: W.Widget) -> Iterator[StreamView]:
    """Yield the grids of panels in a widget."""
    if isinstance(widget, StreamView):
        yield widget
    for child in getattr(widget, "children", ()):
        yield from streams(child)


HERTZ = 2.5
# The page may be this many updates behind; it reports its position every half of that. Each report made the kernel busy and idle
# again. JupyterLab shows that in three places and lays out the page anew, which costs more than drawing.
AHEAD = 8
_PULSE = 2.0  # seconds between two signs of life; the page calls itself disconnected after three missing ones
_PATIENCE = 2.0  # seconds to wait for a page that does not respond
_EMPTY = "\u200b"  # of no width: an output that holds nothing yet
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Picture:
    """Data of one panel: R lines (or rows of a heatmap) of T points, or one bar for each of T classes."""

    x: np.ndarray  # [T]
    y: np.ndarray  # [R, T]; [1, T] for bars
    faint: np.ndarray | None = None  # [R, T], behind the lines
    low: np.ndarray | None = None  # [T], whiskers of bars, or a band behind the followed class's line
    high: np.ndarray | None = None


class StreamView(anywidget.AnyWidget):
    """A grid of the panels in `spec` (see `panels.panel_spec`); `show` sends their data.

    `followed` is the class highlighted in every panel (-1: none), in sync with the page. `zoom` is the span of batches that the
    page shows, None for all. `asked` is True if the page needs an update although the data are unchanged. `kept` is the length of
    the picture that the notebook keeps, by which the page finds and hides it.
    """

    _esm = "".join((_HERE / f"{part}.js").read_text(encoding="utf-8") for part in ("drawing", "panels", "view"))
    _css = (_HERE / "panels.css").read_text(encoding="utf-8")
    spec = traitlets.Dict().tag(sync=True)
    followed = traitlets.Int(-1).tag(sync=True)
    kept = traitlets.Int(0).tag(sync=True)

    def __init__(self, spec: dict[str, Any]) -> None:
        super().__init__(spec=spec)
        self.zoom: tuple[float, float] | None = None
        self.asked = True
        self._number, self._drawn, self._sent = 0, 0, -_PATIENCE
        self._live, self._pulsed = False, 0.0
        self._place: Any = None  # an output of the cell, beside the widget's
        self.on_msg(self._heard)

    def _heard(self, _: Any, message: dict[str, Any], buffers: Any) -> None:
        kind = message.get("kind")
        if kind == "drawn":
            self._drawn = max(self._drawn, int(message["number"]))
        elif kind == "zoom":
            self.zoom = None if message["span"] is None else (float(message["span"][0]), float(message["span"][1]))
            self.asked = True
        elif kind == "hello":
            self._drawn, self.asked, self._pulsed = self._number, True, 0.0
        elif kind == "still" and self._place is not None:
            self.kept = len(message["png"])
            self._place.update({"image/png": message["png"], "text/plain": message["text"]}, raw=True)

    def keep_stills(self) -> None:
        """Make an output beside the widget's for a picture: a notebook that is opened without its kernel shows that.

        The page hides it as long as it shows the widget. Later pictures go to the newest output.
        """
        from IPython.display import display

        self._place = display({"text/plain": _EMPTY}, raw=True, display_id=True)

    def still(self, text: str) -> None:
        """Ask the page for a picture of the panels under a text, to be kept in the notebook."""
        if self._place is not None:
            self.send({"kind": "still", "text": text})

    def ready(self) -> bool:
        """Return whether an update may be sent now."""
        waited = time.monotonic() - self._sent
        return waited >= 1 / HERTZ and (self._number - self._drawn < AHEAD or waited >= _PATIENCE)

    def show(self, pictures: dict[str, Picture], marks: list[dict[str, Any]]) -> None:
        """Send the data of panels, by id, and marks for turned dials: {"x": batch, "text": ...}."""
        self._sent, self.asked = time.monotonic(), False
        self._number += 1
        buffers: list[bytes] = []
        panels: dict[str, dict[str, int]] = {}
        for name, picture in pictures.items():
            entry = panels[name] = {"rows": len(picture.y)}
            for part in fields(picture):
                values = getattr(picture, part.name)
                if values is not None:
                    entry[part.name] = len(buffers)
                    buffers.append(np.ascontiguousarray(values, dtype=np.float32).tobytes())
        self.send({"kind": "data", "number": self._number, "panels": panels, "marks": marks}, buffers)

    def pulse(self, live: bool) -> None:
        """Send a sign of life while a run is `live`. A page without one says since when it is disconnected."""
        now = time.monotonic()
        if live != self._live or (live and now - self._pulsed >= _PULSE):
            self._live, self._pulsed = live, now
            self.send({"kind": "pulse", "live": live})

    def save(self, files: dict[str, bytes], picture: str) -> None:
        """Offer `files` (content by name) and a PNG of the panels, named `picture`, for download."""
        self.send({"kind": "save", "files": list(files), "picture": picture}, list(files.values()))
