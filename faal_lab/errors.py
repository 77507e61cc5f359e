"""Define the errors of the package, and check words that users type."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

EXIT_CODES = {
    0: "done; for check: no demand failed",
    1: "an error, printed in one line; for check, sweep, demo and doctor also: something failed or is missing",
    2: "words that are no command, or demands of check that make no sense",
    130: "ended by Ctrl-C; a run has saved its state",
    141: "nobody reads the output any more",
    143: "ended by SIGTERM; a run has saved its state",
}


class FaalLabError(Exception):
    """The base class of errors that a user can cure.

    The message states what was expected, what was got and the cure. The command line prints it without a traceback; any other
    error is a defect.
    """


class UnknownName(FaalLabError, ValueError):
    """A name is not in the list; the message offers the nearest valid name and lists them all."""


class ConfigError(FaalLabError, ValueError):
    """A setting is of the wrong type or out of range; the message states what was expected and got."""


class RecipeError(FaalLabError, ValueError):
    """Parts do not work together; the message gives the reason and a choice that works."""


class RunFolderError(FaalLabError, RuntimeError):
    """A run folder exists already, is missing or cannot be read; the message names it and the cure."""


def check_name(kind: str, name: object, valid: Iterable[str]) -> str:
    """Return `name` if it is in `valid`; otherwise raise UnknownName, where `kind` is the word for it."""
    known = list(valid)
    if isinstance(name, str) and name in known:
        return name
    close = get_close_matches(str(name), known, n=1, cutoff=0.4)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise UnknownName(f"Unknown {kind} {name!r}.{hint} Known: {', '.join(known)}.")


def check_part(option: str, text: str) -> tuple[int, int]:
    """Return "2/3", the second of three parts, as (1, 3); otherwise raise ConfigError, which names the option."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ConfigError(f"{option} must be like 2/3, the second of three, got {text!r}.")
    return int(number) - 1, int(count)
