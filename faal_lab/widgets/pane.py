"""What every panel has in common: a page that cannot show it gets a sentence instead of its contents spelled out.

Must not know: what is in a panel.
"""

from __future__ import annotations

import ipywidgets as W


class Pane(W.VBox):
    """A column of widgets. Where a page shows no widgets it stands as text, which ipywidgets cuts after 110 characters."""

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"{name}: no widgets here. In JupyterLab's environment: pip install jupyterlab_widgets anywidget; reload"
