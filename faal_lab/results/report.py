"""Write run folders as tables and one HTML page that opens offline."""

from __future__ import annotations

import html
import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faal_lab.evaluation.groups import Reported
from faal_lab.evaluation.suite import describe
from faal_lab.evaluation.verdicts import Verdicts, VerdictsError
from faal_lab.results.figures import class_bars, validation_curves, weights_over_batches
from faal_lab.results.formats import (
    Table,
    as_csv,
    check_page,
    html_table,
    marked_run,
    paper_table,
    result_table,
    settings_html,
    spread_html,
    write_tables,
)
from faal_lab.results.published import Published, paper_rows
from faal_lab.results.robustness import run_pictures
from faal_lab.results.tables import (
    ATTACK_TITLES,
    comparisons,
    group_rows,
    labels_of,
    last_attack,
    marked,
    notes,
    paired_sentences,
    seed_sentences,
)
from faal_lab.runs.files import replace_file
from faal_lab.training.parameters import ADOPTION_SETTINGS, run_command, stated_settings

if TYPE_CHECKING:
    import plotly.graph_objects as go


def _comparisons_html(runs: list[Reported]) -> str:
    """Format the change of each class against the first run, with its p values."""
    found = comparisons({run.name: run.verdicts for run in runs})
    if not found:
        return ""
    names = runs[0].verdicts.class_names
    rows = []
    for run, comparison in found.items():
        for name, difference in zip(names, comparison.classes, strict=True):
            if difference is not None:
                words = [f"{100 * difference.value:+.1f}", f"{difference.only_a} / {difference.only_b}"]
                rows.append([run, name, *words, f"{difference.p:.2g}", f"{difference.holm:.2g}"])
    first = runs[0].name
    head = ["run", "class", f"points above {first}", f"right only in {first} / in this one", "p (McNemar)", "p (Holm)"]
    title = f"Paired on the same images, class by class, under {ATTACK_TITLES[last_attack(runs[0].verdicts)]}"
    return f"<details><summary>{title}</summary>{html_table(head, rows)}</details>"


def headlines(runs: list[Reported]) -> list[str]:
    """State the first run's accuracy under the last attack, and the others' changes, with intervals."""
    attack = last_attack(runs[0].verdicts)
    row = next(row for row in group_rows({runs[0].name: runs[0].group}) if row["attack"] == attack)
    over = f", mean of {row['seeds']} seeds" if row["seeds"] > 1 else ""
    start = (
        f"Under {ATTACK_TITLES[attack]}, {marked_run(row)} classifies {row['average']:.1f} % on average "
        f"({row['average_low']:.1f} to {row['average_high']:.1f}{over}) and {row['worst']:.1f} % of its worst class, "
        f"{row['worst_class']} ({row['worst_low']:.1f} to {row['worst_high']:.1f}{over})."
    )
    if any(run.others for run in runs):
        count = len(runs[0].group)
        alike = {run.name: run.group for run in runs if len(run.group) == count}
        others = [f"{run.name} has {len(run.group)} runs and {runs[0].name} {count}: not compared over seeds."
                  for run in runs if run.name not in alike]  # fmt: skip
        return [start, *seed_sentences(alike, attack), *others]
    return [start, *paired_sentences(comparisons({run.name: run.verdicts for run in runs}))]


def report_tables(runs: list[Reported], paper: Mapping[str, Published]) -> tuple[list[Table], bytes]:
    """Make the tables for readers, results first, and the same numbers as CSV.

    Raises UnknownName if `paper` names a run that is not among `runs`.
    """
    rows = group_rows({run.name: run.group for run in runs})
    beside = paper_rows(paper, rows)
    each = {name: v for run in runs for name, v in _apart(run).items()}
    tables = [result_table(rows, notes(each)), *([paper_table(beside)] if beside else [])]
    return tables, as_csv(rows, beside)


def _apart(run: Reported) -> dict[str, Verdicts]:
    """Name the verdicts of each seed."""
    if not run.others:
        return {run.name: run.verdicts}
    return {f"{run.name} {number}": found for number, found in enumerate(run.group, 1)}


