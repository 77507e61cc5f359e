"""Every notebook runs from the command line; a mistake in a parameter, or in a run, ends it with an exit code."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from in_process import execute

from faal_lab.evaluation.evaluate import evaluate_run
from faal_lab.runs import RunFolder
from faal_lab.runs.config import Config
from faal_lab.sweeps.demo import demo
from faal_lab.training.restore import load_model

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted([*ROOT.glob("parameterized/*.ipynb"), *ROOT.glob("notebooks/*.ipynb")])
TEACHING = sorted(ROOT.glob("notebooks/*.ipynb"))
QUICK = ["-p", "epochs", "1", "-p", "batch_size", "250", "-p", "attack_steps", "1"]


def papermill(name: str, folder: Path, *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "papermill", str(ROOT / name), str(folder / "out.ipynb"), "-k", "python3"]
    return subprocess.run(
        [*command, "--no-progress-bar", "--cwd", str(folder), *words], capture_output=True, text=True, cwd=folder
    )


def cells(path: Path, kind: str) -> list[dict]:
    return [c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == kind]


def words(cell: dict) -> int:
    return len(" ".join(line for line in cell["source"] if not line.startswith(("import ", "from "))).split())


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_are_thin_and_without_output(path: Path) -> None:
    code, prose = cells(path, "code"), cells(path, "markdown")
    assert not any(c["outputs"] or c["execution_count"] for c in code)
    assert all("".join(c["source"]).count("\n") < 15 for c in code)
    defining = [c for c in code if re.search(r"^class |^def ", "".join(c["source"]), re.M)]
    assert len(defining) == (path.stem == "06_bring_your_own"), "the user's own method is defined where its subject is that"
    assert prose, "a notebook explains itself"
    assert json.loads(path.read_text())["metadata"]["kernelspec"]["name"] == "python3"
    tagged = [c for c in code if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1 if path.parent.name == "parameterized" else len(tagged) <= 1
    if path.parent.name == "notebooks":
        assert sum(map(words, prose)) > sum(map(words, code)), "more prose than code"


@pytest.mark.parametrize("name", ["train", "finetune"])
def test_the_defaults_a_notebook_shows_are_settings(name: str) -> None:
    (cell,) = [c for c in cells(ROOT / f"parameterized/{name}.ipynb", "code") if "parameters" in c["metadata"].get("tags", [])]
    shown: dict = {}
    exec("".join(cell["source"]), shown)
    shown = {k: v for k, v in shown.items() if not k.startswith("_") and k not in ("out", "resume")}
    config = Config.from_mapping(shown)
    if name == "train":
        assert config == Config(), "the notebook and the library have the same defaults"


@pytest.mark.slow
@pytest.mark.notebook
def test_the_whole_chain_by_papermill(tmp_path: Path, capsys) -> None:
    page = demo(tmp_path / "demo", quick=True)
    said = capsys.readouterr().out
    for name in ("base", "control", "faal"):
        for attack in ("clean", "pgd-20", "cw-20"):
            assert re.search(rf"^{name} +{attack} +\d", said, re.M)
    assert page == tmp_path / "demo" / "report.html"
    assert page.stat().st_size > 3_000_000, "plotly is inside"
    tuned = RunFolder(tmp_path / "demo" / "faal").config()
    assert (tuned.fairness, tuned.attack_start, tuned.base) == ("faal", "zero", str(tmp_path / "demo" / "base"))
    assert len(list((tmp_path / "demo" / "jobs").rglob("executed.ipynb"))) == 7
    demo(tmp_path / "demo", quick=True)
    assert "faal: done earlier" in capsys.readouterr().out, "started again, nothing is made twice"


@pytest.mark.notebook
@pytest.mark.parametrize("path", TEACHING, ids=lambda p: p.stem)
def test_a_teaching_notebook_runs_unattended(path: Path, tmp_path: Path) -> None:
    smoke = any("parameters" in c["metadata"].get("tags", []) for c in cells(path, "code"))
    found = execute(f"notebooks/{path.name}", tmp_path, {"smoke": True} if smoke else None)
    assert found.error is None, found.error
    assert "That cannot be checked" not in found.text
    assert ("Not answered yet" in found.text) == ("answer_1" in path.read_text())


def test_links_between_notebooks_lead_somewhere() -> None:
    linked = set()
    for path in TEACHING:
        for target in re.findall(r"\]\(([^)#]+)\)", "".join("".join(c["source"]) for c in cells(path, "markdown"))):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"
            linked |= {target} if path.stem == "00_map" else set()
    assert {p.name for p in TEACHING} - {"00_map.ipynb"} <= linked, "the map names every notebook"


@pytest.mark.notebook
def test_somebody_elses_weights_are_evaluated(tmp_path: Path, base: Path) -> None:
    torch.save(load_model(base)[0].state_dict(), tmp_path / "theirs.pth")
    ours = shutil.copytree(base, tmp_path / "ours")
    words = {
        "runs": f"theirs.pth,{ours}",
        "model": "small-cnn",
        "data": "digits",
        "epsilon": 0.1,
        "attacks": "clean,fgsm",
        "images": 50,
    }
    found = execute("parameterized/evaluate.ipynb", tmp_path, words)
    assert found.error is None, found.error
    assert "theirs.pth is the run folder runs/theirs from now on" in found.text
    assert "On 50 of the 597 test images, 5 of each class" in found.text
    assert RunFolder(tmp_path / "runs" / "theirs").verdicts_file().exists()


@pytest.mark.notebook
def test_a_run_is_balanced_by_a_notebook(tmp_path: Path) -> None:
    words = {"run": str(ROOT / "notebooks" / "recorded" / "control"), "rounds": 1, "tau": 0.3, "out": "fair", "average_floor": 30}
    found = execute("parameterized/balance.ipynb", tmp_path, words)
    assert found.error is None, found.error
    assert "Rounds of the balance of fair" in found.text
    config = RunFolder(tmp_path / "fair").config()
    assert (config.balance_tau, config.balance_floor, config.validation_steps) == (0.3, 30.0, 10)
    again = execute("parameterized/balance.ipynb", tmp_path, words)
    assert "already holds a run" in str(again.error)


@pytest.mark.notebook
def test_pictures_times_and_a_papers_numbers(tmp_path: Path, base: Path) -> None:
    runs = {name: shutil.copytree(base, tmp_path / name) for name in ("one", "two")}
    for number, path in enumerate(runs.values(), 1):
        evaluate_run(path, attacks=("clean", "pgd-20"))
        times = [{"event": "EpochDone", "step": 1, "time": 60.0 * number * epoch} for epoch in range(3)]
        (path / "timing.jsonl").write_text("".join(json.dumps(time) + "\n" for time in times))
    named = ",".join(f"{name}={path}" for name, path in runs.items())
    found = execute("parameterized/pictures.ipynb", tmp_path, {"runs": named, "out": "drawn", "formats": "csv"})
    assert found.error is None, found.error
    assert {"clean-and-pgd-20.csv", "one-radius.csv"} <= {path.name for path in (tmp_path / "drawn").iterdir()}
    found = execute("parameterized/times.ipynb", tmp_path, {"runs": named, "out": "times.csv", "paper": "one=2,two=3"})
    assert found.error is None, found.error
    assert [line.split(",")[2] for line in (tmp_path / "times.csv").read_text().splitlines()] == ["minutes", "1.0", "2.0"]
    (tmp_path / "paper.yaml").write_text("two: {source: Table 9, attacks: {pgd-20: {average: 1.0, worst: 0.5}}}")
    found = execute("parameterized/report.ipynb", tmp_path, {"runs": named, "out": "page.html", "paper": "paper.yaml"})
    assert found.error is None, found.error
    assert "Beside the paper" in (tmp_path / "page.md").read_text()
    assert "Table 9" in found.text


@pytest.mark.parametrize(
    "name, parameters, text",
    [
        ("train", {"fairnes": "faal"}, "Unknown parameter 'fairnes'. Did you mean 'fairness'?"),
        ("finetune", {"base": "nowhere"}, "base nowhere does not exist"),
        ("evaluate", {"run": "x"}, "Unknown parameter 'run'. Did you mean 'runs'?"),
        ("evaluate", {"runs": "w.pth", "images": "many"}, "images must be of type int, got 'many' (str)."),
        ("balance", {"runs": "x"}, "Unknown parameter 'runs'. Did you mean 'run'?"),
        ("balance", {"rounds": "many"}, "rounds must be of type int, got 'many' (str)."),
        ("pictures", {"seting": "tau"}, "Unknown parameter 'seting'. Did you mean 'setting'?"),
        ("times", {"runs": "nowhere"}, "nowhere is not a run folder"),
    ],
)
def test_a_mistaken_parameter_ends_the_notebook(tmp_path: Path, name: str, parameters: dict, text: str) -> None:
    assert text in str(execute(f"parameterized/{name}.ipynb", tmp_path, parameters).error)


@pytest.mark.notebook
@pytest.mark.parametrize(
    "words, text",
    [
        (["-r", "seed", "7"], "seed must be a whole number, got '7'"),
        ([*QUICK, "-p", "learning_rate", "1e30", "-p", "out", "run"], "TrainingDiverged"),
    ],
)
def test_an_error_ends_papermill_by_its_exit_code(tmp_path: Path, words: list[str], text: str) -> None:
    found = papermill("parameterized/train.ipynb", tmp_path, *words)
    assert found.returncode == 1
    assert text in found.stderr
    assert "exception" in (tmp_path / "out.ipynb").read_text()
    if "out" in words:
        assert RunFolder(tmp_path / "run").status() == "failed"
