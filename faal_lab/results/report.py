"""Write run folders as tables and one HTML page that opens offline."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from faal_lab.errors import ConfigError, RunFolderError
from faal_lab.evaluation.comparison import Comparison
from faal_lab.evaluation.evaluate import Runs
from faal_lab.evaluation.groups import Reported, groups_of, reported
from faal_lab.evaluation.suite import describe
from faal_lab.evaluation.verdicts import Verdicts, VerdictsError
from faal_lab.results.figures import class_bars, validation_curves, weights_over_batches
from faal_lab.results.formats import (
    Table,
    as_csv,
    check_page,
    inequality_table,
    marked_run,
    paper_table,
    result_table,
    settings_html,
    write_tables,
)
from faal_lab.results.published import Published, paper_rows, read_paper
from faal_lab.results.robustness import run_pictures
from faal_lab.results.tables import (
    ATTACK_TITLES,
    comparisons,
    each_seed,
    epoch_seconds,
    group_rows,
    last_attack,
    marked,
    notes,
    over_images,
    paired_sentences,
    seed_sentences,
    spread_rows,
)
from faal_lab.runs.files import replace_file
from faal_lab.runs.progress import clock
from faal_lab.training.parameters import ADOPTION_SETTINGS, run_command, stated_settings

if TYPE_CHECKING:
    import jinja2
    import plotly.graph_objects as go


def _paired_table(runs: list[Reported]) -> Table | None:
    """Make the table of each class's change against the first run, with its p values; None without a second run."""
    found = comparisons({run.name: run.verdicts for run in runs})
    names = runs[0].verdicts.class_names
    rows = [
        [run, name, f"{100 * d.value:+.1f}", f"{d.only_a} / {d.only_b}", f"{d.p:.2g}", f"{d.holm:.2g}"]
        for run, comparison in found.items()
        for name, d in zip(names, comparison.classes, strict=True)
        if d is not None
    ]
    first = runs[0].name
    head = ["run", "class", f"points above {first}", f"right only in {first} / in this one", "p (McNemar)", "p (Holm)"]
    title = f"Paired on the same images, class by class, under {ATTACK_TITLES[last_attack(runs[0].verdicts)]}"
    return Table(title, head, rows, []) if found else None


# In these a control may differ from the run it is a control of: they say what the method does, and no more.
_OF_METHOD = frozenset({
    "fairness", "fairness_start", "fairness_rate", "fairness_strength", "slack", "variant", "ambiguity", "tau", "multiplier",
    "measure", "score", "score_decay", "solver", "tau_changes",
})  # fmt: skip


def controls(runs: Iterable[Reported]) -> dict[str, str]:
    """Return, by name, the run that a run with a fairness method is fairly compared with: all alike but the method, and none.

    Adopted runs, of which the training is unknown, and runs with a recipe of one's own, which no setting names, neither have one
    nor are one.
    """
    known = [run for run in runs if not run.adopted and "recipe" not in run.folder.own()]
    settings = {run.name: run.folder.config().to_mapping() for run in known}
    alike = {name: {key: v for key, v in found.items() if key not in _OF_METHOD} for name, found in settings.items()}
    plain = [name for name, found in settings.items() if found["fairness"] == "none"]
    found = {name: [other for other in plain if alike[other] == alike[name]] for name in settings if name not in plain}
    return {name: others[0] for name, others in found.items() if others}


def headlines(runs: list[Reported]) -> list[str]:
    """State how runs differ from their controls, the first run's accuracy under the last attack, and the others' changes.

    All with intervals.
    """
    attack, named = last_attack(runs[0].verdicts), {run.name: run for run in runs}
    fair = {name: control for name, control in controls(runs).items() if control != runs[0].name}
    return [*(line for pair in fair.items() for line in _against(named, *pair, attack)), *_from_the_first(runs, attack)]


def _against(runs: Mapping[str, Reported], name: str, control: str, attack: str) -> list[str]:
    pair = {control: runs[control].group, name: runs[name].group}
    if {len(group) for group in pair.values()} == {1}:
        return paired_sentences(comparisons({who: group[0] for who, group in pair.items()}, attack))
    return seed_sentences(pair, attack) if len(pair[control]) == len(pair[name]) else []


