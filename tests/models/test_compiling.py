"""Compiled passes: which ones, that turning a dial compiles nothing, and what happens where the compiler fails."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SHORT
from gpu_day import step_of_pgd
from made_up import AutoAttack, shorter
from torch._dynamo.utils import counters

from faal_lab.evaluation.evaluate import evaluate_run
from faal_lab.methods.pgd import ATTACK_LOSSES, NORMS, climber
from faal_lab.models.build import ModelSpec, build, frozen
from faal_lab.models.examine import ModelProblem
from faal_lab.models.fast import CompileWarning
from faal_lab.runs import RunFolder
from faal_lab.runs.events import Command, RunResumed, StepDone
from faal_lab.training.loop import train
from faal_lab.training.run import prepare, run

CONFIG = replace(SHORT, model="preact-resnet-18", filters=4, compile=True, fairness="faal", objective="trades", epochs=2)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compiled is traced and run as it is: the same passes and guards in a second, without a C++ compiler."""
    monkeypatch.setattr("faal_lab.models.fast.BACKEND", "aot_eager")


def test_turning_a_dial_compiles_nothing(traced: None) -> None:
    experiment = prepare(CONFIG)
    assert experiment.state.quick is not None
    assert experiment.state.quick.images == 128
    commands: list[Command] = []

    def poll() -> list[Command]:
        found, commands[:] = list(commands), []
        return found

    events = (e for e in train(experiment, poll) if isinstance(e, StepDone))
    for _ in range(9):  # an epoch, its last and smaller batch, validation, and the next epoch's first
        next(events)
    before = counters["stats"]["unique_graphs"]
    assert before > 0
    assert not counters["graph_break"]
    first = next(iter(experiment.state.model.parameters())).clone()
    for number, (dial, value) in enumerate([("tau", 0.9), ("epsilon", 0.05), ("learning_rate", 0.001), ("fairness_on", 0)], 1):
        commands.append(Command("turn", dial, value, number=number))
        done = next(events)
    assert (done.tau, done.epsilon) == (0.9, 0.05)
    assert counters["stats"]["unique_graphs"] == before
    assert not torch.equal(first, next(iter(experiment.state.model.parameters())))
    assert experiment.state.model.quick is None, "outside a step nothing is compiled"


@pytest.mark.skipif(not hasattr(torch._dynamo.config, "trace_autograd_ops"), reason="this torch does not trace a gradient")
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("loss", ATTACK_LOSSES)
def test_a_step_of_an_attack_is_one_region(loss: str, norm: str) -> None:
    """What a CUDA graph needs: no graph break, and nothing is compiled again while epsilon and the size of a step are turned."""
    torch.compiler.reset()
    torch.manual_seed(0)
    model = build(ModelSpec("preact-resnet-18", 10, 1, 8, 8, (0.3,), (0.4,), filters=4), seed=0)
    images, labels = torch.rand(6, 1, 8, 8), torch.arange(6)
    settings = {"loss": loss, "norm": norm, "clean_logits": torch.randn(6, 10), "target": torch.tensor([-1, 3, -1, 2, -1, -1])}
    climb = step_of_pgd(model, images, labels, **settings)
    start = (images + 0.01).clamp(0, 1)
    with frozen(model), torch._dynamo.config.patch(trace_autograd_ops=True):
        region = torch.compile(climb, fullgraph=True, backend="aot_eager")
        for number, epsilon in enumerate((0.1, 0.2, 0.05)):
            radius, size = torch.tensor(epsilon), torch.tensor(epsilon / 4)
            with torch._dynamo.config.patch(error_on_recompile=number > 0):
                found = region(start, radius, size)
            plain = climber(model, images, labels, radius=epsilon, step=epsilon / 4, **settings)(start)[1]
            torch.testing.assert_close(found, plain, rtol=0, atol=1e-6)
            assert not torch.equal(found, start)


def test_only_full_batches_run_compiled(traced: None, monkeypatch: pytest.MonkeyPatch) -> None:
    plain: list[int] = []

    def told(call: Callable[[torch.Tensor], torch.Tensor], **_: Any) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda images: plain.append(-len(images)) or call(images)

    monkeypatch.setattr(torch, "compile", told)
    experiment = prepare(replace(CONFIG, batch_size=600))
    model: Any = experiment.state.model
    monkeypatch.setattr(model, "plain", lambda images, own=model.plain: plain.append(len(images)) or own(images))
    plain.clear()
    list(train(replace(experiment, config=replace(CONFIG, batch_size=600, epochs=1))))
    said = "600 by the compiler; 400 are left for the second batch, 200 validate, 64 and 16 are probed"
    assert set(plain) == {-600, 400, 200, 64, 16}, said


