"""Sweep files become jobs; what can be known to be wrong is said before any begins."""

import itertools
import json
import re
from pathlib import Path

import pytest
import yaml

from faal_lab.errors import ConfigError
from faal_lab.sweeps import status
from faal_lab.sweeps.checks import check_plan
from faal_lab.sweeps.engine import KEPT, make_all, wanted
from faal_lab.sweeps.plan import SweepError, read_plan, shard
from faal_lab.sweeps.shipped import copy_to
from faal_lab.sweeps.status import Durations, Status, fingerprints, read_status
from faal_lab.sweeps.view import plan_text, rows

FILE = """
name: small
stages:
  base:
    notebook: train
    parameters: {epochs: 1}
    grid: {objective: [at, trades], seed: [0, 1]}
  tuned:
    each: [base]
    notebook: finetune
    parameters: {base: "{each}", epochs: 1}
    list:
      - {label: fair, fairness: faal, tau: 0.5}
      - {label: control, fairness: none}
  verdicts:
    each: [base, tuned]
    notebook: evaluate
    parameters: {runs: "{each}", attacks: "clean,fgsm"}
  report:
    after: [verdicts]
    notebook: report
    parameters: {runs: "{base},{tuned}", out: "{here}/report.html"}
"""


def write(folder: Path, text: str = FILE, **changes: object) -> Path:
    """A sweep file; `changes` replace entries of its stages, given as stage__entry."""
    found = yaml.safe_load(text)
    for place, value in changes.items():
        stage, _, entry = place.partition("__")
        target = found["stages"].setdefault(stage, {}) if entry else found
        target[entry or stage] = value
    file = folder / "small.yaml"
    file.write_text(yaml.safe_dump(found, sort_keys=False))
    return file


def test_a_folder_with_a_dot_in_its_name_is_a_folder(tmp_path: Path) -> None:
    plan = read_plan(write(tmp_path, base__parameters={"out": "runs/tau-0.5"}, base__grid={}, base__list=[{}]), tmp_path / "out")
    assert plan.jobs["base"].product == Path("runs/tau-0.5")
    assert plan.jobs["verdicts/base"].parameters["runs"] == "runs/tau-0.5"
    assert plan.jobs["report"].product == plan.jobs["report"].folder, "a page is none"


def test_what_only_shows_is_there() -> None:
    assert all((Path(status.__file__).parents[1] / name).is_dir() for name in status._ONLY_SHOW), "else sweeps are made anew"


def test_a_file_becomes_jobs(tmp_path: Path) -> None:
    plan = read_plan(write(tmp_path), tmp_path / "out")
    check_plan(plan)
    stages = {s: [k for k, j in plan.jobs.items() if j.stage == s] for s in ("base", "tuned", "verdicts", "report")}
    assert stages["base"] == ["base/at-0", "base/at-1", "base/trades-0", "base/trades-1"]
    assert stages["tuned"][:2] == ["tuned/at-0-fair", "tuned/at-0-control"]
    assert stages["verdicts"][0] == "verdicts/base-at-0"
    assert len(stages["verdicts"]) == 12
    assert stages["report"] == ["report"]
    tuned = plan.jobs["tuned/trades-1-fair"]
    assert tuned.needs == ("base/trades-1",)
    assert tuned.parameters == {"base": str(tmp_path / "out/base/trades-1"), "epochs": 1, "fairness": "faal", "tau": 0.5}
    report = plan.jobs["report"]
    assert set(report.needs) == set(plan.jobs) - {"report"}
    runs = report.parameters["runs"].split(",")
    assert len(runs) == 12
    assert runs[:2] == [f"base/at={tmp_path / 'out/base/at-0'}", f"base/at={tmp_path / 'out/base/at-1'}"], "seeds have one name"
    assert runs[-1] == f"tuned/trades-control={tmp_path / 'out/tuned/trades-1-control'}"
    assert report.parameters["out"] == str(tmp_path / "out/report/report.html")
    order = list(plan.jobs)
    assert all(order.index(need) < order.index(key) for key, job in plan.jobs.items() for need in job.needs)


BALANCED = """
name: small
stages:
  base:
    notebook: train
    parameters: {epochs: 1, batch_size: 250, attack_steps: 1, validation_steps: 1}
  fair:
    each: [base]
    notebook: balance
    parameters: {run: "{each}", out: "{here}", rounds: 1, steps: 2}
    grid: {tau: [0.5, 5.0]}
  verdicts:
    each: [base, fair]
    notebook: evaluate
    parameters: {runs: "{each}", attacks: "clean,fgsm"}
  report:
    after: [verdicts]
    notebook: report
    parameters: {runs: "{base},{fair}", out: "{here}.html"}
"""


