"""All that is to be measured on a GPU, in order of worth, for whoever has one for ten minutes.

    python benchmarks/gpu_day.py --images cifar10.tar.xz     # goes on where it stopped; ends by itself before --limit seconds
    python benchmarks/gpu_day.py --pack .gpu-day --images cifar10.tar.xz --wheels cvxpy==1.9.3 clarabel==0.11.1
    python benchmarks/gpu_day.py --device cpu --tiny         # a rehearsal

Each part runs in a process of its own with a time limit, and what it found is written down at once: a part that fails or hangs
costs itself alone. Ratios are of contenders in turn on the same card. `--pack` makes a folder with the images and wheels that a
machine without a network needs; `PYTHONPATH` and `--images` point there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from side_by_side import machine, ratio
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from training import EPSILON, Case, default_file, network, ours, phase_two, pictures, timed

from faal_lab.catalogue import AMBIGUITY_SETS
from faal_lab.dro.base import has_kernel
from faal_lab.evaluation.autoattack import autoattack
from faal_lab.methods.pgd import climber
from faal_lab.models.build import device_of, frozen
from faal_lab.models.layout import placed
from faal_lab.runs.config import Config
from faal_lab.runs.events import StepDone
from faal_lab.runs.follower import Follower
from faal_lab.runs.history import History
from faal_lab.training.run import run

ROOT = Path(__file__).parents[1]
PASSES = 23  # a step of AT or FAAL with PGD-10: ten times two, and three


@dataclass(frozen=True)
class Day:
    """Where it runs, how small, and with which images."""

    device: torch.device
    tiny: bool
    images: Path | None

    def case(self, model: str, batch: int, batches: int) -> Case:
        """A network with batches of a GPU's size, or of a rehearsal's."""
        return Case("small-cnn", 4, 8, 1) if self.tiny else Case(model, 64 if model.startswith("preact") else 0, batch, batches)

    @property
    def rounds(self) -> int:
        """How often contenders are timed."""
        return 1 if self.tiny else 3


def tests(day: Day) -> dict[str, Any]:
    """The tests that need CUDA."""
    words = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", "-x" if day.tiny else "-q"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    return {"exit code": done.returncode, "last lines": done.stdout.splitlines()[-12:]}


def solver(day: Day) -> dict[str, Any]:
    """Microseconds of each set's worst case: one problem of ten classes, and a batch of them, on the device and on the CPU."""
    found = {}
    for name, row in AMBIGUITY_SETS.ours.items():
        ball, times = row.make(), {}
        for where in {"cpu": torch.device("cpu"), "device": day.device}.items():
            for many in (1, 16 if day.tiny else 4096):
                scores = torch.rand(many, 10, generator=torch.Generator().manual_seed(0)).to(where[1]).squeeze(0)
                calls = 2 if day.tiny or name == "wasserstein" else 50
                ball.worst_case(scores)
                times[f"{where[0]}, {many}"] = 1e6 * settled(lambda ball=ball, scores=scores: ball.worst_case(scores), calls)
        found[name] = {"one kernel": has_kernel(ball, day.device, 10), "microseconds": times}
    return found


def settled(call: Callable[[], Any], calls: int) -> float:
    """Seconds of one of so many calls, to the end of the device's work."""
    synchronise()
    started = time.perf_counter()
    for _ in range(calls):
        call()
    synchronise()
    return (time.perf_counter() - started) / calls


