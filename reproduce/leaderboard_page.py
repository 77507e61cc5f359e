"""The digits leaderboard, from the folder of its sweep: a page, a picture, and every count they are made of.

    faal-lab sweep reproduce/digits-leaderboard.yaml --workers 2
    python reproduce/leaderboard_page.py runs/digits-leaderboard results/digits-leaderboard

Writes README.md, leaderboard.png (with kaleido) and counts.csv. Differences are taken seed by seed, between runs from the same
base on the same test images; their intervals are Student's over the seeds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Container, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from faal_lab.evaluated import grouped, read_seeds
from faal_lab.evaluation import Verdicts, average_accuracy, combine_seeds, worst_accuracy
from faal_lab.figures import RUN_COLOURS, styled
from faal_lab.runs import RunFolder
from faal_lab.runs.files import replace_file
from faal_lab.table_files import Table, as_markdown, csv_of
from faal_lab.tables import ATTACK_TITLES

if TYPE_CHECKING:
    import plotly.graph_objects as go

Seeds = Mapping[str, Sequence[Verdicts]]  # stage/label -> a run's verdicts, seed after seed
PANELS = {
    "equal/at": "equal epochs, from PGD-AT", "equal/trades": "equal epochs, from TRADES",
    "own/at": "own protocol, from PGD-AT", "own/trades": "own protocol, from TRADES",
}  # fmt: skip


_ABOUT = """Every fairness method from the same networks of the handwritten digits, {count} seeds, {attack}.

Made by

```sh
faal-lab sweep reproduce/digits-leaderboard.yaml --workers 2
python reproduce/leaderboard_page.py runs/digits-leaderboard results/digits-leaderboard
```

The bases are trained for four epochs. `equal`: four more for all. `own`: each author's protocol, scaled by the one rule that
stands in the sweep's file, so that some go on for two epochs and others for twenty. Twenty epochs lift a base without any
fairness method, too: each method is held against the arm without one that was trained for at least as long (its control), and
against FAAL. A *worst class* is each seed's own. [counts.csv](counts.csv) has all counts, under PGD-20 and of clean images, too.

![Worst class and average of each method, four panels](leaderboard.png)

## What the intervals allow to say

{said}

What is in no list is undecided. Each interval is for one method alone: of twenty methods that change nothing one would stand out.
Test images are the same for all seeds, so intervals are of training. Where rows agree to the digit they are one run: `cfa` and
`cfa-ccm` from PGD-AT while no weights are averaged, both controls from TRADES. `cfa` with TRADES and `cfa-ccr` divide the loss by
1 + beta, as their paper has it, which is a seventh of the step in a short training.
"""


class Mean(NamedTuple):
    """A mean over seeds with its 95 % interval, in percent or points."""

    value: float
    low: float
    high: float

    @staticmethod
    def of(values: Sequence[float], *, cut: bool = False) -> Mean:
        """Student's; `cut` at 0 and 100, for accuracies."""
        found = combine_seeds(values)
        low, high = (float("nan") if end is None else end for end in (found.low, found.high))
        return Mean(found.mean, max(0.0, low), min(100.0, high)) if cut else Mean(found.mean, low, high)

    def text(self, sign: str = "") -> str:
        """For a table."""
        return f"{self.value + 0.0:{sign}.1f} ({self.low:{sign}.1f} to {self.high:{sign}.1f})"


class Row(NamedTuple):
    """A method in a panel: its own accuracies under one attack, and their differences to its control arm and to FAAL."""

    method: str
    epochs: int
    control: str
    average: Mean
    worst: Mean
    more_average: Mean
    more_worst: Mean
    past_faal: Mean

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
    """Average and worst class of each seed, in percent."""
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
        method = name.removeprefix(f"{panel}-")
        control = control_of(config.epochs, config.objective, stage, base, seeds)
        (average, worst), (its_average, its_worst) = numbers(group, attack), numbers(seeds[control], attack)
        own = [Mean.of(values.tolist(), cut=True) for values in (average, worst)]
        more = [Mean.of(values.tolist()) for values in (average - its_average, worst - its_worst, worst - faal)]
        rows.append(Row(method, config.epochs, control, *own, *more))
    return sorted(rows, key=lambda row: -row.worst.value)


def base_of(panel: str, seeds: Seeds, attack: str) -> tuple[Mean, Mean]:
    """Average and worst class of the networks that a panel starts from."""
    average, worst = numbers(seeds[f"base/{panel.split('/')[1]}"], attack)
    return Mean.of(average.tolist(), cut=True), Mean.of(worst.tolist(), cut=True)


def panel_table(panel: str, rows: Sequence[Row], base: tuple[Mean, Mean], attack: str) -> Table:
    """A panel as a table; the base's own numbers stand below it."""
    head = [
        "method",
        "epochs",
        "worst class, %",
        "average, %",
        "worst class against its control, points",
        "average against it",
        "worst class against FAAL's",
        "control, of at least its epochs",
    ]
    lines = [
        [
            row.method, str(row.epochs), row.worst.text(), row.average.text(),
            *(["-", "-"] if row.is_control else [row.more_worst.text("+"), row.more_average.text("+")]),
            "-" if row.method == "faal" else row.past_faal.text("+"), "-" if row.is_control else row.control,
        ]
        for row in rows
    ]  # fmt: skip
    said = f"The base itself: worst class {base[1].text()}, average {base[0].text()}."
    return Table(f"{ATTACK_TITLES[attack]}: {PANELS[panel]}", head, lines, [said])


