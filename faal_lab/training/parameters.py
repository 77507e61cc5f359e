"""Check the parameters of a notebook, and turn them into settings.

papermill accepts any name, and its -r option and quoted YAML give text where a number was meant. Here an unknown name is an
error that offers the nearest valid one, and a wrong type is an error too.
"""

from __future__ import annotations

import json
import shlex
import sys
import warnings
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from faal_lab.catalogue import FAIRNESS
from faal_lab.errors import ConfigError, RunFolderError, check_name
from faal_lab.methods.presets import preset_settings
from faal_lab.runs import RunFolder, free_name
from faal_lab.runs.config import Config, settings

_NOTEBOOK_NAMES = {"In", "Out", "exit", "quit", "open", "get_ipython"}  # put there by IPython
_PLAIN = (bool, int, float, str, list, tuple, dict, type(None))


class OverriddenWarning(UserWarning):
    """A parameter wins over a recipe or protocol.

    The message states which, and how to take theirs.
    """


def given(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters in a notebook's `globals()`.

    Args:
        namespace: name -> value.

    Returns:
        The public names with plain values: numbers, text, lists, tuples, dicts and None.

    >>> from faal_lab.training.parameters import given
    >>> given({"tau": 0.3, "_hidden": 1, "print": print})
    {'tau': 0.3}
    """
    return {
        name: value
        for name, value in namespace.items()
        if not name.startswith("_") and name not in _NOTEBOOK_NAMES and isinstance(value, _PLAIN)
    }


# The learning rate of a training from random weights would undo what the base has learned, and settings that count epochs are
# those of another run. So a fine-tuning has defaults of its own.
FINE_TUNING: dict[str, Any] = {
    "epochs": 4, "batch_size": 50, "learning_rate": 0.01, "tau_changes": "", "fairness_start": 0, "awp_start": 0,
    "average_start": 0, "balance": "none", "accumulation": 1,
}  # fmt: skip


# The settings of an adopted folder besides epsilon; these values mean "not given" in a notebook.
ADOPTION_SETTINGS: dict[str, Any] = {
    "data": "", "data_dir": "", "image_size": 0, "download": False, "split_seed": -1, "model": "", "filters": 0,
    "normalization": "", "norm": "", "seed": -1,
}  # fmt: skip


def checked(namespace: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Check the parameters of a notebook against its defaults.

    Args:
        namespace: the notebook's `globals()`.
        defaults: every parameter that the notebook has, with its default.

    Returns:
        A value for each name in `defaults`, of the type of its default.

    Raises:
        UnknownName: if there is a parameter without a default.
        ConfigError: if a value is of another type.

    >>> from faal_lab.training.parameters import checked
    >>> checked({"epochs": 2}, {"epochs": 4, "data": "digits"})
    {'epochs': 2, 'data': 'digits'}
    """
    values = dict(defaults)
    for name, value in given(namespace).items():
        check_name("parameter", name, defaults)
        expected = type(defaults[name])
        if expected is float and type(value) is int:
            value = float(value)
        if type(value) is not expected:
            raise ConfigError(f"{name} must be of type {expected.__name__}, got {value!r} ({type(value).__name__}).")
        values[name] = value
    return values


def listed(text: str) -> list[str]:
    """Return the entries of a comma-separated parameter.

    Args:
        text: the parameter, such as "clean, pgd-20".

    Returns:
        At least one entry, without spaces around it.

    Raises:
        ConfigError: there are no entries.

    >>> from faal_lab.training.parameters import listed
    >>> listed("clean, pgd-20")
    ['clean', 'pgd-20']
    """
    entries = [entry.strip() for entry in text.split(",") if entry.strip()]
    if not entries:
        raise ConfigError(f"expected names separated by commas, got {text!r}.")
    return entries


def run_parameters(namespace: Mapping[str, Any], kind: type[Config] = Config) -> tuple[Config, Path, bool]:
    """Turn the parameters of a training notebook into settings and a run folder.

    A parameter wins over the recipe, and the recipe over the protocol. With a base, a setting that is None or not given is
    the base run's.

    Args:
        namespace: the notebook's `globals()`: any setting of Config, `recipe`, `protocol`, `out` and `resume`.
        kind: the class of the settings; default Config.

    Returns:
        The settings; the run folder, for an empty `out` a free name in `runs/`; and whether to resume the run in that folder.

    Raises:
        UnknownName: if there is no such parameter, recipe or protocol.
        ConfigError: if a value is wrong, or nothing would read it.

    >>> from faal_lab.training.parameters import run_parameters
    >>> config, folder, resume = run_parameters({"recipe": "faal-at", "epochs": 2, "out": "mine"})
    >>> config.fairness, config.epochs, str(folder), resume
    ('faal', 2, 'mine', False)
    """
    names = ["out", "resume", "recipe", "protocol", *settings(kind)]
    values = given(namespace)
    for name in values:
        check_name("parameter", name, names)
    out, resume = values.pop("out", ""), values.pop("resume", False)
    if not isinstance(out, str):
        raise ConfigError(f"out must be text, got {out!r}.")
    if not isinstance(resume, bool):
        raise ConfigError(f"resume must be True or False, got {resume!r}.")
    named = ["" if (value := values.pop(kind, None)) is None else value for kind in ("recipe", "protocol")]
    for value in named:
        if not isinstance(value, str):
            raise ConfigError(f"recipe and protocol must be text, got {value!r}.")
    presets = preset_settings(*named)
    for name, value in values.items():
        if value is not None and presets.get(name, value) != value:
            warnings.warn(
                f"{' and '.join(filter(None, named))} would have {name} {presets[name]!r}; {value!r} wins, be it the notebook's "
                f"own. None (papermill -y '{name}: null') takes theirs.",
                OverriddenWarning,
                stacklevel=2,
            )
    stated = presets | {name: value for name, value in values.items() if value is not None}
    config = based_on(stated.get("base", ""), stated, kind)
    check_used(config, values)
    folder = Path(out) if out else free_name("runs", run_name(config))
    return config, folder, resume and (folder / "config.json").is_file()


def run_name(config: Config) -> str:
    """Name a run by its settings, for a folder that nobody named.

    Args:
        config: the run's settings.

    Returns:
        Data set, objective and fairness method; "-tuned" marks a fine-tuning.

    >>> from faal_lab import Config
    >>> from faal_lab.training.parameters import run_name
    >>> run_name(Config(fairness="faal", base="runs/base"))
    'digits-at-faal-tuned'
    """
    parts = (name.rpartition(":")[2].rpartition(".")[2] if ":" in name else name for name in (config.objective, config.fairness))
    return "-".join([config.data, *parts]) + ("-tuned" if config.base else "")


def based_on(base: str, stated: Mapping[str, Any], kind: type[Config] = Config) -> Config:
    """Return the stated settings, completed by a base run or by the defaults.

    With a base, FINE_TUNING comes next, then the settings of the run folder `base`.

    Args:
        base: a run folder or a checkpoint file; "" for none.
        stated: settings by name; they win.
        kind: the class of the settings; default Config.

    Returns:
        All settings.

    Raises:
        UnknownName: a setting does not exist.
        ConfigError: a value is invalid.

    >>> from faal_lab.training.parameters import based_on
    >>> base = "notebooks/recorded/control"
    >>> config = based_on(base, {"base": base, "fairness": "faal"})
    >>> config.fairness, config.epochs, config.attack_start  # stated, of FINE_TUNING, of the base
    ('faal', 4, 'zero')
    """
    inherited: dict[str, Any] = {}
    if isinstance(base, str) and base:
        if (root := Path(base).expanduser() / "config.json").is_file():
            inherited = RunFolder.open(root.parent).config().to_mapping()
        inherited |= FINE_TUNING
    return kind.from_mapping({**inherited, **stated})


def settings_of(file: str | None, stated: Mapping[str, Any], preset: Mapping[str, Any], kind: type[Config] = Config) -> Config:
    """Put the settings of a run together; the first source that has a setting wins.

    Args:
        file: a JSON file of settings, "-" for standard input; None or "" for none. Third source, before a base run.
        stated: settings that a person gave. First source.
        preset: settings of a recipe and a protocol. Second source.
        kind: the class of the settings; default Config.

    Returns:
        All settings.

    Raises:
        UnknownName: if a name is unknown.
        ConfigError: if a value is wrong, the file is not a JSON object, or nothing would read a stated setting.

    >>> from pathlib import Path
    >>> from faal_lab.training.parameters import settings_of
    >>> _ = Path("mine.json").write_text('{"epochs": 2, "tau": 0.1}')
    >>> config = settings_of("mine.json", {"tau": 0.3}, {"fairness": "faal"})
    >>> config.epochs, config.tau, config.fairness
    (2, 0.3, 'faal')
    """
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
    named = {**loaded, **preset, **stated}
    config = based_on(named.get("base", ""), named, kind)
    check_used(config, stated)
    return config


# setting -> (the setting that decides whether it acts, and the values for which it does)
_ACTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "lr_drops": ("lr_schedule", ("step",)),
    **dict.fromkeys(("tau_changes", "multiplier", "measure", "score", "solver"), ("fairness", ("faal",))),
    "slack": ("fairness", ("frl-rw", "frl-rm", "frl-rwrm")),
    **dict.fromkeys(("average_decay", "average_start", "average_buffers"), ("averaging", ("ema", "fawa"))),
    "average_threshold": ("averaging", ("fawa",)),
    **dict.fromkeys(("balance_tau", "balance_floor"), ("balance", ("bias",))),
}


