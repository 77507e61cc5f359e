"""Installed packages add names; the template in docs/plugin is one that a user copies."""

import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import in_plugin
import pytest

import faal_lab as fl
from faal_lab import catalogue
from faal_lab.errors import OwnPartError, UnknownName
from faal_lab.methods.presets import listing
from faal_lab.models.doctor import examine
from faal_lab.runs.config import Config

ROOT = Path(__file__).parent.parent
QUICK = {"epochs": 1, "batch_size": 250, "attack_steps": 1, "validation_steps": 1, "quiet": True}
CODE = """
import torch
from faal_lab.data.sets import load as ours
from faal_lab.dro import CVaR as Tail
from faal_lab.methods.objectives import AdversarialTraining as Loss
from faal_lab.methods.fairness.base import NoFairness as Rule

def net(num_classes):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, num_classes))

def digits_again(seed, data_dir, image_size, download):
    return ours("digits", seed=seed)

def nothing(seed, data_dir, image_size, download):
    return None
"""
ENTRIES = """
[faal_lab.fairness]
even = {name}:Rule
faal = {name}:Rule
broken = {name}_broken:Rule
absent = {name}_absent:Rule
a name = {name}:Rule
[faal_lab.objectives]
their-loss = {name}:Loss
[faal_lab.sets]
tail = {name}:Tail
[faal_lab.models]
their-net = {name}:net
[faal_lab.data]
digits-again = {name}:digits_again
nothing = {name}:nothing
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a package that looks installed, with parts of every kind, good and bad."""
    name, site = "other_parts", tmp_path / "site"
    info = site / f"{name}-2.5.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.5\nSummary: Parts for tests.\n")
    (info / "entry_points.txt").write_text(ENTRIES.format(name=name))
    (site / f"{name}.py").write_text(CODE)
    (site / f"{name}_broken.py").write_text("raise RuntimeError('no license')\n")
    later = site / "rivals-1.0.dist-info"  # after the other by name
    later.mkdir()
    (later / "METADATA").write_text("Metadata-Version: 2.1\nName: rivals\nVersion: 1.0\n")
    (later / "entry_points.txt").write_text("[faal_lab.fairness]\neven = rivals:Rule\n")
    monkeypatch.syspath_prepend(str(site))
    for table in catalogue.TABLES:
        monkeypatch.delitem(vars(table), "_theirs", raising=False)
    catalogue._installed.cache_clear()
    yield name
    sys.modules.pop(name, None)
    catalogue._installed.cache_clear()
    for table in catalogue.TABLES:
        vars(table).pop("_theirs", None)


def test_names_of_a_package_are_in_every_list(package: str) -> None:
    assert package not in sys.modules
    assert list(catalogue.FAIRNESS)[-3:] == ["absent", "broken", "even"]
    assert "their-loss" in catalogue.OBJECTIVES
    assert "their-net" in list(catalogue.MODELS)
    assert "digits-again" in catalogue.DATA_SETS
    assert catalogue.parts()["ambiguity"]["tail"] == "Parts for tests (package other_parts 2.5)."
    assert "  even               Parts for tests (package other_parts 2.5)." in listing()
    Config(fairness="even", objective="their-loss", ambiguity="tail", model="their-net", data="digits-again")
    with pytest.raises(UnknownName, match="Unknown fairness method 'evn'. Did you mean 'even'"):
        Config(fairness="evn")
    assert package not in sys.modules, "names are read without the package's code"
    assert "even" not in catalogue.FAIRNESS.ours


def test_a_page_lists_them(package: str, tmp_path: Path) -> None:
    from faal_lab.widgets import Workbench

    bench = Workbench(tmp_path, fairness="even")
    try:
        assert "even" in bench.settings["fairness"].options
        assert "their-net" in bench.settings["model"].options
        assert "digits-again" in bench.settings["data"].options
        assert bench.config().fairness == "even"
    finally:
        bench.close()


