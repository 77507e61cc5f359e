"""CIFAR-10 from nothing to verdicts: a robust base, FAAL and its control arm from it, and what strong attacks leave of each.

    python reproduce/cifar10.py --data-dir data/cifar10                     # a narrow network: an evening on two cores
    python reproduce/cifar10.py --scale full --data cifar10 --minutes 9 --state state    # a GPU, in pieces of nine minutes
    python reproduce/cifar10_page.py results/cifar10-narrow                 # the page and the picture, from what is there

Started again it goes on where it was: within an epoch, and within AutoAttack. What is finished first is worth most. Runs lie in
--runs, verdicts and times in --out; --state keeps what another machine needs to go on, in files under 16 MB. It needs torch,
numpy, safetensors, scikit-learn, tqdm and filelock (torch brings that one), pyautoattack for AutoAttack, and pillow for a folder
of images (train/<class>/ and test/<class>/).
"""

from __future__ import annotations

import argparse
import copy
import re
import signal
import sys
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from carried import CarriedError, pack, unpack
from clock import Clock, OutOfTime
from safetensors.torch import save

from faal_lab.config import RunConfig
from faal_lab.data import DataProblem
from faal_lab.evaluation import EvaluationError
from faal_lab.evaluation.attacks import taken_for
from faal_lab.events import RunFinished
from faal_lab.experiment import load_data, run
from faal_lab.machine import device_of
from faal_lab.models import wants_bfloat16
from faal_lab.presets import preset_settings
from faal_lab.progress import share_bar, shown
from faal_lab.restore import load_model
from faal_lab.runs import CheckpointError, RunFolder, RunFolderError
from faal_lab.runs.files import replace_file
from faal_lab.testing import evaluate_run

Settings = dict[str, Any]


@dataclass(frozen=True)
class Train:
    """A run: its settings, and which run it starts from."""

    name: str
    settings: Settings
    base: str = ""


@dataclass(frozen=True)
class Measure:
    """Attacks on so many test images (0: all), for several runs."""

    runs: tuple[str, ...]
    attacks: tuple[str, ...]
    images: int = 0


@dataclass(frozen=True)
class Keep:
    """A run's weights in float16, to be kept beside its verdicts."""

    run: str


Step = Train | Measure | Keep
STRONG, QUICK, ADAPTIVE = ("autoattack",), ("clean", "pgd-20", "cw-20"), ("apgd-ce+t",)
# precision and compile: a third of the time on a card or processor that has bfloat16; every verdict is float32 all the same
_COMMON: Settings = {"epsilon": 8 / 255, "weight_decay": 5e-4, "precision": "auto", "compile": True, "checkpoint_every": 50}


def _from_scratch(**settings: Any) -> Settings:
    rate: Settings = {"batch_size": 128, "learning_rate": 0.2, "lr_schedule": "one-cycle"}
    return {**_COMMON, **rate, "model": "preact-resnet-18", **settings}


def _tuned(recipe: str, protocol: str = "finetune-2ep", **settings: Any) -> Settings:
    """A recipe under one of the paper's protocols; data and network are the base's."""
    named = preset_settings(recipe, protocol)
    return {**named, **_COMMON, **settings}


def _arms(base: str, **recipes: str) -> list[Train]:
    return [Train(f"{base}-{arm}", _tuned(recipe), base) for arm, recipe in recipes.items()]


