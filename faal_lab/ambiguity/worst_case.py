"""What every ambiguity set promises.

Knows: the question and the shape of the answer. Must not know: any particular set, or how one is solved.
"""

from __future__ import annotations

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
