"""List the dashboard's panels, and fill them from a run's history as plain dicts and arrays.

Panels with a line per class become heatmaps (a row per class) above MANY classes, where lines are unreadable.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from faal_lab.evaluation.statistics import class_accuracy, wilson
from faal_lab.results.figures import class_style
from faal_lab.runs.events import DialTurned
from faal_lab.runs.history import MAX_POINTS, History, thinned
from faal_lab.widgets.stream import Picture

MANY = 12
_COLUMNS = 200  # columns of a heatmap, at most
_DASHES = {"solid": [], "dash": [7, 4], "dot": [2, 3], "dashdot": [7, 3, 2, 3]}
_GREY = "#7F7F7F"


def _line(name: str, style: dict[str, Any], of_class: int | None = None) -> dict[str, Any]:
    return {"name": name, "class": of_class, "colour": style["color"], "dash": _DASHES[style["dash"]]}


def panel_spec(class_names: list[str], ambiguity: str = "kl") -> dict[str, Any]:
    """Return names, colours and panels for the page. `ambiguity`: the set whose divergence is drawn."""
    styles = [class_style(c) for c in range(len(class_names))]
    by_class = [_line(name, style, c) for c, (name, style) in enumerate(zip(class_names, styles, strict=True))]
    kind = "heatmap" if len(class_names) > MANY else "lines"
    blue, orange = class_style(0)["color"], class_style(1)["color"]
    curves = [
        _line(f"{what}, {which}", {"color": colour, "dash": dash})
        for what, colour in (("clean", orange), ("PGD", blue))
        for which, dash in (("average", "solid"), ("worst class", "dot"))
    ]
    measured = "KL(U || w)" if ambiguity == "kl" else f"Divergence ({ambiguity})"
    spent = [_line("spent", {"color": blue, "dash": "solid"}), _line("tau", {"color": _GREY, "dash": "dash"})]
    panels = [
        {"id": "weights", "title": "Class weights (CDAW)", "kind": kind, "lines": by_class, "zero": True, "first": True,
         "uniform": 1 / len(class_names)},
        {"id": "accuracy", "title": "Robust accuracy, training batches, %", "kind": kind, "lines": by_class, "range": [0, 101],
         "worst": "low"},
        {"id": "margin", "title": "Class margins (above 0: wrong)", "kind": kind, "lines": by_class},
        {"id": "divergence", "title": f"{measured} against tau", "kind": "lines", "lines": spent, "zero": True},
        {"id": "loss", "title": "Training loss", "kind": "lines", "lines": [_line("loss", {"color": blue, "dash": "solid"})]},
        {"id": "epochs", "title": "Validation after each epoch, %", "kind": "lines", "lines": curves, "x": "epoch",
         "range": [0, 101]},
        {"id": "classes", "title": "Validation by class under PGD, %", "kind": "bars",
         "lines": by_class, "x": "class", "range": [0, 101]},
    ]  # fmt: skip
    shared = {"colours": [s["color"] for s in styles], "dashes": [_DASHES[s["dash"]] for s in styles]}
    return {"classes": class_names, **shared, "panels": [{"x": "batch", **panel} for panel in panels]}


def pictures(
    history: History, window: int, span: tuple[float, float] | None = None, until: int | None = None, followed: int = -1
) -> dict[str, Picture]:
    """Return each panel's data by its id, at most 400 points a line.

    Data are from batches in `span`, none after batch `until`. Accuracy, margins and weights are means over the last
    `window` batches. Each batch's own weights are drawn faintly behind, and Wilson's 95 % interval behind the accuracy of the
    `followed` class (-1: none).
    """
    steps = history.step.values
    end = len(steps) if until is None else int(np.searchsorted(steps, until, side="right"))
    first, last = 0, end
    if span is not None:  # one batch more on both sides, so that lines reach the edge
        first = int(np.clip(np.searchsorted(steps, span[0]) - 1, 0, end))
        last = int(np.clip(np.searchsorted(steps, span[1], side="right") + 1, first, end))
    many = history.num_classes > MANY
    at = first + thinned(last - first, _COLUMNS if many else MAX_POINTS)
    x, few = steps[at], first + thinned(last - first)
    shown = {
        "weights": Picture(x, history.mean_weights(window, at).T, None if many else history.weights.values[at].T),
        "accuracy": _accuracy(history, window, x, at, -1 if many else followed),
        "margin": Picture(x, history.mean_margin(window, at).T),
        "divergence": Picture(steps[few], np.stack([history.divergence.values[few], history.tau.values[few]])),
        "loss": Picture(steps[few], history.loss.values[few][None]),
    }
    epochs = int(np.searchsorted(history.epoch_step.values, steps[end - 1] if end else 0, side="right"))
    few = thinned(epochs)
    curves = [c[few] for kind in ("clean", "robust") for c in history.validation_summary(kind)]
    shown["epochs"] = Picture(few + 1, 100 * np.stack(curves))
    shown["classes"] = _bars(history, epochs)
    return shown


def _accuracy(history: History, window: int, x: np.ndarray, at: np.ndarray, followed: int) -> Picture:
    low, high = None, None
    if followed >= 0:
        correct, count = history.attacked(window, at)
        low, high = (100 * end for end in wilson(correct[:, followed], count[:, followed]))
    return Picture(x, 100 * history.accuracy(window, at).T, low=low, high=high)


def _bars(history: History, epochs: int) -> Picture:
    """Return each class's validation accuracy under PGD after epoch `epochs`, with Wilson's intervals."""
    classes = np.arange(history.num_classes)
    if not epochs:
        none = np.full(len(classes), np.nan)
        return Picture(classes, none[None], low=none, high=none)
    correct, count = (c.values[epochs - 1].astype(int) for c in (history.valid_robust, history.valid_count))
    found = [(e.value, e.low, e.high) if e else (np.nan,) * 3 for e in class_accuracy(correct, count)]
    value, low, high = 100 * np.array(found).T
    return Picture(classes, value[None], low=low, high=high)


def turn_marks(turns: list[DialTurned]) -> list[dict[str, Any]]:
    """Return a mark for each turned dial: batch and new value."""
    return [{"x": turn.step, "text": f"{turn.dial.replace('_', ' ')} {turn.new:g}"} for turn in turns]
