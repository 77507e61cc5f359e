"""Looking things up by name, with an error that offers the nearest one.

Knows: strings. Must not know: what the names stand for.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UnknownName(ValueError):
    """A name that is in no list; the message offers the nearest valid one and shows them all."""


def check_name(kind: str, name: object, valid: Iterable[str]) -> str:
    """Return `name` if it is one of `valid`; otherwise raise UnknownName."""
    known = list(valid)
    if isinstance(name, str) and name in known:
        return name
    close = get_close_matches(str(name), known, n=1, cutoff=0.4)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise UnknownName(f"Unknown {kind} {name!r}.{hint} Known: {', '.join(known)}.")
