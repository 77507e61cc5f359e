"""Compare one process with several that train as one: are the numbers the same, what does it cost, what is lost by a kill?

    python benchmarks/processes.py            # twenty minutes on two cores
    python benchmarks/processes.py --quick    # a few points and kills

Same numbers: twenty steps in float64, with the ends of epochs among them, by 1, 2 and 4 processes; the largest difference of any
weight, buffer, average, loss or class weight is kept. Cost: epochs of 2 processes with a core each against 1 with both. Kills:
one of two processes ends at a random instant by SIGKILL; the run is resumed and compared with one that nobody killed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from side_by_side import machine
from torch import nn
from tqdm import tqdm

from faal_lab.catalogue import AVERAGING, FAIRNESS, OBJECTIVES, check_combination
from faal_lab.errors import RecipeError
from faal_lab.models import processes
from faal_lab.runs.config import Config
from faal_lab.runs.events import StepDone
from faal_lab.runs.follower import Follower
from faal_lab.training.loop import train
from faal_lab.training.run import prepare

FILE = Path(__file__).with_suffix(".json")
STEPS, COUNTS = 20, (2, 4)
SHORT = Config(
    epochs=3, batch_size=150, attack_steps=3, validation_steps=2, learning_rate=0.02, average_threshold=0.0, epsilon=0.1,
    device="cpu",
)  # fmt: skip
OTHERS = (  # settings that take other paths through a step
    {"accumulation": 3}, {"norm": "l2", "epsilon": 0.5}, {"batch_norm": "train"}, {"variant": "release"},
    {"fairness": "cfa", "variant": "release"}, {"objective": "trades", "fairness": "faal", "variant": "release"},
    {"ambiguity": "wasserstein"}, {"solver": "cvxpy"}, {"score": "running"}, {"fairness_start": 1}, {"imbalance": 5.0},
)  # fmt: skip


class Net(nn.Module):
    """Two convolutions with BatchNorm, in the precision of their weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Flatten(), nn.Linear(128, 10),
        )  # fmt: skip

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits of images [B, 1, 8, 8]."""
        return self.layers(images.to(next(self.parameters()).dtype))


def points() -> dict[str, Config]:
    """Every method with every objective, by turns with AWP and an average, and other settings with FAAL, by name."""
    found, turns = {}, itertools.cycle(itertools.product(AVERAGING, (0.0, 0.01)))
    for objective, fairness in itertools.product(OBJECTIVES.ours, FAIRNESS.ours):
        averaging, gamma = next(turns)
        try:
            check_combination(objective, fairness, averaging)
        except RecipeError:
            continue
        name = "-".join([fairness, objective, *["awp"] * bool(gamma), *[averaging] * (averaging != "none")])
        found[name] = replace(SHORT, objective=objective, fairness=fairness, awp_gamma=gamma, averaging=averaging)
    for changes in OTHERS:
        found["faal, " + ", ".join(f"{k}={v}" for k, v in changes.items())] = replace(SHORT, **{"fairness": "faal", **changes})
    return found


def trained(config: Config) -> dict[str, torch.Tensor]:
    """Make the steps in float64; return all that they leave."""
    trainer = prepare(config, model=Net())
    trainer.state.model.double()
    steps = []
    for event in train(trainer):
        if isinstance(event, StepDone):
            steps.append([event.loss, *event.weights])
            if event.step == STEPS:
                break
    state = trainer.state
    kept = {**state.model.state_dict(), **{f"average.{n}": t for n, t in state.average.items()}}
    kept |= {f"method.{n}": t for n, t in state.recipe.fairness.state.items()}
    return {n: t.detach().double().contiguous() for n, t in kept.items()} | {"steps": torch.tensor(steps, dtype=torch.float64)}


def child(orders: Path, out: Path) -> None:
    """Train each configuration of a file in one of several processes; the first one writes what it has."""
    torch.set_num_threads(1)
    joined, found = processes.join(), {}
    for name, settings in json.loads(orders.read_text()).items():
        found |= {f"{name}|{key}": tensor for key, tensor in trained(Config.from_mapping(settings)).items()}
    if processes.rank() == 0:
        save_file(found, out)
    processes.largest(0)
    if joined:
        processes.leave()


def by(number: int, configs: dict[str, Config], folder: Path) -> dict[str, torch.Tensor]:
    """Train each configuration in `number` processes; return what the first one has."""
    orders, out = folder / "orders.json", folder / f"{number}.safetensors"
    orders.write_text(json.dumps({name: config.to_mapping() for name, config in configs.items()}))
    words = [sys.executable, __file__, "--child", str(orders), str(out)]
    started = processes.launch(words, number) if number > 1 else [subprocess.Popen(words)]
    codes = [process.wait() for process in started]
    if any(codes):
        raise RuntimeError(f"{number} processes failed; the error is above.")
    return load_file(out)


def differences(configs: dict[str, Config], counts: Sequence[int] = COUNTS) -> dict[str, dict[str, float]]:
    """The largest difference of anything from one process, for each number of processes and configuration."""
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        alone = by(1, configs, Path(folder))
        for number in tqdm(counts, desc="processes"):
            several = by(number, configs, Path(folder))
            assert several.keys() == alone.keys()
            for name in configs:
                keys = [key for key in alone if key.rpartition("|")[0] == name]
                largest = max(float((alone[key] - several[key]).abs().max()) for key in keys if alone[key].numel())
                found.setdefault(name, {})[str(number)] = largest
    return found


def seconds(number: int, epochs: int, folder: Path) -> float:
    """The seconds of an epoch of the small PreAct ResNet-18 after the first, by the run's own clock."""
    out = folder / f"cost-{number}"
    shutil.rmtree(out, ignore_errors=True)
    words = f"--out {out} --model preact-resnet-18 --filters 16 --fairness faal --epochs {epochs} --validation-steps 0 --quiet"
    command = [sys.executable, "-m", "faal_lab", "run", *words.split(), "--device", "cpu"]
    for process in processes.launch(command, number):
        if process.wait():
            raise RuntimeError(f"{number} processes failed; the error is above.")
    rows = [json.loads(line) for line in (out / "timing.jsonl").read_text().splitlines()]
    ends = [row["time"] for row in rows if row["event"] == "EpochDone"]
    return (ends[-1] - ends[0]) / (len(ends) - 1)


