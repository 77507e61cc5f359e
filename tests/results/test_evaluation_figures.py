"""Pictures of an evaluation against counts made by hand, and the files they become."""

import base64
import csv
import io
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from PIL import Image

from faal_lab.__main__ import main
from faal_lab.errors import UnknownName
from faal_lab.evaluation.evaluate import evaluate_run
from faal_lab.evaluation.statistics import class_accuracy, spectral_norm
from faal_lab.evaluation.verdicts import Examples, RadiusCurve, Verdicts, VerdictsError
from faal_lab.results.confusion import Flows, confusion_flow, confusion_heatmap
from faal_lab.results.export import export, table_of
from faal_lab.results.figures import class_bars, class_style
from faal_lab.results.robustness import clean_and_robust_bars, image_strip, pictures, radius_curves, radius_text

LABELS = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2]
CLEAN = [0, 0, 0, 1, 1, 1, 1, 1, 2, 2]
ATTACKED = [0, 1, 1, 1, 1, 1, 2, 0, 2, 2]  # two more cats become dogs, one dog a ship, one a cat; one cat was a dog before


@pytest.fixture
def three() -> Verdicts:
    """Three classes of 4, 4 and 2 images, and one without any."""
    predicted = {"clean": np.array(CLEAN), "pgd-20": np.array(ATTACKED)}
    return Verdicts(np.array(LABELS), predicted, ("cat", "dog", "ship", "none"), {"epsilon": 8 / 255, "norm": "linf"})


@pytest.fixture
def many() -> Verdicts:
    """30 classes of two images; class c is right under attack where c is a multiple of 3, and once where it is one more."""
    labels = np.repeat(np.arange(30), 2)
    right = np.stack([np.arange(30) % 3 != 2, np.arange(30) % 3 == 0], 1).ravel()
    attacked = np.where(right, labels, (labels + 1) % 30)
    names = tuple(f"class-{c}" for c in range(30))
    return Verdicts(labels, {"clean": labels, "pgd-20": attacked}, names, {"epsilon": 0.1, "norm": "linf"})


def rows(figure: go.Figure) -> list[tuple[Any, ...]]:
    return list(zip(*table_of(figure).values(), strict=True))


def titles(figure: go.Figure) -> str:
    title: Any = figure.layout.title
    return (title.text + " " + title.subtitle.text).replace("<br>", " ")


def test_clean_stands_beside_attacked_with_intervals(three: Verdicts) -> None:
    figure = clean_and_robust_bars({"run": three}, "pgd-20")
    clean, attacked = figure.data
    assert (clean.name, attacked.name) == ("clean", "PGD-20")
    assert list(clean.y) == [75, 100, 100, None], "a class without images has no bar"
    assert list(attacked.y) == [25, 50, 100, None]
    cat = class_accuracy(np.array([1]), np.array([4]))[0]
    assert cat
    assert attacked.y[0] + attacked.error_y.array[0] == pytest.approx(100 * cat.high)
    run, attack, name, *shares, images = rows(figure)[3]
    assert (run, attack, name, images) == ("run", "pgd-20", "cat", 4)
    assert shares == pytest.approx([25, 100 * cat.low, 100 * cat.high])
    assert figure.layout.annotations[0].text == "run: average 91.7 % clean, 58.3 % PGD-20"
    for verdict, attack in ((three, "clean"), (replace(three, predicted={"pgd-20": three.predicted["pgd-20"]}), "pgd-20")):
        with pytest.raises(VerdictsError, match="clean images and an attack are needed"):
            clean_and_robust_bars({"run": verdict}, attack)


def test_many_classes_stand_worst_first_and_each_run_in_its_row(many: Verdicts) -> None:
    worst_first = [c for rest in (2, 1, 0) for c in range(30) if c % 3 == rest]
    for figure in (class_bars({"a": many, "b": many}, "pgd-20"), clean_and_robust_bars({"a": many, "b": many}, "pgd-20")):
        assert list(figure.data[0].x) == [f"class-{c}" for c in worst_first]
        assert list(figure.data[-1].y) == [0] * 10 + [50] * 10 + [100] * 10
        assert {trace.yaxis for trace in figure.data} == {"y", "y2"}
        assert "30 classes, the worst under attack first" in titles(figure)
    assert {trace.yaxis for trace in class_bars({"a": many}, "pgd-20").data} == {"y"}


