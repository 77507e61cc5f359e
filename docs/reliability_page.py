"""Write the table of the reliability figures into docs/reliability.md: python docs/reliability_page.py

The numbers are those of benchmarks/reliability.json. A test holds the page equal to them.
"""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- rows: written by docs/reliability_page.py -->\n", "<!-- end of rows -->\n"
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


def _more(row: dict[str, Any]) -> str:
    """Return the other numbers of a row in words; of many, their range."""
    said = []
    for name, value in row.items():
        if name in _SHOWN:
            continue
        if isinstance(value, dict) and len(value) > 5:
            said.append(f"{name}: {min(value.values()):g} to {max(value.values()):g}")
        elif isinstance(value, dict):
            said += [f"{name}: {what} {number:.1e}" for what, number in value.items()]
        else:
            said.append(f"{name}: {value:,}")
    return "; ".join(said)


def written(page: str) -> str:
    """Return the page with the present rows between its two marks."""
    found = json.loads((ROOT / "benchmarks" / "reliability.json").read_text(encoding="utf-8"))
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{table(found)}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
