"""The digits leaderboard, from the folder of its sweep: a page, a picture, and every count they are made of.

    faal-lab sweep reproduce/digits-leaderboard.yaml --workers 2
    python reproduce/leaderboard_page.py runs/digits-leaderboard results/digits-leaderboard

Writes README.md, leaderboard.png (with kaleido) and counts.csv.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from leaderboard import Mean, Row, Seeds, base_of, findings, most_often_worst, panel_rows
from pictures import draw

from faal_lab.evaluation.groups import grouped, read_seeds
from faal_lab.results.figures import RUN_COLOURS, styled
from faal_lab.results.formats import Table, as_markdown, csv_of
from faal_lab.results.tables import ATTACK_TITLES
from faal_lab.runs import RunFolder
from faal_lab.runs.files import replace_file

if TYPE_CHECKING:
    import plotly.graph_objects as go

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

A small network (24 filters), 1,000 training, 200 validation and 597 test digits of 8x8 pixels, epsilon 0.1 in L-infinity, one
split for all seeds. The bases are trained for four epochs. `equal`: four more for all, at 0.01. `own`: each author's epochs,
learning rates and starts, scaled by the one rule that stands in the sweep's file; network, batch, weight decay and base are
ours. So some train for two epochs and others for twenty. [counts.csv](counts.csv) has all counts, under PGD-20 and of clean
images, too. Trained with {made_by}.

![Worst class and average of each method, four panels](leaderboard.png)

## What the intervals allow to say

{said}

What is in no list is undecided. An interval is for one comparison alone, and with five seeds Student's leans on normal
differences. The places are of means, not a proven order. The worst class is found for each seed anew: it is the {lowest} in
{times} of {networks} networks, and has {images} test images, so one image is {point:.1f} points, and intervals show how much
training varies, not how much other images would change. The average is over the ten classes.

## What to know before comparing

- The network, the four epochs and their rate were chosen earlier for FAAL and its control on these digits, partly after a look
  at seeds 0 to 4 (CHANGELOG.md). No other method was tuned here: `equal` has FAAL at home.
- A method is held against the arm without a fairness method that was trained for at least as long, by the same loss, from the
  same base. They differ in more than the method where a method brings more: FRL has TRADES at beta 1.5, its control at 6; FRL
  and CSR have a smaller learning rate in `own`; methods of ten to fifteen epochs are held against twenty, so that "below" may
  mean fewer epochs; FAAL by PGD-AT begins its attacks at the clean image, its control at random.
- FRL and WAT learn from the 200 validation images, too. Group DRO's authors trained nothing like this; in `own` it has twenty
  epochs.
- `cfa` with TRADES and `cfa-ccr` divide the loss by 1 + beta, as their paper has it: a seventh of the step in a short training.
- In `own`, `faal` is the two epochs of its authors' fine-tuning, which is made for networks that are trained out, and
  `faal-scratch` their training from random weights: plain for half of the epochs, then FAAL with tau 0.25 and 0.5 and an
  average of weights.
- Some rows are one training made twice: `cfa` and `cfa-ccm` at equal epochs from PGD-AT, where no weights are averaged, and
  both controls from TRADES.
"""


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


