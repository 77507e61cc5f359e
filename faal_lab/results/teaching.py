"""Show, check and describe results in teaching notebooks: figures, answers, sentences from numbers.

A check reports right, or where to look again; it never reveals the answer. Each slider is part of its figure, so a saved
page keeps it. A network trained on another processor ends with other weights, so a fixed sentence beside a picture would be
wrong there. The sentences are therefore made from the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from faal_lab.dro import AmbiguitySet
from faal_lab.dro.paper import Coverage
from faal_lab.dro.radius import largest_multiplier
from faal_lab.evaluation.statistics import average_accuracy, confusion, worst_accuracy
from faal_lab.evaluation.verdicts import Verdicts
from faal_lab.methods.microscope import Phases, Walk
from faal_lab.results.figures import INK, KIND_COLOURS, RUN_COLOURS, class_style, legend_below, styled, titled

if TYPE_CHECKING:
    import plotly.graph_objects as go


def check(answer: Any, right: Callable[[Any], bool], hint: str) -> str:
    """Check `answer`: not given (None), right, or not right, with the hint.

    An answer that makes `right` fail (TypeError, ValueError, IndexError, RuntimeError) is reported with the error and the
    hint.
    """
    if answer is None:
        return "Not answered yet: replace None above and run both cells again."
    try:
        good = bool(right(answer))
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        return f"That cannot be checked ({error}). {hint}"
    return "Right." if good else f"Not yet. {hint}"


CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, math.sqrt(3) / 2]])  # the places of the three classes
_DIRECTIONS = 360
_FILL = "rgba(0,114,178,0.22)"


def region(ambiguity: AmbiguitySet) -> np.ndarray:
    """Compute the closed outline of a set of three-class distributions, [n, 2] in the plane of CORNERS.

    A convex set is the hull of its farthest points: one worst case for each direction around the circle.
    """
    angles = torch.linspace(0, 2 * math.pi, _DIRECTIONS + 1, dtype=torch.float64)
    plane = torch.from_numpy(CORNERS - CORNERS.mean(0))
    scores = torch.stack([angles.cos(), angles.sin()], -1) @ plane.T  # [n, 3]
    return ambiguity.worst_case(scores).weights.numpy() @ CORNERS


def arrow(scores: Sequence[float]) -> np.ndarray:
    """Compute the arrow from the centre to larger expected score, [2, 2]; a point for equal scores."""
    centre = CORNERS.mean(0)
    push = (np.asarray(scores) - np.mean(scores)) @ (CORNERS - centre)
    size = float(np.linalg.norm(push))
    return np.stack([centre, centre + (0.5 * push / size if size > 1e-9 else 0)])


def explorer_values(ambiguity: AmbiguitySet, scores: Sequence[float]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Compute x and y of every trace of `explorer_figure`, in its order."""
    weights = ambiguity.worst_case(torch.tensor(scores, dtype=torch.float64)).weights.numpy()
    places = np.arange(len(scores))
    bars = [(places, np.asarray(scores, dtype=float)), (places, weights)]
    if len(scores) != 3:
        return bars
    outline, push, point = region(ambiguity), arrow(scores), weights @ CORNERS
    return [*bars, (outline[:, 0], outline[:, 1]), (push[:, 0], push[:, 1]), (point[:1], point[1:])]


def explorer_figure(ambiguity: AmbiguitySet, scores: Sequence[float], names: Sequence[str]) -> go.Figure:
    """Draw the scores, the worst case's weights and, for three classes, the set on the simplex."""
    from plotly.subplots import make_subplots

    three = len(scores) == 3
    titles = ["The set on the simplex"] * three + ["Scores (how hard)", "Worst-case weights"]
    widths = [0.5, 0.25, 0.25] if three else [0.5, 0.5]
    figure = make_subplots(rows=1, cols=len(titles), subplot_titles=titles, horizontal_spacing=0.08, column_widths=widths)
    values = explorer_values(ambiguity, scores)
    colours = [class_style(c)["color"] for c in range(len(scores))]
    for column, (x, y) in enumerate(values[:2], 1 + three):
        figure.add_bar(x=x, y=y, marker_color=colours, showlegend=False, customdata=names, row=1, col=column,
                       hovertemplate="%{customdata}: %{y:.3f}<extra></extra>")  # fmt: skip
        figure.update_xaxes(tickvals=x, ticktext=list(names), row=1, col=column)
    figure.update_yaxes(range=[-1.05, 1.05], row=1, col=1 + three)
    figure.update_yaxes(range=[0, 1], row=1, col=2 + three)
    uniform = {"color": INK, "width": 1, "dash": "dot"}
    figure.add_hline(1 / len(scores), line=uniform, row=1, col=2 + three)  # pyright: ignore[reportArgumentType]
    if three:
        _draw_simplex(figure, values[2:], names, colours)
    figure.update_annotations(font_size=13)
    return styled(figure, height=380, margin={"l": 44, "r": 16, "t": 36, "b": 60}, bargap=0.35)


