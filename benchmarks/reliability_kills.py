"""Rows of benchmarks/reliability.py on processes that end before their time: by SIGKILL, and by signals that ask.

Children are forked from a process that has loaded the package, so that a try takes a second or two and not ten. They run the
command line itself.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import torch
from processes import outcome

from faal_lab.errors import FaalLabError
from faal_lab.evaluation.verdicts import Verdicts
from faal_lab.results.check import verify
from faal_lab.runs import RunFolder, read_checkpoint
from faal_lab.runs.events import StepDone
from faal_lab.runs.follower import Follower

_PRELOADED = "faal_lab.__main__ faal_lab.training.run faal_lab.evaluation.evaluate faal_lab.results.tables sklearn.datasets"
TRAIN = "--filters 4 --batch-size 100 --attack-steps 2 --validation-steps 2 --fairness faal --averaging ema --device cpu --quiet"
SHORT: list[str] = ["run", "--out", "run", *TRAIN.split(" "), "--epochs", "2", "--checkpoint-every", "4"]
EVALUATE = ["evaluate", "run", "--attacks", "clean,pgd-20,autoattack", "--images", "30", "--device", "cpu"]


class Tries:
    """Counts what was tried, and keeps what was lost."""

    def __init__(self) -> None:
        self.tried, self.lost = 0, list[str]()

    def note(self, name: str, why: str) -> None:
        """Count a try; `why` is "" where it went as promised."""
        self.tried += 1
        self.lost += [f"{name}: {why}"] if why else []


def called(words: list[str], folder: str) -> None:
    """What a child does: the command line, in a folder, by one thread, quietly, in a process group of its own."""
    from faal_lab.__main__ import main

    os.setpgrp()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it would be ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    torch.set_num_threads(1)
    sys.exit(main(words))


def start(words: list[str], folder: Path) -> Any:
    """Start the command line in a child."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*_PRELOADED.split(" ")])
    child = context.Process(target=called, args=(words, str(folder)))
    child.start()
    return child


def end(words: list[str], folder: Path, limit: float = 300) -> int:
    """Run the command line in a child to its end; return its exit code, -9 where it took longer than the limit of seconds."""
    child = start(words, folder)
    child.join(limit)
    if child.is_alive():
        child.kill()
        child.join()
    return int(child.exitcode)


def taken(words: list[str], folder: Path) -> float:
    """The seconds of a command from its start to its end; it must succeed."""
    begun = time.monotonic()
    code = end(words, folder)
    assert code == 0, f"{' '.join(words)} ended with {code}"
    return time.monotonic() - begun


def same(a: tuple[list[Any], dict[str, torch.Tensor]], b: tuple[list[Any], dict[str, torch.Tensor]]) -> bool:
    """Whether two runs have the same record and the same last state, bit for bit."""
    return a[0] == b[0] and a[1].keys() == b[1].keys() and all(torch.equal(a[1][name], b[1][name]) for name in a[1])


def unreadable(folder: Path) -> list[str]:
    """The files of a run folder that cannot be read; a run that was killed before its first record is no run yet."""
    if not (folder / "config.json").exists():
        return []
    try:
        return [case.text for case in verify(folder) if case.outcome == "failed"]
    except FaalLabError as error:
        return [str(error)]


def over(seeds: range, one: Callable[[int], str], at_once: int = 2) -> list[str]:
    """Make one try for each seed, two at once; return what was lost."""
    with ThreadPoolExecutor(at_once) as pool:
        return [f"seed {seed}: {why}" for seed, why in zip(seeds, pool.map(one, seeds), strict=True) if why]


def killed(words: list[str], again: list[str], folder: Path, after: float) -> str:
    """Kill a command after so many seconds, start it again to its end; return what went wrong."""
    child = start(words, folder)
    child.join(after)
    if child.is_alive():
        os.kill(child.pid, signal.SIGKILL)
        child.join()
    if not list(folder.glob("*/config.json")):  # killed before anything was written: nothing to resume
        return "" if end(words, folder) == 0 else "could not be started anew"
    bad = [text for place in folder.glob("*/config.json") for text in unreadable(place.parent)]
    if bad:
        return f"unreadable: {bad[0]}"
    code = end(again, folder)
    return "" if code == 0 else f"started again, it ended with {code}"


def training(folder: Path, quick: bool) -> dict[str, Any]:
    """Kill trainings at random instants, some of them after the end; resume, and compare with a whole one."""
    words, again = SHORT, ["run", "--resume", "run", "--quiet"]
    (folder / "whole").mkdir()
    taken(words, folder / "whole")  # starts the server, too
    shutil.rmtree(folder / "whole" / "run")
    length = taken(words, folder / "whole")
    whole = outcome(folder / "whole" / "run")

    def one(seed: int) -> str:
        drawn, place = random.Random(seed), folder / str(seed)
        place.mkdir()
        why = killed(words, again, place, drawn.uniform(0, 1.5 * length))
        if not why and not same(outcome(place / "run"), whole):
            why = "resumed, it ended with other numbers"
        left = [p.name for p in (place / "run").glob(".*.tmp")]
        shutil.rmtree(place)
        return why or (f"left behind: {left}" if left else "")

    count = 3 if quick else 130
    return {"tried": count, "lost": over(range(count), one), "seconds of a whole one": round(length, 2)}


