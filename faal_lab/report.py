"""Run folders become a table and one HTML page that opens offline.

Knows: figures, verdicts, settings. Must not know: training, widgets.
"""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faal_lab.evaluation import Comparison, Verdicts, VerdictsError, compare
from faal_lab.figures import ATTACK_TITLES, class_bars, result_rows, validation_curves, weights_over_batches
from faal_lab.history import History, load_history
from faal_lab.names import check_name
from faal_lab.runs import RunFolder
from faal_lab.runs.files import replace_file

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True)
class Reported:
    """One run as the report needs it."""

    name: str
    folder: RunFolder
    verdicts: Verdicts
    history: History

    @staticmethod
    def read(name: str, path: str | Path, checkpoint: str = "last") -> Reported:
        """Read a run folder; raises RunFolderError or VerdictsError where something is missing."""
        folder = RunFolder.open(path)
        verdicts = Verdicts.read(folder.verdicts_file(checkpoint))
        return Reported(name, folder, verdicts, load_history(path)[0])


def read_runs(paths: list[str], checkpoint: str = "last") -> list[Reported]:
    """Read run folders, named by their last part (or `name=path`)."""
    runs = []
    for path in paths:
        name, _, rest = path.partition("=") if "=" in path and not Path(path).exists() else (Path(path).name, "", path)
        runs.append(Reported.read(name, rest, checkpoint))
    if len({r.name for r in runs}) < len(runs):
        raise VerdictsError("Two runs have the same name: tell them apart by name=path.")
    for other in runs[1:]:
        runs[0].verdicts.check_same(other.verdicts, f"{runs[0].name} and {other.name}")
    attacks = {tuple(r.verdicts.survived) for r in runs}
    if len(attacks) > 1:
        raise VerdictsError(f"The runs were evaluated with different attacks: {sorted(attacks)}. Evaluate them alike.")
    return runs


def text_table(verdicts: dict[str, Verdicts]) -> str:
    """The result table for a terminal, with what has to be said about its attacks."""
    lines = [f"{'run':<12} {'attack':<11} {'average, %':>22} {'worst class, %':>24}"]
    for row in result_rows(verdicts):
        average = f"{row['average']:5.1f} [{row['average_low']:5.1f}, {row['average_high']:5.1f}]"
        worst = f"{row['worst']:5.1f} [{row['worst_low']:5.1f}, {row['worst_high']:5.1f}]"
        lines.append(f"{row['run']:<12} {row['attack']:<11} {average:>22} {worst:>24}  class {row['worst_class']}")
    return "\n".join([*lines, *_notes(verdicts)])


def _notes(verdicts: dict[str, Verdicts]) -> list[str]:
    """What the evaluations say about their attacks, each remark once."""
    notes = [v.header["note"] for v in verdicts.values() if "note" in v.header]
    shaky = [name for name, v in verdicts.items() if v.header.get("deterministic") is False]
    if shaky:
        notes.append(
            f"Not deterministic: {', '.join(shaky)}. Two passes over the same images gave other logits, so these attacks "
            "do not measure its robustness."
        )
    notes += [f"{name}: {text}" for name, v in verdicts.items() for text in v.header.get("findings", ())]
    if all(v.header.get("findings") == [] for v in verdicts.values()):
        notes.append("No sign of masked gradients was found in any class.")
    return list(dict.fromkeys(notes))


def comparisons(verdicts: dict[str, Verdicts], attack: str = "") -> dict[str, Comparison]:
    """Each run against the first one, paired on the same images, under `attack` (empty: the last one of the evaluation)."""
    (first, base), *others = verdicts.items()
    attack = attack or list(base.survived)[-1]
    check_name("attack", attack, base.survived)
    found = {}
    for name, other in others:
        base.check_same(other, f"{first} and {name}")
        right = base.survived[attack], other.survived[attack]
        found[name] = compare(base.labels, *right, len(base.class_names), names=(first, name))
    return found


def paired_sentences(found: dict[str, Comparison]) -> list[str]:
    """Each comparison in a plain sentence that names both runs."""
    return [c.sentence() if c.identical else f"{c.names[1]} against {c.names[0]}: {c.sentence()}" for c in found.values()]


def _comparisons_html(runs: list[Reported]) -> str:
    """The paired sentences, and for each class what changed and how sure that is."""
    found = comparisons({run.name: run.verdicts for run in runs})
    if not found:
        return ""
    names = runs[0].verdicts.class_names
    parts = [f"<h2>Paired on the same images, under {ATTACK_TITLES[list(runs[0].verdicts.survived)[-1]]}</h2>"]
    parts += [f"<p>{html.escape(line)}</p>" for line in paired_sentences(found)]
    rows = []
    for run, comparison in found.items():
        for name, difference in zip(names, comparison.classes, strict=True):
            if difference is not None:
                words = [f"{100 * difference.value:+.1f}", f"{difference.only_a} / {difference.only_b}"]
                rows.append([run, name, *words, f"{difference.p:.2g}", f"{difference.holm:.2g}"])
    first = runs[0].name
    head = ["run", "class", f"points above {first}", f"right only in {first} / in this one", "p (McNemar)", "p (Holm)"]
    summary = "<details><summary>Class by class</summary>"
    return "".join(parts) + summary + _html_table(head, rows) + "</details>"


