"""Keep of a sweep what its reports are made of: settings, records and verdicts of each run; of some, weights.

    python reproduce/keep.py runs/cifar10-leaderboard results/cifar10-leaderboard --weights base tuned/at-0 balanced/base-at-0

The folder has the sweep's layout, so that `faal-lab sweep FILE --report-only` reads it where the sweep's file names it as `kept`.
A run is kept once it has verdicts. Its record is kept without clock times and without batches but the last, its verdicts without
images.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from faal_lab.evaluation.evaluate import read_verdicts
from faal_lab.runs import RunFolder
from faal_lab.runs.events import StepDone
from faal_lab.runs.files import replace_file

LIMIT = 60_000_000  # bytes of everything that is kept


def keep(run: RunFolder, place: Path, *, weights: bool) -> None:
    """Write the kept files of a run to `place`, in place of what is there."""
    place.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", *(("last.safetensors",) if weights else ())):
        replace_file(place / name, (run.path / name).read_bytes())
    verdicts = replace(read_verdicts(run.path), examples=None)
    replace_file(place / run.verdicts_file().name, verdicts.to_bytes())
    kept = RunFolder(place)
    kept.metrics_file.unlink(missing_ok=True)
    events = run.events()
    last = max((event.step for event in events if isinstance(event, StepDone)), default=0)  # which the weights are of
    with kept.recording() as recorder:
        for event in events:
            if not isinstance(event, StepDone) or event.step == last:
                recorder.write(event)
    kept.timing_file.unlink()  # the times of this copy


def main() -> None:
    """Keep every run of a sweep that has verdicts."""
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("sweep", type=Path, help="the folder of the sweep, finished or not")
    words.add_argument("out", type=Path)
    words.add_argument(
        "--weights", nargs="*", default=[], metavar="NAME", help="beginnings of STAGE/LABEL of runs whose weights to keep"
    )
    options = words.parse_args()
    runs = [RunFolder(file.parent) for file in sorted(options.sweep.glob("*/*/config.json"))]
    done = [run for run in runs if run.verdicts_file().is_file()]
    for run in done:
        name = run.path.relative_to(options.sweep)
        keep(run, options.out / name, weights=name.as_posix().startswith(tuple(options.weights)))
    held = sum(file.stat().st_size for file in options.out.rglob("*") if file.is_file())
    print(f"{len(done)} of {len(runs)} runs are kept, {held / 1e6:.1f} MB: {options.out}")
    if held > LIMIT:
        raise SystemExit(
            f"That is more than {LIMIT / 1e6:.0f} MB: name fewer runs after --weights, and delete {options.out} first."
        )


if __name__ == "__main__":
    main()
