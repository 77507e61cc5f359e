"""Each look at a number on a GPU waits for all that the GPU was told before: how often a step takes one, and when."""

from dataclasses import replace

import pytest
import torch
from conftest import SHORT, fresh

from faal_lab.data import Splits
from faal_lab.events import EpochDone
from faal_lab.training import train

WAYS = ("item", "tolist", "__bool__", "__float__", "__int__", "cpu", "numpy", "nonzero")
RECIPES = [
    {"fairness": "faal"},
    {"fairness": "faal", "score": "running"},
    {"objective": "trades", "fairness": "faal", "awp_gamma": 0.01, "averaging": "ema"},
    {"objective": "mart", "fairness": "group-dro"},
    {"objective": "trades", "fairness": "frl-rwrm"},
    {"objective": "trades", "fairness": "cfa"},
    {"fairness": "wat"},
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
    events = train(state, few, config)
    next(event for event in events if isinstance(event, EpochDone))  # a fairness method has learned from an epoch by then
    next(events)  # it may measure before the first step of the next
    looks.clear()
    next(events)
    assert looks.count("update") == 1, looks
    assert looks[-1] == "update", "the next batch is prepared while the update is made"
    on_the_host = 2 if "faal" in str(changes) else 0  # of the class weights, which are found there
    assert len(looks) - 1 <= 4 + 2 * on_the_host, looks
