"""The demo over several seeds: means, paired differences, and a picture.

Knows: how tables of single seeds combine. Must not know: how one is made.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from faal_lab.demo import demo
from faal_lab.evaluation import Verdicts, combine_seeds
from faal_lab.figures import INK, RUN_COLOURS, styled
from faal_lab.runs import RunFolder
from faal_lab.runs.files import replace_file
from faal_lab.tables import ATTACK_TITLES

if TYPE_CHECKING:
    import plotly.graph_objects as go

Rows = list[dict[str, Any]]
RUNS = ("base", "control", "faal")


def over_seeds(out: Path, seeds: list[int], quick: bool = False) -> Path:
    """The demo for several seeds, and what they say together; a finished seed is not made again.

    Writes `seeds.json` (returned) and `seeds.html` into `out`. Raises DemoError.
    """
    found: dict[int, Rows] = {}
    for seed in seeds:
        rows = out / _name(seed, quick) / "rows.json"
        if not rows.exists():
            print(f"\n== seed {seed} ==")
            made = demo(_cleared(rows.parent), seed, quick)
            replace_file(rows, json.dumps(made, indent=1).encode())
        found[seed] = json.loads(rows.read_text(encoding="utf-8"))
    tables = list(found.values())
    means, changes = mean_rows(tables), [*differences(tables, "base"), *differences(tables, "control")]
    print(f"\nMean over seeds {', '.join(map(str, seeds))}, in percent:\n{text_of(means, changes)}")
    path = out / "seeds.json"
    path.write_text(json.dumps({"seeds": found, "mean": means, "differences": changes}, indent=1), encoding="utf-8")
    attack = tables[0][-1]["attack"]
    folders = {run: [out / _name(seed, quick) / run for seed in seeds] for run in RUNS}
    seed_bars(folders, attack).write_html(out / "seeds.html", include_plotlyjs=True, config={"responsive": True})
    return path


def _name(seed: int, quick: bool) -> str:
    return f"seed-{seed}" + ("-quick" if quick else "")  # a quick try must never pass for the real thing


def _cleared(folder: Path) -> Path:
    """A folder for a seed whose earlier attempt did not finish: that attempt is moved aside, not deleted."""
    if folder.exists():
        number = 1
        while (aside := folder.with_name(f"{folder.name}.unfinished-{number}")).exists():
            number += 1
        folder.rename(aside)
    return folder


def mean_rows(tables: list[Rows]) -> Rows:
    """Average and worst class of each run and attack, averaged over tables of the same shape."""
    means = []
    for rows in zip(*tables, strict=True):
        average, worst = (float(np.mean([r[key] for r in rows])) for key in ("average", "worst"))
        means.append({"run": rows[0]["run"], "attack": rows[0]["attack"], "average": average, "worst": worst})
    return means


def differences(tables: list[Rows], against: str) -> Rows:
    """FAAL minus `against`, seed by seed: mean and 95 % t-interval over the seeds (NaN for one seed)."""
    made = []
    for attack in dict.fromkeys(row["attack"] for row in tables[0]):
        entry: dict[str, Any] = {"of": "faal", "against": against, "attack": attack}
        for key in ("average", "worst"):
            faal, other = (_column(tables, run, attack, key) for run in ("faal", against))
            found = combine_seeds(np.subtract(faal, other).tolist())
            entry[key] = [found.mean, *(np.nan if end is None else end for end in (found.low, found.high))]
        made.append(entry)
    return made


def _column(tables: list[Rows], run: str, attack: str, key: str) -> list[float]:
    return [row[key] for rows in tables for row in rows if (row["run"], row["attack"]) == (run, attack)]


def text_of(means: Rows, changes: Rows) -> str:
    """Means and differences for a terminal."""
    lines = [f"{r['run']:<10} {r['attack']:<11} average {r['average']:5.1f}   worst class {r['worst']:5.1f}" for r in means]
    lines.append("\nFAAL minus the other, seed by seed, with the 95 % interval over seeds:")
    for entry in changes:
        parts = [f"{key} {v[0]:+5.1f} [{v[1]:+5.1f}, {v[2]:+5.1f}]" for key, v in entry.items() if isinstance(v, list)]
        lines.append(f"{entry['against']:<10} {entry['attack']:<11} {'   '.join(parts)}")
    return "\n".join(lines)


def seed_bars(folders: dict[str, list[Path]], attack: str) -> go.Figure:
    """Accuracy of each class under `attack`: the mean over seeds, whiskers from the lowest to the highest seed."""
    import plotly.graph_objects as go

    figure, names = go.Figure(), ()
    for number, (run, paths) in enumerate(folders.items()):
        verdicts = [Verdicts.read(RunFolder(path).verdicts_file()) for path in paths]
        names = verdicts[0].class_names
        rates = np.array([100 * np.divide(*v.counts(attack)) for v in verdicts])  # [seeds, C]
        mean = rates.mean(0)
        figure.add_bar(
            name=run, x=list(names), y=mean, marker_color=RUN_COLOURS[number],
            error_y={
                "symmetric": False, "array": rates.max(0) - mean, "arrayminus": mean - rates.min(0),
                "thickness": 1, "width": 2, "color": INK,
            },
        )  # fmt: skip
    figure.update_yaxes(title="accuracy, %", range=[0, 100])
    figure.update_xaxes(title="class", type="category")
    count = len(next(iter(folders.values())))
    title = f"{ATTACK_TITLES[attack]} accuracy by class: mean of {count} seeds, whiskers from lowest to highest"
    return styled(figure, title=title, barmode="group")
