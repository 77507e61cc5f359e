"""The run folder: events, commands, locks, checkpoints; damaged, stolen and half-written ones too."""

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from faal_lab.errors import RunFolderError
from faal_lab.runs import (
    Checkpoint,
    CheckpointError,
    CommandReader,
    Follower,
    Heartbeat,
    RunFolder,
    RunLocked,
    free_name,
    read_checkpoint,
    send,
    write_checkpoint,
)
from faal_lab.runs.config import Config
from faal_lab.runs.events import (
    Command,
    DialTurned,
    RunFinished,
    RunResumed,
    RunStarted,
    StepDone,
    from_record,
    to_record,
)
from faal_lab.runs.files import seal_of, sealed

STEP = StepDone(1, 0, 0.5, 0.5, 0.1, 0.01, [0.4, 0.6], 0.5, [3, 0], [0.1, None], [2, 0], None)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", Config(), {"python": "3"})


def test_events_survive_their_record() -> None:
    for event in (STEP, RunStarted(["a", "b"], 4, 2, 0.5, 0.1, 0.05), DialTurned(3, "tau", 0.5, 0.7)):
        assert from_record(json.loads(json.dumps(to_record(event)))) == event


def test_a_folder_is_made_once(folder: RunFolder) -> None:
    with pytest.raises(RunFolderError, match=r"already holds a run\. Choose another folder, resume it"):
        RunFolder.create(folder.path, Config(), {})
    assert RunFolder.open(folder.path).config() == Config()
    assert free_name(folder.path.parent, "run") == folder.path.parent / "run-2"
    assert free_name(folder.path.parent, "new") == folder.path.parent / "new"


def test_a_missing_and_a_damaged_folder(folder: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"is not a run folder \(no config\.json in it\)\. Train one first"):
        RunFolder.open(tmp_path / "nothing")
    folder.config_file.write_text("{")
    with pytest.raises(RunFolderError, match=r"config\.json cannot be read"):
        folder.config()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc, which nobody can write to")
def test_no_permission_to_write() -> None:
    with pytest.raises(RunFolderError, match=r"Cannot write to the run folder /proc/self/run: .*Choose another"):
        RunFolder.create("/proc/self/run", Config(), {})


def test_following_a_run_as_it_grows(folder: RunFolder) -> None:
    follower = Follower(folder.path)
    assert follower.poll() == 0
    with folder.recording() as recorder:
        recorder.write(RunStarted(["a", "b"], 4, 2, 0.5, 0.1, 0.05))
        recorder.write(STEP)
    assert follower.poll() == 2
    assert follower.steps == [STEP]
    whole = folder.metrics_file.read_bytes()
    before = seal_of(whole.splitlines()[-1]) or 0
    line = sealed(json.dumps(to_record(replace(STEP, step=2))).encode(), before) + b"\n"
    folder.metrics_file.write_bytes(whole + line[:30])
    assert follower.poll() == 0, "a half-written line waits"
    folder.metrics_file.write_bytes(whole + line)
    assert follower.poll() == 1
    with folder.recording() as recorder:
        recorder.write(RunResumed(1))
    follower.poll()
    assert [s.step for s in follower.steps] == [1], "what a resume undid is gone"


def test_a_broken_last_line_is_cut_before_the_next_record(folder: RunFolder) -> None:
    with folder.recording() as recorder:
        recorder.write(STEP)
    with open(folder.metrics_file, "ab") as file:
        file.write(b'{"event": "StepD')
    with folder.recording() as recorder:
        recorder.write(RunFinished(1, "done"))
    assert folder.events() == [STEP, RunFinished(1, "done")]


def test_a_bad_line_does_not_bring_the_lines_before_it_twice(folder: RunFolder) -> None:
    good = json.dumps(to_record(STEP))
    folder.metrics_file.write_text(f"{good}\nnot json\n")
    follower = Follower(folder.path)
    for _ in range(3):
        with pytest.raises(RunFolderError, match="holds a line that is not JSON"):
            follower.poll()
    assert follower.steps == []