def _draw_simplex(figure: go.Figure, values: list[Any], names: Sequence[str], colours: list[str]) -> None:
    (outline, push, point) = values
    place: dict[str, Any] = {"row": 1, "col": 1}
    plain: dict[str, Any] = {"showlegend": False, "hoverinfo": "skip"}
    figure.add_scatter(x=outline[0], y=outline[1], fill="toself", fillcolor=_FILL, line={"color": "#0072B2"}, **plain, **place)
    figure.add_scatter(x=push[0], y=push[1], mode="lines+markers", line={"color": INK, "width": 2}, **plain, **place,
                       marker={"symbol": ["circle", "arrow"], "size": [5, 13], "angleref": "previous", "color": INK})  # fmt: skip
    figure.add_scatter(x=point[0], y=point[1], mode="markers", marker={"size": 13, "color": "#D55E00"}, showlegend=False,
                       hovertemplate="the worst case<extra></extra>", **place)  # fmt: skip
    closed = np.vstack([CORNERS, CORNERS[:1]])
    figure.add_scatter(x=closed[:, 0], y=closed[:, 1], mode="lines", line={"color": INK, "width": 1}, **plain, **place)
    figure.add_scatter(
        x=CORNERS[:, 0], y=CORNERS[:, 1], mode="markers+text", text=[f"all on {n}" for n in names],
        marker={"color": colours, "size": 9}, textposition=["bottom center", "bottom center", "top center"], **plain, **place,
    )  # fmt: skip
    figure.update_xaxes(visible=False, range=[-0.2, 1.2], constrain="domain", **place)
    figure.update_yaxes(visible=False, range=[-0.12, 1.0], scaleanchor="x", constrain="domain", **place)


def weights_beside_scores(sets: Mapping[str, AmbiguitySet], scores: Sequence[float], names: Sequence[str]) -> go.Figure:
    """Draw the weights of several sets for the same scores, one bar a set, classes from easy to hard.

    The scores are in the labels of the axis.
    """
    import plotly.graph_objects as go

    order = np.argsort(scores, kind="stable")
    labels = [f"{names[c]}<br>{scores[c]:+.2f}" for c in order]
    figure, values = go.Figure(), torch.tensor(scores, dtype=torch.float64)
    for number, (name, ambiguity) in enumerate(sets.items()):
        weights = ambiguity.worst_case(values).weights.numpy()
        figure.add_bar(name=name, x=labels, y=weights[order], marker_color=RUN_COLOURS[1:][number % 7])
    figure.add_hline(1 / len(scores), line={"color": INK, "width": 1, "dash": "dot"}, annotation_text="uniform",
                     annotation_position="top left")  # fmt: skip
    figure.update_xaxes(title="class and its score", type="category")
    figure.update_yaxes(title="weight")
    return styled(figure, title="Weights beside scores", barmode="group")


def multiplier_curves(ambiguity: AmbiguitySet, classes: Sequence[int], radii: np.ndarray) -> go.Figure:
    """Draw the largest multiplier of one class over the radius, for several numbers of classes.

    It is the largest possible weight in multiples of the class's share; it shows the meaning of a radius.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    for number, count in enumerate(classes):
        y = [largest_multiplier(ambiguity, count, float(r)) for r in radii]
        figure.add_scatter(x=radii, y=y, mode="lines", name=f"{count} classes", line=class_style(number))
    figure.update_xaxes(title="radius", type="log", dtick=1)
    figure.update_yaxes(title="largest multiplier c*", type="log", dtick="D2")
    return styled(figure, title=f"What a radius of {type(ambiguity).__name__} means")


def coverage_curves(found: Mapping[tuple[float, int], Coverage]) -> go.Figure:
    """Draw how often the robust objective was below the true loss, over n, beside exp(-tau n).

    The keys of `found` are (tau, n).
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    for number, tau in enumerate(sorted({tau for tau, _ in found})):
        sizes = sorted(n for t, n in found if t == tau)
        missed = [1 - found[tau, n].covered / found[tau, n].trials for n in sizes]
        line = class_style(number)
        figure.add_scatter(x=sizes, y=[m or None for m in missed], mode="lines+markers", name=f"missed, tau {tau:g}", line=line)
        bound = {**line, "dash": "dot"}
        figure.add_scatter(x=sizes, y=np.exp(-tau * np.array(sizes)), mode="lines", name=f"exp(-{tau:g} n)", line=bound)
    figure.update_xaxes(title="labels drawn, n")
    figure.update_yaxes(title="share of draws", type="log", exponentformat="power")
    return styled(figure, title="The objective lies below the true loss less and less often")


