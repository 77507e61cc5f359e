"""Rows of benchmarks/reliability.py on numbers: the same seed, coverage of intervals, verdicts that do not belong together."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reliability_files import SHORT, trained
from safetensors.torch import load_file
from scipy.stats import binom

from faal_lab.catalogue import FAIRNESS, OBJECTIVES
from faal_lab.errors import FaalLabError
from faal_lab.evaluation.comparison import _average, worst_difference
from faal_lab.evaluation.evaluate import evaluate_run, read_verdicts
from faal_lab.evaluation.statistics import (
    average_accuracy,
    class_accuracy,
    measures,
    minimum_bias,
    spread,
    worst_accuracy,
)
from faal_lab.evaluation.verdicts import Journal
from faal_lab.results.tables import comparisons
from faal_lab.runs import RunFolder
from faal_lab.runs.config import Config
from faal_lab.runs.files import tensors_sha256
from faal_lab.training.run import run

# --- the same seed ----------------------------------------------------------------------------------------------------------


def _left(folder: Path) -> tuple[bytes, str]:
    """What a run leaves: its record and a hash of its last state."""
    return (folder / "metrics.jsonl").read_bytes(), tensors_sha256(load_file(folder / "last.safetensors"))


def _by_words(out: Path, config: Config, threads: int, **environment: str) -> Path:
    """Train in a process of its own, by the command line."""
    settings = out.with_suffix(".json")
    settings.write_text(json.dumps(config.to_mapping()))
    own = {**os.environ, **environment, "OMP_NUM_THREADS": str(threads)}
    words = [sys.executable, "-m", "faal_lab", "run", "--config", str(settings), "--out", str(out), "--quiet"]
    subprocess.run(words, check=True, capture_output=True, env=own)
    return out


def _apart(one: Path, two: Path) -> float:
    """The largest difference of any number of two last states."""
    a, b = load_file(one / "last.safetensors"), load_file(two / "last.safetensors")
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a if a[name].numel())


def same(folder: Path, quick: bool) -> dict[str, Any]:
    """Train twice by the same seed, in many ways; record and weights must be the same bytes where that is promised."""
    lost, tried, apart = [], 0, {}

    def alike(what: str, one: Path, two: Path) -> None:
        nonlocal tried
        tried += 1
        lost.extend([f"{what}: other bytes"] if _left(one) != _left(two) else [])

    methods = [m for m in FAIRNESS.ours if m != "none"]
    for method in methods[:2] if quick else methods:
        fits = [o for o in ("at", "trades") if set(FAIRNESS[method].terms) <= set(OBJECTIVES[o].terms)]
        config = replace(SHORT, fairness=method, objective=fits[0])
        one, two = (trained(folder / f"{method}-{n}", config) for n in "ab")
        alike(f"{method} twice", one, two)
    threads = torch.get_num_threads()
    alike("a process of its own", trained(folder / "here", SHORT), _by_words(folder / "there", SHORT, threads))
    for stop in (5,) if quick else (1, 5, 10, 13):
        place = trained(folder / f"stopped-{stop}", SHORT, stop_after=stop)
        again = Path(shutil.copytree(place, folder / f"copy-{stop}"))
        for path in (place, again):
            for _ in run(SHORT, path, resume=True):
                pass
        alike(f"resumed twice after step {stop}", place, again)
        tried += 1
        lost += [f"resumed after step {stop}: other weights"] if _apart(place, folder / "here") else []
    older = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    other = 1 if threads > 1 else 2
    for name, count, given in ((f"{other} thread{'s' * (other > 1)}", other, {}), ("AVX2", threads, older)):
        one, two = (_by_words(folder / f"{name[:1]}-{n}", SHORT, count, **given) for n in "ab")
        alike(f"{name}, twice", one, two)
        apart[f"{name} against this process"] = _apart(one, folder / "here")
    return {"tried": tried, "lost": lost, "not promised, largest difference of a weight": apart}


# --- intervals --------------------------------------------------------------------------------------------------------------

LADDER = np.array([0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99])
EQUAL, ONE_BAD = np.full(10, 0.6), np.array([0.5] + [0.8] * 9)
MANY = np.clip(np.random.default_rng(5).beta(2, 5, 100), 0.01, 0.95)
TRUTHS = {"all equal": EQUAL, "one bad": ONE_BAD, "ladder": LADDER, "100 equal": np.full(100, 0.25), "100 unequal": MANY}
PAIRS = {
    "no difference": (EQUAL, EQUAL),
    "same worst class": (LADDER, LADDER + np.array([0.08] + [-0.02] * 9)),
    "other worst class": (ONE_BAD, ONE_BAD[::-1] - 0.05),
    "one of B's bad": (EQUAL, np.array([0.4] + [0.7] * 9)),
}


def _paired(a: np.ndarray, b: np.ndarray, images: int, draws: int, correlation: float = 0.6) -> np.ndarray:
    """Tables [draws, C, 4] of two networks on the same images: both right, A alone, B alone, neither."""
    both = a * b + correlation * np.sqrt(a * (1 - a) * b * (1 - b))
    both = np.clip(both, np.maximum(0, a + b - 1), np.minimum(a, b))
    shares = np.stack([both, a - both, b - both, 1 - a - b + both], -1)
    return np.random.default_rng(7).multinomial(images, shares / shares.sum(-1, keepdims=True), (draws, len(a)))


def _cells(draws: int, told: dict[str, tuple[float, int]]) -> Iterator[tuple[str, int, int]]:
    """(what is covered where, how often the truth was in the interval, draws).

    `told` gets, of each comparison of two networks, the true difference and how often one was seen.
    """
    number = np.random.default_rng(11)
    for images in (60, 1000):
        truth = number.uniform(0.02, 0.98, draws)
        counts = number.binomial(images, truth)
        held = [
            f is not None and f.low <= p <= f.high
            for f, p in zip(class_accuracy(counts, np.full(draws, images)), truth, strict=True)
        ]
        yield f"one class, {images} images, truth drawn evenly", sum(held), draws
        for name, truth in TRUTHS.items():
            total = np.full(len(truth), images)
            drawn = number.binomial(total, truth, (draws, len(truth)))
            for what, call, real in (
                ("worst class", lambda k, n: worst_accuracy(k, n)[0], truth.min()),
                ("average", average_accuracy, truth.mean()),
            ):
                found = [call(k, total) for k in drawn]
                yield f"{what}, {name}, {images} images", sum(f.low <= real <= f.high for f in found), draws
            if len(truth) == 10:
                found = [minimum_bias(k, total, samples=400).corrected for k in drawn]
                yield (
                    f"worst class without bias, {name}, {images} images",
                    sum(f.low <= truth.min() <= f.high for f in found),
                    draws,
                )
                many = [vars(spread(k, total, samples=200)) for k in drawn]
                for measure, real in zip(many[0], measures(truth), strict=True):
                    held = sum(f[measure].low <= real + 1e-9 and real - 1e-9 <= f[measure].high for f in many)
                    yield f"{measure}, {name}, {images} images", held, draws
        for name, (a, b) in PAIRS.items():
            tables = _paired(a, b, images, draws)
            low, high = worst_difference(tables, 0.05)
            real = b.min() - a.min()
            told[f"worst classes, {name}, {images} images"] = real, int(((low > 0) | (high < 0)).sum())
            yield f"difference of worst classes, {name}, {images} images", int(((low <= real) & (real <= high)).sum()), draws
            found = [_average(table, 400, seed) for seed, table in enumerate(tables)]
            real = (b - a).mean()
            told[f"averages, {name}, {images} images"] = real, sum(f.clear for f in found)
            yield f"difference of averages, {name}, {images} images", sum(f.low <= real <= f.high for f in found), draws


def intervals(folder: Path, quick: bool) -> dict[str, Any]:
    """Draw evaluations of networks whose truth is known, and count how often an interval holds it."""
    draws, lost, coverage, told = 150 if quick else 2000, [], {}, dict[str, tuple[float, int]]()
    for name, hits, count in _cells(draws, told):
        coverage[name] = round(100 * int(hits) / count, 2)
        if binom.cdf(hits, count, 0.945) < 0.001:  # shown to be lower, not by chance
            lost.append(f"{name}: {coverage[name]} %")
    level = {name: 100 * seen / draws for name, (real, seen) in told.items() if abs(real) < 1e-9}
    power = {name: 100 * seen / draws for name, (real, seen) in told.items() if abs(real) >= 1e-9}
    for name, share in level.items():
        if binom.sf(round(share * draws / 100) - 1, draws, 0.055) < 0.001:
            lost.append(f"a difference where there is none, {name}: {share:g} % of the draws")
    return {
        "tried": len(coverage) + len(level), "lost": lost, "draws of each": draws, "coverage in percent": coverage,
        "differences seen where there is none, in percent": level, "differences seen where there is one, in percent": power,
    }  # fmt: skip


# --- verdicts of something else ---------------------------------------------------------------------------------------------


def mixed_up(folder: Path, quick: bool) -> dict[str, Any]:
    """Plant verdicts of other weights, images and settings where they could be joined or compared; each must be told apart."""
    lost, tried = [], 0

    def refused(what: str, call: Callable[[], Any]) -> None:
        nonlocal tried
        tried += 1
        try:
            call()
            lost.append(f"{what}: taken")
        except FaalLabError:
            pass

    runs = {}
    for name, config in {
        "a": SHORT,
        "b": replace(SHORT, seed=1),
        "c": replace(SHORT, split_seed=1),
        "wide": replace(SHORT, filters=6),
    }.items():
        runs[name] = trained(folder / name, config)
        evaluate_run(runs[name], attacks=("clean", "pgd-20"))
    for other in ("b", "c", "wide"):
        for file in ("verdicts-last.npz", "last.safetensors"):
            place = Path(shutil.copytree(runs["a"], folder / f"a-with-{other}-{file}"))
            shutil.copy(runs[other] / file, place / file)
            refused(f"{file} of {other} in a", lambda place=place: read_verdicts(place))
    place = Path(shutil.copytree(runs["a"], folder / "went-on"))
    shutil.copy(place / "best.safetensors", place / "last.safetensors")
    refused("best in place of last", lambda: read_verdicts(place))
    held = {name: read_verdicts(path) for name, path in runs.items()}
    refused("runs of other test images compared", lambda: comparisons({"a": held["a"], "c": held["c"]}))
    comparisons({"a": held["a"], "b": held["b"]})  # what belongs together is taken
    near = Path(shutil.copytree(runs["a"], folder / "near"))
    RunFolder(near).verdicts_file().unlink()
    evaluate_run(near, attacks=("clean", "pgd-20"), epsilon=0.05)
    refused("runs at other radii compared", lambda: comparisons({"a": held["a"], "near": read_verdicts(near)}))
    for field, value in {
        "model_sha256": "x",
        "architecture_sha256": "x",
        "data_sha256": "x",
        "epsilon": 0.2,
        "norm": "l2",
        "seed": 9,
        "mode": "compat",
        "checkpoint": "best",
        "precision": "bfloat16",
    }.items():
        tried += 1
        alike = replace(held["a"], predicted={"cw-20": held["a"].predicted["pgd-20"]})
        older = replace(alike, header={**alike.header, field: value})
        lost += [f"verdicts with another {field} were joined"] if "cw-20" in held["a"].joined(older).predicted else []
        lost += [] if "cw-20" in held["a"].joined(alike).predicted else ["verdicts measured alike were not joined"]
    for field in ("model", "data", "epsilon", "seed"):
        tried += 1
        mine, theirs = ({"model": "m", "data": "d", "epsilon": 0.1, "seed": 0, field: value} for value in ("x", "y"))
        Journal(folder / field, mine).add("apgd-ce", 0, [1, 2])
        there = Journal(folder / field, theirs)
        lost += [f"a journal of another {field} was read"] if there.done() else []
        (done,) = [p for p in (folder / field).glob("*/part-0.jsonl") if p.stat().st_size]
        assert there.folder is not None
        shutil.copy(done, there.folder / "part-1.jsonl")
        tried += 1
        lost += [f"pieces of another {field}, copied, were read"] if Journal(folder / field, theirs).done() else []
        lost += [] if Journal(folder / field, mine).done() else ["a journal's own pieces were not read"]
    return {"tried": tried, "lost": lost}
