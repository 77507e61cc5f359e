"""List the dashboard's panels, and fill them from a run's history: live, or in a page that plays the run by itself.

Panels with a line per class become heatmaps (a row per class) above MANY classes, where lines are unreadable.
"""

from __future__ import annotations

import base64
import html
import json
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from faal_lab.errors import RunFolderError
from faal_lab.evaluation.statistics import average_accuracy, class_accuracy, wilson, worst_accuracy
from faal_lab.results.figures import class_style
from faal_lab.runs import Follower, RunFolder
from faal_lab.runs.config import Config
from faal_lab.runs.control import held, reads_tau, turned, weighs
from faal_lab.runs.events import DialTurned, EpochDone
from faal_lab.runs.export import free_place
from faal_lab.runs.files import replace_file
from faal_lab.runs.history import MAX_POINTS, History, thinned
from faal_lab.widgets.stream import Picture, StreamView

MANY = 12
_COLUMNS = 200  # columns of a heatmap, at most
_REPLAYED = 1500  # points of a line in a page that plays a run
_WINDOW = 10  # batches that it averages over
_DASHES = {"solid": [], "dash": [7, 4], "dot": [2, 3], "dashdot": [7, 3, 2, 3]}
_NO_METHOD = "No fairness method: all classes count the same, and tau does nothing."


def _line(
    name: str, dash: str = "solid", of_class: int | None = None, colour: str = "ink", faint: bool = False
) -> dict[str, Any]:
    """Return a line's look. Lines of no class have the colour of the text: the other colours stand for classes."""
    return {"name": name, "class": of_class, "colour": colour, "dash": _DASHES[dash], "faint": faint}


def panel_spec(
    class_names: list[str], ambiguity: str = "kl", *, weighs: bool = True, tau: bool = True, batches: int = 1
) -> dict[str, Any]:
    """Return names, colours and panels for the page.

    `ambiguity` is the set whose divergence is drawn, `weighs` whether the run has a fairness method, `tau` whether that reads
    tau, and `batches` their number in an epoch. A panel's header tells the line number `tells` (0), or the class that `picks`
    names. A panel with `from` draws the numbers of that panel.
    """
    styles = [class_style(c) for c in range(len(class_names))]
    by_class = [_line(name, s["dash"], c, s["color"]) for c, (name, s) in enumerate(zip(class_names, styles, strict=True))]
    kind = "heatmap" if len(class_names) > MANY else "lines"
    curves = [
        _line(f"{what}, {which}", dash, faint=what == "clean")
        for what in ("clean", "PGD")
        for which, dash in (("average", "solid"), ("worst class", "dot"))
    ]
    measured = "KL(U || w)" if ambiguity == "kl" else f"Divergence ({ambiguity})"
    spent = [_line("spent"), _line("tau", "dash", faint=True)][: 1 + tau]
    whole = {"id": "map", "title": "Class weights (CDAW), every class", "kind": "heatmap", "lines": by_class, "zero": True,
             "first": True, "picks": "heaviest", "from": "weights", "wide": True}  # fmt: skip
    panels = ([whole] if weighs and kind == "lines" else []) + [
        {"id": "weights", "title": "Class weights (CDAW)", "kind": kind, "lines": by_class, "zero": True, "first": True,
         "uniform": 1 / len(class_names), "picks": "heaviest"},
        {"id": "accuracy", "title": "Robust accuracy, training batches, %", "kind": kind, "lines": by_class, "range": [0, 101],
         "worst": "low", "picks": "lowest"},
        {"id": "margin", "title": "Class margins (above 0: wrong)", "kind": kind, "lines": by_class, "picks": "highest"},
        {"id": "divergence", "title": measured + " against tau" * tau, "kind": "lines", "lines": spent, "zero": True,
         "note": "" if weighs else _NO_METHOD},
        {"id": "loss", "title": "Training loss", "kind": "lines", "lines": [_line("loss")]},
        {"id": "epochs", "title": "Validation after each epoch, %", "kind": "lines", "lines": curves, "x": "epoch",
         "range": [0, 101], "tells": 3},
        {"id": "classes", "title": "Validation by class under PGD, %", "kind": "bars",
         "lines": by_class, "x": "class", "range": [0, 101]},
    ]  # fmt: skip
    shared = {"colours": [s["color"] for s in styles], "dashes": [_DASHES[s["dash"]] for s in styles]}
    return {"classes": class_names, "batches": batches, **shared, "panels": [{"x": "batch", **panel} for panel in panels]}


