"""The CIFAR-10 pipeline: what it is made of, that it goes on where it was cut off, and what it leaves behind."""

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import Mock

import carried
import cifar10
import cifar10_page
import model_card
import numpy as np
import pytest
import torch
from conftest import draw_images
from made_up import unpadded
from safetensors.torch import load_file, save_file

from faal_lab.evaluation.evaluate import evaluate_run
from faal_lab.evaluation.verdicts import Verdicts
from faal_lab.methods.recipe import Recipe
from faal_lab.results.formats import as_markdown
from faal_lab.runs import RunFolder
from faal_lab.runs.config import Config
from faal_lab.runs.events import Command, StepDone
from faal_lab.training.restore import load_model
from faal_lab.training.run import prepare, recipe_settings


@pytest.fixture(autouse=True, scope="module")
def uncompiled() -> Iterator[None]:
    """Networks of four filters are evaluated without a minute of compiling for each."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("faal_lab.evaluation.evaluate.try_to_compile", lambda *_: (None, ""))
        yield


SMALL = {"epsilon": 0.08, "batch_size": 16, "attack_steps": 1, "validation_steps": 1, "checkpoint_every": 2, "precision": "auto"}


@pytest.mark.parametrize("scale", cifar10.SCALES)
def test_every_step_has_valid_settings_and_what_it_starts_from(scale: str) -> None:
    made: set[str] = set()
    for step in cifar10.SCALES[scale]:
        if isinstance(step, cifar10.Train):
            config = Config.from_mapping(step.settings)
            assert config.epsilon == 8 / 255
            assert not step.base or step.base in made
            if step.base:
                assert config.attack_steps == 10
            made.add(step.name)
        else:
            assert {getattr(step, "run", "")} - {""} | set(getattr(step, "runs", ())) <= made
    arms = {s.name: Config.from_mapping(s.settings) for s in cifar10.SCALES[scale] if isinstance(s, cifar10.Train)}
    pairs = [(arms[name], arms[name.replace("faal", "control")]) for name in arms if name.endswith("-faal")]
    assert pairs
    for faal, control in pairs:
        told, other = faal.to_mapping(), control.to_mapping()
        assert {key for key in told if told[key] != other[key]} <= {"fairness", "attack_start"}
        made, plain = (Recipe.of(**recipe_settings(config, validation=True)) for config in (faal, control))
        assert made.start == plain.start, "the control's attack begins where FAAL's does"
        assert (type(made.objective), vars(made.objective)) == (type(plain.objective), vars(plain.objective))


def travel(scale: str, runs: Path, out: Path, state: Path) -> None:
    """From here on it is another machine's, at which folders are called the same."""
    carried.pack(cifar10.to_carry(scale, runs, out), runs, state)
    assert max(piece.stat().st_size for piece in state.iterdir()) <= carried.PIECE
    shutil.rmtree(runs)
    shutil.rmtree(out)
    cifar10.go_on_from(state, runs, out)
    assert (out / "about.json").is_file()


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


@pytest.mark.slow
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
    assert not any(name.endswith("last.safetensors") for name in cifar10.to_carry("tiny", runs, out)), (
        "nothing is left to be done"
    )
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
    kept = prepare(Config(**{**made.base, **made.data, "base": str(file)}))
    own = load_model(made.runs / "at")[0].state_dict()
    for name, tensor in kept.state.model.state_dict().items():
        assert torch.equal(tensor, own[name].half().to(tensor.dtype) if tensor.is_floating_point() else own[name])
    shown = model_card.card(file, about, [found["at-clean-pgd-20"]])
    assert hashlib.sha256(file.read_bytes()).hexdigest() in shown
    assert "--model preact-resnet-18 --filters 4 " in shown
    assert "| PGD-20 | at | " in unpadded(shown)


@pytest.mark.slow
def test_kept_weights_are_all_that_the_rest_needs(made: Made, tmp_path: Path) -> None:
    """On a machine with the folder of results alone, as in a checkout of the project, the arms are the same bit for bit."""
    runs, out = tmp_path / "runs", tmp_path / "out"
    out.mkdir()
    for name in ("at.safetensors", "about.json"):
        shutil.copy(made.out / name, out)
    assert cifar10.make("tiny", runs, out, made.data)
    assert not (runs / "at").exists(), "it is not trained again"
    for name, verdicts in made.verdicts().items():
        again = Verdicts.read(out / f"{name}.npz")
        assert again.header["model_sha256"] == verdicts.header["model_sha256"]
        assert all(np.array_equal(again.predicted[a], verdicts.predicted[a]) for a in verdicts.predicted)
        assert "trained elsewhere" not in again.header.get("note", ""), "the page says how it was trained"
    weights = load_file(out / "at.safetensors")
    other = {name: 2 * t if name == "normalize.std" else t for name, t in weights.items()}
    save_file(other, out / "at.safetensors")
    folder = cifar10.weights_of("at", runs, out, made.data)
    taken = load_model(folder.path)[0].state_dict()
    assert torch.equal(taken["normalize.std"].half(), other["normalize.std"]), "not those that were kept under that name before"


