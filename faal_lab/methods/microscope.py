"""Record an attack on one image step by step, and FAAL's three phases on one batch.

Nothing is computed in a way of its own. The steps are those of `pgd.climber`. Statistics, weights and loss are those of
`class_stats`, the fairness method and `objectives.weighted`, in the order of `training/step.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from faal_lab.errors import RecipeError
from faal_lab.methods.class_stats import CLASS_SCORES, ClassStats, cross_entropy
from faal_lab.methods.fairness.base import Fairness, Weighing
from faal_lab.methods.objectives import AdversarialTraining, Objective, weighted
from faal_lab.methods.pgd import climber, pgd
from faal_lab.models.build import frozen


@dataclass(frozen=True)
class Walk:
    """The path of one attack: its start, and the point after each of its K steps."""

    points: torch.Tensor  # [K + 1, channels, H, W] in [0, 1]
    beliefs: torch.Tensor  # [K + 1, C] softmax probabilities
    losses: torch.Tensor  # [K + 1] cross-entropy, which the attack ascends

    def fooled_after(self, label: int) -> int | None:
        """Return the number of steps after which the image is first misclassified; None if it never is."""
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
    """Attack one image of class `label` by PGD and keep every point (Madry et al., ICLR 2018, eq. 2).

    `image` is [channels, H, W]; `start` has the same shape and defaults to the image. `radius` and `step` are in pixel units
    of [0, 1]. The last point is that of `pgd` with the same arguments.
    """
    images, labels = image[None], torch.tensor([label], device=image.device)
    with frozen(model):
        climb = climber(model, images, labels, radius=radius, step=step, loss="cross-entropy", norm=norm)
        point, points, logits = images if start is None else start[None], [], []
        for _ in range(steps + 1):  # the last step only gives the logits of the last point
            found, moved = climb(point)
            points.append(point)
            logits.append(found)
            point = moved
    all_logits = torch.cat(logits)
    return Walk(torch.cat(points), all_logits.softmax(1), cross_entropy(all_logits, labels.expand(steps + 1)))


@dataclass(frozen=True)
class Phases:
    """One training batch in the phases of FAAL's Algorithm 1, before the step of the optimiser."""

    labels: torch.Tensor  # int64 [B]
    adv: torch.Tensor  # phase 1: attacked images [B, channels, H, W]
    margins: torch.Tensor  # phase 2: softmax margin of each image [B] in [-1, 1], above 0 where it is misclassified
    stats: ClassStats  # their sums and counts by class
    weighing: Weighing  # the class weights, and the multipliers of the class losses
    losses: torch.Tensor  # phase 3: loss of each image [B], all terms together, unweighted
    loss: torch.Tensor  # [] the weighted loss, with its graph

    @property
    def multipliers(self) -> torch.Tensor:
        """The factor on the loss of each class, [C]: that of the first term, or 1 if the method has none."""
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
    """Attack a batch, weigh its classes by `fairness`, and compute the weighted loss.

    The attack starts at the clean images. `images` are [B, channels, H, W] in [0, 1], `labels` int64 [B]; `radius` and
    `step` are in pixel units. `objective` defaults to PGD-AT. Raises RecipeError unless its attack loss is the cross-entropy.
    The model is attacked in evaluation mode; the loss is computed in the mode that the model is in. `fairness` may learn
    from the batch, as in training: pass a fresh one for a repeatable result.
    """
    objective = objective or AdversarialTraining()
    if objective.attack_loss != "cross-entropy":
        raise RecipeError(
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
    """Format the numbers of a batch by class, the hardest class first.

    The last line is the loss of the batch with and without weights.
    """
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
