"""Set up a run, start it in a process of its own, and steer it through its folder.

Controls are beside a dashboard. A network or recipe defined in the notebook is trained in a thread of its kernel
instead. The workbench can also show and steer runs that were started elsewhere.
"""

from __future__ import annotations

import copy
import html
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ipywidgets as W
from torch import nn

from faal_lab.catalogue import OBJECTIVES
from faal_lab.errors import ConfigError, RunFolderError, UnknownName
from faal_lab.methods.recipe import Recipe
from faal_lab.runs import ENDED, RunFolder, free_name
from faal_lab.runs.config import DIALS, Config
from faal_lab.runs.control import Dials, reads_tau, weighs
from faal_lab.training.background import LiveRun
from faal_lab.training.run import OWN_PARTS, own_parts, part_names
from faal_lab.widgets.dashboard import GONE, Dashboard
from faal_lab.widgets.setup import SCRATCH, Setup, check_files, error_text, page_words, put
from faal_lab.widgets.stream import Pane
from faal_lab.widgets.strip import Strip

_HANDLED = (UnknownName, ConfigError, RunFolderError, OSError, ValueError)
_BUTTONS = {
    "start": ("Start", "Start a new run"),
    "pause": ("Pause", "Stand still, or go on"),
    "step": ("Step", "One batch, then stand still"),
    "epoch": ("Epoch", "On to the end of the epoch, then stand still"),
    "stop": ("Stop", "End the run; its state is saved and can be resumed"),
}
_NOTHING = "(none)"
_PACES = {"as fast as it goes": 0.0, "10 batches a second": 10.0, "2 batches a second": 2.0}


