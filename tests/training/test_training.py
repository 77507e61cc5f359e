"""The loop and the run around it: seeds, resume, commands, failures."""

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import SHORT, fresh
from in_lab import wait_until
from torch import nn

from faal_lab.__main__ import main
from faal_lab.data.images import Splits
from faal_lab.errors import ConfigError, RunFolderError
from faal_lab.methods.fairness.faal import FAAL
from faal_lab.methods.objectives import AdversarialTraining
from faal_lab.methods.recipe import Recipe
from faal_lab.models.networks import SmallConvNet
from faal_lab.runs import CheckpointError, RunFolder, RunLocked, read_checkpoint
from faal_lab.runs.config import Config
from faal_lab.runs.events import (
    Command,
    CommandRefused,
    DialTurned,
    EpochDone,
    RunFailed,
    RunFinished,
    RunResumed,
    RunStarted,
    StepDone,
)
from faal_lab.runs.folder import Recorder
from faal_lab.runs.progress import shown
from faal_lab.training.background import LiveRun, RunError
from faal_lab.training.loop import train
from faal_lab.training.restore import load_model
from faal_lab.training.run import prepare, run, turns_of
from faal_lab.training.step import TrainingDiverged
from faal_lab.training.trainer import Trainer, learning_rate_factor

FAAL_QUICK = Config(fairness="faal", epochs=2, batch_size=250, attack_steps=2, validation_steps=2)


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(RunFolder(path).checkpoint()).tensors


def same(a: Path, b: Path) -> bool:
    first, second = tensors(a), tensors(b)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def finish(config: Config, path: Path, **options) -> list:
    return list(run(config, path, **options))


@pytest.fixture(scope="session")
def faal_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "faal"
    finish(FAAL_QUICK, path)
    return path


def test_what_a_run_says(faal_run: Path) -> None:
    events = RunFolder(faal_run).events()
    assert isinstance(events[0], RunStarted)
    steps = [e for e in events if isinstance(e, StepDone)]
    assert [s.step for s in steps] == list(range(1, 9))
    for step in steps:
        assert sum(step.count) == 250
        assert sum(step.weights) == pytest.approx(1)
        assert step.divergence == pytest.approx(0.5)
        assert all(k <= n for k, n in zip(step.robust_correct or [], step.count, strict=True))
    epochs = [e for e in events if isinstance(e, EpochDone)]
    assert [(e.epoch, e.step, sum(e.count)) for e in epochs] == [(1, 4, 200), (2, 8, 200)]
    assert events[-1] == RunFinished(8, "done")
    assert RunFolder(faal_run).status() == "done"


def test_the_same_seed_gives_the_same_bytes(faal_run: Path, tmp_path: Path) -> None:
    finish(FAAL_QUICK, tmp_path / "again")
    assert (tmp_path / "again" / "metrics.jsonl").read_bytes() == (faal_run / "metrics.jsonl").read_bytes()
    assert same(faal_run, tmp_path / "again")


@pytest.mark.parametrize("after", [1, 3, 5, 7])
def test_a_run_resumed_in_mid_epoch_ends_the_same_bit_for_bit(faal_run: Path, tmp_path: Path, after: int) -> None:
    events = run(FAAL_QUICK, tmp_path / "cut")
    for event in events:
        if isinstance(event, StepDone) and event.step == after:
            break
    events.close()
    assert RunFolder(tmp_path / "cut").status() == "stopped"
    finish(FAAL_QUICK, tmp_path / "cut", resume=True)
    assert same(faal_run, tmp_path / "cut")
    mine, whole = (
        [e for e in RunFolder(p).events() if isinstance(e, (StepDone, EpochDone))] for p in (tmp_path / "cut", faal_run)
    )
    assert mine == whole


@pytest.mark.parametrize("full", [StepDone, EpochDone])
def test_a_disk_that_is_full_at_an_event_leaves_no_checkpoint_ahead_of_the_record(
    faal_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: type
) -> None:
    """An epoch's end that is not recorded, but in the checkpoint, was lost at the resume."""
    real = Recorder.write

    def write(recorder: Recorder, event: object) -> None:
        if isinstance(event, full):
            raise OSError(28, "cannot write metrics.jsonl: No space left on device")
        real(recorder, event)

    monkeypatch.setattr(Recorder, "write", write)
    with pytest.raises(OSError, match="No space left"):
        finish(FAAL_QUICK, tmp_path / "cut")
    monkeypatch.undo()
    finish(FAAL_QUICK, tmp_path / "cut", resume=True)
    assert same(tmp_path / "cut", faal_run)
    made, whole = (
        [e for e in RunFolder(p).events() if isinstance(e, (StepDone, EpochDone))] for p in (tmp_path / "cut", faal_run)
    )
    assert made == whole


