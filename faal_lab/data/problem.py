"""The error of data that cannot be learned from."""

from __future__ import annotations

from faal_lab.errors import FaalLabError


class DataProblem(FaalLabError, ValueError):
    """Images that cannot be read, or a data set without what training needs; the message names the cure."""