def test_flows_tell_what_the_attack_added(three: Verdicts) -> None:
    figure = confusion_flow(three, "pgd-20")
    assert rows(figure) == [("cat", "dog", 3, 75.0, 1, 2), ("dog", "cat", 1, 25.0, 0, 1), ("dog", "ship", 1, 25.0, 0, 1)]
    assert "5 of 10 images are taken for another class, 1 of them without the attack too." in titles(figure)
    (sankey,) = figure.data
    assert list(sankey.link.value) == [1, 2, 1, 1]
    assert sankey.link.customdata[1] == "2 images of cat taken for dog (50.0 %)<br>wrong through the attack"
    assert sankey.link.color[0] != sankey.link.color[1], "two shades"
    assert [a.text for a in figure.layout.annotations] == ["cat", "dog", "cat", "dog", "ship"]
    assert list(sankey.node.color)[:2] == [class_style(c)["color"] for c in (0, 1)]
    heights = list(sankey.node.y)
    assert heights[:2] == sorted(heights[:2])
    assert [1 - a.y for a in figure.layout.annotations] == pytest.approx(heights), "each name stands at its node"


def test_flows_without_clean_images_or_without_errors(three: Verdicts) -> None:
    assert not Flows.of(replace(three, predicted={"pgd-20": three.predicted["pgd-20"]}), "pgd-20").parted
    clean = Flows.of(three, "clean")
    assert (clean.parted, clean.pairs.tolist(), clean.added.tolist()) == (False, [[0, 1]], [1])
    perfect = replace(three, predicted={"clean": np.array(LABELS)})
    assert rows(confusion_flow(perfect, "clean")) == []
    assert "0 of 10 images" in titles(confusion_flow(perfect, "clean"))
    assert "without the diagonal 0.000" in titles(confusion_heatmap(perfect, "clean"))


def test_of_many_classes_the_strongest_flows(many: Verdicts) -> None:
    figure = confusion_flow(many, "pgd-20")
    assert [trace.type for trace in figure.data] == ["bar", "bar"]
    assert list(figure.data[1].x) == [2] * 10 + [1] * 10
    assert figure.data[1].y[0] == "class-2 → class-3"
    assert len(rows(figure)) == 20


def test_the_matrix_has_true_classes_as_columns(three: Verdicts) -> None:
    figure = confusion_heatmap(three, "pgd-20")
    wrong, right = (np.array(trace.z, dtype=float) for trace in figure.data)
    assert wrong[1, 0] == 75, "cats taken for dogs: column cat, row dog"
    assert wrong[2, 1] == 25
    assert np.isnan(wrong[0, 2])
    assert right.diagonal()[:3].tolist() == [25, 50, 100]
    shares = np.array([[0.25, 0.25, 0, 0], [0.75, 0.5, 0, 0], [0, 0.25, 1, 0], [0, 0, 0, 0]])
    assert f"spectral norm without the diagonal {spectral_norm(shares):.3f}" in titles(figure)
    assert ("cat", "dog", 75.0) in rows(figure)


