"""Set the bias of each class by hand, and see robust accuracy move: an estimate at once, the attack on request."""

from __future__ import annotations

import html
import os
import threading
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ipywidgets as W

from faal_lab.dro.balance import Round
from faal_lab.errors import FaalLabError
from faal_lab.evaluation.balance import Desk, Seen, opened
from faal_lab.results.figures import bias_bars, bias_path
from faal_lab.results.tables import balance_row
from faal_lab.widgets.setup import error_text
from faal_lab.widgets.stream import Pane

_STEP = 0.01  # of a bias on its slider
_LEAST = 2.0  # the sliders reach at least this far


def _on_step(bias: float) -> float:
    """Round a bias to a step of its slider. A browser would do so itself, and take the bias for one set by hand."""
    return round(round(bias / _STEP) * _STEP, 10)


class _Stopped(Exception):
    """Stop was pressed."""


class Balancer(Pane):
    """Set the bias of each class, and see which images stand, in a panel.

    One slider goes along the rounds of a balance, the others set the biases by hand. The images were attacked for each round; a
    bias beside them shows an estimate until "Attack again" attacks the images for exactly this one. "Keep" writes the network
    with the bias into a run folder, as `balance` does.

    A run that is not balanced plays the game first, in a thread; nothing is written.

    Args:
        run: a run with validation images, balanced or not, or a network as `balance` takes it.
        images: validation images of a class (at most).
        rounds: the most biases that the game tries.
        options: further arguments of `balance`: tau, average_floor, steps, checkpoint, epsilon, model, unseen, device.

    Raises:
        ConfigError: there are too few validation images.
        RunFolderError: there is no such run.

    >>> from faal_lab.widgets import Balancer
    >>> panel = Balancer("notebooks/recorded/control", rounds=1)
    >>> panel.wait()  # until the rounds are attacked
    >>> panel.biases[8].value = 0.5  # as a drag of the slider of class 8 does
    >>> panel.shown.exact
    False
    >>> panel.attack()
    >>> panel.shown.exact
    True
    >>> panel.keep("runs/by-hand").name
    'by-hand'
    >>> panel.draw()  # again
    >>> panel.stop()  # an attack, if one runs
    >>> panel.close()
    """

    def __init__(self, run: str | os.PathLike[str], images: int = 30, rounds: int = 6, **options: Any) -> None:
        super().__init__()  # first: a widget whose making fails is closed, too
        found = opened(run, images=images, again=True, **options)
        self.desk = Desk(found, rounds)
        self._names, self._bias = found.class_names, [0.0] * len(found.class_names)
        self._filling, self._stopping, self._lock = False, False, threading.Lock()
        self._thread: threading.Thread | None = None
        wrap = W.Layout(flex_flow="row wrap")
        wide: dict[str, Any] = {"layout": W.Layout(width="17rem"), "style": {"description_width": "5.5rem"}}
        self.round = W.IntSlider(0, 0, 0, description="round", disabled=True, readout=False, **wide).add_class("faal-round")
        self.where = W.HTML().add_class("faal-where")
        self.biases = [
            W.FloatSlider(0, min=-_LEAST, max=_LEAST, step=_STEP, description=name, tooltip=f"Bias of {name}", **wide)
            for name in self._names
        ]
        tips = {
            "attack": ("Attack again", "Attack the images for exactly this bias"),
            "stop": ("Stop", "Stop the attack; what is finished stays"),
            "keep": ("Keep", "Write the network with this bias into a run folder, attacked first"),
        }
        self.buttons = {
            name: W.Button(description=said, tooltip=tip, layout=W.Layout(width="8rem")).add_class(f"faal-{name}")
            for name, (said, tip) in tips.items()
        }
        self.out = W.Text(placeholder="a free name in runs/", description="keep in", tooltip="The new run folder", **wide)
        self.progress = W.FloatProgress(0, min=0, max=1, layout=W.Layout(width="12rem", visibility="hidden")).add_class(
            "faal-progress"
        )
        self.doing, self.problem = W.HTML().add_class("faal-doing"), W.HTML().add_class("faal-error")
        self.said = W.HTML().add_class("faal-said")
        half = W.Layout(flex="1 1 300px", min_width="0")
        self.bars, self.path = (W.HTML(layout=half).add_class(f"faal-{name}") for name in ("bars", "path"))
        for slider in self.biases:
            slider.add_class("faal-bias").observe(lambda _: self._by_hand(), "value")
        self.round.observe(lambda _: self._to_round(), "value")
        self.out.add_class("faal-out")
        work: dict[str, Callable[[], object]] = {"attack": self.attack, "keep": lambda: self.keep(self.out.value or None)}
        for name, job in work.items():
            self.buttons[name].on_click(lambda _, job=job: self._begin(job))
        self.buttons["stop"].on_click(lambda _: self.stop())
        many = W.Layout(flex_flow="row wrap", max_height="22rem", overflow="auto")
        self.children = [
            W.HBox([self.round, self.where], layout=wrap), W.HBox(self.biases, layout=many),
            W.HBox([self.buttons["attack"], self.buttons["stop"], self.progress, self.doing], layout=wrap),
            self.problem, self.said, W.HBox([self.bars, self.path], layout=wrap),
            W.HBox([self.out, self.buttons["keep"]], layout=wrap),
        ]  # fmt: skip
        self._begin(self._prepare)

    @property
    def shown(self) -> Seen:
        """Return the images that stand with the present bias.

        Returns:
            The bias with its counts, the nearest attacked one, and whether the counts are exact.
        """
        return self.desk.look(self._bias)

    def wait(self) -> None:
        """Wait for the panel's work to end: the rounds, an attack, a run folder."""
        if self._thread is not None:
            self._thread.join()

    def stop(self) -> None:
        """Stop the attack at its next step; what is finished stays."""
        self._stopping = self._thread is not None and self._thread.is_alive()

    def close(self) -> None:
        """Stop the attack and remove the widgets."""
        self.stop()
        super().close()

    def attack(self) -> None:
        """Attack the images for the present bias; on a click, in a thread."""
        self._attack(list(self._bias))

    def keep(self, out: str | os.PathLike[str] | None = None) -> Path:
        """Write the network with the present bias into a run folder.

        The images are attacked for it first.

        Args:
            out: the new run folder (default: a free name in runs/).

        Returns:
            The path of the run folder.

        Raises:
            RunFolderError: `out` holds a run.
        """
        bias = list(self._bias)
        self._attack(bias)
        path = self.desk.keep(bias, out)
        self.doing.value = f"kept: <code>{html.escape(str(path))}</code>"
        return path

    def _begin(self, job: Callable[[], object]) -> None:
        """Do a job in a thread, with the buttons for another one off."""
        if self._thread is not None and self._thread.is_alive():
            return
        self.problem.value = self.doing.value = ""
        self._thread = threading.Thread(target=self._do, args=(job,), daemon=True, name="faal-balance")
        self._thread.start()

    def _do(self, job: Callable[[], object]) -> None:
        self._busy(True)
        try:
            job()
        except _Stopped:
            self.doing.value = "stopped"
        except (FaalLabError, OSError) as error:
            self.problem.value = error_text(str(error))
        except Exception:  # an error in a thread would be shown nowhere
            self.problem.value = error_text(traceback.format_exc())
        finally:
            self._stopping = False
            self._busy(False)

    def _busy(self, busy: bool) -> None:
        for name, button in self.buttons.items():
            button.disabled = busy != (name == "stop")
        self.progress.layout.visibility = "visible" if busy else "hidden"

    def _prepare(self) -> None:
        """Attack for the rounds, and show the chosen one."""
        try:
            self._report("attacking for the rounds", self.desk.most + 1, self.desk.prepare)
        finally:
            if self.desk.game:
                self.round.disabled = False
                self._show(self.desk.game[max(0, self.desk.chosen)].bias)

    def _attack(self, bias: list[float]) -> None:
        self._report("attacking for this bias", 1, lambda tick, progress: self.desk.attack(bias, tick, progress))
        self._stops()

    def _report(self, what: str, biases: int, job: Callable[..., object]) -> None:
        """Do a job that attacks the images for so many biases, with its progress; raises _Stopped."""
        done, images = 0, len(self.desk.found.images)
        self.progress.value, self.doing.value = 0, what

        def tick() -> None:
            if self._stopping:
                raise _Stopped

        def progress(count: int) -> None:
            nonlocal done
            done += count
            self.progress.value = min(1.0, done / images / biases)

        with self._lock:
            job(tick, progress)
        self.doing.value = ""

    def _stops(self) -> None:
        """Let the slider along the rounds reach each attacked bias, and stand at the nearest."""
        self._filling = True
        try:
            self.round.max = max(1, len(self.desk.attacked) - 1)
            self.round.value = self.desk.look(self._bias).near
        finally:
            self._filling = False
        self.draw()

    def _to_round(self) -> None:
        if not self._filling:
            self._show(self.desk.attacked[min(self.round.value, len(self.desk.attacked) - 1)].bias)

    def _show(self, bias: Sequence[float]) -> None:
        """Take over a bias. The sliders show it rounded to their steps."""
        self._bias, self._filling = list(bias), True
        try:
            reach = max(_LEAST, *(abs(b) + 0.5 for b in bias))
            for slider, value in zip(self.biases, bias, strict=True):
                slider.min, slider.max = min(float(slider.min), -reach), max(float(slider.max), reach)
                slider.value = _on_step(value)
        finally:
            self._filling = False
        self._stops()

    def _by_hand(self) -> None:
        """Take over the sliders that a person moved: a rounded value is no move."""
        if self._filling:
            return
        moved = [abs(s.value - _on_step(b)) > _STEP / 2 for s, b in zip(self.biases, self._bias, strict=True)]
        if any(moved):
            values = zip(moved, self.biases, self._bias, strict=True)
            self._bias = [float(slider.value) if away else bias for away, slider, bias in values]
            if self.desk.attacked:
                self._stops()

    def draw(self) -> None:
        """Show the images that stand with the bias on the sliders."""
        seen, attacked = self.shown, self.desk.attacked
        without, here = ((held.correct, held.total) for held in (attacked[0], seen.round))
        self.bars.value = bias_bars(self._names, without, here, seen.exact)
        rows = [
            {**self._row(held), "name": self.desk.name(n), "by_hand": n >= len(self.desk.game)} for n, held in enumerate(attacked)
        ]
        self.path.value = bias_path(rows, self._row(seen.round), seen.exact)
        near = self.desk.name(seen.near)
        self.where.value = html.escape(near if seen.exact else f"by hand, nearest to {near}")
        self.said.value = f"<p style='line-height:1.4;margin:4px 0'>{self._sentence(seen, near)}</p>"

    def _sentence(self, seen: Seen, near: str) -> str:
        row = self._row(seen.round)
        average, worst = (f"{row[k]:.1f} % ({row[f'{k}_low']:.1f} to {row[f'{k}_high']:.1f})" for k in ("average", "worst"))
        steps, images = self.desk.found.config.validation_steps, row["images"]
        how = (
            f"<b>Attacked</b> for exactly this bias, {images:,} validation images under PGD-{steps}"
            if seen.exact
            else f"<b>Estimate</b>: attacked for {html.escape(near)}, {images:,} validation images under PGD-{steps}"
        )
        return f"{how}. Average {average}, worst class {html.escape(row['worst_class'])} at {worst}."

    def _row(self, held: Round) -> dict[str, Any]:
        return balance_row(held.correct, held.total, self._names)
