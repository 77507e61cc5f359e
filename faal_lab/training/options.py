"""Turn settings and words into options of the command line, read by cyclopts.

A setting that Config declares becomes an option with its help, its type and its default.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, cast

from cyclopts import Group, Parameter, Token

from faal_lab.errors import ConfigError, printable
from faal_lab.runs.config import Config
from faal_lab.runs.events import Event
from faal_lab.settings import Setting

EVERYTHING = Group("Commands")
Which = Literal["last", "best"]


class Misuse(ConfigError):
    """Options that make no sense together: exit code 2, as for an option that does not exist."""


class _Plain:
    """Standard output, without marks that steer a terminal: names that are printed may come from strangers' files."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(printable(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def plain(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return a command whose output goes through `printable`."""

    @functools.wraps(command)
    def called(*words: Any, **options: Any) -> Any:
        with contextlib.redirect_stdout(cast(Any, _Plain(sys.stdout))):
            return command(*words, **options)

    return called


def whole(_: Any, tokens: Sequence[Token]) -> Any:
    """Read whole numbers; cyclopts itself would cut 2.5 down to 2."""
    try:
        found = [int(token.value) for token in tokens]
    except ValueError:
        raise ValueError(f"expected a whole number, got {' '.join(token.value for token in tokens)!r}.") from None
    return found


Whole = Annotated[int, Parameter(converter=lambda kind, tokens: whole(kind, tokens)[0])]
Several = Parameter(consume_multiple=True, negative="")
Flag = Parameter(negative="")


def options(names: Iterable[Setting], group: Group, *, defaults: bool = True) -> Any:
    """Return the type of a parameter that takes an option for each setting.

    Args:
        names: the settings.
        group: heading of the options in the help.
        defaults: True (default) to state each default in the help.

    Returns:
        A type for cyclopts: a dict of the options that are given, or None if there are none.
    """
    found: dict[str, Any] = {}
    for one in names:
        about = one.about + (f" [default: {one.default!r}]" if defaults else "")
        found[one.name] = Annotated[Whole if one.type is int else one.type, Parameter(help=about)]
    given: Any = TypedDict("given", found, total=False)  # pyright: ignore[reportArgumentType]
    return Annotated[given | None, Parameter(name="*", group=group)]


MODEL_WORDS = (
    "a run folder; a checkpoint file of ours; a state dict (.pth, .pt, .safetensors; no code in it is run), whose network "
    "--model names; robustbench:NAME; or module:callable, your own code, which is run and returns a network with its weights"
)
ADOPTED = Group(
    "Models that are not run folders",
    help="Each becomes one at step 0, without training. Name --data and --epsilon, and --model for a file of weights; only our "
    "own checkpoints know them.",
)


def beside() -> bool:
    """Return whether torchrun started this process beside the one that writes and speaks."""
    return os.environ.get("WORLD_SIZE", "1") != "1" and os.environ.get("RANK", "0") != "0"


def events_of(config: Config, out: Path, resume: Path | None, replay: Path | None, processes: int) -> Iterator[Event]:
    """Yield the events of a run; torch is loaded at the first one, under the bar."""
    from faal_lab.training.background import LiveRun
    from faal_lab.training.run import run, turns_of

    if processes > 1 and replay:
        raise Misuse("--replay runs in one process: leave out --processes.")
    if processes > 1:
        yield from LiveRun.start(config, out, resume=bool(resume), processes=processes).events()
    else:
        yield from run(config, out, resume=bool(resume), script=turns_of(replay) if replay else ())
