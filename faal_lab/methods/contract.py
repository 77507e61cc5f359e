"""Check that a fairness method of one's own keeps the contract of `methods/fairness/base.py`.

Each line of the answer is a demand that the training relies on. Batches are small and made up, so the check takes about a
second and needs no data.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch

from faal_lab.catalogue import FAIRNESS
from faal_lab.errors import OwnPartError, check_name
from faal_lab.methods.class_stats import CLASS_SCORES, ClassStats
from faal_lab.methods.fairness.base import (
    AddsTerms,
    AttackedBatch,
    BeginsEpochs,
    EndsEpochs,
    Fairness,
    PlansAttacks,
    Samples,
    Weighing,
)  # fmt: skip
from faal_lab.methods.objectives import Outcome
from faal_lab.methods.recipe import Recipe

_CLASSES, _TAU = 5, 0.5
_WAITS = "it reads numbers of the batch on the host; a GPU waits for that, once a batch"
_LABELS = {
    "a batch of all classes": [0, 0, 1, 1, 2, 2, 3, 3, 4, 4],
    "a batch without some classes": [0, 0, 0, 2, 2, 4],
    "a batch of one class": [3, 3, 3, 3],
    "equal scores": [0, 1, 2, 3, 4],
}


def check_method(
    method: Fairness | type[Fairness] | str, *, terms: tuple[str, ...] = ("robust",), say: Callable[[str], None] = print
) -> bool:
    """Check a fairness method of your own, and print each demand of the contract.

    Args:
        method: the object, or its class, which is called without arguments; or a name or path as for `train`, such as
            "my_rules.py:MyRule". The object itself stays as it is.
        terms: names of the loss terms that it will weigh; default those of PGD adversarial training.
        say: what reports a line; default print.

    Returns:
        True if no demand fails. "skipped" is a demand that does not apply, such as a radius where there is none; "note" is a
        hint at speed.

    Raises:
        UnknownName, OwnPartError: the method cannot be made, or lacks a part of the interface.

    >>> import faal_lab as fl
    >>> fl.check_method(fl.FAAL(), say=lambda line: None)
    True
    >>> fl.check_method("none")  # doctest: +ELLIPSIS
    holds    weights [C] lie on the simplex: a batch of all classes
    ...
    True
    """
    objective = "trades" if set(terms) == {"clean", "robust"} else "at"
    if isinstance(method, str):
        check_name("fairness method", method, FAIRNESS)
    if isinstance(method, type):
        try:
            method = method()
        except TypeError as error:
            said = f"{method.__name__} cannot be made without arguments: {error}. Hand over an object of it."
            raise OwnPartError(said) from error
    made = Recipe.of(objective, copy.deepcopy(method)).fairness  # raises what `train` would raise
    good = True
    for demand, fault in _demands(made, terms):
        verdict = "holds" if fault is None else "note" if fault == _WAITS else "FAILS" if fault else "skipped"
        good &= verdict != "FAILS"
        say(f"{verdict:<8} {demand}" + (f": {fault}" if fault else ""))
    return good


Verdicts = Iterator[tuple[str, str | None]]  # a demand; None if it holds, "" if it does not apply, else what is wrong


def _demands(method: Fairness, terms: tuple[str, ...]) -> Verdicts:
    for case in _LABELS:
        yield from _tried(f"weights [C] lie on the simplex: {case}", lambda case=case: _shape(_weighed(method, terms, case)))
        yield from _tried(
            f"multipliers are finite, not negative, of its terms: {case}",
            lambda case=case: _multipliers(_weighed(method, terms, case), terms, _all_terms(method, terms)),
        )
    yield from _tried("tau 0 is plain training: every multiplier is 1", lambda: _plain(method, terms))
    yield from _tried("state is tensors by name, and survives save and restore bit for bit", lambda: _restored(method, terms))
    yield from _tried("keeps no graph of the network", lambda: _graph(method, terms))
    yield from _tried("leaves the statistics of the batch as they are", lambda: _untouched(method, terms))
    yield from _tried("radius, step [B] and target of each image", lambda: _plan(_begun(method)) or _plan(_ready(method, terms)))
    yield from _tried("class probabilities [C] lie on the simplex", lambda: _drawn(method))
    yield from _tried("makes no copy to the host", lambda: _on_meta(method, terms))


def _tried(demand: str, test: Callable[[], str | None]) -> Verdicts:
    try:
        yield demand, test()
    except Exception as error:  # any line of the user's code may fail
        yield demand, f"{type(error).__name__}: {' '.join(str(error).split())}"


def _batch(case: str, step: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits [B, C] with a graph, and labels [B]."""
    labels = torch.tensor(_LABELS[case])
    logits = torch.randn(len(labels), _CLASSES, generator=torch.Generator().manual_seed(step))
    return (torch.zeros_like(logits) if case == "equal scores" else logits).requires_grad_(), labels


