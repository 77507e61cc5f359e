"""Show live panels in notebooks. No other folder imports ipywidgets."""

import sys

try:
    from faal_lab.widgets.balance import Balancer
    from faal_lab.widgets.compare import Comparison
    from faal_lab.widgets.dashboard import Dashboard
    from faal_lab.widgets.explorer import Explorer
    from faal_lab.widgets.sweep import SweepPanel
    from faal_lab.widgets.workbench import Workbench
except ModuleNotFoundError as error:
    if (error.name or "").startswith("faal_lab"):
        raise
    raise ImportError(
        f"The panels need {error.name}, which this kernel's Python ({sys.executable}) does not have. Install faal-lab with "
        "all it needs there (pip install -e . in its folder), or choose the kernel that has it."
    ) from error

__all__ = ["Balancer", "Comparison", "Dashboard", "Explorer", "SweepPanel", "Workbench"]
