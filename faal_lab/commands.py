"""Carry out each command of `faal-lab`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from faal_lab.catalogue import ATTACKS, FAIRNESS, parts
from faal_lab.doctor import examine
from faal_lab.errors import ConfigError, RunFolderError, check_name
from faal_lab.methods.presets import PRESETS, PROTOCOLS, preset_settings
from faal_lab.runs import RunFolder, by_name, free_name
from faal_lab.runs.config import ADOPTION_SETTINGS, Config, check_dial
from faal_lab.runs.events import COMMANDS, Command, Event
from faal_lab.runs.progress import share_bar, shown
from faal_lab.training.parameters import based_on, listed


def demo(options: argparse.Namespace) -> None:
    """Run the demo, over one seed or several."""
    from faal_lab.sweeps.demo import demo as make_demo
    from faal_lab.sweeps.demo import over_seeds

    if len(options.seeds) == 1:
        make_demo(options.out or free_name("runs", "demo"), options.seeds[0], options.quick)
    else:
        print(f"Written: {over_seeds(options.out or Path('runs/demo-seeds'), options.seeds, options.quick)}")


def lab(options: argparse.Namespace) -> int:
    """Open JupyterLab; returns its exit code."""
    from faal_lab.widgets.server import open_lab

    return open_lab(port=options.port, browser=not options.no_browser)


def dashboard(options: argparse.Namespace) -> int:
    """Serve the workbench as a page; returns the server's exit code."""
    from faal_lab.widgets.server import open_page

    return open_page(options.runs, port=options.port, browser=not options.no_browser, dark=options.dark)


def run(options: argparse.Namespace) -> None:
    """Train, or resume a run. Settings are checked before torch is loaded."""
    stated = {f.name: getattr(options, f.name) for f in fields(Config) if hasattr(options, f.name)}
    if options.resume:
        if stated or options.config or options.out or options.recipe or options.protocol:
            raise ConfigError("--resume takes its settings from the folder; turn dials while it runs with faal-lab tell.")
        config, out = RunFolder.open(options.resume).config(), options.resume
    elif options.replay:
        if stated or options.config or options.recipe or options.protocol:
            raise ConfigError("--replay takes its settings from the folder, and turns its dials at the same steps again.")
        config, out = RunFolder.open(options.replay).config(), options.out or free_name("runs", f"{options.replay.name}-again")
    else:
        config = _config(options.config, stated, preset_settings(options.recipe, options.protocol))
        stem = f"{config.data}-{config.objective}-{config.fairness}" + ("-tuned" if config.base else "")
        out = options.out or free_name("runs", stem)
    for _ in shown(_training(config, out, options), options.quiet):
        pass
    if not options.quiet:
        print(f"Run folder: {out}\nNext: faal-lab evaluate {out}")


def _training(config: Config, out: Path, options: argparse.Namespace) -> Iterator[Event]:
    """The events of the run that is asked for; torch is loaded at the first one, under the bar."""
    from faal_lab.training.run import run as train
    from faal_lab.training.run import turns_of

    script = turns_of(options.replay) if options.replay else ()
    yield from train(config, out, resume=bool(options.resume), script=script)


def sweep(options: argparse.Namespace) -> int:
    """Make the jobs of a sweep file; 1 where one failed."""
    from faal_lab.sweeps import run as make

    return make.command(
        options.file, options.out, workers=options.workers, gpus=options.gpus, where=options.where, part=options.shard,
        dry_run=options.dry_run, force=options.force, any_code=options.any_code,
    )  # fmt: skip


def _config(file: str | None, stated: dict[str, Any], preset: dict[str, Any]) -> Config:
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