class Workbench(Pane):
    """Choose data, model, method and settings in a panel, and start and steer runs.

    Buttons: Start, Pause, Resume, Step, Epoch, Stop. Live dials: speed, tau, epsilon, learning rate, and fairness on or off.

    A run that is active in `runs` is shown at once, so a restart of the kernel loses nothing. With an object of your own, each
    Start trains a copy in a thread that ends with the kernel; its last checkpoint can be resumed.

    Args:
        runs: folder for new runs ("runs" by default).
        recorded: folder with more runs to show ("recorded" by default).
        model: a network by its name, or an object that takes pixels in [0, 1] and returns logits.
        recipe: a Recipe of your own parts; choose named recipes on the page.
        settings: first values of the controls, any setting of Config. objective, fairness, ambiguity and attack also take
            objects.

    Raises:
        ConfigError, UnknownName: for a setting that makes no sense, or another kind of object.

    >>> from faal_lab.widgets import Workbench
    >>> bench = Workbench(data="digits", fairness="faal", tau=0.5)
    >>> bench.config().tau
    0.5
    >>> bench.close()
    """

    def __init__(
        self,
        runs: str | Path = "runs",
        recorded: str | Path = "recorded",
        *,
        model: str | nn.Module | None = None,
        recipe: Recipe | None = None,
        **settings: Any,
    ) -> None:
        self.runs, self._recorded = Path(runs), Path(recorded)
        if isinstance(model, str):
            settings["model"], model = model, None
        for name, given, kind in (("model", model, nn.Module), ("recipe", recipe, Recipe)):
            if not isinstance(given, kind | None):
                raise ConfigError(f"{name} must be a {kind.__name__}, got {given!r}. Named ones are chosen on the page.")
        self._parts = {part: settings[part] for part in OWN_PARTS if not isinstance(settings.get(part, ""), str)}
        if recipe and self._parts:
            raise ConfigError(f"recipe holds a method already: leave out {', '.join(self._parts)}, or recipe.")
        settings |= part_names(self._parts)
        self._model, self._recipe = model, recipe
        self.run: LiveRun | None = None
        self._shown: tuple[bool, str] | None = None
        self._judged = False  # the message is an error of the settings
        self._dials: tuple[Dials | None, dict[str, float]] = None, {}  # of the run that the controls follow
        self._filling = threading.local()  # in a thread that sets dials: those are no turns
        self.message = W.HTML().add_class("faal-message")
        self.buttons = {
            name: W.Button(description=label, tooltip=tip, layout=W.Layout(width="6rem")).add_class(f"faal-{name}")
            for name, (label, tip) in _BUTTONS.items()
        }
        self.buttons["start"].button_style = "primary"
        self.setup = Setup(settings, self._bases(), self._judge, own_parts(model, recipe, self._parts))
        self.settings = self.setup.controls
        self.fairness_on = W.Checkbox(
            True, description="fairness on", indent=False, tooltip="Let the fairness method act, or train without it",
            layout=W.Layout(width="8rem"), disabled=True,
        ).add_class("faal-fairness-on")  # fmt: skip
        self.pace = W.Dropdown(options=list(_PACES.items()), description="speed", tooltip="How fast this page lets its run go")
        self.pace.add_class("faal-pace")
        self._paced: tuple[LiveRun | None, float] = None, 0.0  # what the run was told
        self.opened = W.Dropdown(
            options=self._folders(), description="look at", tooltip="Any run of this folder, also one started elsewhere"
        ).add_class("faal-opened")
        self.dashboard = Dashboard(on_look=self._look)  # after the controls: its thread calls back at once
        self._connect()
        self._enable()
        wrap = W.Layout(flex_flow="row wrap")
        acts = W.HBox([*self.buttons.values(), self.pace, self.fairness_on, self.opened], layout=wrap)
        self.strip = Strip(lambda: self.run.folder.path if self.run else None, lambda: self.dashboard.view.followed, self._shape)
        super().__init__([self.setup, acts, self.setup.dials, self.message, self.dashboard, self.strip])
        self._take_up()

    def close(self) -> None:
        """Remove the widgets and end the dashboard's thread. Runs continue."""
        if hasattr(self, "dashboard"):  # a widget that could not be made is closed when it is collected, too
            self.dashboard.close()
        super().close()

    def _connect(self) -> None:
        for name in _BUTTONS:
            act = getattr(self, name)
            self.buttons[name].on_click(lambda _, act=act: self._safely(act))
        for dial in DIALS:
            widget = self.fairness_on if dial == "fairness_on" else self.settings[dial]
            widget.observe(lambda change, dial=dial: self._turned(dial, float(change["new"])), "value")
        self.opened.observe(lambda change: self._safely(lambda: self.look_at(change["new"])), "value")

    def _turned(self, dial: str, value: float) -> None:
        def turn() -> None:
            try:
                self.turn(dial, value)
            except _HANDLED:
                self._dials = None, {}  # show the run's value again
                raise

        if not getattr(self._filling, "on", False):
            self._safely(turn)

    def _bases(self) -> list[str]:
        return [SCRATCH, *map(str, sorted(p.parent for p in self.runs.glob("**/last.safetensors")))]

    def _folders(self) -> list[str]:
        found = [p.parent for root in (self.runs, self._recorded) for p in sorted(root.glob("**/metrics.jsonl"))]
        return [_NOTHING, *map(str, found)]

    def _take_up(self) -> None:
        """Show the active run in `runs`; of several, the one started last."""
        going = []
        for beat in self.runs.glob("**/heartbeat.json"):
            with suppress(RunFolderError):  # of a newer faal_lab: opening it shows the error
                going += [beat] if LiveRun(beat.parent).running() else []
        if going:
            newest = max(going, key=lambda p: (p.parent / "config.json").stat().st_mtime)
            self.opened.value = str(newest.parent)

    def config(self) -> Config:
        """Return the settings on the controls.

        Returns:
            All settings of the next run.

        Raises:
            ConfigError, UnknownName: a control has an invalid value.
        """
        return self.setup.config()

    def _active(self) -> bool:
        return self.run is not None and self.run.running() and self.dashboard.status not in (*ENDED, GONE)

    def _judge(self, error: str) -> None:
        """Show an error of the settings before Start, and disable Start."""
        if error or self._judged:
            self.message.value, self._judged = error_text(error) if error else "", bool(error)
        self.buttons["start"].disabled = bool(error) or (self._shown is not None and self._shown[0])
        if hasattr(self, "dashboard"):  # else the controls are still being made
            self._grey(self._active())

    def _safely(self, act: Callable[[], None]) -> None:
        """Call a handler and show its error below the buttons. Jupyter shows it nowhere."""
        try:
            act()
        except _HANDLED as error:
            self.message.value, self._judged = error_text(str(error)), False

    def start(self) -> None:
        """Start a run with the settings on the controls, unless one is active."""
        if self._active():
            return
        config, own = self.config(), own_parts(self._model, self._recipe, self._parts)
        check_files(config)
        stem = "-".join([config.data, *(["own", *own] if own else [config.objective, config.fairness])])
        self._follow(self._launch(config, free_name(self.runs, stem), bool(own)))
        self.settings["base"].options = self._bases()

    def _launch(self, config: Config, out: Path, own: bool, resume: bool = False) -> LiveRun:
        """Launch a run in a process, or in a thread with copies of the notebook's objects (`own`)."""
        if not own:
            return LiveRun.start(config, out, resume=resume)
        model, recipe, parts = copy.deepcopy((self._model, self._recipe, self._parts))
        return LiveRun.in_thread(config, out, model=model, recipe=recipe, parts=parts, resume=resume)

    def _shape(self) -> nn.Module | None:
        """Return a copy of the notebook's network if the shown run trained one, else None."""
        return copy.deepcopy(self._model) if self.run is not None and "model" in self.run.folder.own() else None

    def look_at(self, path: str) -> None:
        """Show a run of any origin: steer it while it is active, replay it afterwards.

        Args:
            path: the run folder.
        """
        if path != _NOTHING and (self.run is None or path != str(self.run.folder.path)):
            run = LiveRun.attach(path)
            self._paced = run, float(self.pace.value or 0)  # it keeps its own speed until another one is chosen
            self._follow(run)
            if self.run is not None and not self.run.running():
                self.message.value += ". The dials show its values; a new run starts with them."

    def _follow(self, run: LiveRun) -> None:
        path = str(run.folder.path)
        self.message.value = f"Run folder: {html.escape(path)}"  # before the run: its error may come at once
        self.dashboard.follow(path)
        self.run, self._shown = run, None
        if self.opened.value != path:
            self.opened.options = list(dict.fromkeys([*self._folders(), path]))
            self.opened.value = path

    def pause(self) -> None:
        """Pause the run, or resume it if it is paused, stopped or lost."""
        if self.run is None:
            return
        if not self._active():
            folder, given = RunFolder.open(self.run.folder.path), own_parts(self._model, self._recipe, self._parts)
            own = folder.own().keys() == given.keys() != set()  # else a process of its own reports the missing part
            self._follow(self._launch(folder.config(), folder.path, own, resume=True))
        else:
            (self.run.resume if self.dashboard.status == "paused" else self.run.pause)()

    def step(self) -> None:
        """Train one batch, then pause."""
        if self.run is not None:
            self.run.step()

    def epoch(self) -> None:
        """Train to the end of the epoch, then pause."""
        if self.run is not None:
            self.run.epoch()

    def stop(self) -> None:
        """End the run. Its state is saved, and can be resumed."""
        if self.run is not None:
            self.run.stop()

    def turn(self, dial: str, value: float) -> None:
        """Turn a dial of the active run.

        Without one, the dial is just a setting of the next run.

        Args:
            dial: tau, epsilon, learning_rate or fairness_on.
            value: the new value; 0 or 1 for fairness_on.
        """
        if self.run is not None and self._active():
            self.run.turn(dial, value)

    def _drop(self, run: LiveRun) -> None:
        """Show no run, and remove the folder, if a run ended before it began."""
        if run.folder.config_file.exists() or not run.folder.path.exists():
            return
        self.run, self._shown = None, None
        (run.folder.path / "log.txt").unlink(missing_ok=True)
        with suppress(OSError):  # the folder holds something else
            run.folder.path.rmdir()
        self.dashboard.leave()
        self.opened.options = self._folders()

    @contextmanager
    def _no_turns(self) -> Iterator[None]:
        self._filling.on = True
        try:
            yield
        finally:
            self._filling.on = False

    def _grey(self, active: bool) -> None:
        """Disable the dials that do nothing: in the active run, else in the next one."""
        try:
            if active and self.run is not None:
                config, own = self.run.folder.config(), set(self.run.folder.own())
            else:
                config, own = self.config(), set(own_parts(self._model, self._recipe, self._parts))
        except RunFolderError:  # a process that has just started has not written its settings yet
            self._shown = None  # look again
            return
        except (UnknownName, ConfigError):
            return  # the message says it
        attacked = OBJECTIVES[config.objective].attacked or bool(own & {"objective", "recipe"})
        self.settings["tau"].disabled = not reads_tau(config, own)
        self.settings["epsilon"].disabled = active and not attacked
        self.fairness_on.disabled = not active or config.fairness == "none"
        if not active or not weighs(config, own):
            with self._no_turns():
                self.fairness_on.value = weighs(config, own)

    def _follow_dials(self) -> None:
        """Show the dials of the run that is shown, whoever turned them. A dial that the run left alone is left alone."""
        dials = self.dashboard.dials
        before, wanted = self._dials[1] if self._dials[0] is dials else {}, dials.wanted
        if wanted == before:
            return
        self._dials = dials, wanted
        with self._no_turns():
            for dial in (dial for dial in wanted if wanted[dial] != before.get(dial)):
                if dial != "fairness_on":
                    put(self.settings[dial], wanted[dial])
                elif not self.fairness_on.disabled:
                    self.fairness_on.value = bool(wanted[dial])

    def _look(self) -> None:
        """Update the controls if the run's state or dials changed."""
        self._enable()
        self._follow_dials()
        self._set_pace()

    def _set_pace(self) -> None:
        """Tell the run the speed once it has begun, and when another one is chosen."""
        told, wanted = self._paced[1] if self._paced[0] is self.run else 0.0, float(self.pace.value or 0)
        if self.run is not None and wanted != told and self._active() and self.dashboard.dials.wanted:
            self.run.pace(wanted)
            self._paced = self.run, wanted

    def _enable(self) -> None:
        active, status = self._active(), self.dashboard.status
        if (active, status) == self._shown:
            return
        if active and not (self._shown and self._shown[0]):
            self.setup.folded.selected_index = None  # settings are fixed during a run: make room for the panels
        self._shown = (active, status)
        if self.run is not None and not active and self.run.error():
            self.message.value, self._judged = error_text(page_words(self.run.error(), self.settings)), False
            self._drop(self.run)
        for name, widget in self.settings.items():
            widget.disabled = active and name not in DIALS
        for widget in self.setup.presets.values():
            widget.disabled = active
        self.buttons["start"].disabled = active
        for name in ("step", "epoch", "stop"):
            self.buttons[name].disabled = not active
        self._grey(active)
        resumable = self.run is not None and not active and status in ("stopped", "lost")
        self.buttons["pause"].disabled = not active and not resumable
        self.buttons["pause"].description = "Resume" if resumable or (active and status == "paused") else "Pause"
