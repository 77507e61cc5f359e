"""Runs as tables and as TensorBoard's event files: every number comes back, what a resume undid does not."""

import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import resealed

import faal_lab as fl
from faal_lab.__main__ import main
from faal_lab.errors import ConfigError
from faal_lab.runs import RunFolder, RunFolderError
from faal_lab.runs.config import Config
from faal_lab.runs.events import EpochDone, Event, RunFinished, RunResumed, RunStarted, StepDone
from faal_lab.runs.export import export_tables, free_place, tag_names

NAMES, TAGS = ["cat", "great tit (m)", "a/b"], ["cat", "great tit _m_", "a_b"]
RECORDED = Path(__file__).parents[2] / "notebooks" / "recorded" / "faal-steered"


def step(number: int, loss: float, count: list[int]) -> StepDone:
    margin = [0.1 * c if c else None for c in count]
    return StepDone(number, 0, loss, 0.5, 0.1, 0.01, [0.2, 0.3, 0.5], 0.4, count, margin, [c // 2 for c in count], None)


UNDONE = step(3, 99.0, [9, 9, 9])
KEPT = [step(1, 2.0, [4, 2, 0]), step(2, 1.5, [2, 2, 2]), step(3, 1.25, [1, 0, 5]), step(4, 1.0, [2, 4, 6])]
EPOCH = EpochDone(1, 4, [10, 5, 0], [9, 4, 0], [5, 1, 0])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that was resumed after its second step; its third was made twice."""
    folder = RunFolder.create(tmp_path / "run", Config(), {})
    events: list[Event] = [RunStarted(NAMES, 4, 1, 0.5, 0.1, 0.01), *KEPT[:2], UNDONE, RunResumed(2), *KEPT[2:], EPOCH]
    with folder.recording() as recorder:
        for event in [*events, RunFinished(4, "done")]:
            recorder.write(event)
    kinds = [json.loads(line) for line in folder.timing_file.read_text().splitlines()]
    folder.timing_file.write_text("".join(json.dumps({**k, "time": 1000.0 + i}) + "\n" for i, k in enumerate(kinds)))
    resealed(folder.timing_file)
    return folder.path


def read_back(folder: Path) -> dict[str, list[tuple[int, float, float]]]:
    """What TensorBoard's own reader finds: (step, clock time, value) by tag."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    accumulator = reader.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    accumulator.Reload()
    return {tag: [(e.step, e.wall_time, e.value) for e in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}


def by_hand() -> dict[str, list[tuple[int, float]]]:
    """Step and value by tag, of the steps that count."""
    found: dict[str, list[tuple[int, float]]] = {}
    for s in KEPT:
        values = {
            "train/loss": s.loss,
            "train/divergence": 0.4,
            "dials/tau": 0.5,
            "dials/epsilon": 0.1,
            "dials/learning_rate": 0.01,
        }
        for i, tag in enumerate(TAGS):
            values[f"weights/{tag}"] = s.weights[i]
            if s.count[i]:
                values[f"train/margin/{tag}"] = s.margin[i]
                values[f"train/robust_accuracy/{tag}"] = s.robust_correct[i] / s.count[i]
        for tag, value in values.items():
            found.setdefault(tag, []).append((s.step, float(np.float32(value))))
    return found


def test_tensorboard_reads_every_number_that_counts(run: Path, tmp_path: Path) -> None:
    said = export_tables(run, "tensorboard", tmp_path / "boards", {"autoattack": ([3, 1, 0], [4, 2, 0])})
    train = read_back(tmp_path / "boards" / "train")
    assert {tag: [(s, v) for s, _, v in points] for tag, points in train.items()} == by_hand()
    assert [time for _, time, _ in train["train/loss"]] == [1001, 1002, 1005, 1006], "the third step's second time"
    validation = read_back(tmp_path / "boards" / "validation")
    expected = {
        "clean_average": 0.85, "clean_worst": 0.8, "clean_accuracy/cat": 0.9, "clean_accuracy/great tit _m_": 0.8,
        "robust_average": 0.35, "robust_worst": 0.2, "robust_accuracy/cat": 0.5, "robust_accuracy/great tit _m_": 0.2,
    }  # fmt: skip
    assert validation == {f"validation/{n}": [(4, 1007, float(np.float32(v)))] for n, v in expected.items()}
    test = {tag: [(s, v) for s, _, v in points] for tag, points in read_back(tmp_path / "boards" / "test").items()}
    assert test == {"test/autoattack/cat": [(4, 0.75)], "test/autoattack/great tit _m_": [(4, 0.5)]}
    absent = 2 * sum(c == 0 for s in KEPT for c in s.count) + 2 + 1
    written = sum(map(len, train.values())) + len(expected) + 2
    assert f"({written} scalars of {len(train) + 10} tags). {absent} left out: they were not measured there." in said


def test_a_recorded_run_in_tensorboard_is_its_history(tmp_path: Path) -> None:
    fl.open_run(RECORDED).export("tensorboard", tmp_path / "boards", say=lambda _: None)
    history, train = fl.open_run(RECORDED).history, read_back(tmp_path / "boards" / "train")
    for tag, column in (("train/loss", "loss"), ("dials/tau", "tau"), ("weights/3", "weights[3]")):
        assert [(s, v) for s, _, v in train[tag]] == list(zip(history.step, history[column].astype("float32"), strict=True))
    verdicts, test = fl.open_run(RECORDED).verdicts(), read_back(tmp_path / "boards" / "test")
    right, total = verdicts.counts("autoattack")
    assert [test[f"test/autoattack/{c}"][0][2] for c in range(10)] == list((right / total).astype("float32"))


@pytest.mark.parametrize("to", ["csv", "parquet"])
def test_tables_have_a_row_a_step_an_epoch_and_an_attack(run: Path, tmp_path: Path, to: str) -> None:
    if to == "parquet":
        pytest.importorskip("pyarrow")
    said = export_tables(run, to, tmp_path / "out", {"clean": ([3, 1, 0], [4, 2, 0])})
    read = {"csv": pd.read_csv, "parquet": pd.read_parquet}[to]
    history, epochs, test = (read(tmp_path / "out" / f"{name}.{to}") for name in ("history", "epochs", "test"))
    pd.testing.assert_frame_equal(history, fl.open_run(run).history, rtol=1e-15)
    assert history.loss.tolist() == [s.loss for s in KEPT]
    assert history["weights[great tit (m)]"].tolist() == [0.3] * 4
    assert epochs.iloc[0][["epoch", "step", "clean_worst", "robust_worst", "robust_accuracy[cat]", "count[a/b]"]].tolist() == [
        1, 4, 0.8, 0.2, 0.5, 0,
    ]  # fmt: skip
    assert math.isnan(epochs["clean_accuracy[a/b]"][0])
    assert test["accuracy"].tolist()[:2] == [0.75, 0.5]
    assert said.endswith(
        f"history.{to} (4 rows), {tmp_path / 'out' / 'epochs'}.{to} (1 rows), {tmp_path / 'out' / 'test'}.{to} (3 rows)."
    )


def test_a_running_run_gives_what_it_has_so_far(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"event": "StepDone", "sch')
    monkeypatch.setattr(RunFolder, "status", lambda self: "training")
    said = export_tables(run, "csv", tmp_path / "out")
    assert said.endswith("The run is training: this is what it has reported so far.")
    assert len(pd.read_csv(tmp_path / "out" / "history.csv")) == 4


def test_a_run_before_its_first_step(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", Config(), {})
    with pytest.raises(RunFolderError, match="holds no run that was started"):
        export_tables(folder.path, "csv", tmp_path / "out")
    with folder.recording() as recorder:
        recorder.write(RunStarted(NAMES, 4, 1, 0.5, 0.1, 0.01))
    assert "history.csv (0 rows)" in export_tables(folder.path, "csv", tmp_path / "out")
    pytest.importorskip("tensorboard")
    assert "(0 scalars of 0 tags)" in export_tables(folder.path, "tensorboard", tmp_path / "boards")


@pytest.mark.parametrize(
    "file, line, text",
    [
        ("metrics.jsonl", '{"event": "StepDone", "sch', "holds a line that is not JSON"),
        ("metrics.jsonl", "[1, 2]", "is damaged"),
        ("metrics.jsonl", '{"event": "StepDone", "schema": 1, "step": 9}', "is damaged: StepDone without epoch, loss"),
        (
            "metrics.jsonl",
            '{"event": "EpochDone", "schema": 1, "step": 9, "epoch": 1, "count": [1], "clean_correct": [1], "robust_correct": [1]}',
            r"with lists of \[1\]",
        ),
        ("timing.jsonl", '{"event": "StepDone"}', "is damaged: .* is no time"),
        ("config.json", "", "is not a run folder"),
    ],
)
def test_a_damaged_run_is_one_line(run: Path, tmp_path: Path, file: str, line: str, text: str, capsys) -> None:
    if line:
        (run / file).write_text((run / file).read_text() + line + "\n")
        if "EpochDone" in line:
            resealed(run / file)
    else:
        (run / file).unlink()
    if file == "timing.jsonl":
        pytest.importorskip("tensorboard")
    assert (
        main(["export", str(run), "--to", "tensorboard" if file == "timing.jsonl" else "csv", "--out", str(tmp_path / "o")]) == 1
    )
    said = capsys.readouterr().err
    assert re.search(text, said), said
    assert said.count("\n") == 1


def test_what_is_there_is_replaced_by_force_alone(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    out = tmp_path / "boards"
    export_tables(run, "tensorboard", out)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="exists already. Name another place, or replace what is there by --force"):
        export_tables(run, "tensorboard", out)
    export_tables(run, "tensorboard", out, force=True)
    assert len(list((out / "train").iterdir())) == 1, "TensorBoard would draw the older one, too"
    assert (out / "notes.txt").read_text() == "mine"
    with pytest.raises(ConfigError, match="must be a folder, and is none"):
        export_tables(run, "csv", out / "notes.txt", force=True)
    with pytest.raises(ConfigError, match="is a run folder: an export there could replace a part of the run"):
        export_tables(run, "csv", run, force=True)


@pytest.mark.parametrize("to", ["parquet", "tensorboard"])
def test_a_missing_package_names_the_extra(run: Path, tmp_path: Path, to: str, monkeypatch, capsys) -> None:
    monkeypatch.setattr("faal_lab.runs.export.find_spec", lambda name: None)
    assert main(["export", str(run), "--to", to, "--out", str(tmp_path / "out")]) == 1
    assert re.search(rf"export to {to} needs \w+: pip install 'faal-lab\[export\]'", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@given(st.lists(st.text(min_size=0, max_size=6), max_size=6))
def test_tags_are_of_mlflows_characters_and_stay_apart(names: list[str]) -> None:
    found = tag_names(names)
    assert all(re.fullmatch(r"[\w.\- ]+", name) and name.strip(". ") for name in found)
    assert len(set(found)) == len(names)


def test_tables_need_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from faal_lab.runs.export import export_tables; "
        f"export_tables({str(RECORDED)!r}, 'csv', {str(tmp_path / 'out')!r}); assert 'torch' not in sys.modules"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_verdicts_of_other_weights_are_left_out_with_a_word(tmp_path: Path) -> None:
    shutil.copytree(RECORDED, tmp_path / "run")
    (tmp_path / "run" / "verdicts-last.npz").write_bytes(b"cut off")
    said: list[str] = []
    fl.open_run(tmp_path / "run").export("csv", tmp_path / "out", say=said.append)
    assert "Test accuracy is left out: " in said[0]
    assert not (tmp_path / "out" / "test.csv").exists()


def test_force_leaves_what_others_wrote(run: Path, tmp_path: Path) -> None:
    """Keras, too, writes event files into train/ and validation/."""
    pytest.importorskip("tensorboard")
    theirs = tmp_path / "logs" / "train" / "events.out.tfevents.1.host.1.0.v2"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("Keras")
    for _ in range(2):
        export_tables(run, "tensorboard", tmp_path / "logs", force=True)
    assert theirs.read_text() == "Keras"
    assert len(list(theirs.parent.iterdir())) == 2


def test_an_older_test_table_does_not_stay_beside_another_history(run: Path, tmp_path: Path) -> None:
    export_tables(run, "csv", tmp_path / "out", {"clean": ([1] * 3, [2] * 3)})
    export_tables(run, "csv", tmp_path / "out", force=True)
    assert (tmp_path / "out" / "test.csv").read_text().split() == ["attack,class,correct,count,accuracy"]


def test_no_export_into_a_run_that_waits_or_its_commands(run: Path, tmp_path: Path) -> None:
    waiting = RunFolder.create(tmp_path / "waiting", Config(), {})
    for out, folder in (
        (waiting.path, True),
        (waiting.path / "x.pt", False),
        (run / "control", True),
        (run / "control/1.pt", False),
    ):
        with pytest.raises(ConfigError, match="is a run folder"):
            free_place(out, force=True, folder=folder)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_force_replaces_no_pipe_or_device(tmp_path: Path) -> None:
    """A rename over /dev/null would take it away from every program, where the user may do that."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="must be a file, and is none"):
        free_place(tmp_path / "pipe", force=True, folder=False)


@pytest.mark.parametrize(
    "damage",
    [
        {"loss": "evil"},
        {"loss": 10**400},
        {"weights": [[1]] * 3},
        {"weights": ["a"] * 3},
        {"step": "7"},
        {"step": 1.5},
        {"step": 2**70},
    ],
    ids=str,
)
@pytest.mark.parametrize("to", ["csv", "tensorboard"])
def test_a_step_that_is_not_of_numbers_is_damage(run: Path, tmp_path: Path, damage: dict[str, object], to: str) -> None:
    if to == "tensorboard":
        pytest.importorskip("tensorboard")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    at = max(i for i, line in enumerate(lines) if '"StepDone"' in line)
    lines[at] = json.dumps(json.loads(lines[at]) | damage)
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    resealed(run / "metrics.jsonl")
    with pytest.raises(RunFolderError, match="is damaged"):
        export_tables(run, to, tmp_path / "out")


def test_json_without_an_end_is_no_traceback(run: Path) -> None:
    deep = "[" * 100_000
    (run / "heartbeat.json").write_text(deep)
    assert RunFolder.open(run).status()
    (run / "config.json").write_text(deep)
    with pytest.raises(RunFolderError, match="cannot be read"):
        RunFolder.open(run).config()
    (run / "metrics.jsonl").write_text(deep + "\n")
    with pytest.raises(RunFolderError, match="is not JSON"):
        RunFolder.open(run).events()


@pytest.mark.parametrize("pid", [1e999, 10**20])
def test_a_heartbeat_of_no_process(run: Path, pid: float) -> None:
    beat = {"pid": pid, "host": socket.gethostname(), "activity": "training", "time": time.time()}
    (run / "heartbeat.json").write_text(json.dumps(beat))
    assert RunFolder.open(run).status() != "training"
