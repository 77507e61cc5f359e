"""Watch one image under attack step by step, and FAAL's three phases on one batch, with every number in between.

Nothing is computed in a way of its own: the steps are `pgd.climber`'s; statistics, weights and loss are those of `class_stats`,
the fairness method and `objectives.weighted`, in the order of `training/update.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from faal_lab.methods.class_stats import CLASS_SCORES, ClassStats, cross_entropy
from faal_lab.methods.fairness.base import Fairness, Weighing
from faal_lab.methods.objectives import AdversarialTraining, Objective, weighted
from faal_lab.methods.pgd import climber, pgd
from faal_lab.models.build import frozen


@dataclass(frozen=True)
class Walk:
    """Where one attack was after each of its K steps, the start first."""

    points: torch.Tensor  # [K + 1, channels, H, W] in [0, 1]
    beliefs: torch.Tensor  # [K + 1, C] softmax probabilities
    losses: torch.Tensor  # [K + 1] cross-entropy, which the attack ascends

    def fooled_after(self, label: int) -> int | None:
        """The first step after which the image is misclassified; None where it never is."""
        wrong = (self.beliefs.argmax(1) != label).nonzero()
        return int(wrong[0]) if len(wrong) else None


def walk(
    model: nn.Module,
    image: torch.Tensor,
    label: int,
    *,
    radius: float,
    step: float,
    steps: int,
    start: torch.Tensor | None = None,
    norm: str = "linf",
) -> Walk:
    """PGD on one `image` [channels, H, W] of class `label`, one step at a time; `start` (same shape) defaults to the image.

    `radius` and `step` are in pixel units of [0, 1]. The last point is that of `pgd` with the same arguments (Madry et al.,
    ICLR 2018, eq. 2).
    """
    images, labels = image[None], torch.tensor([label], device=image.device)
    with frozen(model):
        climb = climber(model, images, labels, radius=radius, step=step, loss="cross-entropy", norm=norm)
        point, points, logits = images if start is None else start[None], [], []
        for _ in range(steps + 1):  # the last step is not kept: it is made for the logits of the last point
            found, moved = climb(point)
            points.append(point)
            logits.append(found)
            point = moved
    all_logits = torch.cat(logits)
    return Walk(torch.cat(points), all_logits.softmax(1), cross_entropy(all_logits, labels.expand(steps + 1)))


@dataclass(frozen=True)
class Phases:
    """What one training batch goes through (FAAL, Algorithm 1), before the step of the optimiser."""

    labels: torch.Tensor  # int64 [B]
    adv: torch.Tensor  # phase 1: attacked images [B, channels, H, W]
    margins: torch.Tensor  # phase 2: softmax margin of each image [B] in [-1, 1], above 0 where it is misclassified
    stats: ClassStats  # their sums and counts by class
    weighing: Weighing  # the class weights, and what multiplies each class's loss
    losses: torch.Tensor  # phase 3: loss of each image [B], all terms together, unweighted
    loss: torch.Tensor  # [] what is descended, with its graph

    @property
    def multipliers(self) -> torch.Tensor:
        """What the loss of each class is multiplied by, [C]; those of the first term, 1 where the method names none."""
        named = next(iter(self.weighing.multipliers.values()), None)
        return torch.ones_like(self.weighing.weights) if named is None else named


def three_phases(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    fairness: Fairness,
    *,
    num_classes: int,
    tau: float,
    radius: float,
    step: float,
    steps: int,
    objective: Objective | None = None,
) -> Phases:
    """Attack a batch from the clean images, weigh its classes by `fairness`, and make the weighted loss.

    `images` [B, channels, H, W] in [0, 1], `labels` int64 [B]; `radius` and `step` in pixel units. `objective` is PGD-AT by
    default and must have an attack. The model is used in the mode it is in for the loss, and attacked in evaluation mode.
    `fairness` may learn from the batch, as in training: hand it in fresh for a result that can be had again.
    """
    objective = objective or AdversarialTraining()
    if objective.attack_loss != "cross-entropy":
        raise ValueError(
            f"three_phases attacks the cross-entropy, and this objective {objective.attack_loss}. Take PGD-AT or MART."
        )
    with frozen(model):
        adv = pgd(model, images, labels, radius=radius, step=step, steps=steps)
    outcome = objective(model, images, adv, labels)
    assert outcome.adv_logits is not None, "an objective with an attack returns attacked logits"
    logits = outcome.adv_logits.detach()
    values = {name: CLASS_SCORES[name](logits, labels) for name in {"margin", *fairness.needs}}
    stats = ClassStats.of(labels, num_classes, values)
    weighing = fairness.weigh(stats, tuple(outcome.terms), tau)
    losses = torch.stack([term.detach() for term in outcome.terms.values()]).sum(0)
    loss = weighted(outcome.terms, weighing.multipliers, labels, logits.argmax(1))
    return Phases(labels, adv, values["margin"], stats, weighing, losses, loss)


def phase_table(found: Phases, names: Sequence[str]) -> str:
    """All numbers of a batch by class, the hardest first, and its loss with and without weights."""
    margin, classes = found.stats.mean("margin"), len(names)
    loss = ClassStats.of(found.labels, classes, {"loss": found.losses})
    counted = loss.sums["loss"] * found.multipliers.to(loss.count.dtype)
    share = 100 * counted / counted.sum()
    lines = [
        f"{'class':<10}{'images':>8}{'mean margin':>13}{'weight':>9}{'C x weight':>12}{'mean loss':>11}{'share of the loss':>19}"
    ]
    for c in torch.where(found.stats.present, margin, -torch.inf).argsort(descending=True).tolist():
        row = f"{names[c]:<10}{int(found.stats.count[c]):>8}"
        if found.stats.present[c]:
            row += f"{margin[c]:>+13.3f}{found.weighing.weights[c]:>9.3f}{found.multipliers[c]:>12.2f}"
            row += f"{loss.mean('loss')[c]:>11.3f}{share[c]:>17.1f} %"
        lines.append(row)
    plain, descended = float(found.losses.mean()), float(found.loss.detach())
    return "\n".join([*lines, f"loss of the batch: {plain:.4f} unweighted, {descended:.4f} weighted"])
