"""The page of a CIFAR-10 pipeline, from its verdict files alone: what was run, what came out, what did not.

    python reproduce/cifar10_page.py results/cifar10-narrow     # README.md, a card of kept weights, and classes.png by kaleido

Every number on the page is computed from the verdicts, with its interval; every difference is paired on the same images.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from cifar10_found import Group, about_of, demanded, groups, images_of, of_unseen, pairs
from model_card import card
from pictures import draw

from faal_lab.methods.recipe import Recipe
from faal_lab.results.figures import class_bars
from faal_lab.results.formats import Table, as_markdown, result_table
from faal_lab.results.tables import ATTACK_TITLES, group_rows, notes
from faal_lab.runs.config import Config
from faal_lab.runs.files import replace_file
from faal_lab.training.run import recipe_settings

HERE = Path(__file__).parent
_STARTS = {"zero": "from the clean image", "uniform": "from a random start", "gaussian": "from a start near the clean image"}


def opening(about: Mapping[str, Any]) -> str:
    """What the runs are, in a sentence each."""
    usual, lines = Config(), []
    for name, settings in about["settings"].items():
        told = {**usual.to_mapping(), **settings}
        network = f"{told['model']} of {told['filters']} filters" if told["filters"] else told["model"]
        attacked = _STARTS[Recipe.of(**recipe_settings(Config.from_mapping(settings), validation=True)).start]
        start = f"fine-tuned from `{told['base']}`" if told["base"] else f"a {network}, trained from random weights"
        fairness = told["fairness"].upper() + (f", tau {told['tau']:g}" if told["fairness"] == "faal" else "")
        how = f"with {fairness}" if fairness != "NONE" else "without a fairness method"
        awp = " and weight perturbation (AWP)" if told["awp_gamma"] else ""
        radius = f"within {255 * told['epsilon']:.0f}/255 in L-infinity"
        trained = (
            f"{told['epochs']} epochs by {told['objective'].upper()}, {told['attack_steps']} attack steps {radius} {attacked}, "
            f"{how}{awp}"
        )
        lines.append(f"- `{name}`: {start}; {trained}.")
    return "\n".join(lines)


def by_class(found: list[Group]) -> Table:
    """What is left of each class."""
    names, rows = next(iter(found[0].values())).class_names, []
    for group in found:
        for attack in next(iter(group.values())).predicted:
            for name, verdicts in group.items():
                right, total = verdicts.counts(attack)
                shares = [f"{100 * stand / n:.1f}" for stand, n in zip(right, total, strict=True)]
                rows.append([ATTACK_TITLES[attack], images_of(group), name, *shares])
    return Table("Class by class, percent", ["attack", "test images", "run", *names], rows, [])


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
        f"{duration(attacks)} more. Times are by the clock, pauses and other work on the machine included. Settings that are not "
        "named are the project's defaults."
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
    names = {"not met": "{0} (test images: {1})", "not measured": "{0}"}
    missed = {word: [name.format(*row) for row in rows if row[-1] == word] for word, name in names.items()}
    said = " ".join(f"{word.capitalize()}: {'; '.join(which)}." for word, which in missed.items() if which) or "All are met."
    asked = (
        "Asked, in points: that the estimates are at least so much for worst class and average, and that the worst class's "
        "interval lies above 0. That was set before these networks were attacked, after the paper's gains; a control that was "
        "trained as long is the fairer other."
    )
    once = "Every network was trained once: intervals are over test images, and say nothing of another training."
    head = ["what", "test images", "asked", "worst class", "average", ""]
    yield Table("What FAAL is asked for", head, rows, [said, asked, once])
    for group in found:
        *first, last = (ATTACK_TITLES[a] for a in next(iter(group.values())).predicted)
        attacks = f"{', '.join(first)} and {last}" if first else last
        table = result_table(group_rows({name: [verdicts] for name, verdicts in group.items()}), said := notes(dict(group)))
        said = table.notes if group is found[-1] else said  # how intervals are made is said once
        yield table._replace(title=f"{attacks}, test images: {images_of(group)}", notes=said)
    yield by_class(found)
    said = "In points: runs on the same images, each with its own paired 95 % interval; of so many, one in twenty may miss."
    head = ["attack", "test images", "what", "worst class", "average"]
    yield Table("Run against run", head, list(pairs(found)), [said])
    if unseen := list(pairs(list(of_unseen(found)))):
        said = "Which classes have more images was chosen after the fewer images had been attacked: those are left out here."
        yield Table("Without the images by which classes were chosen", head, unseen, [said])
    yield paper()
    yield made(about_of(folder))


def page(folder: Path, found: list[Group]) -> str:
    """The page in Markdown."""
    about = about_of(folder)
    title, rest = as_markdown(f"{about['images']['label']}: {folder.name}", tables(folder, found)).split("\n\n", 1)
    picture = "![Accuracy of each class under PGD-20](classes.png)\n\n" if (folder / "classes.png").is_file() else ""
    return f"{title}\n\n{opening(about)}\n\n{picture}{rest}"


def draw_classes(folder: Path, found: list[Group]) -> None:
    """Each class under PGD-20, where that was made."""
    with_pgd = next((group for group in found if "pgd-20" in next(iter(group.values())).predicted), None)
    if with_pgd is not None:
        shown = {name: verdicts for name, verdicts in with_pgd.items() if not name.endswith("awp")}
        figure = class_bars(shown, "pgd-20").update_layout(width=920, height=400, paper_bgcolor="white", plot_bgcolor="white")
        draw(figure, folder / "classes.png")


def main() -> None:
    """Write picture, page and card."""
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("folder", type=Path)
    folder = words.parse_args().folder
    found = groups(folder) if (folder / "about.json").is_file() else []
    if not found:
        raise SystemExit(f"No verdicts in {folder} yet. Make them first: python reproduce/cifar10.py --out {folder}")
    draw_classes(folder, found)
    replace_file(folder / "README.md", page(folder, found).encode())
    for weights in folder.glob("*.safetensors"):
        own = [group[weights.stem] for group in found if weights.stem in group]
        replace_file(folder / f"{weights.stem}.md", card(weights, about_of(folder), own).encode())


if __name__ == "__main__":
    main()
