"""A notebook that is opened without its kernel shows the last picture of a live panel, and no empty cell."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import in_browser
import pytest
from in_lab import Lab, shoot

KEPT = "[...document.querySelectorAll('.jp-OutputArea-child img')].filter(i => i.src.startsWith('data:image/png'))"
SEEN = f"{KEPT}.filter(i => i.offsetHeight > 300 && i.naturalWidth > 400).length"


def pictures(file: Path) -> list[str]:
    outputs = [output for cell in json.loads(file.read_text())["cells"] for output in cell["outputs"]]
    return ["".join(output["data"]["image/png"]) for output in outputs if "image/png" in output.get("data", {})]


@pytest.mark.browser
def test_a_notebook_keeps_the_last_picture(lab: Lab, page: Any) -> None:
    file = in_browser.write_notebook(
        lab.root / "kept.ipynb", 'import faal_lab as fl\nfl.Dashboard("notebooks/recorded/faal-steered")'
    )
    lab.open(page, file.name)
    page.wait_for_function(f"() => {KEPT}.length === 1 && {SEEN} === 0")  # it is there, and hidden
    page.evaluate(in_browser.FIRE, "docmanager:save")
    page.wait_for_function("() => window.fired === 'ok'")
    (live,) = pictures(file)
    assert len(live) < 450_000
    page.reload()
    page.wait_for_selector(".faal-view canvas", state="attached")
    page.wait_for_function(f"() => {KEPT}.length === 1 && {SEEN} === 0")  # the kernel still runs
    in_browser.end_kernels(lab.address)
    in_browser.open_notebook(page, lab.address, f"{lab.root.name}/{file.name}")
    page.wait_for_function(f"() => {SEEN} === 1")
    shoot(page, "kept")
    html = file.with_suffix(".html")
    words = [sys.executable, "-m", "jupyter", "nbconvert", "--to", "html", str(file), "--output", str(html)]
    subprocess.run(words, check=True, capture_output=True, timeout=180)
    assert f'src="data:image/png;base64,{live[:40]}' in html.read_text()
