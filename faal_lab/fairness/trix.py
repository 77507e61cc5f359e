"""TRIX: DAFA, with easy classes attacked towards a target."""

from __future__ import annotations

import torch

from faal_lab.class_stats import ClassStats
from faal_lab.fairness.dafa import DAFA, distance_weights
from faal_lab.fairness.fairness import AttackedBatch, AttackPlan, State, Weighing


class TRIX:
    """Mixed targeted and untargeted attacks beside DAFA's weights (Medi, Jung and Keuper, arXiv 2507.07768).

    In each batch class weights are made by DAFA's formula from clean predictions; samples of the classes below the batch's
    mean weight, the easy ones, are attacked towards a random other class, which is the weaker attack; the others as the
    objective says. DAFA's own weights, once they are made, give term, radius and step. Targets are drawn from the first batch
    in which the method acts.
    """

    needs: tuple[str, ...] = DAFA.needs

    def __init__(self, strength: float = 1.0) -> None:
        self.dafa = DAFA(strength)
        self.state: State = self.dafa.state

    def end_epoch(self, epoch: ClassStats, measure: object) -> None:
        """DAFA's weights, once."""
        self.dafa.end_epoch(epoch, measure)

    def plan_attack(self, batch: AttackedBatch) -> AttackPlan:
        """DAFA's radii and steps; a random target for each sample of an easy class."""
        values = {"softmax": batch.clean_logits().softmax(1)}
        similarity = ClassStats.of(batch.labels, batch.num_classes, values).mean(
            "softmax"
        )  # rows of absent classes are 0: they trade nothing
        weights = distance_weights(similarity)[batch.labels]
        shift = 1 + (batch.draw() * (batch.num_classes - 1)).long().clamp(max=batch.num_classes - 2)
        other = (batch.labels + shift) % batch.num_classes
        plan = self.dafa.plan_attack(batch)
        return AttackPlan(plan.radius, plan.step, torch.where(weights < weights.mean(), other, -1))

    def weigh(self, stats: ClassStats, terms: tuple[str, ...], tau: float) -> Weighing:
        """DAFA's."""
        return self.dafa.weigh(stats, terms, tau)