def picture(panels: Mapping[str, Sequence[Row]], bases: Mapping[str, tuple[Mean, Mean]], attack: str, count: int) -> go.Figure:
    """Worst class (dot, with its interval) and average (tick) of each method, a panel a protocol and base, each in its order."""
    from plotly.subplots import make_subplots

    titles = [PANELS[panel].replace("protocol", "protocol (epochs)") for panel in panels]
    figure = make_subplots(-(-len(panels) // 2), 2, subplot_titles=titles, horizontal_spacing=0.16, vertical_spacing=0.08)
    for number, (panel, rows) in enumerate(panels.items()):
        _draw(figure, rows, panel.startswith("own"), {"row": number // 2 + 1, "col": number % 2 + 1}, legend=number == 0)
        base = bases[panel][1].value
        line = {"color": RUN_COLOURS[0], "dash": "dot"}
        where: dict[str, Any] = {"row": number // 2 + 1, "col": number % 2 + 1, "yref": "y domain"}
        figure.add_shape(type="line", x0=base, x1=base, y0=0, y1=1, line=line, **where)
    title = (
        f"{ATTACK_TITLES[attack]}: worst class, mean of {count} seeds with its 95 % interval. Diamonds: trained by TRADES. "
        "Dotted: the base.<br>By mean, which is no proven order; for differences see the tables."
    )
    styled(figure, title={"text": title, "font": {"size": 14}}).update_xaxes(range=[0, 100], ticksuffix=" %")
    legend = {"orientation": "h", "y": -0.06}
    room = {"l": 140, "r": 20, "t": 100, "b": 90}
    return figure.update_layout(height=1060, width=1160, margin=room, legend=legend, paper_bgcolor="white", plot_bgcolor="white")


def _draw(figure: go.Figure, rows: Sequence[Row], epochs: bool, where: dict[str, Any], *, legend: bool) -> None:
    def name(row: Row) -> str:
        text = f"{row.method} ({row.epochs})" if epochs and not row.is_control else row.method
        return f"<b>{text}</b>" if row.method.startswith("faal") else text

    figure.update_yaxes(categoryorder="array", categoryarray=[name(row) for row in reversed(rows)], **where)
    kinds = {"FAAL": RUN_COLOURS[6], "another method": RUN_COLOURS[1], "no fairness method (control)": RUN_COLOURS[0]}
    for title, colour in kinds.items():
        chosen = [row for row in rows if _kind(row) == title]
        worst = [row.worst for row in chosen]
        symbols = ["diamond" if row.objective == "trades" else "circle" for row in chosen]
        figure.add_scatter(
            x=[w.value for w in worst], y=[name(row) for row in chosen], mode="markers", name=title,
            marker={"color": colour, "size": 9, "symbol": symbols}, showlegend=legend, **where,
            error_x={"type": "data", "symmetric": False, "array": [w.high - w.value for w in worst],
                     "arrayminus": [w.value - w.low for w in worst], "thickness": 1, "width": 3},
        )  # fmt: skip
    figure.add_scatter(
        x=[row.average.value for row in rows], y=[name(row) for row in rows], mode="markers", name="average over classes",
        marker={"color": RUN_COLOURS[2], "size": 9, "symbol": "line-ns-open", "line": {"width": 2}}, showlegend=legend, **where,
    )  # fmt: skip


def _kind(row: Row) -> str:
    return "no fairness method (control)" if row.is_control else "FAAL" if row.method.startswith("faal") else "another method"


def counts_csv(seeds: Seeds) -> bytes:
    """Every count: run, seed, attack, class, images that stand, images."""
    rows = [
        (name, seed, attack, label, int(stand), int(images))
        for name, group in seeds.items()
        for seed, verdicts in enumerate(group)
        for attack in verdicts.predicted
        for label, stand, images in zip(verdicts.class_names, *verdicts.counts(attack), strict=True)
    ]
    return csv_of(pd.DataFrame(rows, columns=["run", "seed", "attack", "class", "stand", "images"]))


def made_by(folders: Mapping[str, Sequence[str]]) -> str:
    """Package, commit and torch of all runs; several where they differ."""
    every = [RunFolder.open(folder).versions() for group in folders.values() for folder in group]
    found = {f"faal-lab {v['faal-lab']} at commit {v['commit'][:12]}, torch {v['torch']}" for v in every}
    return "; ".join(sorted(found))


def words_of(said: str | None) -> argparse.ArgumentParser:
    """The command line of a page: the sweep that it reads and the folder that it writes."""
    words = argparse.ArgumentParser(description=(said or "").splitlines()[0])
    words.add_argument("sweep", type=Path, help="the folder of the finished sweep")
    words.add_argument("out", type=Path)
    return words


def read_sweep(sweep: Path) -> tuple[Seeds, Mapping[str, Sequence[str]]]:
    """The verdicts of a finished sweep and the folders of its runs, by stage/label."""
    order = json.loads((sweep / "jobs" / "report" / "order.json").read_text(encoding="utf-8"))
    texts = order["parameters"]["runs"].split(",")
    return read_seeds(texts), grouped(texts)


def main() -> None:
    """Read the sweep, write the folder."""
    words = words_of(__doc__)
    words.add_argument("--attack", default="autoattack")
    options = words.parse_args()
    seeds, folders = read_sweep(options.sweep)
    panels = {panel: panel_rows(panel, seeds, folders, options.attack) for panel in PANELS if f"{panel}-faal" in seeds}
    bases = {panel: base_of(panel, seeds, options.attack) for panel in panels}
    count = max(map(len, seeds.values()))
    tables = [panel_table(panel, rows, bases[panel], options.attack) for panel, rows in panels.items()]
    options.out.mkdir(parents=True, exist_ok=True)
    title, _, page = as_markdown("The digits leaderboard", tables).partition("\n")
    said = "\n".join(f"- {findings(PANELS[panel], rows)}" for panel, rows in panels.items())
    lowest, times, networks, images = most_often_worst(seeds, options.attack)
    about = _ABOUT.format(
        count=count, attack=ATTACK_TITLES[options.attack], said=said, made_by=made_by(folders),
        lowest=lowest, times=times, networks=networks, images=images, point=100 / images,
    )  # fmt: skip
    replace_file(options.out / "README.md", f"{title}\n\n{about}{page}".encode())
    replace_file(options.out / "counts.csv", counts_csv(seeds))
    draw(picture(panels, bases, options.attack, count), options.out / "leaderboard.png")


if __name__ == "__main__":
    main()
