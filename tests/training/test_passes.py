"""A batch in parts: the same images, class weights and gradients, for one forward pass more; and what is said where memory ends."""

from dataclasses import replace

import pytest
import torch
from conftest import SHORT, fresh
from torch import nn

from faal_lab.data.images import Splits
from faal_lab.errors import ConfigError
from faal_lab.runs.config import Config
from faal_lab.runs.events import StepDone
from faal_lab.training.loop import train
from faal_lab.training.measure import BatchTooLarge
from faal_lab.training.trainer import Trainer

RECIPES = [
    {"fairness": "faal"},
    {"fairness": "faal", "variant": "release"},
    {"objective": "trades", "fairness": "faal", "awp_gamma": 0.01},
    {"objective": "mart"},
    {"objective": "bat", "fairness": "faal"},
    {"objective": "trades", "fairness": "csr"},
    {"objective": "standard"},
    {"fairness": "dafa", "fairness_start": 1},
    {"fairness": "fat"},
    {"objective": "trades", "fairness": "frl-rwrm"},
    {"objective": "trades", "fairness": "cfa"},
    {"fairness": "wat"},
    {"fairness": "cfol"},
]


def steps(config: Config, splits: Splits) -> tuple[list[StepDone], dict[str, torch.Tensor]]:
    state = fresh(config)
    done = [event for event in train(Trainer(state, splits, config)) if isinstance(event, StepDone)]
    return done, state.model.state_dict()


@pytest.mark.parametrize("changes", RECIPES)
def test_parts_of_a_batch_make_the_step_of_the_whole(changes: dict, few: Splits) -> None:
    """On a network without BatchNorm all must agree up to the order of sums; 100 is no multiple of 3."""
    config = replace(SHORT, batch_size=100, average_threshold=-1.0, **changes)
    whole, weights = steps(config, few)
    parts, again = steps(replace(config, accumulation=3), few)
    for number, (one, other) in enumerate(zip(whole, parts, strict=True)):
        near = 5e-3 if number else 1e-6  # a step of an attack may turn at rounding, and what follows with it
        assert other.weights == pytest.approx(one.weights, abs=near)
        assert other.loss == pytest.approx(one.loss, rel=near)
        assert other.count == one.count
    for name, tensor in weights.items():
        assert torch.allclose(tensor, again[name], atol=5e-3), name


def test_batch_norm_moves_once_a_part(few: Splits) -> None:
    config = replace(SHORT, batch_size=128, accumulation=4, epochs=1, fairness="faal")
    state = fresh(config)
    state.model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
    state.optimizer = torch.optim.SGD(state.model.parameters(), lr=0.01)
    events = [event for event in train(Trainer(state, few, config)) if isinstance(event, StepDone)]
    assert int(state.model[2].num_batches_tracked) == 4 * len(events), "scoring leaves it as it was"


@pytest.mark.parametrize(
    "changes, other",
    [
        ({"replays": 2, "attack_start": "zero"}, "replays"),
        ({"batch_norm": "train"}, "batch_norm=train"),
        ({"fairness": "cfa", "variant": "release"}, "batch_norm=train"),
        ({"fairness": "trix", "objective": "trades"}, "fairness=trix"),
        ({"fairness": "sy-far"}, "fairness=sy-far"),
        ({"fairness": "frl-rwrm", "objective": "trades", "variant": "release"}, "fairness=frl-rwrm"),
    ],
)
def test_what_needs_a_whole_batch_says_so(changes: dict, other: str) -> None:
    with pytest.raises(ConfigError, match=f"accumulation=2 attacks a batch part by part, and {other} needs it whole"):
        Config(accumulation=2, **changes)


def test_no_part_is_a_single_image(few: Splits) -> None:
    with pytest.raises(
        ConfigError, match="accumulation=33 leaves parts of under two images of batch_size=64.* Set it to 32 or less"
    ):
        Config(batch_size=64, accumulation=33)
    config = replace(SHORT, batch_size=253, accumulation=126, epochs=1)  # 256 images: the last batch has 3
    sizes: list[int] = []
    state = fresh(config)
    state.model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    done = [event for event in train(Trainer(state, few, config)) if isinstance(event, StepDone)]
    assert len(done) == 2
    assert min(sizes) >= 2


class Full(nn.Module):
    """A device that holds the activations of so many images."""

    def __init__(self, holds: int) -> None:
        super().__init__()
        self.holds, self.layers = holds, nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) > self.holds:
            raise torch.OutOfMemoryError("tried to allocate 9 GiB")
        return self.layers(images)


@pytest.mark.parametrize(
    "holds, accumulation, said",
    [
        (
            20,
            1,
            r"A batch of 64 images does not fit in the memory of cpu; 16 images do\. Set accumulation=4 .* or batch_size=16\.",
        ),
        (
            20,
            2,
            r"of cpu in 2 parts; 16 images do\. Set accumulation=4 .* BatchNorm sees 16 images at a time\), or batch_size=32\.",
        ),
        (0, 1, "nor does a single image. Choose a smaller network or another device"),
    ],
)
def test_a_batch_that_memory_does_not_hold(holds: int, accumulation: int, said: str, few: Splits) -> None:
    config = replace(SHORT, batch_size=64, accumulation=accumulation)
    state = fresh(config)
    state.model = Full(holds)
    state.optimizer = torch.optim.SGD(state.model.parameters(), lr=0.01)
    before = {name: tensor.clone() for name, tensor in state.model.state_dict().items()}
    with pytest.raises(BatchTooLarge, match=said):
        next(train(Trainer(state, few, config)))
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.model.state_dict().items())
    assert all(parameter.grad is None for parameter in state.model.parameters())
    if holds:
        assert isinstance(next(train(Trainer(state, few, replace(config, accumulation=4)))), StepDone), "what is advised works"
