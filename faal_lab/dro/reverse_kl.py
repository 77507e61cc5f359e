"""Solve KL(w || reference) <= tau, the classical entropic ball: FAAL's the other way round.

The worst case is a softmax, `w = u exp(score / T)`, normalised. Its divergence rises with 1 / T up to log(1 / m), m the
reference's mass on the hardest classes. Beyond that radius all weight is there and easy classes are switched off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from faal_lab.catalogue import ANY_RADIUS, PRICES
from faal_lab.dro.base import (
    Posed,
    WorstCase,
    check_radius,
    falling_root,
    pose,
    proportional,
    settle,
    settle_priced,
    within_reference,
)


@dataclass(frozen=True)
class ReverseKLBall:
    """All w with KL(w || reference) <= radius. A class that the reference does not hold stays without weight."""

    radius: float = 0.5
    limits: ClassVar[tuple[float, float]] = ANY_RADIUS

    def __post_init__(self) -> None:
        check_radius(self.radius, "tau, the radius of the reverse KL ball,")

    def worst_case(
        self,
        scores: torch.Tensor,
        radius: torch.Tensor | float | None = None,
        reference: torch.Tensor | None = None,
        present: torch.Tensor | None = None,
        check: bool | None = None,
    ) -> WorstCase:
        """See `AmbiguitySet.worst_case`; `dual` is the temperature."""
        posed = within_reference(pose(scores, self.radius if radius is None else radius, reference, present, check))
        tau = posed.radius.clamp(min=1e-300)
        corner = proportional(posed.top, posed.reference)
        most = -torch.log(torch.where(posed.top, posed.reference, 0.0).sum(-1))

        def curve(s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            weights, spent = tilted(torch.exp(s), posed)
            mean = (weights * posed.gaps).sum(-1, keepdim=True)
            slope = torch.exp(2 * s) * (weights * (posed.gaps - mean) ** 2).sum(-1)
            return torch.log(tau) - torch.log(spent.clamp(min=1e-300)), -slope / spent

        smallest = torch.where(posed.top, 1.0, posed.gaps).amin(-1)  # the bracket ends where the second class is at exp(-700)
        low = 0.5 * torch.log(8 * tau).clamp(max=700)  # Hoeffding: the temperature is at most range / sqrt(8 tau)
        high = torch.maximum(low, torch.log(700 / smallest.clamp(min=1e-300)))
        s = falling_root(curve, low, high, low)
        weights, spent = tilted(torch.exp(s), posed)
        vertex = posed.radius >= most
        weights = torch.where(vertex[..., None], corner, weights)
        nominal = posed.radius <= 0
        dual = torch.where(nominal, torch.inf, torch.where(vertex, 0.0, torch.exp(-s)))
        return settle(posed, weights, torch.where(vertex, most, spent), dual, nominal=nominal)


@dataclass(frozen=True)
class ReverseKLPenalty:
    """Maximise sum(w * scores) - price * KL(w || reference): a softmax of temperature `price`, Hedge's one-shot form.

    `value` is that maximum, `dual` its derivative by the price, minus the divergence. An infinite price is the reference.
    """

    radius: float = 1.0
    limits: ClassVar[tuple[float, float]] = PRICES

    def __post_init__(self) -> None:
        check_radius(self.radius, "the price of the reverse KL penalty", self.limits)

    def worst_case(
        self,
        scores: torch.Tensor,
        radius: torch.Tensor | float | None = None,
        reference: torch.Tensor | None = None,
        present: torch.Tensor | None = None,
        check: bool | None = None,
    ) -> WorstCase:
        """See `AmbiguitySet.worst_case`; the price plays the part of the radius."""
        price = self.radius if radius is None else radius
        posed = within_reference(pose(scores, price, reference, present, check, self.limits))
        weights, spent = tilted(posed.spread / posed.radius, posed)
        return settle_priced(posed, weights, spent)


def tilted(sharpness: torch.Tensor, posed: Posed) -> tuple[torch.Tensor, torch.Tensor]:
    """u exp(-sharpness * gap), normalised, and its KL from u in the form that keeps its digits for both small and large ones."""
    u = posed.reference
    x = -sharpness.clamp(max=1e300)[..., None] * posed.gaps
    raw = u * torch.exp(x)
    total = raw.sum(-1, keepdim=True)
    weights = raw / total
    far = (weights * x).sum(-1) - torch.log(total.squeeze(-1))
    y = x - (u * x).sum(-1, keepdim=True)  # E y = 0
    grown = torch.expm1(y.clamp(max=1.0))
    lift = (u * grown).sum(-1)
    close = (u * y * grown).sum(-1) / (1 + lift) - torch.log1p(lift)
    return weights, torch.where(sharpness < 0.5, close, far)
