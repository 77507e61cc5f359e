"""What a data set looks like before training: counts, notes, a sheet."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import draw_images
from PIL import Image

import faal_lab as fl
from faal_lab.__main__ import main
from faal_lab.errors import ConfigError


def test_it_counts_classes_and_keeps_the_notes(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    draw_images(tmp_path / "set", {"ant": 20, "bee": 30})
    shutil.copy(tmp_path / "set" / "ant" / "000.png", tmp_path / "set" / "ant" / "again.png")
    (tmp_path / "set" / "ant" / "Thumbs.db").write_bytes(b"x")
    found = fl.look(data_dir=tmp_path / "set")
    assert not recwarn.list, "what it found is in the notes"
    assert found.counts[["train", "validation", "test"]].sum(axis=1).to_dict() == {"ant": 21, "bee": 30}
    own = np.stack([np.asarray(Image.open(f)) for f in (tmp_path / "set" / "bee").glob("*.png")])
    assert found.counts.loc["bee", "mean brightness"] == pytest.approx(own.mean() / 255, abs=0.01)
    text = repr(found)
    assert text.startswith("set: 51 images of 12 x 12 pixels, colour, in 2 classes.")
    assert "Passed over 1 files" in text
    assert "1 images of" in text
    assert "The test images are cut out by seed" in text
    assert "data:image/png;base64," in found._repr_html_()


def test_the_sheet_has_the_images_of_each_class(tmp_path: Path) -> None:
    for name, level in (("dark", 10), ("light", 240)):
        (tmp_path / "set" / name).mkdir(parents=True)
        for n in range(10):
            pixels = np.full((50, 50, 3), level, dtype=np.uint8)
            pixels[:4, :4] = 20 * n
            Image.fromarray(pixels).save(tmp_path / "set" / name / f"{n}.png")
    assert main(["look", str(tmp_path / "set"), "--out", str(tmp_path / "sheet.png")]) == 0
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("L"))
    assert sheet.shape == (2 * 52, 110 + 8 * 52)
    assert sheet[30, 140] == 10
    assert sheet[52 + 30, 140] == 240


def test_what_cannot_be_read_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["look", str(tmp_path / "nothing")]) == 1
    assert "is not a folder" in capsys.readouterr().err


def test_a_folder_that_one_is_in_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(draw_images(tmp_path / "set", {"ant": 20, "bee": 20}))
    assert fl.look(data_dir=".").splits.name == "set"


def test_a_long_tail_is_shown_as_it_is_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert fl.look("digits", imbalance=20.0).counts["train"].tolist() == [99, 72, 50, 38, 27, 19, 14, 10, 7, 5]
    assert main(["look", "--data", "digits", "--imbalance", "20", "--out", str(tmp_path / "sheet.png")]) == 0
    assert capsys.readouterr().out.startswith("digits: 1,138 images of 8 x 8 pixels")  # 341 + 200 + 597
    with pytest.raises(ConfigError, match="imbalance must be at least 1, got 0.5"):
        fl.look("digits", imbalance=0.5)
