"""Long-tailed digits: which methods help the average, the worst class and the rarest classes, from the folder of their sweep.

    faal-lab sweep reproduce/digits-longtail.yaml --workers 2
    python reproduce/longtail_page.py runs/digits-longtail results/digits-longtail

Writes README.md, classes.png (with kaleido) and counts.csv.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from leaderboard import Mean, Seeds, holm, numbers, p_value
from leaderboard_page import counts_csv, made_by, read_sweep, words_of
from pictures import draw

from faal_lab.evaluation.verdicts import Verdicts
from faal_lab.results.figures import RUN_COLOURS, styled
from faal_lab.results.formats import Table, as_markdown
from faal_lab.results.tables import ATTACK_TITLES
from faal_lab.runs import RunFolder
from faal_lab.runs.files import replace_file
from faal_lab.training.run import load_data

if TYPE_CHECKING:
    import plotly.graph_objects as go

CONTROL = "scratch/at"
ATTACKS = ("pgd-20", "cw-20", "clean")
RAREST = 3  # classes; they come last, since the tail follows the order of the classes
SURE = 0.05

Group = Sequence[Verdicts]


def by_class(group: Group, attack: str) -> np.ndarray:
    """Accuracy in percent of each seed and class: [seeds, classes]."""
    counts = [verdicts.counts(attack) for verdicts in group]
    return np.array([100 * stand / images for stand, images in counts])


MEASURES: dict[str, Callable[[Group, str], np.ndarray]] = {
    "average": lambda group, attack: numbers(group, attack)[0],
    "worst class": lambda group, attack: numbers(group, attack)[1],
    "rarest three": lambda group, attack: by_class(group, attack)[:, -RAREST:].mean(1),
}


class Gain(NamedTuple):
    """By how much an arm is above the control, in points, and Holm's p over the arms."""

    mean: Mean
    p: float

    @property
    def side(self) -> str:
        """Where it is shown to be: above, below, or undecided."""
        return "undecided" if self.p >= SURE else "above" if self.mean.value > 0 else "below"


def gains(seeds: Seeds, measure: str, attack: str) -> dict[str, Gain]:
    """Each arm against the control, seed by seed."""
    of = MEASURES[measure]
    base = of(seeds[CONTROL], attack)
    found = {_short(name): of(group, attack) - base for name, group in seeds.items() if name != CONTROL}
    corrected = holm([p_value(values) for values in found.values()])
    return {name: Gain(Mean.of(values), p) for (name, values), p in zip(found.items(), corrected, strict=True)}


def _short(name: str) -> str:
    return name.rpartition("/")[2]


_ABOUT = """Which methods help where some classes are rare? {arms} arms beside PGD adversarial training (`at`), trained from
random weights on handwritten digits of which the later ones were thinned out, {count} seeds, {epochs} epochs each.

Made by

```sh
faal-lab sweep reproduce/digits-longtail.yaml --workers 2
python reproduce/longtail_page.py runs/digits-longtail results/digits-longtail
```

A small network (24 filters), {total} training digits of 8x8 pixels ({sizes} of the classes 0 to 9), 200 validation and 597 test
digits in about equal shares, epsilon 0.1 in L-infinity, one split for all seeds. [counts.csv](counts.csv) has all counts. Trained
with {made_by}.

## Which methods help

Differences are an arm minus `at`, seed by seed, on the same test images. Their 95 % intervals are Student's over the seeds, each
for one comparison alone. Shown, above and below are what is left at 5 % after Holm's correction over the {arms} arms, for each
attack and measure by itself; in brackets the mean difference in points.

{said}

![Accuracy of each class under PGD-20, from the commonest to the rarest, each arm beside at](classes.png)

## What to know before comparing

- `bsl` is AT-BSL, `bsl-randaugment` AT-BSL with the paper's augmentation, `bsl-robust-lt` AT-BSL with RobustLT's radii.
  `at-randaugment` is no method for long tails: it shows what the augmentation does by itself.
- RandAugment is made for photos. On 8x8 pixels in grey, four of its fourteen operations change no training image: both shifts,
  which are under a pixel, colour, and equalising. A fifth, the identity, is meant to change none.
- The rarest class has {least} training images, and about 60 test images: one of them is 1.7 points. The intervals show how much
  training varies, not how much other images would change.
- {epochs} epochs were chosen with `at` alone, on two other seeds but these test images: after eight, none of the rarest two
  classes stood under PGD-20. Nothing was tuned for any arm.
- FAAL begins after half of the epochs and DAFA after 15, as their papers have it in training from random weights; FAAL with
  tau 0.5 throughout, and without its authors' average of weights. The others begin at once. RobustLT's radii rise over the first
  80 % of the run.
- Attacks begin as each method's paper says: `faal` at the clean image, arms with `bsl` from Gaussian noise, the others from
  uniform noise.
- These are five trainings of a small network on one split of {total} digits. They say nothing about photos.
"""


def table(seeds: Seeds, attack: str) -> Table:
    """Every arm: its accuracies, and its differences to the control."""
    head = ["arm", *(f"{name}, %" for name in MEASURES), *(f"{name} against at, points" for name in MEASURES)]
    gained = {measure: gains(seeds, measure, attack) for measure in MEASURES}
    lines = []
    for name, group in seeds.items():
        own = [Mean.of(of(group, attack), cut=True).text() for of in MEASURES.values()]
        more = ["-" if name == CONTROL else gained[measure][_short(name)].mean.text("+") for measure in MEASURES]
        lines.append([_short(name), *own, *more])
    return Table(ATTACK_TITLES[attack], head, lines, [])


