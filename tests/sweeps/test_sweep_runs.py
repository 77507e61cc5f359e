"""Sweeps that are really made: by papermill, in processes that fail, are killed and begin again."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml
from in_lab import wait_until
from keep import keep
from test_sweep import BALANCED

from faal_lab.runs import RunFolder
from faal_lab.runs.files import locked
from faal_lab.sweeps import run as make
from faal_lab.sweeps.engine import make_all, wanted
from faal_lab.sweeps.plan import SweepError, read_plan
from faal_lab.sweeps.status import at_work, read_status
from faal_lab.sweeps.view import rows
from faal_lab.widgets.sweep import SweepPanel

pytestmark = pytest.mark.notebook
PARAMETERS = 'out: str = ""\ntext: str = "a"\nseconds: float = 0.0\nreads: str = ""\nfails: bool = False'
WORK = """import json, os, pathlib, time
from ipykernel.connect import get_connection_info
folder = pathlib.Path(out)
with open(folder / "begun", "a") as file:
    file.write("x")
(folder / "seen").write_text(" ".join(sorted(os.environ)))
(folder / "kernel").write_text(str(os.getpid()))
(folder / "transport").write_text(json.loads(get_connection_info())["transport"])
time.sleep(seconds)"""
RESULT = """read = [(pathlib.Path(place.split("=")[-1]) / "result").read_text() for place in reads.split(",") if place]
1 / (not fails)
(folder / "result").write_text(text + "(" + "".join(read) + ")")"""


def write(folder: Path, seconds: float = 0.0, **bad: object) -> Path:
    """Two jobs, one after each, and one that gathers; a notebook that only waits and writes."""
    code = {"cell_type": "code", "execution_count": None, "outputs": []}
    made = [{**code, "id": f"c{n}", "metadata": {}, "source": text} for n, text in enumerate((PARAMETERS, WORK, RESULT))]
    made[0]["metadata"] = {"tags": ["parameters"]}
    kernel = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"},
    }
    (folder / "toy.ipynb").write_text(json.dumps({"cells": made, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))
    first = {
        "notebook": "toy.ipynb",
        "parameters": {"out": "{here}", "seconds": seconds},
        "list": [{"label": "a", "text": "a"}, {"label": "b", "text": "b", **bad}],
    }
    then = {
        "notebook": "toy.ipynb",
        "each": ["first"],
        "parameters": {"out": "{here}", "text": "then", "reads": "{each}", "seconds": seconds},
    }
    last = {"notebook": "toy.ipynb", "parameters": {"out": "{here}", "text": "last", "reads": "{then}"}}
    (folder / "toy.yaml").write_text(
        yaml.safe_dump({"name": "toy", "threads": 1, "stages": {"first": first, "then": then, "last": last}}, sort_keys=False)
    )
    return folder / "toy.yaml"


def results(out: Path) -> dict[str, str]:
    return {str(p.parent.relative_to(out)): p.read_text() for p in sorted(out.glob("**/result"))}


def begun(out: Path) -> dict[str, int]:
    return {str(p.parent.relative_to(out)): len(p.read_text()) for p in sorted(out.glob("**/begun"))}


ALL = {"first/a": "a()", "first/b": "b()", "last": "last(then(a())then(b()))", "then/a": "then(a())", "then/b": "then(b())"}


def done(home: Path) -> bool:
    """Whether a job is known to be done; its result is there a moment earlier."""
    status = read_status(home)
    return status is not None and status.state == "done"


@pytest.mark.slow
def test_a_sweep_is_made_once_and_what_failed_again(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("A_SECRET", "word")
    out = tmp_path / "out"
    assert make.sweep(write(tmp_path, fails=True), out, workers=2) == 1
    said = capsys.readouterr().out
    assert "first/b failed: ZeroDivisionError: division by zero" in said
    assert "Not begun for that reason: then/b, last." in said
    assert results(out) == {name: ALL[name] for name in ("first/a", "then/a")}
    executed = (out / "jobs/first/b/executed.ipynb").read_text()
    assert "An Exception was encountered" in executed, "the failing cell is marked"
    seen = (out / "first/a/seen").read_text().split()
    assert "PATH" in seen
    assert "A_SECRET" not in seen, "a job sees what is listed, not all"
    transport = (out / "first/a/transport").read_text()
    assert transport == "ipc", "a port that is picked and freed is another kernel's a moment later"

    assert make.sweep(write(tmp_path), out, workers=2) == 0
    assert results(out) == ALL
    assert begun(out) == dict.fromkeys(ALL, 1), "b was mended: its old folder is gone; a was not touched"
    capsys.readouterr()
    assert make.sweep(tmp_path / "toy.yaml", out, dry_run=True) == 0
    assert "Nothing is left to be made." in capsys.readouterr().out
    panel = SweepPanel(tmp_path / "toy.yaml", out)
    panel.close()
    assert "5 done" in panel.table.value
    assert panel.bar.value == 5


def test_the_reports_alone_are_made_from_what_is_kept(tmp_path: Path, capsys) -> None:
    file, out = write(tmp_path), tmp_path / "out"
    words = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump(words | {"kept": "kept"}, sort_keys=False))
    with pytest.raises(SweepError, match="kept verdicts, and .*kept is missing"):
        make.sweep(file, out, report_only=True)
    for label in "ab":
        (tmp_path / "kept/then" / label).mkdir(parents=True)
        (tmp_path / "kept/then" / label / "result").write_text(f"kept {label}, ")
    for _ in range(2):  # made anew each time
        assert make.sweep(file, out, report_only=True, workers=1) == 0
        assert results(out) == {"last": "last(kept a, kept b, )"}
        assert "The reports are done" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "kept").rglob("*")) == ["a", "b", "result", "result", "then"]


@pytest.mark.slow
def test_a_base_is_balanced_evaluated_and_reported(tmp_path: Path, capsys) -> None:
    """As `test_a_balance_is_a_stage` of the plan has it, with one tau; the base is not evaluated."""
    plan = yaml.safe_load(BALANCED)
    plan["stages"]["fair"]["grid"] = {"tau": [0.5]}
    plan["stages"]["verdicts"]["each"] = ["fair"]
    plan["stages"]["report"]["parameters"]["runs"] = "{fair}"
    (tmp_path / "fair.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    out = tmp_path / "out"
    assert make.sweep(tmp_path / "fair.yaml", out, workers=1) == 0
    fair = RunFolder(out / "fair" / "0.5")
    assert [type(e).__name__ for e in fair.events()] == ["RunStarted", "Balanced", "RunFinished", "Evaluated"]
    assert fair.verdicts_file().exists()
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "A bias for each class was found on" in page
    capsys.readouterr()
    assert make.sweep(tmp_path / "fair.yaml", out, dry_run=True) == 0
    assert "Nothing is left to be made." in capsys.readouterr().out

    # the same numbers from what is small enough to be committed
    kept, again = tmp_path / "kept" / "fair" / "0.5", tmp_path / "again"
    keep(fair, kept, weights=False)
    assert sorted(path.name for path in kept.iterdir()) == ["config.json", "metrics.jsonl", "verdicts-last.npz"]
    (tmp_path / "fair.yaml").write_text(yaml.safe_dump(plan | {"kept": "kept"}, sort_keys=False))
    assert make.sweep(tmp_path / "fair.yaml", again, report_only=True) == 0
    (first, second) = (next(place.rglob("report.csv")).read_text() for place in (out, again))
    assert first == second


def test_two_sweeps_do_not_share_a_folder_and_a_stranger_is_not_deleted(tmp_path: Path, capsys) -> None:
    file, out = write(tmp_path), tmp_path / "out"
    (out / "first/a").mkdir(parents=True)
    (out / "first/a/thesis.txt").write_text("mine")
    with locked(out / "sweep.lock", SweepError("not free")), pytest.raises(SweepError, match="Another sweep is at work on"):
        make.sweep(file, out)
    assert make.sweep(file, out, workers=1) == 1
    assert "is there already, and no sweep made it" in capsys.readouterr().out
    assert (out / "first/a/thesis.txt").read_text() == "mine"
    with pytest.raises(SweepError, match="GPU 7 is not there"):
        make.sweep(file, tmp_path / "other", gpus="7")


@pytest.mark.slow
def test_a_notebook_that_hangs_is_ended_and_the_rest_goes_on(tmp_path: Path, capsys) -> None:
    file, out = write(tmp_path, seconds=1000), tmp_path / "out"
    words = yaml.safe_load(file.read_text())
    words["stages"]["first"]["list"][0]["seconds"] = 0  # a is quick, b hangs
    words["stages"]["then"]["parameters"]["seconds"] = 0
    file.write_text(yaml.safe_dump({**words, "limit_hours": 12 / 3600}, sort_keys=False))
    assert make.sweep(file, out, workers=2) == 1
    said = capsys.readouterr().out
    assert "first/b failed: The process ended by exit code 124: it took longer than 0.00333 hours, the limit_hours of" in said
    assert results(out) == {name: ALL[name] for name in ("first/a", "then/a")}
    assert not psutil.pid_exists(int((out / "first/b/kernel").read_text()))


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kill -9")
def test_a_sweep_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    file, out = write(tmp_path, seconds=2.5), tmp_path / "out"
    words = [sys.executable, "-m", "faal_lab", "sweep", str(file), "--out", str(out), "--workers", "2"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    wait_until(lambda: all(done(out / "jobs/first" / name) for name in "ab") and list(out.glob("then/*/kernel")))
    kernels = [int(p.read_text()) for p in out.glob("then/*/kernel") if p.read_text()]
    process.kill()
    process.wait()
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in kernels), 20)
    first = {p: p.stat().st_mtime_ns for p in out.glob("first/*/result")}
    assert len(first) == 2
    assert subprocess.run(words, capture_output=True, timeout=120).returncode == 0
    assert results(out) == ALL
    assert {p: p.stat().st_mtime_ns for p in first} == first, "what was done is not made again"
    assert read_status(out / "jobs/then/a").attempts + read_status(out / "jobs/then/b").attempts >= 3


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="kill -9")
@pytest.mark.timeout(600)
def test_a_training_in_the_middle_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    stages = {"base": {"notebook": "train", "parameters": {"epochs": 4, "batch_size": 250, "attack_steps": 2}}}
    (tmp_path / "t.yaml").write_text(yaml.safe_dump({"name": "t", "threads": 1, "stages": stages}))
    metrics = {}
    for out in ("whole", "killed"):
        words = [sys.executable, "-m", "faal_lab", "sweep", str(tmp_path / "t.yaml"), "--out", str(tmp_path / out)]
        if out == "killed":
            process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
            wait_until((tmp_path / out / "base/last.safetensors").exists)
            process.kill()
            process.wait()
            assert read_status(tmp_path / out / "jobs/base").state == "running"
            wait_until(lambda: not at_work(tmp_path / "killed/jobs/base"))
            (row,) = rows(read_plan(tmp_path / "t.yaml", tmp_path / out))
            assert (row.state, row.text) == ("stopped", "started again, the sweep goes on with it")
        assert subprocess.run(words, capture_output=True, timeout=200).returncode == 0
        events = RunFolder(tmp_path / out / "base").events()
        metrics[out] = [repr(e) for e in events if type(e).__name__ in ("StepDone", "EpochDone")]
    assert metrics["whole"] == metrics["killed"]
    assert len(metrics["whole"]) > 8


@pytest.mark.slow
def test_a_worker_that_dies_gives_its_job_to_another(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="pip install 'faal-lab[cluster]'")
    from faal_lab.sweeps.cluster import connect

    plan = read_plan(write(tmp_path, seconds=2.0), tmp_path / "out")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    ) as cluster:
        engine, killed = connect(f"dask://{cluster.scheduler_address}", plan, 0), []

        def told(state: dict) -> None:
            place = plan.out / "first/b/kernel"
            if not killed and place.exists() and place.read_text():
                kernel = psutil.Process(int(place.read_text()))
                worker = kernel.parent().parent()  # kernel, the job's process, the worker
                killed.append(worker.pid)
                worker.send_signal(signal.SIGKILL)

        state = make_all(plan, engine, wanted(plan), told)
    assert killed
    assert {status.state for status in state.values()} == {"done"}
    assert results(plan.out) == ALL
    assert begun(plan.out)["first/b"] == 2
    with pytest.raises(SweepError, match="No Dask scheduler answers"):
        connect("dask://127.0.0.1:9", plan, 0)
    with pytest.raises(ValueError, match=re.escape("Unknown queue in `cluster` ''")):
        connect("cluster", plan, 0)
