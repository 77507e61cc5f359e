"""bfloat16 in training: where it acts, where it must not, and what it does to each class. And how much work a step is."""

from pathlib import Path

import precision
import pytest
import torch
from made_up import Counting
from torch import nn

from faal_lab.errors import ConfigError
from faal_lab.methods.pgd import pgd
from faal_lab.models.build import ModelSpec, build, frozen
from faal_lab.models.fast import in_bfloat16, wants_bfloat16
from faal_lab.runs.config import Config
from faal_lab.training.loop import train
from faal_lab.training.run import prepare, run

CPU = torch.device("cpu")


def network(name: str = "preact-resnet-18", filters: int = 8) -> nn.Module:
    return build(ModelSpec(name, 10, 3, 16, 16, (0.5,) * 3, (0.25,) * 3, filters), 0)


def test_only_what_may_be_rounded_is_rounded() -> None:
    model = network().eval()
    pixels = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    kinds: dict[str, torch.dtype] = {}
    for name, module in model.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            module.register_forward_hook(lambda m, _, out, name=name: kinds.update({name: out.dtype}))
    exact = model(pixels)
    seen: list[torch.dtype] = []
    for watched in (model.network.conv1, model.network.layer1[1]):
        watched.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    names = list(model.state_dict())
    assert set(kinds.values()) == {torch.float32}
    with in_bfloat16(model, True):
        rough = model(pixels)
        moved = model((pixels + 1e-4).clamp(0, 1))
    assert set(kinds.values()) == {torch.bfloat16}
    assert seen[:2] == [torch.float32, torch.bfloat16], "pixels come as they are; no residual stream stays float32"
    assert rough.dtype == torch.float32, "losses are float32"
    assert not torch.equal(rough, exact)
    assert (rough - exact).abs().max() < 0.05 * exact.abs().max()
    assert not torch.equal(rough, moved), "a change far below 1/256 gets through the first layer"
    assert torch.equal(model(pixels), exact), "afterwards all is as it was"
    assert list(model.state_dict()) == names
    assert type(next(m for m in model.modules() if isinstance(m, nn.Conv2d))) is nn.Conv2d


def test_an_attacks_signs_agree_in_every_class() -> None:
    """A precision effect that hit some classes alone would look like unfairness: look at each."""
    model = network(filters=16)
    numbers = torch.Generator().manual_seed(1)
    pixels, labels = torch.rand(80, 3, 16, 16, generator=numbers), torch.arange(80) % 10
    found = []
    for low in (False, True):
        with frozen(model), in_bfloat16(model, low):
            found.append((pgd(model, pixels, labels, radius=0.03, step=0.01, steps=1) - pixels).sign())
    agree = (found[0] == found[1]).float().mean((1, 2, 3))
    by_class = torch.stack([agree[labels == c].mean() for c in range(10)])
    assert by_class.min() > 0.9
    assert by_class.max() - by_class.min() < 0.05


def test_what_a_setting_comes_to(monkeypatch) -> None:
    resnet, small = network(), build(ModelSpec("small-cnn", 10, 1, 8, 8, (0.5,), (0.25,), 8), 0)
    for native in (True, False):
        monkeypatch.setattr("faal_lab.models.fast.has_bfloat16", lambda _, native=native: native)
        assert wants_bfloat16("auto", resnet, CPU) == native
        assert wants_bfloat16("bfloat16", resnet, CPU)
        assert not wants_bfloat16("float32", resnet, CPU)
        assert not wants_bfloat16("auto", small, CPU), "nothing to gain: float32 wherever it runs"
    with pytest.raises(ConfigError, match="precision=bfloat16 is for ResNets; small-cnn trains in float32"):
        prepare(Config(precision="bfloat16"))
    with pytest.raises(ValueError, match="Unknown precision 'half'"):
        Config(precision="half")


@pytest.mark.slow
@pytest.mark.numbers
def test_bfloat16_changes_no_conclusion(tmp_path: Path) -> None:
    """Three seeds from one base: robust accuracies are not shown to differ by more than two points, on average and in the worst."""
    base = Config(model="preact-resnet-18", filters=8, epochs=3, attack_steps=2, validation_steps=1, batch_size=50)
    for _ in run(base, tmp_path / "base"):
        pass
    changes = {"epochs": 1, "attack_steps": 2, "validation_steps": 1, "learning_rate": 0.01}
    found = precision.compared(tmp_path / "base", 3, 200, changes)
    for kind in ("average", "worst"):
        difference = found["bfloat16 minus float32"][kind]
        assert difference["low"] <= 2, kind  # not 0: one 95 % interval in twenty misses it, and processors round differently
        assert difference["high"] >= -2, kind
        assert abs(difference["mean"]) < 6, kind
    low, full = found["values"]["bfloat16"], found["values"]["float32"]
    assert low != full, "it does act"
    assert min(v["average"] for v in low + full) > 20, "of something that learned"


@pytest.mark.parametrize(
    "changes, forwards",
    [
        ({}, 23),
        ({"fairness": "faal"}, 23),
        ({"objective": "trades"}, 27),
        ({"objective": "trades", "fairness": "faal"}, 27),
        ({"attack_steps": 3}, 9),
        ({"accumulation": 2}, 24),
        ({"objective": "standard"}, 3),
    ],
)
def test_a_step_costs_no_more_than_it_must(changes: dict, forwards: int) -> None:
    """In forward passes F of the same images: a gradient for pixels alone is F more, one for weights and pixels 2 F."""
    config = Config(model="preact-resnet-18", filters=8, batch_size=50, precision="float32", epochs=1, **changes)
    experiment = prepare(config)
    images = experiment.splits.train.batch(torch.arange(50))[0]
    with Counting() as one, torch.no_grad():
        experiment.state.model(images)
    events = train(experiment)
    next(events)
    with Counting() as step:
        next(events)
    # no gradient for the pixels is asked for in the weights' backward pass: a little under 2 F
    assert step.total / one.total == pytest.approx(forwards, abs=0.35)
