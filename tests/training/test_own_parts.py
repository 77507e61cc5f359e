"""Parts of the user's own: objects in place of names, and paths to files and modules."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import faal_lab as fl
from faal_lab.__main__ import main
from faal_lab.dro import CVaR, KLBall
from faal_lab.errors import ConfigError, OwnPartError, RecipeError, UnknownName
from faal_lab.methods.fairness.base import NoFairness, Weighing, fixed
from faal_lab.methods.objectives import Outcome
from faal_lab.models.build import ModelProblem
from faal_lab.runs import RunFolder
from faal_lab.runs.config import Config
from faal_lab.runs.events import StepDone
from faal_lab.training.background import LiveRun, RunError
from faal_lab.training.parameters import run_command, run_name

QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 250, "attack_steps": 1, "validation_steps": 1, "quiet": True}
FILE = '''
from dataclasses import dataclass
import torch
from beside import RATIO
from faal_lab.dro import CVaR
from faal_lab.methods.fairness.base import NoFairness, Weighing, fixed
from faal_lab.methods.objectives import AdversarialTraining

class Rule(NoFairness):
    """Class 3 counts `ratio` times as much as the others."""
    def __init__(self, strength: float = RATIO) -> None:
        super().__init__()
        self.ratio = strength
    def weigh(self, stats, terms, tau):
        multipliers = torch.ones_like(stats.count)
        multipliers[3] = self.ratio
        weights, divergence = fixed(multipliers)
        return Weighing(weights, dict.fromkeys(terms, multipliers / multipliers.mean()), divergence)

class Loss(AdversarialTraining):
    start = "gaussian"

@dataclass(frozen=True)
class Set(CVaR):
    radius: float = 0.5

ready = Rule(7.0)

def build(num_classes):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, num_classes))
'''


class Third(NoFairness):
    """Class 3 counts `ratio` times as much as the others."""

    def __init__(self, ratio: float) -> None:
        super().__init__()
        self.ratio = ratio

    def weigh(self, stats, terms, tau):
        multipliers = torch.ones_like(stats.count)
        multipliers[3] = self.ratio
        weights, divergence = fixed(multipliers)
        return Weighing(weights, dict.fromkeys(terms, multipliers / multipliers.mean()), divergence)


@dataclass(frozen=True)
class Smoothed:
    """Cross-entropy with smoothed labels."""

    terms: tuple[str, ...] = ("soft",)
    points: int = 1
    attack_loss: str | None = "cross-entropy"
    start: str = "uniform"

    def __call__(self, model, images, adv, labels) -> Outcome:
        logits = model(adv)
        return Outcome({"soft": F.cross_entropy(logits, labels, reduction="none", label_smoothing=0.1)}, None, logits)


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a file of the user's own in it."""
    (tmp_path / "my-rules.py").write_text(FILE)
    (tmp_path / "beside.py").write_text("RATIO = 5.0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "beside", raising=False)
    return tmp_path


def share(run: fl.Run | RunFolder) -> float:
    """How much more class 3 counted than class 0."""
    weights = next(
        event for event in (run.events() if isinstance(run, RunFolder) else run.events) if isinstance(event, StepDone)
    ).weights
    return weights[3] / weights[0]


def test_an_object_takes_the_place_of_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = fl.train(fairness=Third(4.0), objective=Smoothed(), out="runs/own", **QUICK)
    assert share(run) == pytest.approx(4)
    assert (run.config.fairness, run.config.objective) == (f"object:{__name__}.Third", f"object:{__name__}.Smoothed")
    assert RunFolder.open(run.path).own() == {"objective": f"{__name__}.Smoothed", "fairness": f"{__name__}.Third"}
    fl.evaluate(run, "clean,pgd-20")
    assert [name for name, _ in fl.table(run).index] == ["own", "own"]
    page = fl.report(run, out="report.html").read_text(encoding="utf-8")
    assert f"{__name__}.Third" in page
    assert run_name(run.config) == "digits-Smoothed-Third"
    with pytest.raises(OwnPartError, match="objective=object:.*Smoothed was an object of another process. Hand it over again"):
        fl.train(base=run, out="runs/tuned", **QUICK)
    assert fl.train(base=run, fairness="faal", objective="at", out="runs/tuned", **QUICK).status == "done"


def test_a_run_of_an_object_is_resumed_with_it(tmp_path: Path) -> None:
    def begun(out: str, upto: int) -> None:
        events = fl.steps(
            Config(**{n: v for n, v in QUICK.items() if n != "quiet"}), tmp_path / out, parts={"fairness": Third(4.0)}
        )
        for event in events:
            if isinstance(event, StepDone) and event.step == upto:
                break
        events.close()

    begun("run", 2)
    out = tmp_path / "run"
    with pytest.raises(
        ConfigError, match=r"made with a fairness \(.*Third\).* Hand it over.* resume=True, fairness=\.\.\.\), in"
    ):
        fl.train(out=out, resume=True, quiet=True)
    with pytest.raises(ConfigError, match=r"was made with fairness .*\.Third, got .*\.NoFairness. Hand over the same to resume"):
        fl.train(out=out, resume=True, quiet=True, fairness=NoFairness())
    with pytest.raises(ConfigError, match="was made with objective a name or path in its settings, got .*Smoothed"):
        fl.train(out=out, resume=True, quiet=True, fairness=Third(4.0), objective=Smoothed())
    run = fl.train(out=out, resume=True, quiet=True, fairness=Third(4.0))
    assert run.status == "done"
    whole = fl.train(out=tmp_path / "whole", fairness=Third(4.0), **QUICK)
    assert [e for e in run.events if isinstance(e, StepDone)] == [e for e in whole.events if isinstance(e, StepDone)]


def test_a_set_of_ones_own_is_faals(tmp_path: Path) -> None:
    run = fl.train(fairness="faal", ambiguity=CVaR(), tau=0.5, out=tmp_path / "set", **QUICK)
    named = fl.train(fairness="faal", ambiguity="cvar", tau=0.5, out=tmp_path / "named", **QUICK)
    same = fl.train(fairness=fl.FAAL(ambiguity=CVaR()), tau=0.5, out=tmp_path / "method", **QUICK)
    steps = [[e for e in r.events if isinstance(e, StepDone)] for r in (run, named, same)]
    assert steps[0] == steps[1] == steps[2]
    with pytest.raises(
        RecipeError, match="ambiguity=object:faal_lab.dro.*: fairness=none takes no set from outside. Choose fairness=faal"
    ):
        fl.train(ambiguity=CVaR(), out=tmp_path / "none", **QUICK)
    with pytest.raises(ConfigError, match="tau must be between 1e-12 and 1 for CVaR, got 2"):
        fl.train(fairness="faal", ambiguity=CVaR(), tau=2.0, out=tmp_path / "none", **QUICK)
    assert fl.train(fairness="faal", ambiguity=KLBall(), multiplier=3.0, out=tmp_path / "c", **QUICK).status == "done"
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "parts, text",
    [
        ({"fairness": torch.nn.Linear(2, 2)}, "fairness=object:.*Linear must have needs, state, weigh; .* is missing, got a Linear"),
        ({"fairness": Third}, r"fairness=object:.*Third must have .*, got a class: hand over an object of it"),
        ({"objective": len}, "objective=object:builtins.len must have terms, points"),
        ({"fairness": None}, "fairness=object:builtins.NoneType must have"),
        ({"objective": Smoothed(attack_loss="ce")}, "Unknown attack loss of objective=.*Smoothed 'ce'. Known: cross-entropy"),
        ({"objective": Smoothed(start="none")}, "Unknown start of objective=.*Smoothed 'none'. .*Known: zero"),
        ({"objective": Smoothed(), "fairness": "csr"}, "csr weighs the terms clean and robust apart, and objective=object:.* has soft"),
        ({"objective": Smoothed(attack_loss=None), "fairness": "dafa", "epochs": 2}, "dafa acts on attacks, and objective=object:.*clean images alone"),
        ({"fairness": Third(2.0), "recipe": "faal-at"}, "recipe holds a method already: leave out fairness, or recipe"),
    ],
)  # fmt: skip
def test_what_is_no_part_is_refused_before_there_is_a_folder(parts: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises((OwnPartError, RecipeError, UnknownName, ConfigError), match=text):
        fl.train(**{**QUICK, **parts}, out=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_an_unknown_class_score_is_named(tmp_path: Path) -> None:
    method = Third(2.0)
    method.needs = ("margins",)
    with pytest.raises(UnknownName, match="Unknown class score that fairness=.*Third needs 'margins'. Did you mean 'margin'"):
        fl.train(fairness=method, out=tmp_path / "none", **QUICK)


def test_a_path_is_a_name_everywhere(rules: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "--fairness", "my-rules.py:Rule", "--objective", "my-rules.py:Loss", "--model", "my-rules.py:build"]
    few = [f"--{n.replace('_', '-')}={v}" for n, v in QUICK.items() if n != "quiet"]
    assert main([*words, *few, "--out", "runs/file", "--quiet"]) in (0, None)
    run = fl.open_run("runs/file")
    assert (run.config.fairness, run.config.model, share(run)) == ("my-rules.py:Rule", "my-rules.py:build", pytest.approx(5))
    assert RunFolder.open("runs/file").own() == {}
    assert "--fairness=my-rules.py:Rule" in run_command(run.config, "runs/again")
    assert main(["evaluate", "runs/file", "--attacks", "clean,fgsm"]) in (0, None)
    assert share(fl.train(fairness="my-rules.py:Rule", fairness_strength=3.0, out="runs/set", **QUICK)) == pytest.approx(3)
    assert share(fl.train(fairness="my-rules.py:ready", out="runs/ready", **QUICK)) == pytest.approx(7)
    assert fl.train(fairness="faal", ambiguity="my-rules.py:Set", out="runs/ball", **QUICK).status == "done"
    assert fl.solve([0.9, 0.2], tau=0.5, ambiguity="my-rules.py:Set").weights.tolist() == [1, 0]
    (rules / "my-rules.py").write_text(FILE.replace("= self.ratio", "= 2 * self.ratio"))
    assert share(fl.train(fairness="my-rules.py:Rule", out="runs/changed", **QUICK)) == pytest.approx(10), (
        "a changed file is read again"
    )


def test_a_child_process_finds_the_file(rules: Path) -> None:
    few = {n: v for n, v in QUICK.items() if n != "quiet"}
    live = LiveRun.start(Config(fairness="my-rules.py:Rule", **few), rules / "runs/child")
    assert live.wait(100) == "done"
    assert share(live.folder) == pytest.approx(5)
    live = LiveRun.start(Config(fairness="no-rules.py:Rule", **few), rules / "runs/none")
    with pytest.raises(
        RunError, match=r"fairness=no-rules.py:Rule: there is no file no-rules.py in the working directory .*Give its"
    ):
        live.wait(100)


def test_settings_take_a_path_without_reading_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys; from faal_lab.runs.config import Config; Config(fairness='a/b c.py:R', objective='m.n:L', ambiguity='C.py:S',"
        " model='x.py:build'); assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path).returncode == 0
    for wrong in ("rules.py", "rules.py:", ":Rule", "rules:1", "a b:c", "a:b:c", "robustbench:X Y"):
        with pytest.raises(UnknownName, match=r"Unknown fairness method .* Or your own: FILE\.py:NAME, module:NAME\."):
            Config(fairness=wrong)
    with pytest.raises(UnknownName, match=r"Unknown data set 'x.py:load'.*fashion-mnist\.$"):
        Config(data="x.py:load")


@pytest.mark.parametrize(
    "path, text",
    [
        (
            "nowhere.py:Rule",
            "fairness=nowhere.py:Rule: there is no file nowhere.py in the working directory /.*Give its path from there",
        ),
        ("/no/where.py:Rule", "there is no file /no/where.py. Give its path"),
        ("nowhere:Rule", "there is no module nowhere. Install it, or put its folder on PYTHONPATH"),
        ("my-rules.py:Rul", "my-rules.py has no 'Rul'. Did you mean 'Rule'"),
        ("broken.py:Rule", "importing broken.py fails with SyntaxError: .*To see where: python broken.py"),
        ("lacking.py:Rule", "lacking.py needs a module that is missing: No module named 'no_such_thing'"),
        (
            "my-rules.py:build",
            "my-rules.py:build: making it fails with TypeError: .*'num_classes'. It must be a class, or a function",
        ),
        ("my-rules.py:Loss", "must have needs, state, weigh; needs, state, weigh is missing, got a Loss"),
        ("object:my.Rule", r"was an object of another process. Hand it over again: fl.train\(fairness=...\)"),
    ],
)
def test_a_path_that_leads_nowhere_says_what_was_looked_for(rules: Path, path: str, text: str) -> None:
    (rules / "broken.py").write_text("class Rule\n")
    (rules / "lacking.py").write_text("import no_such_thing\n")
    with pytest.raises(OwnPartError, match=text):
        fl.train(fairness=path, out="runs/none", **QUICK)
    assert not Path("runs").exists()


def test_a_network_by_a_file(rules: Path) -> None:
    with pytest.raises(ModelProblem, match="model=none.py:build: there is no file none.py in the working directory"):
        fl.train(model="none.py:build", out="runs/none", **QUICK)
    with pytest.raises(ModelProblem, match=r"my-rules.py:Rule must be callable with num_classes=10 alone"):
        fl.train(model="my-rules.py:Rule", out="runs/none", **QUICK)


def test_settings_on_paper_name_the_path(rules: Path) -> None:
    record = json.loads((fl.train(fairness="my-rules.py:Rule", out="runs/a", **QUICK).path / "config.json").read_text())
    assert record["config"]["fairness"] == "my-rules.py:Rule"
