"""How far a task is: complete lines in a log, a bar in a terminal, and nothing of either where it was not asked for."""

import io
import os
import re
import subprocess
import sys
import time

import pytest

from faal_lab.__main__ import main
from faal_lab.runs import progress
from faal_lab.runs.events import EpochDone, RunFinished, RunResumed, RunStarted, StepDone


def step(number: int) -> StepDone:
    return StepDone(
        number, 1, 0.5, 0.5, 0.1, 0.01, weights=[0.5, 0.5], divergence=0.0, count=[1, 1], margin=[0.0, 0.0],
        robust_correct=[1, 1], clean_correct=None,
    )  # fmt: skip


STARTED = RunStarted(["a", "b"], steps_per_epoch=4, epochs=2, tau=0.5, epsilon=0.1, learning_rate=0.01)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_complete_lines_at_the_beginning_at_intervals_and_at_the_end(monkeypatch, capsys) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.3)
    with progress.bar("work", 10, "piece", "warming up") as told:
        for number in range(1, 11):
            told.at(number, doing=f"piece {number}")
            time.sleep(0.1)
    said = capsys.readouterr().err
    assert "\r" not in said
    lines = said.splitlines()
    assert lines[0] == "work: begins | warming up"
    assert re.fullmatch(r"work: done in 0:0\d \| piece 10", lines[-1])
    assert 2 <= len(lines[1:-1]) <= 4, "one every 0.3 s"
    assert all(re.fullmatch(r"work: piece \d+ of 10, \d+0 %, 0:0\d gone, about 0:0\d left \| piece \d+", x) for x in lines[1:-1])


def test_a_task_that_tells_nothing_is_shown_all_the_same(monkeypatch, capsys) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.1)
    with progress.share_bar("work"):
        progress.doing("compiling")
        time.sleep(0.35)
    assert "work: 0 %, 0:00 gone | compiling" in capsys.readouterr().err.splitlines()


def test_a_failure_is_no_success(capsys) -> None:
    def work() -> None:
        with progress.bar("work", 4, "piece") as told:
            told.at(1)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert "work: stopped at piece 1 of 4, 25 % after 0:00" in capsys.readouterr().err
    progress.doing("nothing is open: nobody hears it")


def test_a_run_that_was_stopped_is_not_done_and_preparing_takes_no_time_of_its_batches(monkeypatch, capsys) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.5)

    def events():
        time.sleep(0.7)  # loading, compiling
        yield from (STARTED, step(1), step(2))
        time.sleep(0.6)
        yield RunFinished(2, "stopped")

    list(progress.shown(events()))
    first, waiting, going, last = capsys.readouterr().err.splitlines()
    assert first == "training: begins | preparing"
    assert waiting == "training: 0:00 gone | preparing", "of how many batches nobody knows"
    assert re.fullmatch(r"training: batch 2 of 8, 25 %, 0:00 gone, about 0:0[01] left", going)
    assert last.startswith("training: stopped at batch 2 of 8, 25 % after 0:0")


def test_lines_of_many_short_tasks_are_whole_and_in_order(monkeypatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    monkeypatch.setattr(progress, "EVERY", 0.0005)
    for number in range(200):
        with progress.bar(f"w{number}", 1, "piece"):
            time.sleep(0.001)
    lines = log.getvalue().splitlines()
    assert all(re.fullmatch(r"w\d+: (begins|done in 0:00|piece 0 of 1, 0 %, 0:00 gone)", line) for line in lines)
    ends = [n for n, line in enumerate(lines) if "done" in line]
    assert len(ends) == 200
    assert all(lines[n + 1].endswith("begins") for n in ends[:-1]), "nothing of a task comes after its end"


def test_a_terminal_gets_a_bar_whose_clock_moves_by_itself(monkeypatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "_REDRAW", 0.2)
    with progress.bar("training", 8, "batch", "loading torch") as told:
        time.sleep(1.3)
        waiting = terminal.getvalue().split("\r")
        told.at(4, doing="epoch 1")
    assert "loading torch" in waiting[2]
    assert "00:01" in waiting[-1], "nobody told it anything"
    assert "4/8" in terminal.getvalue().split("\r")[-1]


def test_a_run_is_counted_in_batches_and_a_resumed_one_by_what_is_left(monkeypatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    epoch = EpochDone(1, 4, [4, 4], clean_correct=[4, 3], robust_correct=[2, 1])
    events = [STARTED, *map(step, range(1, 5)), epoch]
    assert list(progress.shown(events)) == events
    last = terminal.getvalue().split("\r")[-1]
    assert "4/8" in last
    assert "epoch 1: PGD average 37.5 %, worst class 25.0 %" in last
    list(progress.shown([RunResumed(5, 8), step(6)]))
    assert "6/8" in terminal.getvalue().split("\r")[-1]


def test_quiet_is_quiet(capsys) -> None:
    list(progress.shown([STARTED, step(1)], quiet=True))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("words, code", [(["methods"], 141), (["run", "--help"], 1)])  # rich, which prints help, ends by 1
def test_a_reader_that_left_ends_the_command_quietly(words: list[str], code: int) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    found = subprocess.run([sys.executable, "-m", "faal_lab", *words], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (found.returncode, found.stderr) == (code, b"")


def test_another_pipe_that_breaks_is_an_error_like_any_other(monkeypatch, capsys) -> None:
    def doctor() -> None:
        raise BrokenPipeError("a kernel went away")

    monkeypatch.setattr("faal_lab.cli.doctor", doctor)
    assert main(["doctor"]) == 1
    assert capsys.readouterr().err == "faal-lab: a kernel went away\n"


@pytest.mark.parametrize("seconds, text", [(7.9, "0:07"), (62, "1:02"), (3723, "1:02:03")])
def test_lengths_of_time(seconds: float, text: str) -> None:
    assert progress.clock(seconds) == text


def test_a_notebook_gets_its_lines_on_standard_output(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    class OutStream(io.StringIO):
        pass

    OutStream.__module__ = "ipykernel.iostream"
    monkeypatch.setattr(sys, "stderr", OutStream())
    with progress.bar("work", 2, "part"):
        pass
    assert capsys.readouterr().out == "work: begins\nwork: done in 0:00\n"
    assert sys.stderr.getvalue() == "", "JupyterLab shows standard error on red"
