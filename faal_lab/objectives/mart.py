"""MART: adversarial training that leans on the images which are wrong anyway."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from faal_lab.objectives.objective import Outcome


@dataclass(frozen=True)
class MART:
    """MART (Wang et al., ICLR 2020, eq. 11): boosted cross-entropy on adversarial images + a weighted divergence.

    The terms are `boosted`, CE(adv) - log(1 - the best wrong probability), and `robust`, beta * KL(p(clean) || p(adv)) *
    (1 - p_y(clean)); beta is 5 or 6 in the authors' code. The small constants are those of that code: without them the
    logarithm of a certain mistake is infinite. The attack ascends cross-entropy from a Gaussian start (FAAL's release: KL).
    """

    beta: float = 6.0
    terms: tuple[str, ...] = ("boosted", "robust")
    points: int = 1
    attack_loss: str | None = "cross-entropy"
    start: str = "gaussian"

    def __call__(self, model: nn.Module, images: torch.Tensor, adv: torch.Tensor, labels: torch.Tensor) -> Outcome:
        """Two forward passes, clean and adversarial; see `Objective`."""
        clean, attacked = model(images), model(adv)
        p, q = clean.softmax(1), attacked.softmax(1)
        best_wrong = q.scatter(1, labels[:, None], -1.0).amax(1)
        boosted = F.cross_entropy(attacked, labels, reduction="none") - torch.log(1.0001 - best_wrong + 1e-12)
        moved = (p * (clean.log_softmax(1) - torch.log(q + 1e-12))).sum(1)  # kl_div's gradient is NaN where p underflows
        true = p.gather(1, labels[:, None]).squeeze(1)
        return Outcome({"boosted": boosted, "robust": self.beta * moved * (1.0000001 - true)}, clean, attacked)