def test_what_a_run_is_resumed_with_is_told_where_it_is_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(FAAL_QUICK, epochs=1)
    for number, torch_version in enumerate(("1", "1", "2")):
        monkeypatch.setattr("faal_lab.training.run.versions", lambda found=torch_version: {"python": "3", "torch": found})
        events = run(config, tmp_path / "run", resume=number > 0)
        for event in events:
            if isinstance(event, StepDone):
                break
        events.close()
    told = [e.versions for e in RunFolder(tmp_path / "run").events() if isinstance(e, RunResumed)]
    assert told == [None, {"torch": "2"}]


def test_the_bar_of_a_resumed_run_knows_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    events = run(FAAL_QUICK, tmp_path / "run")
    for event in events:
        if isinstance(event, StepDone) and event.step == 5:
            break
    events.close()
    with monkeypatch.context() as patch:
        patch.setattr(sys.stderr, "isatty", lambda: True)
        list(shown(run(FAAL_QUICK, tmp_path / "run", resume=True)))
    last = capsys.readouterr().err.split("\r")[-1]
    assert "100%" in last
    assert "8/8" in last


def test_tau_zero_is_plain_adversarial_training_bit_for_bit(tmp_path: Path) -> None:
    shared = {"epochs": 1, "batch_size": 250, "attack_steps": 2, "validation_steps": 0, "attack_start": "zero"}
    finish(Config(fairness="faal", tau=0.0, **shared), tmp_path / "faal")
    finish(Config(fairness="none", **shared), tmp_path / "none")
    assert same(tmp_path / "faal", tmp_path / "none")


def test_the_attack_neither_moves_buffers_nor_leaves_gradients() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(10))
    model(torch.zeros(2, 1, 8, 8))
    model[1].reset_running_stats()
    experiment = prepare(FAAL_QUICK, model)
    for number, _ in zip((1, 2), train(experiment), strict=False):
        assert all(p.requires_grad for p in model.parameters())
        assert int(model[1].num_batches_tracked) == number, "one train-mode forward a step: the attack's are in evaluation mode"


def test_the_radius_can_be_stated_as_the_largest_multiplier(tmp_path: Path) -> None:
    config = replace(FAAL_QUICK, multiplier=3.0, ambiguity="chi-square")
    events = run(config, tmp_path / "run")
    started = next(events)
    events.close()
    assert started.tau == pytest.approx(4 / 9), "one class of ten at three times its share, the others equal"
    with pytest.raises(ConfigError, match="multiplier: The largest multiplier must lie between 1 and the 10 classes"):
        next(iter(run(Config(multiplier=10.0), tmp_path / "other")))


def test_a_resumed_run_goes_on_with_its_running_scores(tmp_path: Path) -> None:
    config = replace(FAAL_QUICK, score="running", checkpoint_every=1)
    whole = [e.weights for e in run(config, tmp_path / "whole") if isinstance(e, StepDone)]
    broken = run(config, tmp_path / "broken")
    for event in broken:
        if isinstance(event, StepDone) and event.step == 2:
            break
    broken.close()
    rest = [e.weights for e in run(config, tmp_path / "broken", resume=True) if isinstance(e, StepDone)]
    assert rest == whole[2:]


def test_trades_computes_the_attacks_clean_logits_once() -> None:
    config = Config(objective="trades", batch_size=250, attack_steps=3)
    model = SmallConvNet(10, 1, (8, 8), (0.5,), (0.5,), filters=4)
    experiment, calls = prepare(config, model), []
    model.register_forward_hook(lambda *_: calls.append(model.training))
    next(iter(train(experiment)))
    assert calls == [False] * (1 + 3) + [True] * 2, "clean once, three attack steps; then clean and adversarial in training mode"


