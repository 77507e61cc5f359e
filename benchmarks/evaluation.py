"""How quick an evaluation is: ours beside the loop that releases have, for PGD-20 and for AutoAttack, on a network of yours.

    python benchmarks/evaluation.py runs/mine                       # a few minutes for a narrow network on two cores
    python benchmarks/evaluation.py runs/mine --images 2000 --autoattack-images 200

The loop written down: torch's default layout, a batch at a time, each step's backward pass through all weights, every image to
the last step; AutoAttack called anew for each batch. Ours attacks the same images. How much is saved depends on how many images a
network loses, so both are timed on a trained one. Contenders take turns, and ratios are within rounds.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from side_by_side import machine, ratio
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from faal_lab.data.images import Images, stratified
from faal_lab.evaluation.autoattack import autoattack
from faal_lab.methods.predict import PGD_ATTACKS, predictions
from faal_lab.models.build import device_of, frozen
from faal_lab.models.fast import compiled, takes_bfloat16, try_to_compile
from faal_lab.models.layout import placed
from faal_lab.training.restore import load_model
from faal_lab.training.run import load_data

BATCH = 128  # of the loop written down, as releases have it


def written_pgd(model: nn.Module, images: Images, epsilon: float) -> torch.Tensor:
    """Which images stand PGD-20 as a release's script finds it: bool [N]. The last iterate decides."""
    found = []
    for index in torch.arange(len(images), device=images.labels.device).split(BATCH):
        clean, labels = images.batch(index)
        adv = (clean + torch.empty_like(clean).uniform_(-epsilon, epsilon)).clamp(0, 1)
        for _ in range(20):
            adv = adv.detach().requires_grad_(True)
            model.zero_grad()
            F.cross_entropy(model(adv), labels).backward()
            assert adv.grad is not None
            moved = adv.detach() + epsilon / 4 * adv.grad.sign()
            adv = torch.min(torch.max(moved, clean - epsilon), clean + epsilon).clamp(0, 1)
        with torch.no_grad():
            found.append(model(adv).argmax(1) == labels)
    return torch.cat(found)


def written_autoattack(model: nn.Module, images: Images, epsilon: float, classes: int) -> torch.Tensor:
    """Which images stand pyautoattack, called for each batch by itself: bool [N]."""
    import warnings

    from pyautoattack import AutoAttack

    found = []
    for index in torch.arange(len(images), device=images.labels.device).split(BATCH):
        pixels, labels = images.batch(index)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            attack = AutoAttack(model, norm="Linf", eps=epsilon, seed=0, device=labels.device)
            attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = min(9, classes - 1)
            attack.verbose = False
            _, predicted = attack.run_standard_evaluation(pixels, labels, batch_size=BATCH)
        found.append(predicted == labels)
    return torch.cat(found)


def raced(contenders: dict[str, Callable[[], torch.Tensor]], rounds: int, title: str) -> dict[str, Any]:
    """Seconds of each contender in each round, and how many images stand in its last one."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    standing: dict[str, int] = {}
    for _ in tqdm(range(rounds), desc=title, leave=False):
        for name, call in contenders.items():
            _settle()
            started = time.perf_counter()
            standing[name] = int(call().sum())
            _settle()
            seconds[name].append(time.perf_counter() - started)
    slow, *quick = seconds
    ratios = {f"{slow} / {name}": ratio(seconds[slow], seconds[name]) for name in quick}
    return {"rounds": rounds, "standing": standing, **ratios, "ours, seconds": float(np.median(seconds["ours"]))}


def _settle() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def compared(run: Path, images: int, strong: int, rounds: int, device: torch.device) -> dict[str, Any]:
    """Both attacks on the run's network, on `images` and `strong` of its test images."""
    model, config, _ = load_model(run, "last")
    splits = load_data(config)
    plain, ours = copy.deepcopy(model).to(device), placed(model, device)
    classes, epsilon = splits.num_classes, config.epsilon

    def some(count: int) -> Images:
        return splits.test.part(stratified(splits.test.labels, count, classes)).to(device)

    found: dict[str, Any] = {
        "network": config.model,
        "filters": config.filters,
        "objective": config.objective,
        "epsilon": epsilon,
    }
    many, few = some(images), some(strong)
    pixels, labels = few.all()

    def pgd() -> torch.Tensor:
        return predictions(ours, many, PGD_ATTACKS["pgd-20"], epsilon, seed=0) == many.labels

    def attack() -> torch.Tensor:
        return autoattack(ours, pixels, labels, epsilon=epsilon, seed=0, num_classes=classes)["square"] == labels

    contenders = {
        "pgd-20": {"written down": lambda: written_pgd(plain, many, epsilon), "ours": pgd},
        "autoattack": {"written down": lambda: written_autoattack(plain, few, epsilon, classes), "ours": attack},
    }
    if takes_bfloat16(ours):  # a ResNet
        quick, _ = try_to_compile(ours, config.model, many.pixels.shape[1:])

        def in_compiled(call: Callable[[], torch.Tensor]) -> torch.Tensor:
            with frozen(ours), compiled(ours, quick):
                return call()

        contenders["pgd-20"]["ours, compiled"] = lambda: in_compiled(pgd)
        contenders["autoattack"]["ours, compiled"] = lambda: in_compiled(attack)
    found["pgd-20"] = {"images": images, **raced(contenders["pgd-20"], rounds, "PGD-20")}
    found["autoattack"] = {"images": strong, **raced(contenders["autoattack"], max(1, rounds // 2), "AutoAttack")}
    return found


def main() -> None:
    """Time both, and write it down under the run's network."""
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("run", type=Path, help="a run folder; its data set must be there")
    words.add_argument("--images", type=int, default=500, help="for PGD-20 (default: %(default)s)")
    words.add_argument("--autoattack-images", type=int, default=100, help="for AutoAttack (default: %(default)s)")
    words.add_argument("--rounds", type=int, default=5)
    words.add_argument("--device", default="auto")
    words.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = words.parse_args()
    device = device_of(options.device)
    result = compared(options.run, options.images, options.autoattack_images, options.rounds, device)
    known = json.loads(options.out.read_text()) if options.out.is_file() else {}
    known[f"{result['network']}, {result['filters']} filters, {device.type}"] = {"machine": machine(), **result}
    options.out.write_text(json.dumps(known, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
