"""Constrain the clean and the boundary error of each class (FRL)."""

from __future__ import annotations

import torch

from faal_lab.dro.base import check_radius
from faal_lab.methods.class_stats import ClassStats
from faal_lab.methods.fairness.base import AttackedBatch, AttackPlan, Measure, State, Weighing, fixed, uniform_over

_STEPS, _HALVED_EVERY = 20, 40  # PGD steps on validation images; epochs after which the rate is halved
_FLOOR, _CAP = 0.98, 3.0  # of the radius, in multiples of epsilon


class FRL:
    """Limits on how far each class's errors exceed the average (Xu et al., ICML 2021, eqs. 4 to 7).
    Neither the clean nor the boundary error may exceed it by more than `slack`.

    Before each epoch both errors are measured on validation images (PGD-20).
    - `reweight`: multipliers of violated constraints grow by `rate` times the excess, are cut at 0 and scaled to sum to at most
      `limit`. They weigh TRADES' clean and robust terms, each normalised inside the batch.
    - `remargin`: the radius of a class is exp(2 psi) * epsilon, between 0.98 and 3 epsilon. psi sums up `margin_rate` times the
      boundary excess of the class.

    Rate 0 is plain training, up to rounding. `variant="release"` steps the boundary multipliers twice as far, and gives all
    samples the step of the largest radius in the batch. It halves the rate one update earlier, before that of the 40th epoch.
    Its errors are those of the last iterate, and their average is over images, not classes.
    """

    needs: tuple[str, ...] = ()

    def __init__(
        self, reweight: bool = True, remargin: bool = True, slack: float = 0.07, rate: float = 0.05,
        margin_rate: float | None = None, limit: float = 0.5, variant: str = "paper",
    ) -> None:  # fmt: skip
        check_radius(rate, "rate, the step of FRL's multipliers,")
        self.reweight, self.remargin, self.slack, self.rate, self.limit = reweight, remargin, slack, rate, limit
        self.margin_rate = 4 * rate if margin_rate is None else margin_rate  # 0.2 beside 0.05 in the release
        self.variant = variant
        self.state: State = {}

    def begin_epoch(self, measure: Measure) -> None:
        """Measure the violations, and step the multipliers of both constraints."""
        released = self.variant == "release"
        clean, robust = measure.validation_errors(_STEPS, last=True) if released else measure.validation_errors(_STEPS)
        clean, boundary = clean.double(), (robust - clean).double()
        share = measure.validation_counts()[0].double() if released else torch.ones_like(clean)
        zero = torch.zeros_like(clean)
        epochs = self.state.get("epochs", torch.zeros((), dtype=torch.int64))
        rate = self.rate * 0.5 ** ((int(epochs) + released) // _HALVED_EVERY)  # epochs counts from 0, the release from 1
        averages = [(share * error).sum() / share.sum() if released else error.mean() for error in (clean, boundary)]
        over_clean, over_boundary = clean - averages[0] - self.slack, boundary - averages[1] - self.slack
        twice = 2.0 if released else 1.0
        new: State = {"epochs": epochs + 1}
        if self.reweight:
            new["clean"] = self._projected(self.state.get("clean", zero) + rate * over_clean)
            new["boundary"] = self._projected(self.state.get("boundary", zero) + twice * rate * over_boundary)
        if self.remargin:
            new["psi"] = self.state.get("psi", zero) + self.margin_rate * over_boundary
        self.state.update(new)

    def _projected(self, multipliers: torch.Tensor) -> torch.Tensor:
        """Cut at 0, then scale to a sum of `limit` if the sum is larger."""
        positive = multipliers.clamp(min=0)
        return positive * (self.limit / positive.sum().clamp(min=self.limit))

    def plan_attack(self, batch: AttackedBatch) -> AttackPlan:
        """Grow the radius with the boundary error of the class; the step keeps its share of the radius."""
        psi = self.state.get("psi", torch.zeros(batch.num_classes, device=batch.labels.device))
        radius = torch.exp(2 * psi).clamp(_FLOOR, _CAP).float()[batch.labels]
        return AttackPlan(radius, radius if self.variant == "paper" else radius.amax().expand_as(radius))

    def weigh(self, stats: ClassStats, terms: tuple[str, ...], tau: float) -> Weighing:
        """Return weights 1/C + multiplier - mean multiplier for the clean and the robust term."""
        if not self.reweight:
            weights = uniform_over(stats.present)
            return Weighing(weights, {}, torch.zeros((), dtype=torch.float64, device=weights.device))
        count = stats.count.double()
        found = {}
        for term, name in (("clean", "clean"), ("robust", "boundary")):
            phi = self.state.get(name, torch.zeros_like(count))
            found[term] = 1 / len(phi) + phi - phi.mean()
        multipliers = {term: share * count.sum() / (share * count).sum() for term, share in found.items()}
        return Weighing(found["robust"], multipliers, fixed(found["robust"])[1])