def test_what_is_compiled_learns_the_same(traced: None, tmp_path: Path) -> None:
    compiled, plain = (
        [e for e in run(replace(CONFIG, epochs=1, compile=on), tmp_path / str(on)) if isinstance(e, StepDone)]
        for on in (True, False)
    )
    assert compiled[0].loss == pytest.approx(plain[0].loss, rel=1e-4)
    assert compiled[0].weights == pytest.approx(plain[0].weights, abs=1e-3)


def broken(*_: Any) -> None:
    raise OSError("no C++ compiler")


def test_a_compiler_that_fails_is_told_once_and_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faal_lab.models.fast.BACKEND", broken)
    config = replace(CONFIG, epochs=1)
    with pytest.warns(CompileWarning, match="torch.compile failed, all goes on without it: .*no C\\+\\+ compiler"):
        events = list(run(config, tmp_path / "run"))
    assert "no C++ compiler" in RunFolder(tmp_path / "run").versions()["compile"]
    plain = list(run(replace(config, compile=False), tmp_path / "plain"))
    assert [e for e in events if isinstance(e, StepDone)] == [e for e in plain if isinstance(e, StepDone)]


def test_a_run_that_is_resumed_without_the_compiler_it_had_says_so(
    traced: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(run(CONFIG, tmp_path / "run")) as events:
        next(e for e in events if isinstance(e, StepDone))
    monkeypatch.setattr("faal_lab.models.fast.BACKEND", broken)
    with pytest.warns(CompileWarning), closing(run(CONFIG, tmp_path / "run", resume=True)) as events:
        resumed = next(e for e in events if isinstance(e, RunResumed))
    assert "no C++ compiler" in (resumed.versions or {})["compile"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compiling") / "run"
    quick = {"fairness": "none", "objective": "at", "attack_steps": 1, "epsilon": 0.02, "learning_rate": 0.1, "compile": False}
    list(run(replace(CONFIG, **quick), folder))
    return folder


@pytest.mark.slow
@pytest.mark.numbers
def test_an_evaluation_compiles_once_for_batches_of_all_sizes(
    traced: None, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AutoAttack, "__init__", shorter(AutoAttack.__init__))
    attacks = ("clean", "pgd-20", "apgd-ce")
    plain = evaluate_run(trained, attacks=attacks, images=60, epsilon=0.02)
    before = counters["stats"]["unique_graphs"]
    compiled = evaluate_run(trained, attacks=attacks, images=60, epsilon=0.02, compile=True)
    graphs = counters["stats"]["unique_graphs"] - before
    assert 2 <= graphs <= 3, "with and without a gradient, by the pixels or not at all; the compiler gives up after eight"
    left = [int(plain.survived[attack].sum()) for attack in attacks]
    assert len({number for number in left if number >= 16}) > 1, "batches of several sizes"
    assert all(np.array_equal(compiled.predicted[attack], plain.predicted[attack]) for attack in attacks)
    assert compiled.header["model_sha256"] == plain.header["model_sha256"]
    assert (compiled.header["compiled"], plain.header.get("compiled")) == (True, None)


def test_an_evaluation_goes_on_without_a_compiler(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faal_lab.models.fast.BACKEND", broken)
    with pytest.warns(CompileWarning, match="all goes on without it"):
        found = evaluate_run(trained, attacks=("pgd-20",), images=30, compile=True)
    assert "no C++ compiler" in found.header["versions"]["compile"]
    plain = evaluate_run(trained, attacks=("pgd-20",), images=30)
    assert np.array_equal(found.predicted["pgd-20"], plain.predicted["pgd-20"])


def test_what_gains_nothing_is_refused(tmp_path: Path) -> None:
    refused = pytest.raises(ModelProblem, match="compile is for ResNets; small-cnn is as quick without. Leave it out")
    with refused:
        prepare(replace(SHORT, compile=True))
    list(run(replace(SHORT, epochs=1), tmp_path / "run"))
    with refused:
        evaluate_run(tmp_path / "run", attacks=("clean",), compile=True)
