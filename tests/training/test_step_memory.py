"""What a step holds in memory is predicted before the first one, and a batch is cut into as many parts as it takes."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SHORT, fresh
from torch import nn

from faal_lab.data.images import Splits
from faal_lab.methods.objectives import OBJECTIVES
from faal_lab.methods.pgd import PGD, Goal
from faal_lab.models.fast import Held
from faal_lab.runs import RunFolder, read_checkpoint
from faal_lab.runs.config import Config
from faal_lab.runs.events import RunResumed, StepDone
from faal_lab.training import measure
from faal_lab.training.loop import train
from faal_lab.training.measure import MemoryNote, fewest_parts, step_memory
from faal_lab.training.parameters import based_on
from faal_lab.training.run import prepare, run
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
        (15 * MB, 2, r"accumulation=2: the tensors of a step hold about 6 MB at once, 15 MB are free\."),
        (10 * MB, 4, r"accumulation=4: .* hold about 4 MB at once, 10 MB are free\."),
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
    with pytest.warns(MemoryNote, match=r"accumulation=1: .*" + (r"\(fairness=trix needs it whole\)" if free < 22 * MB else "")):
        assert fewest_parts(Trainer(fresh(config), few, config)) == 1


def test_a_run_keeps_the_number_that_it_chose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config.from_mapping({"epochs": 1, "batch_size": 250, "attack_steps": 1, "validation_steps": 1, "accumulation": 0})
    need = 2.5 * step_memory_of(config)
    monkeypatch.setattr(measure, "free_memory", lambda _: need - 1)
    with pytest.warns(MemoryNote, match="accumulation=2: "):
        first = list(run(config, tmp_path / "chosen"))
    assert RunFolder(tmp_path / "chosen").config() == replace(config, accumulation=2)
    same = list(run(replace(config, accumulation=2), tmp_path / "stated"))
    assert [type(e).__name__ for e in first] == [type(e).__name__ for e in same]
    chosen, stated = (read_checkpoint(RunFolder(tmp_path / name).checkpoint()).part("model") for name in ("chosen", "stated"))
    assert all(torch.equal(tensor, stated[name]) for name, tensor in chosen.items())
    folder = RunFolder(tmp_path / "chosen")
    monkeypatch.setattr(measure, "free_memory", lambda _: 100 * need)
    shutil.rmtree(tmp_path / "stated")
    shutil.copytree(folder.path, tmp_path / "stated")
    assert any(isinstance(event, RunResumed) for event in run(config, tmp_path / "stated", resume=True))
    assert RunFolder(tmp_path / "stated").config().accumulation == 2, "however much is free by then"
    assert not folder.made_with(replace(config, batch_size=2)), "and no error of settings that make no sense together"
    assert folder.made_with(config)
    assert folder.made_with(replace(config, accumulation=2))
    assert not folder.made_with(replace(config, accumulation=4))


class Remembers(PGD):
    """An attack of somebody else that keeps what it saw."""

    seen: torch.Tensor | None = None

    def __call__(self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, goal: Goal) -> torch.Tensor:
        self.seen = images.mean() if self.seen is None else (self.seen + images.mean()) / 2
        return super().__call__(model, images, labels, goal)


class Reads(PGD):
    """One that asks for numbers."""

    def __call__(self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, goal: Goal) -> torch.Tensor:
        found = super().__call__(model, images, labels, goal)
        return images if bool((model(found).argmax(1) == labels).all()) else found


class Shifted(nn.Module):
    """A network with a tensor that is neither weight nor buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.shift, self.layer = torch.zeros(64), nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(images.flatten(1) + self.shift)


QUICK = Config.from_mapping({"epochs": 1, "batch_size": 500, "attack_steps": 1, "validation_steps": 0, "accumulation": 0})


def test_a_part_that_remembers_is_not_touched() -> None:
    attack = Remembers()
    with pytest.warns(MemoryNote, match="hold about"):
        trainer = prepare(QUICK, parts={"attack": attack})
    assert attack.seen is None
    assert isinstance(next(train(trainer)), StepDone)


@pytest.mark.parametrize("own", [{"parts": {"attack": Reads()}}, {"model": Shifted()}], ids=["attack", "network"])
def test_what_cannot_be_predicted_is_stated_and_trains_whole(own: dict[str, Any]) -> None:
    with pytest.warns(MemoryNote, match=r"accumulation=1: what a step holds cannot be predicted here \(.*state a number"):
        trainer = prepare(QUICK, **own)
    assert trainer.config.accumulation == 1
    assert isinstance(next(train(trainer)), StepDone)


def test_an_average_is_predicted_whenever_it_begins(few: Splits) -> None:
    config = replace(SHORT, epochs=6)
    plain, *averaged = (
        step_memory(Trainer(fresh(c), few, c))
        for c in (config, replace(config, averaging="ema", average_start=4), replace(config, averaging="fawa"))
    )
    size = sum(t.nbytes for t in fresh(config).model.state_dict().values())
    assert all(found >= plain + 0.9 * size for found in averaged)


def test_a_base_does_not_hand_on_the_number_that_it_chose(tmp_path: Path) -> None:
    config = replace(QUICK, accumulation=32)
    RunFolder.create(tmp_path / "base", config, {})
    assert based_on(str(tmp_path / "base"), {"base": str(tmp_path / "base")}).accumulation == 1


def step_memory_of(config: Config) -> int:
    return step_memory(prepare(replace(config, accumulation=1)))
