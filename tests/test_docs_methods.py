"""The pages on methods and sets name each part of the catalogue, options that exist, and the numbers that code and records have."""

import importlib
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import parsed

from faal_lab.catalogue import AMBIGUITY_SETS, AVERAGING, FAIRNESS, OBJECTIVES, PRICES
from faal_lab.dro import AMBIGUITY_SETS as SETS
from faal_lab.dro import KLBall
from faal_lab.dro.radius import largest_multiplier
from faal_lab.methods.presets import PRESETS, PROTOCOLS
from faal_lab.methods.recipe import Recipe
from faal_lab.methods.releases import releases
from faal_lab.runs.config import settings

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in sorted((DOCS / "methods").glob("*.md"))}
SET_PAGE = (DOCS / "sets" / "index.md").read_text(encoding="utf-8")
ALL = {**PAGES, "sets": SET_PAGE}


def headed(text: str) -> set[str]:
    """The names in code of a page's headings."""
    return {name for line in re.findall(r"(?m)^#+ .*$", text) for name in re.findall(r"`([^`]+)`", line)}


def tables(text: str) -> list[list[list[str]]]:
    """The tables of a page: rows of cells, the header first."""
    found = []
    for block in re.findall(r"(?m)(?:^\|.*\|\n)+", text + "\n"):
        rows = [[cell.strip() for cell in line.strip().strip("|").split(" | ")] for line in block.splitlines()]
        found.append([[cell.strip("| ") for cell in row] for row in rows if not set("".join(row)) <= set("-| ")])
    return found


def beginning(text: str, *header: str) -> list[list[str]]:
    """The rows of all tables whose header begins so."""
    return [row for table in tables(text) if table[0][: len(header)] == list(header) for row in table[1:]]


def test_every_part_of_the_catalogue_has_its_heading() -> None:
    parts = ("objectives", "perturbation-and-averaging")
    rest = set().union(*(headed(text) for name, text in PAGES.items() if name not in parts))
    assert headed(PAGES["objectives"]) == set(OBJECTIVES)
    assert headed(PAGES["perturbation-and-averaging"]) == set(AVERAGING)
    assert headed(SET_PAGE) == set(AMBIGUITY_SETS)
    assert rest == set(FAIRNESS)


def test_each_page_of_a_method_says_the_same_things() -> None:
    for name, text in PAGES.items():
        if headed(text) & (set(FAIRNESS) - {"none"}):
            for heading in ("Defaults", "Switched off", "Paper and release", "When to use it", "Measured"):
                assert f"\n## {heading}\n" in text, f"{name}.md has no section {heading}"


def test_the_index_says_what_the_catalogue_says() -> None:
    rows = {re.sub(r"\[`?([\w-]+)`?\].*", r"\1", row[0]): row[1:] for row in beginning(PAGES["index"], "name", "acts on")}
    assert set(rows) == {*OBJECTIVES, *FAIRNESS, *AVERAGING, "AWP"}
    for name, method in FAIRNESS.items():
        source = method.source or "the control arm"
        assert rows[name] == [method.acts_on, method.updates, "yes" if method.validation else "no", source], name
    for name, (source, _) in AVERAGING.items():
        assert name == "none" or rows[name][-1] == source


def test_the_index_lists_recipes_and_protocols() -> None:
    named = [name for row in beginning(PAGES["index"], "recipe", "names") for name in re.findall(r"`([^`]+)`", row[1])]
    assert sorted(named) == sorted(PRESETS)
    rows = {
        row[0].strip("`"): row[1:5]
        for row in beginning(PAGES["index"], "protocol", "epochs", "learning rate", "drops, as shares of the run")
    }
    assert set(rows) == set(PROTOCOLS)
    for name, stated in PROTOCOLS.items():
        expected = [str(stated["epochs"]), str(stated["learning_rate"]), stated["lr_drops"], str(stated.get("tau", "-"))]
        assert rows[name] == expected, name


def test_every_option_and_every_command_exists() -> None:
    known = {"recipe", "protocol", "config", "out", "resume", "attacks"} | set(settings())
    named = {
        (page, name)
        for page, text in ALL.items()
        for name in re.findall(r"--([a-z][a-z0-9-]*)", re.sub(r"\]\([^)]*\)", "", text))
    }
    assert len({name for _, name in named}) > 20
    unknown = {(page, name) for page, name in named if name.replace("-", "_") not in known}
    assert not unknown
    commands = [
        line.split(" #")[0].strip()
        for text in ALL.values()
        for block in re.findall(r"```sh\n(.*?)```", text, re.S)
        for line in block.splitlines()
    ]
    assert len(commands) >= 7
    for line in commands:
        assert line.startswith("faal-lab ")
        parsed(shlex.split(line)[1:])


