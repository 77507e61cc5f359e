"""Paper against release on the digits: the page says what its counts say."""

import re
from pathlib import Path

import numpy as np
import pytest
import releases_page
import yaml
from counted import counts
from scipy.stats import t

from faal_lab.runs.config import Config

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "results" / "digits-releases"
STAGES = yaml.safe_load((ROOT / "reproduce" / "digits-releases.yaml").read_text())["stages"]


def test_both_forms_differ_in_their_form_alone() -> None:
    rows = {row["label"]: row for row in STAGES["tuned"]["list"]}
    for name in [label for label in rows if not label.endswith("-release")]:
        released = dict(rows[f"{name}-release"])
        assert released.pop("variant") == "release"
        assert released | {"label": name} == rows[name]
        Config.from_mapping(
            {k: v for k, v in rows[f"{name}-release"].items() if k != "label"} | {"objective": "trades", "epochs": 4}
        )


@pytest.mark.parametrize("attack", ["clean", "pgd-20", "cw-20"])
def test_the_page_says_what_the_counts_say(attack: str) -> None:
    found = counts(FOLDER, attack)
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    table = text.partition(f"## {releases_page.ATTACK_TITLES[attack]}")[2].partition("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("|")][2:]
    assert {row[0] for row in rows} == {name for name in found if not name.endswith("-release")}
    for name, average, worst, _, _, more, more_worst in rows:
        paper, release = found[name], found[f"{name}-release"]
        assert len(paper) == 5
        assert average.startswith(f"{paper.mean():.1f} (")
        assert worst.startswith(f"{paper.min(1).mean():.1f} (")
        for said, gained in ((more, release.mean(1) - paper.mean(1)), (more_worst, release.min(1) - paper.min(1))):
            half = t.ppf(0.975, 4) * gained.std(ddof=1) / np.sqrt(5)
            shown = [float(number) for number in re.findall(r"[+-]\d+\.\d", said)]
            assert shown == pytest.approx([gained.mean(), gained.mean() - half, gained.mean() + half], abs=0.0501)
