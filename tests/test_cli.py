"""The command line: what it does, and what it says when it cannot."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from faal_lab.__main__ import main
from faal_lab.catalogue import AVERAGING, FAIRNESS
from faal_lab.dro import AMBIGUITY_SETS
from faal_lab.errors import EXIT_CODES
from faal_lab.methods.objectives import OBJECTIVES
from faal_lab.methods.presets import PRESETS, PROTOCOLS
from faal_lab.models.doctor import examine
from faal_lab.runs import RunFolder
from faal_lab.runs.config import Config
from faal_lab.sweeps.checks import check_plan
from faal_lab.sweeps.demo import stated
from faal_lab.sweeps.plan import Job, read_plan
from faal_lab.widgets.server import free_port, lab_command, page_settings

QUICK = ["--epochs", "1", "--batch-size", "250", "--attack-steps", "1", "--validation-steps", "1"]


def test_run_evaluate_tell_and_resume(tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    assert main(["run", "--out", str(out), *QUICK, "--fairness", "faal", "--tau", "0.3"]) == 0
    assert f"Next: faal-lab evaluate {out}" in capsys.readouterr().out
    assert RunFolder(out).config().tau == 0.3
    assert main(["evaluate", str(out), "--attacks", "clean,pgd-20"]) == 0
    table = capsys.readouterr().out
    assert re.search(r"run +pgd-20 +\d+\.\d \[ *\d+\.\d, *\d+\.\d\]", table)
    assert main(["tell", str(out), "tau=0.7"]) == 1
    assert "is done: nobody listens" in capsys.readouterr().err
    assert main(["run", "--resume", str(out), "--quiet"]) == 0


def test_a_file_as_powershell_writes_it_and_a_recipe_beside_it(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "settings.json"
    quick = {"epochs": 1, "attack_steps": 1, "validation_steps": 1, "batch_size": 500, "objective": "at", "awp_gamma": 0.5}
    file.write_bytes(json.dumps(quick).encode("utf-16"))
    assert main(["run", "--config", str(file), "--recipe", "faal-trades-awp", "--out", str(tmp_path / "a"), "--quiet"]) == 0
    config = RunFolder(tmp_path / "a").config()
    assert (config.objective, config.awp_gamma, config.attack_steps) == ("trades", 0.005, 1), "the recipe wins over the file"
    file.write_bytes(b"\xff\xfe\x00")
    assert main(["run", "--config", str(file)]) == 1
    assert "is not JSON" in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "a")]) == 1
    assert "compare needs at least two runs" in capsys.readouterr().err


def test_settings_from_a_file_and_from_a_base(tmp_path: Path, base: Path) -> None:
    file = tmp_path / "settings.json"
    file.write_text(json.dumps({"epochs": 1, "tau": 0.1, "base": str(base)}))
    assert main(["run", "--out", str(tmp_path / "a"), "--config", str(file), "--tau", "0.2", "--quiet"]) == 0
    config = RunFolder(tmp_path / "a").config()
    assert (config.tau, config.attack_steps) == (0.2, 2)


@pytest.mark.parametrize(
    "words, text",
    [
        (["run", "--tau", "-1"], "tau must be at least 0, got -1.0"),
        (["run", "--fairness", "fal"], "Unknown fairness method 'fal'. Did you mean 'faal'?"),
        (["run", "--resume", "nothing"], "nothing is not a run folder"),
        (["run", "--resume", "nothing", "--tau", "1"], "--resume takes its settings from the folder"),
        (["run", "--config", "nothing.json"], "nothing.json"),
        (["run", "--data", "cifar10", "--quiet"], "Fetch it with --download"),
        (["evaluate", "nothing"], "nothing is not a run folder"),
        (["evaluate", "x", "--attacks", "pgd-2O"], "Unknown attack 'pgd-2O'. Did you mean 'pgd-20'?"),
        (["tell", "nothing", "stop"], "nothing is not a run folder"),
    ],
)
def test_errors_are_one_line_and_exit_1(words: list[str], text: str, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    said = capsys.readouterr().err
    assert text in said
    assert said.startswith("faal-lab: ")
    assert "Traceback" not in said


def test_a_setting_that_is_true_or_false_is_a_flag(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words, expected in (([], False), (["--download"], True), (["--no-download"], False)):
        out = tmp_path / f"run{len(words)}{expected}"
        assert main(["run", "--out", str(out), *QUICK, *words, "--quiet"]) == 0
        assert RunFolder(out).config().download is expected


def test_telling_nonsense(base: Path, capsys) -> None:
    for what, text in (("tua=1", "Did you mean 'tau'"), ("tau=x", "tau must be a number, got 'x'"), ("dance", "Unknown command"),
                       ("pace=-1", "pace must be a number of batches a second"), ("pace", "Unknown command")):  # fmt: skip
        assert main(["tell", str(base), what]) == 1
        assert text in capsys.readouterr().err


def test_help_shows_every_setting(capsys) -> None:
    assert main(["run", "--help"]) == 0
    said = capsys.readouterr().out
    for name in Config().to_mapping():
        assert f"--{name.replace('_', '-')}" in said


@pytest.fixture
def sound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Convolutions are not tried here: test_layout.py does."""
    monkeypatch.setattr("faal_lab.models.layout.examine", lambda: ("right", True))


