"""Write rows of results as text, Markdown, LaTeX, CSV and HTML tables."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from faal_lab.errors import ConfigError, check_name, csv_cell
from faal_lab.evaluation.evaluate import Runs
from faal_lab.evaluation.groups import grouped, groups_of
from faal_lab.evaluation.verdicts import Verdicts
from faal_lab.results import tables
from faal_lab.results.published import NUMBERS
from faal_lab.results.tables import ATTACK_TITLES, SPREAD_TITLES, averages_note, marked, spread_cells, spread_rows
from faal_lab.runs import RunFolder
from faal_lab.runs.files import replace_file

Rows = Sequence[Mapping[str, Any]]


class ResultTable(pd.DataFrame):
    """Numbers in columns, displayed for readers: with intervals in words and their notes.

    A selection from it is a plain DataFrame. `shown` is the table as text.
    """

    _metadata = ["shown"]  # noqa: RUF012 (pandas' own way)
    shown: Table

    @staticmethod
    def of(rows: Rows, shown: Table, index: list[str]) -> ResultTable:
        """Make a result table from rows and the table that is displayed in their place."""
        made = ResultTable(list(rows)).set_index(index)
        made = ResultTable(made)
        made.shown = shown
        return made

    def __repr__(self) -> str:
        text = self.shown.frame().to_string(index=False)
        return "\n".join([text, *self.shown.notes])

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.shown.notes)
        return self.shown.html() + notes


class Table(NamedTuple):
    """A table of text for readers, with its title and notes."""

    title: str
    head: list[str]
    rows: list[list[str]]
    notes: list[str]

    def frame(self) -> pd.DataFrame:
        """Return the rows as a DataFrame of text, which writes every format."""
        return pd.DataFrame(self.rows, columns=self.head, dtype=str)

    def html(self) -> str:
        """Format the rows in HTML: text is escaped, and the table scrolls sideways on a narrow page, by keyboard too."""
        with pd.option_context("display.max_colwidth", None):  # pandas cuts longer texts
            table = self.frame().to_html(index=False, border=0, justify="left")
        named = f" role='region' aria-label='{html.escape(self.title, quote=True)}'" if self.title else ""
        return f"<div class='wide' style='overflow-x:auto' tabindex='0'{named}>{table}</div>"


RESULTS_NOTE = (
    "Average: mean of the class accuracies, exact interval at the images' effective number. Worst class: interval that holds "
    "for all classes at once (exact, Sidak), since the lowest of several noisy numbers is biased low. Gap: highest minus lowest "
    "class; the outermost ends of all pairs that may be these two. Intervals cover the sampling of test images, not of training "
    "seeds. An image counts as robust under PGD if no iterate fooled the model."
)
_SEEDS_NOTE = (
    "Of several seeds, the mean over them: each seed's average, its own worst class, its own gap. Their 95 % interval is "
    "Student's and covers the variation of training, not the sampling of the test images that the seeds share."
)
PAPER_NOTE = (
    "Difference: ours minus the paper's. The paper prints no intervals, so its number is taken as exact: the interval of the "
    "difference is that of ours, moved. The paper's own number varies, too, and the true difference is less sure than it says."
)
_INTERVAL = "(95 % interval)"


def interval(row: Mapping[str, Any], key: str, sign: str = "") -> str:
    """Format `key` of a row with the ends of its interval, or a dash if it was not measured."""
    if row[key] is None:
        return "-"
    value, low, high = (f"{row[name] + 0.0:{sign}.1f}" for name in (key, f"{key}_low", f"{key}_high"))
    return f"{value} ({low} to {high})"


def marked_run(row: Mapping[str, Any]) -> str:
    """Return the run of a row with its labels, which must be printed beside its numbers."""
    return row["run"] + "".join(f" [{label}]" for label in row["labels"])


def result_table(rows: Rows, notes: Iterable[str] = ()) -> Table:
    """Make the table of average and worst class by attack and run, from rows of `tables.group_rows`."""
    several = any(row["seeds"] > 1 for row in rows)
    average, worst, gap = (f"{what} {_INTERVAL}" for what in ("average, %", "worst class, %", "gap"))
    head = ["attack", "run", average, worst, "which class", gap, "test images"]
    order = list(ATTACK_TITLES)
    lines = [
        [
            ATTACK_TITLES[row["attack"]], marked_run(row), interval(row, "average"), interval(row, "worst"), row["worst_class"],
            interval(row, "gap"), str(row["images"]), *([str(row["seeds"])] if several else []),
        ]
        for row in sorted(rows, key=lambda row: order.index(row["attack"]))
    ]  # fmt: skip
    said = [*averages_note(rows), *notes, RESULTS_NOTE, *([_SEEDS_NOTE] if several else [])]
    return Table("Accuracy", head + (["seeds"] if several else []), lines, said)


def inequality_table(rows: Rows) -> Table:
    """Tabulate the inequality of the classes, from rows of `tables.spread_rows`: one line a measure, one column a run."""
    cells = [spread_cells(dict(row)) for row in rows]
    lines = [[title, *(cell[key] for cell in cells)] for key, title in SPREAD_TITLES.items()]
    head = [f"under {ATTACK_TITLES[rows[0]['attack']]}", *(row["run"] for row in rows)]
    note = (
        "Shares in percent, with 95 % intervals for the truth. Noise alone spreads equal classes, too. The intervals allow for "
        "that, so a value may lie near the upper end of its own. Selection: the lowest of several noisy shares is biased low; "
        "the corrected value is an estimate by bootstrap. Boundary error: what the attack adds to a class's clean error. "
        f"Spectral norm: of the confusions without their diagonal. rho: relative gain of the worst class over "
        f"{rows[0]['run']} minus relative loss of the average."
    )
    return Table("How unequal the classes are", head, lines, [note])


def times_table(rows: Rows) -> Table:
    """Make the table of minutes an epoch of each run, from rows of `tables.time_rows`."""
    lines = [
        [row["run"], f"{row['minutes']:.3f}", str(row["epochs"]), f"x {row['times']:.3f}", row["properties"]] for row in rows
    ]
    return Table("Minutes an epoch", ["run", "minutes", "epochs", "of the first", "method"], lines, [])


def paper_table(rows: Rows) -> Table:
    """Make the table of ours, the paper's and their difference, from rows of `published.paper_rows`."""
    head = ["attack", "run", "number, %", f"ours {_INTERVAL}", "paper", f"difference {_INTERVAL}", "source"]
    titles = {"average": "average", "worst": "worst class"}
    lines = [
        [
            ATTACK_TITLES[row["attack"]], row["run"], titles[row["number"]], interval(row, "ours"), f"{row['paper']:g}",
            interval(row, "difference", "+"), row["source"],
        ]
        for row in rows
    ]  # fmt: skip
    missing = ["A dash: our run was not evaluated with that attack."] if any(row["ours"] is None for row in rows) else []
    return Table("Beside the paper", head, lines, [PAPER_NOTE, *missing])


