"""State in sentences what a notebook's cells found, made from the numbers.

A network trained on another processor ends with other weights: a sentence written down beside a picture would be wrong there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from faal_lab.evaluation.statistics import average_accuracy, confusion, worst_accuracy
from faal_lab.evaluation.verdicts import Verdicts

if TYPE_CHECKING:
    from faal_lab.methods.microscope import Phases, Walk


def extremes(verdicts: Mapping[str, Verdicts], attack: str) -> str:
    """Say each run's average, best and worst class under an attack, with the worst class's 95 % interval."""
    return "\n".join(f"{name}, {attack}: {_extremes(verdict, attack)}" for name, verdict in verdicts.items())


def _extremes(verdict: Verdicts, attack: str) -> str:
    right, count = verdict.counts(attack)
    shares = 100 * right / count
    worst, label = worst_accuracy(right, count)
    best, average = int(shares.argmax()), average_accuracy(right, count)
    return (
        f"average {100 * average.value:.0f} %; best class {verdict.class_names[best]} at {shares[best]:.0f} %, worst class "
        f"{verdict.class_names[label]} at {100 * worst.value:.0f} % ({100 * worst.low:.0f} to {100 * worst.high:.0f})"
    )


def changes(before: Verdicts, after: Verdicts, attack: str) -> str:
    """Say which class gained most and which least from one run to another on the same images, in points."""
    count = before.counts(attack)[1]
    gains = 100 * (after.counts(attack)[0] - before.counts(attack)[0]) / count
    names, most, least = before.class_names, int(gains.argmax()), int(gains.argmin())
    return (
        f"Under {attack} the average changes by {gains.mean():+.0f} points; most for {names[most]} "
        f"({gains[most]:+.0f}), least for {names[least]} ({gains[least]:+.0f})."
    )


def taken_for(verdict: Verdicts, attack: str, places: int = 2) -> str:
    """Say what the worst class is taken for most often under an attack, in shares of its images."""
    right, count = verdict.counts(attack)
    label = worst_accuracy(right, count)[1]
    taken = confusion(verdict.labels, verdict.predicted[attack], len(count))[:, label]  # shares by prediction
    taken = np.where(np.arange(len(count)) == label, 0.0, taken)
    order = np.argsort(-taken, kind="stable")[:places]
    shares = [f"{verdict.class_names[c]} ({100 * taken[c]:.0f} %)" for c in order if taken[c]]
    return f"Class {verdict.class_names[label]} is taken for {' and '.join(shares) or 'no other'}."


def lost_before(verdict: Verdicts, attack: str) -> str:
    """Say how many images were wrong without the attack, of all and of the class that is worst under it."""
    right, count = verdict.counts(attack)
    clean, label = verdict.counts("clean")[0], worst_accuracy(right, count)[1]
    wrong, before = count - right, count - clean
    both = int((~verdict.survived[attack] & ~verdict.survived["clean"]).sum())
    return (
        f"Of {wrong.sum()} images that are wrong under {attack}, {both} are wrong without it. Of the {count[label]} images of "
        f"{verdict.class_names[label]}, {before[label]} are wrong on clean images and {wrong[label]} under {attack}."
    )


def over_radii(verdict: Verdicts) -> str:
    """Say the highest and the lowest class at each radius of the evaluation's curve."""
    if verdict.curve is None:
        return "No curve was measured."
    labels = verdict.labels[verdict.curve.indices]
    lines = []
    for radius, predicted in zip(verdict.curve.radii, verdict.curve.predicted, strict=True):
        shares = [100 * float((predicted[labels == c] == c).mean()) for c in np.unique(labels)]
        lines.append(f"radius {radius:.3g}: {min(shares):.0f} to {max(shares):.0f} %")
    return "; ".join(lines)


def steps(walk: Walk, label: int, names: Sequence[str]) -> str:
    """Say how an attack on one image went: belief at both ends, the step that fools, and where the loss grew."""
    first, last = (walk.beliefs[n] for n in (0, -1))
    fooled, half = walk.fooled_after(label), len(walk.losses) // 2
    grown = [float(walk.losses[b] - walk.losses[a]) for a, b in ((0, half), (half, -1))]
    when = "never" if fooled is None else f"from step {fooled} on"
    return (
        f"Before the attack {names[label]} is believed to {100 * float(first[label]):.0f} %, at the end to "
        f"{100 * float(last[label]):.0f} %, and {names[int(last.argmax())]} to {100 * float(last.max()):.0f} %. Wrong {when}. "
        f"The loss grows by {grown[0]:.2f} in the first {half} steps and by {grown[1]:.2f} in the others."
    )


def heavy(found: Phases, names: Sequence[str]) -> str:
    """Say which classes count more than once in a batch, how little the others do, and whose the loss is."""
    multipliers = found.multipliers.tolist()
    order = sorted(range(len(names)), key=lambda c: -multipliers[c])
    more = [f"{names[c]} ({multipliers[c]:.1f})" for c in order if multipliers[c] > 1]
    less = [m for m in multipliers if m <= 1] or [1.0]
    losses = found.losses * found.multipliers[found.labels]  # [B]
    mine = found.multipliers[found.labels] > 1
    share = 100 * float(losses[mine].sum() / losses.sum())
    return (
        f"More than once count {', '.join(more) or 'no classes'}; the others {min(less):.2f} to {max(less):.2f} times. "
        f"Those with more have {int(mine.sum())} of {len(mine)} images and {share:.0f} % of the "
        f"loss, which is {float(losses.mean()):.2f} instead of {float(found.losses.mean()):.2f}."
    )
