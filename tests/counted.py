"""Read the counts of a page of results."""

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np


def counts(folder: Path, attack: str) -> dict[str, np.ndarray]:
    """Run -> [seeds, classes] accuracies in percent, from the file of counts alone."""
    found: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    with (folder / "counts.csv").open() as file:
        for row in csv.DictReader(file):
            if row["attack"] == attack:
                found[row["run"].rpartition("/")[2]][int(row["seed"])].append(100 * int(row["stand"]) / int(row["images"]))
    return {run: np.array([seeds[seed] for seed in sorted(seeds)]) for run, seeds in found.items()}
