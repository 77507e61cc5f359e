"""Draw an evaluation from its verdicts alone: accuracies, radius curves, images before and after."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from faal_lab.evaluation.statistics import Estimate, average_accuracy, class_accuracy
from faal_lab.evaluation.verdicts import Examples, Verdicts, VerdictsError
from faal_lab.results.confusion import confusion_flow, confusion_heatmap
from faal_lab.results.figures import (
    INK,
    KIND_COLOURS,
    MANY_CLASSES,
    RUN_COLOURS,
    accuracy_bars,
    bar_rows,
    class_bars,
    class_order,
    class_style,
    legend_below,
    of_run,
    styled,
    tabled,
    titled,
)
from faal_lab.results.tables import ATTACK_TITLES

if TYPE_CHECKING:
    import plotly.graph_objects as go

_NAMED = 10  # most lines that a reader can tell apart; of more classes the worst three are named
_WRONG = "#D55E00"
_GAP, _TEXT = 0.08, 0.34  # gap between images, and room for the words above each, in image widths


def pictures(verdicts: dict[str, Verdicts], attack: str) -> dict[str, Callable[[], go.Figure]]:
    """Return name -> function that draws the picture, for all pictures of some runs.

    The function raises VerdictsError with the reason if the picture cannot be drawn.
    """
    found: dict[str, Callable[[], go.Figure]] = {f"clean-and-{attack}": partial(clean_and_robust_bars, verdicts, attack)}
    if len(verdicts) > 1:
        found[f"classes-{attack}"] = partial(class_bars, verdicts, attack)
    for name, verdict in verdicts.items():
        found |= run_pictures(name, verdict, attack)
    return found


def run_pictures(name: str, verdict: Verdicts, attack: str) -> dict[str, Callable[[], go.Figure]]:
    """Return the part of `pictures` that shows one run alone."""
    return {
        f"{name}-flow-{attack}": partial(confusion_flow, verdict, attack, name),
        f"{name}-confusion-{attack}": partial(confusion_heatmap, verdict, attack, name),
        f"{name}-radius": partial(radius_curves, verdict, name),
        f"{name}-images": partial(image_strip, verdict, name),
    }


def clean_and_robust_bars(verdicts: dict[str, Verdicts], attack: str) -> go.Figure:
    """Draw accuracy by class, clean beside attacked, one row a run (the paper's Figure 1).

    Bars have 95 % intervals. Many classes are sorted by accuracy under attack in the first run, with the attacked bar in
    front of the clean one. Raises VerdictsError if clean images or an attack are missing.
    """
    first = next(iter(verdicts.values()))
    if attack == "clean" or "clean" not in first.predicted:
        raise VerdictsError("clean images and an attack are needed, and one is missing: evaluate with --attacks clean,pgd-20")
    order, said = class_order(first, attack), ATTACK_TITLES[attack]
    many = len(order) > MANY_CLASSES
    rows = [f"{run}: average {_average(v, 'clean')} clean, {_average(v, attack)} {said}" for run, v in verdicts.items()]
    title = f"Accuracy by class, clean and under {said}, with 95 % intervals" + (" under attack" if many else "")
    figure = bar_rows(len(verdicts), rows, ("clean", said), first.class_names, title)
    table: list[tuple[Any, ...]] = []
    for row, (run, verdict) in enumerate(verdicts.items(), 1):
        for kind, which in (("clean", "clean"), ("robust", attack)):
            look: dict[str, Any] = {"name": "clean" if kind == "clean" else said, "legendgroup": kind, "showlegend": row == 1}
            look |= {"marker_color": KIND_COLOURS[kind], "opacity": 0.5 if many and kind == "clean" else 1}
            bars = accuracy_bars(verdict, which, order, **look)
            figure.add_trace(bars.update(error_y_visible=not many or kind == "robust"), row, 1)
            counts = verdict.counts(which)
            for name, found, images in zip(verdict.class_names, class_accuracy(*counts), counts[1].tolist(), strict=True):
                table += [(run, which, name, *_percent(found), images)] if found else []
    return tabled(figure, ("run", "attack", "class", "accuracy", "low", "high", "images"), table)


def _average(verdict: Verdicts, attack: str) -> str:
    return f"{100 * average_accuracy(*verdict.counts(attack)).value:.1f} %"


def _percent(found: Estimate) -> tuple[float, float, float]:
    return 100 * found.value, 100 * found.low, 100 * found.high


def radius_curves(verdict: Verdicts, run: str = "") -> go.Figure:
    """Draw the accuracy of each class over the radius of PGD-20.

    The average is in front, with its 95 % interval. The axis is logarithmic, with the clean images (radius 0) at its left
    end; it shows a ball of 1/255 as well as the whole pixel box. With many classes, the worst three at the evaluation's
    radius are named. Raises VerdictsError if there is no curve.
    """
    curve = verdict.curve
    if curve is None:
        raise VerdictsError("these verdicts hold no radius curve: evaluate again, with an attack beside clean")
    labels, epsilon = verdict.labels[curve.indices], float(verdict.header["epsilon"])
    total = np.bincount(labels, minlength=len(verdict.class_names))
    correct = np.stack([np.bincount(labels[p == labels], minlength=len(total)) for p in curve.predicted])  # [R, C]
    held, here = np.flatnonzero(total), int(np.abs(curve.radii - epsilon).argmin())
    shares, crowd = correct[:, held] / total[held], len(held) > _NAMED
    worst = held[np.lexsort((shares.mean(0), shares[here]))].tolist()
    looks = {c: class_style(c) for c in held.tolist()}
    if crowd:  # two of these three could share one of the eight colours, so they get their own
        looks = {c: {"color": RUN_COLOURS[1 + n], "width": 2.5} for n, c in enumerate(worst[:3])}
    rows = {c: [_percent(e) for row in correct for e in class_accuracy(row[[c]], total[[c]]) if e] for c in held.tolist()}
    average = [_percent(average_accuracy(row, total)) for row in correct]
    places = np.log10(np.where(curve.radii > 0, curve.radii, curve.radii[curve.radii > 0].min() / 2))
    marks = [radius_text(r) for r in curve.radii]
    figure = _lines(verdict.class_names, places, marks, rows, looks, average)
    mark = {"text": f"evaluated at {radius_text(epsilon)}", "yanchor": "bottom", "xanchor": "center"}
    figure.add_vline(math.log10(epsilon), line={"color": INK, "width": 1.5, "dash": "dot"}, annotation=mark)
    ticks = _spaced(places, [0, len(places) - 1, here])
    texts = ["clean" if curve.radii[i] == 0 else marks[i] for i in ticks]
    ball = {"linf": "L-infinity", "l2": "L2"}[verdict.header["norm"]]
    figure.update_xaxes(title=f"radius of PGD-20 ({ball})", tickvals=places[ticks], ticktext=texts, zeroline=False)
    figure.update_yaxes(title="accuracy, %", range=[-1, 101])
    notes = [f"{len(labels)} images. Logarithmic, clean at the left end; the band is the average's 95 % interval."]
    notes += [f"{len(held)} classes, faint; the worst three at the radius of the evaluation are named."] if crowd else []
    head = titled(f"{of_run(run)}Accuracy by class over the radius", *notes)
    below = legend_below([*(verdict.class_names[c] for c in looks), "average"], room=50)
    top = head["margin"]["t"] + 16
    styled(figure, **head).update_layout(below, margin_t=top, height=290 + top + below["margin_b"])
    named = {**{verdict.class_names[c]: rows[c] for c in rows}, "average": average}
    table = [(name, r, *row) for name, line in named.items() for r, row in zip(curve.radii.tolist(), line, strict=True)]
    return tabled(figure, ("class", "radius", "accuracy", "low", "high"), table)


_Rows = list[tuple[float, float, float]]  # accuracy with its interval, in percent, by radius


def _lines(
    names: tuple[str, ...],
    places: np.ndarray,
    marks: list[str],
    rows: dict[int, _Rows],
    looks: dict[int, Any],
    average: _Rows,
) -> go.Figure:
    """Draw the line of each class, faint if it is not in `looks`, and in front the average with its band."""
    import plotly.graph_objects as go

    said = "%{fullData.name} at %{customdata[0]}: %{y:.1f} % (%{customdata[1]:.1f} to %{customdata[2]:.1f})<extra></extra>"

    def line(name: str, values: _Rows, **look: Any) -> go.Scatter:
        custom = [(mark, low, high) for mark, (_, low, high) in zip(marks, values, strict=True)]
        return go.Scatter(x=places, y=[v[0] for v in values], name=name, customdata=custom, hovertemplate=said, **look)

    figure = go.Figure()
    for c in sorted(rows, key=looks.__contains__):
        faint: dict[str, Any] = {"line": {"color": INK, "width": 1}, "opacity": 0.35, "showlegend": False}
        look = {"line": looks[c]} if c in looks else faint
        figure.add_trace(line(names[c], rows[c], mode="lines", **look))
    edge: dict[str, Any] = {"x": places, "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False}
    figure.add_scatter(y=[v[1] for v in average], **edge)
    figure.add_scatter(y=[v[2] for v in average], fill="tonexty", fillcolor="rgba(122,122,122,0.25)", **edge)
    return figure.add_trace(line("average", average, mode="lines+markers", line={"color": INK, "width": 4}))


def radius_text(radius: float) -> str:
    """Format a radius as people write it: 0.1, or 8/255 if no short decimal number is exact."""
    levels = round(255 * radius)
    if float(f"{radius:.3g}") != radius and levels and abs(255 * radius - levels) < 2e-3:
        return f"{levels}/255"
    return f"{radius:.3g}"


def _spaced(places: np.ndarray, first: list[int]) -> list[int]:
    """Choose indices of places whose names do not overlap on a narrow page, those of `first` preferred."""
    chosen: list[int] = []
    for i in [*first, *range(len(places))]:
        if all(abs(places[i] - places[j]) > 0.13 * np.ptp(places) for j in chosen):
            chosen.append(i)
    return sorted(chosen)


def image_strip(verdict: Verdicts, run: str = "", most: int = 10) -> go.Figure:
    """Draw images before and after an attack, a row each: clean, perturbation (grey is zero), attacked.

    At most `most` images are drawn. Above the clean and the attacked image are the predicted class and its probability.
    Raises VerdictsError if there are no examples.
    """
    import plotly.graph_objects as go

    shown = verdict.examples
    if shown is None:
        raise VerdictsError("these verdicts hold no example images: evaluate again, with an attack beside clean")
    count, pitch = min(most, len(shown.indices)), 1 + _GAP
    change = (shown.adversarial - shown.clean)[:count]
    factor = _magnification(float(np.abs(change).max(initial=0)))
    figure, size = go.Figure(), max(shown.clean.shape[2:])
    heads = ["clean", f"added, {factor:g} times", ATTACK_TITLES[shown.attack]]
    for column, head in enumerate(heads):
        _word(figure, column * pitch + 0.5, -_GAP, f"<b>{head}</b>", INK)
    for k in range(count):
        top = k * (1 + _TEXT) + _TEXT
        words = _words(verdict, shown, k)
        for column, pixels in enumerate((shown.clean[k], 0.5 + factor * change[k], shown.adversarial[k])):
            text, colour = words[column]
            _word(figure, column * pitch + 0.5, top, text, colour)
            start = {"x0": column * pitch + 0.5 / size, "y0": top + 0.5 / size, "dx": 1 / size, "dy": 1 / size}
            figure.add_image(
                source=_png(pixels), hovertemplate=f"{heads[column]}, image {shown.indices[k]}<extra></extra>", **start
            )
    axis: dict[str, Any] = {"visible": False, "constrain": "domain"}
    figure.update_xaxes(range=[0, 3 * pitch - _GAP], constraintoward="left", **axis)
    figure.update_yaxes(range=[count * (1 + _TEXT), -_TEXT], scaleanchor="x", constraintoward="top", **axis)
    note = "Above each image what it is taken for and how surely; bold: wrong. Grey pixels: nothing was added."
    note += f" The first {count} of {len(shown.indices)} examples." if count < len(shown.indices) else ""
    head = titled(f"{of_run(run)}Images before and under {heads[2]}", note)
    height = head["margin"]["t"] + round(155 * (count + 0.3))
    styled(figure, **head | {"margin": {"l": 12, "r": 12, "t": head["margin"]["t"], "b": 12}}, height=height)
    return tabled(figure, _COLUMNS, [_belief_row(verdict, shown, k) for k in range(count)], width=430)


def _word(figure: go.Figure, x: float, y: float, text: str, colour: str) -> None:
    figure.add_annotation(x=x, y=y, text=text, showarrow=False, yanchor="bottom", font={"size": 12, "color": colour})


def _words(verdict: Verdicts, shown: Examples, k: int) -> list[tuple[str, str]]:
    """Return text and colour above the three images of an example."""
    true = int(verdict.labels[shown.indices[k]])
    found = [("true class:<br>" + verdict.class_names[true], INK)]
    for place, belief in ((0, shown.clean_belief[k]), (2, shown.adversarial_belief[k])):
        top = int(belief.argmax())
        text = f"{verdict.class_names[top]}<br>{100 * belief[top]:.0f} %"
        found.insert(place, (text, INK) if top == true else (f"<b>{text}</b>", _WRONG))
    return found


_COLUMNS = (
    "image", "true", "clean_taken_for", "clean_belief", "clean_belief_in_true",
    "attacked_taken_for", "attacked_belief", "attacked_belief_in_true",
)  # fmt: skip


def _belief_row(verdict: Verdicts, shown: Examples, k: int) -> tuple[Any, ...]:
    true = int(verdict.labels[shown.indices[k]])
    row: list[Any] = [int(shown.indices[k]), verdict.class_names[true]]
    for belief in (shown.clean_belief[k], shown.adversarial_belief[k]):
        row += [verdict.class_names[int(belief.argmax())], float(belief.max()), float(belief[true])]
    return tuple(row)


def _magnification(largest: float) -> float:
    """Return a short factor that scales the largest change to about 0.4.

    Such a pixel is nearly white or black, but differs from the page.
    """
    if largest == 0:
        return 1
    factor = 0.4 / largest * (1 + 1e-5)  # float32's 0.1 is slightly above 0.1: 4 became 3
    return math.floor(factor) if factor >= 1 else math.floor(10 * factor) / 10


def _png(pixels: np.ndarray) -> str:
    """Encode float [channels, H, W] in [0, 1] as a picture inside the page (a data URL)."""
    from PIL import Image

    values = np.rint(255 * pixels.clip(0, 1)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(values[0] if len(values) == 1 else values.transpose(1, 2, 0)).save(file, "png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