def test_class_weights_set_in_when_they_are_told(tmp_path: Path) -> None:
    steps = [e for e in finish(replace(FAAL_QUICK, fairness_start=1), tmp_path / "run") if isinstance(e, StepDone)]
    uniform = [all(w == pytest.approx(0.1) for w in e.weights) for e in steps]
    assert uniform == [True] * 4 + [False] * 4


def test_group_dro_trains_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    config = replace(FAAL_QUICK, fairness="group-dro", objective="trades", fairness_rate=0.1)
    whole = [e.weights for e in finish(config, tmp_path / "whole") if isinstance(e, StepDone)]
    assert whole[-1] != whole[0], "its weights move"
    events = run(config, tmp_path / "cut")
    for event in events:
        if isinstance(event, StepDone) and event.step == 5:
            break
    events.close()
    finish(config, tmp_path / "cut", resume=True)
    assert same(tmp_path / "whole", tmp_path / "cut")


def test_learning_rate_schedules() -> None:
    def factor(schedule: str, progress: float, epoch: int, epochs: int, **settings) -> float:
        return learning_rate_factor(Config(lr_schedule=schedule, epochs=epochs, **settings), progress, epoch)

    assert factor("cosine", 0.0, 0, 4) == 1
    assert factor("cosine", 0.5, 2, 4) == pytest.approx(0.5)
    assert [factor("step", 0, e, 2) for e in (0, 1)] == [1, 0.1], "the paper's two epochs: 0.01, then 0.001"
    assert [factor("step", 0, e, 100, lr_drops="0.75,0.9") for e in (74, 75, 90)] == pytest.approx([1, 0.1, 0.01])
    assert factor("one-cycle", 0.3, 0, 1) == pytest.approx(1)
    assert factor("constant", 0.9, 3, 4) == 1


class Said:
    """Commands said at given steps: a `poll` for the loop."""

    def __init__(self, steps: dict[int, list[Command]]) -> None:
        self.steps, self.state = steps, None

    def __call__(self) -> list[Command]:
        return self.steps.pop(self.state.step, [])


def steered(commands: dict[int, list[Command]], config: Config = FAAL_QUICK) -> list:
    experiment = prepare(config)
    said = Said(commands)
    said.state = experiment.state
    return list(train(experiment, said))


def test_a_dial_turned_holds_from_the_next_batch_and_is_recorded_first() -> None:
    events = steered({3: [Command("turn", "tau", 1.5), Command("turn", "epsilon", 0.2)]})
    where = next(n for n, e in enumerate(events) if isinstance(e, DialTurned))
    assert events[where : where + 2] == [DialTurned(3, "tau", 0.5, 1.5), DialTurned(3, "epsilon", 0.1, 0.2)]
    steps = [e for e in events if isinstance(e, StepDone)]
    assert [s.tau for s in steps] == [0.5] * 3 + [1.5] * 5
    assert [s.epsilon for s in steps] == [0.1] * 3 + [0.2] * 5
    assert steps[3].divergence == pytest.approx(1.5)


def test_nonsense_is_refused_and_training_goes_on() -> None:
    nonsense = [Command("turn", "tau", -1.0), Command("turn", "tua", 1.0), Command("dance"), Command("turn", "tau", "x")]
    events = steered({2: nonsense})
    reasons = [e.reason for e in events if isinstance(e, CommandRefused)]
    assert [r.split(",")[0].split(".")[0] for r in reasons] == [
        "tau must be at least 0", "Unknown dial 'tua'", "Unknown command 'dance'", "tau must be a number",
    ]  # fmt: skip
    assert sum(isinstance(e, StepDone) for e in events) == 8


def test_pause_step_resume_and_stop_through_the_folder(tmp_path: Path) -> None:
    config = Config(epochs=200, batch_size=250, attack_steps=2, validation_steps=0)
    live = LiveRun.in_thread(config, tmp_path / "run")
    folder = live.folder

    def steps() -> int:
        return max([e.step for e in folder.events() if isinstance(e, StepDone)], default=0) if folder.metrics_file.exists() else 0

    def until(condition) -> None:
        end = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.02)

    until(lambda: steps() >= 2)
    with pytest.raises(RunLocked):
        finish(config, tmp_path / "run", resume=True)
    live.pause()
    until(lambda: folder.status() == "paused")
    stood = steps()
    time.sleep(0.5)
    assert steps() == stood
    live.step()
    until(lambda: steps() == stood + 1)
    time.sleep(0.5)
    assert steps() == stood + 1
    live.turn("tau", 0.9)
    live.resume()
    until(lambda: steps() > stood + 3)
    live.stop()
    assert live.wait(30) == "stopped"
    assert [(e.dial, e.new, e.step) for e in folder.events() if isinstance(e, DialTurned)] == [("tau", 0.9, stood + 1)]
    with pytest.raises(ConfigError, match="tau must be at least 0"):
        live.turn("tau", -3)


