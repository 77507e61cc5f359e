"""Check the parameters of a notebook, and turn them into settings.

papermill injects any name it is handed, known or not, and its -r option and quoted YAML give text where a number
was meant. Here an unknown name is an error that offers the nearest valid one, and a type mix-up is an error too.
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

from faal_lab.errors import ConfigError, RunFolderError, check_name
from faal_lab.methods.presets import preset_settings
from faal_lab.runs import RunFolder, free_name
from faal_lab.runs.config import Config, settings

_NOTEBOOK_NAMES = {"In", "Out", "exit", "quit", "open", "get_ipython"}  # put there by IPython
_PLAIN = (bool, int, float, str, list, tuple, dict, type(None))


class OverriddenWarning(UserWarning):
    """A parameter wins over a recipe or protocol; the message says which, and how to take theirs."""


def given(namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters in a notebook's `globals()`: public names with plain values."""
    return {
        name: value
        for name, value in namespace.items()
        if not name.startswith("_") and name not in _NOTEBOOK_NAMES and isinstance(value, _PLAIN)
    }


# What suits a training from random weights suits no fine-tuning: the rate would undo what the base has learned.
# Nor does what counts the epochs of another run.
FINE_TUNING: dict[str, Any] = {
    "epochs": 4, "batch_size": 50, "learning_rate": 0.01, "tau_changes": "", "fairness_start": 0, "awp_start": 0,
    "average_start": 0,
}  # fmt: skip


# What an adopted folder goes by beside epsilon, and what stands for "not given" in a notebook.
ADOPTION_SETTINGS: dict[str, Any] = {
    "data": "", "data_dir": "", "image_size": 0, "download": False, "split_seed": -1, "model": "", "filters": 0,
    "normalization": "", "norm": "", "seed": -1,
}  # fmt: skip


def checked(namespace: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a notebook that knows just `defaults`, each of its default's type.

    Raises UnknownName or ConfigError.
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
    """The entries of a comma-separated parameter; raises ConfigError where there is none."""
    entries = [entry.strip() for entry in text.split(",") if entry.strip()]
    if not entries:
        raise ConfigError(f"expected names separated by commas, got {text!r}.")
    return entries


def run_parameters(namespace: Mapping[str, Any], kind: type[Config] = Config) -> tuple[Config, Path, bool]:
    """Settings and run folder of a training notebook, and whether it goes on with the run that lies there.

    The parameters are any setting of Config, `recipe`, `protocol`, `out` and `resume`.

    Settings win over the recipe's, the recipe's over the protocol's. With a base, a setting that is None or not given is the base
    run's. An empty `out` becomes a free name in `runs/`.
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
    stem = f"{config.data}-{config.objective}-{config.fairness}" + ("-tuned" if config.base else "")
    folder = Path(out) if out else free_name("runs", stem)
    return config, folder, resume and (folder / "config.json").is_file()


def based_on(base: str, stated: Mapping[str, Any], kind: type[Config] = Config) -> Config:
    """The settings that are stated, else with a base FINE_TUNING, else those of the run folder `base`, else the defaults."""
    inherited: dict[str, Any] = {}
    if isinstance(base, str) and base:
        if (root := Path(base).expanduser() / "config.json").is_file():
            inherited = RunFolder.open(root.parent).config().to_mapping()
        inherited |= FINE_TUNING
    return kind.from_mapping({**inherited, **stated})


def settings_of(file: str | None, stated: Mapping[str, Any], preset: Mapping[str, Any], kind: type[Config] = Config) -> Config:
    """Put settings together: stated ones, a recipe's and protocol's, those of a JSON file ("-": standard input), a base run's.

    The first one wins. Raises UnknownName or ConfigError.
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
}


def check_used(config: Config, stated: Mapping[str, Any]) -> None:
    """Refuse a stated setting that nothing would read; raises ConfigError.

    Args:
        config: the run's settings.
        stated: those that a person gave. What a recipe, a protocol or a base brings along may lie idle.
    """
    for name, (by, values) in _ACTS.items():
        value, default = stated.get(name), settings()[name].default
        if value is not None and value != default and getattr(config, by) not in values:
            raise ConfigError(
                f"{name}={value} acts with {by}={' or '.join(values)} only, and the run has {by}={getattr(config, by)}. "
                f"Leave it out, or set {by}."
            )


def stated_settings(config: Config) -> dict[str, Any]:
    """Those settings that a run would not take by itself, from the defaults or from its base; all where the base is gone."""
    implied: dict[str, Any] = {}
    with suppress(RunFolderError, ConfigError):
        implied = based_on(config.base, {"base": config.base} if config.base else {}).to_mapping()
    named = {"base"} if config.base else set()
    return {name: value for name, value in config.to_mapping().items() if name in named or value != implied.get(name)}


def run_command(config: Config, out: str | Path) -> str:
    """The `faal-lab run` that makes a run with these settings."""
    words = ["faal-lab", "run"]
    for name, value in stated_settings(config).items():
        flag = name.replace("_", "-")
        words += [f"--{flag}" if value else f"--no-{flag}"] if isinstance(value, bool) else [f"--{flag}={value}"]
    return shlex.join([*words, f"--out={out}"])


def papermill_command(config: Config, out: str | Path) -> str:
    """The papermill run of `train.ipynb` with these settings, from the top of the project."""
    words = ["papermill", "parameterized/train.ipynb", "out.ipynb", "-k", "python3"]
    for name, value in {**stated_settings(config), "out": str(out)}.items():
        words += ["-r" if isinstance(value, str) else "-p", name, str(value)]  # -r keeps text text: 0.5 would be a number
    return shlex.join(words)


def as_yaml(config: Config) -> str:
    """The settings that a run would not take by itself, as YAML that papermill's -f and a sweep take."""
    import yaml

    text = yaml.safe_dump(stated_settings(config), sort_keys=False)
    return text if text.strip() != "{}" else "# all settings have their defaults\n"
