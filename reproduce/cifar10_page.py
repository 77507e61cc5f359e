"""The page of a CIFAR-10 pipeline, from its verdict files alone: what was run, what came out, what did not.

    python reproduce/cifar10_page.py results/cifar10-narrow     # README.md, a card of kept weights, and classes.png by kaleido

Every number on the page is computed from the verdicts, with its interval; every difference is paired on the same images.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from model_card import card

from faal_lab.evaluation import Comparison, Difference, Verdicts
from faal_lab.figures import class_bars
from faal_lab.runs.files import replace_file
from faal_lab.table_files import Table, as_markdown, result_table
from faal_lab.tables import ATTACK_TITLES, comparisons, group_rows, notes

HERE = Path(__file__).parent
Group = Mapping[str, Verdicts]  # runs that met the same attacks on the same images


class Demand(NamedTuple):
    """What FAAL is asked for against another arm, in points of 100: at least so much for the worst class, no less on average."""

    attack: str
    faal: str
    other: str
    worst: float
    average: float


# The paper's direction: its smallest gain over a base under AutoAttack (Table 1, from PGD-AT) is 11.3 points for 1.7 of average.
DEMANDS = [
    Demand("pgd-20", "faal", "", 8, -3),
    Demand("pgd-20", "faal", "control", 8, -3),
    Demand("autoattack", "faal", "", 8, -3),
    Demand("autoattack", "faal", "control", 0, -3),
    Demand("autoattack", "faal-awp", "", 8, -1),
]


def groups(folder: Path) -> list[Group]:
    """The verdicts of a folder, by attacks and images; the most images first."""
    found: dict[tuple[Any, ...], dict[str, Verdicts]] = {}
    read = {file.stem: Verdicts.read(file) for file in sorted(folder.glob("*.npz"))}
    for stem, verdicts in read.items():
        name = stem.partition("-".join(["", *verdicts.predicted]))[0]
        if "classes" in verdicts.header:
            verdicts = with_the_others(verdicts, read.values())
        found.setdefault((-len(verdicts.labels), *verdicts.predicted), {})[name] = verdicts
    order = list(about_of(folder)["settings"])
    return [{name: found[key][name] for name in order if name in found[key]} for key in sorted(found)]


def with_the_others(some: Verdicts, read: Iterable[Verdicts]) -> Verdicts:
    """Verdicts of a few classes, and the same network's of the same attacks on fewer images for the other classes."""
    alike = ("model_sha256", "epsilon", "norm", "seed", "mode")
    whole = next(
        v for v in read
        if "classes" not in v.header and v.predicted.keys() == some.predicted.keys()
        and all(v.header.get(key) == some.header.get(key) for key in alike)
    )  # fmt: skip
    other = ~np.isin(whole.labels, some.labels)
    labels = np.concatenate([some.labels, whole.labels[other]])
    predicted = {attack: np.concatenate([found, whole.predicted[attack][other]]) for attack, found in some.predicted.items()}
    names = " and ".join(some.header["classes"])
    said = (
        f"All {len(some.labels):,} test images of {names}, and of the other classes those of the table with fewer images; "
        f"after that one {names} were chosen to get more."
    )
    both = {key: some.header[key] + whole.header[key] for key in ("data_sha256", "findings")}
    return Verdicts(labels, predicted, some.class_names, {**whole.header, **both, "note": said})


def about_of(folder: Path) -> dict[str, Any]:
    """What the pipeline wrote down: settings, times, machine."""
    return json.loads((folder / "about.json").read_text(encoding="utf-8"))


def paired(found: list[Group], first: str, other: str, attack: str) -> Comparison | None:
    """`other` against `first` on the most images that both met `attack` on; None where there are none."""
    for group in found:
        if first in group and other in group and attack in group[first].predicted:
            return comparisons({first: group[first], other: group[other]}, attack)[other]
    return None


def demanded(found: list[Group]) -> Iterator[list[str]]:
    """Each demand for each base: what was asked, what was got, whether it is met."""
    bases = [name for name in found[0] if not any(name.startswith(f"{other}-") for other in found[0])]
    for base in bases:
        for demand in DEMANDS:
            other, faal = f"{base}-{demand.other}".rstrip("-"), f"{base}-{demand.faal}"
            result = paired(found, other, faal, demand.attack)
            title = f"{ATTACK_TITLES[demand.attack]}: {faal} against {other}"
            asked = f"worst class at least {demand.worst:+g} and clear of 0, average at least {demand.average:+g}"
            if result is None:
                yield [title, asked, "-", "-", "not measured"]
                continue
            worst, average = result.worst, result.average
            met = 100 * worst.value >= demand.worst and worst.low > 0 and 100 * average.value >= demand.average
            yield [title, asked, points(worst), points(average), "met" if met else "not met"]


def points(found: Difference) -> str:
    """A difference in points of 100, with its interval."""
    return f"{100 * found.value:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