def test_on_to_the_end_of_the_epoch_and_no_faster_than_told(tmp_path: Path) -> None:
    live = LiveRun.in_thread(Config(epochs=200, batch_size=100, attack_steps=2, validation_steps=0), tmp_path / "run")
    folder = live.folder

    def events(kind: type) -> list:
        return [e for e in folder.events() if isinstance(e, kind)] if folder.metrics_file.exists() else []

    wait_until(lambda: len(events(StepDone)) > 2)
    live.pause()
    wait_until(lambda: folder.status() == "paused")
    ended = len(events(EpochDone))
    for more in (1, 2):
        live.epoch()
        wait_until(lambda more=more: len(events(EpochDone)) == ended + more and folder.status() == "paused")
        time.sleep(0.3)
        assert events(StepDone)[-1].step == events(EpochDone)[-1].step == 10 * (ended + more), (
            "its validation is made, no batch more"
        )
    live.pace(5)
    live.resume()
    wait_until(lambda: folder.status() == "training, 5 batches a second at most")
    before, began = len(events(StepDone)), time.monotonic()
    wait_until(lambda: len(events(StepDone)) >= before + 6)
    assert time.monotonic() - began > 5 / 5 - 0.2
    live.pace(0.01)
    time.sleep(0.5)
    slow = len(events(StepDone))
    live.pace(0)  # heard while it waits
    wait_until(lambda: len(events(StepDone)) > slow + 10)
    with pytest.raises(ConfigError, match="pace must be a number of batches a second"):
        live.pace(-1)
    live.stop()
    assert live.wait(30) == "stopped"
    assert not events(CommandRefused)


def test_a_pace_changes_no_number() -> None:
    assert steered({0: [Command("pace", value=40.0)], 3: [Command("pace", value=0.0)]}) == steered({})
    wrong = [
        e.reason for e in steered({1: [Command("pace", value=-2.0), Command("pace", value="x")]}) if isinstance(e, CommandRefused)
    ]
    assert len(wrong) == 2
    assert all("pace must be a number of batches a second" in reason for reason in wrong)


def test_an_old_stop_does_not_end_a_resumed_run(tmp_path: Path) -> None:
    events = run(FAAL_QUICK, tmp_path / "run")
    for event in events:
        if isinstance(event, StepDone) and event.step == 2:
            RunFolder(tmp_path / "run").send(Command("stop"))
    RunFolder(tmp_path / "run").send(Command("stop"))
    resumed = finish(FAAL_QUICK, tmp_path / "run", resume=True)
    assert resumed[-1] == RunFinished(8, "done")


class Exploding:
    """An objective whose loss is NaN from the third step on."""

    attack_loss = None

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, model, images, adv, labels):
        self.calls += 1
        outcome = AdversarialTraining()(model, images, adv, labels)
        factor = math.nan if self.calls > 2 else 1.0
        return outcome._replace(terms={"robust": outcome.terms["robust"] * factor})


def test_a_loss_that_is_not_finite_ends_the_run_with_the_last_good_state(tmp_path: Path) -> None:
    with pytest.raises(
        TrainingDiverged, match=r"Loss nan and gradient norm nan are not finite at step 3\. The last good state is step 2"
    ):
        finish(FAAL_QUICK, tmp_path / "run", recipe=Recipe(Exploding(), FAAL()))
    folder = RunFolder(tmp_path / "run")
    assert isinstance(folder.events()[-1], RunFailed)
    assert folder.status() == "failed"
    checkpoint = read_checkpoint(folder.checkpoint())
    assert checkpoint.header["step"] == 2
    assert all(bool(torch.isfinite(t).all()) for t in checkpoint.tensors.values())


def test_weights_that_overflow_under_faal_are_a_divergence_too(tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match="Logits are not finite at step"):
        finish(Config(fairness="faal", learning_rate=1e30, attack_steps=0, validation_steps=0), tmp_path / "run")
    assert RunFolder(tmp_path / "run").status() == "failed"


