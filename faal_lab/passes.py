"""The forward and backward passes of phase 3: over a whole batch, or part after part where memory is short.

Knows: objective, a fairness method's own terms, how a batch is divided. Must not know: where class weights come from, optimisers.
Class weights are those of the whole batch either way. Parts cost one forward pass more, since no part's loss is known before all
are scored; BatchNorm normalises each part by itself, in both passes alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn

from faal_lab.fairness import AddsTerms
from faal_lab.objectives import Outcome, weighted
from faal_lab.recipe import Recipe


class Part(NamedTuple):
    """Some images of a batch."""

    images: torch.Tensor  # [b, C, H, W]
    adv: torch.Tensor  # the same, or [2, b, C, H, W]
    labels: torch.Tensor  # int64 [b]
    share: float  # of the batch


def scored_logits(outcome: Outcome) -> torch.Tensor:
    """The logits [B, C] that classes are scored by: of the attacked images where there are any. Without gradient."""
    logits = outcome.adv_logits if outcome.adv_logits is not None else outcome.clean_logits
    assert logits is not None, "an objective must return the logits that classes are scored by"
    return logits.detach()


class Passes:
    """A batch's images and attacked images, in `parts` pieces, through a model in training mode."""

    def __init__(
        self, model: nn.Module, recipe: Recipe, images: torch.Tensor, adv: torch.Tensor, labels: torch.Tensor, parts: int
    ) -> None:
        self._model, self._recipe = model, recipe
        sample = adv.ndim - images.ndim  # two points of each image come first
        pieces = zip(images.tensor_split(parts), adv.tensor_split(parts, dim=sample), labels.tensor_split(parts), strict=True)
        self._parts = (
            [Part(x, a, y, len(y) / len(labels)) for x, a, y in pieces] if parts > 1 else [Part(images, adv, labels, 1.0)]
        )

    def whole(self) -> Outcome:
        """The outcome of all images: with its graph where there is one part; else without, and BatchNorm is left as it was."""
        if len(self._parts) == 1:
            return self._outcome(self._parts[0])
        before = [b.detach().clone() for b in self._model.buffers()]
        with torch.no_grad():
            found = [self._outcome(part) for part in self._parts]
            for buffer, old in zip(self._model.buffers(), before, strict=True):
                buffer.copy_(old)
        terms = {name: torch.cat([outcome.terms[name] for outcome in found]) for name in found[0].terms}
        return Outcome(terms, _joined([o.clean_logits for o in found]), _joined([o.adv_logits for o in found]))

    def backward(self, whole: Outcome, multipliers: dict[str, torch.Tensor]) -> torch.Tensor:
        """Add the gradients of the weighted loss to those of the weights; returns the loss []. `whole` is of `whole`."""
        if len(self._parts) == 1:
            loss = weighted(whole.terms, multipliers, self._parts[0].labels, scored_logits(whole).argmax(1))
            loss.backward()
            return loss.detach()
        total = torch.zeros((), device=self._parts[0].labels.device)
        for part in self._parts:
            outcome = self._outcome(part)
            loss = part.share * weighted(outcome.terms, multipliers, part.labels, scored_logits(outcome).argmax(1))
            loss.backward()
            total += loss.detach()
        return total

    def unweighted(self) -> Iterator[torch.Tensor]:
        """The objective's own loss, in summands: what a weight perturbation ascends."""
        for part in self._parts:
            outcome = self._recipe.objective(self._model, part.images, part.adv, part.labels)
            yield part.share * weighted(outcome.terms, {}, part.labels)

    def _outcome(self, part: Part) -> Outcome:
        outcome = self._recipe.objective(self._model, part.images, part.adv, part.labels)
        if self._recipe.clean_forward and outcome.clean_logits is None:
            with torch.no_grad():
                self._model(part.images)  # moves BatchNorm and nothing else
        method = self._recipe.fairness
        if isinstance(method, AddsTerms):
            outcome = outcome._replace(terms={**outcome.terms, **method.more_terms(outcome, part.labels)})
        return outcome


def _joined(logits: list[torch.Tensor | None]) -> torch.Tensor | None:
    known = [values for values in logits if values is not None]
    return torch.cat(known) if known else None
