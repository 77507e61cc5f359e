"""The panel of biases in a real browser: JupyterLab in headless Chromium, driven by its keys as a person would."""

from typing import Any

import pytest
from in_browser import FIRE, READY, open_notebook, write_notebook
from in_lab import Lab, clean, press_slider, shoot

from faal_lab.runs import RunFolder
from faal_lab.runs.events import Balanced

# what both pictures say to who does not see them, and the rounds that are drawn
HERE = """() => { const of = name => document.querySelector('.faal-' + name + ' svg'), path = of('path');
  return path && {bars: of('bars').getAttribute('aria-label'), at: path.getAttribute('aria-label'),
    points: [...path.querySelectorAll('title')].map(t => t.textContent.split(':')[0]).join(), estimate: path.textContent.includes('estimated')}; }"""
SAID = "((document.querySelector('.faal-said') || {}).innerText || '')"
WHERE = "((document.querySelector('.faal-where') || {}).innerText || '')"


@pytest.mark.browser
def test_a_bias_is_set_attacked_and_kept_by_keys(lab: Lab, page: Any) -> None:
    write_notebook(lab.root / "balance.ipynb", "import faal_lab as fl\nfl.Balancer('notebooks/recorded/control', rounds=2)")
    with clean(page):
        open_notebook(page, lab.address, f"{lab.root.name}/balance.ipynb")
        page.evaluate(FIRE, "notebook:run-all-cells")
        page.wait_for_function(
            f"() => {SAID}.startsWith('Attacked') && (({HERE})() || {{}}).points === 'no bias,round 1,round 2'"
        )
        page.wait_for_function(f"() => {WHERE}.startsWith('round')")
        found = page.evaluate(HERE)

        press_slider(page, ".faal-round .noUi-handle", "Home")
        page.wait_for_function(f"() => {WHERE} === 'no bias'")
        page.wait_for_function(f"before => ({HERE})().at !== before", arg=found["at"])
        assert page.evaluate(HERE)["bars"] != found["bars"]

        weak = ".faal-bias:nth-child(9) .noUi-handle"
        press_slider(page, weak, "End")
        page.wait_for_function(f"() => {SAID}.startsWith('Estimate') && ({HERE})().estimate")
        shoot(page, "estimate")
        page.click("button.faal-attack")
        page.wait_for_function(f"() => {SAID}.startsWith('Attacked') && !({HERE})().estimate")
        page.wait_for_function(f"() => {WHERE} === 'by hand 1'")
        attacked = page.evaluate(HERE)
        assert attacked["points"].endswith("by hand 1")
        shoot(page, "attacked")

        page.fill(".faal-out input", "runs/mine")
        page.press(".faal-out input", "Tab")
        page.click("button.faal-keep")
        page.wait_for_function("() => document.querySelector('.faal-doing').innerText.startsWith('kept')")
        (event,) = [e for e in RunFolder(lab.root / "runs" / "mine").events() if isinstance(e, Balanced)]
        for name, k, n in zip("0123456789", event.correct[-1], event.count, strict=True):
            assert f"{name}: {100 * k / n:.1f} % (" in attacked["bars"]
        assert event.bias[-1][8] == max(event.bias[-1])

        page.evaluate(FIRE, "docmanager:save")
        page.wait_for_function("() => window.fired === 'ok'")
        page.reload()
        page.wait_for_function(READY)
        page.wait_for_function(f"() => {SAID}.startsWith('Attacked') && !!({HERE})()")
        assert page.evaluate(HERE) == attacked, "a page that is reloaded shows the same"
