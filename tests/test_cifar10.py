"""The CIFAR-10 pipeline: what it is made of, that it goes on where it was cut off, and what it leaves behind."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import carried
import cifar10
import cifar10_page
import model_card
import numpy as np
import pytest
import torch
from conftest import draw_images

from faal_lab.config import RunConfig
from faal_lab.evaluation import Verdicts
from faal_lab.events import Command, StepDone
from faal_lab.experiment import prepare
from faal_lab.restore import load_model
from faal_lab.runs import RunFolder
from faal_lab.table_files import as_markdown

SMALL = {"epsilon": 0.08, "batch_size": 16, "attack_steps": 1, "validation_steps": 1, "checkpoint_every": 2, "precision": "auto"}


@pytest.mark.parametrize("scale", cifar10.SCALES)
def test_every_step_has_valid_settings_and_what_it_starts_from(scale: str) -> None:
    made: set[str] = set()
    for step in cifar10.SCALES[scale]:
        if isinstance(step, cifar10.Train):
            config = RunConfig.from_mapping(step.settings)
            assert config.epsilon == 8 / 255
            assert not step.base or step.base in made
            if step.base:
                assert config.attack_steps == 10
            made.add(step.name)
        else:
            assert {getattr(step, "run", "")} - {""} | set(getattr(step, "runs", ())) <= made
    arms = {s.name: s.settings for s in cifar10.SCALES[scale] if isinstance(s, cifar10.Train)}
    differing = {k for k in arms["at-faal"] if arms["at-faal"][k] != arms["at-control"].get(k)}
    assert differing <= {"fairness", "averaging"}, "the control differs from FAAL in nothing else"


def travel(scale: str, runs: Path, out: Path, state: Path) -> None:
    """From here on it is another machine's, at which the folder of runs is called the same."""
    carried.pack(cifar10.to_carry(scale, runs, out), runs, state)
    assert max(piece.stat().st_size for piece in state.iterdir()) <= carried.PIECE
    shutil.rmtree(runs)
    assert carried.unpack(state, runs) > 2


@dataclass(frozen=True)
class Made:
    """A small pipeline, made in one go."""

    base: dict
    data: dict
    runs: Path
    out: Path

    def verdicts(self) -> dict[str, Verdicts]:
        return {file.stem: Verdicts.read(file) for file in sorted(self.out.glob("*.npz"))}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    folder = tmp_path_factory.mktemp("cifar10")
    images = draw_images(folder / "images", {"ant": 40, "bee": 40, "cow": 40, "dog": 40}, size=8)
    base = {**SMALL, "model": "preact-resnet-18", "filters": 4, "epochs": 2}
    steps = [
        cifar10.Train("at", base),
        cifar10.Keep("at"),
        cifar10.Train("at-faal", {**SMALL, "fairness": "faal", "epochs": 1}, "at"),
        cifar10.Measure(("at", "at-faal"), ("clean", "pgd-20")),
        cifar10.Measure(("at-faal",), ("apgd-ce",), 8),
    ]
    data = {"data": "folder", "data_dir": str(images), "device": "cpu"}
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(cifar10.SCALES, "tiny", steps)
        assert cifar10.make("tiny", folder / "runs", folder / "out", data)
        yield Made(base, data, folder / "runs", folder / "out")


def test_it_goes_on_where_it_was_cut_off_on_another_machine(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carried, "PIECE", 20_000)  # checkpoints take several
    runs, out = tmp_path / "runs", tmp_path / "out"
    for looks, cut in ((6, "at"), (16, "at-faal")):
        left = looks

        def look(clock: cifar10.Clock) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise cifar10.OutOfTime

        with monkeypatch.context() as patched:
            patched.setattr(cifar10.Clock, "look", look)
            assert not cifar10.make("tiny", runs, out, made.data)
        steps = [event for event in RunFolder(runs / cut).events() if isinstance(event, StepDone)]
        assert 0 < len(steps) < 7, "in the middle of an epoch"
        assert RunFolder(runs / cut).status() == "stopped"
        travel("tiny", runs, out, tmp_path / "state")
    assert cifar10.make("tiny", runs, out, made.data)
    assert not any(file.suffix == ".safetensors" for file in cifar10.to_carry("tiny", runs, out)), "nothing is left to be done"
    travel("tiny", runs, out, tmp_path / "state")
    for name, verdicts in made.verdicts().items():
        again = Verdicts.read(out / f"{name}.npz")
        assert all(np.array_equal(again.predicted[a], verdicts.predicted[a]) for a in verdicts.predicted), "a cut leaves no trace"
    assert (out / "at.safetensors").read_bytes() == (made.out / "at.safetensors").read_bytes()
    times = (out / "about.json").read_bytes()
    assert cifar10.make("tiny", runs, out, made.data)
    assert (out / "about.json").read_bytes() == times, "what is done is not made again"