def threshold_curves(gaps: tuple[torch.Tensor, torch.Tensor], names: tuple[str, str]) -> go.Figure:
    """Draw the images of two classes that are right against each other, over the bias that the first one gets.

    `gaps` are the first logit minus the second, for images of each class.
    """
    import plotly.graph_objects as go

    figure, bias = go.Figure(), np.linspace(-4, 4, 161)
    for number, (gap, name) in enumerate(zip(gaps, names, strict=True)):
        share = [100 * float((gap + b > 0).float().mean()) for b in bias]
        y = share if number == 0 else [100 - s for s in share]
        figure.add_scatter(x=bias, y=y, mode="lines", name=f"images of {name}", line=class_style(number))
    figure.add_vline(0, line={"color": INK, "width": 1, "dash": "dot"}, annotation_text="no bias",
                     annotation_position="bottom right")  # fmt: skip
    figure.update_xaxes(title=f"bias of {names[0]} against {names[1]}")
    figure.update_yaxes(title="right between the two, %", range=[0, 101])
    styled(figure, **titled(f"One threshold between {names[0]} and {names[1]}, under attack"))
    return figure.update_layout(legend_below([f"images of {name}" for name in names], room=44))


_WRONG = "#D55E00"
_SPREAD = 0.5  # width over which the dots of a class are spread


def _pixels(image: torch.Tensor) -> np.ndarray:
    """Convert [channels, H, W] in [0, 1] to uint8 [H, W, 3]."""
    values = (255 * image.clamp(0, 1)).round().to(torch.uint8).cpu().numpy()
    return np.repeat(values, 3, 0).transpose(1, 2, 0) if len(values) == 1 else values.transpose(1, 2, 0)


