"""Hellinger: half the squared differences of square roots sum to at most rho. Between the two KLs in temper.

Knows: the closed form of the worst case. Must not know: where the scores come from.

The worst case is `w = u / (eps + d)^2`, normalised, with d the gaps and eps the root of
E_u[1/a]^2 / E_u[1/a^2] = (1 - rho)^2, a = eps + d.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from faal_lab.ambiguity.pose import pose, proportional, settle
from faal_lab.ambiguity.root import falling_root
from faal_lab.ambiguity.worst_case import WorstCase, check_radius


@dataclass(frozen=True)
class HellingerBall:
    """All w with sum((sqrt(w) - sqrt(u))^2) / 2 <= radius, in [0, 1].

    Weights stay positive until, at the radius 1 - sqrt(m) with m the reference's mass on the hardest classes, all of it is there.
    The reference must be positive: a class it does not hold could be bought, and is refused instead.
    """

    radius: float = 0.1
    limits: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __post_init__(self) -> None:
        check_radius(self.radius, "rho, the radius of the Hellinger ball,", self.limits)

    def worst_case(
        self,
        scores: torch.Tensor,
        radius: torch.Tensor | float | None = None,
        reference: torch.Tensor | None = None,
        present: torch.Tensor | None = None,
        check: bool | None = None,
    ) -> WorstCase:
        """See `AmbiguitySet.worst_case`."""
        posed = pose(scores, self.radius if radius is None else radius, reference, present, check, self.limits, positive=True)
        u, rho = posed.reference, posed.radius.clamp(min=1e-300, max=1 - 1e-16)
        target = torch.log(torch.expm1(-2 * torch.log1p(-rho)))

        def variation(s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            """E[q]; v, the squared coefficient of variation of q = eps / (eps + d); and dv / ds."""
            eps = torch.exp(s)[..., None]
            q = eps / (eps + posed.gaps)
            near = (u * q).sum(-1)
            off = q - near[..., None]
            rise = q * (1 - q) / near[..., None]
            v = (u * (off / near[..., None]) ** 2).sum(-1)
            return near, v, 2 * ((u * off * rise).sum(-1) / near - v * (u * rise).sum(-1))

        def curve(s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            _, v, slope = variation(s)
            v = v.clamp(min=1e-300)
            return torch.log(v) - target, slope / v

        low, high = torch.full_like(rho, -700.0), (0.5 * torch.log(1 / rho)).clamp(min=0.0) + 1
        s = falling_root(curve, low, high, torch.zeros_like(rho))
        v = variation(s)[1]
        eps = torch.exp(s)[..., None]
        raw = u * (eps / (eps + posed.gaps)) ** 2
        mass = torch.where(posed.top, u, 0.0).sum(-1)
        most = 1 - torch.sqrt(mass)
        vertex = posed.radius >= most
        weights = torch.where(vertex[..., None], proportional(posed.top, u), raw / raw.sum(-1, keepdim=True))
        # stationarity: score - eta + lambda sqrt(u / w) / 2 = 0
        dual = 2 * torch.exp(s) * torch.sqrt(raw.sum(-1)) / raw.sum(-1)
        nominal = posed.radius <= 0
        dual = torch.where(nominal, torch.inf, torch.where(vertex, 0.0, dual))
        return settle(posed, weights, torch.where(vertex, most, -torch.expm1(-0.5 * torch.log1p(v))), dual, nominal=nominal)
