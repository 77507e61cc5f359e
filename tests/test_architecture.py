"""Imports point one way, and everything down to keeping works without the packages of the upper floors."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "faal_lab"

# Top to bottom; a module may import modules above it, and its own room.
ORDER = [
    "errors", "catalogue", "combination", "presets", "ranges", "config", "events", "progress", "hashing", "runs", "parameters",
    "keyed_random", "class_stats", "ambiguity", "adversary", "objectives", "models", "data", "sampling", "fairness", "averaging",
    "recipe", "machine", "signals", "evaluation", "state", "steering", "attacking", "passes", "descent", "memory", "measuring",
    "training", "microscope", "foreign", "restore", "experiment", "testing", "adoption", "live", "history", "records", "hardest",
    "evaluated", "seen", "epoch_times", "tables", "published", "table_files", "html_tables", "figures", "confusion_figures",
    "evaluation_figures", "study_figures", "export", "ambiguity_figures", "microscope_figures", "exercises", "report", "checking",
    "sweep", "widgets", "demo", "seeds", "doctor", "lab", "page", "commands", "cli", "__main__",
]  # fmt: skip
SHOWING = ORDER.index("figures")
HEAVY = (
    "plotly",
    "ipywidgets",
    "cvxpy",
    "papermill",
    "sklearn",
    "scipy",
    "PIL",
    "tqdm",
    "anywidget",
    "pyautoattack",
    "torchvision",
    "robustbench",
)


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def modules() -> list[Path]:
    return [p for p in sorted(PACKAGE.rglob("*.py")) if p != PACKAGE / "__init__.py"]


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("faal_lab"):
            rest = node.module.split(".")[1:]
            names |= {rest[0]} if rest else {alias.name for alias in node.names}
    return names - {"__version__"}


def test_every_module_has_a_place() -> None:
    assert {room(p) for p in modules()} == set(ORDER)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_up(path: Path) -> None:
    mine = ORDER.index(room(path))
    below = {name for name in imported(path) if ORDER.index(name) > mine}
    assert not below, f"{path.name} imports {below}, which stand below it"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_are_short_and_say_what_they_are(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 300
    assert ast.get_docstring(ast.parse(text)), "a module says what it knows"


def test_everything_down_to_keeping_imports_without_the_heavy_packages() -> None:
    names = [f"faal_lab.{name}" for name in ORDER[:SHOWING]]
    code = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {HEAVY!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import importlib
for name in {names!r}:
    importlib.import_module(name)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_only_widgets_import_ipywidgets() -> None:
    users = {room(p) for p in modules() if "import ipywidgets" in p.read_text()}
    assert users == {"widgets"}


LIGHT = "import sys; {}; assert not sys.modules.keys() & {{'torch', 'numpy', 'scipy', 'plotly', 'sklearn'}}, 'heavy'"


@pytest.mark.parametrize("module", ["faal_lab", "faal_lab.cli", "faal_lab.runs", "faal_lab.parameters", "faal_lab.sweep.plan"])
def test_what_answers_at_once_loads_no_torch(module: str) -> None:
    found = subprocess.run([sys.executable, "-c", LIGHT.format(f"import {module}")], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_environment_yml_installs_what_pyproject_lists() -> None:
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert conda["dependencies"] == [f"python{project['requires-python']}", "pip", {"pip": ["-e ."]}]
    assert all(">=" in d for group in [project["dependencies"], *project["optional-dependencies"].values()] for d in group)