MODULES = {"dafa": "dafa", "trix": "dafa"}
OWN_OPTION = {"fairness_rate": "rate", "fairness_strength": "strength"}
OBJECTIVE = {"faal": "at", "cfol": "at"}  # the others with TRADES, which all methods go with


def stated(page: str, code: str, variant: str) -> Any:
    """The default that a row of `Defaults` names: `--option`, `part --option`, `method.attribute` or `module._CONSTANT`."""
    named = sorted(headed(PAGES[page]) & set(FAIRNESS))
    own = next((name for name in named if variant == "paper" or name in releases()), "none")
    if "--" not in code:
        name, attribute = code.split(".")
        if attribute.startswith("_"):
            return getattr(importlib.import_module(f"faal_lab.methods.fairness.{name}"), attribute)
        return getattr(Recipe.of("trades", name, variant=variant).fairness, attribute)
    prefix, option = re.fullmatch(r"(?:([\w-]+) )?--([a-z-]+)", code).groups()  # pyright: ignore[reportOptionalMemberAccess]
    name = option.replace("-", "_")
    if page == "perturbation-and-averaging" and prefix:
        averaging = Recipe.of("at", "none", averaging=prefix, variant=variant).averaging
        return getattr(averaging, name.removeprefix("average_"))
    fairness = prefix or own
    recipe = Recipe.of(OBJECTIVE.get(fairness, "trades"), fairness, variant=variant)
    method: Any = getattr(recipe.fairness, "dafa", recipe.fairness)
    if name in OWN_OPTION:
        return getattr(method, OWN_OPTION[name])
    if (page, name) == ("faal", "attack_start"):
        return recipe.start
    if (page, name) == ("faal", "score"):
        return method.score
    return settings()[name].default


def test_every_default_is_the_codes() -> None:
    checked = 0
    for page, text in PAGES.items():
        for _, code, *values in beginning(text, "setting", "in the code", "paper", "release"):
            for variant, value in zip(("paper", "release"), values, strict=True):
                if value != "-":
                    found = stated(page, code.strip("`"), variant)
                    same = value == found if isinstance(found, str) else float(value) == pytest.approx(found, rel=1e-12)
                    assert same, f"{page}.md: {code} is {found} in the code ({variant}), and {value} on the page"
                    checked += 1
    assert checked >= 60


def test_the_gammas_of_recipes_are_theirs() -> None:
    rows = beginning(PAGES["perturbation-and-averaging"], "recipe", "gamma")
    with_awp = {name: [str(p["awp_gamma"]), str(p.get("awp_start", 0))] for name, p in PRESETS.items() if "awp_gamma" in p}
    assert {row[0].strip("`"): row[1:] for row in rows} == with_awp


def test_measured_rows_are_the_leaderboards() -> None:
    text = (ROOT / "results" / "digits-leaderboard" / "README.md").read_text(encoding="utf-8")
    board = {
        (re.sub("(equal|own) [a-z]+, from", r"\1,", part.splitlines()[0]), row[0]): row[:5]
        for part in text.split("\n## AutoAttack: ")[1:]
        for row in beginning(part, "method", "epochs")
    }
    shown = [row for page in PAGES.values() for row in beginning(page, "protocol, base", "method")]
    assert len(shown) >= 60
    for protocol, *cells in shown:
        assert board[protocol, cells[0]] == cells
    measured = {name for _, name in board} & set(FAIRNESS)
    assert {row[1] for row in shown} >= measured
    for name in set(FAIRNESS) - measured - {"none"}:  # such a page has no rows, and says so
        page = next(text for text in PAGES.values() if name in headed(text))
        assert "The leaderboard does not have it." in " ".join(page.split()), name


def test_measured_rows_are_those_of_cifar10() -> None:
    text = (ROOT / "results" / "cifar10-narrow" / "README.md").read_text(encoding="utf-8")
    recorded = [row for table in tables(re.sub(" +", " ", text)) for row in table]
    shown = [row for page in PAGES.values() for row in beginning(page, "attack", "test images", "compared")]
    assert len(shown) >= 5
    assert all(row in recorded for row in shown)
    theirs = {tuple(row[1:]) for row in recorded if row[0] in ("base/pgd", "tuned/pgd-faal-at", "tuned/pgd-faal-at-awp")}
    assert {tuple(row[1:]) for row in beginning(PAGES["faal"], "run", "PGD-20")} == theirs


