"""Penalise confusions of two classes that go one way more than the other (Sy-FAR)."""

from __future__ import annotations

import torch

from faal_lab.dro.base import check_radius
from faal_lab.errors import check_name
from faal_lab.methods.class_stats import ClassStats, class_sums
from faal_lab.methods.fairness.base import State, Weighing, fixed
from faal_lab.methods.objectives import Outcome, Terms
from faal_lab.models.processes import joint

_OFFSET = 0.1  # keeps the ratio of a pair that is never confused at 0


class SyFAR:
    """Loss + strength * asymmetry of the confusions under attack (Sy-FAR: Najjar et al., USENIX Security 2026).

    M[i, j] is the mean probability of class j on the attacked images of class i in the batch. A pair adds (M[i, j] + M[j, i])
    * |M[i, j] - M[j, i]| / (M[i, j] + M[j, i] + 0.1). The term `asymmetry` is their sum, the same for each image. Strength 0
    is plain training. The weights shown are 1/C and the strength times a class's half of its pairs, normalised.

    A class that the batch lacks has no row. Its pairs are left out; `pairs="all"` counts the row as 0, as the authors' code
    does. Their loss is 0.1 CE(x) + CE(x') + 10 R, and trains against patches on faces. With AT ours has no CE(x). On the digits
    a strength of 10 leads to chance, since even predictions are symmetric; the default is ours.
    """

    needs: tuple[str, ...] = ("softmax",)

    def __init__(self, strength: float = 0.5, pairs: str = "present") -> None:
        check_radius(strength, "strength, the coefficient of Sy-FAR's asymmetry,")
        self.strength, self.pairs = strength, check_name("choice of pairs", pairs, ("present", "all"))
        self.state: State = {}

    def more_terms(self, outcome: Outcome, labels: torch.Tensor) -> Terms:
        """Return the asymmetry of the batch, with its gradient, for each of its images."""
        logits = outcome.adv_logits if outcome.adv_logits is not None else outcome.clean_logits
        assert logits is not None, "an objective must return the logits that classes are scored by"
        p, classes = logits.softmax(1), logits.shape[1]
        count = joint(class_sums(torch.ones_like(p[:, 0]), labels, classes))
        confusion = joint(class_sums(p, labels, classes)) / count.clamp(min=1)[:, None]
        return {"asymmetry": self._halves(confusion, count > 0).sum().expand(len(labels))}

    def weigh(self, stats: ClassStats, terms: tuple[str, ...], tau: float) -> Weighing:
        """Return the strength as the multiplier of the asymmetry, and weigh no class."""
        present = stats.present
        share = 1 / present.sum() + self.strength * self._halves(stats.mean("softmax").double(), present)
        weights, spent = fixed(torch.where(present, share, 0.0))
        return Weighing(weights, {"asymmetry": torch.full_like(weights, self.strength)}, spent)

    def _halves(self, confusion: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Return half of the asymmetry of each class with all others [C]; their sum is that of all pairs."""
        both, apart = confusion + confusion.T, (confusion - confusion.T).abs()
        pairs = both * apart / (both + _OFFSET)
        if self.pairs == "present":
            pairs = pairs * (present[:, None] & present[None, :])
        return pairs.sum(1) / 2
