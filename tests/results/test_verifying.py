"""`faal-lab verify`: every file of a run folder by its checksum, and what can still be used."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from faal_lab.__main__ import main
from faal_lab.errors import RunFolderError, csv_cell, printable
from faal_lab.evaluation.evaluate import evaluate_run
from faal_lab.evaluation.verdicts import Journal, Verdicts
from faal_lab.results.check import verify
from faal_lab.runs import RunFolder
from faal_lab.runs.config import Config
from faal_lab.training.run import run


@pytest.fixture
def whole(base: Path, tmp_path: Path) -> Path:
    path = Path(shutil.copytree(base, tmp_path / "whole"))
    evaluate_run(path, attacks=("clean", "pgd-20"))
    return path


def test_a_whole_run(whole: Path, capsys) -> None:
    assert main(["verify", str(whole)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "whole"
    assert [line.split()[0] for line in said[1:]] == ["passed"] * len(said[1:])
    names = [case.name for case in verify(whole)]
    assert {"config.json", "metrics.jsonl", "timing.jsonl", "last.safetensors", "verdicts-last.npz"} <= set(names)


@pytest.mark.parametrize(
    "file, text",
    [
        ("metrics.jsonl", "Weights and verdicts can be used"),
        ("timing.jsonl", "only the times are lost"),
        ("last.safetensors", "History and verdicts can be used"),
        ("verdicts-last.npz", "Everything else can be used"),
    ],
)
def test_damage_is_named_with_what_can_be_used(whole: Path, file: str, text: str, capsys) -> None:
    content = (whole / file).read_bytes()
    middle = len(content) // 2
    (whole / file).write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    assert main(["verify", str(whole)]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.strip().startswith(f"failed    {file}")]
    assert text in line


def test_a_record_that_ends_before_its_checkpoint(whole: Path, capsys) -> None:
    lines = (whole / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    last = max(n for n, line in enumerate(lines) if b'"StepDone"' in line)
    for kept in (lines[: last - 2], lines[: last + 1], []):
        (whole / "metrics.jsonl").write_bytes(b"".join(kept))
        (case,) = [case for case in verify(whole) if case.outcome == "failed" and case.name == "metrics.jsonl"]
        assert "is damaged: it ends with" in case.text
        assert main(["check", str(whole), "--worst-min", "1"]) == 1
    with pytest.raises(RunFolderError, match=r"metrics\.jsonl is damaged: it ends with step 0, and a checkpoint is of step"):
        next(run(RunFolder(whole).config(), whole, resume=True))
    assert "metrics.jsonl is damaged" in capsys.readouterr().out


def test_weights_may_travel_alone(base: Path, tmp_path: Path, capsys) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    for file in ("config.json", "last.safetensors"):
        shutil.copy(base / file, alone / file)
    assert [case.name for case in verify(alone) if case.outcome == "accepted"] == ["metrics.jsonl"]
    evaluate_run(alone, attacks=("clean",))
    assert main(["check", str(alone), "--average-min", "1"]) == 0
    assert main(["verify", str(alone)]) == 0


def test_only_the_damaged_file_is_blamed(whole: Path) -> None:
    for file, at in (("metrics.jsonl", 300), ("config.json", (whole / "config.json").read_bytes().index(b'"hash"') + 10)):
        content = (whole / file).read_bytes()
        (whole / file).write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert [case.name for case in verify(whole) if case.outcome != "passed"] == [file]
        (whole / file).write_bytes(content)


def test_verdicts_of_earlier_weights_are_not_damaged(whole: Path) -> None:
    file = whole / "verdicts-last.npz"
    verdicts = Verdicts.read(file)
    file.write_bytes(replace(verdicts, header={**verdicts.header, "weights_sha256": "of earlier ones"}).to_bytes())
    (case,) = [case for case in verify(whole) if case.outcome != "passed"]
    assert (case.name, case.outcome) == (file.name, "accepted")
    assert "was measured on other weights" in case.text
    assert main(["verify", str(whole)]) == 0


def test_a_record_without_an_end_is_no_traceback(whole: Path) -> None:
    with open(whole / "metrics.jsonl", "ab") as file:
        file.write(b'{"event": "StepDone", "step": ' + b"[" * 100_000 + b"\n")
    assert main(["check", str(whole), "--worst-min", "1"]) == 1


def test_pieces_of_an_unfinished_evaluation(whole: Path) -> None:
    journal = Journal(whole, {"seed": 1})
    for number in range(3):
        journal.add("apgd-ce", number, [1, 2])
    assert journal.folder is not None
    file = journal.folder / "part-0.jsonl"
    case = verify(whole)[-1]
    assert (case.outcome, case.text[:6]) == ("passed", "3 of 3")
    file.write_bytes(file.read_bytes().replace(b"[1, 2]", b"[1, 3]", 1))
    case = verify(whole)[-1]
    assert (case.outcome, case.text) == (
        "accepted",
        "2 of 3 pieces of an unfinished evaluation are whole; the others are made again by it",
    )


def test_a_run_without_steps_is_whole(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "new", Config(), {})
    assert [(case.name, case.outcome) for case in verify(folder.path)] == [("config.json", "passed")]
    assert main(["verify", str(tmp_path / "nothing")]) == 1


@pytest.mark.parametrize(
    "cell, written",
    [("=1+2", "'=1+2"), ("-1+2", "'-1+2"), ("@SUM(A1)", "'@SUM(A1)"), ("\t=1", "'\t=1"), ("-1", "-1"), ("+1.5", "+1.5"), ("cat", "cat"), (3, 3)],
)  # fmt: skip
def test_no_cell_is_a_formula(cell: object, written: object) -> None:
    assert csv_cell(cell) == written


def test_no_name_steers_a_terminal() -> None:
    assert printable("a\x1b[31mb\x9bc\u202ed\re\tf\ng") == "a?[31mb?c?d?e\tf\ng"
