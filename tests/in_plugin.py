"""The template in docs/plugin as a user has it: a copy, installed by pip into a folder or an environment."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
LISTED = "top-half           Classes that do worse than the median"  # in `faal-lab methods`
# for a Python that sees the installed template, in an empty folder
TRIED = """
import sys
from pathlib import Path
from faal_lab import catalogue
assert "top-half" in catalogue.FAIRNESS and "torch" not in sys.modules
import faal_lab as fl
bench = fl.Workbench("runs")
assert "top-half" in bench.settings["fairness"].options
bench.close()
run = fl.train(fairness="top-half", epochs=1, batch_size=250, attack_steps=1, validation_steps=1, quiet=True, out="runs/a")
weights = run.history.filter(like="weights").to_numpy()
assert run.status == "done" and abs(weights.max() / weights.min() - 2) < 1e-6, weights
assert fl.check_method("top-half")
"""


def copied(folder: Path) -> Path:
    """A copy without what a build leaves behind, so that pip writes nothing into this checkout."""
    return Path(
        shutil.copytree(ROOT / "docs" / "plugin", folder, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    )


def installed(source: Path, site: Path) -> dict[str, str]:
    """The environment of a Python that sees `source` installed in the folder `site`, and this checkout; needs no network."""
    words = ["install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(site), str(source)]
    done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(site)])}