@pytest.mark.filterwarnings("ignore:fairness=(even|faal) of the package")
def test_parts_of_a_package_train(package: str, tmp_path: Path) -> None:
    run = fl.train(
        fairness="even", objective="their-loss", model="their-net", data="digits-again", out=tmp_path / "run", **QUICK
    )  # fmt: skip
    assert (run.status, run.config.model) == ("done", "their-net")
    fl.evaluate(run, "clean")
    assert fl.table(run).shape[0] == 1
    assert fl.train(fairness="faal", ambiguity="tail", base=run, out=tmp_path / "tuned", **QUICK).status == "done"


def test_what_is_broken_is_one_line_where_its_name_is_used(package: str, tmp_path: Path) -> None:
    out = tmp_path / "none"
    with pytest.raises(
        OwnPartError,
        match=r"^fairness=broken \(package other_parts 2.5\): importing other_parts_broken fails with RuntimeError: no license. To see",
    ):
        fl.train(fairness="broken", out=out, **QUICK)
    with pytest.raises(
        OwnPartError, match=r"^fairness=absent \(package other_parts 2.5\): there is no module other_parts_absent. Inst"
    ):
        fl.train(fairness="absent", out=out, **QUICK)
    with pytest.raises(OwnPartError, match=r"^data=nothing \(package other_parts 2.5\) must return .*Splits, got NoneType"):
        fl.train(data="nothing", out=out, **QUICK)
    assert not out.exists()


def test_ours_wins_a_clash_and_says_so(package: str, tmp_path: Path) -> None:
    assert catalogue.FAIRNESS["faal"].label == ""
    with pytest.warns(UserWarning, match="fairness=faal of the package other_parts 2.5 is not used: faal_lab's own has the name"):
        fl.train(fairness="faal", out=tmp_path / "a", **QUICK)
    with pytest.warns(
        UserWarning, match="fairness=even of the package rivals 1.0 is not used: that of other_parts 2.5 has the name"
    ):
        fl.train(fairness="even", out=tmp_path / "b", **QUICK)


def test_doctor_names_what_is_broken(package: str) -> None:
    text, faults = examine()
    assert "plugin         fairness=even: Parts for tests (package other_parts 2.5)" in text
    assert "plugin         BROKEN: fairness=faal of the package other_parts 2.5 is not used: faal_lab's own has the name" in text
    assert "plugin         BROKEN: fairness=broken (package other_parts 2.5): importing other_parts_broken fails" in text
    assert "BROKEN: fairness=a name of the package other_parts 2.5 is not used: a name has letters" in text
    assert len([fault for fault in faults if "other_parts" in fault or "rivals" in fault]) == 5


def test_the_version_is_told_without_looking_for_packages() -> None:
    code = (
        "import sys; from importlib import metadata\n"
        "def never(*_, **__): raise AssertionError('entry points were read')\n"
        "metadata.entry_points = never\n"
        "from faal_lab.__main__ import main\n"
        "sys.argv[1:] = ['--version']; main(['--version'])\n"
        "from faal_lab.runs.config import Config; Config(fairness='faal', model='resnet-18', data='cifar10')\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == metadata.version("faal-lab")


@pytest.mark.slow
def test_the_template_installs_and_trains(tmp_path: Path) -> None:
    source = in_plugin.copied(tmp_path / "plugin")
    environment = in_plugin.installed(source, tmp_path / "site")

    def told(*more: str) -> str:
        ran = subprocess.run([sys.executable, *more], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    assert in_plugin.LISTED in told("-m", "faal_lab", "methods")
    assert "FAILS" not in told("-c", in_plugin.TRIED)
    told("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(source / "tests"))


def test_the_template_is_small_and_whole() -> None:
    files = [
        path for path in (ROOT / "docs" / "plugin").rglob("*") if path.suffix in (".py", ".toml") and "build" not in path.parts
    ]
    assert sum(path.read_text(encoding="utf-8").count("\n") for path in files) <= 70
    assert {path.name for path in files} == {"pyproject.toml", "__init__.py", "test_tophalf.py"}
