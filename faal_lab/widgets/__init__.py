"""Live panels for notebooks: the only importers of ipywidgets.

Knows: run folders, figures, widgets. Must not know: how a run trains; it could be on another machine.
"""

from faal_lab.widgets.comparison import Comparison
from faal_lab.widgets.dashboard import Dashboard
from faal_lab.widgets.explorer import AmbiguityExplorer
from faal_lab.widgets.sweep_panel import SweepPanel
from faal_lab.widgets.workbench import Workbench

__all__ = ["AmbiguityExplorer", "Comparison", "Dashboard", "SweepPanel", "Workbench"]
