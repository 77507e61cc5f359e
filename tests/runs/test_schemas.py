"""Files of a newer version, with fields more, or cut off: one clear line, the same reading, or the last whole record."""

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_up import resealed, verdicts
from safetensors import safe_open
from safetensors.torch import save_file

from faal_lab.errors import FaalLabError, RunFolderError
from faal_lab.evaluation.evaluate import read_verdicts
from faal_lab.evaluation.verdicts import Verdicts, VerdictsError
from faal_lab.results.tables import epoch_seconds
from faal_lab.runs import Checkpoint, CheckpointError, CommandReader, Heartbeat, RunFolder, read_checkpoint, write_checkpoint
from faal_lab.runs.checkpoint import digest
from faal_lab.runs.config import Config
from faal_lab.runs.events import Command, EpochDone, RunFinished, RunResumed, to_record
from faal_lab.runs.files import SCHEMAS
from faal_lab.runs.heartbeat import read_heartbeat
from faal_lab.sweeps.plan import SweepError
from faal_lab.sweeps.status import Status, read_status
from faal_lab.training.run import run

Change = Callable[[dict[str, Any]], dict[str, Any]]
STATUS = Status("done", "f", "c", "base", "train", 2.0)


def in_lines(file: Path, change: Change) -> None:
    """Change the last record of a file of lines, or the only one of a JSON file."""
    *before, last = file.read_text().strip().splitlines() if file.suffix == ".jsonl" else [file.read_text()]
    file.write_text("\n".join([*before, json.dumps(change(json.loads(last)))]) + "\n")
    if file.name in ("config.json", "metrics.jsonl", "timing.jsonl"):
        resealed(file)


def in_metadata(file: Path, change: Change) -> None:
    with safe_open(file, framework="pt") as stored:
        header = change(json.loads(stored.metadata()["faal_lab"])["header"])
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (not a dict)
    save_file(tensors, file, {"faal_lab": json.dumps({"header": header, "sha256": digest(tensors, header)})})


def in_npz(file: Path, change: Change) -> None:
    with np.load(io.BytesIO(file.read_bytes())) as stored:
        arrays = {name: stored[name] for name in stored.files}
    header = np.array(json.dumps(change(json.loads(str(arrays.pop("header"))))))
    np.savez(file, header=header, **{"curve/another": np.zeros(3), "examples/another": np.zeros(3)}, **arrays)


@dataclass(frozen=True)
class Format:
    """One row of SCHEMAS: its file, a change to its record, its reader, and the error of a newer version."""

    file: str
    change: Callable[[Path, Change], None]
    read: Callable[[Path], Any]  # of the run folder
    error: type[FaalLabError] = RunFolderError


