"""Turn verdicts into rows and sentences: results with intervals, inequality, differences, times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from faal_lab.catalogue import FAIRNESS
from faal_lab.errors import ConfigError, RunFolderError
from faal_lab.evaluation.comparison import Comparison, combine_seeds, compare
from faal_lab.evaluation.statistics import (
    average_accuracy,
    boundary_error,
    class_accuracy,
    class_gap,
    confusion,
    minimum_bias,
    rho,
    spectral_norm,
    spread,
    worst_accuracy,
    worst_share,
)
from faal_lab.evaluation.verdicts import Verdicts, VerdictsError
from faal_lab.runs import RunFolder
from faal_lab.runs.events import Balanced, RunStarted

_ENDS = (("", "value"), ("_low", "low"), ("_high", "high"))  # of a key, and the part of its estimate
ATTACK_TITLES = {
    "clean": "Clean", "noise": "Noise", "fgsm": "FGSM", "pgd-20": "PGD-20", "pgd-100": "PGD-100", "cw-20": "CW-20",
    "apgd-ce": "APGD-CE", "apgd-t": "APGD-T", "fab-t": "FAB-T", "square": "Square", "apgd-ce+t": "APGD-CE+T",
    "autoattack": "AutoAttack",
}  # fmt: skip


def result_rows(verdicts: dict[str, Verdicts]) -> list[dict[str, Any]]:
    """Make the result table: one row a run and attack, shares in percent with 95 % intervals.

    `labels` has the warnings that must be printed beside the numbers.
    """
    rows = []
    for run, verdict in verdicts.items():
        for attack in verdict.survived:
            counts = verdict.counts(attack)
            average, (worst, which) = average_accuracy(*counts), worst_accuracy(*counts)
            (whole,) = class_accuracy(counts[0].sum(keepdims=True), counts[1].sum(keepdims=True))
            gap = class_gap(*counts)
            assert whole is not None, "verdicts have images"
            rows.append({
                "run": run, "attack": attack, "images": int(counts[1].sum()),
                "average": 100 * average.value, "average_low": 100 * average.low, "average_high": 100 * average.high,
                "overall": 100 * whole.value, "overall_low": 100 * whole.low, "overall_high": 100 * whole.high,
                "worst": 100 * worst.value, "worst_low": 100 * worst.low, "worst_high": 100 * worst.high,
                "worst_class": verdict.class_names[which], "gap": 100 * gap.value, "gap_low": 100 * gap.low,
                "gap_high": 100 * gap.high, "labels": labels_of(verdict),
            })  # fmt: skip
    return rows


def group_rows(groups: Mapping[str, Sequence[Verdicts]]) -> list[dict[str, Any]]:
    """Make the result table of groups of seeds: `result_rows`, and the number of runs in `seeds`.

    For several runs a row has their means with Student's interval, cut at 0 and 100, and all their worst classes. Raises
    VerdictsError if the runs of a group were not evaluated with the same attacks.
    """
    rows = []
    for name, group in groups.items():
        if len({tuple(verdict.survived) for verdict in group}) > 1:
            raise VerdictsError(f"The runs of {name} were evaluated with different attacks. Evaluate them alike.")
        for alike in zip(*(result_rows({name: verdict}) for verdict in group), strict=True):
            rows.append({**alike[0], "seeds": len(alike), **(_over_seeds(alike) if len(alike) > 1 else {})})
    return rows


def _over_seeds(alike: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Combine the rows of one run and attack over seeds."""
    found: dict[str, Any] = {}
    for key in ("average", "overall", "worst", "gap"):
        mean = combine_seeds([row[key] for row in alike])
        low, high = np.clip(np.array([mean.low, mean.high], dtype=float), 0, 100).tolist()
        found |= {key: mean.mean, f"{key}_low": low, f"{key}_high": high}
    found["worst_class"] = ", ".join(dict.fromkeys(row["worst_class"] for row in alike))
    found["labels"] = list(dict.fromkeys(label for row in alike for label in row["labels"]))
    return found


def over_images(row: Mapping[str, Any]) -> str:
    """State the mean over images where it is not the mean over classes, since the classes differ in their number of images."""
    if abs(row["overall"] - row["average"]) < 1:
        return ""
    return f"{row['overall']:.1f} % ({row['overall_low']:.1f} to {row['overall_high']:.1f})"


