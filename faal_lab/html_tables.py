"""Rows as HTML tables, for the report's page and for panels of a notebook alike.

Knows: verdicts and run folders by the names of their runs. Must not know: pages, widgets, figures.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from faal_lab.evaluation import Verdicts
from faal_lab.runs import RunFolder
from faal_lab.tables import ATTACK_TITLES, SPREAD_TITLES, last_attack, marked, spread_cells, spread_rows


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; its text is escaped, and it scrolls sideways where the page is narrow."""
    cells = ["<tr>" + "".join(f"<th>{html.escape(h)}</th>" for h in head) + "</tr>"]
    for row in rows:
        cells.append("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>")
    return "<div class='wide'><table>" + "\n".join(cells) + "</table></div>"


def spread_html(verdicts: Mapping[str, Verdicts], attack: str = "") -> str:
    """How unequal the classes are under `attack` (empty: the last one): a line a measure, a column a run."""
    verdicts = marked(verdicts)
    first = next(iter(verdicts))
    cells = [spread_cells(row) for row in spread_rows(verdicts, attack)]
    head = [f"under {ATTACK_TITLES[attack or last_attack(verdicts[first])]}", *verdicts]
    rows = [[title, *(c[key] for c in cells)] for key, title in SPREAD_TITLES.items()]
    note = (
        "Shares in percent. Noise alone spreads equal classes, too. Selection: the lowest of several noisy shares is biased low; "
        "the corrected value is an estimate by bootstrap. Boundary error: what the attack adds to a class's clean error. "
        f"Spectral norm: of the confusions without their diagonal. rho: relative gain of the worst class over "
        f"{first} minus relative loss of the average."
    )
    return f"{html_table(head, rows)}<p class='note'>{html.escape(note)}</p>"


def settings_html(folders: Mapping[str, RunFolder]) -> str:
    """Which settings of runs differ; those that are the same, and versions, folded away. Raises RunFolderError."""
    configs = [folder.config().to_mapping() for folder in folders.values()]
    rows = [[name, *(str(config[name]) for config in configs)] for name in configs[0]]
    differing = [row for row in rows if len(set(row[1:])) > 1]
    same = [row for row in rows if len(set(row[1:])) == 1]
    versions = [folder.versions() for folder in folders.values()]
    made_by = [[name, *(found.get(name, "?") for found in versions)] for name in versions[0]]
    head = ["setting", *folders]
    return (
        "<h3>Settings that differ</h3>" + html_table(head, differing)
        + "<details><summary>Settings that are the same, and versions</summary>"
        + html_table(head, same) + html_table(["version of", *head[1:]], made_by) + "</details>"
    )  # fmt: skip
