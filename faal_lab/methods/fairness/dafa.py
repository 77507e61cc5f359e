"""Trade weight and radius between classes that are taken for each other (DAFA), and aim at classes (TRIX, FAIR-TAT)."""

from __future__ import annotations

import torch

from faal_lab.dro.base import check_radius
from faal_lab.methods.class_stats import ClassStats
from faal_lab.methods.fairness.base import AttackedBatch, AttackPlan, Measure, State, Weighing, fixed
from faal_lab.models import processes

_SMALLEST = 0.05  # lowest weight: a large strength would push it to 0 or below
_STEPS = 10  # PGD steps of FAIR-TAT's pass over the training images


def distance_weights(similarity: torch.Tensor, strength: float = 1.0, ties: str = "nothing") -> torch.Tensor:
    """Return class weights [C] from mean predictions `similarity` [C, C], rows by true class.

    Lee et al., ICLR 2024, eqs. 5 and 6. In each pair the harder class i (lower S_ii) receives strength * S_ij * S_jj from
    the easier class j, so the weights sum to C. In the authors' code both classes of a level pair pay (`ties="pay"`): the
    weights then sum to less.
    """
    own = similarity.diagonal()
    given = strength * similarity * own[None, :]  # [i, j]: i would receive this from j
    harder = own[:, None] < own[None, :]
    pays = harder.T if ties == "nothing" else ~harder
    flow = torch.where(harder, given, 0.0) - torch.where(pays, given.T, 0.0)
    return 1 + (flow - torch.diag(flow.diagonal())).sum(1)


class DAFA:
    """Class weights for cross-entropy, radius and step from mean predictions (Lee et al., ICLR 2024).

    The mean softmax over each class's adversarial training images is collected in the epoch before the method acts (70 of
    110 in the authors' runs; the first one if `fairness_start` is 0). The weights W (`distance_weights`) are constant from
    then on. They multiply the cross-entropy term, epsilon and the attack step, but not TRADES' divergence. Strength 0 is
    plain training.

    `variant="release"` lets both level classes pay, and does not cut the weights: with a large strength one may be negative.
    For AT it also copies a defect of the authors' code: each attack step is followed by a second, plain one, and no radius
    exceeds epsilon.
    """

    needs: tuple[str, ...] = ("softmax",)

    def __init__(self, strength: float = 1.0, variant: str = "paper", objective: str = "trades") -> None:
        check_radius(strength, "strength, DAFA's lambda,")
        self.strength, self.variant = strength, variant
        self._double_step = variant == "release" and objective == "at"
        self.state: State = {}  # weights [C]

    def end_epoch(self, epoch: ClassStats, measure: object) -> None:
        """Compute the weights, once."""
        if "weights" not in self.state:
            ties = "pay" if self.variant == "release" else "nothing"
            weights = distance_weights(epoch.mean("softmax").double(), self.strength, ties)
            self.state["weights"] = weights if self.variant == "release" else weights.clamp(min=_SMALLEST)

    def plan_attack(self, batch: AttackedBatch) -> AttackPlan:
        """Scale radius and step in proportion to the weight."""
        weights = self.state.get("weights", torch.ones(batch.num_classes, device=batch.labels.device))
        scale = weights.float()[batch.labels]
        if self._double_step:  # before the weights are known, too
            return AttackPlan((scale + batch.step_ratio).clamp(max=1.0), 1 + scale)
        return AttackPlan(scale, scale)

    def weigh(self, stats: ClassStats, terms: tuple[str, ...], tau: float) -> Weighing:
        """Return the same weights at every batch, for the cross-entropy term alone."""
        multipliers = self.state.get("weights", torch.ones_like(stats.count, dtype=torch.float64))
        weights, spent = fixed(multipliers)
        return Weighing(weights, {terms[0]: multipliers}, spent)


