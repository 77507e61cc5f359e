"""Build the controls of a run's settings, from the library's own lists and the help of each setting."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import ipywidgets as W

from faal_lab.catalogue import AMBIGUITY_SETS, DATA_SETS, MODELS, parts
from faal_lab.dro.radius import stated
from faal_lab.errors import ConfigError, UnknownName
from faal_lab.methods.presets import PRESETS, PROTOCOLS, preset_settings
from faal_lab.runs.config import DIALS, Config, settings
from faal_lab.runs.control import reads_tau
from faal_lab.training.parameters import as_yaml, based_on, papermill_command, run_command

SCRATCH = "(random weights)"
_OWN = "(as set below)"
_STEPS = {"tau": 0.05, "epsilon": 0.005}  # of the sliders
_LIVE: dict[str, Any] = {"continuous_update": False, "readout_format": ".3f"}
_GROUPS = {
    "Data and network": ("data", "data_dir", "download", "model", "base"),
    "Method": ("objective", "fairness", "ambiguity", "averaging", "awp_gamma"),
    "Attack and training": ("attack_steps", "epochs", "batch_size", "seed"),
}
_WIDE, _NARROW = "18rem", "14.5rem"  # of a dial and a setting: four fit side by side on a page of 1440 pixels


def error_text(text: str) -> str:
    """Return an error as HTML for a panel."""
    style = "color:var(--jp-error-color1,#b00020);white-space:pre-wrap;margin:0"
    return f"<pre style='{style}'>{html.escape(text)}</pre>"


# Settings without a control if the notebook gives an object for the part.
_REPLACED = {
    **{part: (part,) for part in ("model", "objective", "fairness", "ambiguity")},
    "recipe": ("objective", "fairness", "ambiguity", "averaging", "awp_gamma"),
}


def _label(name: str) -> dict[str, Any]:
    """Return the layout of a control: description beside it, dials wider than settings."""
    layout = W.Layout(width=_WIDE if name in DIALS else _NARROW)
    return {"description": name.replace("_", " "), "layout": layout, "style": {"description_width": "6rem"}}


def _controls(config: Config, bases: list[str]) -> dict[str, Any]:
    """Return one widget per setting. Tests and styles find it by its CSS class."""
    whole: dict[str, Any] = {"min": 1, "max": 100_000}
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "data": (W.Dropdown, {"options": list(DATA_SETS)}),
        "data_dir": (W.Text, {"placeholder": "where the images lie"}),
        "download": (W.Checkbox, {"indent": False}),
        "model": (W.Combobox, {"options": list(dict.fromkeys([*MODELS, config.model]))}),
        "base": (W.Combobox, {"options": bases}),
        **{
            setting: (W.Dropdown, {"options": list(dict.fromkeys([*rows, getattr(config, setting)]))})
            for setting, rows in parts().items()
        },
        "awp_gamma": (W.BoundedFloatText, {"min": 0, "max": 1, "step": 0.005}),
        "tau": (W.FloatSlider, {"min": 0, "max": max(2, config.tau), "step": _STEPS["tau"], **_LIVE}),
        "epsilon": (W.FloatSlider, {"min": 0, "max": max(0.3, config.epsilon), "step": _STEPS["epsilon"], **_LIVE}),
        "attack_steps": (W.BoundedIntText, {"min": 0, "max": 1000}),
        "learning_rate": (W.BoundedFloatText, {"min": 1e-6, "max": 10, "step": 0.001}),
        "epochs": (W.BoundedIntText, whole),
        "batch_size": (W.BoundedIntText, whole),
        "seed": (W.BoundedIntText, {"min": 0, "max": 2**31 - 1}),
    }
    made = {}
    for name, (kind, options) in kinds.items():
        value = getattr(config, name) or (SCRATCH if name == "base" else getattr(config, name))
        made[name] = kind(value=value, tooltip=settings()[name].about, **_label(name), **options)
        made[name].add_class(f"faal-{name.replace('_', '-')}")
    made["download"].layout = W.Layout(width="7rem", margin="2px 2px 2px 1.5rem")
    return made


def check_files(config: Config) -> None:
    """Look for the files that a run begins with. Raises ConfigError, which names the control of the page to change."""
    from faal_lab.data.torchvision import SOURCES, folder_of

    if config.base and not Path(config.base).expanduser().exists():
        raise ConfigError(f"base: {config.base} does not exist. Choose a run that has a checkpoint, or {SCRATCH}.")
    data, root = config.data, Path(config.data_dir).expanduser()
    if data in ("folder", "csv", "npz"):
        wanted = {"folder": "a folder with one sub-folder of images for each class"}.get(data, f"a .{data} file")
        if not config.data_dir or not root.exists():
            got = f"{config.data_dir} does not exist" if config.data_dir else "it is empty"
            raise ConfigError(f"data dir must be {wanted} for data {data}: {got}.")
    elif data in SOURCES and not config.download:
        root = folder_of(config.data_dir)
        if not any((root / file).exists() for file in SOURCES[data].unpacked):
            raise ConfigError(
                f"data: {data} is not in {root.resolve()}. Set data dir to its folder, or tick download to fetch it."
            )


def page_words(text: str, controls: Iterable[str]) -> str:
    """Return an error with the page's controls in place of the command's options.

    >>> page_words("Fetch it with --download (download=True). See --out.", ["download"])
    'Fetch it with the control "download". See --out.'
    """
    names = "|".join(name.replace("_", "-") for name in controls)
    return re.sub(rf"--({names})(?![\w-])( \(\w+=\w+\))?", lambda m: f'the control "{m[1].replace("-", " ")}"', text)


def put(widget: Any, value: Any) -> None:
    """Set a control; a slider gets a range and a step that hold the value exactly."""
    with widget.hold_sync():
        if isinstance(widget, W.FloatSlider):
            widget.max = max(float(widget.max or 0), value)
            # the page moved a value between two steps of a slider, but a run needs exactly this one: change the step
            step = _STEPS[widget.description]
            widget.step = step if math.isclose(round(value / step) * step, value) else value / 8
        widget.value = value


class Setup(W.VBox):
    """Presets and controls, with errors, the largest multiplier, and commands that reproduce the run.

    `config()` returns the settings. `dials` is a separate row, shown beside the run, for the dials that can be turned during
    a run; the rest can be folded.

    Args:
        given: settings by name, with or without a control.
        bases: run folders that can be chosen as base.
        on_error: called after each change with the error of the settings, or "".
        own: class names, by part (model, recipe, fairness, ...), of the notebook's own objects; shown instead of a choice.
    """

    def __init__(
        self, given: dict[str, Any], bases: list[str], on_error: Callable[[str], None], own: Mapping[str, str] | None = None
    ) -> None:
        self._given, self._on_error, self._filling, self._own = dict(given), on_error, False, dict(own or {})
        replaced = {name for part in self._own for name in _REPLACED[part]}
        made = _controls(Config.from_mapping(given), bases)
        self.controls = {name: widget for name, widget in made.items() if name not in replaced}
        self.presets = {
            kind: W.Dropdown(options=[_OWN, *names], description=kind, layout=W.Layout(width=_WIDE), tooltip=tip)
            for kind, names, tip in (
                ("recipe", PRESETS, "A method by the name it has in papers"),
                ("protocol", PROTOCOLS, "How long and at which rates a paper trained"),
            )
        }
        if self._own.keys() - {"model"}:
            del self.presets["recipe"]
        for kind, widget in self.presets.items():
            widget.add_class(f"faal-{kind}").observe(lambda _: self._take_preset(), "value")
        for widget in self.controls.values():
            widget.observe(lambda _: self.look(), "value")
        self.radius = W.HTML().add_class("faal-radius-said")
        self.commands = W.HTML().add_class("faal-commands")
        wrap = W.Layout(flex_flow="row wrap")
        rows: list[W.Widget] = [W.HBox(list(self.presets.values()), layout=wrap)]
        for title, names in _GROUPS.items():
            said = [self._named(part) for part in self._own if _REPLACED[part][0] in names]
            widgets = [*said, *(self.controls[name] for name in names if name in self.controls)]
            rows.append(W.VBox([W.HTML(f"<b>{title}</b>"), W.HBox(widgets, layout=wrap)]))
        dials = [self.controls[name] for name in ("tau", "epsilon", "learning_rate")]
        self.dials = W.VBox([W.HBox(dials, layout=wrap), self.radius])
        self.folded = W.Accordion([W.VBox(rows)], titles=("Settings of the next run",))
        commands = W.Accordion([self.commands], titles=("The same without this page: command, papermill, YAML",))
        self.folded.selected_index = 0
        super().__init__([self.folded, commands])
        self.look()

    def config(self) -> Config:
        """Return the settings on the controls. Raises ConfigError or UnknownName."""
        stated_here = {**self._given, **{name: widget.value for name, widget in self.controls.items()}}
        stated_here["base"] = "" if stated_here["base"] == SCRATCH else stated_here["base"]
        return based_on(stated_here["base"], stated_here)

    def _named(self, part: str) -> W.Text:
        """Return a disabled field with the name of the notebook's own object, in place of a choice."""
        tip = "An object of this notebook. The run goes on in a thread of its kernel, and stops with it."
        return W.Text(self._own[part], disabled=True, tooltip=tip, **_label(part)).add_class(f"faal-own-{part}")

    def _take_preset(self) -> None:
        """Fill the controls from the chosen presets. Settings without a control are kept, too."""
        chosen = {kind: str(w.value) for kind, w in self.presets.items() if w.value != _OWN}
        self._filling = True
        try:
            for name, value in preset_settings(chosen.get("recipe", ""), chosen.get("protocol", "")).items():
                if name not in self.controls:
                    self._given[name] = value
                    continue
                put(self.controls[name], value)
        finally:
            self._filling = False
        self.look()

    def look(self) -> None:
        """Update errors, largest multiplier and commands from the controls."""
        if self._filling:
            return
        try:
            config = self.config()
            row = AMBIGUITY_SETS[config.ambiguity]
            ours = config.fairness == "faal" and "recipe" not in self._own and not row.label  # the page runs no code of a path
            said = stated(row.make(), config.tau, 10) if ours else ""
            idle = "" if reads_tau(config, set(self._own)) else f"tau does nothing in the next run: fairness={config.fairness}"
        except (ConfigError, UnknownName, ValueError, OSError) as error:
            self._on_error(str(error))
            return
        self._on_error("")
        self.radius.value = f"{html.escape(said)} at ten classes: c* is the most a class can count" if said else idle
        if self._own:
            objects = ", ".join(f"{part}={part}" for part in self._own)
            texts = [f"# in Python alone: this notebook has the {' and '.join(self._own)}\nfl.train(config, out=out, {objects})"]
        else:
            texts = [run_command(config, "runs/mine"), papermill_command(config, "runs/mine")]
        texts.append(as_yaml(config))
        self.commands.value = "".join(f"<pre style='white-space:pre-wrap;user-select:all'>{html.escape(t)}</pre>" for t in texts)
