"""What a fairness method is to the training loop."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch

from faal_lab.class_stats import ClassStats


class Weighing(NamedTuple):
    """A method's verdict on one batch."""

    weights: torch.Tensor  # [C] on the simplex; uniform over the present classes where the method does nothing
    multipliers: dict[str, torch.Tensor]  # term -> [C], weights / reference; absent terms count fully
    divergence: torch.Tensor  # [] what was spent of the ball


class Fairness(Protocol):
    """Turns class statistics into class weights, batch by batch. Its state is tensors, so that it survives a resume."""

    needs: tuple[str, ...]  # which class scores it reads: rows of `class_stats.CLASS_SCORES`, or "loss"

    def weigh(self, stats: ClassStats, terms: tuple[str, ...], tau: float) -> Weighing:
        """Weigh the classes of one batch for the named loss terms; `tau` is the dial as it stands now."""
        ...

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All that the method remembers from batch to batch."""
        ...

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Remember it again."""
        ...


def uniform_over(present: torch.Tensor) -> torch.Tensor:
    """The uniform distribution over the present classes: float64 [C], 0 where absent."""
    held = present.to(torch.float64)
    return held / held.sum().clamp(min=1)