def evaluate(options: argparse.Namespace) -> None:
    """Evaluate runs and other models one after the other, and compare them with the first."""
    attacks = tuple(listed(options.attacks))
    for name in attacks:
        check_name("attack", name, ATTACKS)
    part, parts = _part(options.part)

    from faal_lab.evaluation.adopt import run_folders
    from faal_lab.evaluation.evaluate import evaluate_run
    from faal_lab.evaluation.verdicts import VerdictsError
    from faal_lab.results.tables import comparisons, paired_sentences, text_table

    stated = {name: getattr(options, name) for name in ADOPTION_SETTINGS if hasattr(options, name)} | {"device": options.device}
    if options.epsilon is not None:
        stated["epsilon"] = options.epsilon
    strange = [word for word in options.models if not Path(word).expanduser().is_dir()]
    if strange and (options.checkpoint == "best" or parts > 1):
        raise ConfigError(f"--checkpoint best and --part are for run folders, and {strange[0]} is none.")
    folders = run_folders(options.models, stated, attacks=attacks, images=options.images, out=options.out)
    verdicts = {}
    for name, run in by_name(folders).items():
        with share_bar(f"evaluate {run.name}") as progress:
            verdicts[name] = evaluate_run(
                run,
                checkpoint=options.checkpoint,
                attacks=attacks,
                images=options.images,
                classes=tuple(listed(options.classes)) if options.classes else (),
                epsilon=options.epsilon,
                device=options.device,
                mode=options.mode,
                part=part,
                parts=parts,
                compile=options.compile,
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


def compare(options: argparse.Namespace) -> None:
    """Print paired sentences and how unequal the classes are; for groups of seeds, the means of the differences."""
    if len(options.runs) < 2:
        raise ConfigError(f"compare needs at least two runs, got {options.runs[0]} alone.")
    from faal_lab.evaluation.groups import grouped, read_runs, read_seeds
    from faal_lab.results.tables import comparisons, notes, paired_sentences, seed_sentences, spread_table

    if any(len(paths) > 1 for paths in grouped(options.runs).values()):
        groups = read_seeds(options.runs, options.checkpoint)
        said = notes({f"{name} {n}": found for name, group in groups.items() for n, found in enumerate(group, 1)})
        print("\n".join([*seed_sentences(groups, options.attack), *said]))
        return
    verdicts = {run.name: run.verdicts for run in read_runs(options.runs, options.checkpoint)}
    lines = [*paired_sentences(comparisons(verdicts, options.attack)), "", spread_table(verdicts, options.attack), ""]
    print("\n".join([*lines, *notes(verdicts)]))


def report(options: argparse.Namespace) -> None:
    """Write the page, and its tables beside it."""
    from faal_lab.evaluation.groups import read_runs
    from faal_lab.results.formats import SUFFIXES
    from faal_lab.results.published import read_paper
    from faal_lab.results.report import headlines, write_report

    paper = read_paper(options.paper) if options.paper else None
    runs = read_runs(options.runs, options.checkpoint)
    page = write_report(runs, options.out, options.title, paper)
    print("\n".join([*headlines(runs), *(f"Written: {path}" for path in (page, *map(page.with_suffix, SUFFIXES)))]))


def check(options: argparse.Namespace) -> int:
    """Hold runs to demands; returns 1 where one is not met, and ends by argparse's own 2 where none makes sense."""
    from faal_lab.results.check import Demands, lines, met, write_junit
    from faal_lab.results.check import check as checked

    minimums = {"worst": options.worst_min, "average": options.average_min}
    try:
        demands = Demands(**minimums, baseline=options.baseline, sure=options.sure, accept_findings=options.accept_findings)
    except ConfigError as error:
        return options.refuse(str(error))
    found = checked(options.runs, demands, options.attack, options.checkpoint)
    print("\n".join(lines(found)))
    if options.junit:
        write_junit(found, options.junit)
    return 0 if met(found) else 1


def figures(options: argparse.Namespace) -> None:
    """Draw and write all pictures of runs; what cannot be drawn is said with the reason."""
    from faal_lab.evaluation.groups import read_runs
    from faal_lab.results.export import all_pictures, check_formats, export_all

    formats = check_formats(listed(options.formats))
    drawn = all_pictures(read_runs(options.runs, options.checkpoint), options.attack, options.setting)
    print("\n".join(export_all(drawn, options.out, formats)))


def _part(text: str) -> tuple[int, int]:
    """ "2/3" as (1, 3); raises ConfigError."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise ConfigError(f"part must be like 2/3, the second of three, got {text!r}.")
    return int(number) - 1, int(count)


def tell(options: argparse.Namespace) -> None:
    """Send a run a command."""
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


def methods(options: argparse.Namespace) -> None:
    """Print what there is to choose from."""
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


def settings(options: argparse.Namespace) -> None:
    """Print a preset as JSON."""
    config = Config.from_mapping(preset_settings(options.recipe, options.protocol))
    print(json.dumps(config.to_mapping(), indent=2))


def doctor(options: argparse.Namespace) -> int:
    """Print what is installed; returns 1 where something is missing."""
    text, missing = examine()
    print(text)
    return 1 if missing else 0
