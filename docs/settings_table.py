"""Write the table of all settings into docs/formats.md: python docs/settings_table.py

A test holds the page equal to this table.
"""

import json
import math
from pathlib import Path

from faal_lab.runs.config import settings
from faal_lab.settings import Setting

PAGE = Path(__file__).resolve().parent / "formats.md"
BEGIN, END = "<!-- settings: written by docs/settings_table.py -->\n", "<!-- end of settings -->\n"


def valid(setting: Setting) -> str:
    """State the valid names or the range of a setting; empty for any value."""
    if setting.among is not None:
        return ", ".join(f"`{name}`" for name in setting.among)
    low, high = (f"{limit:.10g}" for limit in (setting.low, setting.high))
    if math.isinf(setting.low):
        return "" if math.isinf(setting.high) else f"at most {high}"
    return f"at least {low}" if math.isinf(setting.high) else f"{low} to {high}"


def table() -> str:
    """Return the table in Markdown, one row a setting, in the order of config.json."""
    head = ["| setting | type | default | valid | meaning |", "|---|---|---|---|---|"]
    rows = [
        f"| `{s.name}` | {s.type.__name__} | `{json.dumps(s.default)}` | {valid(s)} | {s.about} |" for s in settings().values()
    ]
    return "\n".join([*head, *rows]) + "\n"


def written(page: str) -> str:
    """Return the page with the present table between its two marks."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