def test_doctor(sound: None, capsys) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert "torch" in said
    assert "Nothing is missing." in said
    assert examine()[1] == []


def test_doctor_names_what_is_missing_and_its_purpose(sound: None, monkeypatch) -> None:
    from importlib import metadata

    real = metadata.version

    def version(name: str) -> str:
        if name == "pyautoattack":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    text, missing = examine()
    assert missing == ["pyautoattack"]
    assert "MISSING, needed for AutoAttack: pip install pyautoattack" in text


def test_the_lab_listens_on_this_machine_only_and_keeps_its_token() -> None:
    words = lab_command(8888, browser=False, start="notebooks/00_map.ipynb")
    assert "--ip=127.0.0.1" in words
    assert not any("token" in w or "password" in w for w in words), "Jupyter's own random token stays"
    assert "--MappingKernelManager.buffer_offline_messages=False" in words


def test_python_dash_m(tmp_path: Path) -> None:
    found = subprocess.run([sys.executable, "-m", "faal_lab", "--version"], capture_output=True, text=True)
    assert (found.returncode, found.stdout.strip()) == (0, "0.1.0")


def demo_plan(tmp_path: Path, seeds: list[int], quick: bool = False) -> dict[str, Job]:
    file = tmp_path / "demo.yaml"
    file.write_text(yaml.safe_dump(stated(seeds, quick)))
    plan = read_plan(file, tmp_path / "demo")
    check_plan(plan)
    return plan.jobs


def test_both_arms_of_the_demo_differ_in_fairness_alone(tmp_path: Path) -> None:
    jobs = demo_plan(tmp_path, [3])
    control, faal = jobs["control"].parameters, jobs["faal"].parameters
    assert {k for k in control if control[k] != faal[k]} == {"fairness"}
    assert control["base"] == str(tmp_path / "demo" / "base")
    assert jobs["base"].parameters.items() >= {("seed", 3), ("split_seed", 3)}
    assert {j.parameters["attacks"] for j in jobs.values() if j.stage == "verdicts"} == {"clean,pgd-20,cw-20,autoattack"}
    assert jobs["report"].parameters["out"] == str(tmp_path / "demo" / "report.html")


def test_the_demo_over_seeds_reports_groups(tmp_path: Path) -> None:
    jobs = demo_plan(tmp_path, [0, 4], quick=True)
    assert {"base/0", "base/4", "control/4", "faal/0", "verdicts/base-0", "report"} <= set(jobs)
    home = tmp_path / "demo"
    assert jobs["report"].parameters["runs"].split(",")[2:4] == [f"control={home / 'control/0'}", f"control={home / 'control/4'}"]
    assert {jobs[f"base/{n}"].parameters["split_seed"] for n in (0, 4)} == {0, 4}
    assert "autoattack" not in jobs["verdicts/faal-4"].parameters["attacks"]


