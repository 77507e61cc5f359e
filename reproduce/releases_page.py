"""Paper against release: five methods in both forms on the digits, from the folder of their sweep.

    faal-lab sweep reproduce/digits-releases.yaml --workers 2
    python reproduce/releases_page.py runs/digits-releases results/digits-releases

Writes README.md and counts.csv.
"""

from __future__ import annotations

from collections.abc import Sequence

from leaderboard import Mean, Seeds, holm, numbers, p_value
from leaderboard_page import counts_csv, made_by, read_sweep, words_of

from faal_lab.results.formats import Table, as_markdown
from faal_lab.results.tables import ATTACK_TITLES
from faal_lab.runs.files import replace_file

RELEASE = "-release"

_ABOUT = """Does it matter whether a method is trained as its paper says or as its released code does? Five methods from the same
TRADES networks of the handwritten digits, {count} seeds, four epochs each. `docs/differences.md` lists what the two forms do
differently.

Made by

```sh
faal-lab sweep reproduce/digits-releases.yaml --workers 2
python reproduce/releases_page.py runs/digits-releases results/digits-releases
```

A small network (24 filters), 1,000 training, 200 validation and 597 test digits of 8x8 pixels, epsilon 0.1 in L-infinity, one
split for all seeds. Differences are release minus paper, from the same base on the same test images; their 95 % intervals are
Student's over the seeds. [counts.csv](counts.csv) has all counts. Trained with {made_by}.

{said}
"""


def methods(seeds: Seeds) -> list[str]:
    """The names of the methods that have both forms."""
    return [name for name in seeds if f"{name}{RELEASE}" in seeds]


def table(seeds: Seeds, attack: str) -> Table:
    """A method in both forms, and their paired differences."""
    head = ["method", "paper: average, %", "paper: worst class, %", "release: average", "release: worst class",
            "release minus paper: average, points", "worst class"]  # fmt: skip
    lines = []
    for name in methods(seeds):
        (average, worst), (its_average, its_worst) = (numbers(seeds[form], attack) for form in (name, f"{name}{RELEASE}"))
        shown = [Mean.of(values, cut=True).text() for values in (average, worst, its_average, its_worst)]
        gained = [Mean.of(values).text("+") for values in (its_average - average, its_worst - worst)]
        lines.append([name.rpartition("/")[2], *shown, *gained])
    return Table(ATTACK_TITLES[attack], head, lines, [])


def finding(seeds: Seeds, attack: str) -> str:
    """The worst classes that are shown to differ, corrected for the number of methods (Holm)."""
    names = methods(seeds)
    gained = [numbers(seeds[f"{name}{RELEASE}"], attack)[1] - numbers(seeds[name], attack)[1] for name in names]
    corrected = holm([p_value(values) for values in gained])
    sure = [f"{n.rpartition('/')[2]} (p = {p:.2g})" for n, p in zip(names, corrected, strict=True) if p < 0.05]
    said = f"is shown to differ for {', '.join(sure)}" if sure else "is shown to differ for no method"
    where = "On clean images" if attack == "clean" else f"Under {ATTACK_TITLES[attack]}"
    return f"{where}, the worst class {said} (Holm, {len(names)} comparisons)."


def page(seeds: Seeds, made: str, attacks: Sequence[str] = ("pgd-20", "cw-20", "clean")) -> str:
    """The page as Markdown."""
    title, _, tables = as_markdown("Paper against release, on the digits", [table(seeds, a) for a in attacks]).partition("\n")
    said = "\n".join(f"- {finding(seeds, attack)}" for attack in attacks)
    about = _ABOUT.format(count=max(map(len, seeds.values())), made_by=made, said=said)
    return f"{title}\n\n{about}{tables}"


def main() -> None:
    """Read the sweep, write the folder."""
    options = words_of(__doc__).parse_args()
    seeds, folders = read_sweep(options.sweep)
    options.out.mkdir(parents=True, exist_ok=True)
    replace_file(options.out / "README.md", page(seeds, made_by(folders)).encode())
    replace_file(options.out / "counts.csv", counts_csv(seeds))


if __name__ == "__main__":
    main()
