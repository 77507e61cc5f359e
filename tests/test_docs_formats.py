"""docs/formats.md against the code and a real run folder: every file, field, command, array and column, and no other."""

import hashlib
import io
import json
import re
import sys
import zlib
from dataclasses import dataclass, fields
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors import safe_open

from faal_lab.evaluation.evaluate import evaluate_run
from faal_lab.evaluation.groups import read_runs
from faal_lab.results.check import _ELEMENTS
from faal_lab.results.published import published
from faal_lab.results.report import report_tables
from faal_lab.runs import RunFolder
from faal_lab.runs.config import DIALS, Config
from faal_lab.runs.events import _KINDS, COMMANDS, Command, from_record
from faal_lab.runs.files import SCHEMAS
from faal_lab.sweeps import job, status
from faal_lab.sweeps import run as sweeps
from faal_lab.training.run import run

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")


def rows(head: str) -> list[list[str]]:
    """The cells of the one table whose first column has this head."""
    found = re.findall(rf"^\| {re.escape(head)} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, re.M)
    assert len(found) == 1, f"{len(found)} tables begin with {head}"
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in found[0].splitlines()]


def names(head: str) -> list[str]:
    """The name in backticks that begins each row."""
    return [re.fullmatch(r"`([^`]+)`", row[0])[1] for row in rows(head)]


@dataclass(frozen=True)
class Made:
    """A run that was steered, killed, resumed and evaluated, and its files by their path in the folder."""

    folder: RunFolder
    files: list[str]

    def records(self, name: str) -> list[dict]:
        return [json.loads(line) for line in (self.folder.path / name).read_text().splitlines()]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "tiny")
    config = Config(epochs=2, batch_size=500, attack_steps=1, validation_steps=1, fairness="faal")
    events = run(config, folder.path)
    for event in events:
        if type(event).__name__ == "StepDone" and event.step == 3:
            earlier = folder.checkpoint().read_bytes()
            events.close()
        elif type(event).__name__ == "EpochDone":
            for command in (Command("turn", "tau", 0.7), Command("turn", "tua", 1.0)):
                folder.send(command)
    folder.checkpoint().write_bytes(earlier)  # as after a kill: step 3 is made again
    list(run(config, folder.path, resume=True))
    evaluate_run(folder.path, attacks=("clean", "pgd-20", "apgd-ce"), images=20)
    evaluate_run(folder.path, attacks=("clean",), images=20, classes=("3", "8"))
    evaluate_run(folder.path, attacks=("clean", "pgd-20"), images=10, checkpoint="last")
    files = sorted(str(path.relative_to(folder.path)) for path in folder.path.rglob("*") if path.is_file())
    return Made(folder, files)


def test_every_file_of_a_run_folder_is_on_the_page_and_no_other(made: Made) -> None:
    patterns = [name for row in rows("file") for name in re.findall(r"`([^`]+)`", row[0])]
    run_folder = [pattern for pattern in patterns if "STAGE" not in pattern and pattern not in ("sweep.lock", "paper.json")]
    assert [file for file in made.files if not any(fnmatch(file, pattern) for pattern in run_folder)] == []
    unmade = [pattern for pattern in run_folder if not any(fnmatch(file, pattern) for file in made.files)]
    assert unmade == ["pgd-*/", "log.txt"], "gone by now; and of a run in a process of its own, tested in tests/training"
    assert '"log.txt"' in (ROOT / "faal_lab/training/background.py").read_text()


def test_the_versions() -> None:
    assert {row[0].strip("`"): int(row[1]) for row in rows("format")} == SCHEMAS


@pytest.mark.parametrize("kind", _KINDS.values(), ids=_KINDS)
def test_every_field_of_an_event(kind: type) -> None:
    assert names(f"field of `{kind.__name__}`") == [field.name for field in fields(kind)]


def test_every_event_has_an_example_that_reads() -> None:
    examples = [json.loads(line) for line in re.findall(r'^{"event".*}$', PAGE, re.M)]
    found = [record for record in examples if "time" not in record]
    assert [record["event"] for record in found] == re.findall(rf"^### ({'|'.join(_KINDS)})$", PAGE, re.M)
    assert {record["event"] for record in found} == set(_KINDS)
    for record in found:
        assert list(record)[2:] == [field.name for field in fields(from_record(record))]


def test_the_lists_of_a_step_have_one_number_a_class(made: Made) -> None:
    classes = len(made.records("metrics.jsonl")[0]["class_names"])
    for name, kind, _ in rows("field of `StepDone`"):
        for record in made.records("metrics.jsonl"):
            value = record.get(name.strip("`"))
            if record["event"] == "StepDone" and "[C]" in kind and value is not None:
                assert len(value) == classes
                assert ("null" in kind.split("[C]")[0]) or None not in value
            elif record["event"] == "StepDone":
                assert value is not None or "or null" in kind, name


def test_every_field_of_the_other_records(made: Made) -> None:
    for file in ("config.json", "heartbeat.json", "control/000001.json", "timing.jsonl"):
        (*_, record) = made.records(file) if file.endswith("l") else [json.loads((made.folder.path / file).read_text())]
        head = "field of `control/*.json`" if file.startswith("control") else f"field of `{file}`"
        assert names(head) == [*record, *(["own"] if file == "config.json" else [])]


def test_every_command_and_dial() -> None:
    meaning = {row[0].strip("`"): row[2] for row in rows("field of `control/*.json`")}
    assert tuple(re.findall(r"`(\w+)`", meaning["do"])) == COMMANDS
    assert tuple(re.findall(r"`(\w+)`", meaning["dial"])[1:]) == DIALS
    dial = next(row[2] for row in rows("field of `DialTurned`") if row[0] == "`dial`")
    assert tuple(re.findall(r"`(\w+)`", dial)) == DIALS


