"""Checking answers in a teaching notebook: says right or what to look at again, and never gives the answer away.

Knows: an answer and a test of it. Must not know: which notebook.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def check(answer: Any, right: Callable[[Any], bool], hint: str) -> str:
    """A sentence on `answer`: not given yet (None), right, or not right with the hint; nonsense counts as not right."""
    if answer is None:
        return "Not answered yet: replace None above and run both cells again."
    try:
        good = bool(right(answer))
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        return f"That cannot be checked ({error}). {hint}"
    return "Right." if good else f"Not yet. {hint}"
