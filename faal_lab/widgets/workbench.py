"""Controls beside a dashboard: set up a run, start it in a process of its own, steer it through its folder."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ipywidgets as W

from faal_lab.config import DIALS, ConfigError, RunConfig, field_docs
from faal_lab.data import LOADERS
from faal_lab.live import LiveRun
from faal_lab.models import MODELS
from faal_lab.names import UnknownName
from faal_lab.parameters import based_on
from faal_lab.recipe import parts
from faal_lab.runs import RunFolderError, free_name
from faal_lab.widgets.dashboard import ENDED, Dashboard

_SCRATCH = "(random weights)"
_HANDLED = (UnknownName, ConfigError, RunFolderError, OSError, ValueError)
_BUTTONS = {
    "start": ("Start", "Start a new run in a process of its own"),
    "pause": ("Pause", "Stand still, or go on"),
    "step": ("Step", "One batch, then stand still"),
    "stop": ("Stop", "End the run; its state is saved and can be resumed"),
}


def _error(text: str) -> str:
    style = "color:var(--jp-error-color1,#b00020);white-space:pre-wrap;margin:0"
    return f"<pre style='{style}'>{html.escape(text)}</pre>"


def _controls(config: RunConfig, bases: list[str]) -> dict[str, Any]:
    """One widget a setting, with its docstring as tooltip; tests and styles find it by its class."""
    live: dict[str, Any] = {"continuous_update": False, "readout_format": ".3f"}
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "data": (W.Dropdown, {"options": list(LOADERS)}),
        "data_dir": (W.Text, {"placeholder": "where the images lie"}),
        "model": (W.Dropdown, {"options": list(dict.fromkeys([*MODELS, config.model]))}),
        "base": (W.Combobox, {"options": bases}),
        **{setting: (W.Dropdown, {"options": list(rows)}) for setting, rows in parts().items()},
        "awp_gamma": (W.BoundedFloatText, {"min": 0, "max": 1, "step": 0.005}),
        "tau": (W.FloatSlider, {"min": 0, "max": max(2, config.tau), "step": 0.05, **live}),
        "epsilon": (W.FloatSlider, {"min": 0, "max": max(0.3, config.epsilon), "step": 0.005, **live}),
        "learning_rate": (W.BoundedFloatText, {"min": 1e-6, "max": 10, "step": 0.001}),
        "epochs": (W.BoundedIntText, {"min": 1, "max": 100_000}),
        "batch_size": (W.BoundedIntText, {"min": 1, "max": 100_000}),
        "seed": (W.BoundedIntText, {"min": 0, "max": 2**31 - 1}),
    }
    made = {}
    for name, (kind, options) in kinds.items():
        value = getattr(config, name) or (_SCRATCH if name == "base" else getattr(config, name))
        layout, style = W.Layout(width="20rem"), {"description_width": "7rem"}
        label = name.replace("_", " ")
        made[name] = kind(value=value, description=label, tooltip=field_docs()[name], layout=layout, style=style, **options)
        made[name].add_class(f"faal-{name.replace('_', '-')}")
    return made


class Workbench(W.VBox):
    """Pick data, model, method and settings; Start, Pause, Resume, Step, Stop; turn tau, epsilon and learning rate live.

    `runs` is the folder new runs go to. Settings given by name (any of RunConfig) are the controls' first values.
    """

    def __init__(self, runs: str | Path = "runs", **settings: Any) -> None:
        self.runs = Path(runs)
        self.run: LiveRun | None = None
        self._given = settings
        self._shown: tuple[bool, str] | None = None
        self.settings = _controls(RunConfig.from_mapping(settings), self._bases())
        self.buttons = {
            name: W.Button(description=label, tooltip=tip, layout=W.Layout(width="6rem")).add_class(f"faal-{name}")
            for name, (label, tip) in _BUTTONS.items()
        }
        self.buttons["start"].button_style = "primary"
        self.message = W.HTML().add_class("faal-message")
        self.dashboard = Dashboard(on_look=self._enable)  # its thread calls back at once: the controls must be there
        self._connect()
        self._enable()
        wrap = W.Layout(flex_flow="row wrap")
        top = W.HBox(list(self.settings.values()), layout=wrap)
        super().__init__([top, W.HBox(list(self.buttons.values()), layout=wrap), self.message, self.dashboard])

    def _connect(self) -> None:
        for name in _BUTTONS:
            act = getattr(self, name)
            self.buttons[name].on_click(lambda _, act=act: self._safely(act))
        for dial in DIALS:
            widget = self.settings[dial]
            widget.observe(lambda change, dial=dial: self._safely(lambda: self.turn(dial, change["new"])), "value")

    def _bases(self) -> list[str]:
        return [_SCRATCH, *map(str, sorted(p.parent for p in self.runs.glob("**/last.safetensors")))]

    def config(self) -> RunConfig:
        """The settings as the controls stand; raises ConfigError or UnknownName."""
        stated = {**self._given, **{name: widget.value for name, widget in self.settings.items()}}
        stated["base"] = "" if stated["base"] == _SCRATCH else stated["base"]
        return based_on(stated["base"], stated)

    def _active(self) -> bool:
        return self.run is not None and self.run.running() and self.dashboard.status not in ENDED

    def _safely(self, act: Callable[[], None]) -> None:
        """An error in a handler would be shown nowhere: say it under the buttons."""
        try:
            act()
        except _HANDLED as error:
            self.message.value = _error(str(error))

    def start(self) -> None:
        """Start a run with the settings as they stand; nothing happens while one is active."""
        if self._active():
            return
        config = self.config()
        self.run = LiveRun.start(config, free_name(self.runs, f"{config.data}-{config.objective}-{config.fairness}"))
        self.settings["base"].options = self._bases()
        self.message.value = f"Run folder: {html.escape(str(self.run.folder.path))}"
        self.dashboard.follow(self.run.folder.path)

    def pause(self) -> None:
        """Pause, or resume when paused."""
        if self.run is not None:
            (self.run.resume if self.dashboard.status == "paused" else self.run.pause)()

    def step(self) -> None:
        """Make one step and stand still."""
        if self.run is not None:
            self.run.step()

    def stop(self) -> None:
        """Stop; the state is saved."""
        if self.run is not None:
            self.run.stop()

    def turn(self, dial: str, value: float) -> None:
        """Turn a dial of the active run; before Start it is just a setting."""
        if self.run is not None and self._active():
            self.run.turn(dial, value)

    def _enable(self) -> None:
        """Let the controls follow the run's state; costs nothing while that stands still."""
        active, status = self._active(), self.dashboard.status
        if (active, status) == self._shown:
            return
        self._shown = (active, status)
        if self.run is not None and not active and self.run.error():
            self.message.value = _error(self.run.error())
        for name, widget in self.settings.items():
            widget.disabled = active and name not in DIALS
        self.buttons["start"].disabled = active
        for name in ("pause", "step", "stop"):
            self.buttons[name].disabled = not active
        self.buttons["pause"].description = "Resume" if active and status == "paused" else "Pause"