def averages_note(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Name both averages where they differ by a point or more."""
    said = [f"{row['run']}, {ATTACK_TITLES[row['attack']]}: {text}" for row in rows if (text := over_images(row))]
    start = "The average is the mean over classes; classes differ in their number of test images. Over images: "
    return [start + "; ".join(said) + "."] if said else []


def text_table(verdicts: dict[str, Verdicts]) -> str:
    """Format the result table for a terminal, with the notes on its attacks."""
    lines = [f"{'run':<12} {'attack':<11} {'average, %':>22} {'worst class, %':>24}"]
    rows = result_rows(verdicts)
    for row in rows:
        average = f"{row['average']:5.1f} [{row['average_low']:5.1f}, {row['average_high']:5.1f}]"
        worst = f"{row['worst']:5.1f} [{row['worst_low']:5.1f}, {row['worst_high']:5.1f}]"
        lines.append(f"{row['run']:<12} {row['attack']:<11} {average:>22} {worst:>24}  class {row['worst_class']}{_marked(row)}")
    return "\n".join([*lines, *averages_note(rows), *notes(verdicts)])


def summary(verdicts: dict[str, Verdicts]) -> str:
    """Format the result table for a terminal, and the comparison with the first run or the reason why there is none."""
    try:
        compared = paired_sentences(comparisons(verdicts))
    except VerdictsError as error:
        compared = [f"Not compared: {error}"]
    return "\n".join([text_table(verdicts), *compared])


def _marked(row: dict[str, Any]) -> str:
    return "".join(f"  [{label}]" for label in row["labels"])


def notes(verdicts: dict[str, Verdicts]) -> list[str]:
    """List the remarks of the evaluations on their attacks, each once."""
    said = [v.header["note"] for v in verdicts.values() if "note" in v.header]
    shaky = [name for name, v in verdicts.items() if v.header.get("deterministic") is False]
    if shaky:
        said.append(
            f"Not deterministic: {', '.join(shaky)}. Two passes over the same images gave other logits, so these attacks "
            "do not measure its robustness."
        )
    chosen = [name for name, v in verdicts.items() if v.header.get("selected_on_test")]
    if chosen:
        said.append(
            f"Selected on test: {', '.join(chosen)}. Its training looked at the test images (validation=test), so its numbers "
            "are too high by an unknown amount."
        )
    said += [f"{name}: {text}" for name, v in verdicts.items() for text in v.header.get("findings", ())]
    if all(v.header.get("findings") == [] for v in verdicts.values()):
        said.append("No sign of masked gradients was found in any class.")
    return list(dict.fromkeys(said))


def each_seed(groups: Mapping[str, Sequence[Verdicts]]) -> dict[str, Verdicts]:
    """Name the verdicts of each seed: "fair 1", "fair 2"; the only ones of a name keep it."""
    return {f"{name} {n}" if len(group) > 1 else name: v for name, group in groups.items() for n, v in enumerate(group, 1)}


def comparisons(verdicts: dict[str, Verdicts], attack: str = "") -> dict[str, Comparison]:
    """Compare each run with the first, paired on the same images, under `attack` (empty: the last one)."""
    (first, base), *others = verdicts.items()
    attack = base.chosen(attack)
    found = {}
    for name, other in others:
        base.check_same(other, f"{first} and {name}")
        right = base.survived[attack], other.survived[attack]
        found[name] = compare(base.labels, *right, len(base.class_names), names=(first, name))
    return found


def paired_sentences(found: dict[str, Comparison]) -> list[str]:
    """State each comparison in a plain sentence that names both runs."""
    return [c.sentence() if c.identical else f"{c.names[1]} against {c.names[0]}: {c.sentence()}" for c in found.values()]


def last_attack(verdicts: Verdicts) -> str:
    """Return the last attack of an evaluation, which headlines report."""
    return list(verdicts.survived)[-1]


def marked(verdicts: Mapping[str, Verdicts]) -> dict[str, Verdicts]:
    """Add the labels of `labels_of` to the names, for columns, legends and files."""
    return {name + "".join(f" [{label}]" for label in labels_of(v)): v for name, v in verdicts.items()}


def labels_of(verdicts: Verdicts) -> list[str]:
    """Return the warnings to print beside every number of a run, in two or three words each."""
    header = verdicts.header
    marks = {
        "selected on test": header.get("selected_on_test"),
        "not deterministic": header.get("deterministic") is False,
        "masked gradients?": header.get("findings"),
    }
    return [label for label, holds in marks.items() if holds]


SPREAD_TITLES = {
    "gap": "highest minus lowest", "deviation": "standard deviation", "normalised": "deviation / mean (NSD)", "gini": "Gini",
    "ratio": "lowest / mean", "tenth": "worst 10 % of classes", "corrected": "worst class, selection allowed for",
    "boundary": "largest boundary error", "spectral": "spectral norm of confusions", "rho": "rho",
}  # fmt: skip


def spread_rows(verdicts: Mapping[str, Verdicts], attack: str = "") -> list[dict[str, Any]]:
    """Measure the inequality of the classes of each run under `attack` (empty: the last one).

    Values are shares in percent, except the ratios `normalised`, `gini`, `ratio`, `spectral` and `rho`. What has an interval has
    it in `_low` and `_high`. rho (WAT's) is relative to the first run. None means that a run does not give the value.
    """
    rows: list[dict[str, Any]] = []
    first: dict[str, Any] = {}
    for run, verdict in verdicts.items():
        name = attack or last_attack(verdict)
        counts, classes = verdict.counts(name), len(verdict.class_names)
        tenth, lowest = worst_share(*counts), minimum_bias(*counts)
        measured = {
            f"{key}{end}": (100 if key in ("gap", "deviation") else 1) * getattr(estimate, part)
            for key, estimate in vars(spread(*counts)).items()
            for end, part in _ENDS
        }
        row: dict[str, Any] = {
            "run": run, "attack": name, **measured, "tenth": 100 * tenth.observed,
            "tenth_low": 100 * tenth.corrected.low, "tenth_high": 100 * tenth.corrected.high,
            "corrected": 100 * lowest.corrected.value, "corrected_low": 100 * lowest.corrected.low,
            "corrected_high": 100 * lowest.corrected.high, "boundary": None, "boundary_class": None, "rho": None,
            "spectral": spectral_norm(confusion(verdict.labels, verdict.predicted[name], classes)),
        }  # fmt: skip
        if "clean" in verdict.survived and name != "clean":
            _, added = boundary_error(verdict.survived["clean"], verdict.survived[name], verdict.labels, classes)
            row |= {"boundary": 100 * float(np.nanmax(added)), "boundary_class": verdict.class_names[int(np.nanargmax(added))]}
        own = {"average": average_accuracy(*counts).value, "worst": worst_accuracy(*counts)[0].value}
        if first and min(first.values()) > 0:
            row["rho"] = rho(own["average"], own["worst"], first["average"], first["worst"])
        first = first or own
        rows.append(row)
    return rows


def spread_cells(row: dict[str, Any]) -> dict[str, str]:
    """Format a row of `spread_rows` as text, by the keys of SPREAD_TITLES."""
    cells = {}
    for key in SPREAD_TITLES:
        value = row[key]
        ratio = key in ("normalised", "gini", "ratio", "spectral", "rho")
        none, digits = value is None or np.isnan(value), 2 if ratio else 1
        cells[key] = "-" if none else f"{value:.{digits}f}"
        if f"{key}_low" in row and not none:
            cells[key] += f" ({row[f'{key}_low']:.{digits}f} to {row[f'{key}_high']:.{digits}f})"
    if row["boundary_class"] is not None:
        cells["boundary"] += f" ({row['boundary_class']})"
    if row["rho"] is not None:
        cells["rho"] = f"{row['rho']:+.2f}"
    return cells


def spread_table(verdicts: Mapping[str, Verdicts], attack: str = "") -> str:
    """Format the inequality of the classes for a terminal: one line a measure, one column a run."""
    rows = spread_rows(marked(verdicts), attack)
    cells = [spread_cells(row) for row in rows]
    lines = [f"{'under ' + rows[0]['attack']:<36}" + "".join(f"{row['run']:>24}" for row in rows)]
    return "\n".join(lines + [f"{title:<36}" + "".join(f"{c[key]:>24}" for c in cells) for key, title in SPREAD_TITLES.items()])


def seed_sentences(groups: Mapping[str, Sequence[Verdicts]], attack: str = "") -> list[str]:
    """Compare each group of seeds with the first: mean difference over seeds with Student's interval.

    Runs are paired in order: first with first, and so on. Raises VerdictsError if a pair was not evaluated on the same
    images, or groups differ in size.
    """
    (first, base), *others = groups.items()
    lines = []
    for name, group in others:
        if len(group) != len(base):
            raise VerdictsError(f"{first} has {len(base)} runs and {name} {len(group)}; expected one for each seed in both.")
        pairs = [
            comparisons({f"{first} {n}": a, f"{name} {n}": b}, attack)[f"{name} {n}"]
            for n, (a, b) in enumerate(zip(base, group, strict=True), 1)
        ]
        for what, values in (
            ("worst class", [p.worst.value for p in pairs]),
            ("average", [p.average.value for p in pairs]),
        ):
            lines.append(f"{name} against {first}, {what}: {combine_seeds(values).sentence()}")
    return lines


def epoch_seconds(run_folder: str | Path) -> list[float]:
    """Read the seconds of each epoch from the second on.

    The first epoch also compiles, fills caches and waits for files. The first epoch that ends after a resume is left out,
    too: it may contain the pause. Raises RunFolderError if none is left.
    """
    seconds, begun = [], None
    for event, _, time in RunFolder.open(run_folder).times():
        if event == "RunResumed":
            begun = None
        elif event == "EpochDone":
            if begun is not None:
                seconds.append(time - begun)
            begun = time
    if not seconds:
        raise RunFolderError(f"{run_folder} has no two epochs in a row to take the time of. Train for at least two.")
    return seconds


def time_rows(runs: Mapping[str, str | Path], paper: Mapping[str, float] | None = None) -> list[dict[str, Any]]:
    """Make a row a run: minutes an epoch (median, shortest, longest) and their ratio to the first run.

    A row also has the properties of the method. `paper` gives a paper's minutes by run name. Raises RunFolderError.
    """
    rows: list[dict[str, Any]] = []
    for name, path in runs.items():
        minutes = np.array(epoch_seconds(path)) / 60
        config = RunFolder.open(path).config()
        first = rows[0]["minutes"] if rows else float(np.median(minutes))
        rows.append({
            "run": name, "epochs": len(minutes), "minutes": float(np.median(minutes)), "shortest": float(minutes.min()),
            "longest": float(minutes.max()), "times": float(np.median(minutes)) / first, "device": config.device,
            "paper": (paper or {}).get(name), "properties": FAIRNESS[config.fairness].properties(),
        })  # fmt: skip
    for row in rows:
        row["paper_times"] = row["paper"] / rows[0]["paper"] if row["paper"] and rows[0]["paper"] else None
    return rows


def minutes_of(entries: Iterable[str]) -> dict[str, float]:
    """Read a paper's minutes from texts such as `name=2.63`; raises ConfigError."""
    found = {}
    for entry in entries:
        name, equals, value = entry.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            equals = ""
        if not equals or not found[name] > 0:
            raise ConfigError(f"a paper's minutes must be like name=2.63, got {entry!r}.")
    return found


def balance_rows(run: str | Path) -> list[dict[str, Any]]:
    """Return one row a round of a run's balance: average and worst class on the validation images, in percent with intervals.

    Raises RunFolderError if the run was not balanced.
    """
    events = RunFolder.open(run).events()
    found = next((event for event in events if isinstance(event, Balanced)), None)
    if found is None:
        raise RunFolderError(f"{run} was not balanced: it has no bias of its classes. Balance it: faal-lab balance {run}")
    names = next(list(event.class_names) for event in events if isinstance(event, RunStarted))
    return [
        {"round": number, **balance_row(correct, found.count, names), "chosen": number == found.chosen, "bias": bias}
        for number, (bias, correct) in enumerate(zip(found.bias, found.correct, strict=True))
    ]


def balance_row(correct: Sequence[int], count: Sequence[int], names: Sequence[str]) -> dict[str, Any]:
    """Return average and worst class of one bias, in percent with intervals: `average`, `average_low`, ..., `worst_class`."""
    right, total = np.array(correct), np.array(count)
    worst, which = worst_accuracy(right, total)
    numbers = {
        f"{key}{end}": 100 * getattr(estimate, part)
        for key, estimate in (("average", average_accuracy(right, total)), ("worst", worst))
        for end, part in _ENDS
    }
    return {**numbers, "worst_class": names[which], "images": int(total.sum())}


def balance_table(run: str | Path) -> str:
    """Format the rounds of a balance for a terminal."""
    rows = balance_rows(run)
    lines = [f"{'round':<6} {'average, %':>22} {'worst class, %':>24}"]
    for row in rows:
        average, worst = (f"{row[k]:5.1f} [{row[f'{k}_low']:5.1f}, {row[f'{k}_high']:5.1f}]" for k in ("average", "worst"))
        ends = (
            f"  class {row['worst_class']}"
            + (" (no bias)" if not row["round"] else "")
            + ("  <- chosen" if row["chosen"] else "")
        )
        lines.append(f"{row['round']:<6} {average:>22} {worst:>24}{ends}")
    told = f"On {rows[0]['images']:,} attacked validation images. They chose the round: test images tell what it is worth."
    return "\n".join([*lines, told])