def test_a_dial_turned_before_a_stop_is_not_lost(tmp_path: Path) -> None:
    events = run(FAAL_QUICK, tmp_path / "run")
    for event in events:
        if isinstance(event, StepDone) and event.step == 2:
            RunFolder(tmp_path / "run").send(Command("turn", "tau", 1.5))
            RunFolder(tmp_path / "run").send(Command("stop"))
    assert event == RunFinished(2, "stopped")
    resumed = finish(FAAL_QUICK, tmp_path / "run", resume=True)
    assert {e.tau for e in resumed if isinstance(e, StepDone)} == {1.5}
    assert [e.new for e in RunFolder(tmp_path / "run").events() if isinstance(e, DialTurned)] == [1.5]


def test_leaving_at_the_last_event_keeps_the_outcome(tmp_path: Path) -> None:
    events = run(FAAL_QUICK, tmp_path / "run")
    for event in events:
        if isinstance(event, RunFinished):
            break
    events.close()
    assert RunFolder(tmp_path / "run").status() == "done"


def test_a_tuned_run_resumes_without_its_base(base: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(base, tmp_path / "base"))
    config = Config(base=str(copy), fairness="faal", epochs=2, batch_size=250, attack_steps=1, validation_steps=0)
    events = run(config, tmp_path / "run")
    for event in events:
        if isinstance(event, StepDone) and event.step == 3:
            break
    events.close()
    shutil.rmtree(copy)
    assert finish(config, tmp_path / "run", resume=True)[-1] == RunFinished(8, "done")


def test_a_users_own_model(tmp_path: Path) -> None:
    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(64, 10)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.layer(images.flatten(1))

    live = LiveRun.in_thread(FAAL_QUICK, tmp_path / "own", model=Linear())
    assert live.wait(60) == "done"
    with pytest.raises(RunFolderError, match=r"network of its own \(Linear\)"):
        load_model(tmp_path / "own")


def test_errors_of_a_child_process_reach_the_caller(tmp_path: Path, base: Path) -> None:
    live = LiveRun.start(Config(data="folder", data_dir=str(tmp_path / "none")), tmp_path / "run")
    with pytest.raises(RunError, match=r"data_dir .*none is not a folder"):
        live.wait(60)
    with pytest.raises(RunFolderError, match="already holds a run"):
        LiveRun.start(Config(), base)


def test_a_child_process_runs_and_stops(tmp_path: Path) -> None:
    live = LiveRun.start(Config(epochs=500, attack_steps=2, validation_steps=0), tmp_path / "run")
    with pytest.raises(TimeoutError):
        live.wait(0.2)
    live.stop()
    assert live.wait(60) == "stopped"


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (getattr(signal, "SIGHUP", 1), 129)])
def test_a_signal_in_mid_epoch_saves_the_state(tmp_path: Path, number: int, code: int) -> None:
    path = tmp_path / "run"
    words = ["run", "--out", str(path), "--epochs", "500", "--attack-steps", "2", "--quiet"]
    process = subprocess.Popen([sys.executable, "-m", "faal_lab", *words], stderr=subprocess.PIPE)
    end = time.monotonic() + 60
    while not (path / "metrics.jsonl").exists() or (path / "metrics.jsonl").read_bytes().count(b"StepDone") < 3:
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(number)
    if code == 129:  # a shell hands it on, and its end sends another
        process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert b"Stopping: the state is saved first" in said
    folder = RunFolder(path)
    last = max(e.step for e in folder.events() if isinstance(e, StepDone))
    assert folder.status() == "stopped"
    assert read_checkpoint(folder.checkpoint()).header["step"] == last


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_under_nohup_a_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "run"
    words = ["run", "--out", str(path), "--epochs", "500", "--attack-steps", "2", "--quiet"]
    ignore = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); os.execv(sys.executable, sys.argv[1:])"
    process = subprocess.Popen([sys.executable, "-c", ignore, sys.executable, "-m", "faal_lab", *words], stderr=subprocess.PIPE)

    def steps(least: int) -> None:
        end = time.monotonic() + 60
        while not (path / "metrics.jsonl").exists() or (path / "metrics.jsonl").read_bytes().count(b"StepDone") < least:
            assert time.monotonic() < end
            assert process.poll() is None
            time.sleep(0.05)

    steps(3)
    process.send_signal(signal.SIGHUP)
    steps((path / "metrics.jsonl").read_bytes().count(b"StepDone") + 5)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 143


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_killed_run_is_lost_and_resumes_from_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "run"
    config = Config(epochs=2, batch_size=50, attack_steps=2, validation_steps=2, checkpoint_every=3)
    live = LiveRun.start(config, path)
    end = time.monotonic() + 60
    while not RunFolder(path).checkpoint().exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    live._processes[0].kill()
    live._processes[0].wait()
    assert RunFolder(path).status() == "lost"
    finish(config, path, resume=True)
    finish(config, tmp_path / "whole")
    assert same(path, tmp_path / "whole")
    steps = [e.step for e in RunFolder(path).events() if isinstance(e, StepDone)]
    assert steps == list(range(1, 41)), "no step twice for a follower"


