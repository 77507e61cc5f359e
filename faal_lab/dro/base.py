"""Define the interface of ambiguity sets and the steps that all solvers share.

`pose` checks and normalises a problem, `falling_root` finds a root, and `settle` returns the answer in the units of the scores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import torch

from faal_lab.catalogue import ANY_RADIUS
from faal_lab.dro import floats, fused


class WorstCase(NamedTuple):
    """The worst case of a set: float64 tensors on the device of the scores, detached.

    Args:
        weights: [..., C] on the simplex, 0 for absent classes.
        value: [...], the maximum: sum of weights * scores, less the price paid in a penalised form.
        divergence: [...], distance of the weights from the reference, in the measure of the set.
        dual: [...], d value / d radius: the worth of a little more radius.

    >>> import torch
    >>> from faal_lab.dro import TotalVariationBall
    >>> weights, value, divergence, dual = TotalVariationBall(0.2).worst_case(torch.tensor([0.0, 1.0]))
    >>> weights, value, dual  # 0.1 more radius would add 0.1 to the value
    (tensor([0.3000, 0.7000], dtype=torch.float64), tensor(0.7000, dtype=torch.float64), tensor(1., dtype=torch.float64))
    """

    weights: torch.Tensor  # [..., C] on the simplex, 0 for absent classes
    value: torch.Tensor  # [...] the maximum: sum of weights * scores, less the price paid in a penalised form
    divergence: torch.Tensor  # [...] distance of the weights from the reference, in the measure of the set
    dual: torch.Tensor  # [...] d value / d radius: the worth of a little more radius


class AmbiguitySet(Protocol):
    """A set of class distributions around a reference. FAAL uses `KLBall`.

    Any object of this form serves, for example as `FAAL(ambiguity=...)`.

    >>> import torch
    >>> from faal_lab import FAAL
    >>> from faal_lab.dro import Floored, KLBall
    >>> ball = Floored(KLBall(0.5), share=0.2)  # no class counts less than a fifth of its share
    >>> ball.worst_case(torch.tensor([0.1, 0.2, 0.3, 0.9])).weights.min() >= 0.2 / 4
    tensor(True)
    >>> FAAL(ambiguity=ball).ambiguity.radius
    0.5
    """

    limits: ClassVar[tuple[float, float]]  # smallest and largest radius that has a meaning

    @property
    def radius(self) -> float:
        """Return the largest distance from the reference.

        Returns:
            The radius, in the measure of the set.

        >>> from faal_lab.dro import KLBall
        >>> KLBall(0.3).radius
        0.3
        """
        ...

    def worst_case(
        self,
        scores: torch.Tensor,
        radius: torch.Tensor | float | None = None,
        reference: torch.Tensor | None = None,
        present: torch.Tensor | None = None,
        check: bool | None = None,
    ) -> WorstCase:
        """Maximise sum(w * scores) over the set, for each row of `scores`.

        All arithmetic is in float64. Nothing is differentiated.

        Args:
            scores: [..., C], one problem per row, of any number type; the highest score is the hardest class.
            radius: a number, a 0-dim tensor or [...]; None is the set's own. New values in a tensor recompile nothing.
            reference: [..., C] on the simplex; None is uniform. It is normalised again over the classes present.
            present: bool [..., C], the classes in the problem; None is all. A row without any is solved as if all were present.
            check: True checks values, and waits for a GPU to do so; False lets NaN propagate. None checks on a CPU only.

        Returns:
            The weights [..., C], and their value, divergence and dual [...]; see `WorstCase`.

        Raises:
            ValueError: a shape does not fit, or a checked value is invalid; the message names the argument.

        >>> import torch
        >>> from faal_lab.dro import CVaR
        >>> scores = torch.tensor([[0.1, 0.2, 0.3, 0.9], [0.5, 0.0, 0.0, 0.5]])  # two problems of four classes
        >>> CVaR(0.5).worst_case(scores).value  # the mean of the worse half
        tensor([0.6000, 0.5000], dtype=torch.float64)
        """
        ...


def check_radius(radius: float, name: str, limits: tuple[float, float] = ANY_RADIUS) -> None:
    """Raise TypeError for a radius that is no number, and ValueError for one outside `limits`.

    Infinity is valid where the upper limit is infinite; for a ball it means all that the set can reach.
    """
    if isinstance(radius, bool) or not isinstance(radius, (int, float)):
        raise TypeError(f"{name} must be a number, got {radius!r} ({type(radius).__name__}).")
    if not limits[0] <= radius <= limits[1]:  # also catches NaN
        hint = " (0 is plain averaging over classes)" if limits[0] == 0 else ""
        raise ValueError(f"{name} must be {said(limits)}{hint}, got {radius}.")


def said(limits: tuple[float, float]) -> str:
    """Return limits in words."""
    low, high = limits
    return f"at least {low:g}" if high == float("inf") else f"between {low:g} and {high:g}"


@dataclass(frozen=True)
class Ball:
    """The base of the sets: check the radius and pose the problem, and leave `_solve` to each set."""

    radius: float = 0.0
    limits: ClassVar[tuple[float, float]] = ANY_RADIUS
    named: ClassVar[str] = ""  # the radius in the words of an error; empty where it has no effect
    positive: ClassVar[bool] = False  # refuse a reference without mass on a class that is present
    inside: ClassVar[bool] = False  # such a class is infinitely far: leave it out
    kernel: ClassVar[str] = ""  # the set's part of the fused kernel, if it has one
    _plain: ClassVar[floats.Plain | None] = None  # its solver for one problem on a CPU, if it has one

    def __post_init__(self) -> None:
        if self.named:
            check_radius(self.radius, self.named, self.limits)

    def worst_case(
        self,
        scores: torch.Tensor,
        radius: torch.Tensor | float | None = None,
        reference: torch.Tensor | None = None,
        present: torch.Tensor | None = None,
        check: bool | None = None,
    ) -> WorstCase:
        """Solve for the worst case; see `AmbiguitySet.worst_case`.

        One small problem on a CPU is solved in plain floats, to the same digits.
        """
        bound = self.radius if radius is None else radius
        plain = vars(type(self)).get("_plain")  # as of `has_kernel`: a subclass may solve otherwise
        if plain and scores.ndim == 1 and reference is None and check is not False and eager_on_cpu(scores):
            number = bound.item() if isinstance(bound, torch.Tensor) and bound.ndim == 0 else bound
            one = floats.solve(plain, self, scores, number, present) if isinstance(number, (int, float)) else None
            if one is not None:
                return WorstCase(*one)
        if scores.is_cuda:
            found = self._fused(scores, bound, reference, present, check)
            if found is not None:
                return found
        posed = pose(scores, bound, reference, present, check, self.limits, positive=self.positive)
        return self._solve(within_reference(posed) if self.inside else posed)

    def _fused(
        self, scores: torch.Tensor, radius: Any, reference: torch.Tensor | None, present: torch.Tensor | None, check: bool | None
    ) -> WorstCase | None:
        _check_shapes(scores, reference, present)
        if torch.compiler.is_compiling() or not has_kernel(self, scores.device, scores.shape[-1]):
            return None  # torch.compile fuses the tensors by itself
        kernel = self.kernel
        if check:
            pose(scores, radius, reference, present, check, self.limits, positive=self.positive)
        found = fused.solve(kernel, scores, radius, reference, present)
        if found is None or (kernel, str(scores.device)) in fused.proven:
            return None if found is None else WorstCase(*found)
        # The first answer of a kernel on a device is held to that of the tensors: a wrong one would go unseen.
        posed = pose(scores, radius, reference, present, False, self.limits, positive=self.positive)
        sound = self._solve(within_reference(posed) if self.inside else posed)
        if not torch.isclose(found[0], sound.weights, rtol=0, atol=1e-9, equal_nan=True).all():
            fused.give_up(scores.device, f"its weights for {type(self).__name__} were wrong")
            return sound
        fused.proven.add((kernel, str(scores.device)))
        return WorstCase(*found)

    def _solve(self, posed: Posed) -> WorstCase:
        raise NotImplementedError(f"{type(self).__name__} must solve posed problems: define _solve.")


_FLAT = 1e-12  # a range of scores below this, relative to their size, is rounding noise: the scores count as equal


class Posed(NamedTuple):
    """Checked problems, one per row, in float64. The reference is 0 on absent classes and sums to 1."""

    scores: torch.Tensor  # [..., C], 0 on absent classes
    reference: torch.Tensor  # [..., C]
    radius: torch.Tensor  # [...]
    present: torch.Tensor  # [..., C] bool
    gaps: torch.Tensor  # [..., C] (largest - score) / spread in [0, 1]; 1 on absent classes
    spread: torch.Tensor  # [...] range of the scores; 1 where they are all equal
    flat: torch.Tensor  # [...] bool: all scores equal, so every distribution is as bad

    @property
    def top(self) -> torch.Tensor:
        """The hardest classes, bool [..., C]."""
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
    """Check and normalise a problem, given by the arguments of `AmbiguitySet.worst_case`.

    `positive` refuses a reference without mass on a class that is present. Raises ValueError, which names the argument.
    """
    _check_shapes(scores, reference, present)
    scores = scores.detach().to(torch.float64)
    classes = scores.shape[-1]
    uniform = torch.full((classes,), 1.0 / classes, dtype=torch.float64, device=scores.device)
    given = uniform if reference is None else reference.detach().to(scores.device, torch.float64)
    bound = torch.as_tensor(radius, dtype=torch.float64, device=scores.device)
    mask = torch.ones(classes, dtype=torch.bool, device=scores.device) if present is None else present
    if check if check is not None else eager_on_cpu(scores):
        _check_values(scores, given, bound, mask, limits, positive)
    given, mask = given.expand(scores.shape), mask.expand(scores.shape)
    if present is not None:
        mask = mask | ~mask.any(dim=-1, keepdim=True)  # no class present: solve as if all were
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
    """Return the answer in the units of the scores.

    It is the reference where all scores are equal or `nominal` is True. `dual` [...] comes in units of the spread.
    """
    still = posed.flat if nominal is None else posed.flat | nominal
    weights = torch.where(still[..., None], posed.reference, weights)
    value = (weights * posed.scores).sum(-1)
    return WorstCase(weights, value, torch.where(still, 0.0, divergence), torch.where(posed.flat, 0.0, dual * posed.spread))


def settle_priced(posed: Posed, weights: torch.Tensor, divergence: torch.Tensor) -> WorstCase:
    """Return the answer of a penalised form, where the radius is the price of a unit of divergence.

    An infinite price gives the reference.
    """
    found = settle(posed, weights, divergence, -divergence, nominal=torch.isinf(posed.radius))
    paid = torch.where(found.divergence > 0, posed.radius * found.divergence, 0.0)
    return WorstCase(found.weights, found.value - paid, found.divergence, -found.divergence)


def within_reference(posed: Posed) -> Posed:
    """Restrict the problem to classes with reference mass.

    For the measures by which every other class is infinitely far.
    """
    held = posed.present & (posed.reference > 0)
    top = torch.where(held, posed.gaps, torch.inf).amin(-1, keepdim=True)
    length = torch.where(held, posed.gaps, 0.0).amax(-1, keepdim=True) - top
    flat = posed.flat | (length <= 1e-12).squeeze(-1)
    length = torch.where(flat[..., None], 1.0, length)
    gaps = torch.where(held, (posed.gaps - top) / length, 1.0)
    return posed._replace(present=held, gaps=gaps, spread=posed.spread * length.squeeze(-1), flat=flat)


def has_kernel(ambiguity: AmbiguitySet, device: torch.device, classes: int) -> bool:
    """Return whether a device solves a set in one kernel, so that its scores need not leave it."""
    kernel = vars(type(ambiguity)).get("kernel", "")  # a subclass may solve otherwise, so it does not inherit the kernel
    return bool(kernel) and not fused.refusal(device, classes)


def eager_on_cpu(values: torch.Tensor) -> bool:
    """Return whether reading a value costs nothing: on a CPU, outside torch.compile.

    On a GPU the read would wait for the device.
    """
    return values.device.type == "cpu" and not torch.compiler.is_compiling()


def proportional(mask: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Restrict the reference to `mask` [..., C] and normalise it; equal shares if it has no mass there."""
    inside = torch.where(mask, reference, 0.0)
    inside = torch.where(inside.sum(-1, keepdim=True) > 0, inside, mask.to(reference.dtype))
    return inside / inside.sum(-1, keepdim=True)


