"""A step on a GPU reads once. torch's `meta` device has shapes and no numbers: whatever reads one there raises, and so does a
tensor on another device."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import RATES, SHORT, fresh, sensible

from faal_lab.catalogue import FAIRNESS
from faal_lab.data.batches import Sampler
from faal_lab.data.images import Splits
from faal_lab.methods.fairness import faal
from faal_lab.methods.fairness.base import BeginsEpochs, Samples
from faal_lab.runs.config import Config
from faal_lab.training import step as steps
from faal_lab.training.loop import before_batch
from faal_lab.training.measure import Measurement
from faal_lab.training.step import TrainingDiverged
from faal_lab.training.trainer import Trainer

META = torch.device("meta")


def on_meta(config: Config, few: Splits) -> Trainer:
    """A training whose weights, images and method are on the meta device; what begins an epoch was measured before."""
    trainer = Trainer(fresh(config), few, config)
    method = trainer.state.recipe.at(0).fairness
    if isinstance(method, BeginsEpochs):
        method.begin_epoch(Measurement.of(trainer))
    trainer.state.model.to(META)
    method.state.update({name: tensor.to(META) for name, tensor in method.state.items()})
    trainer.__dict__["class_sizes"] = trainer.class_sizes.to(META)  # counted once in a training
    trainer.splits = few.to(META)
    return trainer


def two_steps(config: Config, few: Splits, drawn: bool = True) -> None:
    trainer = on_meta(config, few)
    method = trainer.state.acting().fairness
    sampler = Sampler(few.train, config.seed, 0, config.batch_size, "crop-flip")  # which images come is settled on the host
    for number in range(2):
        by = method.class_probabilities(10) if isinstance(method, Samples) and not number else None
        batch = sampler.batch(number, by)
        steps.step(trainer, type(batch)(*(tensor.to(META) for tensor in batch[:3])), before_batch(trainer.state))


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the reads of `_look`, which gets numbers from nowhere. The kernel that solves on a GPU is there."""
    found: Counter[str] = Counter()

    def look(state: Any, loss: torch.Tensor, weighing: Any, more: dict[str, torch.Tensor]) -> dict[str, list[float]]:
        found["reads"] += 1
        values = {"loss": loss, "size": loss, "weights": weighing.weights, "divergence": weighing.divergence, **more}
        assert all(tensor.device.type == "meta" for tensor in values.values()), "all come in one transfer"
        return {name: [float(name != "broken")] * tensor.numel() for name, tensor in values.items()}

    monkeypatch.setattr(steps, "_look", look)
    monkeypatch.setattr(faal, "has_kernel", lambda *_: True)
    return found


@pytest.mark.parametrize("fairness", FAIRNESS)
def test_a_step_reads_once(few: Splits, reads: Counter[str], fairness: str, capsys: pytest.CaptureFixture[str]) -> None:
    points = [point for point in sensible() if point[1] == fairness]
    for objective, _, gamma, averaging in points:
        config = replace(
            SHORT, objective=objective, fairness=fairness, awp_gamma=gamma, averaging=averaging,
            fairness_rate=RATES.get(fairness, -1.0),
        )  # fmt: skip
        two_steps(config, few)
    assert reads["reads"] == 2 * len(points)
    with capsys.disabled():
        print(f"\n{fairness:<12} reads a step: {reads['reads'] / 2 / len(points):g} of {len(points)} points", end=" ")


@pytest.mark.parametrize(
    "changes", [{"norm": "l2", "epsilon": 0.5}, {"accumulation": 4}, {"replays": 2}, {"attack_start": "gaussian"}], ids=str
)
def test_so_does_one_of_other_settings(few: Splits, reads: Counter[str], changes: dict[str, Any]) -> None:
    two_steps(replace(SHORT, fairness="faal", **changes), few)
    assert reads["reads"] == 2


@pytest.mark.parametrize("changes", [{"solver": "cvxpy"}, {"ambiguity": "wasserstein"}], ids=str)
def test_a_solver_without_a_kernel_is_the_named_exception(few: Splits, changes: dict[str, Any]) -> None:
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta"):
        two_steps(replace(SHORT, fairness="faal", **changes), few)


def test_logits_that_are_not_finite_are_refused_by_the_one_read(few: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "eager_on_cpu", lambda _: False)  # as on a GPU
    monkeypatch.setattr(faal.FAAL, "weigh", lambda self, stats, terms, tau: faal.Weighing(
        torch.full((10,), 0.1), {}, torch.zeros(())
    ))  # fmt: skip
    config = replace(SHORT, fairness="faal")
    trainer = Trainer(fresh(config), few, config)
    last = [parameter for parameter in trainer.state.model.parameters() if parameter.ndim == 1][-1]
    with torch.no_grad():
        last[3] = torch.nan
    before = {name: tensor.clone() for name, tensor in trainer.state.model.state_dict().items()}
    batch = Sampler(few.train, 0, 0, config.batch_size, "none").batch(0, None)
    with pytest.raises(TrainingDiverged, match="Logits are not finite at step 1"):
        steps.step(trainer, batch, before_batch(trainer.state))
    assert trainer.state.step == 0
    for name, tensor in trainer.state.model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0, equal_nan=True, msg=name)
