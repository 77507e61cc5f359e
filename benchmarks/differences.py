"""Measure the size of the differences between papers, releases and us that no formula gives (docs/differences.md).

    python benchmarks/differences.py            # four minutes on two cores
    python benchmarks/differences.py --quick    # a minute, to see that it works

On the digits with `small-cnn`, unless an entry says otherwise; means over three seeds. Two attacks are compared on the same 256
training images and the same trained network; their losses are the cross-entropies at their ends. Where this package has no form
for the behaviour of a release, the behaviour is stated again here. An entry has the name of its row in
`faal_lab/releases.toml`, and a test holds the row to the rounded numbers (`shown`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from difference_runs import PGD, SIZE, Figures, NoLast, apart, averaged, best, figures, followed, gained
from difference_steps import (
    after_evaluation,
    attacks,
    confusions,
    constants,
    crops,
    excess,
    first_epochs,
    kept_iterate,
    late_draws,
    pairs,
    scale,
    warm_up,
)  # fmt: skip
from side_by_side import machine
from tqdm import tqdm

from faal_lab.data.batches import AUGMENTATIONS
from faal_lab.data.sets import load
from faal_lab.methods.predict import survivors
from faal_lab.models.networks import PreActResNet18
from faal_lab.runs.config import Config
from faal_lab.training.loop import train
from faal_lab.training.run import prepare
from faal_lab.training.trainer import learning_rate_factor


def fresh_network() -> Figures:
    """FAWA's code evaluates a network of random weights before the first epoch that qualifies."""
    shares = []
    for seed in SIZE.seeds:
        trainer = prepare(Config(seed=seed + 100))
        right = survivors(trainer.state.model, trainer.splits.test, None, 0.1, seed=0)
        shares.append(100 * right.float().mean().item())
    return figures(".0f", percent_right=shares)


def network() -> Figures:
    """Train both networks by TRADES: their differences in points, the code's minus ours."""
    found: list[list[float]] = [[], []]
    for seed in SIZE.seeds:
        right = []
        for make in (PreActResNet18, NoLast):
            torch.manual_seed(seed)
            config = Config(seed=seed, objective="trades", epochs=SIZE.epochs, attack_steps=5)
            trainer = prepare(config, make(10, 1, 4))
            for _ in train(trainer):
                pass
            kinds = (None, PGD)
            stand = [survivors(trainer.state.model, trainer.splits.test, kind, 0.1, seed=seed) for kind in kinds]
            right.append([100 * s.float().mean().item() for s in stand])
        for place in (0, 1):
            found[place].append(right[1][place] - right[0][place])
    return figures("+.1f", clean=found[0], robust=found[1])


def limit() -> Figures:
    """Return the updates by the same errors until FRL's multipliers sum to 0.5."""
    firsts = excess(0.07)
    return figures(".0f", updates=[0.5 * len(firsts) / sum(firsts)])


def held_out() -> Figures:
    """Return the share of the images to train on that is held out for validation."""
    most, kept = (len(load("digits", seed=0, validation=kind).train) for kind in ("none", "split"))
    return figures(".0f", percent=[100 * (1 - kept / most)])


def solver() -> Figures:
    """Return how far the weights of FAAL's solver are off for ten classes, as benchmarks/ambiguity.py measured it."""
    cases = json.loads(Path(__file__).with_name("ambiguity.json").read_text(encoding="utf-8"))["digits"]
    (errors,) = [case["errors"] for case in cases if case["classes"] == 10]
    return figures(".0e", weights=[errors["CVXPY rebuilt, Ecos"]["weights"]])


def borders() -> Figures:
    """Return the share of a crop of 32x32 pixels that is padding."""
    numbers = torch.rand(10_000, 3, generator=torch.Generator().manual_seed(0))
    kept = AUGMENTATIONS["crop-flip"](torch.ones(10_000, 1, 32, 32), numbers)
    return figures(".0f", percent=[100 * (1 - kept.mean().item())])


def drops() -> Figures:
    """Count the epochs of 100 before a drop at three quarters; codes that count from 1 have one less."""
    config = Config(epochs=100, lr_schedule="step", lr_drops="0.75")
    ours = sum(learning_rate_factor(config, epoch / 100, epoch) == 1 for epoch in range(100))
    theirs = sum(epoch < 75 for epoch in range(1, 101))
    return figures(".0f", ours=[ours], theirs=[theirs])


