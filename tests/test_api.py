"""What `import faal_lab as fl` offers does what its example says, and its docstrings' examples run."""

import ast
import doctest
import importlib
import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest
from made_up import verdicts

import faal_lab as fl
from faal_lab import api, errors

ROOT = Path(__file__).parent.parent
QUICK = {"epochs": 1, "batch_size": 250, "attack_steps": 1, "validation_steps": 1, "quiet": True}


def test_every_public_name_is_there_and_loads_nothing_before_it_is_used() -> None:
    assert {name for name in fl.__all__ if not hasattr(fl, name)} == set()
    assert len(fl.__all__) <= 25
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
        (lambda: fl.plot.confusion(verdicts([3, 4]), "fgsm"), "Unknown attack 'fgsm'"),
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


def test_public_functions_say_what_they_take() -> None:
    for name in api.__all__:
        thing = getattr(api, name)
        if inspect.isfunction(thing):
            node = ast.parse(inspect.getsource(thing)).body[0]
            said = ast.get_docstring(node) or ""
            taken = [a.arg for a in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]]
            missing = [a for a in taken if f"\n    {a}: " not in said and len(taken) > 1]
            assert not missing, f"{name}: {missing}"


def test_notebooks_use_the_public_names() -> None:
    """Beside `import faal_lab as fl`, a lesson may open the room that it explains: its modules and their names."""
    rooms = {
        "01_why_classes_differ": {"results", "evaluation"},
        "02_ambiguity_sets": {"results", "dro"},
        "03_attack_microscope": {"results", "methods"},
        "05_compare_methods": {"results"},
        "06_bring_your_own": {"results", "evaluation", "methods", "dro"},
    }
    for path in [*(ROOT / "notebooks").glob("*.ipynb"), *(ROOT / "parameterized").glob("*.ipynb")]:
        opened = set()
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            for node in ast.walk(ast.parse("".join(cell["source"]))) if cell["cell_type"] == "code" else ():
                if isinstance(node, ast.Import):
                    assert all(a.name == "faal_lab" and a.asname == "fl" for a in node.names if a.name.startswith("faal_lab")), (
                        path
                    )
                if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("faal_lab"):
                    opened.add(f"{node.module}.".split(".")[1])
        assert opened <= rooms.get(path.stem, set()), path
