"""What every ambiguity set promises, and the checks they share.

Knows: shapes, the simplex, what counts as bad input. Must not know: any particular set.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch


class WorstCase(NamedTuple):
    """The answer of a set: float64 tensors on the device of the scores, detached."""

    weights: torch.Tensor  # [..., C] on the simplex, 0 for absent classes
    value: torch.Tensor  # [...] the worst expected score, sum of weights * scores
    divergence: torch.Tensor  # [...] what was spent of the radius
    dual: torch.Tensor  # [...] d value / d radius


class AmbiguitySet(Protocol):
    """A set of class distributions around a reference; see `KLBall` for the one FAAL uses."""

    @property
    def radius(self) -> float:
        """How far from the reference the set reaches, in its own divergence."""
        ...

    def worst_case(
        self,
        scores: torch.Tensor,
        radius: torch.Tensor | float | None = None,
        reference: torch.Tensor | None = None,
        present: torch.Tensor | None = None,
        check: bool | None = None,
    ) -> WorstCase:
        """Maximise sum(w * scores) over the set, for each row of `scores` [..., C]."""
        ...


class Problem(NamedTuple):
    """Checked input of a solver, all float64: the reference is 0 on absent classes and sums to 1."""

    scores: torch.Tensor  # [..., C]
    reference: torch.Tensor  # [..., C]
    radius: torch.Tensor  # [...]


def check_radius(radius: float, name: str) -> None:
    """Refuse a radius that is not a number of at least 0 (infinity is allowed: the whole simplex)."""
    if isinstance(radius, bool) or not isinstance(radius, (int, float)):
        raise TypeError(f"{name} must be a number, got {radius!r} ({type(radius).__name__}).")
    if not radius >= 0:  # also catches NaN
        raise ValueError(f"{name} must be at least 0 (0 is plain averaging over classes), got {radius}.")


def pose(
    scores: torch.Tensor,
    radius: torch.Tensor | float,
    reference: torch.Tensor | None,
    present: torch.Tensor | None,
    check: bool | None,
) -> Problem:
    """Bring a problem into the form every solver reads.

    `check` reads values and so waits for the device: by default it is done on a CPU only; elsewhere NaN propagates.
    Raises ValueError that names the argument.
    """
    scores = scores.detach().to(torch.float64)
    if scores.ndim == 0 or scores.shape[-1] == 0:
        raise ValueError(f"scores must have a last dimension of at least one class, got shape {tuple(scores.shape)}.")
    classes = scores.shape[-1]
    uniform = torch.full((classes,), 1.0 / classes, dtype=torch.float64, device=scores.device)
    given = uniform if reference is None else reference.detach().to(scores.device, torch.float64)
    tau = torch.as_tensor(radius, dtype=torch.float64, device=scores.device)
    if check if check is not None else scores.device.type == "cpu":
        _check_values(scores, given, tau, present)
    given = given.expand(scores.shape)
    if present is not None:
        mask = present.expand(scores.shape)
        mask = mask | ~mask.any(dim=-1, keepdim=True)  # nobody present: answer as if all were
        given = torch.where(mask, given, 0.0)
        given = given / given.sum(dim=-1, keepdim=True)
    return Problem(scores, given, tau.expand(scores.shape[:-1]))


def _check_values(scores: torch.Tensor, reference: torch.Tensor, radius: torch.Tensor, present: torch.Tensor | None) -> None:
    if reference.shape[-1:] != scores.shape[-1:]:
        raise ValueError(f"reference has {reference.shape[-1]} classes, scores have {scores.shape[-1]}.")
    if present is not None and (present.dtype != torch.bool or present.shape[-1:] != scores.shape[-1:]):
        raise ValueError(
            f"present must be a bool mask over {scores.shape[-1]} classes, got {present.dtype} {tuple(present.shape)}."
        )
    used = scores if present is None else scores[present.expand(scores.shape)]
    if not bool(torch.isfinite(used).all()):
        raise ValueError(f"scores must be finite, got {scores.tolist()}.")
    if not bool((radius >= 0).all()):
        raise ValueError(f"radius must be at least 0, got {radius.tolist()}.")
    if bool((reference <= 0).any()) or not bool(((reference.sum(-1) - 1).abs() < 1e-6).all()):
        raise ValueError(f"reference must be positive in every class and sum to 1, got {reference.tolist()}.")