def test_a_resumed_run_that_died_is_lost_however_it_ended_before(folder: RunFolder) -> None:
    with folder.recording() as recorder:
        for event in (STEP, RunFinished(1, "stopped"), RunResumed(1)):
            recorder.write(event)
    folder.heartbeat_file.write_text(json.dumps({"pid": 1, "host": "x", "activity": "training", "time": 0}))
    assert folder.status() == "lost"


def test_a_folder_deleted_while_followed(folder: RunFolder) -> None:
    with folder.recording() as recorder:
        recorder.write(STEP)
    follower = Follower(folder.path)
    follower.poll()
    folder.metrics_file.unlink()
    with pytest.raises(RunFolderError, match="is gone: it was deleted or moved"):
        follower.poll()


def test_commands_come_in_order_and_once(folder: RunFolder) -> None:
    numbers = [send(folder.control, Command("turn", "tau", v)).number for v in (0.1, 0.2, 0.3)]
    reader = CommandReader(folder.control)
    assert [c.value for c in reader.poll()] == [0.1, 0.2, 0.3]
    assert numbers == [1, 2, 3]
    assert reader.poll() == []
    assert [c.number for c in CommandReader(folder.control, after=2).poll()] == [3]


def test_writers_at_once_lose_no_command(folder: RunFolder) -> None:
    def many() -> None:
        for _ in range(20):
            send(folder.control, Command("pause"))

    writers = [threading.Thread(target=many) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [c.number for c in CommandReader(folder.control).poll()] == list(range(1, 81))


def test_a_command_file_of_nonsense_is_a_command_nobody_knows(folder: RunFolder) -> None:
    (folder.control / "000001.json").write_text("][")
    (command,) = CommandReader(folder.control).poll()
    assert command.do == "000001.json"


def test_one_writer_at_a_time(folder: RunFolder) -> None:
    code = (
        "import sys, time; from pathlib import Path; from faal_lab.runs import Heartbeat\n"
        "with Heartbeat(Path(sys.argv[1]), lambda: ('training', 0.5)): print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(folder.path)], stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(RunLocked, match=rf"is being written by process {other.pid} on .* \(training\)\. Stop it first"):
            Heartbeat(folder.path, lambda: ("training", 0.0)).__enter__()
        assert folder.status() == "training"
        other.kill()
        other.wait()
        assert folder.status() == "lost", "killed without a last word"
        with Heartbeat(folder.path, lambda: ("training", 0.0)):
            assert folder.status() == "training"
    finally:
        other.kill()
        other.wait()
        if other.stdout is not None:
            other.stdout.close()


def test_a_silent_heartbeat_of_another_machine_is_lost(folder: RunFolder) -> None:
    beat = {"pid": 1, "host": "elsewhere", "activity": "training", "share": 0.5, "time": time.time()}
    folder.heartbeat_file.write_text(json.dumps(beat))
    assert folder.status() == "training"
    folder.heartbeat_file.write_text(json.dumps({**beat, "time": time.time() - 60}))
    assert folder.status() == "lost"


@pytest.fixture
def checkpoint() -> Checkpoint:
    return Checkpoint({"model.w": torch.randn(4, 3), "model.n": torch.tensor(7)}, {"step": 5})


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path, checkpoint: Checkpoint) -> None:
    write_checkpoint(tmp_path / "c.safetensors", checkpoint)
    back = read_checkpoint(tmp_path / "c.safetensors")
    assert back.header == {"step": 5}
    assert all(torch.equal(back.tensors[k], v) for k, v in checkpoint.tensors.items())
    assert set(back.part("model")) == {"w", "n"}


def test_every_damage_to_a_checkpoint_is_refused(tmp_path: Path, checkpoint: Checkpoint) -> None:
    file = tmp_path / "c.safetensors"
    write_checkpoint(file, checkpoint)
    whole = file.read_bytes()
    for position in range(0, len(whole), 3):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 16]) + whole[position + 1 :])
        with pytest.raises(CheckpointError, match="damaged|not written by faal-lab"):
            read_checkpoint(file)
    for length in (0, 5, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="damaged or not a safetensors file.*Use an earlier checkpoint"):
            read_checkpoint(file)
    with pytest.raises(CheckpointError, match="No checkpoint at"):
        read_checkpoint(tmp_path / "none.safetensors")


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"w": Payload()}, tmp_path / "evil.safetensors")
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        read_checkpoint(tmp_path / "evil.safetensors")
    assert not (tmp_path / "executed").exists()