NARROW: list[Step] = [
    Train("at", _from_scratch(filters=16, objective="at", epochs=12, attack_steps=4)),
    Keep("at"),
    *_arms("at", control="pgd-at", faal="faal-at"),
    Measure(("at", "at-control", "at-faal"), QUICK),
    Measure(("at", "at-faal", "at-control"), STRONG, 1000),
    Measure(("at", "at-faal", "at-control"), ADAPTIVE, 2000),
    *_arms("at", **{"faal-awp": "faal-at-awp"}),
    Measure(("at-faal-awp",), QUICK),
    Measure(("at-faal-awp",), STRONG, 1000),
]
_AT = ("at", "at-control", "at-faal", "at-faal-awp")
_TRADES = ("trades", "trades-control", "trades-faal", "trades-faal-awp")
_FRL = "frl-rwrm-0.05"
FULL: list[Step] = [
    Train("at", _from_scratch(objective="at", epochs=40)),
    *_arms("at", control="pgd-at", faal="faal-at", **{"faal-awp": "faal-at-awp"}),
    Measure(_AT, QUICK),
    Measure(_AT, STRONG, 2000),
    Train("trades", _from_scratch(objective="trades", epochs=40)),
    *_arms("trades", control="trades", faal="faal-trades", **{"faal-awp": "faal-trades-awp"}),
    Measure(_TRADES, QUICK),
    Measure(_TRADES, STRONG, 2000),
    Train("trades-frl", _tuned(_FRL, "finetune-frl-80ep"), "trades"),
    Measure(("trades-frl",), QUICK),
    Measure(("trades-frl",), STRONG, 2000),
    Train("wrn", _from_scratch(model="wrn-34-10", objective="at", epochs=30)),
    *_arms("wrn", control="pgd-at", faal="faal-at"),
    Measure(("wrn", "wrn-control", "wrn-faal"), QUICK),
    Measure(("wrn", "wrn-control", "wrn-faal"), STRONG, 2000),
]
SCALES = {"narrow": NARROW, "full": FULL}


def train(step: Train, runs: Path, data: Settings, clock: Clock, smoke: bool) -> None:
    """Make a run, or go on with it; returns where it is finished."""
    folder = RunFolder(runs / step.name)
    if _done(folder):
        return
    settings = {**step.settings, **data, **({"base": str(runs / step.base)} if step.base else {})}
    if step.base:
        base = RunFolder.open(runs / step.base).config()
        settings |= {"model": base.model, "filters": base.filters}
    if smoke:
        settings |= {"epochs": 2, "attack_steps": 1, "validation_steps": 1, "batch_size": 64}
    config = RunConfig.from_mapping(settings)
    changed = {k: v for k, v in config.to_mapping().items() if v != getattr(RunConfig(), k) and k not in ("data_dir", "device")}
    clock.note("settings", step.name, changed | ({"base": step.base} if step.base else {}))
    with clock.counting(step.name), closing(run(config, folder.path, resume=folder.path.exists())) as events:
        for event in shown(events):
            if not isinstance(event, RunFinished):
                clock.look()
    if folder.status() != "done":
        raise OutOfTime  # stopped by `faal-lab tell`: what follows must not start from half a training
    clock.ahead = True
    _say(step, runs)


def _done(folder: RunFolder) -> bool:
    return folder.path.exists() and folder.status() == "done"


def measure(step: Measure, runs: Path, out: Path, device: str, clock: Clock, smoke: bool) -> None:
    """Attack what was not attacked yet. The verdict files hold no image."""
    for name in step.runs:
        attacks, images, kept = step.attacks, 100 if smoke else step.images, step.attacks == STRONG
        file = _verdicts_file(step, name, out)
        if file.is_file():
            continue
        with clock.counting(file.stem), share_bar(file.stem) as told:

            def hear(what: str, share: float, told=told, kept=kept) -> None:
                told(what, share)
                if clock.ahead or kept:  # what is not kept half done is finished once begun, or no piece would ever get further
                    clock.look()

            found = evaluate_run(runs / name, attacks=attacks, images=images or None, device=device, progress=hear)
        note = re.sub(r"\s*Earlier verdicts[^.]*\.npz\.", "", found.header.get("note", ""))  # those of other steps of this
        replace_file(file, replace(found, examples=None, header={**found.header, "note": note}).to_bytes())
        clock.ahead = True


def keep(step: Keep, runs: Path, out: Path, clock: Clock) -> None:
    """Write the weights down in float16, and on how many validation images the network then sees another class."""
    file = out / f"{step.run}.safetensors"
    if file.is_file():
        return
    model, config, _ = load_model(runs / step.run, "last")
    images, _ = load_data(config).validation.all()
    half = {name: t.half() if t.is_floating_point() else t for name, t in model.state_dict().items()}
    found = []
    for weights in (model.state_dict(), {name: t.float() if t.is_floating_point() else t for name, t in half.items()}):
        other = copy.deepcopy(model)
        other.load_state_dict(weights)
        found.append(torch.cat([taken_for(other, chunk) for chunk in images.split(500)]))
    clock.note("rounding", step.run, {"images": len(images), "other class": int((found[0] != found[1]).sum())})
    replace_file(file, save({name: t.contiguous() for name, t in half.items()}))


