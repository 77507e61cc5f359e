"""A page's picture: drawn where kaleido and a browser are there; said what is missing, where they are not."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import plotly.graph_objects as go


def draw(figure: go.Figure, file: Path) -> None:
    """Write the figure as a PNG. The page is worth having without it: what cannot be drawn leaves the old picture."""
    if find_spec("kaleido") is None:
        print(f"{file} was not drawn: it needs kaleido (pip install 'faal-lab[pictures]').")
        return
    try:
        figure.write_image(file, scale=1)
    except RuntimeError:  # kaleido's and the browser's errors are all of this kind
        print(f"{file} was not drawn: it needs Chromium or Chrome (on Debian: apt-get install chromium).")