def test_multipliers_are_computed_ones() -> None:
    rows = beginning(PAGES["faal"], "tau")
    assert len(rows) == 6
    for tau, *shown in rows:
        assert shown == [f"{largest_multiplier(KLBall(float(tau)), c):.2f}" for c in (2, 10, 100, 1000)]


def test_radii_limits_and_multipliers_of_sets_are_the_codes() -> None:
    rows = {row[0].strip("`"): row[1:] for row in beginning(SET_PAGE, "set", "radius by default")}
    assert set(rows) == set(SETS)
    for name, kind in SETS.items():
        radius, low, high, *multipliers = rows[name][:6]
        ball, limits = kind(), AMBIGUITY_SETS[name].limits
        if limits == PRICES:
            assert (float(radius), low, multipliers) == (ball.radius, "above 0", ["-"] * 3)
            continue
        assert multipliers == [f"{largest_multiplier(ball, c):.2f}" for c in (2, 10, 100)], name
        if name not in ("simplex", "point"):
            upper = np.inf if high == "-" else float(high)
            assert (float(radius), float(low), upper) == (ball.radius, *limits), name


def test_costs_of_sets_are_the_recorded_ones() -> None:
    rows = {row[0].strip("`"): row[1:] for row in beginning(SET_PAGE, "set", "one, microseconds")}
    recorded = json.loads((ROOT / "benchmarks" / "ambiguity.json").read_text())["sets"]
    assert list(rows) == [entry["set"] for entry in recorded]
    for entry in recorded:
        times = "{median:.1f} ({low:.1f} to {high:.1f})".format(**entry["CVXPY with parameters, times longer"])
        assert rows[entry["set"]] == [f"{entry['microseconds']:.0f}", f"{entry['microseconds each of 4096']:.2f}", times]


def test_links_and_pictures_exist() -> None:
    for page, text in ALL.items():
        folder = DOCS / ("sets" if page == "sets" else "methods")
        for target in re.findall(r"\]\((?!http)([^)]+)\)", text):
            file, _, anchor = target.partition("#")
            path = (folder / file) if file else None
            assert path is None or path.exists(), f"{page}: {target}"
            if anchor:
                linked = path.read_text(encoding="utf-8") if path else text
                slugs = {
                    re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-")
                    for title in re.findall(r"(?m)^#+ (.*)$", linked)
                }
                assert anchor in slugs, f"{page}: {target}"
    assert set(re.findall(r"!\[[^]]+\]\((\S+)\.svg\)", SET_PAGE)) == {*AMBIGUITY_SETS, "floored"}


def outlines(svg: str) -> tuple[str, list[np.ndarray]]:
    """The text of a picture without its coordinates, and the points of each path."""
    paths = [np.array(re.findall(r"-?[\d.]+", data), dtype=float).reshape(-1, 2) for data in re.findall(r' d="([^"]+)"', svg)]
    return re.sub(r' (?:d|cx|cy)="[^"]+"', "", svg), paths


def apart(points: np.ndarray, outline: np.ndarray) -> float:
    """The largest distance of points from a closed outline, in pixels."""
    a, b = outline, np.roll(outline, -1, 0)
    along = b - a
    share = ((points[:, None] - a) * along).sum(-1) / np.maximum((along**2).sum(-1), 1e-12)
    nearest = a + share.clip(0, 1)[..., None] * along
    return float(np.linalg.norm(points[:, None] - nearest, axis=-1).min(1).max())


def test_the_pictures_of_sets_are_what_the_script_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a third of a pixel: where two corners are equally good, processors choose differently, on the same outline."""
    monkeypatch.setattr(sys, "path", [str(DOCS / "sets"), *sys.path])
    import draw

    assert {path.stem for path in (DOCS / "sets").glob("*.svg")} == set(draw.RADII)
    for name in draw.RADII:
        kept, made = (DOCS / "sets" / f"{name}.svg").read_text(encoding="utf-8"), draw.picture(name)
        (words, old), (others, new) = outlines(kept), outlines(made)
        assert words == others, name
        assert all(max(apart(a, b), apart(b, a)) < 0.34 for a, b in zip(old, new, strict=True)), name
        places = [np.array(re.findall(r'c[xy]="([-\d.]+)"', text), dtype=float) for text in (kept, made)]
        assert places[0] == pytest.approx(places[1], abs=0.2), name