def report(folder: Path, quick: bool) -> dict[str, Any]:
    """Kill reports at random instants: each page that is there is whole."""
    taken(SHORT, folder)
    taken(["evaluate", "run", "--attacks", "clean,pgd-20", "--device", "cpu"], folder)
    words, whole = ["report", "run", "--out"], folder / "whole.html"
    length = taken([*words, str(whole)], folder)
    expected, lost = whole.read_bytes(), []
    for seed in range(1 if quick else 12):
        page = folder / f"{seed}.html"
        page.write_text("what was there before")
        child = start([*words, str(page)], folder)
        child.join(random.Random(seed).uniform(0.2, 1.0) * length)
        child.kill()
        child.join()
        content = page.read_bytes()
        if content != b"what was there before" and not content.rstrip().endswith(expected[-20:].strip()):
            lost.append(f"seed {seed}: the page is cut after {len(content)} bytes; whole it has {len(expected)}")
        lost += [f"seed {seed}: {text}" for text in unreadable(folder / "run")]
    return {"tried": 1 if quick else 12, "lost": lost}


def verdicts_of(folder: Path) -> dict[str, list[int]]:
    """What each image is taken for after each attack."""
    return {name: found.tolist() for name, found in Verdicts.read(RunFolder(folder).verdicts_file()).predicted.items()}


def evaluated(folder: Path) -> tuple[float, dict[str, list[int]]]:
    """Train into `base`, and evaluate a copy; the seconds that takes, and the verdicts."""
    (folder / "base").mkdir()
    taken(SHORT, folder / "base")
    (folder / "whole").mkdir()
    shutil.copytree(folder / "base" / "run", folder / "whole" / "run")
    return taken(EVALUATE, folder / "whole"), verdicts_of(folder / "whole" / "run")


def evaluation(folder: Path, quick: bool) -> dict[str, Any]:
    """Kill evaluations by PGD-20 and AutoAttack at random instants; start them again, and compare each verdict."""
    words = EVALUATE
    length, whole = evaluated(folder)

    def one(seed: int) -> str:
        drawn, place = random.Random(seed), folder / str(seed)
        shutil.copytree(folder / "base", place)
        why = killed(words, words, place, drawn.uniform(0, 1.5 * length))
        if not why and verdicts_of(place / "run") != whole:
            why = "other verdicts"
        shutil.rmtree(place)
        return why

    count = 2 if quick else 60
    return {"tried": count, "lost": over(range(count), one), "seconds of a whole one": round(length, 2)}


CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


def signals(folder: Path, quick: bool) -> dict[str, Any]:
    """End trainings by SIGINT, SIGTERM and SIGHUP at random instants after the first step; look at code, steps and processes."""
    words: list[str] = ["run", "--out", "run", *TRAIN.split(" "), "--epochs", "400"]

    def one(seed: int) -> str:
        drawn, place = random.Random(seed), folder / str(seed)
        place.mkdir()
        which = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)[seed % 3]
        child, follower = start(words, place), Follower(place / "run")
        until = time.monotonic() + 60
        while not (place / "run" / "metrics.jsonl").exists() or b"StepDone" not in (place / "run" / "metrics.jsonl").read_bytes():
            if time.monotonic() > until or not child.is_alive():
                return "no step in a minute" if child.is_alive() else f"ended by itself with {child.exitcode}"
            time.sleep(0.01)
        time.sleep(drawn.uniform(0, 0.8))
        for _ in range(2 if which == signal.SIGHUP else 1):  # a shell hands it on, and its end sends another
            os.kill(child.pid, which)
        child.join(30)
        if child.is_alive():
            child.kill()
            return f"{which.name}: still alive after 30 s"
        left = _children(child.pid)
        follower.poll()
        made = max(e.step for e in follower.events if isinstance(e, StepDone))
        saved = read_checkpoint(place / "run" / "last.safetensors").header["step"]
        shutil.rmtree(place)
        if child.exitcode != CODES[which]:
            return f"{which.name}: exit code {child.exitcode}, expected {CODES[which]}"
        if follower.status() != "stopped":
            return f"{which.name}: the run is {follower.status()}"
        if left:
            return f"{which.name}: processes {left} are left"
        return "" if made - saved <= 1 else f"{which.name}: {made - saved} steps lost"

    count, many = (3, 1) if quick else (54, 12)
    lost = over(range(count), one)
    length, whole = evaluated(folder)

    def other(seed: int) -> str:
        place, which = folder / f"evaluation-{seed}", (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)[seed % 3]
        shutil.copytree(folder / "base", place)
        child = start(EVALUATE, place)
        time.sleep(random.Random(seed).uniform(0.3, 0.9) * length)
        os.kill(child.pid, which)
        child.join(30)
        left = _children(child.pid)
        if child.is_alive() or left:
            child.kill()
            return f"{which.name} to an evaluation: {'still alive after 30 s' if child.is_alive() else f'{left} are left'}"
        if child.exitcode not in (0, CODES[which], -which):
            return f"{which.name} to an evaluation: exit code {child.exitcode}"
        if (code := end(EVALUATE, place)) != 0 or verdicts_of(place / "run") != whole:
            return f"an evaluation, started again after {which.name}: ended with {code}, or other verdicts"
        return ""

    return {"tried": count + many, "lost": [*lost, *over(range(many), other)]}


def _children(group: int) -> list[int]:
    return [p.pid for p in psutil.process_iter() if _group(p.pid) == group and p.status() != psutil.STATUS_ZOMBIE]


def _group(process: int) -> int:
    try:
        return os.getpgid(process)
    except OSError:
        return 0
