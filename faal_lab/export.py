"""A figure becomes files: a page that opens offline, a picture for a document, its numbers as a table.

Knows: plotly figures. Must not know: what they show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from faal_lab.errors import check_name
from faal_lab.evaluation import VerdictsError
from faal_lab.runs.files import replace_file
from faal_lab.table_files import csv_of

if TYPE_CHECKING:
    import plotly.graph_objects as go

FORMATS = ("html", "png", "csv")
_WIDTH, _SCALE = 900, 2  # of a png: pixels of the page, and by how many dots each is drawn
_PAGE = (
    "<!doctype html><html lang='en'><head><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
    "<style>:root {{ color-scheme: light dark; }} body {{ margin: 0; }}</style></head><body>{}</body></html>"
)


def check_formats(formats: Iterable[str]) -> tuple[str, ...]:
    """The formats, if they can be had here: raises UnknownName, or ImportError where png needs kaleido and it is missing."""
    found = tuple(dict.fromkeys(check_name("format", name, FORMATS) for name in formats))
    if "png" in found and find_spec("kaleido") is None:
        raise ImportError(
            "png needs kaleido: pip install 'faal-lab[pictures]', and Chromium or Chrome. html and csv need neither."
        )
    return found


def export(figure: go.Figure, stem: str | Path, formats: Iterable[str] = FORMATS) -> list[Path]:
    """Write `stem`.html, .png and .csv, or those of `formats`; returns the paths.

    Raises UnknownName, ImportError where kaleido is missing, OSError where a file cannot be written or no browser is found.
    """
    makers = {"html": _html, "png": _png, "csv": _csv}
    paths = []
    for name in check_formats(formats):
        path = Path(f"{stem}.{name}")
        content = makers[name](figure)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, content)
        paths.append(path)
    return paths


def export_all(drawn: Mapping[str, Callable[[], go.Figure]], out: Path, formats: Iterable[str]) -> list[str]:
    """Draw and write each picture into `out` by its name; returns what to say of each, also of what could not be drawn.

    Raises what `export` raises.
    """
    said = []
    for stem, draw in drawn.items():
        try:
            figure = draw()
        except VerdictsError as error:
            said.append(f"Not drawn: {stem}: {error}")
            continue
        paths = export(figure, out / stem.replace("/", "-").replace("\\", "-"), formats)
        said += [f"Written: {path}" for path in paths]
    return said


def table_of(figure: go.Figure) -> dict[str, list[Any]]:
    """The numbers of a figure by column: its own table where it carries one, else trace, x, y and the ends of the whiskers."""
    own = _meta(figure).get("table")
    if own is not None:
        return own
    rows, traces = [], list[Any](figure.data)
    for trace in traces:
        xs, ys = ([] if values is None else list(values) for values in (trace.x, trace.y))
        up, down = trace.error_y.array, trace.error_y.arrayminus
        for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
            ends = (None, None) if up is None or down is None or y is None else (y - down[i], y + up[i])
            rows.append((trace.name, x, y, *ends))
    return {name: [row[i] for row in rows] for i, name in enumerate(("trace", "x", "y", "low", "high"))}


def _meta(figure: go.Figure) -> dict[str, Any]:
    layout: Any = figure.layout
    return layout.meta or {}


def _html(figure: go.Figure) -> bytes:
    import plotly.io as pio

    options: dict[str, Any] = {"full_html": False, "include_plotlyjs": True, "config": {"responsive": True}}
    return _PAGE.format(pio.to_html(figure, **options)).encode()


def _png(figure: go.Figure) -> bytes:
    """On white, for documents. Costs two seconds: kaleido starts a browser each time."""
    import plotly.graph_objects as go

    paper = go.Figure(figure).update_layout(paper_bgcolor="white")
    try:
        return paper.to_image(format="png", width=_meta(figure).get("width", _WIDTH), scale=_SCALE)
    except RuntimeError as error:  # kaleido's and the browser's errors are all of this kind
        reason = next((line for line in str(error.args[0]).splitlines() if line.strip()), type(error).__name__)
        raise OSError(
            f"kaleido could not draw a png: {reason} Install Chromium or Chrome (on Debian: apt-get install chromium), or "
            "name the browser in BROWSER_PATH. html and csv need none."
        ) from error


def _csv(figure: go.Figure) -> bytes:
    return csv_of(table_of(figure))
