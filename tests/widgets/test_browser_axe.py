"""axe-core finds nothing serious on our pages: names for screen readers, contrast, roles, keyboard focus."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import in_browser
import pytest
from in_lab import Lab, require_browser

import faal_lab as fl

RECORDED = Path(__file__).parents[2] / "notebooks" / "recorded"
RUN = """async where => { const found = await axe.run(where ? document.querySelector(where) : document, {resultTypes: ['violations']});
  return found.violations.filter(v => ['serious', 'critical'].includes(v.impact))
    .map(v => [v.id, v.help, ...v.nodes.map(n => n.html.slice(0, 120))]); }"""


def serious(page: Any, where: str = "") -> list[list[str]]:
    """What axe-core calls serious or critical, in a part of the page."""
    import axe_playwright_python

    page.evaluate((Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
    return page.evaluate(RUN, where)


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The addresses of the files that we write for others."""
    folder = tmp_path_factory.mktemp("pages")
    fl.open_run(RECORDED / "faal-steered").export("replay", folder / "replay.html", say=lambda _: None)
    fl.report(RECORDED / "control", RECORDED / "faal-steered", out=folder / "report.html")
    return {file.stem: file.as_uri() for file in folder.glob("*.html")}


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["replay", "report"])
def test_a_page_that_is_sent(name: str, scheme: str, pages: dict[str, str]) -> None:
    require_browser()
    with in_browser.browser() as context:
        page = context.new_page()
        page.emulate_media(color_scheme=scheme)
        page.goto(pages[name])
        page.wait_for_selector(".faal-view canvas, .js-plotly-plot .main-svg", state="attached")
        for summary in page.locator("summary").all():
            summary.click()
        assert serious(page) == []


@pytest.mark.browser
def test_the_workbench(lab: Lab, page: Any) -> None:
    lab.open(page, "notebooks/04_train_live.ipynb")
    page.wait_for_selector(".faal-dashboard .noUi-handle[aria-label]", state="attached")
    for theme in ("Dark", "Light"):
        page.evaluate(f"() => window.jupyterapp.commands.execute('apputils:change-theme', {{theme: 'JupyterLab {theme}'}})")
        page.wait_for_function(f"() => document.body.dataset.jpThemeName === 'JupyterLab {theme}'")
        page.wait_for_timeout(1000)  # colours fade from one theme to the other
        assert serious(page, ".jp-OutputArea:has(.faal-dashboard)") == [], theme
