"""Progress bars with an ETA, for terminals and for notebooks that run unattended."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from faal_lab.events import EpochDone, Event, RunResumed, RunStarted, StepDone


def shown(events: Iterable[Event], quiet: bool = False) -> Iterator[Event]:
    """Pass events on, drawing a bar over its steps with the latest validation figures beside it."""
    from tqdm import tqdm

    with tqdm(total=0, desc="training", unit="batch", disable=quiet, file=sys.stderr, mininterval=0.5) as bar:
        for event in events:
            if isinstance(event, StepDone):
                bar.update(1)
            elif isinstance(event, RunResumed):
                bar.initial = bar.n = event.from_step  # steps of before took none of this bar's time
                bar.total = event.steps
            elif isinstance(event, RunStarted):
                bar.total = event.epochs * event.steps_per_epoch
            elif isinstance(event, EpochDone):
                bar.set_postfix_str(validation_line(event), refresh=False)
            yield event


def validation_line(event: EpochDone) -> str:
    """An epoch's validation in one line."""
    robust = [100 * k / n for k, n in zip(event.robust_correct, event.count, strict=True) if n]
    if not robust:
        return f"epoch {event.epoch}: no validation images"
    return f"epoch {event.epoch}: PGD average {sum(robust) / len(robust):.1f} %, worst class {min(robust):.1f} %"


@contextmanager
def share_bar(title: str, quiet: bool = False) -> Iterator[Callable[[str, float], None]]:
    """A bar for work that tells what it does and which share of it is done."""
    from tqdm import tqdm

    layout = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining} {postfix}"
    with tqdm(total=100, desc=title, disable=quiet, file=sys.stderr, mininterval=0.5, bar_format=layout) as bar:

        def told(what: str, share: float) -> None:
            bar.set_postfix_str(what, refresh=False)
            bar.update(max(0.0, round(100 * share, 1) - bar.n))

        yield told
        bar.update(100 - bar.n)
