"""How quick a training step is: ours, compiled and not, without its quick paths, and the release's recipe written down.

    python benchmarks/training.py            # about 10 minutes on two cores; a few minutes on a GPU
    python benchmarks/training.py --resume   # goes on with the networks that are missing
    python benchmarks/training.py --quick    # the small networks, a round each

Fine-tuning by FAAL (AT, PGD-10) on random images of 32x32 in ten classes: what is in them does not change the speed. Every round
times each contender once, one after the other, so that ratios hold where bare times do not. The recipe written down has the
gradients of all weights in every attack step, an unused clean forward, float32 in torch's default layout, a DataLoader over PIL
images, and a CVXPY problem built for every batch. Work is counted in F, forward passes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from side_by_side import machine, ratio
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from faal_lab.data.images import Images, Splits
from faal_lab.dro.paper import release_weights
from faal_lab.methods.class_stats import CLASS_SCORES, ClassStats
from faal_lab.methods.recipe import Recipe
from faal_lab.models.build import ModelSpec, build, device_of
from faal_lab.models.fast import has_bfloat16, takes_bfloat16, try_to_compile, wants_bfloat16
from faal_lab.models.layout import placed
from faal_lab.runs.config import Config
from faal_lab.training.loop import train
from faal_lab.training.run import recipe_settings
from faal_lab.training.trainer import Trainer, TrainingState

CLASSES, EPSILON, TAU, STEPS = 10, 8 / 255, 0.5, 10


@dataclass(frozen=True)
class Case:
    """A network, and batches of a size that suits it."""

    model: str
    filters: int
    batch: int
    batches: int  # of one timing


CASES = {
    "small-cnn": Case("small-cnn", 24, 64, 6),
    "preact-resnet-18, 16 filters": Case("preact-resnet-18", 16, 64, 3),
    "preact-resnet-18": Case("preact-resnet-18", 64, 32, 1),
    "wrn-34-10": Case("wrn-34-10", 0, 4, 1),
}
ON_GPU = {name: Case(case.model, case.filters, 128, 20) for name, case in CASES.items()}


def pictures(count: int) -> Images:
    """Random images, an equal number of each class."""
    numbers = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=numbers)
    return Images(pixels, torch.arange(count) % CLASSES)


def network(case: Case) -> nn.Module:
    """The same weights for every contender."""
    return build(ModelSpec(case.model, CLASSES, 3, 32, 32, (0.5,) * 3, (0.25,) * 3, case.filters), 0)


class Written(torch.utils.data.Dataset):
    """Images as a release's script reads them: one at a time, through PIL, cropped and flipped."""

    def __init__(self, images: Images) -> None:
        from torchvision import transforms

        self._pixels, self._labels = images.pixels[:].permute(0, 2, 3, 1).numpy(), images.labels
        self._change = transforms.Compose(
            [
                transforms.ToPILImage(),
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
            ]
        )

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self._change(self._pixels[index]), self._labels[index]


def plain_step(model: nn.Module, optimizer: torch.optim.Optimizer, images: torch.Tensor, labels: torch.Tensor) -> None:
    """One batch of FAAL as one would write it down from the release."""
    model.eval()
    adv = (images + torch.empty_like(images).uniform_(-EPSILON, EPSILON)).clamp(0, 1)
    for _ in range(STEPS):
        adv = adv.detach().requires_grad_(True)
        F.cross_entropy(model(adv), labels).backward()
        assert adv.grad is not None
        moved = adv.detach() + 2 / 255 * adv.grad.sign()
        adv = torch.min(torch.max(moved, images - EPSILON), images + EPSILON).clamp(0, 1)
    model.train()
    optimizer.zero_grad()
    logits = model(adv.detach())
    model(images)
    margins = CLASS_SCORES["margin"](logits.detach(), labels)
    weights = release_weights(margins, labels, CLASSES, TAU).to(labels.device, torch.float32)
    (F.cross_entropy(logits, labels, reduction="none") * CLASSES * weights[labels]).mean().backward()
    optimizer.step()


def plain(case: Case, device: torch.device) -> Callable[[], None]:
    """A contender: so many batches of the recipe written down."""
    model = network(case).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def batches() -> None:
        loader = torch.utils.data.DataLoader(Written(pictures(case.batch * case.batches)), case.batch, shuffle=True)
        for images, labels in loader:
            plain_step(model, optimizer, images.to(device), labels.to(device))

    return batches


def training(case: Case, device: torch.device, *, quick: bool = True, compiled: bool = False, **changes: Any) -> Trainer:
    """Our training with its quick paths or without, before its first step; `changes` are settings other than the benchmark's."""
    images = pictures(case.batch * case.batches)
    names = tuple(map(str, range(CLASSES)))
    splits = Splits("random", names, images, images.part(torch.arange(0)), images, "crop-flip").to(device)
    config = Config(
        fairness="faal", tau=TAU, epsilon=EPSILON, attack_steps=STEPS, model=case.model, filters=case.filters,
        batch_size=case.batch, validation="none", epochs=10_000, learning_rate=0.01, precision="auto" if quick else "float32",
    )  # fmt: skip
    config = replace(config, **changes)
    model = network(case)
    model = placed(model, device) if quick else model.to(device)
    state = TrainingState.fresh(model, Recipe.of(**recipe_settings(config, validation=False)), config)
    if compiled:
        low = wants_bfloat16(config.precision, model, device)
        shape = images.pixels.shape[1:]
        state.quick, _ = try_to_compile(model, case.model, shape, images=case.batch, low=low, training=True)
    return Trainer(state, splits, config)


