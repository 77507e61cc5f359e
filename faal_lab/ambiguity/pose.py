"""From what a caller gives to what a solver reads, and back to an answer.

Knows: shapes, bad input, what holds for every set. Must not know: any particular set.

A solver sees gaps instead of scores: 0 for the hardest class, 1 for the easiest. Weights do not depend on a shift or a positive
scale of the scores, so nothing is lost, and scores of 1e-12 and of 1e12 are the same problem.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from faal_lab.ambiguity.worst_case import WorstCase, said
from faal_lab.catalogue import ANY_RADIUS

_FLAT = 1e-12  # a range of scores below this, relative to their size, is rounding noise: all equal


class Posed(NamedTuple):
    """One checked problem a row, all float64: the reference is 0 on absent classes and sums to 1."""

    scores: torch.Tensor  # [..., C], 0 on absent classes
    reference: torch.Tensor  # [..., C]
    radius: torch.Tensor  # [...]
    present: torch.Tensor  # [..., C] bool
    gaps: torch.Tensor  # [..., C] (largest - score) / spread in [0, 1]; 1 on absent classes
    spread: torch.Tensor  # [...] range of the scores; 1 where they are all equal
    flat: torch.Tensor  # [...] bool: all scores equal, so every distribution is as bad

    @property
    def top(self) -> torch.Tensor:
        """The hardest classes: bool [..., C]."""
        return self.present & (self.gaps == 0)


def pose(
    scores: torch.Tensor,
    radius: torch.Tensor | float,
    reference: torch.Tensor | None,
    present: torch.Tensor | None,
    check: bool | None,
    limits: tuple[float, float] = ANY_RADIUS,
    *,
    positive: bool = False,
) -> Posed:
    """Check (see `AmbiguitySet.worst_case`) and normalise. Raises ValueError that names the argument.

    `positive` refuses a reference that holds nothing of a class present.
    """
    scores = scores.detach().to(torch.float64)
    if scores.ndim == 0 or scores.shape[-1] == 0:
        raise ValueError(f"scores must have a last dimension of at least one class, got shape {tuple(scores.shape)}.")
    classes = scores.shape[-1]
    uniform = torch.full((classes,), 1.0 / classes, dtype=torch.float64, device=scores.device)
    given = uniform if reference is None else reference.detach().to(scores.device, torch.float64)
    bound = torch.as_tensor(radius, dtype=torch.float64, device=scores.device)
    mask = torch.ones(classes, dtype=torch.bool, device=scores.device) if present is None else present
    _check_shapes(scores, given, mask)
    if check if check is not None else eager_on_cpu(scores):
        _check_values(scores, given, bound, mask, limits, positive)
    given, mask = given.expand(scores.shape), mask.expand(scores.shape)
    if present is not None:
        mask = mask | ~mask.any(dim=-1, keepdim=True)  # nobody present: answer as if all were
        given = torch.where(mask, given, 0.0)
        given = given / given.sum(dim=-1, keepdim=True)
    top = torch.where(mask, scores, -torch.inf).amax(-1, keepdim=True)
    bottom = torch.where(mask, scores, torch.inf).amin(-1, keepdim=True)
    spread = top - bottom
    flat = spread <= _FLAT * torch.maximum(top.abs(), bottom.abs())
    spread = torch.where(flat, 1.0, spread)
    gaps = torch.where(mask, (top - scores) / spread, 1.0)
    return Posed(
        torch.where(mask, scores, 0.0), given, bound.expand(scores.shape[:-1]), mask, gaps, spread.squeeze(-1), flat.squeeze(-1)
    )


def settle(
    posed: Posed, weights: torch.Tensor, divergence: torch.Tensor, dual: torch.Tensor, *, nominal: torch.Tensor | None = None
) -> WorstCase:
    """The answer in the units of the scores; the reference itself where scores are equal or `nominal` says so.

    `dual` [...] is in units of the spread.
    """
    still = posed.flat if nominal is None else posed.flat | nominal
    weights = torch.where(still[..., None], posed.reference, weights)
    value = (weights * posed.scores).sum(-1)
    return WorstCase(weights, value, torch.where(still, 0.0, divergence), torch.where(posed.flat, 0.0, dual * posed.spread))


def settle_priced(posed: Posed, weights: torch.Tensor, divergence: torch.Tensor) -> WorstCase:
    """The answer of a penalised form: the radius is a price, paid for the divergence; at an infinite price, the reference."""
    found = settle(posed, weights, divergence, -divergence, nominal=torch.isinf(posed.radius))
    paid = torch.where(found.divergence > 0, posed.radius * found.divergence, 0.0)
    return WorstCase(found.weights, found.value - paid, found.divergence, -found.divergence)


def within_reference(posed: Posed) -> Posed:
    """The problem over the classes that the reference holds, for measures that make all others infinitely dear."""
    held = posed.present & (posed.reference > 0)
    top = torch.where(held, posed.gaps, torch.inf).amin(-1, keepdim=True)
    length = torch.where(held, posed.gaps, 0.0).amax(-1, keepdim=True) - top
    flat = posed.flat | (length <= 1e-12).squeeze(-1)
    length = torch.where(flat[..., None], 1.0, length)
    gaps = torch.where(held, (posed.gaps - top) / length, 1.0)
    return posed._replace(present=held, gaps=gaps, spread=posed.spread * length.squeeze(-1), flat=flat)


def eager_on_cpu(values: torch.Tensor) -> bool:
    """Whether looking at a value costs nothing here: not on a GPU, which would have to be waited for, and not while compiling."""
    return values.device.type == "cpu" and not torch.compiler.is_compiling()


def proportional(mask: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """The reference restricted to `mask` [..., C] and normalised; equal shares where it has no mass there."""
    inside = torch.where(mask, reference, 0.0)
    inside = torch.where(inside.sum(-1, keepdim=True) > 0, inside, mask.to(reference.dtype))
    return inside / inside.sum(-1, keepdim=True)


def _check_shapes(scores: torch.Tensor, reference: torch.Tensor, present: torch.Tensor) -> None:
    classes = scores.shape[-1]
    if reference.shape[-1:] != scores.shape[-1:]:
        raise ValueError(f"reference has {reference.shape[-1] if reference.ndim else 0} classes, scores have {classes}.")
    if present.dtype != torch.bool or present.shape[-1:] != scores.shape[-1:]:
        raise ValueError(f"present must be a bool mask over {classes} classes, got {present.dtype} {tuple(present.shape)}.")


def _check_values(
    scores: torch.Tensor,
    reference: torch.Tensor,
    radius: torch.Tensor,
    present: torch.Tensor,
    limits: tuple[float, float],
    positive: bool,
) -> None:
    if not bool(torch.isfinite(scores[present.expand(scores.shape)]).all()):
        raise ValueError(f"scores must be finite, got {_few(scores)}.")
    if not bool(((radius >= limits[0]) & (radius <= limits[1])).all()):
        raise ValueError(f"radius must be {said(limits)}, got {_few(radius)}.")
    if not bool((reference >= 0).all()) or not bool(((reference.sum(-1) - 1).abs() < 1e-6).all()):
        raise ValueError(f"reference must have no negative entry and sum to 1, got {_few(reference)}.")
    if positive and not bool((torch.where(present, reference, 1.0) > 0).all()):
        raise ValueError(f"reference must be positive in every class present for this set, got {_few(reference)}.")
    if not bool((torch.where(present, reference, 0.0).sum(-1) > 0).all()) and bool(present.any(-1).all()):
        raise ValueError(f"reference has no mass on the classes present, got {_few(reference)}.")


def _few(values: torch.Tensor) -> str:
    shown = ", ".join(f"{v:g}" for v in values.flatten()[:12].tolist())
    return f"[{shown}{', ...' if values.numel() > 12 else ''}]" if values.ndim else shown
