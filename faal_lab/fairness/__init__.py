"""Phase 2: who turns class statistics into class weights, radii or draws. One file a method.

Knows: class statistics and ambiguity sets. Must not know: models, images, files.
A new method is one file and one row in `FAIRNESS`; an object with the same methods can be passed directly.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from faal_lab.fairness.cfa import CFA
from faal_lab.fairness.cfol import CFOL
from faal_lab.fairness.csr import CSR
from faal_lab.fairness.dafa import DAFA
from faal_lab.fairness.faal import FAAL
from faal_lab.fairness.fairness import (
    AddsTerms,
    AttackedBatch,
    AttackPlan,
    BeginsEpochs,
    EndsEpochs,
    Fairness,
    Measure,
    PlansAttacks,
    Samples,
    Weighing,
)
from faal_lab.fairness.fat import FAT
from faal_lab.fairness.frl import FRL
from faal_lab.fairness.group_dro import GroupDRO
from faal_lab.fairness.none import NoFairness
from faal_lab.fairness.trix import TRIX
from faal_lab.fairness.wat import WAT


class Method(NamedTuple):
    """A row of `FAIRNESS`: how to make the method, and what the paper's Table 4 asks of each."""

    make: Callable[..., Fairness]  # takes those of Recipe's settings that it names
    source: str
    acts_on: str  # what of a training step it changes
    updates: str  # "never", "once", or every "batch" or "epoch"
    validation: bool = False  # needs a validation split
    attacked: bool = True  # has no meaning without an attack
    terms: tuple[str, ...] = ()  # what the objective must have; a method for one loss only
    targets: bool = False  # makes some attacks targeted
    delayed: bool = False  # acts after an epoch's statistics at the earliest
    scales: bool = False  # scales the loss before it acts, too

    @property
    def keeps_adversary(self) -> bool:
        """Whether phase 1 is left alone, so that any attack will do."""
        return "radius" not in self.acts_on and not self.targets

    def properties(self) -> str:
        """Those of the paper's Table 4, in words."""
        often = {"never": "", "once": ", once"}.get(self.updates, f", every {self.updates}")
        adversary = "keeps the adversary" if self.keeps_adversary else "changes the adversary"
        split = "needs a validation split" if self.validation else "needs no validation split"
        terms = f"; for objectives with the terms {' and '.join(self.terms)}" if self.terms else ""
        return f"{self.source or 'the control arm'}; acts on {self.acts_on}{often}; {adversary}; {split}{terms}"


_XU, _WEI = "Xu et al., ICML 2021", "Wei et al., CVPR 2023"
_TRADES = ("clean", "robust")
FAIRNESS: dict[str, Method] = {
    "none": Method(NoFairness, "", "nothing", "never", attacked=False),
    "faal": Method(FAAL, "Zhang et al., CVPR 2024", "loss", "batch", attacked=False),
    "group-dro": Method(GroupDRO, "Sagawa et al., ICLR 2020", "loss", "batch", attacked=False),
    "frl-rw": Method(partial(FRL, remargin=False), _XU, "loss", "epoch", validation=True, terms=_TRADES),
    "frl-rm": Method(partial(FRL, reweight=False), _XU, "radius", "epoch", validation=True),
    "frl-rwrm": Method(FRL, _XU, "loss, radius", "epoch", validation=True, terms=_TRADES),
    "cfa": Method(CFA, _WEI, "radius, beta", "epoch", delayed=True, scales=True),
    "cfa-ccm": Method(partial(CFA, regularise=False), _WEI, "radius", "epoch", delayed=True),
    "cfa-ccr": Method(partial(CFA, margin=False), _WEI, "beta", "epoch", terms=_TRADES, delayed=True, scales=True),
    "wat": Method(WAT, "Li and Liu, AAAI 2023", "loss", "epoch", validation=True, attacked=False, delayed=True),
    "fat": Method(FAT, "Ma et al., NeurIPS 2022", "loss", "batch", attacked=False),
    "dafa": Method(DAFA, "Lee et al., ICLR 2024", "loss, radius", "once", delayed=True),
    "trix": Method(TRIX, "Medi et al., arXiv 2507.07768", "loss, radius, target", "batch", targets=True),
    "cfol": Method(CFOL, "Pethick et al., TMLR 2023", "sampling", "batch", attacked=False),
    "csr": Method(CSR, "Jin et al., ICLR 2025", "loss", "epoch", terms=_TRADES),
}


def about(make: Callable[..., Any]) -> str:
    """The first paragraph of a part's docstring, on one line, and which halves of it are left out."""
    plain, left_out = (make.func, make.keywords) if isinstance(make, partial) else (make, {})
    text = " ".join((plain.__doc__ or "").strip().split("\n\n")[0].split())
    return text + "".join(f" Without {name}." for name, value in left_out.items() if value is False)


__all__ = [
    "CFA", "CFOL", "CSR", "DAFA", "FAAL", "FAIRNESS", "FAT", "FRL", "TRIX", "WAT", "AddsTerms", "AttackPlan",
    "AttackedBatch", "BeginsEpochs", "EndsEpochs", "Fairness", "GroupDRO", "Measure", "Method", "NoFairness", "PlansAttacks",
    "Samples", "Weighing", "about",
]  # fmt: skip