def test_the_page_says_what_was_found(made: Made) -> None:
    page = unpadded(as_markdown("Tiny", cifar10_page.tables(made.out, cifar10_page.groups(made.out))))
    clean = made.verdicts()["at-faal-clean-pgd-20"]
    share = 100 * float(np.mean([np.mean(clean.survived["pgd-20"][clean.labels == c]) for c in range(4)]))
    assert f"| PGD-20 | at-faal | {share:.1f} (" in page
    assert "| PGD-20: at-faal against at |" in page
    assert "Not measured: PGD-20: at-faal against at-control; AutoAttack: at-faal against at; " in page
    assert "All are met" not in page


@pytest.mark.slow
def test_all_images_of_some_classes_stand_beside_few_of_the_others(made: Made, tmp_path: Path) -> None:
    out, runs = Path(shutil.copytree(made.out, tmp_path / "out")), Path(shutil.copytree(made.runs, tmp_path / "runs"))
    clock, steps = Mock(ahead=False, counting=lambda name: nullcontext()), []
    for images, classes in ((8, ()), (0, ("dog", "bee"))):
        steps.append(cifar10.Measure(("at", "at-faal"), ("apgd-ce",), images, classes))
        cifar10.measure(steps[-1], runs, out, made.data, clock, smoke=False)
    few, some = Verdicts.read(out / "at-apgd-ce.npz"), Verdicts.read(out / "at-apgd-ce-dog-bee.npz")
    both = next(g["at"] for g in cifar10_page.groups(out) if "apgd-ce" in g["at"].predicted)
    assert np.bincount(both.labels).tolist() == [2, 8, 2, 8], "two of the eight, and all of bee and dog"
    counts, expected = both.counts("apgd-ce")[0].tolist(), few.counts("apgd-ce")[0]
    expected[[1, 3]] = some.counts("apgd-ce")[0][[1, 3]]
    assert counts == expected.tolist()
    page = unpadded(as_markdown("Tiny", cifar10_page.tables(out, cifar10_page.groups(out))))
    assert "16 test images of bee and dog, 2 of each other class: those were lowest" in page
    assert "| APGD-CE | 20, more of bee and dog | at-faal against at |" in page
    assert "| APGD-CE | 8 | at-faal against at |" in page
    assert [g["at-faal"].counts("apgd-ce")[1].tolist() for g in cifar10_page.groups(out)[1:]] == [[2, 8, 2, 8], [2, 2, 2, 2]]


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


