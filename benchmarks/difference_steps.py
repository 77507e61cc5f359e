"""Measure attacks and single steps for benchmarks/differences.py, on trained networks."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from difference_runs import SIZE, Figures, big, figures, followed, formed, some
from torch import nn
from torch.nn import functional as F

from faal_lab.data.batches import augmented
from faal_lab.data.images import Images
from faal_lab.methods.awp import weight_perturbed
from faal_lab.methods.class_stats import ClassStats
from faal_lab.methods.fairness.cfol import CFOL
from faal_lab.methods.fairness.csr import spectral_gradient
from faal_lab.methods.objectives import MART, TRADES, weighted
from faal_lab.methods.pgd import climber, start_point
from faal_lab.models.build import frozen
from faal_lab.runs.config import Config
from faal_lab.training.attack import attack
from faal_lab.training.measure import Measurement
from faal_lab.training.run import prepare
from faal_lab.training.step import before_batch, step


def losses(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy [B] in evaluation mode."""
    with frozen(model), torch.no_grad():
        return F.cross_entropy(model(images), labels, reduction="none")


def attacks(one: dict[str, Any], other: dict[str, Any], base: dict[str, Any] | None = None) -> Figures:
    """Compare two training attacks on the same network."""
    pixels, first, second = [], [], []
    for seed in SIZE.seeds:
        found, trainer = [], formed(seed, base, **one)
        batch = some(trainer)
        for settings in (one, other):
            found.append(attack(formed(seed, base, **settings), batch).images)
        pixels.append(100 * ((found[0] - found[1]).abs() > 1e-6).float().mean().item())
        for means, images in zip((first, second), found, strict=True):
            means.append(losses(trainer.state.model, images, batch.labels).mean().item())
    return figures(".0f", percent_of_pixels=pixels) | figures(".3f", paper_loss=first, release_loss=second)


def after_evaluation() -> Figures:
    """AWP's first batch of an epoch, attacked in evaluation mode, against training mode as the others are."""
    gradients, statistics = [], []
    network = {"model": "preact-resnet-18", "filters": 4}  # small-cnn has no BatchNorm
    for seed in SIZE.seeds:
        found = []
        for place in (0, 1):  # the place of the batch in its epoch decides on the mode
            trainer = formed(seed, network, variant="release", awp_gamma=0.01, **network)
            trainer.state.batch, trainer.state.dials["learning_rate"] = place, 0.0
            step(trainer, some(trainer, count=128), before_batch(trainer.state))
            model = trainer.state.model
            grown = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
            found.append((grown, torch.cat([b.flatten() for n, b in model.named_buffers() if "running" in n])))
        gradients.append(100 * ((found[0][0] - found[1][0]).norm() / found[1][0].norm()).item())
        statistics.append((found[0][1] - found[1][1]).abs().max().item())
    return figures(".0f", percent_of_gradient=gradients) | figures(".2f", statistics=statistics)


def warm_up() -> Figures:
    """TRADES' loss rises by the perturbation that the first nine epochs of AWP's code leave out."""
    rises = []
    for seed in SIZE.seeds:
        trainer = formed(seed, {"objective": "trades"}, objective="trades")
        batch, model, loss = some(trainer), trainer.state.model, TRADES()
        adv = attack(trainer, batch).images

        def whole() -> list[torch.Tensor]:
            return [weighted(loss(model, batch.images, adv, batch.labels).terms, {}, batch.labels)]  # noqa: B023

        model.train()
        before = whole()[0].item()
        with weight_perturbed(model, whole, 0.005):
            rises.append(100 * (whole()[0].item() / before - 1))
    return figures(".1f", percent=rises)


def excess(slack: float) -> list[float]:
    """Return the sum of FRL's boundary multipliers after one update of its code."""
    found = []
    for seed in SIZE.seeds:
        trainer = formed(seed, {"objective": "trades"}, objective="trades", fairness="frl-rw", variant="release")
        clean, robust = Measurement.of(trainer).validation_errors(20, last=True)
        boundary = robust - clean
        found.append(2 * 0.05 * (boundary - boundary.mean() - slack).clamp(min=0).sum().item())
    return found


def first_epochs() -> Figures:
    """DAFA's double step with AT, and TRIX's targets, against plain attacks."""
    double = attacks({}, {"fairness": "dafa", "variant": "release", "attack_start": "uniform"})
    trades = {"objective": "trades"}
    aimed = attacks(trades | {"attack_start": "gaussian-uncut"}, trades | {"fairness": "trix", "variant": "release"}, trades)
    return {f"DAFA {n}": f for n, f in double.items()} | {f"TRIX {n}": f for n, f in aimed.items()}


def kept_iterate() -> Figures:
    """CFOL's code keeps the point after the iterate whose loss, averaged over the batch, is the highest."""
    found: dict[str, list[float]] = {"first": [], "trained": []}
    for seed in SIZE.seeds:
        for name, trainer in (("first", prepare(Config(seed=seed))), ("trained", formed(seed))):
            others, batches = 0, [some(trainer, first, 128) for first in range(0, 1000, 128)]
            for batch in batches:
                noise = torch.rand(batch.images.shape, generator=torch.Generator().manual_seed(seed))
                adv, means, points = start_point(batch.images, 0.1, noise), [], []
                with frozen(trainer.state.model) as model:
                    climb = climber(model, batch.images, batch.labels, radius=0.1, step=0.25 / 7, loss="cross-entropy")
                    for _ in range(7):
                        logits, adv = climb(adv)
                        means.append(F.cross_entropy(logits, batch.labels).item())
                        points.append(adv)
                kept = points[max(range(7), key=means.__getitem__)]
                others += kept is not points[-1]
            found[name].append(100 * others / len(batches))
    return figures(".0f", untrained=found["first"], trained=found["trained"])