FORMATS = {
    "config": Format("config.json", in_lines, lambda f: RunFolder(f).config()),
    "metrics": Format("metrics.jsonl", in_lines, lambda f: RunFolder(f).events()),
    "timing": Format("timing.jsonl", in_lines, lambda f: len(epoch_seconds(f))),
    "heartbeat": Format(
        "heartbeat.json", in_lines, lambda f: (RunFolder(f).status(), (read_heartbeat(f / "heartbeat.json") or {}).get("share"))
    ),
    "checkpoint": Format(
        "last.safetensors", in_metadata, lambda f: read_checkpoint(f / "last.safetensors").header, CheckpointError
    ),
    "verdicts": Format("verdicts-last.npz", in_npz, lambda f: read_verdicts(f).counts("pgd-20")[0].tolist(), VerdictsError),
    "status": Format("status.json", in_lines, read_status, SweepError),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with one file of each format; a job's home and its run folder are apart elsewhere."""
    made = RunFolder.create(tmp_path / "run", Config(tau=0.3), {"python": "3"})
    with Heartbeat(made.path, lambda: ("ended", 1.0)), made.recording() as recorder:
        for epoch in (1, 2):
            recorder.write(EpochDone(epoch, epoch, [1], [1], [0]))
        recorder.write(RunFinished(2, "done"))
    write_checkpoint(made.checkpoint(), Checkpoint({"model.w": torch.ones(2)}, {"step": 2}))
    made.verdicts_file().write_bytes(verdicts([90, 60]).to_bytes())
    STATUS.write(made.path)
    return made.path


def test_every_format_but_commands_is_in_the_table() -> None:
    assert set(FORMATS) == set(SCHEMAS) - {"command"}, "a run must not end at a command: see below"


@pytest.mark.parametrize("name", FORMATS)
def test_a_newer_version_is_one_clear_line(folder: Path, name: str) -> None:
    kind, newer = FORMATS[name], SCHEMAS[name] + 1
    assert kind.read(folder) is not None
    kind.change(folder / kind.file, lambda record: record | {"schema": newer})
    said = (
        rf"^\S+{kind.file} was made by a newer faal_lab \(schema {newer}, this one reads up to {SCHEMAS[name]}\): "
        r"pip install -U faal-lab$"
    )
    with pytest.raises(kind.error, match=said):
        kind.read(folder)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("schema", [0, "1", None, True, 1.5])
def test_a_version_that_is_none_is_damage(folder: Path, name: str, schema: object) -> None:
    kind = FORMATS[name]
    kind.change(folder / kind.file, lambda record: record | {"schema": schema})
    with pytest.raises(kind.error, match=rf"{kind.file} is damaged: its schema is {schema!r}, expected a whole number from 1"):
        kind.read(folder)


@pytest.mark.parametrize("name", FORMATS)
def test_a_field_more_changes_nothing(folder: Path, name: str) -> None:
    kind = FORMATS[name]
    before = kind.read(folder)
    kind.change(folder / kind.file, lambda record: record | {"another": [1, {"two": 3}]})
    after = kind.read(folder)
    assert after == (before | {"another": [1, {"two": 3}]} if name == "checkpoint" else before), "a header keeps it"


@pytest.mark.parametrize("name", FORMATS)
def test_a_record_without_a_version_is_of_the_first(folder: Path, name: str) -> None:
    kind = FORMATS[name]
    before = kind.read(folder)
    kind.change(folder / kind.file, lambda record: {key: value for key, value in record.items() if key != "schema"})
    assert kind.read(folder) == before


def test_a_setting_more_is_refused(folder: Path) -> None:
    in_lines(folder / "config.json", lambda record: record | {"config": record["config"] | {"tua": 1}})
    with pytest.raises(RunFolderError, match=r"config\.json is of another version of faal-lab: Unknown setting 'tua'\. Did you"):
        RunFolder(folder).config()


@pytest.mark.parametrize("record", [3, [], {"config": 3, "hash": "", "versions": {}}, {"config": {}}])
def test_a_config_of_another_form(folder: Path, record: object) -> None:
    (folder / "config.json").write_text(json.dumps(record))
    with pytest.raises(RunFolderError, match=r"config\.json (is damaged|is of another version|cannot be read)"):
        RunFolder(folder).config()


@pytest.mark.parametrize(
    "record, text",
    [
        (3, "metrics.jsonl is damaged: expected a JSON object, got int"),
        (
            {"event": "Sneezed", "schema": 1},
            "metrics.jsonl has an event 'Sneezed' that this faal_lab does not know: pip install -U",
        ),
        ({"event": "RunFinished", "schema": 1, "step": 2}, "metrics.jsonl is damaged: RunFinished without reason"),
        (
            {"event": "RunResumed", "schema": 1, "from_step": None},
            "metrics.jsonl is damaged: RunResumed with from_step 'None'",
        ),
        ({"event": "RunFinished", "schema": 1, "step": "2", "reason": "done"}, "is damaged: RunFinished with step '2'"),
    ],
)
def test_a_record_that_is_no_event(folder: Path, record: object, text: str) -> None:
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(json.dumps(record) + "\n")
    with pytest.raises(RunFolderError, match=text):
        RunFolder(folder).events()


def test_fields_that_came_later_may_be_missing(folder: Path) -> None:
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"event": "RunResumed", "schema": 1, "from_step": 2}\n')
    resealed(folder / "metrics.jsonl")
    assert RunFolder(folder).events()[-1] == RunResumed(2)


