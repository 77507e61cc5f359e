"""DAFA and TRIX: classes that are taken for each other trade weight and radius, once."""

from __future__ import annotations

import torch

from faal_lab.dro.base import check_radius
from faal_lab.methods.class_stats import ClassStats
from faal_lab.methods.fairness.base import AttackedBatch, AttackPlan, State, Weighing, fixed

_SMALLEST = 0.05  # a weight that a large strength would push to 0 or below


def distance_weights(similarity: torch.Tensor, strength: float = 1.0, ties: str = "nothing") -> torch.Tensor:
    """Class weights [C] of mean predictions `similarity` [C, C], rows by true class (Lee et al., ICLR 2024, eqs. 5 and 6).

    Of each pair the harder class i (lower S_ii) receives strength * S_ij * S_jj from the easier one j, so the weights sum to C.
    In the authors' code both of a pair that is level pay (`ties="pay"`): they then sum to less.
    """
    own = similarity.diagonal()
    given = strength * similarity * own[None, :]  # [i, j]: what i would receive from j
    harder = own[:, None] < own[None, :]
    pays = harder.T if ties == "nothing" else ~harder
    flow = torch.where(harder, given, 0.0) - torch.where(pays, given.T, 0.0)
    return 1 + (flow - torch.diag(flow.diagonal())).sum(1)


class DAFA:
    """Weights W of the cross-entropy term, radii W * epsilon and steps to match, from one epoch's mean predictions.

    Lee et al., ICLR 2024: the mean softmax over each class's adversarial training images is collected in the epoch before the
    method acts (70 of 110 in their runs; the first one where `fairness_start` is 0), and W (`distance_weights`) is constant
    from then on. TRADES' divergence is not weighed. Strength 0 is plain training. `variant="release"` lets level classes both
    pay and, for AT, copies a defect of the authors' code: each attack step is followed by a second, plain one, and no radius
    exceeds epsilon.
    """

    needs: tuple[str, ...] = ("softmax",)

    def __init__(self, strength: float = 1.0, variant: str = "paper", objective: str = "trades") -> None:
        check_radius(strength, "strength, DAFA's lambda,")
        self.strength, self.variant = strength, variant
        self._double_step = variant == "release" and objective == "at"
        self.state: State = {}  # weights [C]

    def end_epoch(self, epoch: ClassStats, measure: object) -> None:
        """Make the weights, once."""
        if "weights" not in self.state:
            ties = "pay" if self.variant == "release" else "nothing"
            weights = distance_weights(epoch.mean("softmax").double(), self.strength, ties)
            self.state["weights"] = weights.clamp(min=_SMALLEST)

    def plan_attack(self, batch: AttackedBatch) -> AttackPlan:
        """Radius and step in proportion to the weight."""
        weights = self.state.get("weights", torch.ones(batch.num_classes, device=batch.labels.device))
        scale = weights.float()[batch.labels]
        if self._double_step and "weights" in self.state:
            return AttackPlan((scale + batch.step_ratio).clamp(max=1.0), 1 + scale)
        return AttackPlan(scale, scale)

    def weigh(self, stats: ClassStats, terms: tuple[str, ...], tau: float) -> Weighing:
        """The same weights at every batch, for the cross-entropy term alone."""
        multipliers = self.state.get("weights", torch.ones_like(stats.count, dtype=torch.float64))
        weights, spent = fixed(multipliers)
        return Weighing(weights, {terms[0]: multipliers}, spent)


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