def _from_the_first(runs: list[Reported], attack: str) -> list[str]:
    row = next(row for row in group_rows({runs[0].name: runs[0].group}) if row["attack"] == attack)
    over = f", mean of {row['seeds']} seeds" if row["seeds"] > 1 else ""
    beside = f"; over images {text}" if (text := over_images(row)) else ""
    start = (
        f"Under {ATTACK_TITLES[attack]}, {marked_run(row)} classifies {row['average']:.1f} % on average "
        f"({row['average_low']:.1f} to {row['average_high']:.1f}{over}{beside}) and {row['worst']:.1f} % of its worst class, "
        f"{row['worst_class']} ({row['worst_low']:.1f} to {row['worst_high']:.1f}{over})."
    )
    if any(run.others for run in runs):
        count = len(runs[0].group)
        alike = {run.name: run.group for run in runs if len(run.group) == count}
        others = [f"{run.name} has {len(run.group)} runs and {runs[0].name} {count}: not compared over seeds."
                  for run in runs if run.name not in alike]  # fmt: skip
        return [start, *seed_sentences(alike, attack), *others]
    return [start, *paired_sentences(comparisons({run.name: run.verdicts for run in runs}))]


def what_was_run(runs: list[Reported]) -> Table:
    """Make the table that says what each run is, and when, for how long and on how much it was trained."""
    known, against = {run.folder.path.name: run.name for run in runs}, controls(runs)
    configs = {run.name: run.folder.config() for run in runs}
    started = {name: known.get(Path(config.base).name, config.base) for name, config in configs.items() if config.base}
    rows = []
    for run in runs:
        config = configs[run.name]
        of = [name for name, control in against.items() if control == run.name]
        from_it = [name for name, base in started.items() if base == run.name]
        role = [f"control of {', '.join(of)}: all alike, without the method"] if of else []
        role += [f"{', '.join(from_it)} {'starts' if len(from_it) == 1 else 'start'} from it"] if from_it else []
        if run.adopted:
            rows.append([run.name, "; ".join(role), "trained elsewhere", config.model, "", "", ""])
            continue
        method = config.objective + (f" + {config.fairness}" if config.fairness != "none" else "")
        method = run.folder.own().get("recipe", method)
        method += f", tau {config.tau:g}" if config.fairness == "faal" else ""
        method += f", AWP {config.awp_gamma:g}" if config.awp_gamma else ""
        method += f", {config.averaging}" if config.averaging != "none" else ""
        method += f", from {started[run.name]}" if run.name in started else ""
        done = len(run.history.epoch_step.values)  # fewer than asked for where it was stopped
        epochs = str(done) if done == config.epochs else f"{done} of {config.epochs}"
        rows.append([run.name, "; ".join(role), method, config.model, epochs, *_when(run, done)])
    head = ["run", "what it is for", "training", "network", "epochs", "time", "finished (UTC)"]
    return Table("What was run", head, rows, [])


def _when(run: Reported, epochs: int) -> tuple[str, str]:
    """Return how long so many epochs took, about, and the day of their end; empty where it is not recorded."""
    ends = [time for event, _, time in run.folder.times() if event == "RunFinished"]
    with suppress(RunFolderError):  # no two epochs in a row
        seconds = float(np.median(epoch_seconds(run.folder.path)))
        day = f"{datetime.fromtimestamp(ends[-1], UTC):%Y-%m-%d}" if ends else ""
        return clock(seconds * epochs), day
    return "", ""


def report_tables(runs: list[Reported], paper: Mapping[str, Published]) -> tuple[list[Table], bytes]:
    """Make the tables for readers, results first, and the same numbers as CSV.

    Raises UnknownName if `paper` names a run that is not among `runs`.
    """
    groups = {run.name: run.group for run in runs}
    rows = group_rows(groups)
    beside = paper_rows(paper, rows)
    tables = [result_table(rows, notes(each_seed(groups))), *([paper_table(beside)] if beside else [])]
    return tables, as_csv(rows, beside)


def _attacks_table(verdicts: Verdicts) -> Table:
    """Make the table that describes each attack."""
    ball, count = _ball(verdicts.header), str(len(verdicts.labels))
    rows = [[ATTACK_TITLES[a], ball if a != "clean" else "", count, describe(a, verdicts)] for a in verdicts.survived]
    return Table("Attacks", ["attack", "radius", "test images", "what it does"], rows, [])


def _commands(run: Reported) -> list[str]:
    """List the commands that made a run's numbers."""
    trained = [] if run.adopted else [run_command(run.folder.config(), run.folder.path)]
    return [*trained, evaluate_command(run)]


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


def _figures_html(runs: list[Reported]) -> dict[str, list[str]]:
    """Format the figures by heading; the first one brings plotly's script."""
    import plotly.io as pio

    found, scripts = {}, iter([True])
    for heading, figures in figures_of(runs).items():
        found[heading] = [
            pio.to_html(figure, full_html=False, include_plotlyjs=next(scripts, False), config={"responsive": True})
            for figure in figures
        ]
    return found


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
    shown = marked({run.name: run.verdicts for run in runs})
    page = _template().render(
        title=title, ran=what_was_run(runs), files=[path.with_suffix(end).name for end in (".csv", ".md", ".tex")],
        together=_TOGETHER, headlines=headlines(runs), setting=_setting(runs[0].verdicts), tables=tables,
        seeds=any(run.others for run in runs), paired=_paired_table(runs), figures=_figures_html(runs),
        spread=inequality_table(spread_rows(shown)), signs=_signs(runs),
        attacks=_attacks_table(runs[0].verdicts), commands={name: _commands(run) for name, run in zip(shown, runs, strict=True)},
        settings=settings_html({run.name: run.folder for run in runs}),
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, page.encode())
    write_tables(path, title, tables, data)
    return path


