"""Declare a setting: type, default, range or valid names, and help; check a value against its declaration."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import field
from typing import Any, NamedTuple

from faal_lab.errors import ConfigError, check_name


class Setting(NamedTuple):
    """The declaration of one setting."""

    name: str
    type: type
    default: Any
    about: str
    among: Iterable[str] | None  # the valid names; None for any value
    kind: str  # the word for such a name in an error
    low: float
    high: float

    def checked(self, value: Any) -> Any:
        """Return `value` as the setting's type; raises ConfigError or UnknownName for an invalid one."""
        value = typed(self.name, value, self.type)
        if self.among is not None:
            check_name(self.kind, value, self.among)
        if self.type in (int, float) and (not self.low <= value <= self.high or math.isinf(value)):
            limit = f"at least {self.low}" if self.high == math.inf else f"between {self.low} and {self.high}"
            raise ConfigError(f"{self.name} must be {limit}, got {value}.")
        return value


def setting(
    default: Any,
    *,
    about: str,
    among: Iterable[str] | None = None,
    kind: str = "",
    low: float = -math.inf,
    high: float = math.inf,
) -> Any:
    """Declare a field of Config.

    Args:
        default: the value of a setting that is not stated.
        about: the help text, one or two sentences.
        among: the valid names; None for any text.
        kind: the word for such a name in an error (default: the field's name).
        low: the smallest valid number.
        high: the largest valid number.
    """
    return field(default=default, metadata={"about": about, "among": among, "kind": kind, "low": low, "high": high})


def typed(name: str, value: Any, kind: type) -> Any:
    """Return `value` as `kind`, an int also as a float; raises ConfigError for other types and NaN."""
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        hint = " (papermill's -r and quoted YAML values are text: use -p, and write 1.0e-3, not 1e-3)"
        said = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}[kind]
        extra = hint if isinstance(value, str) and kind is not str else ""
        raise ConfigError(f"{name} must be {said}, got {value!r} ({type(value).__name__}){extra}.")
    if kind is float and math.isnan(value):
        raise ConfigError(f"{name} must be a number, got {value!r}.")
    return value
