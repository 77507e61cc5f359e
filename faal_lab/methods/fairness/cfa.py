"""Set the radius and the regularisation of each class by its robust accuracy (CFA)."""

from __future__ import annotations

import torch

from faal_lab.methods.class_stats import ClassStats
from faal_lab.methods.fairness.base import AttackedBatch, AttackPlan, State, Weighing, fixed, uniform_over

_TRADES_SHARE, _SHARE = 0.3, 0.5  # lambda_1 with TRADES and without; lambda_2 is always 0.5


class CFA:
    """Customised margin and regularisation by class (Wei et al., CVPR 2023, eqs. 7 to 9).

    With t a class's robust accuracy on the training attacks of the last epoch:
    - `margin`: radius (strength + t) * epsilon, with the step unchanged.
    - `regularise`, for TRADES: beta_c = (0.5 + t) * beta, loss (clean + beta_c * divergence) / (1 + beta_c).

    So hard classes are attacked less, unlike in FRL and DAFA. Both factors are 1 until the first epoch has ended. With all
    factors 1 the TRADES loss is scaled by 1 / (1 + beta), for the baseline too, as in the authors' code. The weight
    averaging of the paper is `averaging=fawa`.
    """

    needs: tuple[str, ...] = ("error",)

    def __init__(
        self,
        margin: bool = True,
        regularise: bool = True,
        strength: float | None = None,
        regular_strength: float = _SHARE,
        objective: str = "trades",
        beta: float = 6.0,
        variant: str = "paper",
    ) -> None:
        self.margin, self.regularise = margin, regularise and objective == "trades"
        own = _TRADES_SHARE if objective == "trades" and variant == "paper" else _SHARE
        self.strength = strength if strength is not None else own
        self.regular_strength, self.beta = regular_strength, beta
        self.state: State = {}

    def end_epoch(self, epoch: ClassStats, measure: object) -> None:
        """Keep each class's robust accuracy in the epoch; a class that was not seen counts as average."""
        accuracy = 1 - epoch.mean("error").double()
        mean = accuracy[epoch.present].mean()
        self.state["accuracy"] = torch.where(epoch.present, accuracy, mean)

    def plan_attack(self, batch: AttackedBatch) -> AttackPlan:
        """Scale the radius by the accuracy of the class; leave the step as it is."""
        one = torch.ones(len(batch.labels), device=batch.labels.device)
        if not (self.margin and "accuracy" in self.state):
            return AttackPlan(one, one)
        return AttackPlan((self.strength + self.state["accuracy"]).float()[batch.labels], one)

    def weigh(self, stats: ClassStats, terms: tuple[str, ...], tau: float) -> Weighing:
        """Return multipliers that make the loss (clean + beta_c * divergence) / (1 + beta_c).

        TRADES' robust term already holds beta.
        """
        if not self.regularise:
            weights = uniform_over(stats.present)
            return Weighing(weights, {}, torch.zeros((), dtype=torch.float64, device=weights.device))
        factor = torch.ones_like(stats.count, dtype=torch.float64)
        if "accuracy" in self.state:
            factor = self.regular_strength + self.state["accuracy"]
        scale = 1 / (1 + factor * self.beta)
        weights, spent = fixed(factor * scale)
        return Weighing(weights, {"clean": scale, "robust": factor * scale}, spent)
