"""Compare several run folders: curves, bars, sentences, tables. The folders are only read.

A reloaded page lost the traces that were added to a FigureWidget after it was made. So figures are plain outputs of the kernel.
"""

from __future__ import annotations

import html
import json
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as W

from faal_lab.errors import RunFolderError, UnknownName
from faal_lab.evaluation.groups import Reported
from faal_lab.evaluation.verdicts import Verdicts, VerdictsError
from faal_lab.results.figures import class_bars, compared_curves
from faal_lab.results.formats import settings_html, spread_html
from faal_lab.results.tables import ATTACK_TITLES, comparisons, notes, paired_sentences
from faal_lab.runs import CheckpointError, RunFolder, by_name
from faal_lab.runs.history import History, load_history
from faal_lab.widgets.setup import error_text
from faal_lab.widgets.stream import Pane

if TYPE_CHECKING:
    import plotly.graph_objects as go

_HANDLED = (RunFolderError, VerdictsError, CheckpointError, UnknownName, OSError, ValueError)
_KINDS = {"clean": "clean", "under PGD": "robust"}
_STYLE = """<style>
.faal-tables table { border-collapse: collapse; margin: 4px 0 10px; }
.faal-tables th, .faal-tables td { padding: 2px 10px; text-align: left; white-space: nowrap; line-height: 1.4;
  border-bottom: 1px solid var(--jp-border-color2, #ccc); }
.faal-tables, .faal-tables p { line-height: 1.4; color: var(--jp-ui-font-color1, currentColor); }
.faal-tables h3 { font-size: 1em; margin: 10px 0 2px; } .faal-tables .note { opacity: 0.85; max-width: 62rem; }
.faal-tables summary { cursor: pointer; }
</style>"""