def pictures(
    history: History, window: int, span: tuple[float, float] | None = None, until: int | None = None, followed: int = -1,
    most: int = MAX_POINTS,
) -> dict[str, Picture]:  # fmt: skip
    """Return each panel's data by its id, at most `most` points a line.

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
    at = first + thinned(last - first, _COLUMNS if many else most)
    x, few = steps[at], first + thinned(last - first, most)
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


def turn_marks(turns: list[DialTurned], last: int) -> list[dict[str, Any]]:
    """Return a mark for each dial whose new value a batch up to `last` had: batch and new value."""
    return [{"x": turn.step, "text": turned(turn)} for turn in held(turns, last)]


# Runs that agree in these were validated on the same images by the same attack.
_ALIKE = ("data", "data_dir", "image_size", "validation", "split_seed", "norm", "epsilon", "validation_steps", "step_ratio")


def validation_result(config: Config, names: list[str], epochs: list[EpochDone], path: Path) -> str:
    """State the last validation under attack, the one before training or after the first epoch, and the next step.

    A balanced network (`balance`) was not validated, nor is one without images or attack.
    """
    where, there = shlex.quote(str(path)), RunFolder(path).verdicts_file().exists()
    following = f"Evaluated. Next: faal-lab report {where}" if there else f"Next, the test images: faal-lab evaluate {where}"
    return " ".join(filter(None, [validation_sentence(config, names, epochs), following]))


def validation_sentence(config: Config, names: list[str], epochs: list[EpochDone]) -> str:
    """State the last validation under attack and the one before it, or nothing; see `validation_result`."""
    last = epochs[-1] if epochs else None
    if last is None or not sum(last.count) or not config.validation_steps or not config.epsilon or config.balance != "none":
        return ""
    head = f"Validation under PGD-{config.validation_steps}, {sum(last.count)} images, 95 % intervals:"
    earlier = ("The base", base) if (base := _of_base(config, last)) else ("After epoch 1", epochs[0])
    before = f" {earlier[0]}: {_in_words(earlier[1], names)}." if earlier[1] is not last else ""
    return f"{head} {_in_words(last, names)}.{before}"


def _in_words(epoch: EpochDone, names: list[str]) -> str:
    correct, count = np.array(epoch.robust_correct), np.array(epoch.count)
    worst, which = worst_accuracy(correct, count)
    shares = (
        f"{100 * e.value:.1f} % ({100 * e.low:.1f} to {100 * e.high:.1f})" for e in (worst, average_accuracy(correct, count))
    )
    return f"worst class {names[which]} " + ", average ".join(shares)


def _of_base(config: Config, last: EpochDone) -> EpochDone | None:
    """Return the last validation of the base, if it is a run with the same images and attack."""
    path = Path(config.base).expanduser()
    if not config.base or config.base_checkpoint != "last" or not path.is_dir():
        return None
    try:
        base, follower = RunFolder.open(path).config(), Follower(path, keep_steps=False)
        follower.poll()
    except RunFolderError:  # it is not needed to show this run
        return None
    alike = all(getattr(base, name) == getattr(config, name) for name in _ALIKE) and base.balance == "none"
    return next((e for e in reversed(follower.epochs) if alike and e.count == last.count), None)


def write_replay(path: str | Path, out: str | Path, force: bool = False) -> str:
    """Write a page that plays a run by itself, without Python or a network; return a sentence about it.

    Raises ConfigError where `out` is in use, and RunFolderError where no run was started in the folder.
    """
    follower, folder = Follower(path, keep_steps=False), RunFolder.open(path)
    follower.poll()
    started = follower.started
    history = History(len(started.class_names) if started else 0)
    history.add(follower.new)
    if started is None or not len(history.step.values):
        raise RunFolderError(f"{path} holds no run that made a step: there is nothing to play.")
    place, config, own, names = (
        free_place(Path(out), force, folder=False),
        folder.config(),
        set(folder.own()),
        started.class_names,
    )
    tau, last = reads_tau(config, own), int(history.step.values[-1])
    drawn = pictures(history, _WINDOW, most=_REPLAYED)
    if not tau:
        drawn["divergence"] = Picture(drawn["divergence"].x, drawn["divergence"].y[:1])
    del drawn["classes"]
    ends = history.epoch_step.values
    bars = [_bars(history, epoch) for epoch in range(1, len(ends) + 1)]
    run = {
        "spec": panel_spec(
            names, Path(config.ambiguity).name, weighs=weighs(config, own), tau=tau, batches=max(1, started.steps_per_epoch)
        ),
        "panels": {name: {"rows": len(p.y), **_encoded(p)} for name, p in drawn.items()},
        "bars": {part: _text(np.array([getattr(bar, part) for bar in bars])) for part in ("y", "low", "high")},
        "ends": ends.tolist(), "marks": turn_marks(follower.turns, last), "window": _WINDOW,
    }  # fmt: skip
    parts = {"fairness": config.fairness, "objective": config.objective, "network": config.model, "data": config.data}
    shown = [f"{part} {Path(name).name}" for part, name in parts.items()]  # of a part that is a path, no more than the file
    shown += [f"{config.epochs} epochs", f"epsilon {config.epsilon:g}"]
    here, name = Path(__file__).parent, html.escape(folder.path.resolve().name)
    said = [", ".join(shown), validation_sentence(config, names, follower.epochs)]
    style = StreamView._css + (here / "replay.css").read_text(encoding="utf-8")
    data = json.dumps(run, allow_nan=False).replace("<", "\\u003c")  # no class name ends the script
    page = (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>{name}</title><style>{style}</style></head><body><main><h1>{name}</h1>"
        f"{''.join(f'<p>{html.escape(line)}</p>' for line in said if line)}</main>"
        f"<script type='application/json' id='run'>{data}</script>"
        f"<script type='module'>{StreamView._esm}{(here / 'replay.js').read_text(encoding='utf-8')}</script></body></html>"
    )
    replace_file(place, page.encode())
    return f"{place}: plays {len(history.step.values)} batches in a browser, {place.stat().st_size / 1e6:.2f} MB."


def _encoded(picture: Picture) -> dict[str, str]:
    held = {part.name: getattr(picture, part.name) for part in fields(picture)}
    return {name: _text(values) for name, values in held.items() if values is not None}


def _text(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values, dtype="<f4").tobytes()).decode()
