"""What `import faal_lab as fl` offers does what its example says, and its docstrings' examples run."""

import ast
import doctest
import importlib
import inspect
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
from made_up import verdicts

import faal_lab as fl
from faal_lab import errors

ROOT = Path(__file__).parent.parent
QUICK = {"epochs": 1, "batch_size": 250, "attack_steps": 1, "validation_steps": 1, "quiet": True}


def test_every_public_name_is_there_and_loads_nothing_before_it_is_used() -> None:
    assert {name for name in fl.__all__ if not hasattr(fl, name)} == set()
    assert len(fl.__all__) <= 29
    assert set(fl.__all__) <= set(dir(fl))
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        fl.trian  # noqa: B018
    code = "import sys, faal_lab as fl; fl.catalogue; fl.Config(tau=0.3); assert not sys.modules.keys() & {'torch', 'numpy'}"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_example_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    base = fl.train(data="digits", epsilon=0.1, out="runs/base", **QUICK)
    fair = fl.train(base=base, fairness="faal", tau=0.5, out="runs/fair", **QUICK)
    assert (base.status, fair.status, fair.config.base) == ("done", "done", "runs/base")
    found = fl.evaluate([base, fair], attacks="clean,pgd-20", images=100, quiet=True)
    assert list(found) == ["base", "fair"]
    table = fl.table(base, fair)
    assert list(table.index) == [(run, attack) for run in ("base", "fair") for attack in ("clean", "pgd-20")]
    assert (table.average_low <= table.average).all()
    assert (table.worst <= table.worst_high).all()
    assert fl.table(found, attack="clean").average.tolist() == table.average.iloc[::2].tolist()
    compared = fl.compare(base, fair)
    assert fl.compare(base, {"b": found["fair"]})["b"].names == ("base", "b"), "the first one is the first one"
    means = fl.table({"seeds": [found["base"], found["fair"]]}, attack="pgd-20")
    assert means.seeds.item() == 2
    assert means.average.item() == pytest.approx(fl.table(found, attack="pgd-20").average.mean())
    assert compared["fair"].names == ("base", "fair")
    assert str(compared).startswith("fair against base: ")
    assert str(fl.compare(found, attack="clean")) != str(compared)
    for figure in (
        fl.plot.bars(base, fair, attack="clean"),
        fl.plot.confusion(fair),
        fl.plot.weights(fair),
        fl.plot.radii(found["fair"]),
    ):
        assert figure.data
    page = fl.report(base, fair, out="report.html")
    assert "fair against base" in page.read_text(encoding="utf-8")
    assert capsys.readouterr().out.startswith("Under PGD-20, base classifies ")
    assert fl.check(base, worst=0.0)
    assert not fl.check(base, average=99.0)
    assert "average" in capsys.readouterr().out
    assert [
        type(event).__name__
        for event in fl.steps(fl.Config.from_mapping({k: v for k, v in QUICK.items() if k != "quiet"}), "runs/mine")
    ][-1] == "RunFinished"
    assert fl.open_run("runs/mine").history.step.tolist() == [1, 2, 3, 4]
    assert fl.open_run("runs/fair").verdicts().survived.keys() == {"clean", "pgd-20"}
    assert fair.model().training is False


