"""Read the released codes' passes, starts and differences from `faal_lab/releases.toml`.

A step of a released code often passes the same batch through the network again, in training mode. Loss and gradient do not
change by that, but BatchNorm's running statistics move once a pass: running <- 0.9 * running + 0.1 * batch. So the passes of
each release are data, in order, and `Passes` in `training/step.py` makes them.
"""

from __future__ import annotations

from typing import NamedTuple

from faal_lab.catalogue import AVERAGING, FAIRNESS, OBJECTIVES, facts_of_releases
from faal_lab.errors import RecipeError, check_name
from faal_lab.runs.config import check_release

PASSES = ("clean", "adv", "inner", "outer", "restart")


class Order(NamedTuple):
    """Passes in training mode, in order, each one of PASSES."""

    before: tuple[str, ...]  # before the optimiser step
    after: tuple[str, ...]  # after it, on the new weights


class Release(NamedTuple):
    """The released code of a method with one objective."""

    passes: str  # "clean adv clean | clean": see `order`
    start: str  # of the training attack, one of STARTS
    code: str  # the repository
    attack: str | None = None  # the loss that the attack ascends; None: the objective's
    batch_norm: str = "eval"  # BatchNorm's mode during the attack
    first_batch: str = ""  # the same for the first batch of an epoch after the first; empty: no exception


class Difference(NamedTuple):
    """One place in which a paper, its release and this package differ."""

    method: str  # names in the catalogue with commas between, "awp", or "all"
    what: str
    size: str  # as measured
    paper: str  # our form `paper`
    release: str  # our form `release`
    choice: str  # why


def order(passes: str) -> Order:
    """Split a text of passes at the optimiser step.

    >>> order("clean adv clean | clean")
    Order(before=('clean', 'adv', 'clean'), after=('clean',))
    """
    before, _, after = passes.partition("|")
    return Order(tuple(before.split()), tuple(after.split()))


def check_passes(passes: str, objective: object) -> None:
    """Raise RecipeError for passes that have no meaning, or that leave out one that the objective needs."""
    before, after = order(passes)
    if strange := [name for name in (*before, *after) if name not in PASSES] + [name for name in after if name == "restart"]:
        raise RecipeError(f"passes={passes!r}: {strange[0]!r} is not a pass here. Passes are {', '.join(PASSES)}; | is the step.")
    needed = getattr(objective, "passes", None)
    if needed is None or not hasattr(objective, "outcome"):
        raise RecipeError(
            f"passes={passes!r}: this objective makes its own passes. Leave passes empty, or give it `passes` and `outcome`."
        )
    if missing := [name for name in needed if name not in before]:
        raise RecipeError(
            f"passes={passes!r}: the objective needs {', '.join(needed)}; {', '.join(missing)} is missing before the step."
        )


def releases() -> dict[str, dict[str, Release]]:
    """Return the releases by fairness method, then by objective, with "-awp" where weights are perturbed."""
    found = facts_of_releases()["release"]
    return {name: {loss: Release(**row) for loss, row in rows.items()} for name, rows in found.items()}


def release_of(objective: str, fairness: str, variant: str, passes: str, awp: bool, replays: int) -> Release | None:
    """Return the release that `variant` or `passes` asks for; None if neither does. Raises RecipeError if there is none."""
    if "release" not in (variant, passes):
        return None
    setting = "variant=release" if variant == "release" else "batch_norm_passes=release"
    return Release(**check_release(objective, fairness, setting, awp, replays))


def differences(method: str = "") -> list[Difference]:
    """List the differences of a method, then those of all methods; of every method if no name is given."""
    found = [Difference(**row) for row in facts_of_releases()["difference"]]
    own = [row for row in found if not method or method in row.method.split(", ")]
    return own + ([row for row in found if row.method == "all"] if method else [])


def comparison(method: str) -> str:
    """Print the releases and the differences of one method, for a terminal. Raises UnknownName."""
    rows = differences(check_name("method", method, dict.fromkeys((*OBJECTIVES, *FAIRNESS, *AVERAGING, "awp"))))
    lines = [f"{method}: where paper, release and faal_lab differ"]
    lines += [f"  {name:<12} {row.code}; passes {row.passes}" for name, row in releases().get(method, {}).items()]
    if method in FAIRNESS and method not in releases():
        lines.append("  There is no released code to follow.")
    for row in rows:
        lines += [
            f"\n{row.what} ({row.size})",
            f"  paper    {row.paper}",
            f"  release  {row.release}",
            f"  why      {row.choice}",
        ]
    return "\n".join(lines)