def pairs(found: list[Group]) -> Iterator[list[str]]:
    """Every run against its base, and against the control arm of that base."""
    for group in found:
        for attack in next(iter(group.values())).predicted:
            for name in group:
                base = next((other for other in group if name.startswith(f"{other}-")), "")
                for other in (base, f"{base}-control"):
                    if base and other in group and other != name:
                        against = comparisons({other: group[other], name: group[name]}, attack)[name]
                        yield [ATTACK_TITLES[attack], f"{name} against {other}", points(against.worst), points(against.average)]


def made(about: Mapping[str, Any]) -> Table:
    """How each run was made, and how long it took."""
    seconds, rows = about["seconds"], []
    for name, settings in about["settings"].items():
        shown = ", ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in settings.items())
        rows.append([name, duration(seconds.get(name, 0.0)), shown])
    attacks = sum(spent for step, spent in seconds.items() if step not in about["settings"])
    machine = about["machine"]
    where = machine["gpu"] if machine["gpu"] != "none" else f"a processor, {machine['threads']} threads"
    said = (
        f"Trained on {where}, torch {machine['torch']}, Python {machine['python']}; all attacks of the evaluation took "
        f"{duration(attacks)} more. Settings that are not named are the project's defaults."
    )
    return Table("How the runs were made", ["run", "time", "settings"], rows, [said])


def duration(seconds: float) -> str:
    """As people say it."""
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{seconds / 60:.0f} min"


def paper() -> Table:
    """What the paper has for its networks, from the sweep file that reproduces it."""
    numbers = yaml.safe_load((HERE / "table1.yaml").read_text(encoding="utf-8"))["paper"]
    rows = [
        [name, *(f"{entry['attacks'][a]['average']:.1f} / {entry['attacks'][a]['worst']:.1f}" for a in ("pgd-20", "autoattack"))]
        for name, entry in numbers.items()
        if name in ("base/pgd", "tuned/pgd-faal-at", "tuned/pgd-faal-at-awp")
    ]
    said = (
        "WRN-34-10, average / worst class in percent, on all 10,000 test images (Zhang et al., CVPR 2024, Table 1). Its "
        "network is larger and its base was trained for longer: compare what fine-tuning changes, not the numbers themselves."
    )
    return Table("The paper's", ["run", "PGD-20", "AutoAttack"], rows, [said])


def tables(folder: Path, found: list[Group]) -> Iterator[Table]:
    """All of the page."""
    rows = list(demanded(found))
    missed = {word: [row[0] for row in rows if row[-1] == word] for word in ("not met", "not measured")}
    said = " ".join(f"{word.capitalize()}: {'; '.join(which)}." for word, which in missed.items() if which) or "All are met."
    once = "Every network was trained once: intervals are over test images, and say nothing of another training."
    yield Table("What FAAL is asked for", ["what", "asked, points", "worst class", "average", ""], rows, [said, once])
    for group in found:
        *first, last = (ATTACK_TITLES[a] for a in next(iter(group.values())).predicted)
        attacks = f"{', '.join(first)} and {last}" if first else last
        table = result_table(group_rows({name: [verdicts] for name, verdicts in group.items()}), said := notes(dict(group)))
        said = table.notes if group is found[-1] else said  # how intervals are made is said once
        yield table._replace(title=f"{attacks}, {len(next(iter(group.values())).labels):,} test images", notes=said)
    said = "In points; differences of runs on the same images, with paired 95 % intervals."
    yield Table("Against base and control", ["attack", "what", "worst class", "average"], list(pairs(found)), [said])
    yield paper()
    yield made(about_of(folder))


def main() -> None:
    """Write the page, and the picture where kaleido is installed."""
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("folder", type=Path)
    folder = words.parse_args().folder
    found = groups(folder) if (folder / "about.json").is_file() else []
    if not found:
        raise SystemExit(f"No verdicts in {folder} yet. Make them first: python reproduce/cifar10.py --out {folder}")
    title = f"{about_of(folder)['images']['label']}: {folder.name}"
    replace_file(folder / "README.md", as_markdown(title, tables(folder, found)).encode())
    for weights in folder.glob("*.safetensors"):
        own = [group[weights.stem] for group in found if weights.stem in group]
        replace_file(folder / f"{weights.stem}.md", card(weights, about_of(folder), own).encode())
    with_pgd = next((group for group in found if "pgd-20" in next(iter(group.values())).predicted), None)
    if with_pgd is None or find_spec("kaleido") is None:
        return
    shown = {name: verdicts for name, verdicts in with_pgd.items() if not name.endswith("awp")}
    figure = class_bars(shown, "pgd-20").update_layout(width=920, height=400, paper_bgcolor="white", plot_bgcolor="white")
    figure.write_image(folder / "classes.png", scale=1)


if __name__ == "__main__":
    main()