class TRIX:
    """Targeted attacks on easy classes beside DAFA's weights (Medi, Jung and Keuper, arXiv 2507.07768).

    In each batch DAFA's formula makes class weights from clean predictions. Classes below the mean weight of the batch are
    easy: their samples are attacked towards a random other class, which is the weaker attack. The others are attacked as the
    objective states. DAFA's own weights, once computed, set term, radius and step. Targets are drawn from the first batch in
    which the method acts. `variant="release"` lets both of two level classes pay, in the batch's weights as in DAFA's.
    """

    needs: tuple[str, ...] = DAFA.needs

    def __init__(self, strength: float = 1.0, variant: str = "paper") -> None:
        self.dafa = DAFA(strength, variant)
        self._ties = "pay" if variant == "release" else "nothing"
        self.state: State = self.dafa.state

    def end_epoch(self, epoch: ClassStats, measure: object) -> None:
        """Compute DAFA's weights, once."""
        self.dafa.end_epoch(epoch, measure)

    def plan_attack(self, batch: AttackedBatch) -> AttackPlan:
        """Return DAFA's radii and steps, and a random target for each sample of an easy class."""
        values = {"softmax": batch.clean_logits().softmax(1)}
        stats = ClassStats.of(batch.labels, batch.num_classes, values)
        processes.total([stats.count, *stats.sums.values()])
        # rows of absent classes are 0: they trade nothing
        weights = distance_weights(stats.mean("softmax"), ties=self._ties)[batch.labels]
        shift = 1 + (batch.draw() * (batch.num_classes - 1)).long().clamp(max=batch.num_classes - 2)
        other = (batch.labels + shift) % batch.num_classes
        plan = self.dafa.plan_attack(batch)
        return AttackPlan(plan.radius, plan.step, torch.where(weights < processes.mean(weights), other, -1))

    def weigh(self, stats: ClassStats, terms: tuple[str, ...], tau: float) -> Weighing:
        """Return DAFA's weights."""
        return self.dafa.weigh(stats, terms, tau)


class FairTAT:
    """Attack towards the classes that attacked images fall into (FAIR-TAT, after Medi, Jung and Keuper, WACV 2025).

    Before each epoch the training images are attacked (PGD-10). The false positive score of a class t is the sum over the
    other classes y of the share of y that is taken for t. In the epoch the attack on an image of class y descends the
    cross-entropy of a target t != y, drawn with probability score_t / sum of the others' scores; evenly if those are all 0.

    Written after the abstract and reviews: there is no released code, the form of the draw is ours, and class radii are left
    out. No class is weighed; the weights shown are how often a class is the target in the batch, on average.
    """

    needs: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.state: State = {}  # chances [C, C] of the target, rows by label

    def begin_epoch(self, measure: Measure) -> None:
        """Attack the training images, and turn the false positive scores into chances."""
        counts = measure.training_confusion(_STEPS).double()  # [predicted, true]
        shares = counts / counts.sum(0).clamp(min=1)
        self.state["chances"] = target_chances((shares - torch.diag(shares.diagonal())).sum(1))

    def plan_attack(self, batch: AttackedBatch) -> AttackPlan:
        """Draw a target for each sample; leave radius and step as they are."""
        one = torch.ones(len(batch.labels), device=batch.labels.device)
        below = self.state["chances"].cumsum(1)[batch.labels]  # [B, C]
        reached = batch.draw().double()[:, None] >= below / below[:, -1:]
        return AttackPlan(one, one, reached.sum(1))

    def weigh(self, stats: ClassStats, terms: tuple[str, ...], tau: float) -> Weighing:
        """Return the chances of the targets for display, and weigh no class."""
        aimed = (stats.count.double() / stats.count.sum().clamp(min=1)) @ self.state["chances"]
        weights, spent = fixed(aimed)
        return Weighing(weights, {}, spent)


def target_chances(scores: torch.Tensor) -> torch.Tensor:
    """Return the probabilities [C, C] of the targets, rows by label, for false positive scores [C]; the diagonal is 0."""
    others = 1 - torch.eye(len(scores), dtype=scores.dtype, device=scores.device)
    raw = others * scores
    total = raw.sum(1, keepdim=True)
    return torch.where(total > 0, raw / total.clamp(min=1e-12), others / (len(scores) - 1))
