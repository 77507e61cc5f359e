"""The diffs of CONTRIBUTING.md apply to the code as it is, and what they add works."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
QUICK = "epochs=1, batch_size=250, attack_steps=1, validation_steps=1, quiet=True"

# Heading -> what the part must do, once the diff is applied.
WORKS = {
    "A fairness method": f"""
run = fl.train(fairness="top-half", out="runs/a", {QUICK})
weights = run.history.filter(like="weights").to_numpy()
assert (abs(weights.sum(1) - 1) < 1e-6).all() and weights.max() > 1.3 * weights.min()
assert "top-half" in fl.catalogue.parts()["fairness"]
""",
    "An ambiguity set": """
import torch
from faal_lab.dro import Contamination, conic
scores = torch.randn(20, 6, generator=torch.Generator().manual_seed(0)).double()
for radius in (0.0, 0.1, 0.9):
    found, oracle = Contamination(radius).worst_case(scores), [conic.solve(Contamination(radius), row) for row in scores]
    assert torch.allclose(found.value, torch.stack([o.value for o in oracle]), atol=1e-6), radius
assert fl.solve([1, 0, 0], tau=0.3, ambiguity="contamination").weights.round(decimals=3).tolist() == [0.533, 0.233, 0.233]
""",
    "An objective": f"""
run = fl.train(objective="smoothed", fairness="faal", out="runs/a", {QUICK})
assert run.status == "done"
""",
    "A setting": f"""
from faal_lab.cli import application
assert fl.train(nesterov=True, out="runs/a", {QUICK}).config.nesterov is True
_, bound, *_ = application().parse_args(["run", "--nesterov"])
assert bound.arguments["stated"] == {{"nesterov": True}}
assert fl.parameters.run_parameters({{"nesterov": True}})[0].nesterov
""",
    "A panel": f"""
from faal_lab.runs.history import load_history
from faal_lab.widgets.panels import panel_spec, pictures
run = fl.train(fairness="faal", tau=0.3, out="runs/a", {QUICK})
history, names = load_history(run)
assert "dial" in [panel["id"] for panel in panel_spec(names)["panels"]]
assert (pictures(history, 10)["dial"].y == 0.3).all()
""",
}


def sections() -> dict[str, str]:
    found = re.findall(r"^### ([^\n]+)\n(?:(?!^###).)*?```diff\n(.*?)```", TEXT, re.S | re.M)
    return dict(found)


def test_each_part_has_its_diff() -> None:
    assert sections().keys() == WORKS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("title", WORKS)
def test_a_diff_applies_and_runs(title: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "faal_lab", tmp_path / "faal_lab", ignore=shutil.ignore_patterns("__pycache__"))
    applied = subprocess.run(
        ["git", "apply", "--verbose", "-"], input=sections()[title], cwd=tmp_path, capture_output=True, text=True
    )
    assert applied.returncode == 0, applied.stderr
    code = "import faal_lab as fl; from pathlib import Path; assert Path(fl.__file__).is_relative_to(Path.cwd())\n" + WORKS[title]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
