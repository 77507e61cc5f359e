"""Define what every ambiguity set promises, and what their solvers share: the problem's pose and a root finder."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, NamedTuple, Protocol

import torch

from faal_lab.catalogue import ANY_RADIUS


class WorstCase(NamedTuple):
    """The answer of a set: float64 tensors on the device of the scores, detached."""

    weights: torch.Tensor  # [..., C] on the simplex, 0 for absent classes
    value: torch.Tensor  # [...] the maximum: sum of weights * scores, less the price paid in a penalised form
    divergence: torch.Tensor  # [...] how far from the reference the weights are, in the set's own measure
    dual: torch.Tensor  # [...] d value / d radius (what a little more radius is worth)


class AmbiguitySet(Protocol):
    """A set of class distributions around a reference; see `KLBall` for the one FAAL uses."""

    limits: ClassVar[tuple[float, float]]  # smallest and largest radius that has a meaning

    @property
    def radius(self) -> float:
        """How far from the reference the set reaches, in its own measure."""
        ...

    def worst_case(
        self,
        scores: torch.Tensor,
        radius: torch.Tensor | float | None = None,
        reference: torch.Tensor | None = None,
        present: torch.Tensor | None = None,
        check: bool | None = None,
    ) -> WorstCase:
        """Maximise sum(w * scores) over the set, for each row of `scores` [..., C].

        `radius` overrides the set's own: a number, a 0-dim tensor (so that turning it recompiles nothing) or [...].
        `reference` [..., C] lies on the simplex and is uniform by default. `present` [..., C] takes classes out of the
        problem. `check` validates values, which waits for the device: by default done on a CPU only; elsewhere NaN
        propagates. Float64 inside whatever comes in; nothing is differentiated.
        """
        ...


def check_radius(radius: float, name: str, limits: tuple[float, float] = ANY_RADIUS) -> None:
    """Refuse a radius that is not a number inside `limits` (infinity is allowed: all that the set can reach)."""
    if isinstance(radius, bool) or not isinstance(radius, (int, float)):
        raise TypeError(f"{name} must be a number, got {radius!r} ({type(radius).__name__}).")
    if not limits[0] <= radius <= limits[1]:  # also catches NaN
        hint = " (0 is plain averaging over classes)" if limits[0] == 0 else ""
        raise ValueError(f"{name} must be {said(limits)}{hint}, got {radius}.")


def said(limits: tuple[float, float]) -> str:
    """Limits in words."""
    low, high = limits
    return f"at least {low:g}" if high == float("inf") else f"between {low:g} and {high:g}"


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


# At most so many looks at the curve. On a CPU the loop ends when every row has settled, after 3 to 9 as a rule. Where nobody may
# wait for the device a fixed number is made; a test holds that it is enough for hard problems.
_ROUNDS, _ROUNDS_BLIND = 64, 24
_CLOSE = 1e-9  # Newton doubles the digits: a step of this size lands on the last one


def falling_root(
    curve: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    low: torch.Tensor,
    high: torch.Tensor,
    start: torch.Tensor,
) -> torch.Tensor:
    """The s in [low, high] where `curve` (value and slope at s, all [...]) falls through 0.

    Newton's step where it stays inside the bracket, which every look narrows; the middle of the bracket where it does not.
    """
    s, eager = torch.clamp(start, low, high), eager_on_cpu(start)
    for _ in range(_ROUNDS if eager else _ROUNDS_BLIND):
        value, slope = curve(s)
        low, high = torch.where(value > 0, s, low), torch.where(value > 0, high, s)
        moved = s - value / slope
        inside = (moved >= low) & (moved <= high)  # false for NaN
        settled = (inside & ((moved - s).abs() <= _CLOSE)) | (high - low <= 1e-14)
        s = torch.where(inside, moved, (low + high) / 2)
        if eager and bool(settled.all()):
            break
    return s
