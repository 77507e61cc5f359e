"""Define the errors of the package, check words that users type, and import the code that they name."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import zlib
from collections.abc import Container, Iterable
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

EXIT_CODES = {
    0: "done; for check: no demand failed",
    1: "an error, printed in one line; for check, sweep, demo and doctor also: something failed or is missing",
    2: "words that are no command, or demands of check that make no sense",
    129: "ended as its terminal was closed (SIGHUP); a run has saved its state",
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


class OwnPartError(FaalLabError, ValueError):
    """Code of the user's own behind a setting cannot be loaded, or lacks something; the message names it and the cure."""


class RunFolderError(FaalLabError, RuntimeError):
    """A run folder exists already, is missing or cannot be read; the message names it and the cure."""


def check_name(kind: str, name: object, valid: Iterable[str]) -> str:
    """Return `name` if it is in `valid`; otherwise raise UnknownName, where `kind` is the word for it."""
    if isinstance(name, str) and isinstance(valid, Container) and name in valid:
        return name  # the catalogue's tables also take paths, which they do not list
    known = list(valid)
    if isinstance(name, str) and name in known:
        return name
    close = get_close_matches(str(name), known, n=1, cutoff=0.4)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise UnknownName(f"Unknown {kind} {name!r}.{hint} Known: {', '.join(known)}.{getattr(valid, 'also', '')}")


_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """Return text without marks that steer a terminal or turn its direction: names in files may come from strangers."""
    return _STEERING.sub("?", text)


def csv_cell(value: Any) -> Any:
    """Return a cell of a table that no spreadsheet takes for a formula: text that begins like one gets an apostrophe before it.

    Numbers stay as they are, as texts too.
    """
    if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return value
    try:
        float(value)
    except ValueError:
        return "'" + value
    return value


def check_part(option: str, text: str) -> tuple[int, int]:
    """Return "2/3", the second of three parts, as (1, 3); otherwise raise ConfigError, which names the option."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ConfigError(f"{option} must be like 2/3, the second of three, got {text!r}.")
    return int(number) - 1, int(count)


OBJECT = "object"  # "object:module.Class" stands in the settings of a run for an object that was handed over
_FILES: dict[Path, tuple[int, ModuleType]] = {}  # file -> time of its last change, and its module


def import_named(label: str, path: str) -> Any:
    """Import the object of "file.py:Name" or "module:Name". Raises OwnPartError, which begins with `label`."""
    where, _, name = path.rpartition(":")
    if where == OBJECT:
        raise OwnPartError(
            f"{label} was an object of another process. Hand it over again: fl.train({label.partition('=')[0]}=...)."
        )
    try:
        found: Any = _file(label, where) if where.endswith(".py") else importlib.import_module(where)
    except OwnPartError:
        raise
    except ModuleNotFoundError as error:
        if not where.endswith(".py") and error.name and f"{where}.".startswith(f"{error.name}."):
            raise OwnPartError(
                f"{label}: there is no module {where}. Install it, or put its folder on PYTHONPATH (PYTHONPATH=. "
                "for the one you are in)."
            ) from error
        raise OwnPartError(f"{label}: {where} needs a module that is missing: {error}. Install it.") from error
    except Exception as error:  # any line of the user's code may fail
        reason, again = " ".join(str(error).split()), where if where.endswith(".py") else f'-c "import {where}"'
        raise OwnPartError(
            f"{label}: importing {where} fails with {type(error).__name__}: {reason}. To see where: python {again}"
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            close = get_close_matches(part, dir(found), n=1, cutoff=0.4)
            raise OwnPartError(f"{label}: {where} has no {name!r}." + (f" Did you mean {close[0]!r}?" if close else ""))
        found = getattr(found, part)
    return found


def _file(label: str, where: str) -> ModuleType:
    """Import a file, anew if it has changed. It may import modules beside it."""
    file = Path(where).expanduser()
    if not file.is_file():
        place = "" if file.is_absolute() else f" in the working directory {Path.cwd()}"
        raise OwnPartError(f"{label}: there is no file {file}{place}. Give its path from there, or its full path.")
    file = file.resolve()
    changed = file.stat().st_mtime_ns
    if file in _FILES and _FILES[file][0] == changed:
        return _FILES[file][1]
    name = re.sub(r"\W", "_", file.stem) + f"_{zlib.crc32(str(file).encode()):08x}"  # no other module has this name
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None, "a file that ends in .py has a loader"
    assert spec.loader is not None
    sys.modules[name] = module = importlib.util.module_from_spec(spec)  # dataclasses look their module up there
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))  # last: it hides no other module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    _FILES[file] = changed, module
    return module
