"""Each look at a number on a GPU waits for all that the GPU was told before: how often a step takes one, and when."""

from dataclasses import replace

import pytest
import torch
from conftest import SHORT, fresh
from torch.utils._python_dispatch import TorchDispatchMode

from faal_lab.data.images import Splits
from faal_lab.dro import KLBall, kl
from faal_lab.dro import base as pose
from faal_lab.dro import base as root
from faal_lab.runs.events import EpochDone
from faal_lab.training.loop import train
from faal_lab.training.trainer import Trainer

WAYS = ("item", "tolist", "__bool__", "__float__", "__int__", "cpu", "numpy", "nonzero")
RECIPES = [
    {"fairness": "faal"},
    {"fairness": "faal", "score": "running"},
    {"objective": "trades", "fairness": "faal", "awp_gamma": 0.01, "averaging": "ema"},
    {"objective": "mart", "fairness": "group-dro"},
    {"objective": "trades", "fairness": "frl-rwrm"},
    {"objective": "trades", "fairness": "cfa"},
    {"fairness": "wat"},
    {"fairness": "fat"},
    {"fairness": "sy-far"},
    {"fairness": "robust-lt"},
    {"fairness": "fair-tat"},
    {"fairness": "dafa"},
    {"objective": "trades", "fairness": "trix"},
    {"objective": "trades", "fairness": "csr"},
    {"objective": "bat"},
    {"objective": "at", "replays": 2, "attack_start": "zero"},
]


@pytest.mark.parametrize("changes", RECIPES)
def test_a_step_looks_seldom_and_never_after_its_update(changes: dict, few: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    config, looks = replace(SHORT, **changes), []
    state = fresh(config)
    for way in WAYS:
        plain = getattr(torch.Tensor, way)
        monkeypatch.setattr(torch.Tensor, way, lambda *a, way=way, plain=plain, **k: looks.append(way) or plain(*a, **k))
    update = state.optimizer.step
    state.optimizer.step = lambda *a, **k: [update(*a, **k), looks.append("update")]
    events = train(Trainer(state, few, config))
    next(event for event in events if isinstance(event, EpochDone))  # a fairness method has learned from an epoch by then
    next(events)  # it may measure before the first step of the next
    looks.clear()
    next(events)
    assert looks.count("update") == 1, looks
    assert looks[-1] == "update", "the next batch is prepared while the update is made"
    on_the_host = 2  # where FAAL's class weights are found, once scores and classes are there
    assert len(looks) - 1 == (3 + on_the_host if changes.get("fairness") == "faal" else 2), looks


class Counted(TorchDispatchMode):
    """How many operations a device is told."""

    operations = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.operations += 1
        return operation(*args, **(kwargs or {}))


def test_why_class_weights_are_found_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = torch.linspace(-0.5, 0.5, 10)
    with Counted() as here:
        on_the_host = KLBall(0.5).worst_case(scores, check=True)
    for module in (kl, pose, root):
        monkeypatch.setattr(module, "eager_on_cpu", lambda values: False)  # as on a GPU, which nobody may wait for
    with Counted() as there:
        blind = KLBall(0.5).worst_case(scores, check=False)
    assert torch.allclose(blind.weights, on_the_host.weights, atol=1e-12)
    assert here.operations < 10
    assert 1000 < there.operations < 2000
