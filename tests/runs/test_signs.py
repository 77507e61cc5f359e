"""Signs of a training that goes wrong: each is named when three epochs show it, and nothing else is."""

import pytest

import faal_lab as fl
from faal_lab.runs.events import EpochDone, RunStarted, signs_of_trouble
from faal_lab.runs.history import History, load_history
from faal_lab.runs.progress import shown

NAMES = ["cat", "dog", "emu", "fox"]


def epochs(*rows: tuple[list[int], list[int]], count: int = 50) -> list[EpochDone]:
    return [EpochDone(n, 10 * n, [count] * 4, clean, robust) for n, (clean, robust) in enumerate(rows, 1)]


GOOD = ([40, 45, 30, 20], [20, 25, 10, 5])
CASES = {
    "fine": ([GOOD] * 3, []),
    "chance": ([([50, 0, 0, 0], [50, 0, 0, 0])] * 3, ["chance"]),
    "a slow start": ([([50, 0, 0, 0], [0] * 4)] * 2 + [GOOD], []),
    "too early": ([([50, 0, 0, 0], [0] * 4)] * 2, []),
    "one class": ([([40, 45, 0, 20], [20, 25, 0, 5])] * 3, ["never right"]),
    "one class, once": ([([40, 45, 0, 20], [20, 25, 0, 5]), ([40, 45, 1, 20], [20, 25, 0, 5]), ([40, 45, 0, 20], [0] * 4)], []),
    "an attack helps": ([([30, 30, 30, 30], [45, 45, 45, 45])] * 3, ["attack helps"]),
    "within the noise": ([([30, 30, 30, 30], [32, 31, 30, 33])] * 3, []),
    "no robust image": ([([45, 45, 45, 45], [0, 0, 0, 0])] * 3, []),
}


@pytest.mark.parametrize("name", CASES)
def test_each_sign(name: str) -> None:
    rows, kinds = CASES[name]
    assert list(signs_of_trouble(NAMES, epochs(*rows))) == kinds
    history = History(4)
    history.add(epochs(*rows))
    assert list(signs_of_trouble(NAMES, history.last_epochs())) == kinds


def test_the_lines_name_numbers_and_causes() -> None:
    (text,) = signs_of_trouble(NAMES, epochs(*[([50, 0, 0, 0], [0] * 4)] * 3)).values()
    assert text.startswith("25.0% of the validation images are right after epoch 3; guessing gets 25.0%. Nothing is learned")
    (text,) = signs_of_trouble(NAMES, epochs(*[([40, 45, 0, 0], [0] * 4)] * 3)).values()
    assert text.startswith("No validation image of class emu, fox was right in three epochs")


def test_without_validation_images_there_is_none() -> None:
    assert signs_of_trouble(NAMES, epochs(*[([0] * 4, [0] * 4)] * 5, count=0)) == {}


def test_it_is_said_once_while_a_run_trains(capsys: pytest.CaptureFixture) -> None:
    events = [RunStarted(NAMES, 10, 5, 0.5, 0.1, 0.05), *epochs(*[([50, 0, 0, 0], [0] * 4)] * 5)]
    assert len(list(shown(iter(events)))) == 6
    assert capsys.readouterr().out.count("Nothing is learned") == 1
    list(shown(iter(events), quiet=True))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["control", "faal-steered"])
def test_the_recorded_runs_raise_no_alarm(name: str) -> None:
    history, names = load_history(f"notebooks/recorded/{name}")
    assert signs_of_trouble(names, history.last_epochs()) == {}


def test_a_run_that_learns_nothing_is_noted(tmp_path, capsys: pytest.CaptureFixture) -> None:
    fl.train(epochs=3, learning_rate=1e-6, batch_size=100, attack_steps=1, validation_steps=1, out=tmp_path / "run")
    assert "Nothing is learned: is the learning rate too large or too small?" in capsys.readouterr().out
