"""Show images of the hardest class with adversarial versions and predictions, on request."""

from __future__ import annotations

import base64
import html
import io
import threading
from collections.abc import Callable
from pathlib import Path

import ipywidgets as W
import numpy as np
from torch import nn

from faal_lab.evaluation.probes import Hardest, hardest
from faal_lab.widgets.setup import error_text

_SIDE = 84  # pixels on the page


def _picture(pixels: np.ndarray, about: str) -> str:
    """Return an image [channels, H, W] in [0, 1] as HTML with sharp pixels."""
    from PIL import Image

    levels = (pixels * 255).round().clip(0, 255).astype(np.uint8)
    image = Image.fromarray(levels[0] if len(levels) == 1 else levels.transpose(1, 2, 0))
    file = io.BytesIO()
    image.save(file, "png")
    data = base64.b64encode(file.getvalue()).decode()
    style = f"width:{_SIDE}px;height:{_SIDE}px;image-rendering:pixelated;display:block"
    return f"<img src='data:image/png;base64,{data}' style='{style}' alt='{html.escape(about, quote=True)}'>"


def _belief(belief: np.ndarray, names: tuple[str, ...], truth: int) -> str:
    first = int(belief.argmax())
    said = f"{html.escape(names[first])} {100 * belief[first]:.0f} %"
    return said if first == truth else f"<b style='color:#D55E00'>{said}</b>"


def strip_html(found: Hardest) -> str:
    """Return one column per image: clean image, perturbation, adversarial image, and both predictions."""
    shown, names = found.examples, found.class_names
    added = shown.adversarial - shown.clean
    reach = float(np.abs(added).max()) or 1.0
    rate = "" if np.isnan(found.accuracy) else f", {100 * found.accuracy:.0f} % right under PGD on validation"
    head = (
        f"<b>Class {html.escape(found.name)}</b>{rate}. Clean; what {shown.attack} adds (grey: nothing); attacked. Bold: wrong."
    )
    columns = []
    for i in range(len(shown.indices)):
        beliefs = [_belief(b[i], names, found.index) for b in (shown.clean_belief, shown.adversarial_belief)]
        parts = [
            beliefs[0], _picture(shown.clean[i], f"{found.name}, clean"),
            _picture(0.5 + added[i] / (2 * reach), "what was added"),
            _picture(shown.adversarial[i], f"{found.name}, attacked"), beliefs[1],
        ]  # fmt: skip
        columns.append(
            f"<div style='display:grid;gap:3px;justify-items:center'>{''.join(f'<div>{p}</div>' for p in parts)}</div>"
        )
    return f"<div>{head}</div><div style='display:flex;flex-wrap:wrap;gap:8px;padding-top:6px'>{''.join(columns)}</div>"


class Strip(W.VBox):
    """A button, and below it images of the followed class, else of the hardest one.

    `folder` and `followed` return run folder and class (-1: none) when the button is pressed. `model` returns a network for the
    run's weights if the run's own has no name in the library, else None.
    """

    def __init__(
        self,
        folder: Callable[[], Path | None],
        followed: Callable[[], int],
        model: Callable[[], nn.Module | None] = lambda: None,
    ) -> None:
        self._folder, self._followed, self._model = folder, followed, model
        tip = "Validation images of the hardest class, or of the one that is followed, by the latest checkpoint"
        self.button = W.Button(description="Show images", tooltip=tip).add_class("faal-strip")
        self.shown = W.HTML().add_class("faal-strip-shown")
        self.button.on_click(lambda _: threading.Thread(target=self.look, daemon=True).start())
        super().__init__([self.button, self.shown])

    def look(self) -> None:
        """Make the pictures. On a click, this runs in a thread and takes a second or two."""
        path, followed = self._folder(), self._followed()
        if path is None:
            self.shown.value = "No run yet."
            return
        self.button.disabled = True
        try:
            self.shown.value = strip_html(hardest(path, of_class=None if followed < 0 else followed, model=self._model()))
        except Exception as error:  # an error in a thread would be shown nowhere
            self.shown.value = error_text(str(error))
        finally:
            self.button.disabled = False