def findings(panels: Mapping[str, Sequence[Row]]) -> list[str]:
    """What the intervals allow to say, panel by panel."""
    said = []
    for panel, rows in panels.items():
        arms = [row for row in rows if not row.is_control]
        better = [row.method for row in arms if row.more_worst.low > 0]
        worse = [row.method for row in arms if row.more_worst.high < 0]
        place = [row.method for row in arms].index("faal") + 1
        said.append(
            f"- {PANELS[panel]}: the worst class of {_several(better)} of {len(arms)} methods is above their control's, of "
            f"{_several(worse)} below. The highest mean is {arms[0].method}'s, {arms[0].worst.text()} %. FAAL is number {place} "
            f"of {len(arms)}: {_several([row.method for row in arms if row.past_faal.low > 0])} are above it, "
            f"{_several([row.method for row in arms if row.past_faal.high < 0])} below."
        )
    return said


def _several(methods: Sequence[str]) -> str:
    return f"{len(methods)}{' (' + ', '.join(methods) + ')' if methods else ''}"


def picture(panels: Mapping[str, Sequence[Row]], bases: Mapping[str, tuple[Mean, Mean]], attack: str, count: int) -> go.Figure:
    """Worst class (dot, with its interval) and average (tick) of each method, a panel a protocol and base, each in its order."""
    from plotly.subplots import make_subplots

    def name(panel: str, row: Row) -> str:
        return f"{row.method} ({row.epochs})" if panel.startswith("own") and not row.is_control else row.method

    titles = [PANELS[panel].replace("protocol", "protocol (epochs)") for panel in panels]
    figure = make_subplots(-(-len(panels) // 2), 2, subplot_titles=titles, horizontal_spacing=0.16, vertical_spacing=0.08)
    for number, (panel, rows) in enumerate(panels.items()):
        shown: dict[str, Any] = {"row": number // 2 + 1, "col": number % 2 + 1}
        figure.update_yaxes(categoryorder="array", categoryarray=[name(panel, row) for row in reversed(rows)], **shown)
        for title, colour, chosen in (
            ("worst class", RUN_COLOURS[1], [row for row in rows if not row.is_control]),
            ("worst class of a control", RUN_COLOURS[0], [row for row in rows if row.is_control]),
        ):
            worst = [row.worst for row in chosen]
            figure.add_scatter(
                x=[w.value for w in worst], y=[name(panel, row) for row in chosen], mode="markers", name=title,
                marker={"color": colour, "size": 8}, showlegend=number == 0, **shown,
                error_x={"type": "data", "symmetric": False, "array": [w.high - w.value for w in worst],
                         "arrayminus": [w.value - w.low for w in worst], "thickness": 1, "width": 3},
            )  # fmt: skip
        figure.add_scatter(
            x=[row.average.value for row in rows], y=[name(panel, row) for row in rows], mode="markers", name="average",
            marker={"color": RUN_COLOURS[2], "size": 8, "symbol": "line-ns-open"}, showlegend=number == 0, **shown,
        )  # fmt: skip
        base = bases[panel][1].value
        line = {"color": RUN_COLOURS[0], "dash": "dot"}
        figure.add_shape(type="line", x0=base, x1=base, y0=0, y1=1, yref="y domain", line=line, **shown)
    title = f"{ATTACK_TITLES[attack]}, mean of {count} seeds with 95 % intervals; dotted: the base's worst class"
    styled(figure, title=title).update_xaxes(range=[0, 100], ticksuffix=" %")
    legend = {"orientation": "h", "y": -0.06}
    room = {"l": 140, "r": 20, "t": 90, "b": 90}
    return figure.update_layout(height=1040, width=1160, margin=room, legend=legend, paper_bgcolor="white", plot_bgcolor="white")


def counts_csv(seeds: Seeds) -> bytes:
    """Every count: run, seed, attack, class, images that stand, images."""
    columns: dict[str, list[Any]] = {name: [] for name in ("run", "seed", "attack", "class", "stand", "images")}
    for name, group in seeds.items():
        for seed, verdicts in enumerate(group):
            for attack in verdicts.predicted:
                for label, stand, images in zip(verdicts.class_names, *verdicts.counts(attack), strict=True):
                    for column, value in zip(columns, (name, seed, attack, label, int(stand), int(images)), strict=True):
                        columns[column].append(value)
    return csv_of(columns)


def main() -> None:
    """Read the sweep, write the folder."""
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("sweep", type=Path, help="the folder of the finished sweep")
    words.add_argument("out", type=Path)
    words.add_argument("--attack", default="autoattack")
    options = words.parse_args()
    order = json.loads((options.sweep / "jobs" / "report" / "order.json").read_text(encoding="utf-8"))
    texts = order["parameters"]["runs"].split(",")
    seeds, folders = read_seeds(texts), grouped(texts)
    panels = {panel: panel_rows(panel, seeds, folders, options.attack) for panel in PANELS if f"{panel}-faal" in seeds}
    bases = {panel: base_of(panel, seeds, options.attack) for panel in panels}
    count = max(map(len, seeds.values()))
    tables = [panel_table(panel, rows, bases[panel], options.attack) for panel, rows in panels.items()]
    options.out.mkdir(parents=True, exist_ok=True)
    title, _, page = as_markdown("The digits leaderboard", tables).partition("\n")
    about = _ABOUT.format(count=count, attack=ATTACK_TITLES[options.attack], said="\n".join(findings(panels)))
    replace_file(options.out / "README.md", f"{title}\n\n{about}{page}".encode())
    replace_file(options.out / "counts.csv", counts_csv(seeds))
    if find_spec("kaleido") is not None:
        picture(panels, bases, options.attack, count).write_image(options.out / "leaderboard.png", scale=1)


if __name__ == "__main__":
    main()