def assumed(imbalance: float, form: str) -> Figures:
    """Return how far CFA's accuracy of a class is off where classes are not balanced."""
    runs = [followed(seed, imbalance) for seed in SIZE.seeds]
    return figures(form, **{f"at_{imbalance:g}": [(r.accuracy[0] - r.assumed[0]).abs().max().item() for r in runs]})


def early_radii() -> Figures:
    """Return the smallest and largest radius of a class in the epochs two to ten, where CFA's code still has epsilon."""
    factors = [0.5 + torch.stack(followed(seed).accuracy[:9]) for seed in SIZE.seeds]
    return figures(".2f", smallest=[f.min().item() for f in factors], largest=[f.max().item() for f in factors])


NESTEROV: dict[str, Any] = {"objective": "trades"}
ROWS: dict[str, Callable[[], Figures]] = {
    "all: choice of the checkpoint": lambda: gained(lambda run: (best(run.validation), best(run.test))),
    "all: score that chooses the checkpoint": lambda: gained(
        lambda run: (best(run.validation, lambda of: of[0]), best(run.validation))
    ),
    "all: images to train on": held_out,
    "all: border of random crops": borders,
    "all: drops of the rate": drops,
    "at, awp: rate of the last batch before a drop": lambda: apart({}, {"last": 0.1}, "percent"),
    "awp: first batch after an evaluation, with AT": after_evaluation,
    "awp: first epochs, with TRADES": warm_up,
    "mart: small constants": constants,
    "faal: solver": solver,
    "faal: start of the attack with AT": lambda: attacks({"attack_start": "zero"}, {"attack_start": "uniform"}),
    "faal: attack of MART": lambda: attacks(
        {"objective": "mart", "attack_start": "gaussian-uncut"}, {"objective": "trades", "attack_start": "gaussian-uncut"}
    ),
    "frl-rw, frl-rwrm: network": network,
    "frl-rw: slack": lambda: figures(".3f", ours=excess(0.07), theirs=excess(0.1)),
    "frl-rw, frl-rwrm: limit of the multipliers": limit,
    "cfa-ccm: scale of TRADES' loss": scale,
    "cfa, cfa-ccm, cfa-ccr: accuracy of a class": lambda: assumed(1.0, ".3f") | assumed(10.0, ".2f"),
    "cfa, cfa-ccm, cfa-ccr: first ten epochs": early_radii,
    "ema: average in CFA's code": lambda: averaged("ema", "ema by epoch"),
    "fawa: average": lambda: averaged("paper", "release"),
    "fawa: no epoch that qualifies yet": fresh_network,
    "fat: superclasses of CIFAR-100": pairs,
    "dafa: start of the attack with AT": lambda: attacks({"attack_start": "uniform"}, {"attack_start": "gaussian-uncut"}),
    "dafa, trix: Nesterov's momentum": lambda: apart(NESTEROV, NESTEROV | {"nesterov": True}, "percent_of_the_move"),
    "dafa, trix: epochs before the weights are known": first_epochs,
    "cfol: adversarial image": kept_iterate,
    "cfol: draws ahead of the scores": late_draws,
    "csr: attack of the confusion pass": confusions,
    "csr: images of the confusion pass": crops,
    "csr: a batch without the last class": lambda: figures(".0e", chance=[0.9**128]),
}


def main() -> None:
    """Read the command line, measure, and keep the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed and one epoch; nothing is kept")
    parser.add_argument("--only", default="", help="measure the rows whose name holds this text; nothing is kept")
    chosen = parser.parse_args()
    if chosen.quick:
        SIZE.seeds, SIZE.epochs, SIZE.followed = (0,), 1, 2
    torch.set_num_threads(1)  # the networks are too small for two
    found = {name: row() for name, row in tqdm(ROWS.items()) if chosen.only in name}
    for name, row in found.items():
        print(f"{name}: " + ", ".join(f"{n} {f['shown']} ({f['low']:.3g} to {f['high']:.3g})" for n, f in row.items()))
    if not (chosen.quick or chosen.only):
        kept = {"machine": machine(), "seeds": len(SIZE.seeds), "rows": found}
        Path(__file__).with_suffix(".json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