def _table_html(table: Table) -> str:
    remarks = "".join(f"<p class='note'>{html.escape(note)}</p>" for note in table.notes)
    return f"<h2>{html.escape(table.title)}</h2>{html_table(table.head, table.rows)}{remarks}"


def _attacks_html(runs: list[Reported]) -> str:
    """Describe each attack, and list the commands that made the numbers."""
    verdicts, about = runs[0].verdicts, runs[0].verdicts.header
    counts = str(len(verdicts.labels))
    rows = [[ATTACK_TITLES[a], _ball(about) if a != "clean" else "", counts, describe(a, verdicts)] for a in verdicts.survived]
    table = html_table(["attack", "radius", "test images", "what it does"], rows)
    parts = [table.replace("class='wide'", "class='wide told'"), "<h3>Commands</h3>"]
    for run in runs:
        lines = [] if run.adopted else [run_command(run.folder.config(), run.folder.path)]
        lines.append(evaluate_command(run))
        labels = "".join(f" [{label}]" for label in labels_of(run.verdicts))
        parts.append(f"<p class='note'>{html.escape(run.name + labels)}</p><pre>{html.escape(chr(10).join(lines))}</pre>")
    return "".join(parts)


def _ball(about: dict[str, Any]) -> str:
    return f"{ {'linf': 'L-infinity', 'l2': 'L2'}[about['norm']] } {about['epsilon']:g}"


def evaluate_command(run: Reported) -> str:
    """Build the command that makes a run's verdicts."""
    about, config = run.verdicts.header, run.folder.config()
    words = ["faal-lab", "evaluate", str(run.folder.path), "--attacks", ",".join(run.verdicts.survived)]
    words += ["--epsilon", repr(about["epsilon"])]
    if run.adopted:
        words[2] = config.base or config.model
        mine = set(stated_settings(config)) - ({"download"} if config.base else {"download", "model", "filters"}) | {"data"}
        words += [f"--{name.replace('_', '-')}={getattr(config, name)}" for name in ADOPTION_SETTINGS if name in mine]
        words += ["--out", str(run.folder.path)]
    if about.get("images"):
        words += ["--images", str(about["images"])]
    words += [part for key, usual in (("mode", "per-image"), ("checkpoint", "last")) if about[key] != usual
              for part in (f"--{key}", about[key])]  # fmt: skip
    return shlex.join(words)


_TOGETHER = 8  # most runs whose bars differ in colour


def figures_of(runs: list[Reported]) -> dict[str, list[go.Figure]]:
    """Draw the report's figures by heading: classes, then the attacks' effect on each run, then training."""
    verdicts = marked({run.name: run.verdicts for run in runs})
    attacks = [a for a in runs[0].verdicts.survived if a != "clean"]
    shown = list(dict.fromkeys([attacks[-1], attacks[0]])) if attacks else ["clean"]
    found = {"": [class_bars(dict([*verdicts.items()][:_TOGETHER]), attack) for attack in shown]}
    first, *others = verdicts.items()
    for start in range(_TOGETHER - 1, len(others), _TOGETHER - 1):
        some = dict([first, *others[start : start + _TOGETHER - 1]])
        found.setdefault("More runs, class by class", []).extend(class_bars(some, attack) for attack in shown)
    for name, verdict in verdicts.items():
        for draw in run_pictures(name, verdict, shown[0]).values():
            with suppress(VerdictsError):  # older verdicts have no curve and no images
                found.setdefault(f"What the attack does to {name}", []).append(draw())
    trained = [figure for run in runs if not run.adopted for figure in _training_figures(run)]
    return found | ({"How training went": trained} if trained else {})