def _check_shapes(scores: torch.Tensor, reference: torch.Tensor | None, present: torch.Tensor | None) -> None:
    if scores.ndim == 0 or scores.shape[-1] == 0:
        raise ValueError(f"scores must have a last dimension of at least one class, got shape {tuple(scores.shape)}.")
    classes = scores.shape[-1]
    if reference is not None and reference.shape[-1:] != scores.shape[-1:]:
        raise ValueError(f"reference has {reference.shape[-1] if reference.ndim else 0} classes, scores have {classes}.")
    if present is not None and (present.dtype != torch.bool or present.shape[-1:] != scores.shape[-1:]):
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


# The most evaluations of the curve. On a CPU the loop ends when every row has settled, usually after 3 to 9. To ask a GPU would
# mean to wait for it, so a fixed number runs there; a test checks that it is enough for hard problems.
_ROUNDS, _ROUNDS_BLIND = 64, 24
_CLOSE = 1e-9  # Newton doubles the digits: a step of this size reaches the last one


def falling_root(
    curve: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    low: torch.Tensor,
    high: torch.Tensor,
    start: torch.Tensor,
) -> torch.Tensor:
    """Find the s in [low, high] where f falls through 0; `curve` returns f(s) and its slope, all [...].

    Take Newton's step if it stays inside the bracket, else the middle of the bracket. Every evaluation narrows the bracket.
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