def test_radius_curves(three: Verdicts) -> None:
    radii = np.array([0, 4, 8, 255]) / 255
    indices = np.array([0, 1, 4, 5, 8])
    predicted = np.array([[0, 0, 1, 1, 2], [0, 1, 1, 1, 2], [1, 1, 1, 0, 2], [1, 1, 0, 0, 1]])
    figure = radius_curves(replace(three, curve=RadiusCurve(indices, radii, predicted)))
    found = {(name, radius): accuracy for name, radius, accuracy, *_ in rows(figure)}
    assert [found["cat", r] for r in radii] == [100, 50, 0, 0]
    assert [found["average", r] for r in radii] == pytest.approx([100, 250 / 3, 50, 0])
    assert "none" not in {name for name, _ in found}
    average = figure.data[-1]
    assert average.name == "average", "drawn last, in front"
    assert np.diff(average.x).min() == pytest.approx(np.log10(2)), "clean stands one doubling left of 4/255"
    assert list(figure.layout.xaxis.ticktext) == ["clean", "4/255", "8/255", "1"]
    assert figure.layout.shapes[0].x0 == pytest.approx(average.x[2])
    assert figure.layout.annotations[0].text == "evaluated at 8/255"
    assert [radius_text(r) for r in (0.1, 8 / 255, 0.03137, 1.0, 0.0, 1e-9, 0.123456)] == [
        "0.1", "8/255", "8/255", "1", "0", "1e-09", "0.123",
    ]  # fmt: skip
    with pytest.raises(VerdictsError, match="hold no radius curve: evaluate again"):
        radius_curves(three)


def test_of_many_classes_the_worst_three_lines_are_named(many: Verdicts) -> None:
    curve = RadiusCurve(np.arange(60), np.array([0, 0.1, 1]), np.stack([many.labels, many.predicted["pgd-20"], many.labels + 1]))
    figure = radius_curves(replace(many, curve=curve))
    named = [trace for trace in figure.data if trace.showlegend is not False]
    assert [trace.name for trace in named] == ["class-2", "class-5", "class-8", "average"]
    assert len({trace.line.color for trace in named}) == 4
    assert len(figure.data) == 30 + 2 + 1, "the others are there, faint"


def pixels(trace: Any) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(base64.b64decode(trace.source.split(",")[1]))))


def strip_of(three: Verdicts, shape: tuple[int, ...]) -> Verdicts:
    clean = np.full((2, *shape), 0.5, dtype=np.float32)
    adversarial = clean.copy()
    adversarial[0, :, 0, 0] += np.float32(0.1)
    adversarial[0, :, 0, 1] -= np.float32(0.1)
    right, wrong = np.array([[0.9, 0.1, 0, 0], [0.2, 0.8, 0, 0]]), np.array([[0.3, 0.7, 0, 0], [0.2, 0.8, 0, 0]])
    return replace(three, examples=Examples("pgd-20", np.array([0, 4]), clean, adversarial, right, wrong))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 4, 6)])
def test_the_strip_shows_images_and_a_change_with_its_sign(three: Verdicts, shape: tuple[int, ...]) -> None:
    figure = image_strip(strip_of(three, shape))
    assert [trace.type for trace in figure.data] == ["image"] * 6
    clean, added, attacked = (pixels(trace) for trace in figure.data[:3])
    assert clean.shape == (shape[1:] if shape[0] == 1 else (*shape[1:], 3))
    assert (clean == 128).all()
    assert {added[0, 0].max(), added[0, 1].max(), added[1, 1].max()} == {230, 26, 128}, "nothing was added: grey; else four times"
    assert attacked[0, 0].max() == 153
    words = [a.text for a in figure.layout.annotations]
    assert words[:3] == ["<b>clean</b>", "<b>added, 4 times</b>", "<b>PGD-20</b>"]
    assert words[3:6] == ["cat<br>90 %", "true class:<br>cat", "<b>dog<br>70 %</b>"]
    assert words[8] == "dog<br>80 %", "not bold: the attack failed"
    assert rows(figure)[0] == (0, "cat", "cat", 0.9, 0.9, "dog", 0.7, 0.3)
    assert figure.data[0].dx == figure.data[0].dy == 1 / max(shape[1:]), "pixels are square"


def test_a_strip_of_some_of_the_examples(three: Verdicts) -> None:
    figure = image_strip(strip_of(three, (1, 8, 8)), most=1)
    assert len(figure.data) == 3
    assert "The first 1 of 2 examples." in titles(figure)
    with pytest.raises(VerdictsError, match="hold no example images"):
        image_strip(three)