def to_carry(scale: str, runs: Path, out: Path) -> list[Path]:
    """What the steps that are still to be made need: all of a run that goes on; the weights of one that is done where they are
    started from or attacked; and of each what says that it is done."""
    needed: set[str] = set()
    for step in SCALES[scale]:
        if isinstance(step, Train) and not _done(RunFolder(runs / step.name)):
            needed |= {step.name, step.base}
        elif isinstance(step, Keep) and not (out / f"{step.run}.safetensors").is_file():
            needed.add(step.run)
        elif isinstance(step, Measure):
            needed |= {name for name in step.runs if not _verdicts_file(step, name, out).is_file()}
    found = []
    for folder in runs.iterdir():
        going_on, wanted = not _done(RunFolder(folder)), folder.name in needed
        for file in folder.rglob("*"):
            travels = going_on or file.suffix != ".safetensors" or (wanted and file.stem == "last")
            if travels and file.is_file() and not file.name.startswith((".", "verdicts-", "heartbeat")):
                found.append(file)
    return found


def _verdicts_file(step: Measure, run_name: str, out: Path) -> Path:
    return out / f"{run_name}-{'-'.join(step.attacks)}.npz"


def make(
    scale: str, runs: Path, out: Path, data: Settings, minutes: float = 0.0, smoke: bool = False, label: str = "CIFAR-10"
) -> bool:
    """All steps of a scale that are not done yet; False where the minutes ended before. `smoke`: two epochs, 100 images."""
    out.mkdir(parents=True, exist_ok=True)
    clock = Clock(out / "about.json", minutes)
    clock.note("images", "label", label)
    try:
        for step in SCALES[scale]:
            if isinstance(step, Train):
                train(step, runs, data, clock, smoke)
            elif isinstance(step, Keep):
                keep(step, runs, out, clock)
            else:
                measure(step, runs, out, data.get("device", "auto"), clock, smoke)
    except OutOfTime:
        return False
    return True


def _say(step: Train, runs: Path) -> None:
    model, config, _ = load_model(runs / step.name, "last")
    low = wants_bfloat16(config.precision, model, device_of(config.device))
    print(f"{step.name}: trained, {'bfloat16' if low else 'float32'}", flush=True)


def main() -> int:
    """Read the command line; 0 done, 3 started again it goes on, 1 an error that is said."""
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("--scale", choices=SCALES, default="narrow", help="narrow: 16 filters, for two cores; full: the paper's")
    words.add_argument("--data", default="folder", help="folder, or cifar10 as torchvision keeps it (default: %(default)s)")
    words.add_argument("--data-dir", help="where the images lie (default: data/cifar10, for --data cifar10 torchvision's data)")
    words.add_argument("--label", default="CIFAR-10", help="what the images are called on the page (default: %(default)s)")
    words.add_argument("--minutes", type=float, default=0, help="stop in order after so many; 0: when all is done")
    words.add_argument("--runs", type=Path, help="where the runs lie (default: runs/cifar10-SCALE)")
    words.add_argument("--out", type=Path, help="where verdicts and times go (default: results/cifar10-SCALE)")
    words.add_argument("--state", type=Path, help="also keep here what another machine needs to go on, in files under 16 MB")
    words.add_argument("--device", default="auto")
    words.add_argument("--smoke", action="store_true", help="two epochs and 100 test images: shows that all works, nothing else")
    options = words.parse_args()
    name = f"cifar10-{options.scale}{'-smoke' if options.smoke else ''}"
    runs, out = options.runs or Path("runs") / name, options.out or Path("results") / name
    folder = "data" if options.data == "cifar10" else "data/cifar10"
    data = {"data": options.data, "data_dir": options.data_dir or folder, "device": options.device}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if options.state and not runs.exists() and unpack(options.state, runs):
            print(f"Going on from {options.state}.")
        done = make(options.scale, runs, out, data, options.minutes, options.smoke, options.label)
    except (CarriedError, DataProblem, RunFolderError, CheckpointError, EvaluationError, ImportError, ValueError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, SystemExit):  # training turns SIGTERM into the one, an evaluation into the other
        done = False
    if options.state and runs.exists():
        pack(to_carry(options.scale, runs, out), runs, options.state)
    print(f"All is done: {out}" if done else "Not done yet: start it again and it goes on.")
    return 0 if done else 3


if __name__ == "__main__":
    sys.exit(main())