def headline(runs: list[Reported]) -> str:
    """One sentence on what changed between the first run and the others, under the strongest attack."""
    attack = list(runs[0].verdicts.survived)[-1]
    rows = {r["run"]: r for r in result_rows({r.name: r.verdicts for r in runs}) if r["attack"] == attack}
    first = rows.pop(runs[0].name)
    parts = [
        f"{name} changes the worst class by {row['worst'] - first['worst']:+.1f} points and the average by "
        f"{row['average'] - first['average']:+.1f}"
        for name, row in rows.items()
    ]
    start = (
        f"Under {ATTACK_TITLES[attack]}, {runs[0].name} classifies {first['average']:.1f} % on average and "
        f"{first['worst']:.1f} % of its worst class"
    )
    return "; ".join([start, *parts]) + "."


def _html_table(head: list[str], rows: list[list[str]]) -> str:
    cells = ["<tr>" + "".join(f"<th>{html.escape(h)}</th>" for h in head) + "</tr>"]
    for row in rows:
        cells.append("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>")
    return "<div class='wide'><table>" + "\n".join(cells) + "</table></div>"


def _results_html(runs: list[Reported]) -> str:
    rows = []
    for r in result_rows({run.name: run.verdicts for run in runs}):
        average = f"{r['average']:.1f}  ({r['average_low']:.1f} to {r['average_high']:.1f})"
        worst = f"{r['worst']:.1f}  ({r['worst_low']:.1f} to {r['worst_high']:.1f})"
        rows.append([ATTACK_TITLES[r["attack"]], r["run"], average, worst, r["worst_class"], str(r["images"])])
    order = {title: n for n, title in enumerate(ATTACK_TITLES.values())}
    rows.sort(key=lambda row: order[row[0]])
    head = ["attack", "run", "average, % (95 % interval)", "worst class, % (95 % interval)", "which class", "test images"]
    notes = [f"<p class='note'>{html.escape(note)}</p>" for note in _notes({run.name: run.verdicts for run in runs})]
    return _html_table(head, rows) + "".join(notes)


def _settings_html(runs: list[Reported]) -> str:
    configs = [run.folder.config().to_mapping() for run in runs]
    rows = [[name, *(str(config[name]) for config in configs)] for name in configs[0]]
    differing = [row for row in rows if len(set(row[1:])) > 1]
    same = [row for row in rows if len(set(row[1:])) == 1]
    versions = [[name, *(run.folder.versions().get(name, "?") for run in runs)] for name in runs[0].folder.versions()]
    head = ["setting", *(run.name for run in runs)]
    return (
        "<h3>Settings that differ</h3>" + _html_table(head, differing)
        + "<details><summary>Settings that are the same, and versions</summary>"
        + _html_table(head, same) + _html_table(["version of", *head[1:]], versions) + "</details>"
    )  # fmt: skip


def figures_of(runs: list[Reported]) -> list[go.Figure]:
    """The report's figures: class bars under the strongest and the first PGD attack, class weights, validation."""
    verdicts = {run.name: run.verdicts for run in runs}
    attacks = [a for a in verdicts[runs[0].name].survived if a != "clean"]
    drawn = [class_bars(verdicts, attack) for attack in dict.fromkeys([attacks[-1], attacks[0]])] if attacks else []
    for run in runs:
        names = list(run.verdicts.class_names)
        if run.folder.config().fairness != "none":
            drawn.append(weights_over_batches(run.history, names, f"Class weights (CDAW): {run.name}"))
    for run in (r for r in runs if r.folder.config().validation != "none"):
        figure = validation_curves(run.history)
        drawn.append(figure.update_layout(title=f"Validation after each epoch: {run.name}"))
    return drawn


_STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1c; --page: #ffffff; --line: #d0d0d0; --soft: #f3f3f3; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --page: #16181b; --line: #43474d; --soft: #202429; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 62rem; margin: 0 auto;
       padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .4rem; } h3 { font-size: 1rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; margin: .5rem 0 1rem; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
th { background: var(--soft); } .lead { font-size: 1.05rem; } .note { font-size: .9rem; opacity: .85; }
summary { cursor: pointer; margin: .6rem 0; } .js-plotly-plot { margin: .5rem 0; }
"""

_NOTE = (
    "Average: mean of the class accuracies, Wilson's interval at the images' effective number. Worst class: interval that holds "
    "for all classes at once (exact, Sidak), since the lowest of several noisy numbers is biased low. Intervals cover the "
    "sampling of test images, not of training seeds. An image counts as robust under PGD if no iterate fooled the model."
)


def write_report(runs: list[Reported], out: str | Path, title: str = "Class-wise robustness") -> Path:
    """Write one HTML page with table, figures, settings and versions; it needs no network. Raises OSError."""
    import plotly.io as pio

    pictures = []
    for number, figure in enumerate(figures_of(runs)):
        options: dict[str, Any] = {"full_html": False, "include_plotlyjs": number == 0, "config": {"responsive": True}}
        pictures.append(pio.to_html(figure, **options))
    about = runs[0].verdicts.header
    ball = {"linf": "L-infinity", "l2": "L2"}[about["norm"]]
    setting = (
        f"Data: {about['data']} (test split, {len(runs[0].verdicts.labels)} images). Attacks in the {ball} ball of "
        f"{about['epsilon']:g}, pixels in [0, 1], seed {about['seed']}, {about['precision']}."
    )
    page = (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body><h1>{html.escape(title)}</h1>"
        f"<p class='lead'>{html.escape(headline(runs))}</p><p class='note'>{html.escape(setting)}</p>"
        f"<h2>Accuracy</h2>{_results_html(runs)}<p class='note'>{html.escape(_NOTE)}</p>{_comparisons_html(runs)}"
        f"<h2>Class by class</h2>{''.join(pictures)}<h2>How it was made</h2>{_settings_html(runs)}</body></html>"
    )
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, page.encode())
    return path