def walk_figure(found: Walk, names: Sequence[str], label: int, radius: float) -> go.Figure:
    """Draw one attack with a slider over its steps: image, perturbation, class beliefs, loss so far.

    In the perturbation, plus and minus `radius` are white and black, and grey is zero. The figure opens at the last step.
    """
    from plotly.subplots import make_subplots

    last = len(found.losses) - 1
    titles = ["image", "added (grey: nothing)", "what the model believes", "loss that the attack ascends"]
    figure = make_subplots(
        2, 3, specs=[[{}, {}, {}], [{"colspan": 3}, None, None]], subplot_titles=titles, row_heights=[0.6, 0.4],
        column_widths=[0.25, 0.25, 0.5], horizontal_spacing=0.08, vertical_spacing=0.2,
    )  # fmt: skip
    for trace, place in zip(
        _walk_traces(found, names, label, radius, last), [(1, 1), (1, 2), (1, 3), (2, 1), (2, 1)], strict=True
    ):
        figure.add_trace(trace, *place)
    for column in (1, 2):
        figure.update_xaxes(visible=False, row=1, col=column)
        figure.update_yaxes(visible=False, row=1, col=column)
    figure.update_yaxes(range=[0, 1], row=1, col=3)
    figure.update_xaxes(type="category", row=1, col=3)
    figure.update_xaxes(title="steps of PGD", range=[-0.3, last + 0.3], dtick=max(1, last // 10), row=2, col=1)
    figure.update_yaxes(title="cross-entropy", rangemode="tozero", row=2, col=1)
    figure.frames = [
        {"name": str(k), "data": _walk_traces(found, names, label, radius, k), "traces": [0, 1, 2, 3, 4]} for k in range(last + 1)
    ]
    at_once = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {"duration": 0}}
    stops = [{"method": "animate", "label": str(k), "args": [[str(k)], at_once]} for k in range(last + 1)]
    slider = {"steps": stops, "active": last, "currentvalue": {"prefix": "after step "}, "pad": {"t": 44}, "len": 1.0}
    figure.update_annotations(font_size=13)
    styled(figure, height=560, margin={"l": 56, "r": 16, "t": 36, "b": 20}, showlegend=False, sliders=[slider])
    return figure


def _walk_traces(found: Walk, names: Sequence[str], label: int, radius: float, k: int) -> list[Any]:
    """Make the five traces of `walk_figure` after step `k`."""
    import plotly.graph_objects as go

    belief, losses = found.beliefs[k].tolist(), found.losses.tolist()
    top = int(found.beliefs[k].argmax())
    colours = [KIND_COLOURS["robust"] if c == label else _WRONG if c == top else INK for c in range(len(names))]
    added = 0.5 + (found.points[k] - found.points[0]) / (2 * radius)
    line = {"color": INK, "width": 2}
    mark = {"size": 12, "color": _WRONG if top != label else KIND_COLOURS["robust"]}
    return [
        go.Image(z=_pixels(found.points[k]), hoverinfo="skip"),
        go.Image(z=_pixels(added), hoverinfo="skip"),
        go.Bar(x=list(names), y=belief, marker={"color": colours}, hovertemplate="%{x}: %{y:.3f}<extra></extra>"),
        go.Scatter(x=list(range(len(losses))), y=losses, mode="lines+markers", line=line, marker={"size": 5, "color": INK}),
        go.Scatter(x=[k], y=[losses[k]], mode="markers", marker=mark, hovertemplate="step %{x}: %{y:.3f}<extra></extra>"),
    ]


def phases_figure(found: Phases, names: Sequence[str]) -> go.Figure:
    """Draw one batch: image margins and class means above, each class's loss multiplier below."""
    from plotly.subplots import make_subplots

    labels, margins = found.labels.cpu().numpy(), found.margins.cpu().numpy()
    means, held = found.stats.mean("margin").cpu().numpy(), found.stats.present.cpu().numpy()
    colours = [class_style(c)["color"] for c in range(len(names))]
    titles = ["margin of each image (above 0: wrong), bar: mean of the class", "C x weight: what the loss of the class counts"]
    figure = make_subplots(2, 1, shared_xaxes=True, vertical_spacing=0.14, subplot_titles=titles, row_heights=[0.6, 0.4])
    places = np.arange(len(names))
    figure.add_scatter(
        x=labels + _beside(labels), y=margins, mode="markers", marker={"size": 6, "color": [colours[c] for c in labels]},
        customdata=[names[c] for c in labels], hovertemplate="%{customdata}: %{y:.3f}<extra></extra>", row=1, col=1,
    )  # fmt: skip
    dash = {"symbol": "line-ew", "size": 26, "line": {"width": 3, "color": INK}}
    figure.add_scatter(x=places[held], y=means[held], mode="markers", marker=dash, row=1, col=1,
                       hovertemplate="mean %{y:.3f}<extra></extra>")  # fmt: skip
    figure.add_bar(x=places, y=found.multipliers.cpu().numpy(), marker_color=colours, row=2, col=1,
                   texttemplate="%{y:.2f}", textposition="outside", cliponaxis=False,
                   hovertemplate="%{y:.3f} times<extra></extra>")  # fmt: skip
    ruler: Any = {"color": INK, "width": 1, "dash": "dot"}
    figure.add_hline(0, line=ruler, row=1, col=1)  # pyright: ignore[reportArgumentType]
    figure.add_hline(1, line=ruler, row=2, col=1)  # pyright: ignore[reportArgumentType]
    figure.update_yaxes(title="margin", range=[-1.05, 1.05], row=1, col=1)
    figure.update_yaxes(title="times", rangemode="tozero", row=2, col=1)
    figure.update_xaxes(tickvals=places, ticktext=list(names), range=[-0.6, len(names) - 0.4], zeroline=False)
    figure.update_annotations(font_size=13)
    return styled(figure, height=520, margin={"l": 56, "r": 16, "t": 36, "b": 40}, showlegend=False)


def _beside(labels: np.ndarray) -> np.ndarray:
    """Offset the dots of each class around its middle, so that dots of equal height do not overlap."""
    offsets = np.zeros(len(labels))
    for c in np.unique(labels):
        mine = np.flatnonzero(labels == c)
        offsets[mine] = np.linspace(-_SPREAD / 2, _SPREAD / 2, len(mine)) if len(mine) > 1 else 0
    return offsets


def extremes(verdicts: Mapping[str, Verdicts], attack: str) -> str:
    """State each run's average, best and worst class under an attack, the worst with its 95 % interval."""
    return "\n".join(f"{name}, {attack}: {_extremes(verdict, attack)}" for name, verdict in verdicts.items())


def _extremes(verdict: Verdicts, attack: str) -> str:
    right, count = verdict.counts(attack)
    shares = 100 * right / count
    worst, label = worst_accuracy(right, count)
    best, average = int(shares.argmax()), average_accuracy(right, count)
    return (
        f"average {100 * average.value:.0f} %; best class {verdict.class_names[best]} at {shares[best]:.0f} %, worst class "
        f"{verdict.class_names[label]} at {100 * worst.value:.0f} % ({100 * worst.low:.0f} to {100 * worst.high:.0f})"
    )


def changes(before: Verdicts, after: Verdicts, attack: str) -> str:
    """State which class gained most and which least between two runs on the same images, in points."""
    count = before.counts(attack)[1]
    gains = 100 * (after.counts(attack)[0] - before.counts(attack)[0]) / count
    names, most, least = before.class_names, int(gains.argmax()), int(gains.argmin())
    return (
        f"Under {attack} the average changes by {gains.mean():+.0f} points; most for {names[most]} "
        f"({gains[most]:+.0f}), least for {names[least]} ({gains[least]:+.0f})."
    )


def taken_for(verdict: Verdicts, attack: str, places: int = 2) -> str:
    """State which classes the worst class is most often taken for under an attack, in percent of it."""
    right, count = verdict.counts(attack)
    label = worst_accuracy(right, count)[1]
    taken = confusion(verdict.labels, verdict.predicted[attack], len(count))[:, label]  # shares by prediction
    taken = np.where(np.arange(len(count)) == label, 0.0, taken)
    order = np.argsort(-taken, kind="stable")[:places]
    shares = [f"{verdict.class_names[c]} ({100 * taken[c]:.0f} %)" for c in order if taken[c]]
    return f"Class {verdict.class_names[label]} is taken for {' and '.join(shares) or 'no other'}."


def lost_before(verdict: Verdicts, attack: str) -> str:
    """State how many of the images that are wrong under an attack are wrong without it.

    Also state, for the class that is worst under it, how many images are wrong without and with it.
    """
    right, count = verdict.counts(attack)
    clean, label = verdict.counts("clean")[0], worst_accuracy(right, count)[1]
    wrong, before = count - right, count - clean
    both = int((~verdict.survived[attack] & ~verdict.survived["clean"]).sum())
    return (
        f"Of {wrong.sum()} images that are wrong under {attack}, {both} are wrong without it. Of the {count[label]} images of "
        f"{verdict.class_names[label]}, {before[label]} are wrong on clean images and {wrong[label]} under {attack}."
    )


def over_radii(verdict: Verdicts) -> str:
    """State the lowest and the highest class accuracy at each radius of the evaluation's curve."""
    if verdict.curve is None:
        return "No curve was measured."
    labels = verdict.labels[verdict.curve.indices]
    lines = []
    for radius, predicted in zip(verdict.curve.radii, verdict.curve.predicted, strict=True):
        shares = [100 * float((predicted[labels == c] == c).mean()) for c in np.unique(labels)]
        lines.append(f"radius {radius:.3g}: {min(shares):.0f} to {max(shares):.0f} %")
    return "; ".join(lines)


def steps(walk: Walk, label: int, names: Sequence[str]) -> str:
    """State how an attack on one image went: belief at both ends, the step that fools, loss growth."""
    first, last = (walk.beliefs[n] for n in (0, -1))
    fooled, half = walk.fooled_after(label), len(walk.losses) // 2
    grown = [float(walk.losses[b] - walk.losses[a]) for a, b in ((0, half), (half, -1))]
    when = "never" if fooled is None else f"from step {fooled} on"
    return (
        f"Before the attack {names[label]} is believed to {100 * float(first[label]):.0f} %, at the end to "
        f"{100 * float(last[label]):.0f} %, and {names[int(last.argmax())]} to {100 * float(last.max()):.0f} %. Wrong {when}. "
        f"The loss grows by {grown[0]:.2f} in the first {half} steps and by {grown[1]:.2f} in the others."
    )


def heavy(found: Phases, names: Sequence[str]) -> str:
    """State which classes count more than once in a batch, and their share of the images and of the loss.

    Also state the range of the other multipliers, and the mean loss with and without multipliers.
    """
    multipliers = found.multipliers.tolist()
    order = sorted(range(len(names)), key=lambda c: -multipliers[c])
    more = [f"{names[c]} ({multipliers[c]:.1f})" for c in order if multipliers[c] > 1]
    less = [m for m in multipliers if m <= 1] or [1.0]
    losses = found.losses * found.multipliers[found.labels]  # [B]
    mine = found.multipliers[found.labels] > 1
    share = 100 * float(losses[mine].sum() / losses.sum())
    return (
        f"More than once count {', '.join(more) or 'no classes'}; the others {min(less):.2f} to {max(less):.2f} times. "
        f"Those with more have {int(mine.sum())} of {len(mine)} images and {share:.0f} % of the "
        f"loss, which is {float(losses.mean()):.2f} instead of {float(found.losses.mean()):.2f}."
    )
