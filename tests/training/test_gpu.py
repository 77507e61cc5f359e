"""What only a GPU can show; `make test-gpu` runs these and the solvers' own. Skipped where there is none."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHORT

from faal_lab.evaluation.autoattack import autoattack
from faal_lab.evaluation.evaluate import evaluate_run
from faal_lab.evaluation.verdicts import Journal
from faal_lab.methods.predict import PGD_ATTACKS, predictions
from faal_lab.models.layout import placed
from faal_lab.runs.config import Config
from faal_lab.runs.events import StepDone
from faal_lab.training.measure import BatchTooLarge
from faal_lab.training.restore import load_model
from faal_lab.training.run import load_data, run

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
GPU = torch.device("cuda")
RESNET = replace(SHORT, model="preact-resnet-18", filters=8, device="cuda")


def steps(config: Config, folder: Path) -> list[StepDone]:
    return [event for event in run(config, folder) if isinstance(event, StepDone)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu") / "run"
    steps(replace(SHORT, device="cuda", fairness="faal"), folder)
    return folder


@pytest.mark.parametrize(
    "changes", [{"fairness": "faal"}, {"objective": "trades", "fairness": "faal"}, {"fairness": "group-dro"}]
)
def test_a_run_begins_as_on_the_processor(changes: dict, tmp_path: Path) -> None:
    here, there = (steps(replace(SHORT, device=device, **changes), tmp_path / device)[0] for device in ("cpu", "cuda"))
    assert there.loss == pytest.approx(here.loss, rel=1e-2)
    assert there.weights == pytest.approx(here.weights, abs=1e-2)
    assert there.count == here.count


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
def test_a_resnet_learns(precision: str, compiled: bool, tmp_path: Path) -> None:
    done = steps(replace(RESNET, precision=precision, compile=compiled, fairness="faal"), tmp_path / precision)
    assert np.mean([s.loss for s in done[-3:]]) < np.mean([s.loss for s in done[:3]])


def test_a_compiled_evaluation_finds_the_same(tmp_path: Path) -> None:
    steps(replace(RESNET, objective="at"), tmp_path / "run")
    found = [
        evaluate_run(tmp_path / "run", attacks=("pgd-20", "apgd-ce"), images=100, device="cuda", compile=compiled)
        for compiled in (False, True)
    ]
    assert "compiled" in found[1].header
    assert "compile" not in found[1].header["versions"], "the compiler did not fail"
    for attack in ("pgd-20", "apgd-ce"):
        assert np.mean(found[0].predicted[attack] == found[1].predicted[attack]) > 0.97


def test_verdicts_are_those_of_the_processor(trained: Path) -> None:
    model, config, _ = load_model(trained)
    images = load_data(config).test
    found = [
        predictions(placed(model, device), images.to(device), PGD_ATTACKS["pgd-20"], config.epsilon, seed=0).cpu()
        for device in (torch.device("cpu"), GPU)
    ]
    assert float((found[0] == found[1]).float().mean()) > 0.99


def test_autoattack_goes_on_where_it_was_killed(trained: Path, tmp_path: Path) -> None:
    model, config, _ = load_model(trained)
    images, labels = load_data(config).test.to(GPU).batch(torch.arange(30, device=GPU))
    setting = {"epsilon": config.epsilon, "seed": 0, "num_classes": 10, "batch_size": 10, "queries": 50}
    model = placed(model, GPU)

    class Killed(Exception):
        pass

    def kill(what: str, share: float, left: int) -> None:
        if share > 0.5:
            raise Killed

    with pytest.raises(Killed):
        autoattack(model, images, labels, journal=Journal(tmp_path, {}, 0), progress=kill, **setting)
    resumed = autoattack(model, images, labels, journal=Journal(tmp_path, {}, 0), **setting)
    whole = autoattack(model, images, labels, **setting)
    assert torch.equal(resumed["square"], whole["square"])


def test_too_little_memory_says_what_fits(tmp_path: Path) -> None:
    config = replace(RESNET, filters=64, batch_size=1000, epochs=1)
    whole = torch.cuda.get_device_properties(GPU).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 400e6) / whole)
    try:
        with pytest.raises(BatchTooLarge, match="does not fit in the memory of cuda"):
            steps(config, tmp_path / "run")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()
