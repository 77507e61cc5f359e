"""The `faal-lab` command: thin words for what the library does.

Knows: arguments and exit codes. Must not know: anything that a notebook could not call itself.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from faal_lab import __version__
from faal_lab.config import DIALS, ConfigError, RunConfig, check_dial, field_docs
from faal_lab.data import DataProblem
from faal_lab.demo import DemoError, demo
from faal_lab.doctor import examine
from faal_lab.evaluation import ATTACKS, DEFAULT_ATTACKS, MODES, EvaluationError, VerdictsError
from faal_lab.events import COMMANDS, Command
from faal_lab.fairness import FAIRNESS
from faal_lab.models import ModelProblem
from faal_lab.names import UnknownName, check_name
from faal_lab.parameters import based_on, listed
from faal_lab.presets import PRESETS, PROTOCOLS, preset_settings
from faal_lab.progress import share_bar, shown
from faal_lab.recipe import parts
from faal_lab.runs import CheckpointError, RunFolder, RunFolderError, RunLocked, free_name
from faal_lab.seeds import over_seeds
from faal_lab.training import TrainingDiverged

# Errors whose message is all a user needs; anything else is a defect and keeps its traceback.
_EXPECTED = (
    UnknownName, ConfigError, DataProblem, ModelProblem, RunFolderError, RunLocked, CheckpointError, VerdictsError,
    EvaluationError, DemoError, TrainingDiverged, ImportError, OSError,
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (130 after Ctrl-C, 1 after an error, which is said on stderr)."""
    options = _parser().parse_args(arguments)
    try:
        return options.act(options) or 0
    except KeyboardInterrupt:
        print("faal-lab: stopped by Ctrl-C.", file=sys.stderr)
        return 130
    except _EXPECTED as error:
        print(f"faal-lab: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("faal-lab", description="See, steer and fix the class-wise robustness of neural networks.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, act: Any, about: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=about, description=about, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        sub.set_defaults(act=act)
        return sub

    sub = add("demo", _demo, "Train a robust model, make it fair, and write the report: about three minutes on a laptop.")
    sub.add_argument("--out", type=Path, help="folder for everything the demo makes (default: a free name in runs/)")
    sub.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="N", help="several seeds give a table of means")
    sub.add_argument("--quick", action="store_true", help="a few batches, no AutoAttack: only shows that all works")

    sub = add("lab", _lab, "Open JupyterLab on 127.0.0.1, with a token, at the live notebook.")
    sub.add_argument("--no-browser", action="store_true", help="only print the address")
    sub.add_argument("--port", type=int, default=8888, help="the next free one is taken if it is in use")

    sub = add("run", _run, "Train one model into a run folder.")
    sub.add_argument("--out", type=Path, help="the run folder (default: a free name in runs/)")
    sub.add_argument("--resume", type=Path, metavar="FOLDER", help="go on with an interrupted run; settings are the folder's")
    sub.add_argument("--config", metavar="FILE", help="settings as a JSON file, or - for standard input; options below win")
    sub.add_argument("--recipe", default="", metavar="NAME", help="settings of a method by its name, such as faal-trades-awp")
    sub.add_argument("--protocol", default="", metavar="NAME", help="settings of a paper's experiment, such as finetune-2ep")
    sub.add_argument("--quiet", action="store_true", help="no progress bar")
    settings = sub.add_argument_group("settings")
    for field, kind in get_type_hints(RunConfig).items():
        about = f"{field_docs()[field]} (default: {getattr(RunConfig, field)!r})".replace("%", "%%")
        flag = f"--{field.replace('_', '-')}"
        form: dict[str, Any] = {"type": kind, "metavar": kind.__name__.upper()}
        if kind is bool:  # bool("False") is True: a flag and its --no- instead
            form = {"action": argparse.BooleanOptionalAction}
        settings.add_argument(flag, dest=field, default=argparse.SUPPRESS, help=about, **form)

    sub = add("evaluate", _evaluate, "Attack a run's test images and keep the verdicts in its folder.")
    sub.add_argument("runs", nargs="+", type=Path, help="run folders")
    sub.add_argument("--attacks", default=",".join(DEFAULT_ATTACKS), help="comma-separated, of " + ", ".join(ATTACKS))
    sub.add_argument("--checkpoint", choices=("last", "best"), default="last")
    sub.add_argument("--epsilon", type=float, help="attack radius (default: the run's own)")
    sub.add_argument("--device", default="auto")
    sub.add_argument("--mode", choices=MODES, default=MODES[0], help="AutoAttack's noise: by image, or upstream's own by batch")
    sub.add_argument(
        "--part", default="1/1", metavar="I/N", help="this process makes the i-th of n parts of AutoAttack's batches"
    )

    sub = add("compare", _compare, "Compare evaluated runs with the first one, paired on the same images.")
    sub.add_argument("runs", nargs="+", type=Path, help="run folders that were evaluated; the first one is compared with")
    sub.add_argument("--attack", default="", help="default: the last one of the evaluation")
    sub.add_argument("--checkpoint", choices=("last", "best"), default="last")

    sub = add("tell", _tell, "Tell a running run something: " + ", ".join(COMMANDS[:-1]) + ", or turn a dial (tau=0.7).")
    sub.add_argument("run", type=Path, help="its run folder")
    sub.add_argument("what", help=f"pause, resume, step, stop, or DIAL=VALUE with a dial of {', '.join(DIALS)}")

    add("methods", _methods, "List objectives, fairness methods, averaging, ambiguity sets, recipes and protocols, with sources.")

    sub = add("settings", _settings, "Print all settings of a recipe under a protocol as JSON, for `run --config`.")
    sub.add_argument("--recipe", default="", metavar="NAME", help="one of " + ", ".join(PRESETS))
    sub.add_argument("--protocol", default="", metavar="NAME", help="one of " + ", ".join(PROTOCOLS))

    add("doctor", _doctor, "Show versions, device, cores, memory, and what is missing and what it is for.")
    return parser


