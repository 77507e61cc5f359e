"""Try what a balance could do otherwise, on validation images alone.

    python reproduce/balance_study.py runs/balance-cifar10/at results/balance/study.json

The run is an adopted one of CIFAR-10 (`balance_cifar10.py` makes it). Half of its validation images find the numbers, the other
half judges them. Tried are fewer images, and more numbers: a scale of each class, or the whole last layer, on fixed features.
How far the probabilities of clean images are off is measured before and after.
"""

from __future__ import annotations

import argparse
import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from faal_lab.data.images import Images, stratified
from faal_lab.dro import KLBall
from faal_lab.methods.predict import Attack, adversarial, predictions, taken_for
from faal_lab.models.shift import bias_name
from faal_lab.runs.files import replace_file
from faal_lab.training.measure import balance
from faal_lab.training.restore import load_model
from faal_lab.training.run import load_data

SIZES, DRAWS, ROUNDS = (20, 50, 100, 250), 2, 6
PULLS = (0.1, 0.01)  # how strongly the numbers of `refitted` are held to where they were


def shares(model: torch.nn.Module, images: Images, config: Any, classes: int) -> list[float]:
    """The robust accuracy of each class under the attack that finds the bias."""
    kind = Attack("cross-entropy", config.validation_steps, config.step_ratio)
    right = predictions(model, images, kind, config.epsilon, seed=config.seed, norm=config.norm) == images.labels
    found, total = (torch.bincount(labels, minlength=classes) for labels in (images.labels[right], images.labels))
    return (found / total).tolist()


def miscalibration(model: nn.Module, images: Images, bins: int = 15) -> float:
    """The expected calibration error of clean images: the gap of confidence and accuracy, averaged over bins of confidence."""
    with torch.no_grad():
        logits = torch.cat([model(images.batch(part)[0]) for part in torch.arange(len(images)).split(250)])
    sure, taken = logits.softmax(1).max(1)
    right, bin_of = (taken == images.labels).double(), (sure * bins).long().clamp(max=bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64).index_add(0, bin_of, right - sure.double())
    return float(gaps.abs().sum() / len(images))