def as_markdown(title: str, tables: Iterable[Table]) -> str:
    """Format the tables in GitHub's Markdown, each with its heading and notes."""
    parts = [f"# {_markdown(title)}"]
    for table in tables:
        lines = table.frame().map(_markdown).to_markdown(index=False, tablefmt="github", disable_numparse=True)
        parts += [f"## {_markdown(table.title)}", lines, *map(_markdown, table.notes)]
    return "\n\n".join(parts) + "\n"


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*_<>\[\]|~#$])", r"\\\1", " ".join(text.split()))


def as_latex(tables: Iterable[Table]) -> str:
    r"""Format the tables as LaTeX, to read by \input in a document that has \usepackage{booktabs}."""
    parts = [r"% Needs \usepackage{booktabs}. Wide tables: put \small or \resizebox around the tabular."]
    for table in tables:
        frame = table.frame().map(_latex).rename(columns=_latex)
        parts += [
            r"\begin{table}", r"\centering", rf"\caption{{{_latex(table.title)}}}", frame.to_latex(index=False),
            r"\smallskip", rf"\parbox{{\linewidth}}{{\footnotesize {' '.join(map(_latex, table.notes))}}}", r"\end{table}", "",
        ]  # fmt: skip
    return "\n".join(parts)


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
    "[": "{[}", "]": "{]}", "*": "{*}",  # after a line's \\, LaTeX reads [ and * as its options
}  # fmt: skip


def _latex(text: str) -> str:
    escaped = "".join(_LATEX.get(letter, letter) for letter in " ".join(text.split()))
    return re.sub(r"(?<![\w}])-(?=\d)", "$-$", escaped)  # a minus sign, not a hyphen


COLUMNS = (
    "run", "attack", "seeds", "images", "average", "average_low", "average_high", "overall", "overall_low", "overall_high",
    "worst", "worst_low", "worst_high", "worst_class", "gap", "gap_low", "gap_high", "labels",
)  # fmt: skip
_BESIDE = ("paper", "difference", "difference_low", "difference_high")


def as_csv(rows: Rows, beside: Rows = ()) -> bytes:
    """Format rows of the result table as CSV: full precision, one row a run and attack, in percent.

    A paper's numbers are in columns beside them. Its number for an attack that our run was not evaluated with is left out;
    the other tables show it.
    """
    found = [{name: row[name] for name in COLUMNS} | {"labels": "; ".join(row["labels"])} for row in rows]
    if beside:
        extra = dict.fromkeys([*(f"{kind}_{name}" for kind in NUMBERS for name in _BESIDE), "paper_source"])
        found = [row | extra for row in found]
    places = {(row["run"], row["attack"]): row for row in found}
    for entry in beside:
        if (row := places.get((entry["run"], entry["attack"]))) is not None:
            row |= {f"{entry['number']}_{name}": entry[name] for name in _BESIDE} | {"paper_source": entry["source"]}
    return csv_of(pd.DataFrame(found, columns=list(found[0]) if found else list(COLUMNS)))


