"""What a CIFAR-10 pipeline found: its verdict files in groups, what FAAL is asked for, and what it did, paired."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from faal_lab.data.images import stratified
from faal_lab.evaluation.comparison import Comparison, Difference
from faal_lab.evaluation.verdicts import Verdicts
from faal_lab.results.tables import ATTACK_TITLES, comparisons

Group = Mapping[str, Verdicts]  # runs that met the same attacks on the same images


class Demand(NamedTuple):
    """What FAAL is asked for against another arm, in points of 100: at least so much for the worst class, no less on average."""

    attack: str
    faal: str
    other: str
    worst: float
    average: float


# The paper's direction: its smallest gain over a base under AutoAttack (Table 1, from PGD-AT) is 11.3 points for 1.7 of average.
DEMANDS = [
    Demand("pgd-20", "faal", "", 8, -3),
    Demand("pgd-20", "faal", "control", 8, -3),
    Demand("autoattack", "faal", "", 8, -3),
    Demand("autoattack", "faal", "control", 0, -3),
    Demand("autoattack", "faal-awp", "", 8, -1),
]


def about_of(folder: Path) -> dict[str, Any]:
    """What the pipeline wrote down: settings, times, machine."""
    return json.loads((folder / "about.json").read_text(encoding="utf-8"))


def groups(folder: Path) -> list[Group]:
    """The verdicts of a folder, by attacks and images; the most images first."""
    found: dict[tuple[Any, ...], dict[str, Verdicts]] = {}
    read = {file.stem: Verdicts.read(file) for file in sorted(folder.glob("*.npz"))}
    for stem, one in read.items():
        verdicts = with_the_others(one, read.values()) if "classes" in one.header else one
        if verdicts is not None:
            name = stem.partition("-".join(["", *verdicts.predicted]))[0]
            images = tuple(np.bincount(verdicts.labels).tolist())
            found.setdefault((-sum(images), images, tuple(verdicts.predicted)), {})[name] = verdicts
    order = list(about_of(folder)["settings"])
    return [{name: found[key][name] for name in order if name in found[key]} for key in sorted(found)]


def with_the_others(some: Verdicts, read: Iterable[Verdicts]) -> Verdicts | None:
    """Verdicts of a few classes with the same network's of the same attacks for the other classes; None where there are none.

    That is sound since no verdict of AutoAttack depends on the other images.
    """
    alike = ("model_sha256", "epsilon", "norm", "seed", "mode")
    for whole in read:
        same = all(whole.header.get(key) == some.header.get(key) for key in alike)
        if "classes" in whole.header or not same or whole.predicted.keys() != some.predicted.keys():
            continue
        other = ~np.isin(whole.labels, some.labels)
        labels = np.concatenate([some.labels, whole.labels[other]])
        predicted = {attack: np.concatenate([found, whole.predicted[attack][other]]) for attack, found in some.predicted.items()}
        names, few = " and ".join(some.header["classes"]), np.bincount(whole.labels[other])
        said = (
            f"{len(some.labels):,} test images of {names}, {few[few > 0].min()} of each other class: those were lowest in the "
            "base and an earlier fine-tuning, and few images of each had left open which network's worst class is better. "
            "Averages gain little by it."
        )
        findings = [*whole.header.get("findings", []), *some.header.get("findings", [])]
        data = f"{some.header['data_sha256']} {whole.header['data_sha256']}"
        header = {**some.header, "data_sha256": data, "findings": findings, "note": said, "images": len(labels)}
        return Verdicts(labels, predicted, some.class_names, header)
    return None


def of_unseen(found: list[Group]) -> Iterator[Group]:
    """Groups with more images of some classes, without those among the few by which these classes were chosen.

    The few are a stratified choice, the same for every run; the labels of all test images tell which it took.
    """
    whole = next((v for group in found for v in group.values() if v.header["images"] is None), None)
    if whole is None:
        return
    for group in found:
        first = next(iter(group.values()))
        few = [next(iter(g.values())) for g in found]
        few = [v for v in few if "classes" not in v.header and v.predicted.keys() == first.predicted.keys()]
        if "classes" in first.header and few:
            classes = [first.class_names.index(name) for name in first.header["classes"]]
            seen = stratified(torch.from_numpy(whole.labels), len(few[0].labels), len(first.class_names))
            again = np.isin(np.flatnonzero(np.isin(whole.labels, classes)), seen.numpy())
            kept = np.concatenate([~again, np.ones(len(first.labels) - len(again), bool)])
            yield {name: _those(kept, verdicts) for name, verdicts in group.items()}


def _those(kept: np.ndarray, verdicts: Verdicts) -> Verdicts:
    """Verdicts of some of the images."""
    predicted = {attack: found[kept] for attack, found in verdicts.predicted.items()}
    return Verdicts(verdicts.labels[kept], predicted, verdicts.class_names, verdicts.header)


def images_of(group: Group) -> str:
    """How many images a group met, and of which classes more than of others."""
    first = next(iter(group.values()))
    more = f", more of {' and '.join(first.header['classes'])}" if "classes" in first.header else ""
    return f"{len(first.labels):,}{more}"


def paired(group: Group, first: str, other: str, attack: str) -> Comparison:
    """`other` against `first` under `attack`, on the same images."""
    return comparisons({first: group[first], other: group[other]}, attack)[other]


def demanded(found: list[Group]) -> Iterator[list[str]]:
    """Each demand for each base, on each set of images it was measured on: what was asked, what was got, whether it is met."""
    bases = [name for name in found[0] if not any(name.startswith(f"{other}-") for other in found[0])]
    for base in bases:
        for demand in DEMANDS:
            other, faal = f"{base}-{demand.other}".rstrip("-"), f"{base}-{demand.faal}"
            title = f"{ATTACK_TITLES[demand.attack]}: {faal} against {other}"
            asked = f"worst {demand.worst:+g}, average {demand.average:+g}"
            fit = [g for g in found if {faal, other} <= g.keys() and demand.attack in g[faal].predicted]
            if not fit:
                yield [title, "-", asked, "-", "-", "not measured"]
            for group in fit:
                result = paired(group, other, faal, demand.attack)
                worst, average = result.worst, result.average
                met = 100 * worst.value >= demand.worst and worst.low > 0 and 100 * average.value >= demand.average
                said = "met" if met else "not met"
                yield [title, images_of(group), asked, points(worst), points(average), said]


def points(found: Difference) -> str:
    """A difference in points of 100, with its interval."""
    return f"{100 * found.value:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


def pairs(found: list[Group]) -> Iterator[list[str]]:
    """Every run against its base, against the control arm of that base, and one with AWP against the same without."""
    for group in found:
        for attack in next(iter(group.values())).predicted:
            for name in group:
                base = next((other for other in group if name.startswith(f"{other}-")), "")
                for other in (base, f"{base}-control", name.removesuffix("-awp")):
                    if base and other in group and other != name:
                        result = paired(group, other, name, attack)
                        what = [ATTACK_TITLES[attack], images_of(group), f"{name} against {other}"]
                        yield [*what, points(result.worst), points(result.average)]
