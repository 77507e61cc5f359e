"""What pip brings: the wheel and the sdist of this tree, installed where no checkout is."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import in_browser
import in_plugin
import pytest
from in_lab import require_browser

ROOT = Path(__file__).parent.parent
UV = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))


def said(words: list[str | Path], folder: Path, **environment: str) -> str:
    """What a command prints, run without anything of this checkout."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(words, cwd=folder, env={**kept, **environment}, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, f"{words}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel that was built from the sdist, which was built from this tree."""
    out = tmp_path_factory.mktemp("dist")
    said([sys.executable, "-m", "build", "--outdir", out, ROOT], out)
    said([sys.executable, "-m", "twine", "check", "--strict", *out.iterdir()], out)
    (found,) = out.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def command(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`faal-lab` of a fresh environment that has the wheel and what it asks for."""
    home = tmp_path_factory.mktemp("fresh")
    said([UV, "venv", "--quiet", "--seed", "--python", sys.executable, home / "env"], home)
    said([UV, "pip", "install", "--quiet", "--compile-bytecode", "--python", home / "env" / "bin" / "python", wheel], home)
    return home / "env" / "bin" / "faal-lab"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_all_of_it_works_where_no_checkout_is(wheel: Path, command: Path, tmp_path: Path) -> None:
    """One test, so that wheel and environment are made once."""
    has_every_file_that_a_user_opens(wheel)
    the_demo_ends_with_the_report(command, tmp_path / "demo")
    a_sweep_starts_and_the_notebooks_come_along(command, tmp_path / "sweep")
    the_template_of_a_plugin_is_installed_by_pip(command, tmp_path / "plugin")
    the_first_cell_installs_where_the_package_is_absent(command, wheel, tmp_path)


def has_every_file_that_a_user_opens(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (about,) = (archive.read(name).decode() for name in names if name.endswith("METADATA"))
    kept = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in kept:
        if re.fullmatch(r"notebooks/.*|parameterized/.*|reproduce/.*\.yaml|docs/.*\.md", name):
            assert f"faal_lab/share/{name}" in names
        elif name.startswith("faal_lab/"):
            assert name in names, "code, styles and templates"
    assert not [name for name in names if "__pycache__" in name or "checkpoints" in name or name.startswith("tests")]
    assert "License-Expression: MIT" in about
    assert "Typing :: Typed" in about
    text = about.split("\n\n", 1)[1]
    assert text.startswith("# faal_lab")
    assert "](docs/" not in text, "an index has neither our pictures nor our pages"


def the_demo_ends_with_the_report(command: Path, tmp_path: Path) -> None:
    tmp_path.mkdir()
    assert "Report: runs/demo/report.html" in said([command, "demo", "--quick"], tmp_path)
    assert (tmp_path / "runs" / "demo" / "report.html").stat().st_size > 1_000_000


def a_sweep_starts_and_the_notebooks_come_along(command: Path, tmp_path: Path) -> None:
    tmp_path.mkdir()
    assert "jobs into runs/digits" in said([command, "sweep", "digits", "--dry-run"], tmp_path)
    words = [str(command), "sweep", "digits", "--workers", "1"]
    with subprocess.Popen(words, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as started:
        assert started.stdout is not None
        assert any("base/pgd-at: begun" in line for line in started.stdout), "it starts"
        started.terminate()
    listed = said([command, "notebooks", "list"], tmp_path).splitlines()
    said([command, "notebooks", "copy", "mine"], tmp_path)
    assert sorted(listed) == sorted(
        p.relative_to(tmp_path / "mine").as_posix() for p in (tmp_path / "mine").rglob("*.*") if p.is_file()
    )
    own = tmp_path / "mine" / "notebooks" / "00_map.ipynb"
    own.write_text("my own")
    assert said([command, "notebooks", "copy", "mine"], tmp_path).strip() == ""
    assert own.read_text() == "my own", "what is there is kept"


def the_template_of_a_plugin_is_installed_by_pip(command: Path, tmp_path: Path) -> None:
    tmp_path.mkdir()
    python, source = command.with_name("python"), in_plugin.copied(tmp_path / "source")
    said([python, "-m", "pip", "install", "-q", source], tmp_path)
    assert in_plugin.LISTED in said([command, "methods"], tmp_path)
    said([python, "-c", in_plugin.TRIED], tmp_path)
    said([python, "-m", "pip", "uninstall", "-q", "-y", "faal-lab-tophalf"], tmp_path)
    assert "top-half" not in said([command, "methods"], tmp_path)


def the_first_cell_installs_where_the_package_is_absent(command: Path, wheel: Path, tmp_path: Path) -> None:
    """The cell that Colab needs, and that does nothing elsewhere."""
    found = [json.loads(path.read_text())["cells"] for path in sorted((ROOT / "notebooks").glob("0[1-6]*.ipynb"))]
    cells = {"".join(c["source"]) for cells in found for c in cells if "install" in c["metadata"].get("tags", [])}
    assert len(found) == 6
    (cell,) = cells
    python = command.with_name("python")
    script = tmp_path / "cell.py"
    script.write_text(f"""
from IPython.core.interactiveshell import InteractiveShell
InteractiveShell.instance().run_cell({cell!r}).raise_error()
import faal_lab
print("version", faal_lab.__version__)
""")
    assert said([python, script], tmp_path).startswith("version"), "it is there: nothing is done"
    said([UV, "pip", "uninstall", "--quiet", "--python", python, "faal-lab"], tmp_path)
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheel.parent), "PIP_CONFIG_FILE": os.devnull}
    assert "version" in said([python, script], tmp_path, **offline)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.browser
def test_lab_serves_the_notebooks_in_an_empty_folder(command: Path, tmp_path: Path) -> None:
    require_browser()
    words = [str(command), "lab", "--no-browser", "--port", "8973"]
    heard = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731 (a shell's background job is deaf to Ctrl-C)
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    server = subprocess.Popen(
        words, cwd=tmp_path, env=kept, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        preexec_fn=heard,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        first = server.stdout.readline()
        assert first.startswith("Copied the notebooks")
        found = next(m for line in server.stdout if (m := re.search(r"http://127\.0\.0\.1:\d+/\S*token=\w+", line)))
        with in_browser.browser() as browser:
            page = browser.new_page()
            page.goto(found[0])
            page.wait_for_selector(".jp-NotebookPanel .jp-RenderedMarkdown h1", timeout=60_000)
            assert "faal_lab" in page.inner_text(".jp-NotebookPanel")
            page.close()
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)  # or it would outlive the tests
            raise
    assert (tmp_path / "notebooks" / "00_map.ipynb").is_file()