def synchronise() -> None:
    """Wait for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def cost(day: Day) -> dict[str, Any]:
    """What FAAL adds to plain adversarial training: seconds, and kernels a step; and the share of the middle problem."""
    case = day.case("preact-resnet-18", 128, 10)
    both = {name: ours(case, day.device, quick=True, fairness=name) for name in ("none", "faal")}
    seconds = timed(both, day.rounds, "cost")
    one = {name: ours(replace(case, batches=1), day.device, quick=True, fairness=name) for name in both}
    step = float(np.median(seconds["faal"])) / case.batches
    return {
        "faal / none": ratio(seconds["faal"], seconds["none"]),
        "kernels a step": {name: kernels(call) for name, call in one.items()},
        "middle problem, share of a step": phase_two(case, day.device) / step,
    }


def kernels(call: Callable[[], None]) -> int:
    """The kernels, or on a CPU the operations, of a call."""
    call()
    device = torch.cuda.is_available()
    kinds = [torch.profiler.ProfilerActivity.CUDA if device else torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=kinds) as seen:
        call()
        synchronise()
    return sum(1 for event in seen.events() or [] if not device or event.device_type.name == "CUDA")


PRECISIONS = {"float32": ("float32", False), "tf32": ("float32", True), "bfloat16": ("bfloat16", True)}


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Let multiplications of float32 be rounded to TF32, or not."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = on
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def peak(day: Day, kind: str) -> float:
    """FLOP a second of a large product of matrices: what the card can do at most in a precision."""
    side, number = (64, torch.float32) if day.tiny else (8192, torch.bfloat16 if kind == "bfloat16" else torch.float32)
    one = torch.rand(side, side, device=day.device, dtype=number)
    with tf32(PRECISIONS[kind][1]):
        torch.mm(one, one)
        return 2 * side**3 / settled(lambda: torch.mm(one, one), 3 if day.tiny else 20)


def work(case: Case) -> int:
    """FLOP of a training step: those of a forward pass, counted, times the passes, which a test counts."""
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        network(case)(torch.zeros(case.batch, 3, 32, 32))
    return PASSES * counted.get_total_flops()


def rates(day: Day, case: Case) -> dict[str, Any]:
    """Images a second of training by precision, compiled and not, with the share of what a product of matrices reaches."""
    flop, found = work(case), {}
    for kind, (precision, rounded) in PRECISIONS.items():
        most = peak(day, kind)
        for compiled in (False, True):
            if day.tiny and (compiled or kind == "bfloat16"):
                continue  # a small network has neither
            with tf32(rounded):
                call = ours(case, day.device, quick=True, compiled=compiled, precision=precision)
                seconds = min(timed({"": call}, day.rounds, kind)[""])
            found[f"{kind}{', compiled' * compiled}"] = {
                "images a second": case.batch * case.batches / seconds, "share of peak": flop * case.batches / seconds / most,
            }  # fmt: skip
    return {"batch": case.batch, "TFLOP a step": flop / 1e12, "rates": found}


def resnet(day: Day) -> dict[str, Any]:
    """PreActResNet-18, as CIFAR-10's recipes train it."""
    return rates(day, day.case("preact-resnet-18", 128, 20))


def wide(day: Day) -> dict[str, Any]:
    """WideResNet-34-10."""
    return rates(day, day.case("wrn-34-10", 128, 4))


Climb = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def step_of_pgd(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, **settings: Any) -> Climb:
    """One step as a region to compile whole: passes, gradient, move, projection. Radius and size of the step are tensors []."""

    def climb(adv: torch.Tensor, radius: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
        return climber(model, images, labels, radius=radius, step=size, **{"loss": "cross-entropy", **settings})(adv)[1]

    return climb


def graphs(day: Day) -> dict[str, Any]:
    """How many times as quick PGD-10 is with its steps compiled as one region, and as CUDA graphs. Training has neither."""
    case = day.case("preact-resnet-18", 128, 1)
    model, images = placed(network(case), day.device), torch.rand(case.batch, 3, 32, 32, device=day.device)
    labels, size = torch.arange(case.batch, device=day.device) % 10, torch.tensor(EPSILON / 4, device=day.device)
    ways: dict[str, dict[str, Any]] = {"one region": {}, "CUDA graphs": {"mode": "reduce-overhead"}}
    climb = step_of_pgd(model, images, labels)

    def attack(step: Climb) -> torch.Tensor:
        adv = images
        for _ in range(10):
            adv = step(adv, 4 * size, size).clone()  # a graph writes its result to the same place each time
        return adv

    with frozen(model), torch._dynamo.config.patch(trace_autograd_ops=True):
        calls: dict[str, Callable[[], Any]] = {"as it is": partial(attack, climb)}
        for name, way in ways.items():
            how: Any = {"backend": "aot_eager"} if day.tiny else way
            calls[name] = partial(attack, torch.compile(climb, fullgraph=True, **how))
        known = calls["as it is"]()
        far = {name: float((call() - known).abs().max()) for name, call in calls.items()}
        seconds = timed(calls, day.rounds, "graphs")
    return {"furthest pixel": far} | {f"as it is / {name}": ratio(seconds["as it is"], seconds[name]) for name in ways}


def strong(day: Day) -> dict[str, Any]:
    """Images a second of AutoAttack's first two attacks on an untrained network, which says little of its later ones."""
    case, images = day.case("preact-resnet-18", 128, 1), pictures(8 if day.tiny else 512)
    model = placed(network(case), day.device)
    with frozen(model):
        pixels, _ = images.batch(torch.arange(len(images)))
        pixels = pixels.to(day.device)
        labels = model(pixels).argmax(1)  # so that all are right at first, and all are attacked
        settings: dict[str, Any] = {"epsilon": EPSILON, "seed": 0, "num_classes": 10, "attacks": ("apgd-ce", "apgd-t")}
        seconds = settled(lambda: autoattack(model, pixels, labels, **settings), 1)
    return {"images a second": len(images) / seconds}


def training(day: Day) -> dict[str, Any]:
    """Two minutes of training on real images, by turns read by a history ten times a second, as a dashboard reads it, and not."""
    if day.images is None:
        return {"skipped": "no --images"}
    with tempfile.TemporaryDirectory() as folder, tarfile.open(day.images) as archive:
        archive.extractall(folder, filter="data")
        config = Config(
            data="folder", data_dir=folder, device=str(day.device), fairness="faal", batch_size=128, epochs=1000, epsilon=EPSILON,
            model="small-cnn" if day.tiny else "preact-resnet-18", validation_steps=1, precision="auto",
        )  # fmt: skip
        out, watched, counts, losses = Path(folder) / "run", threading.Event(), {"followed": 0, "alone": 0}, []
        over = threading.Event()

        def follow() -> None:
            follower, history = Follower(out, keep_steps=False), History(10)
            while not over.wait(0.1):
                if watched.is_set():
                    follower.poll()
                    history.add(follower.new)

        reader, window, begun = threading.Thread(target=follow, daemon=True), 1.0 if day.tiny else 20.0, 0.0
        for event in run(config, out):
            if not isinstance(event, StepDone):
                continue
            if not begun:
                begun = time.monotonic()
                reader.start()
            now = time.monotonic() - begun
            turn = int(now // window)
            (watched.set if turn % 2 else watched.clear)()
            counts["followed" if turn % 2 else "alone"] += 1
            losses.append(event.loss)
            if now > 6 * window:
                break
        over.set()
    return {"batches": counts, "followed / alone": counts["followed"] / counts["alone"], "loss": [losses[0], losses[-1]]}


PARTS: dict[str, tuple[Callable[[Day], dict[str, Any]], float]] = {  # in order of worth, with the seconds each may take
    "tests": (tests, 120), "solver": (solver, 40), "cost": (cost, 50), "resnet": (resnet, 120), "wide": (wide, 120),
    "autoattack": (strong, 40), "training": (training, 180), "graphs": (graphs, 100),
}  # fmt: skip


def carried_out(words: list[str], limit: float) -> dict[str, Any]:
    """Do one part in a process of its own; an error or a part that took too long is what it found."""
    started = time.monotonic()
    try:
        done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"failed": f"no end after {limit:.0f} s"}
    took = {"seconds": round(time.monotonic() - started, 1)}
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-8:], **took}
    return {"found": json.loads(done.stdout.splitlines()[-1]), **took}