def test_every_setting() -> None:
    sys.path.insert(0, str(ROOT / "docs"))
    import settings_table

    assert settings_table.written(PAGE) == PAGE, "python docs/settings_table.py writes it"
    assert names("setting") == list(Config().to_mapping())


def test_the_hash_of_a_config(made: Made) -> None:
    record = json.loads(made.folder.config_file.read_text())
    assert record["hash"] == hashlib.sha256(json.dumps(record["config"], sort_keys=True).encode()).hexdigest()[:12]


def test_every_field_and_part_of_a_checkpoint(made: Made) -> None:
    with safe_open(made.folder.checkpoint(), framework="np") as stored:
        metadata = stored.metadata()
        tensors = {name: stored.get_tensor(name) for name in sorted(stored.keys())}
    assert list(metadata) == ["faal_lab"]
    held = json.loads(metadata["faal_lab"])
    assert sorted(held) == ["header", "sha256"]
    assert sorted(names("field of the checkpoint's header")) == sorted(
        [*held["header"], "adopted", "apart", "balanced", "wrapped"]
    )
    spec = next(row[2] for row in rows("field of the checkpoint's header") if row[0] == "`spec`")
    assert set(re.findall(r"`(\w+)`", spec)) == set(held["header"]["spec"])
    parts = names("tensors")
    assert {f"{name.split('.')[0]}." for name in tensors} <= set(parts)
    source = (ROOT / "faal_lab/training/restore.py").read_text()
    assert all(f'"{part}' in source for part in parts), "each is written"
    total = hashlib.sha256(json.dumps(held["header"], sort_keys=True).encode())
    for name, tensor in tensors.items():
        total.update(f"{name} torch.{tensor.dtype} {tensor.shape}".encode() + tensor.tobytes())
    assert total.hexdigest() == held["sha256"]


def test_every_array_and_field_of_verdicts(made: Made) -> None:
    headers, arrays = {}, {}
    for file in made.folder.path.glob("*verdicts-*.npz"):
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as stored:
            headers |= json.loads(str(stored["header"]))
            arrays |= {re.sub("^predicted/.*", "predicted/*", name): stored[name] for name in stored.files}
    described = {row[0].strip("`"): row[1] for row in rows("array")}
    assert sorted(described) == sorted(arrays)
    for name, array in arrays.items():
        kind, _, shape = described[name].partition(" ")
        assert array.dtype.kind == "U" if kind == "text" else str(array.dtype) == kind, name
        assert array.ndim == len([place for place in shape.strip("[]").split(",") if place]), name
    optional = {"compiled", "architecture_sha256"}  # of a ResNet, and of a network from elsewhere
    assert sorted(names("field of the verdicts' header")) == sorted({*headers, *optional})


def test_a_journal_is_named_by_its_conditions(made: Made) -> None:
    (file,) = made.folder.path.glob("autoattack-*/identity.json")
    text = file.read_text().strip()
    assert file.parent.name == f"autoattack-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    listed = names("field of the verdicts' header")
    between = set(json.loads(text)) - {"attacks"}
    assert between <= set(listed)
    entry, _, check = (file.parent / "part-0.jsonl").read_text().splitlines()[-1].rpartition(" ")
    assert len(json.loads(entry)) == 3
    assert check == f"{zlib.crc32(entry.encode(), zlib.crc32(text.encode())):08x}"
    assert not list(made.folder.path.glob("pgd-*")), "its pieces went with the verdicts"


def test_every_field_of_a_status_and_file_of_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert names("field of `status.json`") == ["schema", *(field.name for field in fields(status.Status))]
    home = {name.rpartition("/")[2] for name in names("file of a sweep") if name.startswith("jobs/")}
    assert home == {status.STATUS, status.LOCK, job.END, job._LOG, job._EXECUTED, job._ORDER}
    text = "{name: two, stages: {base: {notebook: train}}, paper: {base: {source: T, attacks: {clean: {average: 9}}}}}"
    (tmp_path / "two.yaml").write_text(text)
    monkeypatch.setattr(sweeps, "_made", lambda *_: {})
    for part in ("", "1/4"):
        assert sweeps.sweep(tmp_path / "two.yaml", tmp_path / "two", part=part) == 0
    made = {path.name for path in (tmp_path / "two").iterdir()}
    top = [name for row in rows("file of a sweep") for cell in (row[0], row[2]) for name in re.findall(r"`([\w.-]+\.\w+)`", cell)]
    assert made == set(top)


def test_every_column_and_outcome(made: Made) -> None:
    runs = read_runs([f"faal={made.folder.path}"])
    example = re.search(r"```yaml\n(faal:.*?)```", PAGE, re.S)
    assert example is not None
    paper = published(yaml.safe_load(example[1].replace("autoattack", "pgd-20")))
    _, data = report_tables(runs, paper)
    assert names("column of `report.csv`") == data.decode().splitlines()[0].split(",")
    assert {row[0].strip("`"): row[1].strip("`") for row in rows("outcome of `check`")} == _ELEMENTS


def test_the_script_on_the_page_reads_what_faal_lab_reads(made: Made) -> None:
    (script,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    found: dict = {}
    steps = [record["step"] for record in made.records("metrics.jsonl") if record["event"] == "StepDone"]
    assert steps == [1, 2, 3, 3, 4], "the first step 3 is dropped"
    exec(script.replace("runs/tiny", str(made.folder.path)), found)
    assert [from_record(event) for event in found["events"]] == made.folder.events()
    assert len(found["largest"]) == len([e for e in made.folder.events() if type(e).__name__ == "StepDone"]) == 4
