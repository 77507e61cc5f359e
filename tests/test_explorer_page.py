"""The explorer as a static page, `docs/site/explorer`: its solver is that of the package, and the page shows its answers.

The page is opened from disk, as a reader without a server would.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import in_browser
import numpy as np
import pytest
import torch
from in_lab import require_browser, watch

from faal_lab.catalogue import AMBIGUITY_SETS, PRICES
from faal_lab.dro import WassersteinBall
from faal_lab.dro.radius import largest_multiplier
from faal_lab.results import figures

FOLDER = Path(__file__).parent.parent / "docs" / "site" / "explorer"
SETS = [name for name, row in AMBIGUITY_SETS.items() if row.limits != PRICES]
WITHOUT_RADIUS = ("simplex", "point")
CLASSES = range(2, 11)
PROBLEMS = 1008  # at least 12 of each set and number of classes
TINY, HUGE = 1e-12, {"total-variation": 1.0, "hellinger": 1.0, "cvar": 1.0}  # other sets: to 10,000, and infinity
ALLOWED = 1e-6
SOLVE = "problems => problems.map(([set, scores, radius]) => faalSolver.worstCase(set, scores, radius))"
WEIGHTS = "() => [...document.querySelectorAll('#bars .multiplier')].map(label => label.textContent)"
WIDER = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


def in_a_row(name: str, classes: int) -> Any:
    """A set as the page has it: Wasserstein's classes are in a row, and neighbours cost 1."""
    places = torch.arange(classes)
    return WassersteinBall(cost=(places[:, None] - places).abs()) if name == "wasserstein" else AMBIGUITY_SETS[name].make()


def made_scores(random: np.random.Generator, classes: int) -> np.ndarray:
    """Scores of the sliders, ties, equal scores, sizes from 1e-6 to 1e6, and small differences of large scores."""
    kind, usual = random.integers(5), random.uniform(-1, 1, classes)
    sizes = random.normal(size=classes) * 10.0 ** random.integers(-6, 7)
    return [usual, random.integers(-2, 3, classes) / 2, np.full(classes, usual[0]), sizes, 1e6 + usual][kind]


def made_radius(random: np.random.Generator, name: str) -> float:
    """A radius from 1e-12 to the end of the set's range, by its logarithm; each end is drawn in one case of ten."""
    low, high = AMBIGUITY_SETS[name].limits
    where = random.random()
    if where < 0.2:
        return low if where < 0.1 else high
    return 10 ** random.uniform(np.log10(TINY), np.log10(HUGE.get(name, 1e4)))


@pytest.fixture(scope="module")
def opened() -> Iterator[Any]:
    """A browser without JupyterLab."""
    require_browser()
    with in_browser.browser() as browser:
        yield browser


@pytest.fixture
def page(opened: Any) -> Iterator[Any]:
    """The page, opened from disk. It logs no error and asks for no file but its own."""
    page = opened.new_page()
    watch(page, f"{FOLDER.as_uri()}/")
    page.goto(f"{FOLDER.as_uri()}/index.html")
    page.wait_for_selector("#bars .multiplier")
    yield page
    assert page.errors == []
    assert page.outside == []
    page.close()


@pytest.mark.browser
def test_its_solver_is_that_of_the_package(page: Any) -> None:
    random, groups = np.random.default_rng(0), [(name, classes) for name in SETS for classes in CLASSES]
    problems = []
    for number in range(PROBLEMS):
        name, classes = groups[number % len(groups)]
        problems.append((name, made_scores(random, classes).tolist(), made_radius(random, name)))
    answers = page.evaluate(SOLVE, problems)
    largest = {"weights": 0.0, "value": 0.0, "divergence": 0.0}
    for start, (name, classes) in enumerate(groups):
        rows = [list(scores) for _, scores, _ in problems[start :: len(groups)]]
        radii = [radius for _, _, radius in problems[start :: len(groups)]]
        scores = torch.tensor(rows, dtype=torch.float64)
        radius = None if name in WITHOUT_RADIUS else torch.tensor(radii, dtype=torch.float64)
        found = in_a_row(name, classes).worst_case(scores, radius=radius)._asdict()
        units = {"weights": 1.0, "value": scores.abs().amax(-1).clamp(min=1), "divergence": found["divergence"].clamp(min=1)}
        for part, unit in units.items():
            ours = torch.tensor([answer[part] for answer in answers[start :: len(groups)]], dtype=torch.float64)
            largest[part] = max(largest[part], float(((ours - found[part]).abs() / unit).max()))
    print(f"\nlargest differences over {len(problems)} problems: {largest}")
    assert max(largest.values()) <= ALLOWED, largest