def test_a_run_is_steered_from_anywhere(base: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(base, tmp_path / "run")
    run = fl.open_run(tmp_path / "run")
    run.turn(tau=0.7, epsilon=0.05)
    run.stop()
    sent = [json.loads(file.read_text()) for file in sorted((run.path / "control").glob("*.json"))]
    assert [(c["do"], c["dial"], c["value"]) for c in sent] == [
        ("turn", "tau", 0.7),
        ("turn", "epsilon", 0.05),
        ("stop", "", 0.0),
    ]
    with pytest.raises(errors.UnknownName, match="Did you mean 'tau'"):
        run.turn(epsilon=0.01, tua=1)
    assert len(list((run.path / "control").glob("*.json"))) == 3, "nothing is turned where one dial is wrong"


@pytest.mark.parametrize(
    "call, text",
    [
        (lambda: fl.train(fairness="fal"), "Did you mean 'faal'"),
        (lambda: fl.train(fl.Config(), tau=1.0), "config holds all settings"),
        (lambda: fl.train(resume=True), "give out, and nothing else"),
        (lambda: fl.train(tau_changes="0:1"), "acts with fairness=faal only"),
        (lambda: fl.open_run("nowhere"), "nowhere is not a run folder"),
        (lambda: fl.compare(), "Name at least one evaluated run"),
        (lambda: fl.evaluate("x", "pgd-2O"), "Did you mean 'pgd-20'"),
        (lambda: fl.solve([1, 2], ambiguity="tv"), "Unknown ambiguity set 'tv'"),
        (lambda: fl.plot.bars({"a": verdicts([3, 4])}, attack="pgd-2O"), "Did you mean 'pgd-20'"),
        (lambda: fl.plot.confusion(verdicts([3, 4]), "fgsm"), "fgsm was not evaluated; there are clean, pgd-20"),
        (lambda: fl.plot.bars({"a": verdicts([3, 4]), "b": verdicts([3, 4, 5])}), "a and b"),
        (lambda: fl.plot.over("x", setting="taw"), "Did you mean 'tau'"),
    ],
)
def test_errors_say_what_was_expected(call, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exception, match=text) as caught:
        call()
    assert isinstance(caught.value, errors.FaalLabError)
    assert not any(tmp_path.iterdir())


def modules_with_examples() -> list[str]:
    found = []
    for path in sorted((ROOT / "faal_lab").rglob("*.py")):
        if ">>>" in path.read_text(encoding="utf-8"):
            found.append(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    return found


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_in_docstrings_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    monkeypatch.chdir(tmp_path)
    failed, tried = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert tried
    assert failed == 0


# A press of these buttons starts a process or steers one, and the panel needs a page.
PRESSED = {f"Workbench.{name}" for name in ("look_at", "pause", "start", "step", "epoch", "stop", "turn")}
TOO_LONG = {"demo"}  # its example is there and not run: it trains three models and attacks them


def public() -> dict[str, Any]:
    """Name -> function, class, method or property of all that `import faal_lab as fl` offers."""
    found = {name: thing for name in fl.__all__ if not inspect.ismodule(thing := getattr(fl, name))}
    found |= {name: getattr(fl.dro, name) for name in fl.dro.__all__ if name != "AMBIGUITY_SETS"}
    found |= {f"plot.{name}": getattr(fl.plot, name) for name in fl.plot.__all__}
    for module in (fl.catalogue, fl.parameters):
        own = {
            name: thing for name, thing in inspect.getmembers(module, inspect.isfunction) if thing.__module__ == module.__name__
        }
        found |= {f"{module.__name__.split('.')[-1]}.{name}": thing for name, thing in own.items() if name[0] != "_"}
    for name, thing in list(found.items()):
        if inspect.isclass(thing):
            plain = {key: getattr(member, "__func__", member) for key, member in vars(thing).items() if key[0] != "_"}
            found |= {f"{name}.{key}": member for key, member in plain.items() if isinstance(member, FunctionType | property)}
    return found


PUBLIC = public()


def section(said: str, title: str) -> str:
    """The indented lines below a title such as Args."""
    return (re.findall(rf"^{title}:\n((?: .*\n?|\n)+)", said, re.M) or [""])[0]


def examples(said: str) -> str:
    return "".join(example.source for example in doctest.DocTestParser().get_examples(said))


def faults(name: str, thing: Any, said: str) -> list[str]:
    """Name the parts of a public docstring that are missing."""
    first = said.partition("\n")[0]
    if other := re.search(r"; see `([\w.]+)`\.$", first):  # one truth for each thing
        return [] if other[1] in PUBLIC else [f"refers to {other[1]}, which is not public"]
    found, code = [], thing.fget if isinstance(thing, property) else thing
    if len(first) >= 80:
        found.append(f"first line of {len(first)} characters")
    taken = inspect.signature(code).parameters
    if name == "Config":  # its fields state their own help
        taken = ["settings"]
    elif getattr(thing, "_is_protocol", False):
        taken = []
    listed = re.findall(r"^    \**(\w+): \S", section(said, "Args"), re.M)
    if missing := [arg for arg in taken if arg not in ("self", "cls", *listed)]:
        found.append(f"no Args: {missing}")
    if strange := [arg for arg in listed if arg not in taken]:
        found.append(f"Args that it does not take: {strange}")
    if not inspect.isclass(thing):
        gives = ast.unparse(ast.parse(textwrap.dedent(inspect.getsource(code))).body[0].returns)
        if gives != "None" and not section(said, "Returns"):
            found.append("no Returns")
        if re.search(r"^ +raise ", inspect.getsource(code), re.M) and not section(said, "Raises"):
            found.append("no Raises")
    owner, _, method = name.rpartition(".")
    shown = owner in PUBLIC and re.search(rf"\.{method}\b", examples(inspect.getdoc(PUBLIC[owner]) or ""))
    if not examples(said) and not shown and name not in PRESSED:
        found.append("no example")
    if ("+SKIP" in said) != (name in TOO_LONG):
        found.append("an example that is not run" if "+SKIP" in said else "an example that is run now")
    return found


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_states_arguments_result_errors_and_an_example(name: str) -> None:
    assert faults(name, PUBLIC[name], inspect.getdoc(PUBLIC[name]) or "") == []


def test_each_missing_part_of_a_docstring_is_named() -> None:
    assert len(PUBLIC) > 90
    assert PUBLIC.keys() >= PRESSED | TOO_LONG
    whole = inspect.getdoc(fl.compare) or ""
    assert faults("compare", fl.compare, whole.replace("attack:", "attak:", 1)) == [
        "no Args: ['attack']",
        "Args that it does not take: ['attak']",
    ]
    for part, fault in (("Returns:", "no Returns"), ("Raises:", "no Raises"), (">>>", "no example")):
        assert faults("compare", fl.compare, whole.replace(part, "...")) == [fault]
    assert faults("compare", fl.compare, f"{'x' * 80}\n{whole}") == ["first line of 80 characters"]
    assert faults("compare", fl.compare, f"{whole}  # doctest: +SKIP") == ["an example that is not run"]
    assert faults("KLBall.worst_case", fl.KLBall.worst_case, "Solve; see `Ball.worst_case`.") == [
        "refers to Ball.worst_case, which is not public"
    ]


def test_notebooks_use_the_public_names() -> None:
    """Beside `import faal_lab as fl`, a lesson may open the room that it explains: its modules and their names."""
    rooms = {
        "01_why_classes_differ": {"results", "evaluation"},
        "02_ambiguity_sets": {"results", "dro"},
        "03_attack_microscope": {"results", "methods"},
        "05_compare_methods": {"results"},
        "06_bring_your_own": {"results", "evaluation", "methods", "dro"},
        "07_balance": {"results", "evaluation", "sweeps"},
    }
    for path in [*(ROOT / "notebooks").glob("*.ipynb"), *(ROOT / "parameterized").glob("*.ipynb")]:
        opened = set()
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            taken = cell["cell_type"] == "code" and "install" not in cell["metadata"].get("tags", [])
            for node in ast.walk(ast.parse("".join(cell["source"]))) if taken else ():
                if isinstance(node, ast.Import):
                    assert all(a.name == "faal_lab" and a.asname == "fl" for a in node.names if a.name.startswith("faal_lab")), (
                        path
                    )
                if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("faal_lab"):
                    opened.add(f"{node.module}.".split(".")[1])
        assert opened <= rooms.get(path.stem, set()), path
