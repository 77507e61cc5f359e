"""Define the base class of our errors, and look up a name with the nearest known one as a hint."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class FaalLabError(Exception):
    """An error whose message is all that a user needs: what was expected, what was got, the cure.

    The command line prints it without a traceback; any other error is a defect.
    """


class UnknownName(FaalLabError, ValueError):
    """A name that is in no list; the message offers the nearest valid one and shows them all."""


class ConfigError(FaalLabError, ValueError):
    """A setting of the wrong type or out of its range; the message names it, what was expected and what was got."""


class RecipeError(FaalLabError, ValueError):
    """Parts that do not go together; the message gives the reason and a choice that works."""


class RunFolderError(FaalLabError, RuntimeError):
    """A run folder that exists, is missing, or cannot be read; the message names it and the cure."""


def check_name(kind: str, name: object, valid: Iterable[str]) -> str:
    """Return `name` if it is one of `valid`; otherwise raise UnknownName."""
    known = list(valid)
    if isinstance(name, str) and name in known:
        return name
    close = get_close_matches(str(name), known, n=1, cutoff=0.4)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise UnknownName(f"Unknown {kind} {name!r}.{hint} Known: {', '.join(known)}.")