@pytest.mark.browser
def test_it_has_the_names_limits_colours_and_multipliers_of_the_package(page: Any) -> None:
    assert page.eval_on_selector_all("#set option", "all => all.map(option => option.value)") == SETS
    limits = page.evaluate("() => Object.fromEntries(Object.entries(faalSolver.SETS).map(([k, v]) => [k, v.limits]))")
    with_radius = [name for name in SETS if name not in WITHOUT_RADIUS]
    assert {name: tuple(limits[name]) for name in with_radius} == {name: AMBIGUITY_SETS[name].limits for name in with_radius}
    starts = page.evaluate("() => Object.fromEntries(Object.entries(faalSolver.SETS).map(([k, v]) => [k, v.start]))")
    assert {name: starts[name] for name in with_radius} == {name: AMBIGUITY_SETS[name].make().radius for name in with_radius}
    assert json.dumps(figures._COLOURS)[1:-1] in (FOLDER / "page.js").read_text(encoding="utf-8")
    for name in with_radius:
        for classes in (2, 3, 10):
            for wanted in (1.2, classes - 0.01):
                radius = page.evaluate(f"() => faalSolver.radiusForMultiplier('{name}', {wanted}, {classes})")
                back = page.evaluate(f"() => faalSolver.largestMultiplier('{name}', {classes}, {radius!r})")
                ours = largest_multiplier(in_a_row(name, classes), classes, radius)
                assert [back, ours] == pytest.approx([wanted, wanted], abs=ALLOWED)


@pytest.mark.browser
def test_the_page_on_a_phone(page: Any) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    start, sentence = page.evaluate(WEIGHTS), page.inner_text("#sentence")
    assert sentence == "Class 3 counts 1.9 times as much as in plain training; class 1 counts 0.44 times as much."
    assert page.is_visible("#simplex .region")
    assert page.evaluate(WIDER) == 0

    page.focus("#score-1")
    page.keyboard.press("End")
    assert page.evaluate(WEIGHTS) != start
    assert page.inner_text("#sentence").startswith("Class 1 counts"), "the hardest class is another one"
    page.select_option("#set", "total-variation")
    assert float(page.input_value("#multiplier-number")) == pytest.approx(1.93), "c* is kept"
    page.fill("#radius-number", "0,3")
    page.keyboard.press("Enter")
    page.fill("#classes", "10")
    assert page.evaluate(WIDER) == 0
    assert page.is_hidden("#triangle")
    assert len(page.evaluate(WEIGHTS)) == 10

    page.wait_for_function("() => location.hash.includes('radius=0.3&scores=1,-0.2,')")
    shown, drawn = page.inner_text("main"), page.inner_html("#bars")
    page.reload()
    page.wait_for_selector("#bars .multiplier")
    assert page.inner_text("main") == shown
    assert page.inner_html("#bars") == drawn
    page.click("#reset")
    assert page.evaluate(WEIGHTS) == start
    assert page.inner_text("#sentence") == sentence
    page.evaluate("() => { location.hash = '#set=kl&radius=-1'; }")
    page.wait_for_selector("#note:not([hidden])")
    assert 'a radius of kl is at least 0, not "-1"' in page.inner_text("#note")


@pytest.mark.browser
def test_every_set_is_drawn_and_explained(page: Any) -> None:
    for name in SETS:
        page.select_option("#set", name)
        for preset in ("one", "two", "equal", "random"):
            page.click(f"[data-preset={preset}]")
            said, labels = page.inner_text("#sentence"), page.evaluate(WEIGHTS)
            assert "NaN" not in said + page.inner_text("dl") + page.inner_html("#simplex") + page.inner_html("#bars")
            if name == "point" or preset == "equal":
                assert said == "Every class counts as much as in plain training."
                assert set(labels) == {"\N{MULTIPLICATION SIGN}1.0"}
            elif preset == "one":
                assert said.startswith(("Class 1 counts", "Class 1 takes")), name
        assert page.eval_on_selector_all("[data-set]:not([hidden])", "all => all.map(e => e.dataset.set)") == [name]
