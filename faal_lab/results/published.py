"""Read a paper's numbers and put them beside ours.

A paper prints its numbers without intervals, so we take them as exact. The interval of a difference is then ours, shifted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from faal_lab.catalogue import ATTACKS
from faal_lab.errors import ConfigError, check_name

NUMBERS = ("average", "worst")


@dataclass(frozen=True)
class Published:
    """A paper's numbers for one method, with their source.

    `attacks` has for each attack the `average` and the `worst` class in percent, or one of them.
    """

    source: str
    attacks: dict[str, dict[str, float]]


def read_paper(path: str | Path) -> dict[str, Published]:
    """Read a paper's numbers by run name from a YAML or JSON file, in the form of `published`.

    Nothing in the file is executed. Raises OSError, or ConfigError or UnknownName for other content.
    """
    import yaml

    try:
        loaded = yaml.safe_load(Path(path).read_bytes())
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is neither YAML nor JSON: {error}") from error
    return published(loaded, str(path))


def published(mapping: object, where: str = "paper") -> dict[str, Published]:
    """Read a paper's numbers, in percent, from plain values.

    The form is {run: {source: text, attacks: {attack: {average: 52.5, worst: 24.4}}}}. Raises ConfigError or UnknownName,
    with `where` in the message.
    """
    return {name: _entry(entry, f"{where}: {name}") for name, entry in _mapping(mapping, where).items()}


def _entry(entry: object, where: str) -> Published:
    held = _mapping(entry, where)
    for name in held:
        check_name(f"entry of {where}", name, ("source", "attacks"))
    source = held.get("source", "")
    if not isinstance(source, str) or not source:
        raise ConfigError(f"{where}: source must say where the numbers stand, such as Table 1, got {source!r}.")
    attacks = {}
    for attack, numbers in _mapping(held.get("attacks"), f"{where}: attacks").items():
        check_name(f"attack in {where}", attack, ATTACKS)
        attacks[attack] = {
            check_name(f"number in {where}: {attack}", kind, NUMBERS): _percent(value, f"{where}: {attack}: {kind}")
            for kind, value in _mapping(numbers, f"{where}: {attack}").items()
        }
    return Published(source, attacks)


def _mapping(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not value or not all(isinstance(key, str) for key in value):
        raise ConfigError(f"{where} must hold names and what belongs to them, got {value!r}.")
    return value


def _percent(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        raise ConfigError(f"{where} must be a number in percent, from 0 to 100, got {value!r}.")
    return float(value)


def paper_rows(paper: Mapping[str, Published], rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Make a row for each run, attack and number of `paper`: ours, the paper's, and the difference.

    The difference is ours minus the paper's, with its interval. `rows` are those of the result table. If the run was not
    evaluated with the attack, ours and the difference are None. Raises UnknownName for a run that is not in `rows`.
    """
    ours = {(row["run"], row["attack"]): row for row in rows}
    runs = list(dict.fromkeys(run for run, _ in ours))
    found = []
    for name, entry in paper.items():
        check_name("run in the paper's numbers", name, runs)
        for attack, numbers in entry.attacks.items():
            row = ours.get((name, attack), {})
            for kind, theirs in numbers.items():
                values = [row.get(key) for key in (kind, f"{kind}_low", f"{kind}_high")]
                away = [None if value is None else value - theirs for value in values]
                found.append({
                    "run": name, "attack": attack, "number": kind, "source": entry.source, "paper": theirs,
                    **dict(zip(("ours", "ours_low", "ours_high"), values, strict=True)),
                    **dict(zip(("difference", "difference_low", "difference_high"), away, strict=True)),
                })  # fmt: skip
    return found