def _stats(method: Fairness, logits: torch.Tensor, labels: torch.Tensor) -> ClassStats:
    values = {name: CLASS_SCORES[name](logits, labels) for name in {"margin", *method.needs} - {"loss", "softmax"}}
    if "loss" in method.needs:
        values["loss"] = CLASS_SCORES["cross-entropy"](logits, labels)
    if "softmax" in method.needs:
        values["softmax"] = logits.softmax(1)
    return ClassStats.of(labels, _CLASSES, values)


class _Measured:
    """Stands in for the measurements between two epochs."""

    def validation_errors(self, steps: int, last: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.linspace(0.1, 0.4, _CLASSES), torch.linspace(0.2, 0.9, _CLASSES)

    def validation_cost(self) -> torch.Tensor:
        return torch.linspace(0.5, 2.0, _CLASSES)

    def validation_counts(self) -> tuple[torch.Tensor, int]:
        return torch.full((_CLASSES,), 9), 9

    def training_confusion(self, steps: int, released: float = 0.0) -> torch.Tensor:
        return torch.eye(_CLASSES, dtype=torch.int64) * 8 + 1


def _begun(method: Fairness) -> Fairness:
    """Return a copy as it is before the first batch of a run."""
    fresh = copy.deepcopy(method)
    fresh.state.clear()
    if isinstance(fresh, BeginsEpochs):
        fresh.begin_epoch(_Measured())
    return fresh


def _ready(method: Fairness, terms: tuple[str, ...]) -> Fairness:
    """Return a copy that has seen an epoch of one batch."""
    fresh = _begun(method)
    if isinstance(fresh, EndsEpochs):
        fresh.end_epoch(_stats(fresh, *_batch("a batch of all classes", 1)), _Measured())
    return fresh


def _all_terms(method: Fairness, terms: tuple[str, ...]) -> tuple[str, ...]:
    logits, labels = _batch("a batch of all classes")
    if not isinstance(method, AddsTerms):
        return terms
    values = {name: CLASS_SCORES["cross-entropy"](logits, labels) for name in terms}
    return (*terms, *method.more_terms(Outcome(values, logits, logits), labels))


def _weighed(method: Fairness, terms: tuple[str, ...], case: str, tau: float = _TAU) -> tuple[Weighing, Weighing]:
    """Weigh a batch as the first of a run, and as one after an epoch."""
    fresh, later = _begun(method), _ready(method, terms)
    with torch.no_grad():
        first, second = (m.weigh(_stats(m, *_batch(case)), _all_terms(m, terms), tau) for m in (fresh, later))
    return first, second


def _shape(found: tuple[Weighing, Weighing]) -> str | None:
    for weighing in found:
        if not isinstance(weighing, Weighing):
            return f"`weigh` must return a Weighing, got {type(weighing).__name__}"
        weights, divergence = weighing.weights, weighing.divergence
        if fault := _on_simplex("weights", weights):
            return fault
        if not isinstance(divergence, torch.Tensor) or divergence.numel() != 1 or not bool(torch.isfinite(divergence).all()):
            return f"divergence must be one finite number in a tensor, got {divergence!r}"
    return None


def _on_simplex(name: str, values: Any) -> str | None:
    if not isinstance(values, torch.Tensor) or values.shape != (_CLASSES,):
        got = list(values.shape) if isinstance(values, torch.Tensor) else type(values).__name__
        return f"{name} must be a tensor [{_CLASSES}], got {got}"
    total = float(values.double().sum())
    if not bool((values >= 0).all()) or abs(total - 1) > 1e-5:
        return f"{name} must be at least 0 and sum to 1, got the least {float(values.min()):.3g} and the sum {total:.6g}"
    return None


def _multipliers(found: tuple[Weighing, Weighing], terms: tuple[str, ...], known: tuple[str, ...]) -> str | None:
    for weighing in found:
        for name, values in weighing.multipliers.items():
            if name not in known:
                return f"there is no term {name!r} of {', '.join(known)}: the training would ignore it"
            if values.shape not in ((_CLASSES,), (_CLASSES, _CLASSES)):
                return f"those of {name} must be [{_CLASSES}] or [{_CLASSES}, {_CLASSES}], got {list(values.shape)}"
            if not bool(torch.isfinite(values).all()):
                return f"those of {name} are {values.tolist()}"
            if name in terms and bool((values < 0).any()):  # terms of the method's own may have either sign, as FAT's
                return f"those of {name} have the least {float(values.min()):.3g}"
    return None


def _plain(method: Fairness, terms: tuple[str, ...]) -> str | None:
    case = "a batch of all classes"
    ways = [_weighed(method, terms, case, tau)[0] for tau in (0.0, _TAU)]
    if all(torch.equal(ways[0].multipliers.get(n, torch.ones(1)), m) for n, m in ways[1].multipliers.items()):
        return ""  # tau changes nothing: the method has no radius
    off = [name for name, values in ways[0].multipliers.items() if not bool((values == 1).all())]
    return f"those of {', '.join(off)} are {ways[0].multipliers[off[0]].tolist()} at tau 0" if off else None


def _restored(method: Fairness, terms: tuple[str, ...]) -> str | None:
    before = _ready(method, terms)
    before.weigh(_stats(before, *_batch("a batch of all classes", 2)), _all_terms(before, terms), _TAU)
    if strange := [name for name, value in before.state.items() if not isinstance(value, torch.Tensor)]:
        return f"state[{strange[0]!r}] is a {type(before.state[strange[0]]).__name__}, which a checkpoint does not keep"
    after = copy.deepcopy(method)  # as a resume makes it: anew, with the state alone
    after.state.clear()
    after.state.update({name: value.clone() for name, value in before.state.items()})
    case = "a batch without some classes"
    for _ in range(2):
        one, two = (m.weigh(_stats(m, *_batch(case, 3)), _all_terms(m, terms), _TAU) for m in (before, after))
        same = torch.equal(one.weights, two.weights) and one.multipliers.keys() == two.multipliers.keys()
        if not same or not all(torch.equal(m, two.multipliers[n]) for n, m in one.multipliers.items()):
            return "the weights differ after a restore: keep in `state` all that it remembers"
    return None


def _graph(method: Fairness, terms: tuple[str, ...]) -> str | None:
    found = _ready(method, terms)
    weighing = found.weigh(_stats(found, *_batch("a batch of all classes")), _all_terms(found, terms), _TAU)
    held = {"weights": weighing.weights, "divergence": weighing.divergence, **weighing.multipliers, **found.state}
    kept = [name for name, value in held.items() if value.requires_grad]
    return f"{', '.join(kept)} hold a gradient: detach them" if kept else None


def _untouched(method: Fairness, terms: tuple[str, ...]) -> str | None:
    found, stats = _ready(method, terms), _stats(method, *_batch("a batch without some classes"))
    before = copy.deepcopy(stats)
    found.weigh(stats, _all_terms(found, terms), _TAU)
    same = torch.equal(before.count, stats.count) and all(torch.equal(s, stats.sums[n]) for n, s in before.sums.items())
    return None if same else "`weigh` changed its counts or sums in place: other readers see them after it"


def _plan(method: Fairness) -> str | None:
    if not isinstance(method, PlansAttacks):
        return ""
    logits, labels = _batch("a batch of all classes")
    sizes = 9 * torch.arange(1, _CLASSES + 1)
    seen = AttackedBatch(labels, _CLASSES, 0.25, lambda: logits.detach(), lambda: torch.rand(len(labels)), sizes, 0.5)
    plan = method.plan_attack(seen)
    for name, values in (("radius", plan.radius), ("step", plan.step)):
        if values.shape != labels.shape or not bool(torch.isfinite(values).all()) or bool((values < 0).any()):
            return f"{name} must be [{len(labels)}], finite and not negative, got {values.tolist()}"
    if plan.target is not None and (plan.target.shape != labels.shape or bool((plan.target == labels).any())):
        return f"target must be [{len(labels)}] and never the label, got {plan.target.tolist()}"
    return None


def _drawn(method: Fairness) -> str | None:
    return _on_simplex("class_probabilities", method.class_probabilities(_CLASSES)) if isinstance(method, Samples) else ""


def _on_meta(method: Fairness, terms: tuple[str, ...]) -> str | None:
    """Weigh on the meta device, which has shapes and no numbers: reading one fails."""
    found = _ready(method, terms)
    stats = _stats(found, *_batch("a batch of all classes"))
    names = _all_terms(found, terms)
    found.state.update({name: value.to("meta") for name, value in found.state.items()})
    try:
        found.weigh(ClassStats(stats.count.to("meta"), {n: s.to("meta") for n, s in stats.sums.items()}), names, _TAU)
    except (NotImplementedError, RuntimeError):
        return _WAITS  # allowed: FAAL itself solves its problem of C numbers on the host, in one copy
    return None
