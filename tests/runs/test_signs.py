"""Signs of a training that goes wrong: each is named when three epochs show it, and nothing else is."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import faal_lab as fl
from faal_lab.runs import RunFolder
from faal_lab.runs.events import EpochDone, Event, RunResumed, RunStarted, StepDone, Watch, from_record
from faal_lab.runs.history import History, load_history
from faal_lab.runs.progress import shown
from faal_lab.training.step import TrainingDiverged

ROOT = Path(__file__).parent.parent.parent
NAMES = ["cat", "dog", "emu", "fox"]
STARTED = RunStarted(NAMES, 10, 5, 0.5, 0.1, 0.05, distance=0.75)
SOUND = {"images": 64, "no_slope": 0, "certain": 3, "stood": 16, "fell": 4}


def epochs(*rows: tuple[list[int], list[int]], count: int = 50, probe: dict[str, int] | None = None) -> list[EpochDone]:
    return [EpochDone(n, 10 * n, [count] * 4, clean, robust, probe) for n, (clean, robust) in enumerate(rows, 1)]


def steps(epoch: int, loss: float, right: int, clean: int | None = None) -> list[StepDone]:
    """Ten steps of 40 images an epoch, of which so many a class are right."""
    one = StepDone(0, epoch - 1, loss, 0.5, 0.1, 0.05, [0.25] * 4, 0.0, [10] * 4, [0.0] * 4, [right] * 4, clean and [clean] * 4)
    return [replace(one, step=10 * (epoch - 1) + n) for n in range(1, 11)]


def signs(*events: Event, started: RunStarted = STARTED) -> dict[str, str]:
    """The signs of a run, which a history and a watch must read alike."""
    history = History(4)
    history.add([started, *events])
    assert history.signs() == Watch([started, *events]).signs()
    return history.signs()


GOOD = ([40, 45, 30, 20], [20, 25, 10, 5])
CASES = {
    "fine": ([GOOD] * 3, []),
    "chance": ([([50, 0, 0, 0], [50, 0, 0, 0])] * 3, ["chance"]),
    "a slow start": ([([50, 0, 0, 0], [0] * 4)] * 2 + [GOOD], []),
    "too early": ([([50, 0, 0, 0], [0] * 4)] * 2, []),
    "one class": ([([40, 45, 0, 20], [20, 25, 0, 5])] * 3, ["never right"]),
    "one class, once": ([([40, 45, 0, 20], [20, 25, 0, 5]), ([40, 45, 1, 20], [20, 25, 0, 5]), ([40, 45, 0, 20], [0] * 4)], []),
    "an attack helps": ([([30, 30, 30, 30], [45, 45, 45, 45])] * 3, ["attack helps"]),
    "within the noise": ([([30, 30, 30, 30], [32, 31, 30, 33])] * 3, []),
    "no robust image": ([([45, 45, 45, 45], [0, 0, 0, 0])] * 3, []),
}


@pytest.mark.parametrize("name", CASES)
def test_each_sign_of_the_validation(name: str) -> None:
    rows, kinds = CASES[name]
    assert list(signs(*epochs(*rows))) == kinds


def test_the_lines_name_numbers_and_causes() -> None:
    (text,) = signs(*epochs(*[([50, 0, 0, 0], [0] * 4)] * 3)).values()
    assert text.startswith("25.0% of the validation images are right after epoch 3; guessing gets 25.0%. Nothing is learned")
    (text,) = signs(*epochs(*[([40, 45, 0, 0], [0] * 4)] * 3)).values()
    assert text.startswith("No validation image of class emu, fox was right in three epochs")


LN4 = math.log(4)
LOSSES = {
    "stuck": ([(LN4, 2), (LN4 + 0.005, 3), (LN4 - 0.006, 3)], ["loss"]),
    "it leaves the band": ([(LN4, 2), (LN4, 3), (LN4 - 0.01, 3)], []),
    "too early": ([(LN4, 2), (LN4, 2)], []),
    "images are right: class weights made the loss": ([(LN4, 6), (LN4, 6), (LN4, 6)], []),
    "above": ([(2 * LN4, 2)] * 3, []),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("validated", [True, False])
def test_a_loss_that_stays_at_ln_c(name: str, validated: bool) -> None:
    rows, kinds = LOSSES[name]
    done = epochs(*[GOOD] * len(rows), count=50 if validated else 0)
    events = [event for n, (loss, right) in enumerate(rows) for event in (*steps(n + 1, loss, right), done[n])]
    found = signs(*events)
    assert list(found) == kinds
    if kinds:
        assert found["loss"].startswith(
            "The training loss stays at 1.380; all 4 classes equally likely give ln 4 = 1.386. Nothing"
        )


def test_a_stuck_loss_is_said_once_and_not_as_chance_too() -> None:
    done = epochs(*[([50, 0, 0, 0], [0] * 4)] * 3)
    assert list(signs(*[event for n in (1, 2, 3) for event in (*steps(n, LN4, 2), done[n - 1])])) == ["loss"]


def test_clean_images_that_are_right_are_learning() -> None:
    """TRADES at a loss of ln C by coincidence: clean images are learned, and attacked ones are not."""
    done = epochs(*[GOOD] * 3)
    assert signs(*[event for n in (1, 2, 3) for event in (*steps(n, LN4, 2, clean=7), done[n - 1])]) == {}


PROBES = {
    "sound": (SOUND, []),
    "saturated": ({"certain": 33}, ["saturated"]),
    "half is not most": ({"certain": 32}, []),
    "no gradient": ({"no_slope": 17}, ["no gradient"]),
    "a few": ({"no_slope": 16}, []),
    "masked": ({"fell": 12}, ["masked"]),
    "weaker": ({"fell": 11}, []),
    "too few to judge": ({"stood": 7, "fell": 7}, []),
    "saturation explains the rest": ({"certain": 60, "no_slope": 60, "fell": 16}, ["saturated"]),
}


@pytest.mark.parametrize("name", PROBES)
def test_each_sign_of_a_probe(name: str) -> None:
    change, kinds = PROBES[name]
    done = epochs(*[([45] * 4, [30] * 4)] * 3, probe=SOUND | change)
    assert list(signs(*done)) == kinds
    assert signs(*done[:2], replace(done[2], probe=SOUND)) == {}, "it has passed"
    assert signs(*done[:2], replace(done[2], probe=None)) == {}, "an older version went on"
    assert signs(*done[:2]) == {}, "too early"


def test_a_robust_accuracy_near_chance_claims_nothing() -> None:
    masked = SOUND | {"fell": 16}
    assert list(signs(*epochs(*[([45] * 4, [17] * 4)] * 3, probe=masked))) == ["masked"]
    assert signs(*epochs(*[([45] * 4, [15] * 4)] * 3, probe=masked)) == {}


@pytest.mark.parametrize("epsilon, distance, said", [(0.375, 0.75, True), (0.374, 0.75, False), (0.5, None, False)])
def test_an_epsilon_too_large_is_said_before_the_first_step(epsilon: float, distance: float | None, said: bool) -> None:
    found = signs(started=replace(STARTED, epsilon=epsilon, distance=distance))
    assert list(found) == ["epsilon"] * said
    if said:
        assert found["epsilon"].startswith(
            "epsilon 0.375 is at least half of 0.75, the median distance of a training image to the"
        )


def test_an_epsilon_turned_too_large_is_said_while_it_is() -> None:
    one, two = steps(1, 0.5, 9)[:2]
    assert list(signs(replace(one, epsilon=0.4))) == ["epsilon"]
    assert signs(replace(one, epsilon=0.4), two) == {}


def test_without_validation_images_there_is_none() -> None:
    assert signs(*epochs(*[([0] * 4, [0] * 4)] * 5, count=0)) == {}


def test_without_the_first_record_there_is_none() -> None:
    assert Watch(epochs(*[([50, 0, 0, 0], [0] * 4)] * 5)).signs() == {}


def test_epochs_that_a_resume_made_again_count_once() -> None:
    bad, good = epochs(*[([50, 0, 0, 0], [0] * 4)] * 3), epochs(*[GOOD] * 3)
    assert list(signs(*bad, RunResumed(30))) == ["chance"]
    assert signs(*bad, RunResumed(25)) == {}
    assert signs(*bad, RunResumed(25), good[2]) == {}
    assert signs(*bad[:2], bad[1]) == {}, "the record of an epoch may come twice"


def test_it_is_said_once_while_a_run_trains(capsys: pytest.CaptureFixture) -> None:
    events = [replace(STARTED, epsilon=0.5), *epochs(*[([50, 0, 0, 0], [0] * 4)] * 5)]
    assert len(list(shown(iter(events)))) == 6
    out = capsys.readouterr().out
    assert out.count("Nothing is learned") == out.count("epsilon 0.5 is at least half") == 1
    list(shown(iter(events), quiet=True))
    assert capsys.readouterr().out == ""


def recorded_metrics() -> list[Path]:
    return sorted(
        path for path in ROOT.rglob("metrics.jsonl") if not {".git", "runs", "build"} & set(path.relative_to(ROOT).parts)
    )


def test_the_recorded_runs_are_found() -> None:
    assert {path.parent.name for path in recorded_metrics()} >= {"control", "faal-steered"}


@pytest.mark.parametrize("file", recorded_metrics(), ids=lambda path: path.parent.name)
def test_the_recorded_runs_raise_no_alarm(file: Path) -> None:
    watch, said = Watch(), set[str]()
    for line in file.read_text().splitlines():
        event = from_record(json.loads(line))
        watch.see(replace(event, distance=0.75) if isinstance(event, RunStarted) else event)  # of the digits
        said |= set() if isinstance(event, StepDone) else set(watch.signs())
    assert said == set()
    assert load_history(file.parent)[0].signs() == {}


# Small trainings that go wrong by themselves.


def test_a_run_that_learns_nothing_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    fl.train(epochs=3, learning_rate=1e-6, batch_size=100, attack_steps=1, validation_steps=1, out=tmp_path / "run")
    assert "Nothing is learned: is the learning rate too large or too small?" in capsys.readouterr().out


def test_a_learning_rate_of_fifty_ends_with_its_cause(tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match=r"are not finite at step \d+. .* Lower the learning rate \(now 4\d"):
        fl.train(epochs=4, learning_rate=50.0, attack_steps=3, validation_steps=1, out=tmp_path / "run")


def test_an_epsilon_too_large_is_noted_and_the_loss_stays_at_ln_c(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    fl.train(epochs=4, epsilon=0.6, attack_steps=4, validation_steps=1, out=tmp_path / "run")
    out = capsys.readouterr().out
    assert "Note: epsilon 0.6 is at least half of 0.75, the median distance" in out
    assert "all 10 classes equally likely give ln 10 = 2.303. Nothing is learned: is epsilon too large for these images" in out
    assert set(load_history(tmp_path / "run")[0].signs()) == {"epsilon", "loss"}


class Scaled(nn.Module):
    """Logits a thousand times too large: a wrong temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return 1000 * self.inside(images)


