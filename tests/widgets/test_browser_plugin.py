"""A method of an installed package in a real browser: in the workbench's menu, chosen, trained."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import in_browser
import in_lab
import in_plugin
import pytest
from in_lab import STATUS, Lab, clean, shoot, steps

LIVE = "notebooks/04_train_live.ipynb"


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """JupyterLab whose kernels see the template of docs/plugin, installed in a folder: (address, folder it shows)."""
    in_lab.require_browser()
    folder = tmp_path_factory.mktemp("plugin")
    environment = in_plugin.installed(in_plugin.copied(folder / "source"), folder / "site")
    (folder / "shown").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", environment["PYTHONPATH"])
        with in_browser.jupyter(folder / "shown", folder / "private", "") as (address, _):
            yield address, folder / "shown"


@pytest.mark.browser
def test_an_installed_method_is_chosen_from_the_menu_and_trained(lab: Lab, page: Any) -> None:
    lab.change(LIVE, "epochs=20", "epochs=1")
    with clean(page):
        lab.open(page, LIVE)
        offered = page.locator(".faal-fairness option").all_inner_texts()
        assert offered.count("top-half") == 1
        assert "faal" in offered, "beside ours"
        page.select_option(".faal-fairness select", "top-half")
        page.wait_for_selector("button.faal-start:enabled")
        shoot(page, "plugin-chosen")
        page.click("button.faal-start")
        page.wait_for_function(f"() => {STATUS}.startsWith('done')")
        shoot(page, "plugin-trained")
    run = lab.run()
    assert json.loads(run.config_file.read_text())["config"]["fairness"] == "top-half", "here the package is not installed"
    assert run.status() == "done"
    for step in steps(run):
        assert step.weights is not None
        assert max(step.weights) == pytest.approx(2 * min(step.weights)), "its rule: the worst classes count twice"
