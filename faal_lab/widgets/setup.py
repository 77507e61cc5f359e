"""The controls that set up a run: every list is the library's own, every tooltip the setting's help."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping
from typing import Any

import ipywidgets as W

from faal_lab.catalogue import parts
from faal_lab.data.sets import LOADERS
from faal_lab.dro import AMBIGUITY_SETS
from faal_lab.dro.radius import stated
from faal_lab.errors import ConfigError, UnknownName
from faal_lab.methods.presets import PRESETS, PROTOCOLS, preset_settings
from faal_lab.models.build import MODELS
from faal_lab.runs.config import DIALS, Config, settings
from faal_lab.training.parameters import as_yaml, based_on, papermill_command, run_command

SCRATCH = "(random weights)"
_OWN = "(as set below)"
_LIVE: dict[str, Any] = {"continuous_update": False, "readout_format": ".3f"}
_GROUPS = {
    "Data and network": ("data", "data_dir", "model", "base"),
    "Method": ("objective", "fairness", "ambiguity", "averaging", "awp_gamma"),
    "Attack and training": ("attack_steps", "epochs", "batch_size", "seed"),
}
_WIDE, _NARROW = "18rem", "14.5rem"  # of a dial, and of a setting: four fit beside each other on a page of 1440 pixels


def error_text(text: str) -> str:
    """An error as it is shown in a panel."""
    style = "color:var(--jp-error-color1,#b00020);white-space:pre-wrap;margin:0"
    return f"<pre style='{style}'>{html.escape(text)}</pre>"


_REPLACED = {"model": ("model",), "recipe": ("objective", "fairness", "ambiguity", "averaging", "awp_gamma")}  # by objects


def _label(name: str) -> dict[str, Any]:
    """How a control looks: its description beside it, dials wider than settings."""
    layout = W.Layout(width=_WIDE if name in DIALS else _NARROW)
    return {"description": name.replace("_", " "), "layout": layout, "style": {"description_width": "6rem"}}


def _controls(config: Config, bases: list[str]) -> dict[str, Any]:
    """One widget a setting; tests and styles find it by its class."""
    whole: dict[str, Any] = {"min": 1, "max": 100_000}
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "data": (W.Dropdown, {"options": list(LOADERS)}),
        "data_dir": (W.Text, {"placeholder": "where the images lie"}),
        "model": (W.Combobox, {"options": list(dict.fromkeys([*MODELS, config.model]))}),
        "base": (W.Combobox, {"options": bases}),
        **{setting: (W.Dropdown, {"options": list(rows)}) for setting, rows in parts().items()},
        "awp_gamma": (W.BoundedFloatText, {"min": 0, "max": 1, "step": 0.005}),
        "tau": (W.FloatSlider, {"min": 0, "max": max(2, config.tau), "step": 0.05, **_LIVE}),
        "epsilon": (W.FloatSlider, {"min": 0, "max": max(0.3, config.epsilon), "step": 0.005, **_LIVE}),
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
    return made


class Setup(W.VBox):
    """Presets, controls in groups, and what they come to: errors, the largest multiplier, commands that reproduce it.

    `dials` is a row of its own, for what can be turned during a run, to be shown beside the run; the rest can be folded.
    `config()` is the outcome. `given` are settings by name, also those that have no control; `on_error` hears what does not
    go together as soon as it is set, "" when all is well. `own` names parts (model, recipe) that are objects of the notebook:
    the name stands where there would be a choice.
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
        if "recipe" in self._own:
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
        self.folded = W.Accordion([W.VBox(rows)], titles=("Settings",))
        commands = W.Accordion([self.commands], titles=("The same without this page: command, papermill, YAML",))
        self.folded.selected_index = 0
        super().__init__([self.folded, commands])
        self.look()

    def config(self) -> Config:
        """The settings as they stand; raises ConfigError or UnknownName."""
        stated_here = {**self._given, **{name: widget.value for name, widget in self.controls.items()}}
        stated_here["base"] = "" if stated_here["base"] == SCRATCH else stated_here["base"]
        return based_on(stated_here["base"], stated_here)

    def _named(self, part: str) -> W.Text:
        """A part of the notebook's own, where the choice would stand."""
        tip = "An object of this notebook. The run goes on in a thread of its kernel, and stops with it."
        return W.Text(self._own[part], disabled=True, tooltip=tip, **_label(part)).add_class(f"faal-own-{part}")

    def _take_preset(self) -> None:
        """Fill the controls with what the chosen names stand for; what has no control is kept beside them."""
        chosen = {kind: str(w.value) for kind, w in self.presets.items() if w.value != _OWN}
        self._filling = True
        try:
            for name, value in preset_settings(chosen.get("recipe", ""), chosen.get("protocol", "")).items():
                if name not in self.controls:
                    self._given[name] = value
                    continue
                widget = self.controls[name]
                if isinstance(widget, W.FloatSlider):
                    widget.max = max(float(widget.max or 0), value)
                    # the page would move a value between two steps of a slider, and a run must have just what was named
                    on_a_step = math.isclose(round(value / widget.step) * widget.step, value)
                    widget.step = widget.step if on_a_step else value / 8
                widget.value = value
        finally:
            self._filling = False
        self.look()

    def look(self) -> None:
        """Say what the controls come to."""
        if self._filling:
            return
        try:
            config = self.config()
            kind = AMBIGUITY_SETS[config.ambiguity]()
            said = stated(kind, config.tau, 10) if config.fairness == "faal" and "recipe" not in self._own else ""
        except (ConfigError, UnknownName, ValueError, OSError) as error:
            self._on_error(str(error))
            return
        self._on_error("")
        self.radius.value = f"{html.escape(said)} at ten classes: c* is the most a class can count" if said else ""
        if self._own:
            objects = ", ".join(f"{part}={part}" for part in self._own)
            texts = [f"# in Python alone: this notebook has the {' and '.join(self._own)}\nrun(config, out, {objects})"]
        else:
            texts = [run_command(config, "runs/mine"), papermill_command(config, "runs/mine")]
        texts.append(as_yaml(config))
        self.commands.value = "".join(f"<pre style='white-space:pre-wrap;user-select:all'>{html.escape(t)}</pre>" for t in texts)
