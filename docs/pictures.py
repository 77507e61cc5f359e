"""Make the README's result picture from the five-seed demo (`make seeds`): python docs/pictures.py

Needs Chromium and Playwright (the `dev` extra), as the browser test does.
"""

import os
import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from faal_lab.seeds import RUNS, seed_bars

HERE = Path(__file__).parent
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]


def main(seeds: Path = HERE.parent / "runs" / "demo-seeds") -> None:
    """Draw the bars of `seeds` and keep them as docs/result.png."""
    folders = {run: [path / run for path in sorted(seeds.glob("seed-?"))] for run in RUNS}
    figure = seed_bars(folders, "autoattack").update_layout(width=920, height=400, paper_bgcolor="white", plot_bgcolor="white")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        page_file = Path(folder) / "page.html"
        figure.write_html(page_file, include_plotlyjs=True, config={"displayModeBar": False})
        chromium = os.environ.get("FAAL_LAB_CHROMIUM") or shutil.which("chromium")
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 940, "height": 420})
        page.goto(page_file.as_uri())
        page.locator(".js-plotly-plot").screenshot(path=HERE / "result.png")
        browser.close()


if __name__ == "__main__":
    main()
