"""Several processes train as one: the same numbers, one writer, commands that reach all, and nothing lost by a kill."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import processes as benchmark
import pytest
import torch
from safetensors.torch import load_file

import faal_lab as fl
from faal_lab.errors import ConfigError
from faal_lab.models import processes
from faal_lab.runs import Follower, RunFolder
from faal_lab.runs.events import Command, DialTurned
from faal_lab.training import loop
from faal_lab.training import run as training
from faal_lab.training.background import RunError

POINTS = benchmark.points()
RUN = [sys.executable, "-m", "faal_lab", "run"]
LONG = ["--epochs", "40", "--batch-size", "100", "--fairness", "faal", "--device", "cpu", "--quiet"]


def waited(out: Path, what: str, seconds: float = 60) -> None:
    """Wait until a kind of event is recorded."""
    end = time.monotonic() + seconds
    while not (out / "metrics.jsonl").is_file() or what not in (out / "metrics.jsonl").read_text():
        assert time.monotonic() < end, f"no {what}"
        time.sleep(0.05)


def ended(started: list[subprocess.Popen[bytes]]) -> list[int]:
    try:
        return [process.wait(timeout=60) for process in started]
    finally:
        for process in started:
            process.kill()


def same(names: list[str], counts: tuple[int, ...]) -> None:
    for name, found in benchmark.differences({name: POINTS[name] for name in names}, counts).items():
        assert max(found.values()) < 1e-10, (name, found)


# batch sums with gradient, sums before the attack, draws by class, several scores, two points, parts
MIXED = ["sy-far-at-awp-ema", "trix-trades", "cfol-trades-awp", "faal-at-awp", "faal, accumulation=3"]


def test_two_processes_make_the_steps_of_one() -> None:
    same(MIXED, (2,))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_so_they_do_with_every_method_and_so_do_four() -> None:
    named = {POINTS[name].fairness: name for name in POINTS if not name.startswith("faal, ")}
    others = [name for name in POINTS if name.startswith("faal, ") and "cvxpy" not in name]
    same([*named.values(), *others], (2,))
    same(MIXED, (4,))


def test_the_page_states_what_was_measured() -> None:
    found = json.loads(benchmark.FILE.read_text())
    page = " ".join((Path(fl.__file__).parents[1] / "docs" / "gpu.md").read_text(encoding="utf-8").split())
    largest = {name: max(row.values()) for name, row in found["differences"].items()}
    assert largest.keys() == POINTS.keys()
    inexact = largest.pop("faal, solver=cvxpy")  # its answers move within its tolerance
    assert max(largest.values()) < 1e-10
    assert f"{len(largest)} combinations of method, objective, AWP and average" in page
    assert f"agree within {max(largest.values()):.0e}" in page
    assert f"CVXPY's within {inexact:.0e}" in page
    kills = found["kills"]
    assert len(kills) >= 20
    assert all(row["same"] and row["codes"] == [0, 0] for row in kills)
    assert f"Of {len(kills)} kills at random instants" in page
    one, two = (sorted(found["seconds"][name])[len(found["seconds"][name]) // 2] for name in ("one process", "two processes"))
    assert f"{two / one:.2f} times" in page


def test_commands_reach_all_processes_at_the_same_step(tmp_path: Path) -> None:
    out = tmp_path / "run"
    both = processes.launch([*RUN, *LONG, "--out", str(out)], 2)
    waited(out, "StepDone")
    folder = RunFolder.open(out)
    folder.send(Command("pause"))
    folder.send(Command("turn", "tau", 0.125))
    time.sleep(1)
    paused = (out / "metrics.jsonl").read_bytes()
    time.sleep(0.5)
    assert (out / "metrics.jsonl").read_bytes() == paused
    assert folder.status() == "paused"
    folder.send(Command("resume"))
    waited(out, "DialTurned")
    time.sleep(0.5)
    folder.send(Command("stop"))
    assert ended(both) == [0, 0]
    follower = Follower(out)
    follower.poll()
    assert follower.status() == "stopped"
    turn = next(event for event in follower.events if isinstance(event, DialTurned))
    assert {step.tau for step in follower.steps if step.step > turn.step} == {0.125}
    again = processes.launch([*RUN, "--resume", str(out), "--quiet"], 2)
    waited(out, "RunResumed")
    folder.send(Command("stop"))
    assert ended(again) == [0, 0]


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_signal_to_any_process_stops_all_in_order(tmp_path: Path) -> None:
    out = tmp_path / "run"
    both = processes.launch([*RUN, *LONG, "--out", str(out)], 2)
    waited(out, "StepDone")
    for _ in range(2):  # torchrun hands on the Ctrl-C that a terminal has sent already
        both[1].send_signal(signal.SIGTERM)
        time.sleep(0.05)
    assert ended(both) == [0, 128 + signal.SIGTERM]
    assert RunFolder(out).status() == "stopped"
    assert (out / "last.safetensors").is_file()


@pytest.mark.slow
def test_what_a_kill_left_goes_on_as_if_nothing_had_been() -> None:
    for found in benchmark.kills(3):
        assert found["same"], found
        assert found["codes"] == [0, 0]
        assert found["ended"] or "Another process of this run has ended" in found["said"], found


@pytest.mark.slow
def test_torchrun_starts_them_and_goes_on_after_a_loss(tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "run"
    words = [
        "--epochs",
        "3",
        "--batch-size",
        "100",
        "--fairness",
        "faal",
        "--checkpoint-every",
        "3",
        "--device",
        "cpu",
        "--quiet",
    ]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    assert ended(processes.launch([*RUN, *words, "--out", str(whole)], 2)) == [0, 0]
    agent = subprocess.Popen([*launcher, "-m", "faal_lab", "run", *words, "--out", str(out)], stderr=subprocess.DEVNULL)
    waited(out, "StepDone")
    os.kill(json.loads((out / "heartbeat.json").read_text())["pid"], signal.SIGKILL)
    assert agent.wait(timeout=120) == 0
    states = [load_file(folder / "last.safetensors") for folder in (whole, out)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert RunFolder(out).status() == "done"
    assert "RunResumed" in (out / "metrics.jsonl").read_text()


def test_train_starts_processes_and_follows_them(tmp_path: Path) -> None:
    run = fl.train(out=tmp_path / "run", processes=2, epochs=1, batch_size=250, attack_steps=1, validation_steps=1, quiet=True)
    assert run.status == "done"
    assert json.loads((tmp_path / "run" / "config.json").read_text())["versions"]["processes"] == "2"


@pytest.mark.parametrize(
    ("number", "settings", "said"),
    [
        (4, {"batch_size": 3}, "4 processes cannot share 3 images"),
        (2, {"replays": 2, "epochs": 2}, "replays=2 needs a perturbation"),
    ],
)
def test_what_makes_no_sense_is_said_in_one_line(tmp_path: Path, number: int, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(RunError, match=said):
        fl.train(out=tmp_path / "run", processes=number, quiet=True, **settings)
    assert not (tmp_path / "run" / "config.json").exists()


def test_objects_of_this_process_cannot_reach_others(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Objects of this process cannot reach others"):
        fl.train(out=tmp_path / "none", processes=2, model=torch.nn.Flatten())


def test_processes_that_hold_different_things_are_refused(tmp_path: Path) -> None:
    meeting = {"WORLD_SIZE": "2", processes.MEETING: str(tmp_path / "meeting"), "GLOO_SOCKET_IFNAME": "lo"}
    both = [
        subprocess.Popen(
            [*RUN, "--out", str(tmp_path / "run"), "--seed", str(rank), "--quiet"], stderr=subprocess.PIPE,
            env={**os.environ, **meeting, "RANK": str(rank)},
        )
        for rank in range(2)
    ]  # fmt: skip
    said = [process.communicate(timeout=60)[1].decode() for process in both]
    assert all("The processes of this run have different settings" in text for text in said), said
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_process_without_a_gpu_of_its_own_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match="Process 3 of this machine has no GPU: there are 2"):
        processes.own_device(torch.device("cuda"))
    assert processes.own_device(torch.device("cpu")) == torch.device("cpu")


def test_one_process_pays_nothing() -> None:
    rows = torch.arange(7)
    assert processes.share(rows, 3) is rows
    assert processes.joint(rows) is rows
    assert processes.told("text") == "text"
    assert processes.largest(3) == 3
    processes.total([rows])
    assert rows.tolist() == list(range(7))
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(2))
    with processes.joint_batch_norm(model):
        assert type(model[0]) is torch.nn.BatchNorm2d
    assert training.restarted() is False


def test_the_shares_of_a_batch_are_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.arange(23)
    monkeypatch.setattr(processes, "count", lambda: 3)
    for parts in (1, 2, 4):
        found = []
        for rank in range(3):
            monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
            mine = processes.share(rows, parts)
            found += mine.tolist()
            for part, whole in zip(mine.tensor_split(parts), rows.tensor_split(parts), strict=True):
                assert set(part.tolist()) <= set(whole.tolist()), "a part of a share is a share of that part"
        assert sorted(found) == rows.tolist()


def test_dropout_draws_by_seed_step_and_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(seed: int, step: int, rank: int) -> tuple[float, ...]:
        monkeypatch.setattr(loop, "rank", lambda: rank)
        trainer = training.prepare(fl.Config(seed=seed))
        trainer.draws, trainer.state.step = True, step
        with loop._drawn_by_seed(trainer):
            return tuple(torch.rand(4).tolist())

    places = list(itertools.product((0, 1, 2), repeat=3))
    assert len({drawn(*place) for place in places}) == len(places), "a CPU takes the low 32 bits of a seed"
    assert drawn(1, 2, 0) == drawn(1, 2, 0)