def attacked(model: nn.Module, layer: nn.Linear, images: Images, config: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The inputs [N, D] of the last layer under the attack that finds the bias, and the predicted classes [N]."""
    kind = Attack("cross-entropy", config.validation_steps, config.step_ratio)
    inputs: list[torch.Tensor] = []
    taken: list[torch.Tensor] = []
    for part in torch.arange(len(images)).split(250):
        adv = adversarial(model, images, part, kind, config.epsilon, seed=config.seed, norm=config.norm)
        hook = layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0].detach()))
        taken.append(taken_for(model, adv))
        hook.remove()
    return torch.cat(inputs), torch.cat(taken)


def fitted(
    first: nn.Linear, inputs: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor, kind: str, pull: float
) -> nn.Linear:
    """The last layer with the least weighted cross-entropy, held to the `first` one.

    "scale" moves a scale and a bias of each class, "layer" all of it; `weights` [C] are those of the classes.
    """
    scale, shift = torch.ones(len(weights), 1, requires_grad=True), torch.zeros(len(weights), requires_grad=True)
    more = torch.zeros_like(first.weight).requires_grad_()
    optimiser = torch.optim.LBFGS([shift, scale if kind == "scale" else more], max_iter=50, line_search_fn="strong_wolfe")
    weight, bias = first.weight.detach(), first.bias.detach()

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        logits = nn.functional.linear(inputs, scale * weight + more, bias + shift)
        each = nn.functional.cross_entropy(logits, labels, reduction="none")
        held = (scale - 1).square().sum() + more.square().sum() + shift.square().sum()
        whole = (weights[labels] * each).mean() + pull * held
        whole.backward()
        return whole

    optimiser.step(loss)  # pyright: ignore[reportArgumentType] (torch's stubs want a float)
    with torch.no_grad():
        layer = copy.deepcopy(first)
        layer.weight.copy_(scale * weight + more)
        layer.bias.copy_(bias + shift)
    return layer


def refitted(model: nn.Module, name: str, images: Images, config: Any, kind: str, pull: float) -> list[float]:
    """Fit more than a bias, against the worst weights of the classes, in place; return the accuracies of the classes on `images`.

    Each round attacks the network as it is. The weights are worst in the KL ball for the class errors, averaged over the
    rounds so far. The round with the highest worst class is kept. `name` is that of the last layer's bias.
    """
    layer = model.get_submodule(name.rpartition(".")[0])
    assert isinstance(layer, nn.Linear)
    first, rounds, weights = copy.deepcopy(layer), [], []
    total = torch.bincount(images.labels)
    for _ in range(ROUNDS + 1):
        inputs, taken = attacked(model, layer, images, config)
        share = torch.bincount(images.labels[taken == images.labels], minlength=len(total)) / total
        rounds.append((float(share.min()), share.tolist(), copy.deepcopy(layer.state_dict())))
        weights.append(KLBall(config.balance_tau).worst_case(1 - share.double()).weights.float() * len(total))
        found = fitted(first, inputs, images.labels, torch.stack(weights).mean(0), kind, pull)
        layer.load_state_dict(found.state_dict())
    _, best, state = max(rounds, key=lambda r: r[0])
    layer.load_state_dict(state)
    return best


def keep(file: Path, rows: list[dict[str, Any]]) -> None:
    """Write what is known, and say the last of it."""
    replace_file(file, json.dumps(rows, indent=1).encode() + b"\n")
    last = rows[-1]
    said = " ".join(str(last[key]) for key in ("draw", "images a class", "fitted", "pull") if key in last)
    print(said, f"worst {min(last['found']):.3f} found, {min(last['judged']):.3f} judged", flush=True)


def main() -> None:
    """Find and judge a bias for each size and draw; write after each."""
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("run", type=Path)
    words.add_argument("out", type=Path)
    options = words.parse_args()
    rows: list[dict[str, Any]] = []
    for draw in range(DRAWS):
        model, config, _ = load_model(options.run)
        config = replace(config, validation="split", balance="bias")
        splits = load_data(config)
        classes, validation = splits.num_classes, splits.validation
        mixed = validation.part(torch.from_numpy(np.random.default_rng(draw).permutation(len(validation))))
        first = torch.zeros(len(mixed), dtype=torch.bool)
        first[stratified(mixed.labels, len(mixed) // 2, classes)] = True
        finding, judging = mixed.part(first.nonzero().flatten()), mixed.part((~first).nonzero().flatten())
        rows.append({"draw": draw, "images a class": 0, "judged": shares(model, judging, config, classes)})
        rows[-1]["off"] = miscalibration(model, judging)
        for size in SIZES:
            network, _, _ = load_model(options.run)
            some = finding.part(stratified(finding.labels, size * classes, classes))
            weights = bias_name(network, some.batch(torch.arange(2))[0])
            found, chosen = balance(network, weights, some, config, epsilon=config.epsilon)
            row = {"draw": draw, "images a class": size, "round": found.index(chosen), "found": list(chosen.accuracy)}
            rows.append({**row, "judged": shares(network, judging, config, classes), "off": miscalibration(network, judging)})
            keep(options.out, rows)
        for kind in ("scale", "layer"):
            for pull in PULLS:
                network, _, _ = load_model(options.run)
                share = refitted(network, bias_name(network, finding.batch(torch.arange(2))[0]), finding, config, kind, pull)
                row = {"draw": draw, "fitted": kind, "pull": pull, "found": share}
                rows.append({**row, "judged": shares(network, judging, config, classes), "off": miscalibration(network, judging)})
                keep(options.out, rows)


if __name__ == "__main__":
    main()