def test_half_a_last_line_is_ignored_and_cut_before_the_next_record(folder: Path) -> None:
    events, times = RunFolder(folder).events(), epoch_seconds(folder)
    for name in ("metrics.jsonl", "timing.jsonl"):
        with open(folder / name, "ab") as file:
            file.write(b'{"event": "StepDone", "schema": 1, "st')
    assert RunFolder(folder).events() == events
    assert epoch_seconds(folder) == times
    with RunFolder(folder).recording() as recorder:
        recorder.write(RunResumed(2))
    assert RunFolder(folder).events() == [*events, RunResumed(2)]
    assert len((folder / "timing.jsonl").read_text().splitlines()) == 4
    assert epoch_seconds(folder) == times


@pytest.mark.parametrize(
    "line", ["3", "[]", '{"event": "EpochDone"}', '{"time": 3}', '{"event": "EpochDone", "time": null}', "{"]
)
def test_a_time_that_is_none(folder: Path, line: str) -> None:
    (folder / "timing.jsonl").write_text(line + "\n")
    with pytest.raises(RunFolderError, match=r"timing\.jsonl (cannot be read|is damaged)"):
        epoch_seconds(folder)


@pytest.mark.parametrize("text", ["", "{", '{"pid": 1}', '{"pid": "x", "activity": "training", "time": 9e9}', '{"time": 9e9}'])
def test_a_heartbeat_of_which_nothing_can_be_read(folder: Path, text: str) -> None:
    (folder / "heartbeat.json").write_text(text)
    assert read_heartbeat(folder / "heartbeat.json") is None
    assert RunFolder(folder).status() == "done"


def test_verdicts_cut_anywhere(folder: Path) -> None:
    file = folder / "verdicts-last.npz"
    whole = file.read_bytes()
    for length in range(0, len(whole), 7):
        file.write_bytes(whole[:length])
        with pytest.raises(VerdictsError, match=r"verdicts-last\.npz is damaged: .*Evaluate again"):
            Verdicts.read(file)


def test_a_status_cut_off_is_none(folder: Path) -> None:
    (folder / "status.json").write_text((folder / "status.json").read_text()[:40])
    assert read_status(folder) is None


def test_a_command_of_a_newer_version_is_refused_and_the_run_goes_on(quick: Config, tmp_path: Path) -> None:
    events = run(quick, tmp_path / "run")
    next(events)
    folder = RunFolder(tmp_path / "run")
    number = folder.send(Command("stop")).number
    in_lines(folder.control / f"{number:06d}.json", lambda record: record | {"schema": SCHEMAS["command"] + 1})
    (refused,) = [record for record in map(to_record, events) if record["event"] == "CommandRefused"]
    assert "'000001.json was made by a newer faal_lab (schema 2, this one reads up to 1): pip install" in refused["reason"]
    assert folder.events()[-1] == RunFinished(4, "done")


def test_commands_of_another_writer_come_by_number(folder: Path) -> None:
    for name in ("10", "9", "000002"):
        (folder / "control" / f"{name}.json").write_text(
            json.dumps({"do": "turn", "dial": "tau", "value": int(name), "by": "me"})
        )
    assert [command.value for command in CommandReader(folder / "control").poll()] == [2, 9, 10]


def test_one_newer_run_does_not_keep_the_workbench_from_opening(folder: Path) -> None:
    pytest.importorskip("ipywidgets")
    from faal_lab.widgets import Workbench

    shutil.copytree(folder, folder.parent / "runs" / "newer")
    in_lines(folder.parent / "runs" / "newer" / "heartbeat.json", lambda record: record | {"schema": 99})
    bench = Workbench(runs=folder.parent / "runs")
    assert bench.run is None
    bench.close()
