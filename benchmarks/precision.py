"""Whether bfloat16 in training changes a conclusion: robust accuracy over seeds, and whether it hits some classes more.

    python benchmarks/precision.py runs/base                        # three seeds, two epochs of FAAL each from that base
    python benchmarks/precision.py runs/base --epochs 1 --images 500

From a base run of a ResNet, FAAL fine-tunes once in float32 and once in bfloat16 for each seed, everything else alike and both
compiled; both are measured in float32 on the same test images. On the base itself the signs of the attack's gradient are
compared, class by class: a precision effect that differed by class would pass for unfairness.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from side_by_side import machine
from torch import nn
from tqdm import tqdm

from faal_lab.data.images import Images, stratified
from faal_lab.evaluation.comparison import combine_seeds
from faal_lab.evaluation.statistics import average_accuracy, worst_accuracy
from faal_lab.methods.class_stats import class_sums
from faal_lab.methods.pgd import pgd
from faal_lab.methods.predict import PGD_ATTACKS, count_by_class, survivors
from faal_lab.models.build import device_of, frozen
from faal_lab.models.fast import in_bfloat16
from faal_lab.models.layout import placed
from faal_lab.runs.config import Config
from faal_lab.training.parameters import based_on
from faal_lab.training.restore import load_model
from faal_lab.training.run import load_data, run

PRECISIONS = ("float32", "bfloat16")


def sign_agreement(model: nn.Module, images: Images, epsilon: float, classes: int) -> list[float]:
    """The share of pixels at which both precisions take the first attack step in the same direction, by class."""
    same = []
    for index in torch.arange(len(images), device=images.labels.device).split(250):
        pixels, labels = images.batch(index)
        signs = []
        for low in (False, True):
            with frozen(model), in_bfloat16(model, low):
                moved = pgd(model, pixels, labels, radius=epsilon, step=epsilon / 4, steps=1)
            signs.append((moved - pixels).sign())
        same.append((signs[0] == signs[1]).float().mean((1, 2, 3)))
    counts = torch.bincount(images.labels, minlength=classes).clamp(min=1)
    return (class_sums(torch.cat(same), images.labels, classes) / counts).tolist()


def tuned(config: Config, images: int, folder: Path) -> dict[str, float]:
    """Average and worst class in percent, under PGD-20, of one fine-tuning."""
    for _ in run(config, folder):
        pass
    model, _, _ = load_model(folder)
    device, splits = device_of(config.device), load_data(config)
    some = stratified(splits.test.labels, images, splits.num_classes) if images else torch.arange(len(splits.test))
    test = splits.test.part(some).to(device)
    stand = survivors(placed(model, device), test, PGD_ATTACKS["pgd-20"], config.epsilon, seed=0)
    right, total = (np.array(count_by_class(each, test.labels, splits.num_classes)) for each in (stand, torch.ones_like(stand)))
    average, (worst, _) = average_accuracy(right, total), worst_accuracy(right, total)
    return {"average": 100 * average.value, "worst": 100 * worst.value}


def compared(base: Path, seeds: int, images: int, changes: dict[str, Any]) -> dict[str, Any]:
    """Both precisions from the same base, for each seed: every number, their means, and the paired difference of the means."""
    values: dict[str, list[dict[str, float]]] = {precision: [] for precision in PRECISIONS}
    with tempfile.TemporaryDirectory() as folder:
        for seed in tqdm(range(seeds), desc="seeds"):
            for precision in PRECISIONS:
                settings = {"base": str(base), "fairness": "faal", "seed": seed, "precision": precision, **changes}
                config = based_on(str(base), settings)
                values[precision].append(tuned(config, images, Path(folder) / f"{precision}-{seed}"))
    found: dict[str, Any] = {"seeds": seeds, "values": values, "bfloat16 minus float32": {}}
    for kind in ("average", "worst"):
        pairs = zip(*(values[precision] for precision in PRECISIONS), strict=True)
        difference = combine_seeds([low[kind] - full[kind] for full, low in pairs])
        found["bfloat16 minus float32"][kind] = {"mean": difference.mean, "low": difference.low, "high": difference.high}
    return found


def main() -> None:
    """Compare, and write it down."""
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("base", type=Path, help="a run folder of a ResNet; its data set must be there")
    words.add_argument("--seeds", type=int, default=3)
    words.add_argument("--epochs", type=int, default=2)
    words.add_argument("--images", type=int, default=0, help="test images, spread over the classes (default: all)")
    words.add_argument("--device", default="auto")
    words.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = words.parse_args()
    model, config, _ = load_model(options.base, "last")
    device, splits = device_of(options.device), load_data(config)
    some = splits.train.part(stratified(splits.train.labels, min(1000, len(splits.train)), splits.num_classes)).to(device)
    signs = sign_agreement(placed(model, device), some, config.epsilon, splits.num_classes)
    found: dict[str, Any] = {
        "machine": machine(), "network": config.model, "filters": config.filters, "training images": len(splits.train),
        "epochs": options.epochs, "test images": options.images or len(splits.test),
        "signs that agree": dict(zip(splits.class_names, signs, strict=True)),
    }  # fmt: skip
    changes = {"epochs": options.epochs, "learning_rate": 0.01, "compile": True, "device": options.device}
    found |= compared(options.base, options.seeds, options.images, changes)
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