@pytest.mark.slow
def test_a_cut_inside_an_attack_travels_too(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [*cifar10.SCALES["tiny"][:3], cifar10.Measure(("at-faal",), ("apgd-ce+t",))]
    monkeypatch.setitem(cifar10.SCALES, "strong", steps)
    runs, out, told = tmp_path / "runs", tmp_path / "out", 0
    shutil.copytree(made.runs, runs)
    shutil.copytree(made.out, out)
    plain = cifar10.evaluate_run

    def cut(folder: Path, *, progress, **more):
        def hear(what: str, share: float) -> None:
            nonlocal told
            told += 1
            if told > 2:
                raise cifar10.OutOfTime
            progress(what, share)

        return plain(folder, progress=hear, **more)

    with monkeypatch.context() as patched:
        patched.setattr(cifar10, "evaluate_run", cut)
        assert not cifar10.make("strong", runs, out, made.data)
    carry = cifar10.to_carry("strong", runs, out)
    assert any("autoattack-" in name for name in carry)
    assert {name for name in carry if name.endswith("last.safetensors")} == {"at-faal/last.safetensors"}, (
        "of what is attacked alone"
    )
    assert not any(name.endswith(".npz") and not name.startswith("made/") for name in carry), "no image travels"
    travel("strong", runs, out, tmp_path / "state")
    assert cifar10.make("strong", runs, out, made.data)
    whole = evaluate_run(made.runs / "at-faal", attacks=("apgd-ce+t",))
    again = Verdicts.read(out / "at-faal-apgd-ce+t.npz")
    assert np.array_equal(again.predicted["apgd-ce+t"], whole.predicted["apgd-ce+t"])


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A folder of work in many pieces, and its state."""
    monkeypatch.setattr(carried, "PIECE", 60)
    runs, state = tmp_path / "runs", tmp_path / "state"
    (runs / "at").mkdir(parents=True)
    (runs / "at" / "config.json").write_text("25 bytes and an odd piece")
    (runs / "at" / "empty").touch()
    carried.pack({f"at/{file.name}": file for file in (runs / "at").iterdir()}, runs, state)
    return runs, state


def test_what_travels_is_what_was_packed(packed: tuple[Path, Path], tmp_path: Path) -> None:
    runs, state = packed
    assert len(list(state.glob("*.piece"))) > 3
    assert not carried.unpack(state, runs), "it is there already"
    (tmp_path / "again").mkdir()
    assert carried.unpack(state, tmp_path / "again"), "an empty folder is none"
    assert (tmp_path / "again" / "at" / "config.json").read_text() == "25 bytes and an odd piece"
    assert (tmp_path / "again" / "at" / "empty").read_bytes() == b""
    carried.pack({"at/empty": runs / "at" / "empty"}, runs, state)
    assert not carried.unpack(state, runs)
    with pytest.raises(carried.CarriedError, match="or .* is ahead"):
        carried.unpack(state, tmp_path / "again")
    carried.pack({}, runs, state)
    assert carried.unpack(state, tmp_path / "third"), "nothing is never written over something"
    assert len(json.loads((state / "state.json").read_text())["pieces"]) == len(list(state.glob("*.piece")))
    (runs / "zeros").write_bytes(bytes(600))
    carried.pack({"zeros": runs / "zeros"}, runs, state)
    assert len(json.loads((state / "state.json").read_text())["pieces"]) > len(list(state.glob("*.piece"))), "some are alike"
    assert carried.unpack(state, tmp_path / "fourth")
    assert (tmp_path / "fourth" / "zeros").read_bytes() == bytes(600)


def test_state_that_did_not_travel_well_is_refused(packed: tuple[Path, Path], tmp_path: Path) -> None:
    _, state = packed
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "run").touch()
    with pytest.raises(carried.CarriedError, match="are of different work"):
        carried.unpack(state, tmp_path / "other")
    piece, content = min(state.glob("*.piece")), min(state.glob("*.piece")).read_bytes()
    piece.write_bytes(bytes(255 - byte for byte in content))
    with pytest.raises(carried.CarriedError, match=rf"{piece.name} is damaged"):
        carried.unpack(state, tmp_path / "new")
    piece.unlink()
    with pytest.raises(carried.CarriedError, match=rf"lacks {piece.name}"):
        carried.unpack(state, tmp_path / "new")
    (state / "state.json").unlink()
    with pytest.raises(carried.CarriedError, match="has pieces and no state.json"):
        carried.unpack(state, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert not carried.unpack(tmp_path / "nothing", tmp_path / "new")


def test_the_command_goes_on_from_a_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    images = draw_images(tmp_path / "images", {"ant": 40, "bee": 40}, size=8)
    train = cifar10.Train("at", {**SMALL, "model": "preact-resnet-18", "filters": 4, "epochs": 2})
    monkeypatch.setitem(cifar10.SCALES, "narrow", [train, cifar10.Measure(("at",), ("clean",))])
    words = ["cifar10.py", "--data-dir", str(images), "--device", "cpu", "--runs", str(tmp_path / "runs")]
    words += ["--out", str(tmp_path / "out"), "--state", str(tmp_path / "state"), "--minutes"]
    monkeypatch.setattr(sys, "argv", [*words, "0.00001"])
    assert cifar10.main() == 3
    shutil.rmtree(tmp_path / "runs")
    shutil.rmtree(tmp_path / "out")
    monkeypatch.setattr(sys, "argv", [*words, "0"])
    assert cifar10.main() == 0
    assert "Going on from" in capsys.readouterr().out
    events = RunFolder(tmp_path / "runs" / "at").events()
    steps = [event.step for event in events if isinstance(event, StepDone)]
    assert steps == list(range(1, 1 + len(steps)))
    mark = (tmp_path / "runs" / "carried.json").rename(tmp_path / "mark.json")
    assert cifar10.main() == 1
    assert "are of different work" in capsys.readouterr().err
    mark.rename(tmp_path / "runs" / "carried.json")
    monkeypatch.setattr(cifar10, "evaluate_run", lambda *a, **k: 1 / 0)
    (tmp_path / "out" / "at-clean.npz").unlink()
    before = json.loads((tmp_path / "state" / "state.json").read_text())["number"]
    with monkeypatch.context() as patched:
        patched.setattr(cifar10, "make", lambda *a: True)
        patched.setattr(cifar10, "pack", Mock(side_effect=OSError(28, "No space left on device")))
        assert cifar10.main() == 1
    assert "No space left" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):
        cifar10.main()
    assert json.loads((tmp_path / "state" / "state.json").read_text())["number"] == before + 1, "kept whatever happens"
