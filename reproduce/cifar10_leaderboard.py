"""The tables of the CIFAR-10 leaderboard, from the verdicts of its runs; `cifar10-leaderboard.ipynb` is the sweep's way to it.

Each arm is held against its control and against FAAL, from the same base, seed by seed. An interval is Student's over the seeds.
Beside it stands in how many seeds the paired interval over test images excludes 0.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from leaderboard import Mean, Seeds, holm, numbers, p_value
from leaderboard_page import counts_csv

from faal_lab.evaluation.comparison import compare
from faal_lab.evaluation.groups import read_seeds
from faal_lab.evaluation.statistics import average_accuracy, class_gap, worst_accuracy
from faal_lab.evaluation.verdicts import Verdicts
from faal_lab.results.formats import Table, as_markdown
from faal_lab.results.tables import ATTACK_TITLES
from faal_lab.runs.files import replace_file

BIAS = " + bias"
_TRADES = ("frl-rw", "frl-rwrm", "csr")  # arms whose loss is TRADES'


def arm(name: str) -> str:
    """The arm of a run's name in the sweep.

    >>> [arm(name) for name in ("base/at", "tuned/at-faal", "strong/balanced-tuned-at-faal", "balanced/base-at")]
    ['base', 'faal', 'faal + bias', 'base + bias']
    """
    text = name.replace("/", "-").removeprefix("strong-")
    biased = text.startswith("balanced-")
    text = re.sub(r"^(base|tuned|others)\b-?", "", text.removeprefix("balanced-"))
    return (re.sub(r"^at\b-?", "", text) or "base") + BIAS * biased


def control_of(name: str) -> str:
    """The arm that an arm is held against: the same network without a bias, or the control of its loss; empty for none."""
    if name.endswith(BIAS):
        return name.removesuffix(BIAS)
    return "" if name in ("base", "control", "control-trades") else "control-trades" if name in _TRADES else "control"


@dataclass(frozen=True)
class Against:
    """An arm's worst class and average minus another's, in points, and how sure that is."""

    worst: Mean
    average: Mean
    p: float  # of no difference between the worst classes, by Student's paired test over seeds
    clear: int  # seeds in which the interval of the worst classes over images excludes 0
    seeds: int

    @staticmethod
    def of(mine: Sequence[Verdicts], theirs: Sequence[Verdicts], attack: str) -> Against:
        """Compare the networks of the same seed on the same images. Raises VerdictsError where the images are others."""
        worst, average, clear = [], [], 0
        for a, b in zip(theirs, mine, strict=True):
            a.check_same(b, "two arms of a seed")
            found = compare(a.labels, a.survived[attack], b.survived[attack], len(a.class_names))
            worst.append(100 * found.worst.value)
            average.append(100 * found.average.value)
            clear += found.worst.clear
        return Against(Mean.of(np.array(worst)), Mean.of(np.array(average)), p_value(np.array(worst)), clear, len(worst))


def measured(group: Sequence[Verdicts], attack: str) -> dict[str, Mean]:
    """Worst class, mean of the worst three, average and gap, in percent: means over seeds."""
    counts = [verdicts.counts(attack) for verdicts in group]
    shares = [np.sort(stand[images > 0] / images[images > 0]) for stand, images in counts]
    found = {
        "worst class": [worst_accuracy(*c)[0].value for c in counts],
        "worst three": [share[:3].mean() for share in shares],
        "average": [average_accuracy(*c).value for c in counts],
        "gap": [class_gap(*c).value for c in counts],
    }
    return {name: Mean.of(100 * np.array(values), cut=True) for name, values in found.items()}


def table(arms: Seeds, attack: str) -> Table:
    """All arms under one attack, the most robust worst class first."""
    known = {name: group for name, group in arms.items() if attack in group[0].survived}
    found_of = {name: measured(group, attack) for name, group in known.items()}
    controls = {n: Against.of(g, known[c], attack) for n, g in known.items() if len(known.get(c := control_of(n), ())) == len(g)}
    faal = known.get("faal", ())
    rivals = {n: Against.of(g, faal, attack) for n, g in known.items() if n != "faal" and len(g) == len(faal)}
    corrected = [dict(zip(some, holm([one.p for one in some.values()]), strict=True)) for some in (controls, rivals)]
    rows = []
    for name in sorted(known, key=lambda n: -found_of[n]["worst class"].value):
        cells = [name, str(len(known[name])), *(mean.text() for mean in found_of[name].values())]
        for found, p in zip((controls, rivals), corrected, strict=True):
            one = found.get(name)
            cells += [one.worst.text("+"), f"{p[name]:.3f}", f"{one.clear} of {one.seeds}"] if one else ["-"] * 3
        cells.append(controls[name].average.text("+") if name in controls else "-")
        rows.append([*cells, control_of(name) or "-"])
    held = ("points (over seeds)", "p, Holm", "seeds clear over images")
    head = ["arm", "seeds", *(f"{name}, %" for name in next(iter(found_of.values())))]
    head += [f"worst class against {other}: {what}" for other in ("its control", "FAAL") for what in held]
    head += ["average against its control, points", "control"]
    images = len(next(iter(known.values()))[0].labels)
    return Table(f"{ATTACK_TITLES[attack]}, {images:,} test images", head, rows, [winner(known, attack)])


def winner(arms: Seeds, attack: str) -> str:
    """Name the arm whose worst class is above that of every other arm, corrected for all pairs; else say that there is none."""
    worst = {name: numbers(group, attack)[1] for name, group in arms.items()}
    pairs = [(a, b) for a, b in combinations(worst, 2) if len(worst[a]) == len(worst[b])]
    p = dict(zip(pairs, holm([p_value(worst[a] - worst[b]) for a, b in pairs]), strict=True))
    first = max(worst, key=lambda name: worst[name].mean())
    others = [name for name in worst if name != first]
    alike = [name for name in others if not min(p.get((first, name), 1.0), p.get((name, first), 1.0)) < 0.05]
    if not alike:
        return f"The winner is {first}: its worst class is above every other arm's, corrected for {len(pairs)} pairs (Holm)."
    return (
        f"There is no winner. The highest mean is that of {first}; corrected for {len(pairs)} pairs (Holm) it cannot be told "
        f"from {', '.join(alike)}."
    )


def write(runs: str, out: Path, title: str) -> None:
    """Write the page and every count it is made of; `runs` are groups of run folders as a sweep names them."""
    arms = {arm(name): group for name, group in read_seeds(runs.split(",")).items()}
    attacks = dict.fromkeys(attack for group in arms.values() for attack in group[0].survived)
    out.mkdir(parents=True, exist_ok=True)
    page = as_markdown(title, [table(arms, attack) for attack in attacks])
    replace_file(out / "README.md", page.encode())
    replace_file(out / "counts.csv", counts_csv(arms))