def _training_figures(run: Reported) -> list[go.Figure]:
    """Draw the class weights and the validation of a run."""
    config, drawn = run.folder.config(), []
    if config.fairness != "none":
        drawn.append(weights_over_batches(run.history, list(run.verdicts.class_names), f"Class weights (CDAW): {run.name}"))
    if config.validation != "none":
        what = "Test images (selected on them)" if config.validation == "test" else "Validation"
        drawn.append(validation_curves(run.history).update_layout(title=f"{what} after each epoch: {run.name}"))
    return drawn


def _figures_html(runs: list[Reported]) -> str:
    """Format the figures by heading; all but the first heading are folded."""
    import plotly.io as pio

    parts, first = [], True
    for heading, figures in figures_of(runs).items():
        # plotly draws a figure in a closed fold too narrow and redraws on a resize, so each fold sends one when it opens
        fold = "<details ontoggle=\"window.dispatchEvent(new Event('resize'))\">"
        parts.append(f"{fold}<summary>{html.escape(heading)}</summary>" if heading else "")
        for figure in figures:
            options: dict[str, Any] = {"full_html": False, "include_plotlyjs": first, "config": {"responsive": True}}
            parts.append(pio.to_html(figure, **options))
            first = False
        parts.append("</details>" if heading else "")
    return "".join(parts)


_STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --page: #ffffff; --line: #d0d0d0; --soft: #f3f3f3; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --page: #16181b; --line: #43474d; --soft: #202429; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 62rem; margin: 0 auto;
       padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .4rem; } h3 { font-size: 1rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; margin: .5rem 0 1rem; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
.told td:last-child { white-space: normal; min-width: 16rem; }
th { background: var(--soft); } .lead { font-size: 1.05rem; margin: .4rem 0; } .note { font-size: .9rem; opacity: .85; }
pre { overflow-x: auto; background: var(--soft); padding: .6rem .8rem; font-size: .8rem; }
summary { cursor: pointer; margin: .6rem 0; } .js-plotly-plot { margin: .5rem 0; }
"""

_FIRST_SEEDS = "From here on, pictures and tables are of the first seed of each name."


def write_report(
    runs: list[Reported],
    out: str | Path,
    title: str = "Class-wise robustness",
    paper: Mapping[str, Published] | None = None,
) -> Path:
    """Write one HTML page with tables, figures, settings and versions; returns its path.

    The page needs no network. The tables are also written beside the page, under its name, as CSV, LaTeX and Markdown.
    `paper` gives a paper's numbers by run name, to print beside ours. Raises ConfigError, UnknownName or OSError.
    """
    path = Path(out)
    check_page(path)
    tables, data = report_tables(runs, paper or {})
    spread = spread_html({run.name: run.verdicts for run in runs})
    settings = settings_html({run.name: run.folder for run in runs})
    seeds = f"<p class='note'>{_FIRST_SEEDS}</p>" if any(run.others for run in runs) else ""
    page = (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body><h1>{html.escape(title)}</h1>"
        f"{_lead(headlines(runs))}<p class='note'>{html.escape(_setting(runs[0].verdicts))}</p>"
        f"{''.join(map(_table_html, tables))}{seeds}{_comparisons_html(runs)}"
        f"<h2>Class by class</h2>{_figures_html(runs)}<h2>How unequal the classes are</h2>{spread}"
        f"<h2>How it was made</h2>{_attacks_html(runs)}{settings}</body></html>"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, page.encode())
    write_tables(path, title, tables, data)
    return path


def _lead(lines: list[str]) -> str:
    """Format the sentences at the head of the page; beyond the first eight they are folded."""
    told = [f"<p class='lead'>{html.escape(line)}</p>" for line in lines]
    more = f"<details><summary>{len(told) - _TOGETHER} more sentences</summary>{''.join(told[_TOGETHER:])}</details>"
    return "".join(told[:_TOGETHER]) + (more if len(told) > _TOGETHER else "")


def _setting(verdicts: Verdicts) -> str:
    about = verdicts.header
    return (
        f"Data: {about['data']} (test split, {len(verdicts.labels)} images). Attacks in the ball {_ball(about)}, "
        f"pixels in [0, 1], seed {about['seed']}, {about['precision']}."
    )
