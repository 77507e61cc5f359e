"""The `faal-lab` command. A function is a command, its parameters are options, its docstring is their help.

A setting that Config declares is an option here. Nothing heavy is imported before a command needs it.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Group, Parameter

from faal_lab import __version__
from faal_lab.catalogue import ATTACKS, DEFAULT_ATTACKS, EXPORTS, MODES
from faal_lab.errors import EXIT_CODES, ConfigError, RunFolderError, check_name, check_part
from faal_lab.methods.presets import listing, preset_settings
from faal_lab.methods.releases import comparison
from faal_lab.models.doctor import doctor
from faal_lab.runs import RunFolder, free_name
from faal_lab.runs.config import Config
from faal_lab.runs.config import settings as declared
from faal_lab.runs.control import spoken
from faal_lab.runs.progress import shown
from faal_lab.training import options as words
from faal_lab.training.options import ADOPTED, EVERYTHING, MODEL_WORDS, Flag, Misuse, Several, Which, Whole, options, plain, whole
from faal_lab.training.parameters import ADOPTION_SETTINGS, listed, run_name, settings_of


def application(kind: type[Config] = Config) -> App:
    """Return the command line, with the settings of `kind`."""
    about = "See, steer and fix the class-wise robustness of neural networks."
    codes = "Exit codes: " + ". ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items()) + "."
    app = App(
        "faal-lab", help=about, help_epilogue=codes, version=__version__, result_action="return_value", group_commands=EVERYTHING,
        suppress_keyboard_interrupt=False,  # or cyclopts ends the process before `main` reports it
    )  # fmt: skip
    commands = (
        demo, lab, notebooks, dashboard, look, _run(kind), balance, sweep, evaluate, compare, check, verify, report, figures,
        export, tell, methods, settings, doctor, completion,
    )  # fmt: skip
    for command in commands:
        app.command(plain(command), help_epilogue="", sort_key=commands.index(command))
    return app


def demo(*, out: Path | None = None, seeds: Annotated[list[int] | None, Several, Parameter(converter=whole)] = None,
         quick: Annotated[bool, Flag] = False) -> int:  # fmt: skip
    """Train a robust model, make it fair, and write the report: about three minutes on a laptop.

    Args:
        out: folder for everything the demo makes (default: a free name in runs/)
        seeds: several seeds give a report of means [default: 0]
        quick: a few batches, no AutoAttack: only shows that all works
    """
    from faal_lab.sweeps.demo import demo as make

    return 0 if make(out, seeds or [0], quick) else 1


def lab(*, browser: bool = True, port: Whole = 8888) -> int:
    """Open JupyterLab on 127.0.0.1, with a token, at the map of the notebooks.

    Args:
        browser: open a page in the browser; without, only print the address
        port: the next free one is taken if it is in use
    """
    from faal_lab.widgets.server import open_lab

    return open_lab(port=port, browser=browser)


def notebooks(what: Literal["list", "copy"], folder: Path = Path("faal-lab"), /) -> None:
    """List the notebooks, sweep files and pages that come along, or copy them into a folder to edit and run.

    Args:
        what: list or copy
        folder: the folder to copy to; a file that is there already is kept
    """
    from faal_lab.sweeps import shipped

    print(*(shipped.copy_to(folder) if what == "copy" else shipped.files()), sep="\n")


def dashboard(*, runs: Path = Path("runs"), browser: bool = True, port: Whole = 8866, dark: Annotated[bool, Flag] = False) -> int:
    """Serve the workbench alone as a page on 127.0.0.1, with a token (by Voila).

    Args:
        runs: the folder that runs are shown from and go to
        browser: open a page in the browser; without, only print the address
        port: the next free one is taken if it is in use; 0: any
        dark: light on dark
    """
    from faal_lab.widgets.server import open_page

    return open_page(runs, port=port, browser=browser, dark=dark)


def _run(kind: type[Config]) -> Any:
    """The command `run` with an option for each setting of `kind`."""

    def run(*, out: Path | None = None, resume: Path | None = None, replay: Path | None = None,
            config: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
            recipe: str = "", protocol: str = "", processes: Whole = 1, quiet: Annotated[bool, Flag] = False,
            stated: dict[str, Any] | None = None) -> None:  # fmt: skip
        """Train one model into a run folder.

        Args:
            out: the run folder (default: a free name in runs/)
            resume: continue the interrupted run in this folder; settings are the folder's
            replay: make the run in this folder again, with the dials that were turned in it
            config: settings as a JSON file, or - for standard input; options below win
            recipe: settings of a method by its name, such as faal-trades-awp
            protocol: settings of a paper's experiment, such as finetune-2ep
            processes: start so many here that train as one, on as many GPUs or with the cores divided
            quiet: show no progress bar
        """
        given, quiet = dict(stated or {}), quiet or words.beside()
        if resume:
            if given or config or out or recipe or protocol:
                raise ConfigError("--resume takes its settings from the folder; turn dials while it runs with faal-lab tell.")
            chosen, folder = RunFolder.open(resume).config(), resume
        elif replay:
            if given or config or recipe or protocol:
                raise ConfigError("--replay takes its settings from the folder, and turns its dials at the same steps again.")
            chosen, folder = RunFolder.open(replay).config(), out or free_name("runs", f"{replay.name}-again")
        else:
            chosen = settings_of(config, given, preset_settings(recipe, protocol), kind)
            folder = out or free_name("runs", run_name(chosen))
        for _ in shown(words.events_of(chosen, folder, resume, replay, processes), quiet, folder):
            pass
        if not quiet:
            print(f"Run folder: {folder}\nNext: faal-lab evaluate {folder}")

    run.__annotations__["stated"] = options(declared(kind).values(), Group("Settings"))
    return run


def sweep(file: Path, /, *, out: Path | None = None, workers: Whole = 0, gpus: str | None = None, where: str = "local",
          shard: str = "", dry_run: Annotated[bool, Flag] = False, force: Annotated[bool, Flag] = False,
          any_code: Annotated[bool, Flag] = False, report_only: Annotated[bool, Flag] = False) -> int:  # fmt: skip
    """Make all that a sweep file states: papermill runs, resumed where they stopped. Returns 1 where a job failed.

    Args:
        file: a sweep file in YAML, such as mine.yaml; or the name of one that comes along, such as digits
        out: the sweep's folder (default: runs/NAME); started again, what is done there is kept
        workers: jobs at once (0: one a GPU, else one a core, at most 4)
        gpus: comma-separated numbers of the GPUs to use (default: all), none for the processor
        where: local; dask://HOST:PORT; or cluster, as the file's `cluster` states it
        shard: I/N makes only the i-th of n parts, for machines that share nothing
        dry_run: print what would be made, and how long that takes by earlier runs
        force: make everything again
        any_code: keep what another version of the package has made
        report_only: make the reports alone, from the verdicts in the folder that the file names as `kept`
    """
    from faal_lab.sweeps.run import sweep as make

    return make(file, out, workers=workers, gpus=gpus, where=where, part=shard, dry_run=dry_run, force=force, any_code=any_code,
                report_only=report_only)  # fmt: skip


def balance(run: Annotated[str, Parameter(help=MODEL_WORDS)], /, *, tau: float = 0.5, average_floor: float | None = None,
            rounds: Whole = 6, images: Whole = 200, steps: Whole = 10, checkpoint: Which = "last", epsilon: float | None = None,
            unseen: Annotated[bool, Flag] = False, device: str = "auto", out: Path | None = None,
            stated: dict[str, Any] | None = None) -> None:  # fmt: skip
    """Make a trained network fairer without training: a bias for each class, found on attacked validation images.

    Args:
        tau: radius of the KL ball of class weights that it is best for; from ln C on the worst class alone counts
        average_floor: percent: least robust average that it must leave on these images
        rounds: the most biases to try
        images: validation images of a class, at most
        steps: PGD steps of the attack
        checkpoint: which checkpoint of a run folder
        epsilon: attack radius (default: the run's own; other networks need one)
        unseen: a network from elsewhere has not learned from the validation images
        device: auto, cpu, cuda, cuda:1, mps
        out: the new run folder (default: a free name in runs/)
    """
    import faal_lab as fl
    from faal_lab.results.tables import balance_table

    fair = fl.balance(
        run, tau=tau, average_floor=average_floor, rounds=rounds, images=images, steps=steps, checkpoint=checkpoint,
        epsilon=epsilon, unseen=unseen, device=device, out=out, **(stated or {}),
    )  # fmt: skip
    print(balance_table(fair.path), f"Run folder: {fair.path}\nNext: faal-lab evaluate {fair.path}", sep="\n\n")


def evaluate(models: Annotated[list[str], Several, Parameter(help=MODEL_WORDS)], /, *, attacks: str = ",".join(DEFAULT_ATTACKS),
             checkpoint: Which = "last", epsilon: float | None = None, images: Whole | None = None, classes: str = "",
             compile: Annotated[bool, Flag] = False, device: str = "auto",
             mode: Annotated[str, Parameter(choices=MODES)] = MODES[0], part: str = "1/1",
             out: Annotated[Path | None, Parameter(group=ADOPTED)] = None,
             stated: dict[str, Any] | None = None) -> None:  # fmt: skip
    """Attack the test images of runs or other models; run folders keep the verdicts. Compare them with the first.

    Args:
        attacks: comma-separated, of clean, noise, fgsm, pgd-20, pgd-100, cw-20, apgd-ce, apgd-t, fab-t, square, apgd-ce+t,
            autoattack
        checkpoint: which checkpoint of a run folder
        epsilon: attack radius (default: the run's own; other models need one)
        images: only so many test images, spread over the classes
        classes: only these classes' images, comma-separated: strong attacks where it matters
        compile: run ResNets by torch.compile, for long attacks
        device: auto, cpu, cuda, cuda:1, mps
        mode: AutoAttack's noise: by image, or upstream's own by batch
        part: I/N: this process makes the i-th of n parts of AutoAttack's batches
        out: that run folder (default: a free name in runs/)
    """
    for name in listed(attacks):
        check_name("attack", name, ATTACKS)  # before torch is loaded
    number, count = check_part("--part", part)
    import faal_lab as fl
    from faal_lab.results.tables import summary

    verdicts = fl.evaluate(
        models, attacks, checkpoint=checkpoint, epsilon=epsilon, images=images, classes=classes, out=out, compile=compile,
        device=device, mode=mode, part=(number, count), **(stated or {}),
    )  # fmt: skip
    print("Part 1 keeps the verdicts; this part has made its share of AutoAttack's batches." if number else summary(verdicts))


balance.__annotations__["stated"] = evaluate.__annotations__["stated"] = options(
    (declared()[name] for name in (*ADOPTION_SETTINGS, "base_checkpoint")), ADOPTED, defaults=False
)


def compare(runs: Annotated[list[str], Several], /, *, attack: str = "", checkpoint: Which = "last") -> None:
    """Compare evaluated runs with the first one, paired on the same images; for groups of seeds, the means of the differences.

    Args:
        runs: evaluated run folders, or groups of seeds (runs/a-0,runs/a-1); the first is compared with; name=... names one
        attack: default: the last one of the evaluation
        checkpoint: which checkpoint's verdicts
    """
    if len(runs) < 2:  # before torch is loaded
        raise ConfigError(f"compare needs at least two runs, got {runs[0]} alone.")
    import faal_lab as fl
    from faal_lab.evaluation.groups import read_seeds
    from faal_lab.results.tables import each_seed, notes, spread_table

    groups = read_seeds(runs, checkpoint)
    said, each = [fl.compare(groups, attack=attack)], each_seed(groups)
    print(*said, *(["", spread_table(each, attack), ""] if len(each) == len(groups) else []), *notes(each), sep="\n")


def check(runs: Annotated[list[Path], Several], /, *, worst_min: float | None = None, average_min: float | None = None,
          baseline: Path | None = None, sure: Annotated[bool, Flag] = False, accept_findings: Annotated[bool, Flag] = False,
          attack: str = "", checkpoint: Which = "last", junit: Path | None = None) -> int:  # fmt: skip
    """Hold evaluated runs to demands, by exit code: 0 all hold, 1 one does not, 2 bad usage.

    Args:
        runs: run folders that were evaluated
        worst_min: percent: fail where the worst class is shown to be lower
        average_min: percent: fail where the average is shown to be lower
        baseline: fail where either is shown to be lower than this run's
        sure: fail also where an interval holds the minimum
        accept_findings: let pass signs of masked gradients, and chance in the model
        attack: default: the last one of the evaluation
        checkpoint: which checkpoint's verdicts
        junit: write the answers as JUnit XML to this file, too
    """
    from faal_lab.results.check import check as held

    try:
        good = held(
            *runs, worst=worst_min, average=average_min, baseline=baseline, sure=sure, accept_findings=accept_findings,
            attack=attack, checkpoint=checkpoint, junit=junit,
        )  # fmt: skip
    except ConfigError as error:
        raise Misuse(str(error)) from error
    return 0 if good else 1


def verify(runs: Annotated[list[Path], Several], /) -> int:
    """Check all files of run folders by their checksums; tell what is damaged and what can still be used. Returns 1 where one is.

    Args:
        runs: run folders
    """
    from faal_lab.results.check import verified

    return 0 if verified(runs) else 1


def report(runs: Annotated[list[str], Several], /, *, out: Path = Path("report.html"), title: str = "Class-wise robustness",
           paper: Path | None = None, checkpoint: Which = "last") -> None:  # fmt: skip
    """Write one HTML page on evaluated runs, which opens without a network, and its tables as CSV, LaTeX and Markdown.

    Args:
        runs: run folders, name=folder, or seeds as name=folder,folder; the first is what the others are held against
        out: the page; its tables get its name
        title: the page's title
        paper: YAML or JSON of a paper's numbers to stand beside ours: {run: {source: text, attacks: {attack: {average, worst}}}}
        checkpoint: which checkpoint's verdicts
    """
    import faal_lab as fl
    from faal_lab.results.formats import SUFFIXES

    page = fl.report(*runs, out=out, title=title, paper=paper, checkpoint=checkpoint)
    print(*(f"Written: {path}" for path in (page, *map(page.with_suffix, SUFFIXES))), sep="\n")


def look(data_dir: str = "", /, *, data: str = "folder", image_size: Whole = 0, download: Annotated[bool, Flag] = False,
         seed: Whole = 0, storage: str = "auto", imbalance: float = 1.0, out: Path = Path("look.png")) -> None:  # fmt: skip
    """Look at a data set before a network learns from it: parts, classes, notes, and a sheet of its images.

    Args:
        data_dir: the folder, CSV or npz file; not needed for digits
        data: folder, csv, npz, digits, or a set of torchvision
        image_size: resize images to this side in pixels
        download: fetch the data set where it is not in data_dir
        seed: the seed by which missing parts are cut
        storage: memory, disk or auto, for the decoded images
        imbalance: thin out the training images, as the setting does; 1 keeps all
        out: the picture
    """
    from faal_lab.data.look import look as looked

    found = looked(data, data_dir, image_size=image_size, download=download, seed=seed, storage=storage, imbalance=imbalance)
    out.parent.mkdir(parents=True, exist_ok=True)
    found.sheet().save(out)
    print(f"{found!r}\nWritten: {out}")


def figures(runs: Annotated[list[str], Several], /, *, out: Path, formats: str = "html,csv", attack: str = "", setting: str = "",
            checkpoint: Which = "last") -> None:  # fmt: skip
    """Draw evaluated runs: bars, confusions, radius curves, images; a file a picture.

    Args:
        runs: run folders that were evaluated alike, as FOLDER or NAME=FOLDER
        out: the folder for the files
        formats: comma-separated, of html, png, csv; png needs the extra `pictures`
        attack: default: the last one of the evaluation
        setting: also draw accuracy over this setting, such as tau
        checkpoint: which checkpoint's verdicts
    """
    from faal_lab.results import plot

    print(*plot.save(*runs, out=out, formats=formats, attack=attack, setting=setting, checkpoint=checkpoint), sep="\n")


def export(run: Path, /, *, to: Annotated[str, Parameter(choices=EXPORTS)], out: Path, checkpoint: Which = "last",
           force: Annotated[bool, Flag] = False) -> None:  # fmt: skip
    """Write a run for others: as a page that plays it, its history as tables or for TensorBoard, or its weights.

    Args:
        run: its run folder; one that is training gives what it has reported so far
        to: replay (a page that plays the run); tensorboard, csv, parquet (folders of the history); safetensors, state_dict,
            robustbench, torchattacks (files of the weights); timm (a folder of the weights)
        out: the file or folder, which is missing or empty
        checkpoint: whose weights and verdicts
        force: replace an earlier export
    """
    check_name("format", to, EXPORTS)
    RunFolder.open(run)  # before torch is loaded
    import faal_lab as fl

    fl.open_run(run).export(to, out, checkpoint=checkpoint, force=force)


def tell(run: Path, what: str, /) -> None:
    """Steer a running run: pause, resume, step, stop, slow down, or turn a dial.

    Args:
        run: its run folder
        what: pause, resume, step, epoch, stop, pace=BATCHES a second, or DIAL=VALUE of tau, epsilon, learning_rate, fairness_on
    """
    folder = RunFolder.open(run)
    command = spoken(what, folder.config())
    if folder.status() in ("done", "failed"):
        raise RunFolderError(f"{run} is {folder.status()}: nobody listens. A stopped run goes on with run --resume.")
    print(f"Sent as command {folder.send(command).number}; the run is {folder.status()}.")


def methods(method: str = "", /) -> None:
    """List parts, recipes and protocols to choose from, with sources.

    Args:
        method: where the paper of this one, its released code and faal_lab differ, instead
    """
    print(comparison(method) if method else listing())


def settings(*, recipe: str = "", protocol: str = "") -> None:
    """Print all settings of a recipe under a protocol as JSON, for `run --config`.

    Args:
        recipe: a name that `faal-lab methods` lists
        protocol: a name that `faal-lab methods` lists
    """
    print(json.dumps(Config.from_mapping(preset_settings(recipe, protocol)).to_mapping(), indent=2))


def completion(shell: Literal["bash", "zsh", "fish"], /) -> None:
    """Print the script that completes commands, options and names in a shell.

    Args:
        shell: bash: source <(faal-lab completion bash); zsh: _faal-lab in fpath; fish: ~/.config/fish/completions/faal-lab.fish
    """
    print(application().generate_completion(shell=shell))