def test_what_it_leaves_behind(made: Made) -> None:
    found, about = made.verdicts(), json.loads((made.out / "about.json").read_text())
    assert list(found) == ["at-clean-pgd-20", "at-faal-apgd-ce", "at-faal-clean-pgd-20"]
    assert all(v.examples is None for v in found.values()), "no image leaves the run folder"
    assert (len(found["at-faal-apgd-ce"].labels), len(found["at-clean-pgd-20"].labels)) == (8, 32)
    assert set(about["seconds"]) == {"at", "at-faal", *found}
    tuned = {**made.base, **SMALL, "data": "folder", "fairness": "faal", "base": "at", "epochs": 1}
    assert about["settings"]["at-faal"] == tuned
    file = made.out / "at.safetensors"
    kept = prepare(RunConfig(**{**made.base, **made.data, "base": str(file)}))
    own = load_model(made.runs / "at")[0].state_dict()
    for name, tensor in kept.state.model.state_dict().items():
        assert torch.equal(tensor, own[name].half().to(tensor.dtype) if tensor.is_floating_point() else own[name])
    shown = model_card.card(file, about, [found["at-clean-pgd-20"]])
    assert hashlib.sha256(file.read_bytes()).hexdigest() in shown
    assert "--model preact-resnet-18 --filters 4 " in shown
    assert "| PGD-20 | at | " in shown


def test_the_page_says_what_was_found(made: Made) -> None:
    page = as_markdown("Tiny", cifar10_page.tables(made.out, cifar10_page.groups(made.out)))
    clean = made.verdicts()["at-faal-clean-pgd-20"]
    share = 100 * float(np.mean([np.mean(clean.survived["pgd-20"][clean.labels == c]) for c in range(4)]))
    assert f"| PGD-20 | at-faal | {share:.1f} (" in page
    assert "| PGD-20: at-faal against at |" in page
    assert "Not measured: PGD-20: at-faal against at-control; AutoAttack: at-faal against at; " in page
    assert "All are met" not in page


def test_a_run_that_was_told_to_stop_is_no_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = draw_images(tmp_path / "images", {"ant": 40, "bee": 40, "cow": 40, "dog": 40}, size=8)
    base = {**SMALL, "model": "preact-resnet-18", "filters": 4, "epochs": 2}
    steps = [cifar10.Train("at", base), cifar10.Train("at-faal", {**SMALL, "fairness": "faal", "epochs": 1}, "at")]
    monkeypatch.setitem(cifar10.SCALES, "tiny", steps)
    told: list[bool] = []

    def look(clock: cifar10.Clock) -> None:
        if not told and (tmp_path / "runs" / "at").exists():
            told.append(bool(RunFolder(tmp_path / "runs" / "at").send(Command("stop"))))

    monkeypatch.setattr(cifar10.Clock, "look", look)
    data = {"data": "folder", "data_dir": str(images), "device": "cpu"}
    assert not cifar10.make("tiny", tmp_path / "runs", tmp_path / "out", data)
    assert not (tmp_path / "runs" / "at-faal").exists()


def test_state_that_did_not_travel_well_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carried, "PIECE", 10)
    runs, state = tmp_path / "runs", tmp_path / "state"
    (runs / "at").mkdir(parents=True)
    (runs / "at" / "config.json").write_text("25 bytes and an odd piece")
    (runs / "at" / "empty").touch()
    carried.pack((runs / "at").iterdir(), runs, state)
    assert carried.unpack(tmp_path / "nothing", runs) == 0
    assert carried.unpack(state, tmp_path / "again") == 2
    assert (tmp_path / "again" / "at" / "config.json").read_text() == "25 bytes and an odd piece"
    piece = min(state.glob("*.001"))
    piece.write_bytes(b"otherwise ")
    with pytest.raises(carried.CarriedError, match=r"at/config.json in .* is damaged"):
        carried.unpack(state, tmp_path / "damaged")
    piece.unlink()
    with pytest.raises(carried.CarriedError, match=rf"lacks {piece.name}"):
        carried.unpack(state, tmp_path / "damaged")
    assert not (tmp_path / "damaged").exists()
    (state / "state.json").write_text(json.dumps({"../out": {"sha256": "0", "pieces": []}}))
    with pytest.raises(carried.CarriedError):
        carried.unpack(state, tmp_path / "damaged")
    (runs / "at" / "config.json").unlink()
    carried.pack(runs.rglob("empty"), runs, state)
    assert len(list(state.iterdir())) == 2, "what is not needed any more is gone"
