"""The page of differences is written from the data that the release form reads, and the pages of methods agree with it."""

import re
import sys
from pathlib import Path

import pytest
from made_up import parsed

from faal_lab.catalogue import FAIRNESS
from faal_lab.cli import methods
from faal_lab.errors import UnknownName
from faal_lab.methods.releases import differences, releases

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "differences.md").read_text(encoding="utf-8")


def test_the_page_is_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(DOCS), *sys.path])
    import differences_page

    assert differences_page.written(PAGE) == PAGE, "python docs/differences_page.py writes it"
    assert differences_page.table().count("\n") == len(differences()) + 2
    for row in differences():
        assert row.what in PAGE
        assert row.choice in PAGE


def test_no_cell_of_the_table_breaks_it() -> None:
    for row in differences():
        assert not any("|" in cell or "\n" in cell for cell in row), row.what


def test_a_method_that_has_a_release_has_its_rows_and_a_section_on_its_page() -> None:
    told = {name for row in differences() for name in row.method.split(", ")}
    for name in releases():
        page = "objectives" if name == "none" else {"trix": "dafa"}.get(name, re.sub("-.*", "", name))
        text = (DOCS / "methods" / f"{page}.md").read_text(encoding="utf-8")
        assert "--variant release" in text or "Paper and release" in text
        assert name == "none" or name in told, name


def test_the_command_prints_the_rows_of_one_method(capsys: pytest.CaptureFixture[str]) -> None:
    methods("csr")
    printed = capsys.readouterr().out
    assert printed.startswith("csr: where paper, release and faal_lab differ\n")
    assert "passes clean adv clean adv" in printed
    assert all(row.what in printed for row in differences("csr"))
    assert "second wrong iterate" not in printed
    methods("group-dro")
    assert "There is no released code to follow." in capsys.readouterr().out
    assert all(name in FAIRNESS for name in releases())
    with pytest.raises(UnknownName, match="Did you mean 'csr'"):
        methods("css")
    parsed(["methods", "csr"])