def test_a_balance_is_a_stage(tmp_path: Path) -> None:
    plan = read_plan(write(tmp_path, BALANCED), tmp_path / "out")
    check_plan(plan)
    fair = plan.jobs["fair/0.5"]
    assert fair.parameters["run"] == str(tmp_path / "out" / "base")
    assert fair.product == fair.folder == tmp_path / "out" / "fair" / "0.5"
    assert plan.jobs["verdicts/fair-0.5"].parameters["runs"] == str(fair.folder)
    with pytest.raises(ValueError, match="Unknown parameter of balance.ipynb 'average_flor'. Did you mean 'average_floor'"):
        check_plan(read_plan(write(tmp_path, BALANCED, fair__parameters={"run": "{each}", "average_flor": 40.0})))
    with pytest.raises(ValueError, match="rounds must be of type int, got 'many'"):
        check_plan(read_plan(write(tmp_path, BALANCED, fair__parameters={"run": "{each}", "rounds": "many"})))


def test_parts_cover_everything_but_what_gathers(tmp_path: Path) -> None:
    plan = read_plan(write(tmp_path), tmp_path / "out")
    for count in (1, 2, 3, 5):
        parts = [set(shard(plan, f"{i}/{count}").jobs) for i in range(1, count + 1)]
        assert set().union(*parts) == set(plan.jobs) - {"report"}
        for part in parts:
            assert all(set(plan.jobs[key].needs) <= part for key in part), "a part has all that it needs"
        ends = [{k for k in p if k.startswith("verdicts/tuned")} for p in parts]
        assert not any(a & b for a, b in itertools.combinations(ends, 2)), "no work at the end is done twice"
    with pytest.raises(ConfigError, match="--shard must be like 2/3"):
        shard(plan, "3/2")