def late_draws() -> Figures:
    """CFOL's code draws up to ten batches ahead of the scores, in five processes that hold two batches each."""
    found = []
    for seed in SIZE.seeds:
        errors = 1 - followed(seed).accuracy[-1]
        method, before = CFOL(), CFOL().class_probabilities(10)
        for _ in range(10):
            method.weigh(ClassStats(torch.full((10,), 12.8), {"error": 12.8 * errors}), ("robust",), 0.0)
        found.append((method.class_probabilities(10) - before).abs().max().item())
    return figures(".0e", probability=found)


def off_diagonal(counts: torch.Tensor) -> torch.Tensor:
    """Return a confusion matrix without its diagonal."""
    return (counts - torch.diag(counts.diagonal())).double()


def confusions() -> Figures:
    """Compare CSR's two attacks of the confusion pass, with the true logit as it is."""
    found: dict[str, list[float]] = {"paper fooled": [], "release fooled": [], "largest G apart": []}
    for seed in SIZE.seeds:
        measure = Measurement.of(formed(seed, {"objective": "trades"}, objective="trades"))
        both = [off_diagonal(c) for c in (measure.training_confusion(10), measure.training_confusion(10, 1.0))]
        for name, counts in zip(found, both, strict=False):
            found[name].append(counts.sum().item())
        found["largest G apart"].append((spectral_gradient(both[0]) - spectral_gradient(both[1])).abs().max().item())
    largest = found.pop("largest G apart")
    return figures(".0f", **found) | figures(".2f", G=largest)


def crops() -> Figures:
    """Compare the confusion of plain images with that of crops, and of crops with other crops."""
    found: dict[str, list[float]] = {"plain fooled": [], "crops fooled": [], "G apart": [], "G of other crops apart": []}
    for seed in SIZE.seeds:
        trainer, counted = big(seed), []
        images, labels = trainer.splits.train.all()
        for kind, epoch in (("none", 0), ("crop-flip", 100), ("crop-flip", 101)):
            pixels = augmented(images, kind, seed, epoch, torch.arange(len(labels)))
            other = replace(trainer.splits, train=Images((pixels * 16).to(torch.uint8), labels, pixel_max=16))
            counted.append(off_diagonal(Measurement.of(replace(trainer, splits=other)).training_confusion(5, 1.0)))
        found["plain fooled"].append(counted[0].sum().item())
        found["crops fooled"].append(counted[1].sum().item())
        whole, crop, again = (spectral_gradient(c) for c in counted)
        found["G apart"].append((whole - crop).abs().max().item())
        found["G of other crops apart"].append((again - crop).abs().max().item())
    return figures(".0f", **{n: found[n] for n in found if "fooled" in n}) | figures(
        ".2f", **{n: found[n] for n in found if "apart" in n}
    )


def scale() -> Figures:
    """Return the norm of the gradient with CFA's margin alone, of the paper's form over the release's."""
    found = []
    for seed in SIZE.seeds:
        norms = []
        for variant in ("paper", "release"):
            settings = {"objective": "trades", "fairness": "cfa-ccm", "variant": variant, "attack_start": "gaussian"}
            trainer = formed(seed, {"objective": "trades"}, **settings)
            step(trainer, some(trainer, count=128), before_batch(trainer.state))
            norms.append(torch.nn.utils.get_total_norm([p.grad for p in trainer.state.model.parameters() if p.grad is not None]))
        found.append((norms[0] / norms[1]).item())
    return figures(".1f", ratio=found)


def constants() -> Figures:
    """Return the change of MART's loss by its small constants, relative."""
    found = []
    for seed in SIZE.seeds:
        trainer = formed(seed, objective="mart")
        batch, model = some(trainer), copy.deepcopy(trainer.state.model).double().eval()
        images, adv = batch.images.double(), attack(trainer, batch).images.double()
        terms, clean, attacked = MART()(model, images, adv, batch.labels)
        assert clean is not None
        assert attacked is not None
        p, q = clean.softmax(1), attacked.softmax(1)
        wrong = q.scatter(1, batch.labels[:, None], -1.0).amax(1)
        plain = F.cross_entropy(attacked, batch.labels, reduction="none") - torch.log(1 - wrong)
        plain = plain + 6 * (p * (p.log() - q.log())).sum(1) * (1 - p.gather(1, batch.labels[:, None]).squeeze(1))
        found.append((weighted(terms, {}, batch.labels) / plain.mean() - 1).abs().item())
    return figures(".0e", share=found)


def pairs() -> Figures:
    """Return the variance of five pairs of digits over that of ten digits, of their mean losses under attack."""
    found = []
    for seed in SIZE.seeds:
        trainer = formed(seed)
        batch = some(trainer, count=1000)
        each = losses(trainer.state.model, attack(trainer, batch).images, batch.labels)
        means = torch.stack([each[batch.labels == label].mean() for label in range(10)])
        found.append((means.view(5, 2).mean(1).var() / means.var()).item())
    return figures(".1f", ratio=found)