def test_titles_are_narrow_enough_for_a_phone(three: Verdicts) -> None:
    three = strip_of(three, (1, 8, 8))
    for draw in pictures({"quite-a-long-name-of-a-run": three}, "pgd-20").values():
        try:
            title: Any = draw().layout.title
        except VerdictsError:
            continue
        assert max(map(len, title.text.split("<br>"))) <= 46
        assert max(map(len, title.subtitle.text.split("<br>"))) <= 58


def test_a_page_that_opens_offline_and_a_table(three: Verdicts, tmp_path: Path) -> None:
    figure = class_bars({"run": three}, "pgd-20")
    page, table = export(figure, tmp_path / "deep" / "bars", ("html", "csv"))
    assert (page.name, table.name) == ("bars.html", "bars.csv")
    html = page.read_text()
    assert "plotly.js" in html
    assert "color-scheme: light dark" in html
    assert not re.search(r"""(src|href)=['"]?(http|//)""", re.sub(r"(<script[^>]*>).*?</script>", r"\1", html, flags=re.S))
    with open(table, newline="") as file:
        first, *rest = list(csv.DictReader(file))
    assert (first["trace"], first["x"], float(first["y"])) == ("run", "cat", 25)
    assert float(first["low"]) < 25 < float(first["high"])
    assert rest[2] == {"trace": "run", "x": "none", "y": "", "low": "", "high": ""}


def test_formats_that_cannot_be_had(three: Verdicts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = confusion_heatmap(three, "pgd-20")
    with pytest.raises(UnknownName, match="Unknown format 'pdf'"):
        export(figure, tmp_path / "a", ("csv", "pdf"))
    monkeypatch.setattr("faal_lab.results.export.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"png needs kaleido: pip install 'faal-lab\[pictures\]'"):
        export(figure, tmp_path / "a", ("csv", "png"))
    assert list(tmp_path.iterdir()) == [], "said before anything is written"


@pytest.fixture
def kaleido() -> None:
    pytest.importorskip("kaleido", reason="kaleido is not installed (pip install -e '.[pictures]')")


def test_a_png(three: Verdicts, tmp_path: Path, kaleido: None) -> None:
    if not (
        os.environ.get("BROWSER_PATH") or any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome")))
    ):
        pytest.skip("neither Chromium nor Chrome is installed (on Debian: apt-get install chromium)")
    figure = image_strip(strip_of(three, (1, 8, 8)))
    (path,) = export(figure, tmp_path / "strip", ("png",))
    picture = Image.open(path).convert("RGB")
    layout: Any = figure.layout
    assert picture.size == (2 * 430, 2 * layout.height)
    assert picture.getpixel((0, 0)) == (255, 255, 255), "on white, for documents"
    assert (128, 128, 128) in {colour for _, colour in picture.getcolors(1 << 20) or []}


def test_a_png_without_a_browser(three: Verdicts, tmp_path: Path, kaleido: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "nothing"))
    with pytest.raises(OSError, match="could not draw a png: .* Install Chromium or Chrome"):
        export(confusion_heatmap(three, "pgd-20"), tmp_path / "a", ("png",))


def test_the_command(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = shutil.copytree(base, tmp_path / "run")
    evaluate_run(run, attacks=("clean",))
    assert main(["figures", f"my/run={run}", "--out", str(tmp_path / "out"), "--formats", "csv"]) == 0
    said = capsys.readouterr().out
    assert f"Written: {tmp_path / 'out' / 'my-run-flow-clean.csv'}" in said
    assert "Not drawn: clean-and-clean: clean images and an attack are needed" in said
    assert "Not drawn: my/run-radius: these verdicts hold no radius curve" in said
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["my-run-confusion-clean.csv", "my-run-flow-clean.csv"]
    assert main(["figures", str(run), "--out", str(tmp_path), "--attack", "pgd"]) == 1
    assert "Unknown attack 'pgd'" in capsys.readouterr().err
