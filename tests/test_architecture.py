"""The house: ten rooms whose imports go down only, files of a readable size, and nothing heavy before it is needed."""

import ast
import subprocess
import sys
import tomllib
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "faal_lab"

# From the ground up; a module imports rooms below its own, and its own room.
ORDER = [
    "errors", "settings", "catalogue", "dro", "runs", "data", "models", "methods", "training", "evaluation", "results", "sweeps", "widgets",
    "api", "cli", "__main__",
]  # fmt: skip
ROOMS = [name for name in ORDER if (PACKAGE / name).is_dir()]
HEAVY = (
    "plotly", "ipywidgets", "cvxpy", "papermill", "sklearn", "scipy", "PIL", "tqdm", "anywidget", "pyautoattack", "torchvision",
    "robustbench",
)  # fmt: skip
TRAINING = ["errors", "settings", "catalogue", "dro", "runs", "data", "models", "methods", "training", "evaluation"]


@cache
def modules() -> dict[str, Path]:
    """Dotted name below the package -> file; a room's __init__ has the room's name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    del found["__init__"]
    return found


def room(module: str) -> str:
    return module.split(".")[0]


@cache
def imports(module: str) -> frozenset[str]:
    """The modules of ours that a module names in an import statement, wherever it stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(modules()[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "faal_lab":
            origin = node.module.partition(".")[2]
            for alias in node.names:
                below = f"{origin}.{alias.name}" if origin else alias.name
                names |= {below if below in modules() else origin} - {"", module}
    return frozenset(names)


def arrows() -> set[tuple[str, str]]:
    """Which room imports which."""
    return {(room(m), room(name)) for m in modules() for name in imports(m) if room(m) != room(name)}


def floors() -> int:
    """The rooms of the longest way down: the command, which is everything at the root but the ground, counts as one."""
    below = {name: {low for high, low in arrows() if high == name} for name in ORDER}
    height: dict[str, int] = {}
    for name in ORDER:
        height[name] = 1 + max((height[low] for low in below[name]), default=0)
    return height["widgets"] + 1


def test_every_module_has_a_place() -> None:
    assert {room(name) for name in modules()} == set(ORDER)
    assert len(ROOMS) == 10


@pytest.mark.parametrize("module", modules())
def test_imports_go_down(module: str) -> None:
    mine = ORDER.index(room(module))
    above = {name for name in imports(module) if ORDER.index(room(name)) > mine}
    assert not above, f"{module} imports {above}, which are above it"


def test_no_import_goes_in_a_circle() -> None:
    list(TopologicalSorter({name: imports(name) for name in modules()}).static_order())  # raises CycleError, which names it


def test_the_house_is_as_simple_as_it_was_drawn() -> None:
    assert floors() <= 12
    assert len(arrows()) <= 85


@pytest.mark.parametrize("module", modules())
def test_a_file_is_readable_and_says_what_it_does(module: str) -> None:
    path = modules()[module]
    text = path.read_text(encoding="utf-8")
    lines = text.count("\n")
    assert lines <= 400
    if path.stem not in ("__init__", "__main__", "errors") and path.parent.name != "fairness":  # one file a method
        assert lines >= 60
    said = ast.get_docstring(ast.parse(text))
    assert said, "a module says what it does"
    assert "Knows:" not in said, "the order of imports is one table and one test"


def test_a_room_can_be_taken_in_at_a_glance() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 7
    folders = {path.parent for path in PACKAGE.rglob("*.py")} - {PACKAGE}
    assert {f.name: n for f in folders if (n := len(list(f.glob("*.py")))) > 12} == {}
    assert len(modules()) <= 138
    tests = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and not path.name.startswith("__")}
    assert tests == set(ROOMS), "tests have a folder for each room"


def test_everything_down_to_evaluation_imports_without_the_heavy_packages() -> None:
    names = [f"faal_lab.{name}" for name in modules() if room(name) in TRAINING]
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
    users = {room(name) for name, path in modules().items() if "import ipywidgets" in path.read_text(encoding="utf-8")}
    assert users == {"widgets"}


LIGHT = "import sys; {}; assert not sys.modules.keys() & {{'torch', 'numpy', 'scipy', 'plotly', 'sklearn'}}, 'heavy'"


@pytest.mark.parametrize(
    "module", ["faal_lab", "faal_lab.cli", "faal_lab.runs", "faal_lab.training.parameters", "faal_lab.sweeps.plan"]
)
def test_what_answers_at_once_loads_no_torch(module: str) -> None:
    found = subprocess.run([sys.executable, "-c", LIGHT.format(f"import {module}")], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_environment_yml_installs_what_pyproject_lists() -> None:
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert conda["dependencies"] == [f"python{project['requires-python']}", "pip", {"pip": ["-e ."]}]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    assert all(">=" in d or d.startswith("faal-lab[") for group in lists for d in group)


@cache
def documentation(path: Path) -> int:
    """The lines of a file's docstrings."""
    nodes = [
        n
        for n in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(n, ast.AsyncFunctionDef | ast.ClassDef | ast.FunctionDef | ast.Module)
    ]
    held = [n.body[0] for n in nodes if ast.get_docstring(n) is not None]
    return sum((n.end_lineno or n.lineno) - n.lineno + 1 for n in held)


def code_lines() -> int:
    """The lines of the package without its docstrings: public names are to have arguments and examples."""
    return sum(path.read_text(encoding="utf-8").count("\n") - documentation(path) for path in PACKAGE.rglob("*.py"))


def test_the_house_does_not_grow_unseen() -> None:
    assert code_lines() <= 21_200


if __name__ == "__main__":
    sizes = {name: path.read_text(encoding="utf-8").count("\n") for name, path in modules().items()}
    between = [(m, name) for m in modules() for name in imports(m) if room(m) != room(name)]
    print(
        f"{len(sizes)} files, {sum(sizes.values())} lines ({code_lines()} without docstrings), {len(ROOMS)} rooms, {floors()} floors, {len(arrows())} arrows between rooms"
    )
    print(f"{len(between)} imports of a module in another room")
