"""All pictures of some evaluated runs by the names of their files, and accuracy over a setting in which they differ.

Knows: evaluated runs and plotly. Must not know: widgets, commands, where files go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from faal_lab.config import RunConfig
from faal_lab.errors import check_name
from faal_lab.evaluated import Reported
from faal_lab.evaluation import VerdictsError
from faal_lab.evaluation_figures import pictures
from faal_lab.figures import KIND_COLOURS, RUN_COLOURS, legend_below, styled, tabled, titled, weights_over_batches
from faal_lab.tables import ATTACK_TITLES, group_rows, last_attack, marked

if TYPE_CHECKING:
    import plotly.graph_objects as go


def all_pictures(runs: Sequence[Reported], attack: str = "", setting: str = "") -> dict[str, Callable[[], go.Figure]]:
    """What draws each picture under `attack` (empty: the last one), or raises VerdictsError with the reason why not.

    Those of the verdicts; the class weights of runs that have any; and with a `setting` accuracy over it. Of several seeds only
    the last one shows more than the first. Raises UnknownName.
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
        check_name("setting", setting, RunConfig().to_mapping())
        found[f"{setting}-{attack}"] = partial(accuracy_over, runs, setting, attack)
    return found


def accuracy_over(runs: Sequence[Reported], setting: str, attack: str = "") -> go.Figure:
    """Average and worst class under `attack` over a setting, one point a run, with 95 % intervals.

    Runs stand in the order of the setting. Raises VerdictsError where they do not differ in it.
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