def csv_of(frame: pd.DataFrame) -> bytes:
    """Format a table as CSV; what was not measured is an empty cell."""
    return frame.map(csv_cell).to_csv(index=False, lineterminator="\n").encode()


SUFFIXES = (".csv", ".tex", ".md")


def write_tables(page: Path, title: str, tables: Sequence[Table], data: bytes) -> list[Path]:
    """Write `data` (CSV) and the tables as LaTeX and Markdown beside a page, under its name.

    Returns the paths. Raises OSError.
    """
    contents = (data, as_latex(tables).encode(), as_markdown(title, tables).encode())
    paths = [page.with_suffix(suffix) for suffix in SUFFIXES]
    for path, content in zip(paths, contents, strict=True):
        replace_file(path, content)
    return paths


def check_page(path: Path) -> None:
    """Raise ConfigError if the page would have the name of one of its tables."""
    if path.suffix in SUFFIXES:
        raise ConfigError(f"The page cannot be {path}: the tables beside it get the endings {', '.join(SUFFIXES)}. Use .html.")


def spread_html(verdicts: Mapping[str, Verdicts], attack: str = "") -> str:
    """Format the inequality of the classes under `attack` (empty: the last one) in HTML.

    One line a measure, one column a run.
    """
    table = inequality_table(spread_rows(marked(verdicts), attack))
    return f"{table.html()}<p class='note'>{html.escape(table.notes[0])}</p>"


def settings_html(folders: Mapping[str, RunFolder]) -> str:
    """Format the settings in which runs differ; equal settings and versions are folded.

    Raises RunFolderError.
    """
    configs = [folder.config().to_mapping() for folder in folders.values()]
    rows = [[name, *(str(config[name]) for config in configs)] for name in configs[0]]
    differing = [row for row in rows if len(set(row[1:])) > 1]
    same = [row for row in rows if len(set(row[1:])) == 1]
    versions = [folder.versions() for folder in folders.values()]
    made_by = [[name, *(found.get(name, "?") for found in versions)] for name in versions[0]]
    head = ["setting", *folders]
    return (
        "<h3>Settings that differ</h3>" + Table("", head, differing, []).html()
        + "<details><summary>Settings that are the same, and versions</summary>"
        + Table("", head, same, []).html() + Table("", ["version of", *head[1:]], made_by, []).html() + "</details>"
    )  # fmt: skip


def table(
    *runs: Runs | Mapping[str, Verdicts] | Mapping[str, list[Verdicts]], kind: str = "results", attack: str = "",
    checkpoint: str = "last", paper: Sequence[str] = (),
) -> pd.DataFrame:  # fmt: skip
    """Return numbers of runs as a DataFrame that shows itself with intervals.

    Args:
        runs: evaluated runs, or verdicts as `evaluate` returned them; groups of seeds as of `compare` give means over them, and
            the inequality of their first seed. For "times" finished runs.
        kind: "results" (default: average and worst class of each attack, in percent with 95 % intervals), "inequality" (of
            the classes under one attack), or "times" (minutes an epoch, and the method's demands).
        attack: only this one (default: all; for "inequality" the last one).
        checkpoint: "last" (default) or "best", the one of the verdicts.
        paper: for "times": a paper's minutes, as name=2.63; default none.

    Returns:
        One row per run and attack; for "times" one row per run.

    Raises:
        UnknownName: there is no such kind of table, or no such attack in the evaluation.
        VerdictsError: a run was not evaluated.

    >>> import faal_lab as fl
    >>> table = fl.table("notebooks/recorded/control", attack="autoattack")
    >>> table[["average", "worst", "worst_low", "worst_high"]].round(1)
                        average  worst  worst_low  worst_high
    run     attack
    control autoattack     76.2   41.4       24.0        60.4
    """
    check_name("kind of table", kind, ("results", "inequality", "times"))
    if kind == "times":
        folders = grouped(os.fspath(run) for run in runs if not isinstance(run, Mapping))
        rows = tables.time_rows({name: paths[0] for name, paths in folders.items()}, tables.minutes_of(paper))
        return ResultTable.of(rows, times_table(rows), ["run"])
    groups = groups_of(runs, checkpoint)
    if attack:
        for group in groups.values():
            group[0].chosen(attack)
    if kind == "inequality":
        rows = tables.spread_rows(tables.marked({name: group[0] for name, group in groups.items()}), attack)
        return ResultTable.of(rows, inequality_table(rows), ["run", "attack"])
    rows = [row for row in tables.group_rows(groups) if attack in ("", row["attack"])]
    said = tables.notes(tables.each_seed(groups))
    return ResultTable.of(rows, result_table(rows, said), ["run", "attack"])
