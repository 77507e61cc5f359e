"""faal_lab: see, steer and fix the class-wise robustness of neural networks.

    import faal_lab as fl

    base = fl.train(data="digits", epsilon=0.1, out="runs/base")
    fair = fl.train(base=base, fairness="faal", tau=0.5, out="runs/fair")
    fl.evaluate([base, fair], "clean,pgd-20,autoattack")
    fl.compare(base, fair)

Every public name is loaded when it is first used, so that the import takes milliseconds.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from faal_lab import catalogue, dro
    from faal_lab.api import Run, balance, open_run, steps, train
    from faal_lab.data.look import look
    from faal_lab.dro import KLBall, solve
    from faal_lab.evaluation.adopt import adopt
    from faal_lab.evaluation.evaluate import evaluate
    from faal_lab.methods.contract import check_method
    from faal_lab.methods.fairness.faal import FAAL
    from faal_lab.methods.recipe import Recipe
    from faal_lab.results import plot
    from faal_lab.results.check import check
    from faal_lab.results.formats import table
    from faal_lab.results.report import compare, report
    from faal_lab.runs.config import Config
    from faal_lab.sweeps.demo import demo
    from faal_lab.sweeps.run import sweep
    from faal_lab.training import parameters
    from faal_lab.widgets import Balancer, Comparison, Dashboard, Explorer, Workbench

__all__ = [
    "FAAL",
    "Balancer",
    "Comparison",
    "Config",
    "Dashboard",
    "Explorer",
    "KLBall",
    "Recipe",
    "Run",
    "Workbench",
    "adopt",
    "balance",
    "catalogue",
    "check",
    "check_method",
    "compare",
    "demo",
    "dro",
    "evaluate",
    "look",
    "open_run",
    "parameters",
    "plot",
    "report",
    "solve",
    "steps",
    "sweep",
    "table",
    "train",
]  # fmt: skip

_WHERE = {
    **dict.fromkeys(("Run", "balance", "open_run", "steps", "train"), "api"),
    **dict.fromkeys(("KLBall", "solve"), "dro"),
    "Config": "runs.config",
    "look": "data.look",
    "Recipe": "methods.recipe",
    "FAAL": "methods.fairness.faal",
    "check_method": "methods.contract",
    "adopt": "evaluation.adopt",
    "evaluate": "evaluation.evaluate",
    **dict.fromkeys(("compare", "report"), "results.report"),
    "check": "results.check",
    "table": "results.formats",
    "sweep": "sweeps.run",
    "demo": "sweeps.demo",
    **dict.fromkeys(("Balancer", "Comparison", "Dashboard", "Explorer", "Workbench"), "widgets"),
}
_MODULES = {"catalogue": "catalogue", "dro": "dro", "parameters": "training.parameters", "plot": "results.plot"}

# OpenMP's idle threads shall give their core up soon, in this process and in those it starts: torch, which is loaded later, reads
# this once. By default they spin for milliseconds. Two cores, digits, FAAL: 55 batches a second alone and 6 to 12 beside two busy
# processes; so, 48 and 18; passively, 32 and 26. Whoever sets a policy keeps it.
if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
    os.environ["GOMP_SPINCOUNT"] = "1000"


def __getattr__(name: str) -> Any:
    if name == "__version__":  # read when asked for: the lookup takes longer than the import
        from importlib import metadata

        return metadata.version("faal-lab")
    if name in _MODULES:
        return importlib.import_module(f"faal_lab.{_MODULES[name]}")
    if name in _WHERE:
        return getattr(importlib.import_module(f"faal_lab.{_WHERE[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
