"""What the README says can be done, can be done."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from made_up import parsed

from faal_lab.methods.presets import preset_settings
from faal_lab.runs.config import Config

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", README, re.S)
    lines = [line.split(" #")[0].strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def test_the_first_screen_has_picture_tree_and_the_two_commands() -> None:
    first = README[:4500]
    assert re.search(r"!\[[^]]+\]\((docs/[^)]+)\)", first)
    assert "make demo" in first
    assert "make test" in first
    assert "dro/" in first


def test_every_make_command_exists() -> None:
    names = {line.split()[1] for line in commands() if line.startswith("make ")}
    assert {"demo", "test", "lab"} <= names
    for name in names:
        found = subprocess.run(["make", "-n", name], cwd=ROOT, capture_output=True, text=True)
        assert found.returncode == 0, found.stderr


def test_every_faal_lab_command_parses() -> None:
    found = [shlex.split(line.split(" > ")[0])[1:] for line in commands() if line.startswith("faal-lab ")]
    assert {words[0] for words in found} >= {"demo", "lab", "run", "evaluate", "doctor", "tell"}
    for words in found:
        command, given = parsed(words)
        if command in ("run", "settings"):
            preset_settings(given["recipe"], given["protocol"])  # raises on a name that is not there


def test_every_papermill_command_names_a_notebook_and_settings() -> None:
    lines = [shlex.split(line) for line in commands() if line.startswith("papermill ")]
    assert lines
    for words in lines:
        assert (ROOT / words[1]).is_file()
        names = {words[i + 1] for i, word in enumerate(words) if word == "-p"}
        assert names <= {*Config().to_mapping(), "out", "runs", "attacks", "images", "checkpoint", "title", "setting"}


def test_every_script_and_every_picture_has_its_command() -> None:
    words = " ".join(README.split())
    scripts = set(re.findall(r"python ((?:docs|benchmarks|reproduce)/\w+\.py)", words))
    assert {"docs/pictures.py", "reproduce/cifar10_page.py"} <= scripts
    assert all((ROOT / script).is_file() for script in scripts)
    made = {f"docs/{name}.png" for said in re.findall(r"`python docs/pictures.py ([a-z ]+)`", words) for name in said.split()}
    shown = set(re.findall(r"!\[[^]]+\]\((docs/[^)]+)\)", README))
    assert made == shown, "the pages under results/ draw their own"
    named = subprocess.run([sys.executable, "docs/pictures.py", "nothing"], cwd=ROOT, capture_output=True, text=True).stderr
    assert all(Path(picture).stem in named for picture in shown), named


def test_pictures_and_links_exist() -> None:
    for target in re.findall(r"\]\((?!http|#)([^)]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_tree_is_the_tree() -> None:
    block = next(b for _, b in re.findall(r"```(\w*)\n(.*?)```", README, re.S) if "dro/" in b)
    for line in block.splitlines():
        name = line.strip().split(" ")[0]
        if re.fullmatch(r"[\w.]+(/|\.py|\.md|\.yml|\.toml)", name):
            assert (ROOT / name).exists() or (ROOT / "faal_lab" / name).exists(), name
    for path in (ROOT / "faal_lab").iterdir():
        name = f"{path.name}/" if path.is_dir() else path.name
        if not path.name.startswith("__"):
            assert name in block, f"{name} is not in the tree"


@pytest.mark.slow
def test_the_python_example_runs(tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, re.S)
    block = re.sub(r"\bfl\.train\(", "fl.train(epochs=1, batch_size=250, attack_steps=1, ", block).replace(
        "epochs=1)", "epochs=1, batch_size=250)"
    )
    network = "from torch import nn; network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    found = subprocess.run([sys.executable, "-c", network + block], cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-2000:]
    assert "fair against base" in found.stdout