def _demo(options: argparse.Namespace) -> None:
    if options.seeds == [0] or len(options.seeds) == 1:
        demo(options.out or free_name("runs", "demo"), options.seeds[0], options.quick)
    else:
        print(f"Written: {over_seeds(options.out or Path('runs/demo-seeds'), options.seeds, options.quick)}")


def _lab(options: argparse.Namespace) -> int:
    from faal_lab.lab import open_lab

    return open_lab(port=options.port, browser=not options.no_browser)


def _run(options: argparse.Namespace) -> None:
    from faal_lab.experiment import run

    stated = {f.name: getattr(options, f.name) for f in fields(RunConfig) if hasattr(options, f.name)}
    if options.resume:
        if stated or options.config or options.out or options.recipe or options.protocol:
            raise ConfigError("--resume takes its settings from the folder; turn dials while it runs with faal-lab tell.")
        config, out = RunFolder.open(options.resume).config(), options.resume
    else:
        config = _config(options.config, stated, preset_settings(options.recipe, options.protocol))
        stem = f"{config.data}-{config.objective}-{config.fairness}" + ("-tuned" if config.base else "")
        out = options.out or free_name("runs", stem)
    for _ in shown(run(config, out, resume=bool(options.resume)), options.quiet):
        pass
    if not options.quiet:
        print(f"Run folder: {out}\nNext: faal-lab evaluate {out}")


def _config(file: str | None, stated: dict[str, Any], preset: dict[str, Any]) -> RunConfig:
    """Settings from the command line, a recipe and protocol, a file, and a base run where one is named; the first one wins."""
    loaded: Any = {}
    if file:
        content = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
        utf_16 = content[:2] in (b"\xff\xfe", b"\xfe\xff")  # as PowerShell's > writes
        try:
            loaded = json.loads(content.decode("utf-16" if utf_16 else "utf-8-sig"))
        except ValueError as error:
            raise ConfigError(f"{file} is not JSON: {error}. Make one with faal-lab settings.") from error
        if not isinstance(loaded, dict):
            raise ConfigError(f"{file} must hold a JSON object of settings, got {type(loaded).__name__}.")
    stated = {**loaded, **preset, **stated}
    return based_on(stated.get("base", ""), stated)