def test_methods_lists_everything_with_its_source(capsys) -> None:
    assert main(["methods"]) == 0
    said = capsys.readouterr().out
    for name in (*OBJECTIVES, *FAIRNESS, *AVERAGING, *AMBIGUITY_SETS, *PRESETS, *PROTOCOLS):
        assert re.search(rf"^  {re.escape(name)} +\S", said, re.M), name
    assert "Zhang et al., ICML 2019" in said


def test_settings_prints_what_run_can_read(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    assert main(["settings", "--recipe", "faal-trades-awp", "--protocol", "scratch-200ep"]) == 0
    printed = capsys.readouterr().out
    settings = json.loads(printed)
    assert (settings["objective"], settings["awp_gamma"], settings["tau_changes"]) == ("trades", 0.005, "150:0.5")
    (tmp_path / "mine.json").write_text(printed)
    options = [
        "--data",
        "digits",
        "--model",
        "small-cnn",
        "--epochs",
        "1",
        "--fairness-start",
        "0",
        "--average-start",
        "0",
        "--tau-changes",
        "",
    ]
    quick = ["--attack-steps", "1", "--validation-steps", "1", "--batch-size", "500", "--quiet", "--lr-schedule", "constant"]
    assert main(["run", "--config", str(tmp_path / "mine.json"), *options, *quick, "--out", str(tmp_path / "run")]) == 0
    assert RunFolder.open(tmp_path / "run").config().fairness == "faal"


def test_run_takes_a_recipe_and_options_win(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    quick = ["--epochs", "1", "--attack-steps", "1", "--validation-steps", "1", "--batch-size", "500", "--quiet"]
    assert main(["run", "--recipe", "faal-at-awp", "--awp-gamma", "0.02", *quick, "--out", str(tmp_path / "run")]) == 0
    config = RunFolder.open(tmp_path / "run").config()
    assert (config.fairness, config.awp_gamma) == ("faal", 0.02)
    assert main(["run", "--recipe", "faal-att", "--out", str(tmp_path / "no")]) == 1
    assert "Unknown recipe 'faal-att'. Did you mean 'faal-at'" in capsys.readouterr().err
    assert main(["run", "--recipe", "cfa-at", "--out", str(tmp_path / "no")]) == 1
    assert "fairness_start=10 is not within the 4 epochs of this run: cfa would never act" in capsys.readouterr().err


def test_methods_show_the_properties_of_table_4(capsys: pytest.CaptureFixture) -> None:
    assert main(["methods"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "[Zhang et al., CVPR 2024; acts on loss, every batch; keeps the adversary; needs no validation split]" in shown
    assert "[Li and Liu, AAAI 2023; acts on loss, every epoch; keeps the adversary; needs a validation split]" in shown
    assert "Without remargin." in shown
    assert "trades-awp objective=trades" in shown
    assert "tau_changes=150:0.5" in shown


def test_the_dashboard_is_for_this_machine_and_says_what_it_needs(tmp_path: Path, monkeypatch, capsys) -> None:
    settings = page_settings(tmp_path, 9000, "secret", dark=True)
    assert settings["Voila"].items() >= {("ip", "127.0.0.1"), ("port", 9000), ("token", "secret")}
    assert settings["VoilaConfiguration"]["theme"] == "dark"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert free_port(port) > port
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["dashboard", "--runs", str(tmp_path)]) == 1
    assert "served by Voila, which is missing: pip install 'faal-lab[dashboard]'" in capsys.readouterr().err


LIGHT = """
import sys
from faal_lab.__main__ import main
try:
    code = main(sys.argv[1:])
except SystemExit as end:
    code = end.code or 0
heavy = sys.modules.keys() & {"torch", "numpy", "scipy", "plotly", "sklearn", "cvxpy", "tqdm"}
assert not heavy, heavy
print("ended with", code)
"""


@pytest.mark.parametrize(
    "words, code",
    [
        ("--version", 0),
        ("--help", 0),
        ("run --help", 0),
        ("evaluate --help", 0),
        ("sweep --help", 0),
        ("methods", 0),
        ("settings --recipe faal-trades-awp", 0),
        ("tell nothing stop", 1),
        ("run --fairness fal", 1),
        ("run --tau -1", 1),
        ("run --resume nothing", 1),
        ("evaluate x --attacks pgd-2O", 1),
        ("compare x", 1),
        ("export nothing --to csv --out x", 1),
        ("completion bash", 0),
        ("runn", 2),
    ],
)
def test_what_needs_no_numbers_loads_none(words: str, code: int, tmp_path: Path) -> None:
    found = subprocess.run([sys.executable, "-c", LIGHT, *words.split()], capture_output=True, text=True, cwd=tmp_path)
    assert (found.returncode, found.stdout.splitlines()[-1]) == (0, f"ended with {code}"), found.stderr


def test_telling_a_run_loads_no_torch(base: Path) -> None:
    found = subprocess.run([sys.executable, "-c", LIGHT, "tell", str(base), "tau=0.7"], capture_output=True, text=True)
    assert found.stdout.splitlines()[-1] == "ended with 1", found.stderr
    assert "is done: nobody listens" in found.stderr


@pytest.mark.parametrize("own, expected", [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")])
def test_idle_threads_give_their_core_up_unless_told_otherwise(own: dict[str, str], expected: str) -> None:
    environment = {n: v for n, v in os.environ.items() if n not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")} | own
    code = "import os, faal_lab; print(os.environ.get('GOMP_SPINCOUNT'))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert found.stdout.strip() == expected


def test_exit_codes_are_the_documented_ones(tmp_path: Path, monkeypatch, capsys) -> None:
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", (Path(__file__).parent.parent / "docs" / "exit-codes.md").read_text(), re.M)
    assert {int(code): meaning for code, meaning in rows} == EXIT_CODES
    assert main(["--help"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert all(f"{code} {meaning}" in said for code, meaning in EXIT_CODES.items())
    assert main(["compare", "x"]) == 1
    assert main(["check", "x", "--worst-min", "no number"]) == 2
    assert capsys.readouterr().err.count("\n") == 2, "a line each"

    def doctor() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("faal_lab.cli.doctor", doctor)
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err == "faal-lab: stopped by Ctrl-C.\n"
    # 141 is in test_progress.py, 143 in test_training.py: they need processes


@pytest.mark.parametrize("shell, first", [("bash", "# "), ("zsh", "#compdef faal-lab"), ("fish", "# ")])
def test_completion_knows_every_command_and_option(shell: str, first: str, capsys) -> None:
    assert main(["completion", shell]) == 0
    said = capsys.readouterr().out
    assert said.startswith(first)
    assert all(word in said for word in ("evaluate", "export", "tensorboard", "robustbench", "worst-min", "learning-rate"))


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    "words, expected",
    [
        (["exp"], ["export"]),
        (["export", "x", "--to", "tens"], ["tensorboard"]),
        (["check", "--work"], []),
        (["sweep", "--work"], ["--workers"]),
    ],
)
def test_bash_completes(words: list[str], expected: list[str], tmp_path: Path, capsys) -> None:
    assert main(["completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    line = " ".join(["faal-lab", *words])
    code = f'source ./script; COMP_WORDS=({line}); COMP_CWORD={len(words)}; COMP_LINE="{line}"; COMP_POINT={len(line)}; _faal_lab; echo "${{COMPREPLY[@]}}"'
    found = subprocess.run(["bash", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (found.stdout.split(), found.stderr) == (expected, "")


def test_a_run_is_exported_from_the_command_line(base: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "w.safetensors"
    assert main(["export", str(base), "--to", "safetensors", "--out", str(out), "--checkpoint", "best"]) == 0
    assert capsys.readouterr().out.startswith(f"Written: {out}. Its normalisation, mean ")
    assert main(["export", str(base), "--to", "safetensors", "--out", str(out)]) == 1
    assert "exists already. Name another place, or replace what is there by --force" in capsys.readouterr().err
    assert main(["export", str(base), "--to", "csvv", "--out", str(out)]) == 2
    assert 'Did you mean "csv"?' in capsys.readouterr().err