def test_a_base_of_another_kind_is_refused(base: Path, tmp_path: Path, image_folder: Path) -> None:
    def tuned(**settings) -> Config:
        return Config(base=str(base), **settings)

    with pytest.raises(CheckpointError, match=r"does not fit this run: num_classes is 10, expected 3; channels is 1, expected 3"):
        finish(tuned(data="folder", data_dir=str(image_folder)), tmp_path / "a")
    with pytest.raises(CheckpointError, match=r"split_seed is 0, expected 5 \(the model would be tested on images its base"):
        finish(tuned(split_seed=5), tmp_path / "b")
    with pytest.raises(CheckpointError, match="split_seed is 0, expected 5"):
        finish(tuned(split_seed=5, imbalance=10.0), tmp_path / "b")
    with pytest.raises(CheckpointError, match="base .*nothing does not exist"):
        finish(Config(base=str(tmp_path / "nothing")), tmp_path / "c")
    with pytest.raises(RunFolderError, match="is not a run folder"):
        finish(Config(base=str(image_folder)), tmp_path / "d")
    assert not list(tmp_path.glob("[a-d]")), "bad input leaves nothing behind"


def test_a_checkpoint_says_how_its_images_were_thinned_out(base: Path, tmp_path: Path) -> None:
    config = Config(imbalance=10.0, epochs=1, batch_size=250, attack_steps=1, validation_steps=1, filters=4)
    finish(config, tmp_path / "tail")
    source = read_checkpoint(RunFolder(tmp_path / "tail").checkpoint()).header["source"]
    assert source == {"data": "digits", "data_dir": "", "split_seed": 0, "imbalance": 10.0}
    assert "imbalance" not in read_checkpoint(RunFolder(base).checkpoint()).header["source"], "as in checkpoints before it"
    finish(replace(config, base=str(tmp_path / "tail"), imbalance=1.0), tmp_path / "whole")
    with pytest.raises(CheckpointError, match="split_seed is 0, expected 5"):
        finish(replace(config, base=str(tmp_path / "tail"), imbalance=1.0, split_seed=5), tmp_path / "other")


def test_a_missing_and_a_damaged_base_checkpoint(base: Path, tmp_path: Path) -> None:
    copy = tmp_path / "base"
    copy.mkdir()
    (copy / "config.json").write_bytes((base / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match=r"No checkpoint at .*last\.safetensors"):
        finish(Config(base=str(copy)), tmp_path / "a")
    content = bytearray((base / "last.safetensors").read_bytes())
    content[-9] ^= 1
    (copy / "last.safetensors").write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match="is damaged: its SHA-256 differs"):
        finish(Config(base=str(copy)), tmp_path / "b")


def test_a_base_of_another_network(base: Path) -> None:
    from faal_lab.training.restore import load_weights

    experiment = prepare(FAAL_QUICK)
    spec = experiment.spec.__class__(**{**experiment.spec.__dict__, "name": "other-net"})
    with pytest.raises(CheckpointError, match="name is small-cnn, expected other-net"):
        load_weights(experiment.state.model, spec, FAAL_QUICK, base / "last.safetensors")
    wide = SmallConvNet(10, 1, (8, 8), (0.5,), (0.5,), filters=4)
    with pytest.raises(CheckpointError, match="do not fit the network"):
        load_weights(wide, experiment.spec, FAAL_QUICK, base / "last.safetensors")