def finding(seeds: Seeds, measure: str, attack: str) -> str:
    """The arms that are shown to be above or below the control."""
    found = gains(seeds, measure, attack)

    def names(side: str) -> str:
        return ", ".join(f"{name} ({gain.mean.value:+.1f})" for name, gain in found.items() if gain.side == side) or "none"

    return f"{measure}: above {names('above')}; below {names('below')}."


def summary(seeds: Seeds) -> str:
    """What is shown under both attacks, in words, and by attack and measure."""
    sides = {
        (measure, attack): {name: gain.side for name, gain in gains(seeds, measure, attack).items()}
        for measure in MEASURES
        for attack in ATTACKS
    }
    attacked = [attack for attack in ATTACKS if attack != "clean"]
    lines = []
    for measure in MEASURES:
        arms = sides[measure, ATTACKS[0]]
        agreed = {name: {sides[measure, attack][name] for attack in attacked} for name in arms}
        shown = {side: [name for name in arms if agreed[name] == {side}] for side in ("above", "below")}
        rest = [name for name in arms if name not in (*shown["above"], *shown["below"])]
        above, below = (", ".join(shown[side]) or "none" for side in ("above", "below"))
        lines.append(
            f"- **{measure[0].upper()}{measure[1:]}**, under both attacks. Shown to help: {above}. Shown to harm: {below}. "
            f"Not shown to do either: {', '.join(rest) or 'none'}."
        )
    lines.append("")
    for attack in ATTACKS:
        where = "On clean images" if attack == "clean" else f"Under {ATTACK_TITLES[attack]}"
        lines += [f"- {where}, {finding(seeds, measure, attack)}" for measure in MEASURES]
    return "\n".join(lines)


def page(seeds: Seeds, sizes: Sequence[int], epochs: int, made: str) -> str:
    """The page as Markdown."""
    title, _, tables = as_markdown("Long-tailed digits", [table(seeds, attack) for attack in ATTACKS]).partition("\n")
    about = _ABOUT.format(
        arms=len(seeds) - 1, count=max(map(len, seeds.values())), epochs=epochs, total=sum(sizes), least=min(sizes),
        sizes=f"{', '.join(map(str, sizes[:-1]))} and {sizes[-1]}", made_by=made, said=summary(seeds),
    )  # fmt: skip
    return f"{title}\n\n{about}\n{tables}"


def picture(seeds: Seeds, sizes: Sequence[int], attack: str) -> go.Figure:
    """Accuracy of each class, the commonest first, a panel an arm; the control is in each, in grey."""
    from plotly.subplots import make_subplots

    arms, columns = [name for name in seeds if name != CONTROL], 5
    rows = -(-len(arms) // columns)
    figure = make_subplots(
        rows, columns, subplot_titles=[_short(name) for name in arms], shared_yaxes=True, shared_xaxes=True, vertical_spacing=0.12
    )
    order = np.argsort([-size for size in sizes], kind="stable")
    ticks = [f"{seeds[CONTROL][0].class_names[c]} ({sizes[c]})" for c in order]
    lines: Mapping[str, dict[str, Any]] = {
        "at": {"color": RUN_COLOURS[0], "dash": "dot"},
        "the arm": {"color": RUN_COLOURS[1]},
    }
    for place, name in enumerate(arms):
        where = {"row": place // columns + 1, "col": place % columns + 1}
        for (title, line), run in zip(lines.items(), (CONTROL, name), strict=True):
            values = by_class(seeds[run], attack).mean(0)[order]
            figure.add_scatter(x=ticks, y=values, name=title, line=line, mode="lines+markers", showlegend=place == 0, **where)
    title = f"{ATTACK_TITLES[attack]}, accuracy of each class, mean of {len(seeds[CONTROL])} seeds. In brackets: training images."
    styled(figure, title={"text": title, "font": {"size": 14}}).update_yaxes(range=[0, 104], dtick=20, ticksuffix=" %")
    figure.update_xaxes(tickangle=90, tickfont={"size": 10})
    room = {"l": 50, "r": 20, "t": 80, "b": 110}
    return figure.update_layout(
        height=640, width=1160, margin=room, paper_bgcolor="white", plot_bgcolor="white", legend={"orientation": "h", "y": -0.16}
    )


def main() -> None:
    """Read the sweep, write the folder."""
    options = words_of(__doc__).parse_args()
    seeds, folders = read_sweep(options.sweep)
    config = RunFolder.open(folders[CONTROL][0]).config()
    labels = load_data(config).train.labels.numpy()
    sizes = np.bincount(labels, minlength=len(seeds[CONTROL][0].class_names)).tolist()
    options.out.mkdir(parents=True, exist_ok=True)
    replace_file(options.out / "README.md", page(seeds, sizes, config.epochs, made_by(folders)).encode())
    replace_file(options.out / "counts.csv", counts_csv(seeds))
    draw(picture(seeds, sizes, ATTACKS[0]), options.out / "classes.png")


if __name__ == "__main__":
    main()
