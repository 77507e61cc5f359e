"""Write figures as files: an HTML page that opens offline, a png for documents, a CSV of the numbers. Export runs.

`all_pictures` draws every figure of some evaluated runs, and accuracy over a setting in which they differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from faal_lab.catalogue import EXPORTS
from faal_lab.errors import RunFolderError, check_name
from faal_lab.evaluation.evaluate import read_verdicts
from faal_lab.evaluation.groups import Reported
from faal_lab.evaluation.statistics import worst_accuracy
from faal_lab.evaluation.verdicts import VerdictsError
from faal_lab.models.export import Origin, export_weights
from faal_lab.results.figures import KIND_COLOURS, RUN_COLOURS, legend_below, styled, tabled, titled, weights_over_batches
from faal_lab.results.formats import csv_of
from faal_lab.results.robustness import pictures
from faal_lab.results.tables import ATTACK_TITLES, group_rows, last_attack, marked
from faal_lab.runs import RunFolder
from faal_lab.runs.config import Config
from faal_lab.runs.events import RunStarted
from faal_lab.runs.export import FORMATS as TABLES
from faal_lab.runs.export import export_tables
from faal_lab.runs.files import replace_file
from faal_lab.training.restore import load_model, spec_of

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from torch import nn


FORMATS = ("html", "png", "csv")
_WIDTH, _SCALE = 900, 2  # of a png: width of the page in pixels, and dots per pixel
_PAGE = (
    "<!doctype html><html lang='en'><head><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
    "<style>:root {{ color-scheme: light dark; }} body {{ margin: 0; }}</style></head><body>{}</body></html>"
)


def check_formats(formats: Iterable[str]) -> tuple[str, ...]:
    """Return the formats without repeats, if they are available here.

    Raises UnknownName, or ImportError for png without kaleido.
    """
    found = tuple(dict.fromkeys(check_name("format", name, FORMATS) for name in formats))
    if "png" in found and find_spec("kaleido") is None:
        raise ImportError(
            "png needs kaleido: pip install 'faal-lab[pictures]', and Chromium or Chrome. html and csv need neither."
        )
    return found


def export(figure: go.Figure, stem: str | Path, formats: Iterable[str] = FORMATS) -> list[Path]:
    """Write `stem`.html, .png and .csv, or those of `formats`; returns the paths.

    Raises UnknownName, ImportError if kaleido is missing, OSError if a file cannot be written or no browser is found.
    """
    makers = {"html": _html, "png": _png, "csv": _csv}
    paths = []
    for name in check_formats(formats):
        path = Path(f"{stem}.{name}")
        content = makers[name](figure)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)
        paths.append(path)
    return paths


def export_all(drawn: Mapping[str, Callable[[], go.Figure]], out: Path, formats: Iterable[str]) -> list[str]:
    """Write each picture into `out` by its name.

    Returns a line for each file written and for each picture that could not be drawn. Raises the errors of `export`.
    """
    said = []
    for stem, draw in drawn.items():
        try:
            figure = draw()
        except VerdictsError as error:
            said.append(f"Not drawn: {stem}: {error}")
            continue
        paths = export(figure, out / stem.replace("/", "-").replace("\\", "-"), formats)
        said += [f"Written: {path}" for path in paths]
    return said


def table_of(figure: go.Figure) -> dict[str, list[Any]]:
    """Return the numbers of a figure by column: its own table if it has one, else those of its traces.

    The latter are trace, x, y and the ends of the whiskers.
    """
    own = _meta(figure).get("table")
    if own is not None:
        return own
    rows, traces = [], list[Any](figure.data)
    for trace in traces:
        xs, ys = ([] if values is None else list(values) for values in (trace.x, trace.y))
        up, down = trace.error_y.array, trace.error_y.arrayminus
        for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
            ends = (None, None) if up is None or down is None or y is None else (y - down[i], y + up[i])
            rows.append((trace.name, x, y, *ends))
    return {name: [row[i] for row in rows] for i, name in enumerate(("trace", "x", "y", "low", "high"))}


def _meta(figure: go.Figure) -> dict[str, Any]:
    layout: Any = figure.layout
    return layout.meta or {}


def _html(figure: go.Figure) -> bytes:
    import plotly.io as pio

    options: dict[str, Any] = {"full_html": False, "include_plotlyjs": True, "config": {"responsive": True}}
    return _PAGE.format(pio.to_html(figure, **options)).encode()


def _png(figure: go.Figure) -> bytes:
    """Draw on white, for documents. This takes two seconds: kaleido starts a browser each time."""
    import plotly.graph_objects as go

    paper = go.Figure(figure).update_layout(paper_bgcolor="white")
    try:
        return paper.to_image(format="png", width=_meta(figure).get("width", _WIDTH), scale=_SCALE)
    except RuntimeError as error:  # kaleido and its browser raise only this kind
        reason = next((line for line in str(error.args[0]).splitlines() if line.strip()), type(error).__name__)
        raise OSError(
            f"kaleido could not draw a png: {reason} Install Chromium or Chrome (on Debian: apt-get install chromium), or "
            "name the browser in BROWSER_PATH. html and csv need none."
        ) from error


def _csv(figure: go.Figure) -> bytes:
    return csv_of(pd.DataFrame(table_of(figure)))


def all_pictures(runs: Sequence[Reported], attack: str = "", setting: str = "") -> dict[str, Callable[[], go.Figure]]:
    """Return a function by name that draws each picture under `attack` (empty: the last one).

    The function raises VerdictsError with the reason if the picture cannot be drawn. The pictures show the verdicts, the
    class weights of runs that have any and, with a `setting`, accuracy over it. Only accuracy over a setting uses all seeds;
    the others show the first. Raises UnknownName.
    """
    known = list(runs[0].verdicts.survived)
    attack = check_name("attack", attack or known[-1], known)
    names = {run.name: next(iter(marked({run.name: run.verdicts}))) for run in runs}
    found = pictures(marked({run.name: run.verdicts for run in runs}), attack)
    for run in runs:
        if run.folder.config().fairness != "none":
            title = f"Class weights (CDAW): {names[run.name]}"
            found[f"{names[run.name]}-weights"] = partial(
                weights_over_batches, run.history, list(run.verdicts.class_names), title
            )
    if setting:
        check_name("setting", setting, Config().to_mapping())
        found[f"{setting}-{attack}"] = partial(accuracy_over, runs, setting, attack)
    return found


def accuracy_over(runs: Sequence[Reported], setting: str, attack: str = "") -> go.Figure:
    """Draw average and worst class under `attack` over a setting, one point a run, with 95 % intervals.

    Runs are in the order of the setting. Raises VerdictsError if they do not differ in it.
    """
    import plotly.graph_objects as go

    attack = attack or last_attack(runs[0].verdicts)
    values = {run.name: run.folder.config().to_mapping()[setting] for run in runs}
    if len(set(values.values())) < 2:
        raise VerdictsError(f"the runs do not differ in {setting}")
    rows = [r for r in group_rows({run.name: run.group for run in runs}) if r["attack"] == attack]
    rows.sort(key=lambda row: (isinstance(values[row["run"]], str), values[row["run"]]))
    figure, table = go.Figure(), list[tuple[Any, ...]]()
    for kind, name, colour in (("average", "average", RUN_COLOURS[1]), ("worst", "worst class", KIND_COLOURS["clean"])):
        found = [tuple(row[key] for key in (kind, f"{kind}_low", f"{kind}_high")) for row in rows]
        figure.add_scatter(
            x=[values[row["run"]] for row in rows], y=[y for y, _, _ in found], mode="lines+markers", name=name,
            line={"color": colour}, text=[row["run"] for row in rows], hovertemplate="%{text}: %{y:.1f} %",
            error_y={
                "type": "data", "symmetric": False, "array": [high - y for y, _, high in found],
                "arrayminus": [y - low for y, low, _ in found], "thickness": 1, "width": 3,
            },
        )  # fmt: skip
        table += [(row["run"], values[row["run"]], name, *f) for row, f in zip(rows, found, strict=True)]
    figure.update_xaxes(title=setting)
    figure.update_yaxes(title="accuracy, %", range=[0, 100])
    several = max(row["seeds"] for row in rows)
    what = f"Whiskers: 95 % intervals{f' over up to {several} seeds' if several > 1 else ' of the test images'}."
    styled(figure, **titled(f"{ATTACK_TITLES[attack]} accuracy over {setting}", what))
    figure.update_layout(legend_below(["average", "worst class"], room=44))
    return tabled(figure, ("run", setting, "number", "accuracy", "low", "high"), table)


def export_run(
    path: Path, to: str, out: Path, checkpoint: str = "last", force: bool = False, network: nn.Module | None = None
) -> str:
    """Write a run's history or weights for other tools; return a sentence about the files. See `Run.export`.

    Raises UnknownName, ConfigError where `out` is in use, ImportError where a package is missing, and RunFolderError,
    CheckpointError or VerdictsError where the run cannot be read.
    """
    check_name("format", to, EXPORTS)
    folder = RunFolder.open(path)
    verdicts, without = None, ""
    if folder.verdicts_file(checkpoint).exists():
        try:
            verdicts = read_verdicts(path, checkpoint)
        except VerdictsError as error:  # of weights before the run went on, or damaged: what else there is can be exported
            without = f" Test accuracy is left out: {error}"
    counts = {} if verdicts is None else {attack: verdicts.counts(attack) for attack in verdicts.survived}
    if to in TABLES:
        tests = {attack: (right.tolist(), total.tolist()) for attack, (right, total) in counts.items()}
        return export_tables(path, to, out, tests, force) + without
    model, config, stored = load_model(path, checkpoint, network)
    spec = spec_of(stored)
    names = next((e.class_names for e in folder.events() if isinstance(e, RunStarted)), [])
    if len(names) != spec.num_classes:
        raise RunFolderError(f"{path} names {len(names)} classes, and its weights are of {spec.num_classes}: it is damaged.")
    percent, worst = dict[str, float](), dict[str, tuple[str, float]]()
    for attack, (right, total) in counts.items():
        percent[attack] = 100 * float(right.sum() / total.sum())
        lowest, which = worst_accuracy(right, total)
        worst[attack] = (names[which], 100 * lowest.value)
    measured = {"epsilon": config.epsilon, "norm": config.norm, **(verdicts.header if verdicts else {})}
    origin = Origin(
        spec.name, (spec.channels, spec.height, spec.width), names, data=config.data, norm=measured["norm"],
        epsilon=measured["epsilon"], percent=percent, worst=worst, images=len(verdicts.labels) if verdicts else 0,
    )  # fmt: skip
    return export_weights(model, origin, to, out, force) + (without if to == "robustbench" else "")