def test_a_report_of_what_is_kept_reads_that_folder(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    file = tmp_path / "files" / "two.yaml"
    stages = "stages: {base: {notebook: train}, report: {notebook: report, parameters: {runs: '{base}', out: '{here}/r.html'}}}"
    file.write_text(f"{{name: two, kept: ../there, {stages}}}")
    job = read_plan(file, tmp_path / "out").jobs["report"]
    assert job.parameters["runs"] == f"base={tmp_path}/out/base"
    with pytest.raises(SweepError, match="there is missing"):
        read_plan(file, tmp_path / "out", from_kept=True)
    (tmp_path / "there").mkdir()
    kept = read_plan(file, tmp_path / "out", from_kept=True).jobs["report"]
    assert kept.parameters["runs"] == f"base={tmp_path}/files/../there/base"
    assert kept.parameters["out"] == job.parameters["out"], "what is made lies where it always does"
    file.write_text(f"{{name: two, kept: 3, {stages}}}")
    with pytest.raises(SweepError, match="kept: expected a folder"):
        read_plan(file)
    file.write_text(f"{{name: two, {stages}}}")
    with pytest.raises(SweepError, match="two.yaml names none"):
        read_plan(file, from_kept=True)


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"base__parameters": {"epoch": 1}}, "Unknown parameter 'epoch'. Did you mean 'epochs'?"),
        ({"base__parameters": {"learning_rate": "1e-3"}}, "YAML reads that as text; write 0.001"),
        ({"base__parameters": {"epochs": "3"}}, "Write 3 without quotes"),
        ({"base__parameters": {"tau": -1}}, "tau must"),
        ({"base__parameters": {"out": "x"}}, "out: the sweep sets it"),
        (
            {"base__parameters": {"protocol": "finetune-2ep"}},
            "shows data 'digits' .over 'cifar10'. and .* State data: null to take",
        ),
        ({"base__notebook": "trian"}, "there is no .*trian.ipynb. Known by name: .*train"),
        ({"base__after": ["report"]}, "wait for each other: .*report"),
        ({"base__after": ["basis"]}, "Unknown stage in `after` of stage base 'basis'. Did you mean 'base'?"),
        ({"base__grid": {"seed": 3}}, "grid.seed must be a list"),
        ({"base__grid": {"seed": [0, 0]}}, "base/0: two jobs have this name"),
        ({"base__grids": {}}, "Unknown entry of stage base 'grids'. Did you mean 'grid'?"),
        ({"tuned__parameters": {"base": "{eahc}"}}, "Unknown reference of stage tuned 'eahc'. Did you mean 'each'?"),
        ({"tuned__each": []}, "{each} needs an entry `each: "),
        ({"verdicts__parameters": {"runs": "{each}", "attacks": "pgd"}}, "Unknown attack 'pgd'"),
        ({"verdicts__parameters": {"runs": "{each}", "images": "all"}}, "images must be of type int, got 'all'"),
        ({"report__parameters": {"runs": "{base}", "out": "../page.html"}}, "out must lie in the sweep's folder"),
        (
            {
                "report__list": [{"label": "a"}, {"label": "b"}],
                "report__parameters": {"runs": "{base}", "out": "{here}/../r.html"},
            },
            "writes to r.html, and so does report/a",
        ),
        ({"name": "../x"}, "name: expected letters"),
        ({"limit_hours": "2h"}, "limit_hours: expected a number of hours, such as 2.5 .0: no limit., got '2h'"),
        ({"stage": {}}, "Unknown entry of small.yaml 'stage'. Did you mean 'stages'?"),
        ({"paper": {"tuned/a": {}}}, "paper: 'tuned/a' names no runs"),
    ],
)
def test_mistakes_are_said_before_anything_starts(tmp_path: Path, changes: dict, text: str) -> None:
    with pytest.raises(ValueError, match=re.sub(r"[{}]", lambda found: "\\" + found[0], text)):
        check_plan(read_plan(write(tmp_path, **changes), tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "text, said",
    [
        ("name: !!python/object/apply:os.system [ls]\nstages: {}", "could not determine a constructor"),
        ("name: a\nname: b\nstages: {}", "'name' stands there twice"),
        ("just words", "expected a mapping with `name` and `stages`"),
        ("a: [", "not a sweep file in YAML"),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "f.yaml").write_text(text)
    with pytest.raises(SweepError, match=said):
        read_plan(tmp_path / "f.yaml")
    with pytest.raises(SweepError, match="cannot be read"):
        read_plan(tmp_path / "none.yaml")


def done(plan, key: str, seconds: float = 10.0, **changes: str) -> None:
    """As if a job had been made."""
    order = wanted(plan)[key]
    assert order is not None
    status = {"state": "done", "fingerprint": order.fingerprint, "code": order.code, **changes}
    Status(stage=order.stage, notebook=Path(order.notebook).stem, seconds=seconds, **status).write(Path(order.home))
    plan.jobs[key].folder.mkdir(parents=True, exist_ok=True)
    (plan.jobs[key].folder / "last.safetensors").write_bytes(b"")


def test_only_what_is_not_done_is_made(tmp_path: Path) -> None:
    plan = read_plan(write(tmp_path), tmp_path / "out")
    assert all(order is not None and not order.anew for order in wanted(plan).values())
    for key in ("base/at-0", "tuned/at-0-fair"):
        done(plan, key)
    kept = [key for key, order in wanted(plan).items() if order is None]
    assert kept == ["base/at-0", "tuned/at-0-fair"]
    assert all(order is not None for order in wanted(plan, force=True).values())
    (plan.jobs["base/at-0"].folder / "last.safetensors").unlink()
    again = wanted(plan)
    assert again["base/at-0"] is not None, "what was deleted is made again"
    assert again["tuned/at-0-fair"] is not None, "and what was made from it"
    assert again["tuned/at-0-fair"].anew
    done(plan, "base/at-0", code="another version")
    assert wanted(plan)["base/at-0"] is not None
    assert wanted(plan, any_code=True)["base/at-0"] is None
    read = read_plan(write(tmp_path, base__parameters={"epochs": 2}), tmp_path / "out")
    assert all(order is not None for order in wanted(read, any_code=True).values()), "other parameters, other results"


def test_a_hash_knows_what_a_result_depends_on(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs.pth"
    theirs.write_bytes(b"weights")
    images = tmp_path / "images"
    images.mkdir()
    changes = {"tuned__parameters": {"base": str(theirs), "data_dir": str(images)}}

    def hashes(**more: object) -> dict[str, str]:
        return fingerprints(read_plan(write(tmp_path, **{**changes, **more}), tmp_path / "out"))

    first = hashes()
    assert first == fingerprints(read_plan(write(tmp_path, **changes), tmp_path / "elsewhere")), "a folder may be moved"
    theirs.write_bytes(b"others")
    second = hashes()
    changed = {key for key in first if first[key] != second[key]}
    assert changed == {k for k in first if k.startswith(("tuned", "verdicts/tuned", "report"))}
    (images / "one.png").write_bytes(b"1")
    third = hashes()
    assert {key for key in first if second[key] != third[key]} == changed
    fourth = hashes(base__parameters={"epochs": 3})
    assert all(fourth[key] != third[key] for key in first if not key.startswith("verdicts/tuned-nothing"))


class Made:
    """An engine that makes jobs at once, but for those that are to fail."""

    def __init__(self, fails: str, at_once: int) -> None:
        self.fails, self.at_once, self.running, self.started, self.most = fails, at_once, [], [], 0

    def free(self) -> bool:
        return len(self.running) < self.at_once

    def start(self, order) -> None:
        if order.key == "base/at-1":
            raise OSError(28, "No space left on device")
        self.running.append(order)
        self.started.append(order.key)
        self.most = max(self.most, len(self.running))

    def ended(self) -> list:
        order = self.running.pop(0) if self.running else None
        state = "failed" if order and order.key == self.fails else "done"
        return [(order.key, Status(state, order.fingerprint, order.code, order.stage, "x"))] if order else []

    def close(self) -> None:
        self.running.clear()


def test_a_failure_stops_only_what_depends_on_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("faal_lab.sweeps.engine._LOOK", 0)
    plan = read_plan(write(tmp_path), tmp_path / "out")
    done(plan, "base/trades-0")
    engine = Made("tuned/at-0-fair", 2)
    seen = []
    found = make_all(plan, engine, wanted(plan), lambda state: seen.append(dict(state)))
    assert found["base/trades-0"] == KEPT
    assert found["base/at-1"].error == "OSError: [Errno 28] No space left on device"
    blocked = {key for key, status in found.items() if status == "blocked"}
    assert blocked == {
        "tuned/at-1-fair", "tuned/at-1-control", "verdicts/base-at-1", "verdicts/tuned-at-1-fair", "verdicts/tuned-at-1-control",
        "verdicts/tuned-at-0-fair", "report",
    }  # fmt: skip
    assert engine.most == 2
    assert set(engine.started) == set(plan.jobs) - blocked - {"base/trades-0", "base/at-1"}
    for key in engine.started:
        before = [need for need in plan.jobs[key].needs if need in engine.started]
        assert all(engine.started.index(need) < engine.started.index(key) for need in before)


def test_the_plan_says_how_long(tmp_path: Path) -> None:
    plan = read_plan(write(tmp_path), tmp_path / "runs" / "out")
    text = plan_text(plan, wanted(plan), 2)
    assert "25 jobs into" in text
    assert "No earlier run tells how long" in text
    done(plan, "base/at-0", 40.0)
    done(plan, "base/at-1", 60.0)
    orders = wanted(plan)
    beside = read_plan(write(tmp_path), tmp_path / "runs" / "other")
    assert Durations.beside(beside).of(beside.jobs["base/at-1"], fingerprints(beside)["base/at-1"]) == 60, "the same job"
    assert Durations.beside(beside).of(beside.jobs["base/trades-0"], "") == 50, "one of the same stage"
    assert Durations.beside(beside).of(beside.jobs["report"], "") is None
    text = plan_text(plan, orders, 2)
    assert re.search(r"base/at-0 +train +done already", text)
    # two bases at 50 s side by side, then 21 jobs at 50 s on two workers
    assert "About 10 min with 2 at once, by earlier runs on this machine; 21 guessed from the others" in text


def test_rows_come_from_the_folder_alone(tmp_path: Path) -> None:
    plan = read_plan(write(tmp_path), tmp_path / "out")
    done(plan, "base/at-0", 100.0)
    order = wanted(plan)["base/at-1"]
    Status("failed", order.fingerprint, order.code, "base", "train", 3.0, 1, "ConfigError: no").write(Path(order.home))
    found = {row.key: row for row in rows(plan)}
    assert (found["base/at-0"].state, found["base/at-0"].text) == ("done", "2 min")
    assert (found["base/at-1"].state, found["base/at-1"].text) == ("failed", "ConfigError: no")
    assert found["base/trades-0"].state == "waiting"
    assert (found["tuned/at-1-fair"].state, found["tuned/at-1-fair"].text) == ("blocked", "needs base/at-1")
    assert found["report"].state == "blocked"
    (Path(order.home) / "status.json").write_text("{half")
    assert read_status(Path(order.home)) is None
    assert json.loads((plan.jobs["base/at-0"].home / "status.json").read_text())["attempts"] == 1


def test_a_copy_follows_no_link_out_of_its_folder(tmp_path: Path) -> None:
    """A link that leads nowhere does not exist for Python, and a copy would make its target."""
    link = tmp_path / "mine" / "notebooks" / "00_map.ipynb"
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "elsewhere")
    copy_to(tmp_path / "mine")
    assert link.is_symlink()
    assert not (tmp_path / "elsewhere").exists()


def test_a_changed_rule_in_a_file_makes_its_runs_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rules.py").write_text("ONE = 1\n")
    plan = read_plan(
        write(tmp_path, base__grid={}, base__list=[{"fairness": "rules.py:One"}, {"fairness": "none"}]), tmp_path / "out"
    )
    before = fingerprints(plan)
    Path("rules.py").write_text("ONE = 2\n")
    after = fingerprints(plan)
    own, plain = [key for key in before if key.startswith("base/")]
    assert before[own] != after[own]
    assert before[plain] == after[plain]
