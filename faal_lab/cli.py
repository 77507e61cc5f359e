"""Parse the command line of `faal-lab` and print its errors in one line each."""

from __future__ import annotations

import argparse
import os
import select
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from faal_lab import __version__, commands
from faal_lab.catalogue import ATTACKS, DEFAULT_ATTACKS, MODES
from faal_lab.errors import FaalLabError
from faal_lab.methods.presets import PRESETS, PROTOCOLS
from faal_lab.runs.config import ADOPTION_SETTINGS, DIALS, Config, field_docs
from faal_lab.runs.events import COMMANDS

_MODEL = (
    "a run folder; a checkpoint file of ours; a state dict (.pth, .pt, .safetensors; no code in it is run), whose network "
    "--model names; robustbench:NAME; or module:callable, your own code, which is run and returns a network with its weights"
)
_ADOPTED = (
    "Each becomes one at step 0, without training. Name --data and --epsilon, and --model for a file of weights; only our own "
    "checkpoints know them."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 1 after an error (one line on stderr), 130 after Ctrl-C, 141 where nobody
    reads the output any more.
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


def _carried_out(arguments: Sequence[str] | None) -> int:
    try:
        options = _parser().parse_args(arguments)
        code = options.act(options) or 0
        sys.stdout.flush()
        return code
    except SystemExit:  # argparse's, which has printed
        sys.stdout.flush()
        raise
    except KeyboardInterrupt:
        print("faal-lab: stopped by Ctrl-C.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    except (FaalLabError, ImportError, OSError) as error:
        print(f"faal-lab: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("faal-lab", description="See, steer and fix the class-wise robustness of neural networks.")
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, act: Any, about: str) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(name, help=about, description=about, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        sub.set_defaults(act=act)
        return sub

    _making(add)
    _judging(add)
    _telling(add)
    return parser


def _making(add: Callable[[str, Any, str], argparse.ArgumentParser]) -> None:
    """Commands that train."""
    sub = add("demo", commands.demo, "Train a robust model, make it fair, and write the report: about three minutes on a laptop.")
    sub.add_argument("--out", type=Path, help="folder for everything the demo makes (default: a free name in runs/)")
    sub.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="N", help="several seeds give a table of means")
    sub.add_argument("--quick", action="store_true", help="a few batches, no AutoAttack: only shows that all works")

    sub = add("lab", commands.lab, "Open JupyterLab on 127.0.0.1, with a token, at the map of the notebooks.")
    sub.add_argument("--no-browser", action="store_true", help="only print the address")
    sub.add_argument("--port", type=int, default=8888, help="the next free one is taken if it is in use")

    sub = add("dashboard", commands.dashboard, "Serve the workbench alone as a page on 127.0.0.1, with a token (by Voila).")
    sub.add_argument("--runs", type=Path, default=Path("runs"), metavar="FOLDER", help="where runs are shown from and go to")
    sub.add_argument("--no-browser", action="store_true", help="only print the address")
    sub.add_argument("--port", type=int, default=8866, help="the next free one is taken if it is in use; 0: any")
    sub.add_argument("--dark", action="store_true", help="light on dark")

    sub = add("run", commands.run, "Train one model into a run folder.")
    sub.add_argument("--out", type=Path, help="the run folder (default: a free name in runs/)")
    sub.add_argument("--resume", type=Path, metavar="FOLDER", help="go on with an interrupted run; settings are the folder's")
    sub.add_argument("--replay", type=Path, metavar="FOLDER", help="make a run again, with the dials that were turned in it")
    sub.add_argument("--config", metavar="FILE", help="settings as a JSON file, or - for standard input; options below win")
    sub.add_argument("--recipe", default="", metavar="NAME", help="settings of a method by its name, such as faal-trades-awp")
    sub.add_argument("--protocol", default="", metavar="NAME", help="settings of a paper's experiment, such as finetune-2ep")
    sub.add_argument("--quiet", action="store_true", help="no progress bar")
    _add_settings(sub.add_argument_group("settings"), get_type_hints(Config))

    _sweep_options(add("sweep", commands.sweep, "Make all that a sweep file states: papermill runs, resumed where they stopped."))


def _judging(add: Callable[[str, Any, str], argparse.ArgumentParser]) -> None:
    """Commands that evaluate, and read evaluations."""
    sub = add("evaluate", commands.evaluate, "Attack the test images of runs or other models; run folders keep the verdicts.")
    _evaluate_options(sub)

    sub = add("compare", commands.compare, "Compare evaluated runs with the first one, paired on the same images.")
    about = "evaluated run folders, or groups of seeds (runs/a-0,runs/a-1); the first is compared with; name=... names one"
    sub.add_argument("runs", nargs="+", help=about)
    sub.add_argument("--attack", default="", help="default: the last one of the evaluation")
    sub.add_argument("--checkpoint", choices=("last", "best"), default="last")

    sub = add("check", commands.check, "Hold evaluated runs to demands, by exit code: 0 all hold, 1 one does not, 2 bad usage.")
    _check_options(sub)

    about = "Write one HTML page on evaluated runs, which opens without a network, and its tables as CSV, LaTeX and Markdown."
    sub = add("report", commands.report, about)
    seeds = "run folders, name=folder, or seeds as name=folder,folder; the first is what the others are held against"
    sub.add_argument("runs", nargs="+", help=seeds)
    sub.add_argument("--out", type=Path, default=Path("report.html"), help="the page; its tables get its name")
    sub.add_argument("--title", default="Class-wise robustness")
    beside = "YAML or JSON of a paper's numbers to stand beside ours: {run: {source: text, attacks: {attack: {average, worst}}}}"
    sub.add_argument("--paper", type=Path, metavar="FILE", help=beside)
    sub.add_argument("--checkpoint", choices=("last", "best"), default="last")

    _figures(add("figures", commands.figures, "Draw evaluated runs: bars, confusions, radius curves, images; a file a picture."))


def _telling(add: Callable[[str, Any, str], argparse.ArgumentParser]) -> None:
    """Commands that steer, and that say what there is."""
    sub = add("tell", commands.tell, "Tell a running run something: " + ", ".join(COMMANDS[:-1]) + ", or turn a dial (tau=0.7).")
    sub.add_argument("run", type=Path, help="its run folder")
    sub.add_argument("what", help=f"pause, resume, step, stop, or DIAL=VALUE with a dial of {', '.join(DIALS)}")

    add(
        "methods",
        commands.methods,
        "List parts, recipes and protocols to choose from, with sources.",
    )

    sub = add("settings", commands.settings, "Print all settings of a recipe under a protocol as JSON, for `run --config`.")
    sub.add_argument("--recipe", default="", metavar="NAME", help="one of " + ", ".join(PRESETS))
    sub.add_argument("--protocol", default="", metavar="NAME", help="one of " + ", ".join(PROTOCOLS))

    add("doctor", commands.doctor, "Show versions, device, cores, memory, and what is missing and what it is for.")


def _sweep_options(sub: argparse.ArgumentParser) -> None:
    """Which part of a sweep is made, where, and what is made again."""
    sub.add_argument("file", type=Path, help="a sweep file in YAML, such as reproduce/digits.yaml")
    sub.add_argument(
        "--out", type=Path, help="the sweep's folder (default: runs/NAME); started again, what is done there is kept"
    )
    sub.add_argument(
        "--workers", type=int, default=0, metavar="N", help="jobs at once (0: one a GPU, else one a core, at most 4)"
    )
    sub.add_argument("--gpus", help="comma-separated numbers of the GPUs to use (default: all), none for the processor")
    sub.add_argument("--where", default="local", help="local; dask://HOST:PORT; or cluster, as the file's `cluster` states it")
    sub.add_argument("--shard", default="", metavar="I/N", help="only the i-th of n parts, for machines that share nothing")
    sub.add_argument("--dry-run", action="store_true", help="print what would be made, and how long that takes by earlier runs")
    sub.add_argument("--force", action="store_true", help="make everything again")
    sub.add_argument("--any-code", action="store_true", help="keep what another version of the package has made")


def _evaluate_options(sub: argparse.ArgumentParser) -> None:
    """What is evaluated, and how."""
    sub.add_argument("models", nargs="+", metavar="MODEL", help=_MODEL)
    sub.add_argument("--attacks", default=",".join(DEFAULT_ATTACKS), help="comma-separated, of " + ", ".join(ATTACKS))
    sub.add_argument("--checkpoint", choices=("last", "best"), default="last")
    sub.add_argument("--epsilon", type=float, help="attack radius (default: the run's own; other models need one)")
    sub.add_argument("--images", type=int, metavar="N", help="only so many test images, spread over the classes")
    sub.add_argument("--compile", action="store_true", help="run ResNets by torch.compile, for long attacks")
    sub.add_argument("--classes", default="", metavar="A,B", help="only these classes' images: strong attacks where it matters")
    sub.add_argument("--device", default="auto")
    sub.add_argument("--mode", choices=MODES, default=MODES[0], help="AutoAttack's noise: by image, or upstream's own by batch")
    sub.add_argument(
        "--part", default="1/1", metavar="I/N", help="this process makes the i-th of n parts of AutoAttack's batches"
    )
    settings = sub.add_argument_group("models that are not run folders", _ADOPTED)
    settings.add_argument("--out", type=Path, help="that run folder (default: a free name in runs/)")
    _add_settings(settings, ADOPTION_SETTINGS, defaults=False)


def _check_options(sub: argparse.ArgumentParser) -> None:
    """What is demanded; `refuse` ends by exit code 2, as for any bad usage."""
    sub.set_defaults(refuse=sub.error)
    sub.add_argument("runs", nargs="+", type=Path, help="run folders that were evaluated")
    sub.add_argument("--worst-min", type=float, metavar="PERCENT", help="fail where the worst class is shown to be lower")
    sub.add_argument("--average-min", type=float, metavar="PERCENT", help="fail where the average is shown to be lower")
    sub.add_argument("--baseline", type=Path, metavar="RUN", help="fail where either is shown to be lower than this run's")
    sub.add_argument("--sure", action="store_true", help="fail also where an interval holds the minimum")
    sub.add_argument("--accept-findings", action="store_true", help="let pass signs of masked gradients, and chance in the model")
    sub.add_argument("--attack", default="", help="default: the last one of the evaluation")
    sub.add_argument("--checkpoint", choices=("last", "best"), default="last")
    sub.add_argument("--junit", type=Path, metavar="FILE", help="write the answers as JUnit XML, too")


def _add_settings(group: Any, names: Iterable[str], *, defaults: bool = True) -> None:
    """An option for each of these settings of Config; absent where it is not given."""
    kinds = get_type_hints(Config)
    for field in names:
        default = f" (default: {getattr(Config, field)!r})" if defaults else ""
        about = (field_docs()[field] + default).replace("%", "%%")
        form: dict[str, Any] = {"type": kinds[field], "metavar": kinds[field].__name__.upper()}
        if kinds[field] is bool:  # bool("False") is True: a flag and its --no- instead
            form = {"action": argparse.BooleanOptionalAction}
        group.add_argument(f"--{field.replace('_', '-')}", dest=field, default=argparse.SUPPRESS, help=about, **form)


def _figures(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("runs", nargs="+", help="run folders that were evaluated alike, as FOLDER or NAME=FOLDER")
    sub.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the files go")
    sub.add_argument("--formats", default="html,csv", help="comma-separated, of html, png, csv; png needs the extra `pictures`")
    sub.add_argument("--attack", default="", help="default: the last one of the evaluation")
    sub.add_argument("--setting", default="", metavar="NAME", help="also draw accuracy over this setting, such as tau")
    sub.add_argument("--checkpoint", choices=("last", "best"), default="last")