def packed(folder: Path, images: Path | None, wheels: list[str]) -> None:
    """Make the folder that a machine without a network needs."""
    folder.mkdir(parents=True, exist_ok=True)
    if images is not None:
        shutil.copy(images, folder)
    if wheels:
        subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", str(folder), *wheels], check=True)
    size = sum(file.stat().st_size for file in folder.iterdir()) / 2**20
    print(f"{folder}: {size:.1f} MiB")


def main() -> None:
    """Do what is not done yet, and write it down after each part."""
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("--device", default="cuda")
    words.add_argument("--tiny", action="store_true", help="a rehearsal: the smallest networks, a round each")
    words.add_argument("--images", type=Path, help="an archive of a folder of images, train/CLASS and test/CLASS")
    words.add_argument("--limit", type=float, default=540, help="seconds after which no part begins that could take longer")
    words.add_argument("--again", nargs="*", default=[], help="parts to do again")
    words.add_argument("--out", type=Path, help="default: results/gpu-day-CARD.json beside this file")
    words.add_argument("--pack", type=Path, help="make a folder to carry instead")
    words.add_argument("--wheels", nargs="*", default=[])
    words.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    options = words.parse_args()
    if options.pack:
        packed(options.pack, options.images, options.wheels)
        return
    device = device_of(options.device)
    day = Day(device, options.tiny, options.images)
    if options.part:
        print(json.dumps(PARTS[options.part][0](day)))
        return
    began, out = time.monotonic(), options.out or default_file(device, "gpu-day")
    out.parent.mkdir(parents=True, exist_ok=True)
    here = {**machine(), "device": device.type, "tiny": options.tiny}
    found = json.loads(out.read_text()) if out.is_file() else {"machine": here, "parts": {}}
    if found["machine"] != here:
        raise SystemExit(f"{out} was measured elsewhere or with other versions: name another file by --out.")
    for name, (_, limit) in PARTS.items():
        left = options.limit - (time.monotonic() - began)
        if "found" in found["parts"].get(name, {}) and name not in options.again:
            continue
        if left < limit:
            print(f"{name}: left for another time, {left:.0f} s are left and it may take {limit:.0f}", flush=True)
            continue
        more = ["--tiny"] * options.tiny + (["--images", str(options.images)] if options.images else [])
        found["parts"][name] = carried_out(["--part", name, "--device", options.device, *more], limit)
        out.write_text(json.dumps(found, indent=1) + "\n")
        print(name, json.dumps(found["parts"][name]), flush=True)


if __name__ == "__main__":
    main()
