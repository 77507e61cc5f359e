"""Weigh the adversarial cross-entropy by the confusion of classes (CSR)."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from faal_lab.methods.class_stats import ClassStats
from faal_lab.methods.fairness.base import Measure, State, Weighing, fixed
from faal_lab.methods.objectives import Outcome, Terms

_STEPS = 10  # PGD steps of the pass over the training images
_LOW, _HIGH = 0.01, 2.01  # range of the stretched product of singular vectors
_MARGIN, _SHRINK = 0.1, 0.9


class CSR:
    """Confusional spectral regularisation (Jin et al., ICLR 2025).
    Descends the spectral norm of the robust confusion matrix.

    Loss: (1 - strength) * CE(clean) + beta * KL + strength * mean of G[predicted, true] * CE(adv).

    Before each epoch the training images are attacked (PGD-10) and counted by (predicted, true): each column as a share of
    its class, without the diagonal. G is the outer product of the leading singular vectors, which is the gradient of the
    norm, stretched to [0.01, 2.01]. The true logit in CE(adv) is lowered by a margin of 0.1. Strength 0 is TRADES.

    `variant="release"` has no margin in the loss. It makes the true logit worse where confusions are counted, by the factor
    0.9, which raises a negative one; and it counts images, not shares of a class, so that G weighs large classes more.
    """

    needs: tuple[str, ...] = ()

    def __init__(self, strength: float = 0.3, variant: str = "paper") -> None:
        if not 0 <= strength <= 1:
            raise ValueError(f"strength, CSR's alpha, must be between 0 and 1, got {strength}.")
        self.strength, self.variant = strength, variant
        self.state: State = {}  # gradient [C, C] by (predicted, true), expected [C]

    def begin_epoch(self, measure: Measure) -> None:
        """Attack the training images and compute the gradient of their confusion's spectral norm."""
        released = self.variant == "release"
        counts = measure.training_confusion(_STEPS, _SHRINK) if released else measure.training_confusion(_STEPS)
        counts = counts.double()
        shares = counts / counts.sum(0).clamp(min=1)
        gradient = spectral_gradient(counts if released else shares)
        self.state.update(gradient=gradient, expected=(gradient * shares).sum(0))

    def more_terms(self, outcome: Outcome, labels: torch.Tensor) -> Terms:
        """Return the cross-entropy of the attacked logits, with the paper's margin."""
        logits = outcome.adv_logits
        assert logits is not None, "CSR needs an objective with adversarial images"
        if self.variant == "paper":
            logits = logits - _MARGIN * F.one_hot(labels, logits.shape[1]).to(logits.dtype)
        return {"confusion": F.cross_entropy(logits, labels, reduction="none")}

    def weigh(self, stats: ClassStats, terms: tuple[str, ...], tau: float) -> Weighing:
        """Return the multipliers of the epoch, the same at every batch.

        The weights shown are the expected multipliers of the classes, normalised.
        """
        weights, spent = fixed(1 - self.strength + self.strength * self.state["expected"])
        less = torch.full_like(weights, 1 - self.strength)
        return Weighing(weights, {"clean": less, "confusion": self.strength * self.state["gradient"]}, spent)


def spectral_gradient(matrix: torch.Tensor) -> torch.Tensor:
    """Return u v^T of the leading singular vectors of `matrix` [C, C], stretched to [0.01, 2.01].

    Its diagonal is left out.
    """
    confusion = matrix - torch.diag(matrix.diagonal())
    if not bool(confusion.any()):
        return torch.ones_like(confusion)  # nothing is confused
    left, _, right = torch.linalg.svd(confusion)
    outer = torch.outer(left[:, 0], right[0]).abs()  # no entry of the matrix is negative, so both vectors can be chosen so
    return _LOW + (_HIGH - _LOW) * (outer - outer.min()) / (outer.max() - outer.min()).clamp(min=1e-12)
