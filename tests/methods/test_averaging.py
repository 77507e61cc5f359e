"""Averaged weights: the rule by hand, the gate, the buffers, and that they are what a run delivers."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from faal_lab.errors import UnknownName
from faal_lab.methods.averaging import Averaging, wearing
from faal_lab.methods.recipe import Recipe
from faal_lab.runs import RunFolder, read_checkpoint
from faal_lab.runs.config import Config
from faal_lab.runs.events import EpochDone
from faal_lab.training.restore import load_model
from faal_lab.training.run import run


def network() -> nn.Module:
    return nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))


def walk(averaging: Averaging, epochs: list[int]) -> tuple[dict[str, torch.Tensor], list[torch.Tensor], int]:
    """A step an epoch named, in which every tensor of the network is 1, 2, 3, ..., and their average."""
    model, average, updates, seen = network(), {}, 0, []
    for value, epoch in enumerate(epochs, start=1):
        with torch.no_grad():
            for tensor in model.state_dict().values():
                tensor.fill_(value)
        updates = averaging.after_step(average, model, epoch, updates)
        seen.append(torch.tensor(float(value)))
    return average, seen, updates


def test_ema_is_seats_rule() -> None:
    average, seen, updates = walk(Averaging("ema", decay=0.25, start=1), [0, 1, 1, 1, 2])
    expected = None
    for t, value in enumerate(seen[1:]):
        rate = min(0.25, (t + 1) / (t + 10))
        expected = value if expected is None else rate * expected + (1 - rate) * value
    assert updates == 4
    assert expected is not None
    assert torch.allclose(average["1.weight"], expected.expand(2, 2))
    assert torch.allclose(average["0.running_mean"], expected.expand(2)), "buffers are averaged like weights"
    assert average["0.num_batches_tracked"].item() == 5, "a count is not averaged: it would be cut off"
    assert average["0.num_batches_tracked"].dtype == torch.int64


def test_buffers_can_be_copied_instead() -> None:
    average, _, _ = walk(Averaging("ema", decay=0.9, buffers="copy"), [0, 0, 0])
    assert average["0.running_mean"].tolist() == [3.0, 3.0]
    assert average["1.weight"][0, 0] != 3.0
    with pytest.raises(UnknownName, match="Unknown treatment of buffers 'keep'"):
        Recipe.of("at", "none", averaging="ema", average_buffers="keep")


def test_fawa_absorbs_only_epochs_that_are_fair_enough() -> None:
    averaging, model = Averaging("fawa", decay=0.85, threshold=0.2, start=1), network()
    average: dict[str, torch.Tensor] = {}
    for epoch, worst in enumerate([0.9, 0.1, 0.3, 0.19, 0.2]):
        with torch.no_grad():
            model[1].weight.fill_(epoch)
        averaging.after_step(average, model, epoch, 0)
        averaging.after_epoch(average, model, epoch, worst)
    assert torch.allclose(average["1.weight"], torch.full((2, 2), 0.85 * 2 + 0.15 * 4)), "epochs 2 and 4 passed"


def test_papers_and_releases_settings() -> None:
    def settings(variant: str, **given: float) -> tuple[float, float]:
        averaging = Recipe.of("at", "cfa", averaging="fawa", variant=variant, **given).averaging
        return averaging.decay, averaging.threshold

    assert settings("paper") == (0.85, 0.2)
    assert settings("release") == (0.88, 0.24)
    assert settings("release", average_decay=0.5, average_threshold=0.0) == (0.5, 0.0)
    assert Recipe.of("at", "none", averaging="ema").averaging.decay == 0.999


def test_wearing_the_average_is_undone_bit_for_bit_even_after_an_error() -> None:
    model = network()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    average = {n: torch.ones_like(t) for n, t in before.items()}
    with wearing(model, average):
        assert bool((model[1].weight == 1).all())
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    with pytest.raises(RuntimeError, match="inside"), wearing(model, average):
        raise RuntimeError("inside")
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_a_run_delivers_its_average(tmp_path: Path, quick: Config) -> None:
    config = replace(quick, averaging="ema", average_decay=0.5, epochs=2)
    events = list(run(config, tmp_path / "ema"))
    checkpoint = read_checkpoint(RunFolder(tmp_path / "ema").checkpoint())
    model, _, _ = load_model(tmp_path / "ema")
    assert torch.equal(model.classifier.weight, checkpoint.part("average")["classifier.weight"])
    assert not torch.equal(model.classifier.weight, checkpoint.part("model")["classifier.weight"])
    plain = list(run(replace(config, averaging="none"), tmp_path / "plain"))
    assert torch.equal(
        checkpoint.part("model")["classifier.weight"],
        read_checkpoint(RunFolder(tmp_path / "plain").checkpoint()).part("model")["classifier.weight"],
    ), "averaging does not touch the training"
    validated = [[e.clean_correct for e in found if isinstance(e, EpochDone)] for found in (events, plain)]
    assert validated[0] != validated[1], "validation sees what is delivered"
    tuned = replace(quick, base=str(tmp_path / "ema"), learning_rate=0.0)
    list(run(tuned, tmp_path / "tuned"))
    again, _, _ = load_model(tmp_path / "tuned")
    assert torch.equal(again.classifier.weight, model.classifier.weight), "a fine-tuning starts from it"