RUN = "--epochs 6 --batch-size 100 --fairness faal --averaging ema --checkpoint-every 3 --device cpu --quiet"


def started(out: Path, resume: bool = False) -> list[subprocess.Popen[bytes]]:
    """Two processes that train as one into a folder."""
    words = ["--resume", str(out), "--quiet"] if resume else ["--out", str(out), *RUN.split()]
    return processes.launch([sys.executable, "-m", "faal_lab", "run", *words], 2, stderr=subprocess.PIPE)


def until(out: Path) -> float:
    """Wait until a run has made its first step; return the time."""
    end = time.monotonic() + 120
    while not (out / "metrics.jsonl").is_file() or b"StepDone" not in (out / "metrics.jsonl").read_bytes():
        assert time.monotonic() < end, "no step in two minutes"
        time.sleep(0.01)
    return time.monotonic()


def outcome(out: Path) -> tuple[list[Any], dict[str, torch.Tensor]]:
    """The record of a run that counts, and its last state."""
    follower = Follower(out)
    follower.poll()
    return [*follower.steps, *follower.epochs], load_file(out / "last.safetensors")


def killed(seed: int, whole: tuple[list[Any], dict[str, torch.Tensor]], length: float, folder: Path) -> dict[str, Any]:
    """Kill one of two processes at a random instant of the training, of so many seconds; resume, and compare."""
    drawn, out = random.Random(seed), folder / f"kill-{seed}"
    both, victim, after = started(out), drawn.randrange(2), drawn.uniform(0, length)
    until(out)
    time.sleep(after)
    ended = both[victim].poll() is not None
    both[victim].kill()
    errors = [process.communicate(timeout=120)[1].decode() for process in both]
    ended |= both[1 - victim].returncode == 0  # the other one had nothing left to ask
    said = "" if ended else errors[1 - victim].strip()
    again = started(out, resume=True)
    for process in again:
        process.communicate(timeout=300)
    steps, state = outcome(out)
    same = steps == whole[0] and state.keys() == whole[1].keys() and all(torch.equal(state[n], whole[1][n]) for n in state)
    shutil.rmtree(out)
    codes = [process.returncode for process in again]
    return {"victim": victim, "after": round(after, 2), "ended": ended, "said": said, "codes": codes, "same": same}


def kills(number: int) -> list[dict[str, Any]]:
    """Kill at so many instants; each resume must end as the run that nobody killed."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "whole"
        both, began = started(out), until(out)
        for process in both:
            process.communicate()
            assert process.returncode == 0
        length, whole = time.monotonic() - began, outcome(out)
        return [killed(seed, whole, length, Path(folder)) for seed in tqdm(range(number), desc="kills")]


def main() -> None:
    """Measure all, and write it down."""
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("--quick", action="store_true", help="a few points and kills")
    words.add_argument("--child", nargs=2, type=Path, help=argparse.SUPPRESS)
    words.add_argument("--out", type=Path, default=FILE)
    options = words.parse_args()
    if options.child:
        child(*options.child)
        return
    configs = points()
    if options.quick:
        configs = dict(list(configs.items())[::20])
    found: dict[str, Any] = {"machine": machine(), "steps": STEPS, "differences": differences(configs)}
    with tempfile.TemporaryDirectory() as folder:
        epochs = 2 if options.quick else 4
        pairs = [(seconds(1, epochs, Path(folder)), seconds(2, epochs, Path(folder))) for _ in range(1 if options.quick else 3)]
    found["seconds"] = {"one process": [p[0] for p in pairs], "two processes": [p[1] for p in pairs]}
    found["kills"] = kills(1 if options.quick else 20)
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