def test_a_run_is_resumed_with_its_own_settings(faal_run: Path) -> None:
    with pytest.raises(ConfigError, match="was made with other settings; resume it with those"):
        finish(Config(), faal_run, resume=True)


def test_an_existing_folder_and_an_absent_device(base: Path, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="already holds a run"):
        finish(FAAL_QUICK, base)
    with pytest.raises(ConfigError, match="device 'cuda:99' is not usable here"):
        finish(Config(device="cuda:99"), tmp_path / "x")


def test_a_run_on_all_images_has_no_best_checkpoint(tmp_path: Path, capsys) -> None:
    config = replace(FAAL_QUICK, validation="none")
    events = list(shown(run(config, tmp_path / "run")))
    assert "no validation images" in capsys.readouterr().err
    steps, epochs = ([e for e in events if isinstance(e, kind)] for kind in (StepDone, EpochDone))
    assert sum(sum(s.count) for s in steps) == 2 * 1200
    assert epochs == [EpochDone(n, 5 * n, [0] * 10, [0] * 10, [0] * 10) for n in (1, 2)]
    folder = RunFolder(tmp_path / "run")
    assert (folder.checkpoint().exists(), folder.checkpoint("best").exists()) == (True, False)
    with pytest.raises(CheckpointError, match=r"run has no best checkpoint: it was trained with validation=none\. Use its last"):
        load_model(tmp_path / "run", "best")
    with pytest.raises(CheckpointError, match="has no best checkpoint"):
        finish(replace(config, base=str(tmp_path / "run"), base_checkpoint="best"), tmp_path / "tuned")
    cut = run(config, tmp_path / "cut")
    assert next(e for e in cut if isinstance(e, EpochDone)) == epochs[0]
    cut.close()
    assert finish(config, tmp_path / "cut", resume=True)[-1] == RunFinished(10, "done")
    assert same(tmp_path / "cut", tmp_path / "run")


def test_a_run_learns(tmp_path: Path) -> None:
    threads = threading.active_count()
    finish(Config(epochs=3, attack_steps=3), tmp_path / "run")
    epochs = [e for e in RunFolder(tmp_path / "run").events() if isinstance(e, EpochDone)]
    assert sum(epochs[-1].clean_correct) > 160, "of 200 validation digits, after three epochs"
    assert sum(epochs[-1].robust_correct) > 110
    timing = [json.loads(line) for line in (tmp_path / "run" / "timing.jsonl").read_text().splitlines()]
    assert all(a["time"] <= b["time"] for a, b in itertools.pairwise(timing))
    assert threading.active_count() <= threads, "a run leaves no thread behind"


def test_a_steered_run_is_made_again_to_the_same_bytes(tmp_path: Path) -> None:
    config = replace(SHORT, epochs=3, fairness="faal", tau_changes="1:0.3", batch_size=250)
    moves = {2: Command("turn", "tau", 0.9), 5: Command("turn", "fairness_on", 0), 6: Command("turn", "epsilon", 0.05)}
    for event in run(config, tmp_path / "steered"):
        if isinstance(event, StepDone) and event.step in moves:
            RunFolder(tmp_path / "steered").send(moves[event.step])
    turned = turns_of(tmp_path / "steered")
    assert [(t.dial, t.new) for t in turned] == [("tau", 0.9), ("fairness_on", 0), ("epsilon", 0.05)]
    list(run(config, tmp_path / "again", script=turned))
    first, second = ((tmp_path / name / "metrics.jsonl").read_bytes() for name in ("steered", "again"))
    assert first == second
    assert main(["run", "--replay", str(tmp_path / "steered"), "--out", str(tmp_path / "third"), "--quiet"]) == 0
    assert (tmp_path / "third" / "metrics.jsonl").read_bytes() == first


def test_a_fairness_method_that_is_off_weighs_as_none(few: Splits) -> None:
    config = replace(SHORT, fairness="faal", batch_size=64)
    off, plain = fresh(config), fresh(replace(config, fairness="none"))
    off.dials["fairness_on"] = 0.0
    found = [[e for e in train(Trainer(state, few, config)) if isinstance(e, StepDone)] for state in (off, plain)]
    assert [e.loss for e in found[0]] == [e.loss for e in found[1]]
    assert all(e.weights == [0.1] * 10 for e in found[0])