class Comparison(Pane):
    """Compare runs with the one under "against", in a panel.

    Without verdicts it shows curves only.

    Args:
        runs: folder; all run folders below it can be chosen ("runs" by default).
        chosen: run folders to show at first, in `runs` or elsewhere; none by default.

    >>> from faal_lab.widgets import Comparison
    >>> comparison = Comparison("runs")
    >>> comparison.look()  # again, when there are new runs
    >>> comparison.chosen.options  # no run yet
    ()
    """

    def __init__(self, runs: str | Path = "runs", chosen: Sequence[str | Path] = ()) -> None:
        self.runs, self._given, self._busy = Path(runs), [str(Path(path)) for path in chosen], False
        self._histories: dict[str, History] = {}
        self._folders: dict[str, RunFolder] = {}
        self._verdicts: dict[str, Verdicts] = {}
        wide = W.Layout(width="min(100%, 34rem)")
        self.chosen = W.SelectMultiple(rows=7, description="runs", layout=wide, tooltip="Several: with Ctrl or Shift")
        self.refresh = W.Button(description="Refresh", tooltip="Look for new runs, and read the chosen ones again")
        self.against = W.Dropdown(description="against", tooltip="The run that the others are held against", layout=wide)
        self.kind = W.ToggleButtons(options=_KINDS, value="robust", tooltips=["Clean images", "Images under attack"])
        self.attack = W.Dropdown(description="attack", tooltip="Attacks that all of them were evaluated with")
        self.problem = W.HTML().add_class("faal-error")
        self.said, self.tables = W.HTML().add_class("faal-said"), W.HTML().add_class("faal-compared")
        self.curves, self.bars = W.Output().add_class("faal-curves"), W.Output().add_class("faal-bars")
        for name in ("chosen", "refresh", "against", "kind", "attack"):
            getattr(self, name).add_class(f"faal-{name}")
        wrap, half = W.Layout(flex_flow="row wrap"), W.Layout(flex="1 1 420px", min_width="0", overflow="hidden")
        choice = W.HBox([self.chosen, W.VBox([self.against, self.refresh])], layout=wrap)
        left, right = W.VBox([self.kind, self.curves], layout=half), W.VBox([self.attack, self.bars], layout=half)
        super().__init__([choice, self.problem, self.said, W.HBox([left, right], layout=wrap), self.tables])
        self.look()
        for control in (self.chosen, self.against):
            control.observe(lambda _: self._safely(self._read), "value")
        self.kind.observe(lambda _: self._safely(self._draw_curves), "value")
        self.attack.observe(lambda _: self._safely(self._draw_verdicts), "value")
        self.refresh.on_click(lambda _: self.look())

    def look(self) -> None:
        """Look for run folders again, and reload the chosen ones."""
        found = sorted(str(p.parent) for p in self.runs.glob("**/metrics.jsonl"))
        options = list(dict.fromkeys([*self._given, *found]))
        kept = [path for path in (self.chosen.value or self._given) if path in options]
        self._busy = True  # each change of a control would read and draw
        try:
            self.chosen.options, self.chosen.value = options, kept
        finally:
            self._busy = False
        self._safely(self._read)

    def _safely(self, act: Callable[[], None]) -> None:
        """Call a handler and show its error in the panel. Jupyter shows it nowhere."""
        if self._busy:
            return
        self._busy, self.problem.value = True, ""
        try:
            act()
        except _HANDLED as error:
            self._say(str(error))
        except Exception:
            self._say(traceback.format_exc())
        finally:
            self._busy = False

    def _say(self, text: str) -> None:
        self.problem.value += error_text(text)

    def _read(self) -> None:
        """Read the chosen runs. Report one that cannot be read, and show the others."""
        self._histories, self._folders, self._verdicts, missing = {}, {}, {}, []
        for name, path in self._in_order().items():
            try:
                folder = RunFolder.open(path)
                self._histories[name] = load_history(path)[0]
                self._folders[name] = folder
                if not folder.verdicts_file().exists():
                    missing.append(str(path))
                    continue
                self._verdicts[name] = Reported.read(name, path).verdicts
            except _HANDLED as error:
                self._say(str(error))
        self._missing = f"Not evaluated yet: faal-lab evaluate {' '.join(missing)}" if missing else ""
        attacks = [set(v.survived) for v in self._verdicts.values()]
        shared = [a for a in next(iter(self._verdicts.values())).survived if all(a in s for s in attacks)] if attacks else []
        kept = self.attack.value
        self.attack.options = [(ATTACK_TITLES[a], a) for a in shared]
        self.attack.value = kept if kept in shared else (shared or [None])[-1]
        self.attack.disabled = not shared
        self._draw_curves()
        self._draw_verdicts()

    def _in_order(self) -> dict[str, Path]:
        """Return the chosen runs by name, first the one under "against"."""
        paths, first = list(self.chosen.value), self.against.value
        self.against.options = [(name, str(path)) for name, path in by_name(paths).items()]
        if paths:
            self.against.value = first if first in paths else paths[0]
        first = self.against.value
        self.against.disabled = len(paths) < 2
        return by_name(sorted(paths, key=lambda path: path != first))

    def _draw_curves(self) -> None:
        figure = compared_curves(self._histories, str(self.kind.value))
        self.curves.outputs = _output(figure) if figure.data else ()

    def _draw_verdicts(self) -> None:
        """Draw bars, sentences and tables. The settings are shown even if the verdicts cannot be compared."""
        self.bars.outputs, told = (), [self._missing] if self._missing else []
        settings = settings_html(self._folders) if len(self._folders) > 1 else ""
        spread, attack = "", str(self.attack.value or "")
        without = [name for name, history in self._histories.items() if not history.valid_count.values.sum()]
        if without:
            told.append(f"No validation images: {', '.join(without)}. No curve.")
        try:
            if attack:
                found = comparisons(self._verdicts, attack)
                sentences = paired_sentences(found)
                told = [*(f"Under {ATTACK_TITLES[attack]}: {text}" for text in sentences), *notes(self._verdicts), *told]
                self.bars.outputs = _output(class_bars(self._verdicts, attack))
                spread = f"<h3>How unequal the classes are</h3>{spread_html(self._verdicts, attack)}"
            elif len(self._verdicts) > 1:
                told.append("No attack that all of them were evaluated with: evaluate them alike.")
        finally:
            self.said.value = "".join(f"<p style='line-height:1.4;margin:2px 0'>{html.escape(line)}</p>" for line in told)
            self.tables.value = f"{_STYLE}<div class='faal-tables'>{spread}{settings}</div>"


def _output(figure: go.Figure) -> tuple[dict[str, Any], ...]:
    """Return a figure in the form of a cell's output."""
    record = json.loads(figure.to_json() or "{}") | {"config": {"responsive": True, "displaylogo": False}}
    data = {"application/vnd.plotly.v1+json": record, "text/plain": "a figure"}
    return ({"output_type": "display_data", "data": data, "metadata": {}},)
