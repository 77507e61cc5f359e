"""Files whose weights could be taken wrongly without a word: each is refused, or a warning names what was left."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from faal_lab.models.build import ModelSpec, build
from faal_lab.models.normalize import Normalized
from faal_lab.models.weights import WeightsWarning, load_foreign
from faal_lab.runs import CheckpointError

Weights = dict[str, Any]
MEAN, STD = torch.full((3,), 0.1), torch.full((3,), 0.9)
SPREAD = {"mean": MEAN, "std": STD}


def net(seed: int) -> Normalized:
    made = build(ModelSpec("preact-resnet-18", 2, 3, 8, 8, (0.5,) * 3, (0.25,) * 3, filters=2), seed)
    assert isinstance(made, Normalized)
    return made


def under(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: tensor for name, tensor in weights.items()}


def load(found: Weights, tmp_path: Path) -> tuple[bool, Normalized]:
    torch.save(found, tmp_path / "weights.pt")
    target = net(seed=2)
    return load_foreign(target, 3, 2, tmp_path / "weights.pt"), target


@pytest.fixture
def weights() -> Weights:
    return dict(net(seed=1).network.state_dict())


@pytest.mark.parametrize("beside", ["best_state_dict", "swa_state_dict", "ema_model_state_dict", "teacher"])
def test_the_same_network_under_an_unknown_name_is_named(beside: str, weights: Weights, tmp_path: Path) -> None:
    other = under("module.", {n: t + 1 for n, t in weights.items()})
    with pytest.warns(WeightsWarning, match=f"holds state_dict and {beside}: state_dict was taken"):
        load({"state_dict": weights, beside: other}, tmp_path)


def test_tensors_beside_an_average_are_named(weights: Weights, tmp_path: Path) -> None:
    with pytest.warns(WeightsWarning, match="holds ema and tensors beside it: ema was taken, the average"):
        load({**weights, "ema": weights}, tmp_path)


def test_an_optimizer_is_no_other_network(weights: Weights, tmp_path: Path) -> None:
    state = {number: {"momentum_buffer": tensor} for number, tensor in enumerate(weights.values())}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load({"state_dict": weights, "optimizer": {"state": state, "param_groups": []}}, tmp_path)


@pytest.mark.parametrize("name", ["layer1.0.alpha", "logit_scale"])
def test_a_learned_number_is_no_counter(name: str, weights: Weights, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"1 unexpected \({name}\)"):
        load({**weights, name: torch.tensor(0.3)}, tmp_path)


def test_a_temperature_after_the_network_is_refused(weights: Weights, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"1 unexpected \(1\.temperature\)"):
        load({**under("0.", weights), "1.temperature": torch.tensor(5.0)}, tmp_path)


@pytest.mark.parametrize("kind", [torch.int8, torch.int64, torch.bool, torch.complex64])
def test_numbers_that_are_no_floats_are_refused(kind: torch.dtype, weights: Weights, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"no plain floats .*{kind}"):
        load({n: t.to(kind) for n, t in weights.items()}, tmp_path)


@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_tensors_that_are_sparse_are_refused(weights: Weights, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"1 no plain floats \(linear\.weight"):
        load(weights | {"linear.weight": torch.eye(2, weights["linear.weight"].shape[1]).to_sparse()}, tmp_path)


def test_mean_and_std_of_an_unknown_neighbour_are_refused(weights: Weights, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="mean and std at metric, and its names do not state whether"):
        load({**under("model.", weights), **under("metric.", SPREAD)}, tmp_path)


@pytest.mark.parametrize("place", ["teacher.head.", "val.metrics.fid."])
def test_mean_and_std_of_another_part_are_not_applied(place: str, weights: Weights, tmp_path: Path) -> None:
    with pytest.warns(WeightsWarning, match=rf"2 tensors of other parts \({place}mean, {place}std\)"):
        brought, target = load({**under("model.", weights), **under(place, SPREAD)}, tmp_path)
    assert not brought
    assert target.normalize.mean.flatten().tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("place", "inside"),
    [("normalize.", "model."), ("0.", "1."), ("net.0.", "net.1."), ("", "model."), ("normalize.", "model.body.")],
)
def test_mean_and_std_before_the_network_are_applied(place: str, inside: str, weights: Weights, tmp_path: Path) -> None:
    brought, target = load({**under(inside, weights), **under(place, SPREAD)}, tmp_path)
    assert brought
    assert torch.equal(target.normalize.mean.flatten(), MEAN)
    assert torch.equal(target.normalize.std.flatten(), STD)


def test_mean_and_std_after_the_network_are_refused(weights: Weights, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"2 unexpected \(1\.mean, 1\.std\)"):
        load({**under("0.", weights), **under("1.", SPREAD)}, tmp_path)


@pytest.mark.parametrize("spread", [{"mean": MEAN * torch.nan}, {"std": STD * torch.inf}])
def test_a_normalisation_that_is_not_finite_is_refused(spread: Weights, weights: Weights, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected finite means and one positive std for each of 3 channels"):
        load({**under("model.", weights), **under("normalize.", {**SPREAD, **spread})}, tmp_path)


def test_a_file_that_holds_itself_is_damaged(tmp_path: Path) -> None:
    found: Weights = {}
    found["model"] = found
    with pytest.raises(CheckpointError, match="it holds itself"):
        load(found, tmp_path)