def _evaluate(options: argparse.Namespace) -> None:
    from faal_lab.experiment import evaluate_run
    from faal_lab.report import comparisons, paired_sentences, text_table

    attacks = tuple(listed(options.attacks))
    for name in attacks:
        check_name("attack", name, ATTACKS)
    part, parts = _part(options.part)
    options.runs = list(dict.fromkeys(options.runs))
    for run in options.runs:
        RunFolder.open(run)  # a mistyped last one should not be found out after the first took an hour
    names, verdicts = [run.name for run in options.runs], {}
    for run in options.runs:
        with share_bar(f"evaluate {run.name}") as progress:
            verdicts[str(run) if names.count(run.name) > 1 else run.name] = evaluate_run(
                run,
                checkpoint=options.checkpoint,
                attacks=attacks,
                epsilon=options.epsilon,
                device=options.device,
                mode=options.mode,
                part=part,
                parts=parts,
                progress=progress,
            )
    print(text_table(verdicts))
    if part:
        print("Part 1 keeps the verdicts; this part has only made its share of AutoAttack's batches.")
    try:
        for line in paired_sentences(comparisons(verdicts)):
            print(line)
    except VerdictsError as error:
        print(f"Not compared: {error}")


def _compare(options: argparse.Namespace) -> None:
    from faal_lab.report import comparisons, paired_sentences, read_runs

    if len(options.runs) < 2:
        raise ConfigError(f"compare needs at least two runs, got {options.runs[0]} alone.")
    runs = read_runs([str(run) for run in options.runs], options.checkpoint)
    for line in paired_sentences(comparisons({run.name: run.verdicts for run in runs}, options.attack)):
        print(line)


def _part(text: str) -> tuple[int, int]:
    """ "2/3" as (1, 3); raises ConfigError."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ConfigError(f"part must be like 2/3, the second of three, got {text!r}.")
    return int(number) - 1, int(count)


def _tell(options: argparse.Namespace) -> None:
    folder = RunFolder.open(options.run)
    dial, equals, value = options.what.partition("=")
    if equals:
        try:
            number = float(value)
        except ValueError:
            raise ConfigError(f"{dial} must be a number, got {value!r}.") from None
        command = Command("turn", dial, check_dial(dial, number, folder.config()))
    else:
        command = Command(check_name("command", options.what, COMMANDS[:-1]))
    if folder.status() in ("done", "failed"):
        raise RunFolderError(f"{options.run} is {folder.status()}: nobody listens. A stopped run goes on with run --resume.")
    sent = folder.send(command)
    print(f"Sent as command {sent.number}; the run is {folder.status()}.")


def _methods(options: argparse.Namespace) -> None:
    for setting, rows in parts().items():
        print(f"\n--{setting}")
        for name, what in rows.items():
            print(f"  {name:<18} {what}")
            if setting == "fairness":
                print(f"  {'':<18} [{FAIRNESS[name].properties()}]")
    print("\n--recipe (settings that have a name)")
    for name, settings in PRESETS.items():
        print(f"  {name:<18} {_as_text(settings)}")
    print("\n--protocol (how long, at which rates)")
    for name, settings in PROTOCOLS.items():
        print(f"  {name:<18} {_as_text(settings)}")


def _as_text(settings: dict[str, Any]) -> str:
    return " ".join(f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in settings.items())


def _settings(options: argparse.Namespace) -> None:
    config = RunConfig.from_mapping(preset_settings(options.recipe, options.protocol))
    print(json.dumps(config.to_mapping(), indent=2))


def _doctor(options: argparse.Namespace) -> int:
    text, missing = examine()
    print(text)
    return 1 if missing else 0