def check_used(config: Config, stated: Mapping[str, Any]) -> None:
    """Refuse a stated setting that nothing would read.

    Args:
        config: the run's settings.
        stated: those that a person gave. Unused ones of a recipe, a protocol or a base are allowed.

    Raises:
        ConfigError: if a stated setting would have no effect.

    >>> from faal_lab import Config
    >>> from faal_lab.training.parameters import check_used
    >>> check_used(Config(slack=0.1), {"slack": 0.1})
    Traceback (most recent call last):
        ...
    faal_lab.errors.ConfigError: slack=0.1 acts with fairness=frl-rw or frl-rm or frl-rwrm only, and the run has
    fairness=none. Leave it out, or set fairness.
    """
    for name, (by, values) in _ACTS.items():
        value, default = stated.get(name), settings()[name].default
        unknown = by == "fairness" and FAIRNESS[config.fairness].label  # a method from elsewhere may read any of them
        if value is not None and value != default and getattr(config, by) not in values and not unknown:
            raise ConfigError(
                f"{name}={value} acts with {by}={' or '.join(values)} only, and the run has {by}={getattr(config, by)}. "
                f"Leave it out, or set {by}."
            )


def stated_settings(config: Config) -> dict[str, Any]:
    """Return the settings that differ from those that a run takes by itself.

    A run takes them from the defaults or from its base. If the config.json of the base is damaged, all settings are
    returned.

    Args:
        config: the run's settings.

    Returns:
        The settings that somebody chose, by name; `base` is always one of them.

    >>> from faal_lab import Config
    >>> from faal_lab.training.parameters import stated_settings
    >>> stated_settings(Config(fairness="faal", tau=0.5, epochs=2))  # 0.5 is the default
    {'fairness': 'faal', 'epochs': 2}
    """
    implied: dict[str, Any] = {}
    with suppress(RunFolderError, ConfigError):
        implied = based_on(config.base, {"base": config.base} if config.base else {}).to_mapping()
    named = {"base"} if config.base else set()
    return {name: value for name, value in config.to_mapping().items() if name in named or value != implied.get(name)}


