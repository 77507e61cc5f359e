"""The leaderboard's numbers: every method against its control and against FAAL, seed by seed, with intervals.

Differences are taken between runs from the same base on the same test images; their intervals are Student's over the seeds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t

from faal_lab.evaluation.comparison import combine_seeds
from faal_lab.evaluation.statistics import average_accuracy, worst_accuracy
from faal_lab.evaluation.verdicts import Verdicts
from faal_lab.runs import RunFolder

Seeds = Mapping[str, Sequence[Verdicts]]  # stage/label -> a run's verdicts, seed after seed


class Mean(NamedTuple):
    """A mean over seeds with its 95 % interval, in percent or points."""

    value: float
    low: float
    high: float

    @staticmethod
    def of(values: np.ndarray, *, cut: bool = False) -> Mean:
        """Student's; `cut` at 0 and 100, for accuracies."""
        found = combine_seeds(values.tolist())
        low, high = (float("nan") if end is None else end for end in (found.low, found.high))
        return Mean(found.mean, max(0.0, low), min(100.0, high)) if cut else Mean(found.mean, low, high)

    def text(self, sign: str = "") -> str:
        """For a table."""
        return f"{self.value + 0.0:{sign}.1f} ({self.low:{sign}.1f} to {self.high:{sign}.1f})"


class Row(NamedTuple):
    """A method in a panel: its own accuracies under one attack, and their differences to its control arm and to FAAL."""

    method: str
    epochs: int
    objective: str
    control: str
    average: Mean
    worst: Mean
    more_average: Mean
    more_worst: Mean
    past_faal: Mean
    p: float  # of no difference between its worst class and its control's, by Student's paired test

    @property
    def is_control(self) -> bool:
        """Whether it has no fairness method itself."""
        return self.method.startswith("control")


def control_of(epochs: int, objective: str, stage: str, base: str, known: Container[str]) -> str:
    """The arm without a fairness method that was trained for at least as long, by the same loss, from the same base."""
    length = "" if stage == "equal" or epochs == 4 else "-2ep" if epochs < 4 else "-20ep"
    loss = "-trades" if objective == "trades" and base == "at" else ""
    name = f"{stage if length else 'equal'}/{base}-control{length}{loss}"
    if name not in known:
        raise SystemExit(f"The sweep has no run {name}, the control of a method of {epochs} epochs. Add it to the sweep's file.")
    return name


def numbers(group: Sequence[Verdicts], attack: str) -> tuple[np.ndarray, np.ndarray]:
    """Average over classes and worst class of each seed, in percent."""
    counts = [verdicts.counts(attack) for verdicts in group]
    average = [100 * average_accuracy(*c).value for c in counts]
    return np.array(average), np.array([100 * worst_accuracy(*c)[0].value for c in counts])


def panel_rows(panel: str, seeds: Seeds, folders: Mapping[str, Sequence[str]], attack: str) -> list[Row]:
    """The methods of a panel, the most robust worst class first."""
    stage, base = panel.split("/")
    rows = []
    faal = numbers(seeds[f"{panel}-faal"], attack)[1]
    for name, group in seeds.items():
        if not name.startswith(f"{panel}-"):
            continue
        config = RunFolder.open(folders[name][0]).config()
        control = control_of(config.epochs, config.objective, stage, base, seeds)
        (average, worst), (its_average, its_worst) = numbers(group, attack), numbers(seeds[control], attack)
        gained = worst - its_worst
        row = Row(
            method=name.removeprefix(f"{panel}-"),
            epochs=config.epochs,
            objective=config.objective,
            control=control,
            average=Mean.of(average, cut=True),
            worst=Mean.of(worst, cut=True),
            more_average=Mean.of(average - its_average),
            more_worst=Mean.of(gained),
            past_faal=Mean.of(worst - faal),
            p=p_value(gained),
        )
        rows.append(row)
    return sorted(rows, key=lambda row: -row.worst.value)


def p_value(differences: np.ndarray) -> float:
    """Of Student's test that the mean is 0, two-sided; nan for a single seed."""
    spread = differences.std(ddof=1) if len(differences) > 1 else float("nan")
    return (
        1.0 if spread == 0 else float(2 * t.sf(abs(differences.mean()) / spread * len(differences) ** 0.5, len(differences) - 1))
    )


def base_of(panel: str, seeds: Seeds, attack: str) -> tuple[Mean, Mean]:
    """Average and worst class of the networks that a panel starts from."""
    average, worst = numbers(seeds[f"base/{panel.split('/')[1]}"], attack)
    return Mean.of(average, cut=True), Mean.of(worst, cut=True)


def most_often_worst(seeds: Seeds, attack: str) -> tuple[str, int, int, int]:
    """Which class is the worst most often, in how many of how many networks, and how many test images it has."""
    every = [verdicts for group in seeds.values() for verdicts in group]
    worst = Counter(worst_accuracy(*verdicts.counts(attack))[1] for verdicts in every)
    index, times = worst.most_common(1)[0]
    return every[0].class_names[index], times, len(every), int(every[0].counts(attack)[1][index])


def holm(values: Sequence[float]) -> list[float]:
    """p values corrected for their number (Holm, Scandinavian Journal of Statistics, 1979), in their order."""
    corrected, least = [0.0] * len(values), 0.0
    for place, index in enumerate(np.argsort(values)):
        least = max(least, min(1.0, (len(values) - place) * values[index]))
        corrected[index] = least
    return corrected


def findings(title: str, rows: Sequence[Row]) -> str:
    """What the intervals of a panel allow to say."""
    arms = [row for row in rows if not row.is_control]
    sure = [row for row, p in zip(arms, holm([row.p for row in arms]), strict=True) if p < 0.05]
    return (
        f"**{title}**, {len(arms)} arms. Worst class above its control's: {_names(arms, lambda r: r.more_worst.low > 0)}; "
        f"below: {_names(arms, lambda r: r.more_worst.high < 0)}. Corrected for {len(arms)} arms (Holm), above: "
        f"{_names(sure, lambda r: r.more_worst.value > 0)}; below: {_names(sure, lambda r: r.more_worst.value < 0)}. FAAL's mean "
        f"is number {[row.method for row in arms].index('faal') + 1}; shown above FAAL: "
        f"{_names(arms, lambda r: r.past_faal.low > 0)}; below: {_names(arms, lambda r: r.past_faal.high < 0)}."
    )


def _names(rows: Sequence[Row], chosen: Callable[[Row], bool]) -> str:
    return ", ".join(row.method for row in rows if chosen(row)) or "none"
