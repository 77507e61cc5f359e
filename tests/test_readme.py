"""What the README says can be done, can be done."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_first_screen_has_the_picture_and_the_two_commands() -> None:
    first = README[:2500]
    assert re.search(r"!\[[^]]+\]\((docs/[^)]+)\)", first)
    assert "make demo" in first
    assert "make test" in first


def test_it_is_short() -> None:
    assert README.count("\n") <= 150


def test_every_picture_of_the_docs_has_its_command() -> None:
    shown = {path.stem for path in (ROOT / "docs").glob("*.png")}
    named = subprocess.run([sys.executable, "docs/pictures.py", "nothing"], cwd=ROOT, capture_output=True, text=True).stderr
    assert shown
    assert all(picture in named for picture in shown), named


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
        if not path.name.startswith("__") and path.name != "py.typed":
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