def run_command(config: Config, out: str | Path) -> str:
    """Return the `faal-lab run` command that makes a run with these settings.

    Args:
        config: the run's settings.
        out: the run folder.

    Returns:
        One line for a shell.

    >>> from faal_lab import Config
    >>> from faal_lab.training.parameters import run_command
    >>> run_command(Config(fairness="faal", tau=0.3), "runs/mine")
    'faal-lab run --fairness=faal --tau=0.3 --out=runs/mine'
    """
    words = ["faal-lab", "run"]
    for name, value in stated_settings(config).items():
        flag = name.replace("_", "-")
        words += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}={value}"]
    return shlex.join([*words, f"--out={out}"])


def papermill_command(config: Config, out: str | Path) -> str:
    """Return the papermill command that runs `train.ipynb` with these settings.

    Run it at the top of the project.

    Args:
        config: the run's settings.
        out: the run folder.

    Returns:
        One line for a shell.

    >>> from faal_lab import Config
    >>> from faal_lab.training.parameters import papermill_command
    >>> papermill_command(Config(fairness="faal", tau=0.3), "runs/mine")
    'papermill parameterized/train.ipynb out.ipynb -k python3 -r fairness faal -p tau 0.3 -r out runs/mine'
    """
    words = ["papermill", "parameterized/train.ipynb", "out.ipynb", "-k", "python3"]
    for name, value in {**stated_settings(config), "out": str(out)}.items():
        words += ["-r" if isinstance(value, str) else "-p", name, str(value)]  # with -p the text 0.5 would become a number
    return shlex.join(words)


def as_yaml(config: Config) -> str:
    """Return, as YAML, the settings that differ from a run's own.

    papermill's -f and a sweep read it. `stated_settings` lists them.

    Args:
        config: the run's settings.

    Returns:
        One line per setting; a comment if there is none.

    >>> from faal_lab import Config
    >>> from faal_lab.training.parameters import as_yaml
    >>> print(as_yaml(Config(fairness="faal", tau=0.3)), end="")
    fairness: faal
    tau: 0.3
    """
    import yaml

    text = yaml.safe_dump(stated_settings(config), sort_keys=False)
    return text if text.strip() != "{}" else "# all settings have their defaults\n"
