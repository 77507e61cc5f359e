"""Write the table of the reliability figures into docs/reliability.md: python docs/reliability_page.py

The numbers are those of benchmarks/reliability.json and benchmarks/endurance.json. A test holds the page equal to them.
"""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- rows: written by docs/reliability_page.py -->\n", "<!-- end of rows -->\n"
LONG, LONG_END = "<!-- long run: written by docs/reliability_page.py -->\n", "<!-- end of long run -->\n"
_SHOWN = ("promise", "met", "tried", "lost", "seconds")  # what has a column or is not shown


def table(found: dict[str, Any]) -> str:
    """Return the rows in Markdown, with what else each has counted."""
    head = ["| tried on | promise | tried | lost | also counted |", "|---|---|---:|---:|---|"]
    rows = [
        f"| {name} | {row['promise']} | {row['tried']:,} | {len(row['lost'])} | {_more(row)} |"
        for name, row in found["rows"].items()
    ]
    about = ", ".join(f"{name} {value}" for name, value in found["machine"].items() if value != "not installed" and name != "gpu")
    return "\n".join([*head, *rows, "", f"Measured with {about}.", ""])


def two_hours(found: dict[str, Any]) -> str:
    """Return the slopes of the long run in Markdown."""
    said = (
        f"{found['minutes']:g} minutes of training by one thread, followed by a page: {found['batches']:,} batches, "
        f"{found['pauses']} pauses, tau turned {found['turns']:,} times; lost: {len(found['lost'])}."
    )
    head = ["| what | growth | 95 % interval |", "|---|---:|---|"]
    rows = [f"| {name} | {one['slope']:.3g} | {one['low']:.3g} to {one['high']:.3g} |" for name, one in found["slopes"].items()]
    return "\n".join([said, "", *head, *rows, ""])


def _more(row: dict[str, Any]) -> str:
    """Return the other numbers of a row in words; of many, their range."""
    said = []
    for name, value in row.items():
        if name in _SHOWN:
            continue
        if isinstance(value, dict) and len(value) > 3:
            said.append(f"{name}: {min(value.values()):g} to {max(value.values()):g}")
        elif isinstance(value, dict):
            said += [f"{name}: {what} {number:.1e}" for what, number in value.items()]
        else:
            said.append(f"{name}: {value:,}")
    return "; ".join(said)


def written(page: str) -> str:
    """Return the page with the present rows between its two marks."""
    for (begin, end), name, tell in (((BEGIN, END), "reliability", table), ((LONG, LONG_END), "endurance", two_hours)):
        found = json.loads((ROOT / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))
        before, _, rest = page.partition(begin)
        page = f"{before}{begin}\n{tell(found)}\n{end}{rest.partition(end)[2]}"
    return page


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
