"""Set the radius of each class by its robust accuracy, and its regularisation (CFA); or by its size (RobustLT)."""

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

    `variant="release"` scales the TRADES loss with the margin alone, too. Its accuracy of a class is C times the correct
    images of the class over all images, which is the accuracy where classes are balanced.
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
        self.released = variant == "release"
        self._scales = self.regularise or (self.released and objective == "trades")
        self.state: State = {}

    def end_epoch(self, epoch: ClassStats, measure: object) -> None:
        """Keep each class's robust accuracy in the epoch; a class that was not seen counts as average."""
        if self.released:  # a class that was not seen has accuracy 0, a class of twice its share up to 2
            correct = (epoch.count - epoch.sums["error"]).double()
            self.state["accuracy"] = len(correct) * correct / epoch.count.sum()
            return
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
        if not self._scales:
            weights = uniform_over(stats.present)
            return Weighing(weights, {}, torch.zeros((), dtype=torch.float64, device=weights.device))
        factor = torch.ones_like(stats.count, dtype=torch.float64)
        if self.regularise and "accuracy" in self.state:
            factor = self.regular_strength + self.state["accuracy"]
        scale = 1 / (1 + factor * self.beta)
        weights, spent = fixed(factor * scale)
        return Weighing(weights, {"clean": scale, "robust": factor * scale}, spent)


class RobustLT:
    """Larger radii for smaller classes, and radii that rise from 0 (RobustLT: Zhang et al., CVPR 2026).

    A class of n_c training images, n_max in the largest class, is attacked at epsilon times 1 - strength + t * s_c, with s_c =
    sqrt(log(n_max / n_c)). t makes the mean over training images 1. The step follows. In an epoch with progress p of the run
    all radii and steps are multiplied by min(1, p / warm_up), so the first epoch is not attacked.

    Between balanced classes every multiplier is 1, where the authors' code divides 0 by 0; the rise stays. Strength 0 leaves
    the rise, and `warm_up=0` the multipliers.
    """

    needs: tuple[str, ...] = ()

    def __init__(self, strength: float = 0.3, warm_up: float = 0.8) -> None:
        for name, value in (("strength, RobustLT's alpha,", strength), ("warm_up, RobustLT's beta,", warm_up)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {value}.")
        self.strength, self.warm_up = strength, warm_up
        self.state: State = {}

    def plan_attack(self, batch: AttackedBatch) -> AttackPlan:
        """Scale radius and step by the size of the class and by the progress of the run."""
        risen = min(1.0, batch.progress / self.warm_up) if self.warm_up else 1.0
        scale = (risen * size_multipliers(batch.class_sizes, self.strength)).float()[batch.labels]
        return AttackPlan(scale, scale)

    def weigh(self, stats: ClassStats, terms: tuple[str, ...], tau: float) -> Weighing:
        """Return uniform weights over the classes present."""
        weights = uniform_over(stats.present)
        return Weighing(weights, {}, torch.zeros((), dtype=torch.float64, device=weights.device))


def size_multipliers(sizes: torch.Tensor, strength: float) -> torch.Tensor:
    """Return RobustLT's multipliers of the radius [C] for classes of `sizes` [C] images; their mean over images is 1."""
    count = sizes.double()
    spread = (count.max() / count.clamp(min=1)).log().sqrt()  # a class without images has a multiplier, and nobody asks for it
    mean = (count * spread).sum() / count.sum()
    return torch.where(mean > 0, 1 - strength + strength * spread / mean.clamp(min=1e-12), 1.0)