def test_weights_that_are_not_finite_do_not_replace_good_ones(tmp_path: Path, checkpoint: Checkpoint) -> None:
    file = tmp_path / "c.safetensors"
    write_checkpoint(file, checkpoint)
    bad = Checkpoint({"model.w": torch.full((4, 3), float("nan"))}, {"step": 6})
    with pytest.raises(CheckpointError, match=r"model\.w is not finite: .* is left as it was"):
        write_checkpoint(file, bad)
    assert read_checkpoint(file).header == {"step": 5}


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, checkpoint: Checkpoint, monkeypatch) -> None:
    file = tmp_path / "c.safetensors"
    write_checkpoint(file, checkpoint)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=rf"cannot write {file}: No space left on device; what was there before is intact"):
        write_checkpoint(file, Checkpoint(checkpoint.tensors, {"step": 9}))
    assert read_checkpoint(file).header == {"step": 5}
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


def test_a_full_disk_keeps_what_was_recorded(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a line is written, then nothing more; when there is room again, the rest must not come after it."""
    with folder.recording() as recorder:
        recorder.write(RunFinished(1, "stopped"))
        before = folder.metrics_file.read_bytes()

        class Full:
            name = str(folder.metrics_file)
            room = 10

            def write(self, content: bytes) -> int:
                if not self.room:
                    raise OSError(28, "No space left on device")
                with open(self.name, "ab") as file:
                    file.write(content[: self.room])
                self.room = 0
                return 10

        monkeypatch.setattr(recorder, "_files", [Full(), recorder._files[1]])
        with pytest.raises(OSError, match=rf"cannot write {folder.metrics_file}: No space left on device; what was there"):
            recorder.write(RunFinished(2, "stopped"))
    assert folder.metrics_file.read_bytes()[: len(before)] == before
    assert len(folder.metrics_file.read_bytes()) == len(before) + 10
    with folder.recording() as recorder:
        recorder.write(RunFinished(2, "done"))
    assert folder.events() == [RunFinished(1, "stopped"), RunFinished(2, "done")]


# --- checksums ---


def recorded(folder: RunFolder, steps: int = 4) -> list[bytes]:
    with folder.recording() as recorder:
        for step in range(1, steps + 1):
            recorder.write(replace(STEP, step=step))
    return folder.metrics_file.read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize(
    "damaged, line",
    [
        (lambda lines: [lines[0], lines[1].replace(b'"loss": 0.5', b'"loss": 0.4'), *lines[2:]], 2),
        (lambda lines: [*lines[:2], lines[3]], 3),
        (lambda lines: [lines[0], lines[2], lines[1], lines[3]], 2),
        (lambda lines: [lines[0], lines[1], lines[1], *lines[2:]], 3),
        (lambda lines: lines[1:], 1),
        (lambda lines: [lines[0].replace(b"check", b"chock"), *lines[1:]], 2),
        (lambda lines: [*lines[:2], lines[2].replace(b', "check"', b', "chick"'), lines[3]], 3),
    ],
    ids=["changed", "missing", "out of place", "twice", "first missing", "first without", "without"],
)
def test_a_line_that_does_not_fit_is_refused(folder: RunFolder, damaged, line: int) -> None:
    folder.metrics_file.write_bytes(b"".join(damaged(recorded(folder))))
    with pytest.raises(
        RunFolderError, match=rf"metrics\.jsonl is damaged: line {line} does not fit .*faal-lab verify {folder.path}"
    ):
        folder.events()


def test_lines_of_another_run_are_refused(folder: RunFolder, tmp_path: Path) -> None:
    other = RunFolder.create(tmp_path / "other", Config(seed=1), {})
    recorded(other)
    recorded(folder)
    assert len(folder.times()) == len(folder.events()) == 4
    for file in ("metrics.jsonl", "timing.jsonl"):
        (folder.path / file).write_bytes((other.path / file).read_bytes())
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl is damaged: line 1"):
        folder.events()
    with pytest.raises(RunFolderError, match=r"timing\.jsonl is damaged: line 1"):
        folder.times()


def test_lines_of_an_older_version_are_read_and_gone_on_with(folder: RunFolder) -> None:
    plain = [json.dumps(to_record(replace(STEP, step=step))).encode() + b"\n" for step in (1, 2)]
    folder.metrics_file.write_bytes(b"".join(plain))
    with folder.recording() as recorder:
        recorder.write(replace(STEP, step=3))
    with folder.recording() as recorder:
        recorder.write(replace(STEP, step=4))
    follower = Follower(folder.path)
    assert (follower.poll(), [step.step for step in follower.steps]) == (4, [1, 2, 3, 4])
    whole = folder.metrics_file.read_bytes()
    folder.metrics_file.write_bytes(whole + plain[0])
    with pytest.raises(RunFolderError, match="line 5 does not fit"):
        folder.events()


def test_a_config_that_was_changed_is_refused(folder: RunFolder) -> None:
    text = folder.config_file.read_text()
    for old, new in (('"tau": 0.5', '"tau": 0.6'), ('"python": "3"', '"python": "2"'), ('"check"', '"chock"')):
        assert text.count(old) == 1
        folder.config_file.write_text(text.replace(old, new))
        with pytest.raises(RunFolderError, match=r"config\.json is damaged: it does not fit its checksum\. If you changed it on"):
            folder.config()
    record = json.loads(text)
    del record["check"]
    record["config"]["tau"] = 0.6
    folder.config_file.write_text(json.dumps(record))
    assert folder.config().tau == 0.6, "on purpose"


def test_what_a_killed_writer_left_is_cleared(folder: RunFolder) -> None:
    theirs, ours = (folder.path / f".last.safetensors.{number}.tmp" for number in (1, os.getpid()))
    for file in (theirs, ours):
        file.write_bytes(b"half")
    recorded(folder)
    assert (theirs.exists(), ours.exists()) == (False, True)


def test_a_checkpoint_knows_its_place(folder: RunFolder, tmp_path: Path, checkpoint: Checkpoint) -> None:
    other = RunFolder.create(tmp_path / "other", Config(seed=1), {})
    for place in (folder, other):
        for which in ("last", "best"):
            write_checkpoint(place.checkpoint(which), checkpoint)
    assert read_checkpoint(folder.checkpoint()).header == {"step": 5}
    best = folder.checkpoint("best").read_bytes()
    folder.checkpoint().write_bytes(best)
    with pytest.raises(
        CheckpointError, match=r"last\.safetensors is of another checkpoint: it was written for best, not for last"
    ):
        read_checkpoint(folder.checkpoint())
    folder.checkpoint().write_bytes(other.checkpoint().read_bytes())
    with pytest.raises(CheckpointError, match=r"last\.safetensors is of another run"):
        read_checkpoint(folder.checkpoint())
    (tmp_path / "taken.safetensors").write_bytes(best)
    assert read_checkpoint(tmp_path / "taken.safetensors").header == {"step": 5}, "a file of its own is read anywhere"
