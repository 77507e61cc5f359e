"""CIFAR-10 from nothing to verdicts: a robust base, FAAL and its control arm from it, and what strong attacks leave of each.

    python reproduce/cifar10.py --data-dir data/cifar10                     # a narrow network: an evening on two cores
    python reproduce/cifar10.py --scale full --data cifar10 --minutes 9 --state state    # a GPU, in pieces of nine minutes
    python reproduce/cifar10_page.py results/cifar10-narrow                 # the page and the picture, from what is there

Started again it goes on where it was: within an epoch, and within AutoAttack. What is finished first is worth most. Runs lie in
--runs, verdicts and times in --out, with weights in float16: a network that is kept there is not trained again, and fine-tuning
and attacks take it as it is kept. --state keeps what another machine needs to go on, in files under 16 MB. It needs torch,
numpy, safetensors, scikit-learn, tqdm, pyautoattack and filelock (torch brings that one), and pillow for a folder of images
(train/<class>/ and test/<class>/). It ends with 0 where all is done, with 3 where it is to be started again.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import re
import shutil
import signal
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch
from carried import CarriedError, pack, unpack
from cifar10_steps import SCALES, Keep, Measure, Settings, Train
from clock import Clock, OutOfTime
from safetensors.torch import save

from faal_lab.data.images import DataProblem
from faal_lab.errors import RunFolderError
from faal_lab.evaluation.adopt import adopt
from faal_lab.evaluation.evaluate import evaluate_run
from faal_lab.evaluation.suite import CHAINS
from faal_lab.methods.predict import EvaluationError, taken_for
from faal_lab.models.build import device_of
from faal_lab.models.fast import wants_bfloat16
from faal_lab.runs import CheckpointError, RunFolder, RunLocked
from faal_lab.runs.config import Config
from faal_lab.runs.events import RunFinished
from faal_lab.runs.files import replace_file
from faal_lab.runs.progress import share_bar, shown
from faal_lab.training.measure import BatchTooLarge
from faal_lab.training.restore import load_model
from faal_lab.training.run import load_data, run
from faal_lab.training.step import TrainingDiverged


def train(step: Train, runs: Path, out: Path, data: Settings, clock: Clock, smoke: bool) -> None:
    """Make a run, or go on with it; returns where it is finished."""
    folder = RunFolder(runs / step.name)
    if _made(step, runs, out):
        return
    settings = {**step.settings, **data}
    if step.base:
        base = weights_of(step.base, runs, out, data)
        settings |= {"base": str(base.path), "model": base.config().model, "filters": base.config().filters}
    if smoke:
        settings |= {"epochs": 2, "attack_steps": 1, "validation_steps": 1, "batch_size": 64}
    config = Config.from_mapping(settings)
    changed = {k: v for k, v in config.to_mapping().items() if v != getattr(Config(), k) and k not in ("data_dir", "device")}
    clock.note("settings", step.name, changed | ({"base": step.base} if step.base else {}))
    with clock.counting(step.name), closing(run(config, folder.path, resume=folder.path.exists())) as events:
        for event in shown(events):
            if not isinstance(event, RunFinished):
                clock.look()
    if not _made(step, runs, out):
        raise OutOfTime  # stopped by `faal-lab tell`: what follows must not start from half a training
    clock.ahead = True
    _say(step, runs)


def _made(step: Train, runs: Path, out: Path) -> bool:
    """By what it wrote, and not by what it does: an attack on it may just have been cut off. What is kept is made."""
    folder = RunFolder(runs / step.name)
    ended = folder.path.is_dir() and any(isinstance(event, RunFinished) and event.reason == "done" for event in folder.events())
    return ended or _kept_file(step.name, out).is_file()


def weights_of(name: str, runs: Path, out: Path, data: Settings) -> RunFolder:
    """The folder of what others start from and what is attacked: the weights as they are kept, or the run where none are."""
    folder, file = RunFolder(runs / _lies(name, out)), _kept_file(name, out)
    if not file.is_file() or folder.checkpoint().is_file():
        return folder
    settings = json.loads((out / "about.json").read_text(encoding="utf-8"))["settings"][name]
    of_network = {key: settings[key] for key in ("model", "filters", "epsilon") if key in settings}
    return adopt(Config.from_mapping({**of_network, **data, "base": str(file)}), folder.path)


def _kept_file(name: str, out: Path) -> Path:
    return out / f"{name}.safetensors"


def _lies(name: str, out: Path) -> str:
    """What the folder of `weights_of` is called: by its weights, since another --out may keep others of that name."""
    file = _kept_file(name, out)
    return f"kept-{name}-{hashlib.sha256(file.read_bytes()).hexdigest()[:8]}" if file.is_file() else name


def measure(step: Measure, runs: Path, out: Path, data: Settings, clock: Clock, smoke: bool) -> None:
    """Attack what was not attacked yet. The verdict files hold no image."""
    for name in step.runs:
        attacks, images, kept = step.attacks, 100 if smoke else step.images, set(step.attacks) <= set(CHAINS)
        file = _verdicts_file(step, name, out)
        if file.is_file():
            continue
        with clock.counting(file.stem), share_bar(file.stem) as told:

            def hear(what: str, share: float, told=told, kept=kept) -> None:
                told(what, share)
                if clock.ahead or kept:  # what is not kept half done is finished once begun, or no piece would ever get further
                    clock.look()

            found = evaluate_run(
                weights_of(name, runs, out, data).path, attacks=attacks, images=images or None, classes=step.classes,
                device=data.get("device", "auto"), compile=not smoke, progress=hear,
            )  # fmt: skip
        note = _OF_THE_FOLDER.sub("", found.header.get("note", "")).strip()
        header = {key: value for key, value in found.header.items() if key != "note"} | ({"note": note} if note else {})
        replace_file(file, replace(found, examples=None, header=header).to_bytes())
        clock.ahead = True


# What an evaluation says of the folder it lies in, which no one sees on the page: other steps of this, kept weights.
_OF_THE_FOLDER = re.compile(r"\s*(Earlier verdicts[^.]*\.npz|\S+ was trained elsewhere:[^.]*)\.")


def keep(step: Keep, runs: Path, out: Path, clock: Clock) -> None:
    """Write the weights down in float16, and on how many validation images the network then sees another class."""
    file = _kept_file(step.run, out)
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


_CARRIED = "made"  # what of a state goes to --out


def to_carry(scale: str, runs: Path, out: Path) -> dict[str, Path]:
    """What the steps that are still to be made need, by its name in the folder of runs of another machine.

    The weights of a run that goes on, or is started from or attacked later; of each run what says how far it is, and AutoAttack's
    finished batches; all of `out`. No image is among them.
    """
    needed: set[str] = set()
    for step in SCALES[scale]:
        if isinstance(step, Train) and not _made(step, runs, out):
            needed |= {step.name, _lies(step.base, out)}
        elif isinstance(step, Keep) and not _kept_file(step.run, out).is_file():
            needed.add(step.run)
        elif isinstance(step, Measure):
            needed |= {_lies(name, out) for name in step.runs if not _verdicts_file(step, name, out).is_file()}
    found = {f"{_CARRIED}/{file.name}": file for file in out.glob("*") if file.is_file()}
    for folder in filter(Path.is_dir, runs.glob("*")):
        kept = [folder / name for name in ("config.json", "metrics.jsonl", "timing.jsonl")] + [
            *folder.glob("autoattack-*/*.json*")
        ]
        kept += [folder / "last.safetensors"] if folder.name in needed else []
        found |= {file.relative_to(runs).as_posix(): file for file in kept if file.is_file()}
    return found


def go_on_from(state: Path, runs: Path, out: Path) -> None:
    """Take over what another machine has made, where it is ahead; raises CarriedError."""
    if unpack(state, runs):
        print(f"Going on from {state}.", flush=True)
    out.mkdir(parents=True, exist_ok=True)
    for file in (runs / _CARRIED).glob("*"):
        shutil.move(file, out / file.name)


def _verdicts_file(step: Measure, run_name: str, out: Path) -> Path:
    return out / f"{'-'.join((run_name, *step.attacks, *step.classes))}.npz"


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
                train(step, runs, out, data, clock, smoke)
            elif isinstance(step, Keep):
                keep(step, runs, out, clock)
            else:
                measure(step, runs, out, data, clock, smoke)
    except OutOfTime:
        return False
    return True


def _say(step: Train, runs: Path) -> None:
    model, config, _ = load_model(runs / step.name, "last")
    low = wants_bfloat16(config.precision, model, device_of(config.device))
    print(f"{step.name}: trained, {'bfloat16' if low else 'float32'}", flush=True)


_STATE = (
    "also keep here what another machine needs to go on, in files under 16 MB; tell it the same --scale, --data, --data-dir, "
    "--device, --runs and --out"
)


def main() -> int:
    """Read the command line; 0 done, 3 started again it goes on, 1 an error that is said."""
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("--scale", choices=SCALES, default="narrow", help="narrow: 16 filters, for two cores; full: the paper's")
    words.add_argument("--data", default="folder", help="folder, or cifar10 as torchvision keeps it (default: %(default)s)")
    words.add_argument("--download", action="store_true", help="fetch CIFAR-10 by torchvision, with --data cifar10")
    words.add_argument("--data-dir", help="where the images lie (default: data/cifar10, for --data cifar10 torchvision's data)")
    words.add_argument("--label", default="CIFAR-10", help="what the images are called on the page (default: %(default)s)")
    words.add_argument("--minutes", type=float, default=0, help="stop in order after so many; 0: when all is done")
    words.add_argument("--runs", type=Path, help="where the runs lie (default: runs/cifar10-SCALE)")
    words.add_argument("--out", type=Path, help="where verdicts and times go (default: results/cifar10-SCALE)")
    words.add_argument("--state", type=Path, help=_STATE)
    words.add_argument("--device", default="auto")
    words.add_argument("--smoke", action="store_true", help="two epochs and 100 test images: shows that all works, nothing else")
    options = words.parse_args()
    name = f"cifar10-{options.scale}{'-smoke' if options.smoke else ''}"
    runs, out = options.runs or Path("runs") / name, options.out or Path("results") / name
    folder = "data" if options.data == "cifar10" else "data/cifar10"
    data = {"data": options.data, "data_dir": options.data_dir or folder, "device": options.device}
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if options.state:
            go_on_from(options.state, runs, out)
        if options.download:
            load_data(Config.from_mapping({**data, "download": True}))
    except _SAID as error:
        return _said(error)
    ended = 3
    try:
        ended = 0 if make(options.scale, runs, out, data, options.minutes, options.smoke, options.label) else 3
    except _SAID as error:
        ended = _said(error)
    except (KeyboardInterrupt, SystemExit):  # training turns SIGTERM into the one, an evaluation into the other
        pass
    finally:
        if options.state:
            try:
                pack(to_carry(options.scale, runs, out), runs, options.state)
            except OSError as error:  # a full disk: the state before this piece is still there
                ended = _said(error)
    if ended != 1:
        print("Not done yet: start it again and it goes on." if ended else f"All is done: {out}")
    return ended


# What is told without a traceback.
_SAID = (
    CarriedError, DataProblem, RunFolderError, RunLocked, CheckpointError, EvaluationError, TrainingDiverged, BatchTooLarge,
    ImportError, ValueError, OSError,
)  # fmt: skip


def _said(error: Exception) -> int:
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
