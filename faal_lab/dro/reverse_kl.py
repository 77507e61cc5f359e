"""Solve KL(w || reference) <= tau, the classical entropic ball: FAAL's with the arguments swapped.

    w_c = u_c * exp(score_c / T), normalised: a softmax

The divergence of w rises with 1 / T up to log(1 / m), with m the reference's mass on the hardest classes. Beyond that radius
all weight is on these, and easy classes get none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from faal_lab.catalogue import PRICES
from faal_lab.dro import floats
from faal_lab.dro.base import (
    Ball,
    Posed,
    WorstCase,
    falling_root,
    proportional,
    settle,
    settle_priced,
)


@dataclass(frozen=True)
class ReverseKLBall(Ball):
    """All w with KL(w || reference) <= radius.
    A class without reference mass gets no weight.

    Args:
        radius: tau, at least 0 (default 0.5).

    Raises:
        TypeError: the radius is no number.
        ValueError: the radius is negative or NaN.

    >>> import torch
    >>> from faal_lab.dro import ReverseKLBall
    >>> ReverseKLBall(0.5).worst_case(torch.tensor([0.1, 0.2, 0.3, 0.9])).weights
    tensor([0.0665, 0.0896, 0.1208, 0.7230], dtype=torch.float64)
    """

    radius: float = 0.5
    kernel: ClassVar[str] = "reverse-kl"
    _plain: ClassVar[floats.Plain | None] = floats.reverse_kl
    named: ClassVar[str] = "tau, the radius of the reverse KL ball,"
    inside: ClassVar[bool] = True

    def _solve(self, posed: Posed) -> WorstCase:
        # `dual` is the temperature.
        tau = posed.radius.clamp(min=1e-300)
        corner = proportional(posed.top, posed.reference)
        most = -torch.log(torch.where(posed.top, posed.reference, 0.0).sum(-1))

        def curve(s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            weights, spent = tilted(torch.exp(s), posed)
            mean = (weights * posed.gaps).sum(-1, keepdim=True)
            slope = torch.exp(2 * s) * (weights * (posed.gaps - mean) ** 2).sum(-1)
            return torch.log(tau) - torch.log(spent.clamp(min=1e-300)), -slope / spent

        smallest = torch.where(posed.top, 1.0, posed.gaps).amin(-1)  # at the end of the bracket, the second class is at exp(-700)
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
class ReverseKLPenalty(Ball):
    """Maximise sum(w * scores) - price * KL(w || reference) over the simplex.
    The answer is a softmax of temperature `price`, Hedge's one-shot form.

    An infinite price returns the reference. `value` is the maximum, and `dual` is its derivative by the price, -divergence.

    Args:
        radius: the price, above 0 (default 1), in the units of the scores.

    Raises:
        TypeError: the price is no number.
        ValueError: the price is 0, negative or NaN.

    >>> import torch
    >>> from faal_lab.dro import ReverseKLPenalty
    >>> ReverseKLPenalty(1.0).worst_case(torch.tensor([0.1, 0.2, 0.3, 0.9])).weights
    tensor([0.1801, 0.1991, 0.2200, 0.4008], dtype=torch.float64)
    """

    radius: float = 1.0
    limits: ClassVar[tuple[float, float]] = PRICES
    named: ClassVar[str] = "the price of the reverse KL penalty"
    _plain: ClassVar[floats.Plain | None] = floats.reverse_kl_penalty
    inside: ClassVar[bool] = True

    def _solve(self, posed: Posed) -> WorstCase:
        # `radius` is the price.
        weights, spent = tilted(posed.spread / posed.radius, posed)
        return settle_priced(posed, weights, spent)


def tilted(sharpness: torch.Tensor, posed: Posed) -> tuple[torch.Tensor, torch.Tensor]:
    """Return u exp(-sharpness * gap), normalised, and its KL divergence from u.

    The form of the divergence keeps its digits for small and for large values.
    """
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
