"""Make the README's pictures of the demo and of the notebooks: python docs/pictures.py [result workbench explorer]

`result` is drawn from the five-seed demo, which `make seeds` makes; the other two are notebooks as JupyterLab shows them, half a
minute each. Needs Chromium and Playwright (the `dev` extra), as browser tests do.
"""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))  # what drives a browser there

import numpy as np
import plotly.graph_objects as go
from desk import LAST
from in_browser import chromium, jupyter, open_and_run

from faal_lab.evaluation.verdicts import Verdicts
from faal_lab.results.figures import INK, RUN_COLOURS, styled
from faal_lab.runs import RunFolder

SEEDS = ROOT / "runs" / "demo-seeds"


def seed_bars(folders: dict[str, list[Path]]) -> go.Figure:
    """Accuracy of each class under AutoAttack: the mean over seeds, whiskers from the lowest to the highest seed."""
    figure, names = go.Figure(), ()
    for number, (run, paths) in enumerate(folders.items()):
        verdicts = [Verdicts.read(RunFolder(path).verdicts_file()) for path in paths]
        names = verdicts[0].class_names
        rates = np.array([100 * np.divide(*v.counts("autoattack")) for v in verdicts])  # [seeds, C]
        mean = rates.mean(0)
        figure.add_bar(
            name=run, x=list(names), y=mean, marker_color=RUN_COLOURS[number],
            error_y={
                "symmetric": False, "array": rates.max(0) - mean, "arrayminus": mean - rates.min(0),
                "thickness": 1, "width": 2, "color": INK,
            },
        )  # fmt: skip
    figure.update_yaxes(title="accuracy, %", range=[0, 100])
    figure.update_xaxes(title="class", type="category")
    count = len(next(iter(folders.values())))
    title = f"AutoAttack accuracy by class: mean of {count} seeds, whiskers from lowest to highest"
    return styled(figure, title=title, barmode="group")


def result(file: Path) -> None:
    """The bars of the seeds."""
    folders = {run: sorted((SEEDS / run).glob("[0-9]*")) for run in ("base", "control", "faal")}
    if not all(folders.values()):
        raise SystemExit(f"No seeds in {SEEDS}. Make them first, about 20 minutes: make seeds")
    figure = seed_bars(folders).update_layout(width=920, height=400, paper_bgcolor="white", plot_bgcolor="white")
    with tempfile.TemporaryDirectory() as folder, chromium() as page:
        page_file = Path(folder) / "page.html"
        figure.write_html(page_file, include_plotlyjs=True, config={"displayModeBar": False})
        page.set_viewport_size({"width": 940, "height": 420})
        page.goto(page_file.as_uri())
        page.locator(".js-plotly-plot").screenshot(path=file)


def workbench(page: Any, address: str) -> Any:
    """The workbench, with the recorded run in which tau is turned twice, and the class that did worst picked out."""
    open_and_run(page, address, "notebooks/04_train_live.ipynb")
    page.select_option(".faal-opened select", "recorded/faal-steered")
    page.wait_for_function(f"() => {LAST} === 160")
    page.click("button.faal-chip:has-text('8')")
    page.click(".jupyter-widget-Collapse-header:has-text('Settings')")  # folded away: the curves are what is to be seen
    page.mouse.move(0, 0)
    return page.locator(".jp-OutputArea-output:has(.faal-view)").first


def explorer(page: Any, address: str) -> Any:
    """Three classes, as the notebook of ambiguity sets opens."""
    open_and_run(page, address, "notebooks/02_ambiguity_sets.ipynb")
    return page.locator(".jp-OutputArea-output:has(.widget-slider)").first


NOTEBOOKS = {"workbench": workbench, "explorer": explorer}


def of_notebook(name: str, file: Path) -> None:
    """One picture of a copy of the notebooks, so that nothing is left beside them."""
    with tempfile.TemporaryDirectory() as folder:
        lab = Path(folder) / "lab"
        shutil.copytree(ROOT / "notebooks", lab / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
        with jupyter(lab, Path(folder), "notebooks/00_map.ipynb") as (address, _), chromium(height=2400) as page:
            shown = NOTEBOOKS[name](page, address)
            page.add_style_tag(content=".jp-OutputArea-output { padding: 12px; background: white }")
            page.evaluate("window.dispatchEvent(new Event('resize'))")  # or plotly keeps the width without the padding
            page.wait_for_timeout(2000)  # until the last animation has ended
            shown.screenshot(path=file)


def main(wanted: list[str]) -> None:
    """Make the pictures of these names, or all."""
    unknown = sorted(set(wanted) - {"result", *NOTEBOOKS})
    if unknown:
        raise SystemExit(f"No picture {', '.join(unknown)}; there are result, {', '.join(NOTEBOOKS)}.")
    for name in wanted or ["result", *NOTEBOOKS]:
        file = ROOT / "docs" / f"{name}.png"
        result(file) if name == "result" else of_notebook(name, file)
        print(file.relative_to(ROOT), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
