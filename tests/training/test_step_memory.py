"""What a step holds in memory is predicted before the first one, and a batch is cut into as many parts as it takes."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import SHORT, fresh

from faal_lab.data.images import Splits
from faal_lab.methods.objectives import OBJECTIVES
from faal_lab.models.fast import Held
from faal_lab.runs import RunFolder, read_checkpoint
from faal_lab.runs.config import Config
from faal_lab.training import measure
from faal_lab.training.measure import MemoryNote, fewest_parts, step_memory
from faal_lab.training.run import run
from faal_lab.training.trainer import Trainer

MB = 10**6


def test_tensors_that_live_are_counted_once() -> None:
    weights = torch.ones(1000)
    with Held() as held:
        held.count([weights])
        doubled = weights * 2
        part = doubled[:10]
        weights.add_(part[0])
        assert held.now == held.most == 8000, "views and what is changed in place are no new memory"
        del doubled
        assert held.now == 8000, "a view keeps it"
        del part
        assert (held.now, held.most) == (4000, 8000)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a process is told how to map memory by glibc")
@pytest.mark.parametrize("name", ["small-cnn", "preact-resnet-18, 16 filters", "preact-resnet-18"])
def test_the_prediction_is_what_a_process_takes(name: str) -> None:
    import memory

    found = memory.prediction(memory.PREDICTED[name], torch.device("cpu"))
    assert found["predicted"] == pytest.approx(found["measured"], rel=0.15)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_is_predicted_and_parts_hold_less(few: Splits, objective: str) -> None:
    config = replace(SHORT, objective=objective, batch_size=128, awp_gamma=0.01, averaging="ema")
    trainer = Trainer(fresh(config), few, config)
    before = {name: tensor.clone() for name, tensor in trainer.state.model.state_dict().items()}
    random = torch.get_rng_state()
    whole, parts = step_memory(trainer), step_memory(trainer, 4)
    assert parts < whole
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainer.state.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert (trainer.state.average, trainer.state.step) == ({}, 0), "the training itself was not touched"


@pytest.mark.parametrize("fairness", ["faal", "trix", "dafa"])
def test_fairness_methods_keep_what_they_learned(few: Splits, fairness: str) -> None:
    config = replace(SHORT, fairness=fairness)
    trainer = Trainer(fresh(config), few, config)
    trainer.state.recipe.fairness.state["learned"] = torch.ones(3)
    assert step_memory(trainer) > 0
    assert torch.equal(trainer.state.recipe.fairness.state["learned"], torch.ones(3))


@pytest.mark.parametrize(
    "free, parts, said",
    [
        (100 * MB, 1, r"accumulation=1: the tensors of a step hold about 9 MB at once, 100 MB are free\."),
        (12 * MB, 2, r"accumulation=2: the tensors of a step hold about 6 MB at once, 12 MB are free\."),
        (8 * MB, 4, r"accumulation=4: .* hold about 4 MB at once, 8 MB are free\."),
        (1 * MB, 32, r"accumulation=32: .* 1 MB are free\. This may not fit: lower batch_size\."),
    ],
)
def test_the_fewest_parts_that_fit_are_chosen(
    free: int, parts: int, said: str, few: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = {1: 9 * MB, 2: 6 * MB, 4: 4 * MB}
    monkeypatch.setattr(measure, "step_memory", lambda _, parts: sizes.get(parts, 3 * MB))
    monkeypatch.setattr(measure, "free_memory", lambda _: free)
    config = replace(SHORT, accumulation=0, batch_size=64)
    with pytest.warns(MemoryNote, match=said):
        assert fewest_parts(Trainer(fresh(config), few, config)) == parts
    config = replace(config, fairness="trix")
    with pytest.warns(MemoryNote, match=r"accumulation=1: .*" + (r"\(fairness=trix needs it whole\)" if free < 18 * MB else "")):
        assert fewest_parts(Trainer(fresh(config), few, config)) == 1


def test_a_run_keeps_the_number_that_it_chose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config.from_mapping({"epochs": 1, "batch_size": 250, "attack_steps": 1, "validation_steps": 1, "accumulation": 0})
    need = 2.0 * step_memory_of(config)
    monkeypatch.setattr(measure, "free_memory", lambda _: need - 1)
    with pytest.warns(MemoryNote, match="accumulation=2: "):
        first = list(run(config, tmp_path / "chosen"))
    assert RunFolder(tmp_path / "chosen").config() == replace(config, accumulation=2)
    same = list(run(replace(config, accumulation=2), tmp_path / "stated"))
    assert [type(e).__name__ for e in first] == [type(e).__name__ for e in same]
    chosen, stated = (read_checkpoint(RunFolder(tmp_path / name).checkpoint()).part("model") for name in ("chosen", "stated"))
    assert all(torch.equal(tensor, stated[name]) for name, tensor in chosen.items())
    folder = RunFolder(tmp_path / "chosen")
    assert folder.made_with(config)
    assert folder.made_with(replace(config, accumulation=2))
    assert not folder.made_with(replace(config, accumulation=4))


def step_memory_of(config: Config) -> int:
    from faal_lab.training.run import prepare

    return step_memory(prepare(replace(config, accumulation=1)))
