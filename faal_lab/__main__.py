"""Run the command line: `faal-lab`, or `python -m faal_lab`. Print an error in one line, end by an exit code."""

import os
import select
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from cyclopts import CycloptsError

from faal_lab.cli import application
from faal_lab.errors import FaalLabError, printable
from faal_lab.training.options import Misuse


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: the words after `faal-lab`; None for those of the process.

    Returns:
        The exit code, one of `errors.EXIT_CODES`; docs/exit-codes.md lists them. An error is one line on stderr.
    """
    try:
        return _carried_out(arguments)
    except BrokenPipeError as error:
        if _reader_left():  # faal-lab methods | head
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more while it ends
            return 141
        print(f"faal-lab: {error}", file=sys.stderr)
        return 1


def _reader_left() -> bool:
    """Whether standard output is a pipe that nobody reads."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), select.POLLOUT)
        return any(flags & select.POLLERR for _, flags in poll.poll(0))
    except AttributeError:  # Windows cannot tell
        return True
    except (OSError, ValueError):  # not a file at all
        return False


def _in_a_line(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> str:
    """Format our own warnings for people who did not write the code."""
    if category.__module__.startswith("faal_lab"):
        return printable(f"faal-lab: {message}\n")
    return _FORMAT(message, category, *place, **more)


_FORMAT = warnings.formatwarning


def _carried_out(arguments: Sequence[str] | None) -> int:
    warnings.formatwarning = _in_a_line
    try:
        code = application()(arguments, exit_on_error=False, print_error=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except KeyboardInterrupt:
        print("faal-lab: stopped by Ctrl-C.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    except (Misuse, CycloptsError) as error:
        print(printable(f"faal-lab: {error}"), file=sys.stderr)
        return 2
    except (FaalLabError, ImportError, OSError) as error:
        print(printable(f"faal-lab: {error}"), file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