def ours(case: Case, device: torch.device, *, quick: bool, compiled: bool = False, **changes: Any) -> Callable[[], None]:
    """A contender: so many batches of our training loop; arguments as of `training`. Compiling takes a minute first."""
    trainer = training(case, device, quick=quick, compiled=compiled, **changes)
    state, events = trainer.state, train(trainer)

    def batches() -> None:
        end = state.step + case.batches
        while state.step < end:
            next(events)

    return batches


def timed(contenders: dict[str, Callable[[], None]], rounds: int, title: str) -> dict[str, list[float]]:
    """Seconds of each contender in each round, after one that only warms up."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for number in tqdm(range(rounds + 1), desc=title, leave=False):
        for name, call in contenders.items():
            _settle()
            started = time.perf_counter()
            call()
            _settle()
            if number:
                found[name].append(time.perf_counter() - started)
    return found


def _settle() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def compared(name: str, case: Case, device: torch.device, rounds: int) -> dict[str, Any]:
    """Images a second of each, and their ratios within rounds."""
    contenders = {
        "written down": plain(case, device),
        "ours, plain": ours(case, device, quick=False),
        "ours": ours(case, device, quick=True),
    }
    if takes_bfloat16(network(case)):
        contenders["ours, compiled"] = ours(case, device, quick=True, compiled=True)
    seconds = timed(contenders, rounds, name)
    images = case.batch * case.batches
    found: dict[str, Any] = {"batch": case.batch, "images a round": images, "rounds": rounds}
    found["images a second"] = {who: round(images / float(np.median(times)), 2) for who, times in seconds.items()}
    found["written down / ours"] = ratio(seconds["written down"], seconds["ours"])
    found["ours, plain / ours"] = ratio(seconds["ours, plain"], seconds["ours"])
    if "ours, compiled" in seconds:
        found["written down / ours, compiled"] = ratio(seconds["written down"], seconds["ours, compiled"])
    quickest = min(float(np.median(times)) for times in seconds.values())
    found["phase 2 of a step"] = phase_two(case, device) / (quickest / case.batches)
    return found


def phase_two(case: Case, device: torch.device) -> float:
    """Seconds of the middle problem for a batch: class sums of margins, and the weights."""
    logits = torch.randn(case.batch, CLASSES, device=device)
    labels = torch.arange(case.batch, device=device) % CLASSES
    recipe = Recipe.of(**recipe_settings(Config(fairness="faal"), validation=False))

    def solve() -> None:
        with torch.no_grad():
            stats = ClassStats.of(labels, CLASSES, {"margin": CLASS_SCORES["margin"](logits, labels)})
            recipe.fairness.weigh(stats, ("adversarial",), TAU)

    solve()
    _settle()
    started = time.perf_counter()
    for _ in range(50):
        solve()
    _settle()
    return (time.perf_counter() - started) / 50


def cases(device: torch.device, quick: bool) -> Iterator[tuple[str, Case]]:
    """Which networks are timed, with which batches."""
    chosen = ON_GPU if device.type == "cuda" else CASES
    yield from list(chosen.items())[: 2 if quick else None]


def default_file(device: torch.device, what: str) -> Path:
    """Where the figures of a device are kept."""
    if device.type != "cuda":
        return Path(__file__).with_name(f"{what}.json")
    card = "-".join(torch.cuda.get_device_name(device).lower().split())
    return Path(__file__).parent / "results" / f"{what}-{card}.json"


def main() -> None:
    """Time every case, and write it down after each."""
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("--quick", action="store_true", help="the small networks, a round each")
    words.add_argument("--rounds", type=int, default=7)
    words.add_argument("--device", default="auto")
    words.add_argument("--out", type=Path, help="default: training.json beside this file, of a GPU results/training-CARD.json")
    words.add_argument("--resume", action="store_true", help="keep the networks that are in the file already")
    options = words.parse_args()
    device = device_of(options.device)
    options.out = options.out or default_file(device, "training")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    here = {**machine(), "device": device.type, "native bfloat16": has_bfloat16(device)}
    found: dict[str, Any] = {"machine": here, "cases": {}}
    if options.resume and options.out.is_file():
        known = json.loads(options.out.read_text())
        if known["machine"] != here:
            raise SystemExit(f"{options.out} was measured on another machine or with other versions: start without --resume.")
        found = known
    for name, case in cases(device, options.quick):
        if name in found["cases"]:
            continue
        found["cases"][name] = compared(name, case, device, 1 if options.quick else options.rounds)
        print(name, json.dumps(found["cases"][name], indent=1), flush=True)
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
