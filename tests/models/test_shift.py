"""A bias for each class: in the last layer where there is one, else around the network."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from faal_lab.catalogue import FILTERS, MODELS
from faal_lab.models.build import ModelSpec, build
from faal_lab.models.shift import Shifted, bias_name, shifted

PIXELS = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
BIAS = torch.arange(10.0)


class Scaled(nn.Module):
    """A network that changes what its last layer says."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(3 * 32 * 32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * self.last(x.flatten(1))


class Twice(nn.Module):
    """A network that goes through its last layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3 * 32 * 32, 10), nn.Linear(10, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.last(self.first(x.flatten(1))))


def tied() -> nn.Module:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10), nn.ReLU(), nn.Linear(10, 10))
    network[1].bias = network[3].bias
    return network


@pytest.mark.parametrize("name", MODELS)
def test_every_network_of_the_package_has_a_place_for_a_bias(name: str) -> None:
    network = build(ModelSpec(name, 10, 3, 32, 32, (0.5,) * 3, (0.25,) * 3, 2 if name in FILTERS else 0), 0).eval()
    _moves_logits_by_the_bias(network)
    assert not isinstance(shifted(network, PIXELS, 10)[0], Shifted)


@pytest.mark.parametrize(
    "make",
    [Scaled, Twice, tied, lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10, bias=False)),
     lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10), nn.LogSoftmax(1))],
)  # fmt: skip
def test_other_networks_get_a_wrapper(make: type[nn.Module]) -> None:
    network = make().eval()
    assert bias_name(network, PIXELS) == ""
    assert isinstance(shifted(network, PIXELS, 10)[0], Shifted)
    _moves_logits_by_the_bias(network)


def test_a_plain_linear_layer_is_its_own_last_layer() -> None:
    assert bias_name(nn.Linear(4, 2), torch.zeros(1, 4)) == "bias"


def test_a_wrapped_network_is_not_wrapped_again() -> None:
    once, _ = shifted(Scaled(), PIXELS, 10)
    again, name = shifted(once, PIXELS, 10)
    assert again is once
    assert name == "shift"


def _moves_logits_by_the_bias(network: nn.Module) -> None:
    before = {name: tensor.clone() for name, tensor in copy.deepcopy(network).state_dict().items()}
    with torch.no_grad():
        plain = network(PIXELS)
        biased, name = shifted(network, PIXELS, 10)
        biased.state_dict()[name].add_(BIAS)
        torch.testing.assert_close(biased(PIXELS), plain + BIAS, atol=1e-4, rtol=1e-5)
    own = {key.removeprefix("network.") if biased is not network else key: t for key, t in biased.state_dict().items()}
    changed = [key for key in before if not torch.equal(before[key], own[key])]
    assert changed == ([name] if biased is network else [])
