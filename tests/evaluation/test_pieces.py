"""A killed evaluation loses no finished piece of a PGD attack, and a damaged piece changes no verdict."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHORT, fresh
from torch import nn

import faal_lab as fl
from faal_lab.data.images import Images
from faal_lab.data.sets import load
from faal_lab.evaluation.suite import Manner, evaluate
from faal_lab.evaluation.verdicts import Journal

NAMES = tuple("0123456789")


class Counted(nn.Module):
    """A network that counts the images of its passes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.seen = model, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += len(images)
        return self.model(images)


@pytest.fixture(scope="module")
def test_images() -> Images:
    return load("digits", seed=0).test  # 597: three pieces


def found(model: nn.Module, images: Images, folder: Path | None, stop_at: float = 2.0, **more: float) -> np.ndarray:
    def progress(what: str, share: float) -> None:
        if what == "pgd-20" and share >= stop_at:
            raise KeyboardInterrupt

    settings = {"epsilon": 0.05, "seed": 3} | more
    whole = evaluate(model, images, NAMES, attacks=("pgd-20",), manner=Manner(folder=folder), progress=progress, **settings)
    return whole.predicted["pgd-20"]


def test_a_killed_attack_goes_on_behind_its_last_piece(test_images: Images, tmp_path: Path) -> None:
    model = Counted(fresh(SHORT).model).eval()
    expected = found(model, test_images, None)
    whole, model.seen = model.seen, 0
    with pytest.raises(KeyboardInterrupt):
        found(model, test_images, tmp_path, stop_at=0.8)
    before, model.seen = model.seen, 0
    assert np.array_equal(found(model, test_images, tmp_path), expected)
    assert before + model.seen < 1.2 * whole, "what was finished is not made again"
    assert not np.array_equal(found(model, test_images, tmp_path, epsilon=0.3), expected), "another radius, other pieces"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_piece_is_made_again(tmp_path: Path) -> None:
    numbers, true = random.Random(0), {("pgd-20", n): [n, 3, 12, 7] for n in range(4)}
    journal = Journal(tmp_path, {"model": "a"}, kind="pgd")
    for (name, number), predicted in true.items():
        journal.add(name, number, predicted)
    (file,) = tmp_path.glob("pgd-*/part-0.jsonl")
    sound, kept = file.read_bytes(), 0
    for _ in range(1000):
        damaged, place = bytearray(sound), numbers.randrange(len(sound))
        way = numbers.randrange(4)
        if way == 0:
            damaged[place] ^= 1 << numbers.randrange(8)
        elif way == 1:
            del damaged[place : place + numbers.randrange(1, 60)]
        elif way == 2:
            damaged[place : place + 16] = bytes(len(damaged[place : place + 16]))
        else:
            damaged[place:place] = sound[numbers.randrange(len(sound)) :]
        file.write_bytes(damaged)
        read = Journal(tmp_path, {"model": "a"}, kind="pgd").done()
        assert read.items() <= true.items()
        kept += len(read)
    assert kept > 1000, "sound pieces are read"


def test_a_file_of_other_conditions_does_not_fit(tmp_path: Path) -> None:
    for model in "ab":
        Journal(tmp_path, {"model": model}).add("square", 0, [1, 2])
    first, second = tmp_path.glob("*/part-0.jsonl")
    first.write_bytes(second.read_bytes())
    assert sorted(len(Journal(tmp_path, {"model": model}).done()) for model in "ab") == [0, 1]


def test_pieces_go_with_the_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = fl.train(out="runs/a", epochs=1, batch_size=250, attack_steps=1, validation_steps=1, quiet=True)
    fl.evaluate(run, "clean,pgd-20", images=20, quiet=True)
    assert not list(run.path.glob("pgd-*"))
    assert list(run.path.glob("verdicts-*"))
