"""The documentation site, as `make docs` builds it: whole, without a network, and true of the commands that it names."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from made_up import parsed

from faal_lab.methods.presets import preset_settings
from faal_lab.runs.config import Config

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if "_build" not in page.parts and "notebooks" not in page.parts]


class Page(HTMLParser):
    """The links, sources and anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.sources: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value for name, value in attrs if value}
        self.anchors |= {found[name] for name in ("id", "name") if name in found}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        if tag in ("img", "script", "source", "iframe") and "src" in found:
            self.sources.append(found["src"])
        if tag == "link" and "href" in found and found.get("rel") not in ("next", "prev", "index", "search"):
            self.sources.append(found["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    """Path -> page of the built site."""
    out = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", ROOT / "docs", out]
    built = subprocess.run(words, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr[-3000:]
    pages = [path for path in out.rglob("*.html") if "_static" not in path.parts]  # the theme's own templates
    return {path: Page(path.read_text(encoding="utf-8")) for path in pages}


@pytest.mark.slow
def test_every_link_leads_somewhere(site: dict[Path, Page]) -> None:
    broken = []
    for path, page in site.items():
        for link in [*page.links, *page.sources]:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists() or (parts.fragment and target in site and unquote(parts.fragment) not in site[target].anchors):
                broken.append(f"{path.name}: {link}")
    assert len(site) > 40
    assert broken == []


@pytest.mark.slow
def test_a_page_asks_nothing_of_another_machine(site: dict[Path, Page]) -> None:
    assert [
        (path.name, link) for path, page in site.items() for link in page.sources if urlsplit(link).scheme in ("http", "https")
    ] == []


def blocks(language: str) -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        for block in re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.S):
            yield page, block


def commands() -> list[tuple[Path, str]]:
    found = [(page, line) for page, block in blocks("sh") for line in block.replace("\\\n", " ").splitlines()]
    return [(page, line.split(" #")[0].strip().removesuffix("&").strip()) for page, line in found if not line.startswith("#")]


def test_every_faal_lab_command_parses() -> None:
    found = [(page, line) for page, line in commands() if line.startswith("faal-lab ")]
    assert len(found) >= 55
    for page, line in found:
        try:
            command, given = parsed(shlex.split(line.split(" > ")[0])[1:])
        except BaseException as error:
            raise AssertionError(f"{page.name}: {line}: {error}") from error
        if command in ("run", "settings"):
            preset_settings(given["recipe"], given["protocol"])  # raises on a name that is not there


def test_every_papermill_command_names_a_notebook_and_settings() -> None:
    lines = [shlex.split(line) for _, line in commands() if line.startswith("papermill ")]
    assert lines
    for words in lines:
        assert (ROOT / words[1]).is_file()
        names = {words[i + 1] for i, word in enumerate(words) if word == "-p"}
        assert names <= {*Config().to_mapping(), "out", "run", "runs", "attacks", "images", "checkpoint", "title", "setting"}


def test_every_make_command_exists() -> None:
    names = {line.split()[1] for _, line in commands() if line.startswith("make ")}
    assert {"demo", "test", "lab", "docs"} <= names
    for name in names:
        found = subprocess.run(["make", "-n", name], cwd=ROOT, capture_output=True, text=True)
        assert found.returncode == 0, found.stderr


def test_every_script_exists() -> None:
    words = " ".join(" ".join(page.read_text(encoding="utf-8") for page in PAGES).split())
    scripts = set(re.findall(r"python ((?:docs|benchmarks|reproduce|tests)/\w+\.py)", words))
    assert len(scripts) > 8
    assert [script for script in scripts if not (ROOT / script).is_file()] == []


def test_every_python_example_uses_what_is_there() -> None:
    import faal_lab as fl

    found = list(blocks("python"))
    assert len(found) >= 6
    for page, block in found:
        compile(block, str(page), "exec")
        for name in re.findall(r"\bfl\.(\w+(?:\.\w+)?)", block):
            first, _, second = name.partition(".")
            assert first in fl.__all__, f"{page.name}: fl.{name}"
            assert not second or hasattr(getattr(fl, first), second), f"{page.name}: fl.{name}"
