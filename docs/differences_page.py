"""Write the table of differences into docs/differences.md: python docs/differences_page.py

The rows live in faal_lab/releases.toml. A test holds the page equal to them.
"""

from pathlib import Path

from faal_lab.methods.releases import Difference, differences, releases

PAGE = Path(__file__).resolve().parent / "differences.md"
BEGIN, END = "<!-- differences: written by docs/differences_page.py -->\n", "<!-- end of differences -->\n"


def passes() -> str:
    """Return the table of each release's passes in Markdown."""
    head = ["| method | objective | passes in training mode; the optimiser step is / | start | code |", "|---|---|---|---|---|"]
    rows = [
        f"| `{method}` | {loss} | {row.passes.replace('|', '/')} | {row.start} | {row.code} |"
        for method, losses in releases().items()
        for loss, row in losses.items()
    ]
    return "\n".join([*head, *rows]) + "\n"


def table() -> str:
    """Return the table of differences in Markdown, one row a difference."""
    head = ["| method | difference | size | `paper` | `release` | why |", "|---|---|---|---|---|---|"]
    return "\n".join([*head, *(_row(row) for row in differences())]) + "\n"


def _row(row: Difference) -> str:
    named = ", ".join(name if name == "all" else f"`{name}`" for name in row.method.split(", "))
    return "| " + " | ".join([named, *row[1:]]) + " |"


def written(page: str) -> str:
    """Return the page with the present tables between its two marks."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n## Passes of each release\n\n{passes()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
