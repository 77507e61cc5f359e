"""Draw every ambiguity set for three classes: python docs/sets/draw.py

One SVG a set, in this folder. Each shows the triangle of class distributions, the set at three radii around the uniform
distribution, and the worst case of the same scores at each radius. Ink is grey and fills are transparent, so that a picture
fits light and dark pages. Coordinates have one decimal, in pixels.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from faal_lab.dro import AMBIGUITY_SETS, Floored, Simplex
from faal_lab.results.figures import INK
from faal_lab.results.teaching import CORNERS, arrow, region

HERE = Path(__file__).resolve().parent
SCORES = (-0.5, 0.1, 0.9)  # of the classes easy, middle and hard
RADII: dict[str, tuple[float, ...]] = {
    "kl": (0.05, 0.2, 0.5),
    "reverse-kl": (0.05, 0.2, 0.5),
    "chi-square": (0.1, 0.4, 1.0),
    "total-variation": (0.1, 0.2, 0.4),
    "hellinger": (0.02, 0.08, 0.2),
    "cvar": (0.8, 0.6, 0.4),
    "wasserstein": (0.1, 0.3, 0.6),
    "simplex": (0.0,),
    "point": (0.0,),
    "kl-penalty": (2.0, 1.0, 0.5),
    "reverse-kl-penalty": (2.0, 1.0, 0.5),
    "floored": (0.0,),
}
_WORDS = {"cvar": "alpha", "wasserstein": "r", "kl-penalty": "price", "reverse-kl-penalty": "price", "total-variation": "delta"}
_WORDS |= {"chi-square": "rho", "hellinger": "rho"}
_LINE = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.0, 1.0], [2.0, 1.0, 0.0]])  # classes in a row: neighbours cost 1
_BLUE, _ORANGE = "#0072B2", "#D55E00"
_WIDTH, _HEIGHT, _SIDE, _LEFT, _BASE = 360, 320, 260.0, 50.0, 262.0


def ambiguity(name: str, radius: float) -> Any:
    """Make the set of a picture; the Wasserstein ball has three classes in a row."""
    if name == "floored":
        return Floored(Simplex(), share=0.5)
    kind = AMBIGUITY_SETS[name]
    if name in ("simplex", "point"):
        return kind()
    return kind(radius, cost=_LINE) if name == "wasserstein" else kind(radius)


def outline(name: str, radius: float) -> np.ndarray:
    """Compute the outline of a set, [n, 2] in the plane of CORNERS.

    A penalty has no set: its outline holds the answers for scores of every direction that are as long as SCORES.
    """
    if not name.endswith("-penalty"):
        return region(ambiguity(name, radius))
    length = float(np.linalg.norm(np.array(SCORES) - np.mean(SCORES)))
    return region(ambiguity(name, radius * math.sqrt(0.5) / length))  # the scores of `region` have a length of sqrt(1/2)


def pixels(points: np.ndarray) -> np.ndarray:
    """Convert points [n, 2] in the plane of CORNERS to pixels."""
    return np.stack([_LEFT + _SIDE * points[:, 0], _BASE - _SIDE * points[:, 1]], -1)


def path(points: np.ndarray) -> str:
    """Write a closed outline [n, 2] as the data of an SVG path, without repeated points."""
    said = [f"{x:.1f} {y:.1f}" for x, y in pixels(points)]
    kept = [text for number, text in enumerate(said) if number == 0 or text != said[number - 1]]
    return "M" + "L".join(kept[:-1] if len(kept) > 1 and kept[0] == kept[-1] else kept) + "Z"


def picture(name: str) -> str:
    """Return the SVG of one set."""
    corners, (tail, tip) = pixels(CORNERS), pixels(arrow(SCORES))
    shapes, worst = [], []
    for radius in reversed(RADII[name]):  # the largest first, below the others
        chosen = ambiguity(name, radius)
        look = f'fill="{_BLUE}" fill-opacity="0.16" stroke="{_BLUE}" stroke-width="1.5" stroke-linejoin="round"'
        shapes.append(f'<path d="{path(outline(name, radius))}" {look}/>')
        weights = chosen.worst_case(torch.tensor(SCORES, dtype=torch.float64)).weights.numpy()
        ((x, y),) = pixels((weights @ CORNERS)[None])
        worst.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{_ORANGE}"/>')
    labels = [(*corners[0], 18, "all on easy"), (*corners[1], 18, "all on middle"), (*corners[2], -10, "all on hard")]
    words = [f'<text x="{x:.1f}" y="{y + down:.1f}" text-anchor="middle">{said}</text>' for x, y, down, said in labels]
    if len(RADII[name]) > 1:
        radii = ", ".join(f"{radius:g}" for radius in RADII[name])
        said = f"{_WORDS.get(name, 'tau')} {radii}, from inside"
        words.append(f'<text x="{_WIDTH / 2:.0f}" y="{_HEIGHT - 12}" text-anchor="middle">{said}</text>')
    triangle = "L".join(f"{x:.1f} {y:.1f}" for x, y in corners)
    head = '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}">',
        f"<title>{name}: the set on the simplex of three classes, and the worst case of the scores {SCORES}</title>",
        f'<defs>{head}<path d="M0 0L8 4L0 8Z" fill="{INK}"/></marker></defs>',
        f'<path d="M{triangle}Z" fill="none" stroke="{INK}"/>',
        *shapes,
        f'<path d="M{tail[0]:.1f} {tail[1]:.1f}L{tip[0]:.1f} {tip[1]:.1f}" stroke="{INK}" stroke-width="1.5" '
        'marker-end="url(#tip)"/>',
        *worst,
        f'<g fill="{INK}" font-family="sans-serif" font-size="13">',
        *words,
        "</g>",
        "</svg>",
        "",
    ])  # fmt: skip


def main() -> None:
    """Write all pictures."""
    for name in RADII:
        (HERE / f"{name}.svg").write_text(picture(name), encoding="utf-8")
        print(f"docs/sets/{name}.svg")


if __name__ == "__main__":
    main()
