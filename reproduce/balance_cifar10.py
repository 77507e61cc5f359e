"""Balance the four kept CIFAR-10 networks, and attack them as their table does.

    python reproduce/balance_cifar10.py FOLDER_OF_IMAGES runs/balance-cifar10

FOLDER_OF_IMAGES has train/ and test/ with a folder a class. An interrupted run goes on where it stopped. `balance_page.py` makes
the tables from its folder and from results/cifar10-narrow.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import faal_lab as fl
from faal_lab.evaluation.verdicts import VerdictsError

KEPT = Path(__file__).parents[1] / "results" / "cifar10-narrow"
NETWORKS = ("at", "at-faal", "at-control", "at-faal-awp")
# What is worth most comes first. The 2,000 and 2,800 images are those of the kept networks' table.
QUICK, ADAPTIVE, STRONG = ("clean", "pgd-20", "cw-20"), ("apgd-ce+t",), ("autoattack",)


def measured(run: Path, attacks: tuple[str, ...], images: int | None, classes: tuple[str, ...] = ()) -> bool:
    """Whether a run's folder has the verdicts of these attacks on so many images."""
    from faal_lab.evaluation.verdicts import Verdicts
    from faal_lab.runs import RunFolder

    try:
        found = Verdicts.read(RunFolder.open(run).verdicts_file("last", classes))
    except VerdictsError:
        return False
    return set(attacks) <= set(found.survived) and (images is None or len(found.labels) == images)


def balanced(name: str, images: Path, out: Path) -> Path:
    """The balanced network of a kept one; made unless it is there."""
    run = out / f"{name}-balanced"
    if not (run / "last.safetensors").is_file():
        begun = time.perf_counter()
        fl.adopt(
            fl.Config(
                base=str(KEPT / f"{name}.safetensors"), model="preact-resnet-18", filters=16, data="folder", data_dir=str(images),
                epsilon=8 / 255,
            ),
            out / name,
        )  # fmt: skip
        # The validation images of split_seed 0 were held back from every training of these networks (reproduce/cifar10.py).
        fl.balance(out / name, unseen=True, out=run)
        print(f"{name}: adopted and balanced in {time.perf_counter() - begun:.0f} s", flush=True)
    return run


def attacked(run: Path, attacks: tuple[str, ...]) -> None:
    """Attack the 2,000 images, unless that was done."""
    if not measured(run, attacks, 2000):
        fl.evaluate(run, attacks, images=2000)


def main() -> None:
    """Balance, then attack."""
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("images", type=Path)
    words.add_argument("out", type=Path)
    options = words.parse_args()
    runs = {name: balanced(name, options.images, options.out) for name in NETWORKS}
    for run in runs.values():
        attacked(run, QUICK)
    strong = options.out / "at-balanced-strong"  # a folder of its own: its images are others
    if not (strong / "last.safetensors").is_file():
        strong.mkdir(parents=True, exist_ok=True)
        for file in ("config.json", "metrics.jsonl", "timing.jsonl", "last.safetensors"):
            (strong / file).write_bytes((runs["at"] / file).read_bytes())
    if not measured(strong, STRONG, None, ("cat", "deer")):
        fl.evaluate(strong, STRONG, classes=("cat", "deer"))
    if not measured(strong, STRONG, 1000):
        fl.evaluate(strong, STRONG, images=1000)
    for run in runs.values():
        attacked(run, ADAPTIVE)


if __name__ == "__main__":
    main()