def test_saturated_logits_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.manual_seed(0)
    fl.train(model=Scaled(), objective="standard", learning_rate=1e-4, lr_schedule="constant", epochs=4, out=tmp_path / "run")
    assert "Note: Probabilities are 1 to the last digit at" in capsys.readouterr().out


def test_a_run_that_learns_is_silent(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = fl.train(epochs=4, out=tmp_path / "run")
    assert "Note" not in capsys.readouterr().out
    started, *_ = events = RunFolder(tmp_path / "run").events()
    assert isinstance(started, RunStarted)
    assert started.distance == 0.75
    assert [e.probe["images"] for e in events if isinstance(e, EpochDone) and e.probe] == [64] * 4
    assert run.status == "done"


def test_a_resumed_run_is_judged_with_its_earlier_epochs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config = fl.Config(epochs=3, learning_rate=1e-6, batch_size=500, attack_steps=1, validation_steps=1)
    events = fl.steps(config, tmp_path / "run")
    next(event for event in events if isinstance(event, EpochDone) and event.epoch == 2)
    events.close()
    fl.train(resume=True, out=tmp_path / "run")
    assert capsys.readouterr().out.count("Nothing is learned") == 1, "its third epoch ends after the resume"


def test_a_resume_reports_a_record_that_it_cannot_read(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "metrics.jsonl").write_text("{damaged}\n")
    list(shown([RunResumed(20), *epochs(GOOD)], folder=tmp_path))
    assert "metrics.jsonl holds a line that is not JSON: b'{damaged}'. What looked wrong before" in capsys.readouterr().out