def _template() -> jinja2.Template:
    """Load the page's template, which escapes all text."""
    import jinja2

    loader = jinja2.PackageLoader("faal_lab.results", "")
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined).get_template("report.html.j2")


def _signs(runs: list[Reported]) -> list[str]:
    """State what looked wrong at the end of each training."""
    return [f"{run.name}: {text}" for run in runs if not run.adopted for text in run.history.signs().values()]


def _setting(verdicts: Verdicts) -> str:
    about = verdicts.header
    return (
        f"Data: {about['data']} (test split, {len(verdicts.labels)} images). Attacks in the ball {_ball(about)}, "
        f"pixels in [0, 1], seed {about['seed']}, {about['precision']}."
    )


def report(
    *runs: Runs, out: str | os.PathLike[str] = "report.html", title: str = "Class-wise robustness",
    paper: str | os.PathLike[str] | None = None, checkpoint: str = "last",
) -> Path:  # fmt: skip
    """Write one HTML page on evaluated runs, and print its headlines.

    The page opens offline. Its tables are beside it as CSV, LaTeX and Markdown.

    Args:
        runs: evaluated runs; the others are compared with the first.
        out: the page, default report.html; its tables get its name.
        title: the page's title; default "Class-wise robustness".
        paper: a YAML or JSON file of a paper's numbers, to print beside ours; default None.
        checkpoint: "last" (default) or "best", the one of the verdicts.

    Returns:
        The page's path.

    Raises:
        ConfigError: `out` has the name of one of its tables.
        VerdictsError: a run was not evaluated, or the runs were not evaluated alike.

    >>> import faal_lab as fl
    >>> page = fl.report("notebooks/recorded/control", out="control.html")
    Under AutoAttack, control classifies 76.2 % on average (72.8 to 79.4) and 41.4 % of its worst class, 8 (24.0 to 60.4).
    >>> page.with_suffix(".csv").is_file()
    True
    """
    beside = read_paper(Path(paper)) if paper else None
    found = reported(runs, checkpoint)
    page = write_report(found, Path(out), title, beside)
    print(*headlines(found), sep="\n")
    return page


class Comparisons(dict[str, Comparison]):
    """Comparisons with the first run, by the other runs' names. Shown as sentences."""

    def __repr__(self) -> str:
        return "\n".join(paired_sentences(self))

    def _repr_markdown_(self) -> str:
        return "\n\n".join(paired_sentences(self))


class Sentences(list[str]):
    """Mean differences between groups of seeds. Shown as sentences."""

    def __repr__(self) -> str:
        return "\n".join(self)

    def _repr_markdown_(self) -> str:
        return "\n\n".join(self)


def compare(
    *runs: Runs | Mapping[str, Verdicts] | Mapping[str, list[Verdicts]], attack: str = "", checkpoint: str = "last"
) -> Comparisons | Sentences:
    """Compare evaluated runs with the first one, paired on the same images.

    Args:
        runs: two or more, or verdicts as `evaluate` returned them; groups of seeds as "runs/a-0,runs/a-1", "name=..." to name
            one, or as {name: [verdicts, ...]}.
        attack: default: the last one of the evaluation.
        checkpoint: "last" (default) or "best", the one of the verdicts.

    Returns:
        Name -> Comparison: differences of average, worst class and each class, with intervals. Printed as sentences. Of groups
        of seeds only the sentences: mean differences over the seeds.

    Raises:
        ConfigError: there are fewer than two runs.
        VerdictsError: a run was not evaluated, or on other images than the first.
        UnknownName: the first run was not evaluated under `attack`.

    >>> import faal_lab as fl
    >>> fl.compare("notebooks/recorded/control", "notebooks/recorded/faal-steered")
    faal-steered against control: The worst classes cannot be told apart with so few images (-1.7 points, 95 % interval
    -11.8 to 7.8); the averages are not shown to differ (0.0 points, -2.2 to 2.2).
    """
    groups = groups_of(runs, checkpoint)
    if len(groups) < 2:
        raise ConfigError(f"compare needs at least two runs, got {next(iter(groups))} alone.")
    if any(len(group) > 1 for group in groups.values()):
        return Sentences(seed_sentences(groups, attack))
    return Comparisons(comparisons({name: group[0] for name, group in groups.items()}, attack))
