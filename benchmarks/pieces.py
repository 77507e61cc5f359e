"""What benchmarks/autoattack.py compares: one AutoAttack on the same images, carried out in many ways.

Upstream and our `compat` with two seeds; both by turns on a tenth of the images, for the time; `per-image`, and again with the
images in another order; killed by SIGKILL time and again, and resumed; divided over two processes. Run by itself this file is a
process that is killed, or has its part.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from faal_lab.data.images import Images
from faal_lab.evaluation.autoattack import autoattack
from faal_lab.evaluation.verdicts import Journal
from faal_lab.models.build import frozen
from faal_lab.models.layout import placed
from faal_lab.runs.progress import share_bar
from faal_lab.training.restore import load_model

Piece = dict[str, Any]  # "found": one or more lists of a class for each image; and what else was measured
Tell = Callable[[str, float], None]

PIECES = (
    "compat, seed 0", "upstream, seed 0", "upstream, seed 1", "compat, seed 1", "by turns", "per-image", "other order", "killed",
    "two parts", "edge",
)  # fmt: skip
_ROUNDS, _SEEDS = 5, 20
_NEVER = float("inf")
COSTS = ("seconds", "CPU seconds", "images passed")


@dataclass(frozen=True)
class Work:
    """What is attacked and how, but for mode and seed; and the folder for pieces, journals and what a child process reads."""

    run: str
    model: nn.Module
    images: Images
    setting: dict[str, Any]  # autoattack's arguments
    folder: Path

    def write(self) -> None:
        """For `read` in a child process."""
        self.folder.mkdir(parents=True, exist_ok=True)
        save_file(
            {"pixels": self.images.pixels[:].contiguous(), "labels": self.images.labels}, self.folder / "images.safetensors"
        )
        told = {"run": self.run, "pixel_max": self.images.pixel_max, "setting": self.setting}
        (self.folder / "work.json").write_text(json.dumps(told), encoding="utf-8")

    @staticmethod
    def read(folder: Path) -> Work:
        """What was written there."""
        told, tensors = json.loads((folder / "work.json").read_text()), load_file(folder / "images.safetensors")
        images = Images(tensors["pixels"], tensors["labels"], told["pixel_max"])
        return Work(told["run"], network(told["run"]), images, told["setting"], folder)

    def journal(self, name: str, part: int) -> Journal:
        """Finished batches of a piece; a part of its own for who only looks."""
        return Journal(self.folder / name, {"piece": name}, part)


def network(run: str) -> nn.Module:
    """A run's network, as an evaluation has it."""
    return placed(load_model(run)[0], torch.device("cpu"))


def attacked(
    work: Work, mode: str, seed: int, tell: Tell, journal: Journal, part: int = 0, parts: int = 1
) -> dict[str, list[int]]:
    """What each image is taken for after each attack, by faal_lab."""
    pixels, labels = work.images.all()
    after = autoattack(
        work.model, pixels, labels, seed=seed, mode=mode, journal=journal, part=part, parts=parts, **work.setting,
        progress=lambda what, share, left: tell(f"{what}, {left} still robust", share),
    )  # fmt: skip
    return {name: found.tolist() for name, found in after.items()}


def ours(work: Work, name: str, mode: str, seed: int, order: torch.Tensor | None, tell: Tell) -> Piece:
    """One process of ours with a journal. With `order` images are attacked in it; what is found stands in their own."""
    shutil.rmtree(work.folder / name, ignore_errors=True)
    order = torch.arange(len(work.images)) if order is None else order
    turned, journal, back = replace(work, images=work.images.part(order)), work.journal(name, 0), order.argsort().tolist()
    after, took = timed(work.model, lambda: attacked(turned, mode, seed, tell, journal))
    found = {attack: [classes[n] for n in back] for attack, classes in after.items()}
    return {"found": list(found.values())[-1:], "after": found, "batches": len(journal.done()), **took}


def upstream(work: Work, seed: int, passes: float, tell: Tell) -> Piece:
    """pyautoattack alone. It tells nothing of its progress: the bar counts the `passes` of images that ours needed."""
    from pyautoattack import AutoAttack

    pixels, labels = work.images.all()
    s = work.setting
    with warnings.catch_warnings(), frozen(work.model):
        warnings.simplefilter("ignore")  # upstream's own hints
        norm: Any = {"linf": "Linf", "l2": "L2"}[s["norm"]]
        attack = AutoAttack(work.model, norm=norm, eps=s["epsilon"], seed=seed)
        attack.verbose, attack.square.n_queries = False, s["queries"]
        attack.fab.n_target_classes = attack.apgd_targeted.n_target_classes = min(9, s["num_classes"] - 1)
        (_, predicted), took = timed(
            work.model, lambda: attack.run_standard_evaluation(pixels, labels, batch_size=s["batch_size"]),
            lambda seen: tell("", min(1.0, seen / passes)),
        )  # fmt: skip
    return {"found": [predicted.tolist()], **took}


def by_turns(work: Work, tell: Tell) -> Piece:
    """Rounds of upstream and ours in `compat`, each on another tenth of the images, that change places: what both took."""
    costs: dict[str, list[Piece]] = {"ours": [], "upstream": []}
    for number in range(_ROUNDS):
        tenth = torch.arange(len(work.images)).chunk(2 * _ROUNDS)[number]
        some = replace(work, images=work.images.part(tenth))
        calls: dict[str, Callable[[Tell], Piece]] = {
            "ours": partial(ours, some, "turn", "compat", 0, None),
            "upstream": partial(upstream, some, 0, _NEVER),
        }
        for who in list(calls) if number % 2 else reversed(calls):
            costs[who].append(calls[who](lambda what, _, n=number: tell(what, n / _ROUNDS)))
    return {key: {who: [c[key] for c in cost] for who, cost in costs.items()} for key in ("found", *COSTS)}


def timed(model: nn.Module, call: Callable[[], Any], seen: Callable[[int], None] | None = None) -> tuple[Any, Piece]:
    """What a call returns, and its cost: seconds, seconds of this process, images that passed through the network."""
    passed = calls = 0

    def count(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal passed, calls
        passed, calls = passed + len(inputs[0]), calls + 1
        if seen is not None and calls % 1000 == 0:  # seldom: a bar is no part of upstream's cost
            seen(passed)

    hook = model.register_forward_pre_hook(count)
    began, began_cpu = time.perf_counter(), time.process_time()
    result = call()
    cost = time.perf_counter() - began, time.process_time() - began_cpu, passed
    hook.remove()
    return result, dict(zip(COSTS, cost, strict=True))


def started(work: Work, name: str, part: int = 0, parts: int = 1) -> subprocess.Popen[str]:
    """A process that goes on with a piece; returns when that begins to attack."""
    words = [sys.executable, str(Path(__file__).resolve()), str(work.folder), name, str(part), str(parts)]
    process = subprocess.Popen(words, start_new_session=True, stdout=subprocess.PIPE, text=True)
    if process.stdout is None or process.stdout.readline() != "begun\n":
        raise SystemExit(f"The process for {name} ended before it began to attack.")
    return process


def go_on(folder: str, name: str, part: str, parts: str) -> None:
    """What `started` starts."""
    work = Work.read(Path(folder))
    journal = work.journal(name, int(part))
    print("begun", flush=True)
    after = attacked(work, "per-image", 0, lambda *_: None, journal, int(part), int(parts))
    answer(work, name, int(part)).write_text(json.dumps(list(after.values())[-1]), encoding="utf-8")


def answer(work: Work, name: str, part: int = 0) -> Path:
    """Where a child process writes what it found."""
    return work.folder / f"{name}-{part}.json"


def killed(work: Work, count: int, whole: Piece, tell: Tell) -> Piece:
    """Start it and kill it `count` times: after a random time, or as soon as a random number of batches is there. Let it end.

    Where it ends before, it begins again from nothing; what each of them found is kept. `whole` is the same without kills.
    """
    numbers, kills, found = random.Random(0), [], []
    while len(kills) < count or not found:
        name = f"killed-{len(found)}"
        shutil.rmtree(work.folder / name, ignore_errors=True)
        while True:
            late = numbers.uniform(0, 2 * whole["seconds"] / count), _NEVER
            full = _NEVER, numbers.randint(1, 1 + 2 * whole["batches"] // count)
            limits = (_NEVER, _NEVER) if len(kills) == count else late if numbers.random() < 0.5 else full
            kill = one_life(work, name, limits, lambda n: tell(f"{len(kills)} kills", min(1.0, n / whole["batches"])))
            if kill is None:
                break
            kills.append(kill)
        found.append(json.loads(answer(work, name).read_text()))
    return {"found": found, "kills": kills}


def one_life(work: Work, name: str, limits: tuple[float, float], tell: Callable[[int], None]) -> Piece | None:
    """One process, killed once it has worked for so many seconds or made so many batches; None where it ended by itself."""
    journal = work.journal(name, 1)
    before = seen = len(journal.done())
    with started(work, name) as process:
        began = last = died = time.monotonic()
        while process.poll() is None:
            if (now := len(journal.done())) > seen:
                seen, last = now, time.monotonic()
                tell(seen)
            if time.monotonic() - began >= limits[0] or seen - before >= limits[1]:
                process.kill()
                died = time.monotonic()
                break
            time.sleep(0.005)
    if process.returncode == 0:
        return None
    if process.returncode > 0:
        raise SystemExit(f"The process for {name} failed.")
    done = journal.done()
    lost = died - last if len(done) == seen else 0.0
    where = list(done)[-1][0] if done else ""
    new = len(done) - before
    return {"after seconds": died - began, "batches": len(done), "of them new": new, "last in": where, "seconds lost": lost}


def divided(work: Work, whole: Piece, tell: Tell) -> Piece:
    """Two processes at a time, each with its half of the batches."""
    shutil.rmtree(work.folder / "parts", ignore_errors=True)
    processes, journal = [started(work, "parts", part, 2) for part in (0, 1)], work.journal("parts", 2)
    while any(process.poll() is None for process in processes):
        tell("", min(1.0, len(journal.done()) / whole["batches"]))
        time.sleep(0.2)
    if any(process.returncode for process in processes):
        raise SystemExit("One of two processes failed.")
    lines = [next((work.folder / "parts").glob(f"*/part-{part}.jsonl")).read_text().count("\n") for part in (0, 1)]
    return {"found": [json.loads(answer(work, "parts", part).read_text()) for part in (0, 1)], "batches of each": lines}


def edge(work: Work, done: dict[str, Piece], tell: Tell) -> Piece:
    """Images on which `per-image` and upstream's seeds differ: how often each mode breaks them, alone, with many seeds."""
    labels = work.images.labels.tolist()
    compared = [piece["found"][0] for name, piece in done.items() if name.startswith("upstream") or name == "per-image"]
    verdicts = [[a == b for a, b in zip(found, labels, strict=True)] for found in compared]
    images = [n for n, found in enumerate(zip(*verdicts, strict=True)) if len(set(found)) > 1]
    broken: Piece = {mode: dict.fromkeys(images, 0) for mode in ("compat", "per-image")}
    for turn, n in enumerate(images):
        alone = replace(work, images=work.images.part(torch.tensor([n])))
        for mode, counts in broken.items():
            for seed in range(_SEEDS):
                tell(f"image {n}, {mode}", turn / len(images))
                found = attacked(alone, mode, seed, lambda *_: None, Journal(None, {}))
                counts[n] += list(found.values())[-1] != [labels[n]]
    return {"broken": broken, "seeds": _SEEDS}


def makers(work: Work, kills: int, done: dict[str, Piece]) -> dict[str, Callable[[Tell], Piece]]:
    """How each of PIECES is made; some look at what is `done` by then."""
    order = torch.randperm(len(work.images), generator=torch.Generator().manual_seed(0))
    made: dict[str, Callable[[Tell], Piece]] = {
        "per-image": partial(ours, work, "per-image", "per-image", 0, None),
        "other order": partial(ours, work, "other order", "per-image", 0, order),
        "by turns": partial(by_turns, work),
        "edge": lambda tell: edge(work, done, tell),
        "killed": lambda tell: killed(work, kills, done["per-image"], tell),
        "two parts": lambda tell: divided(work, done["per-image"], tell),
    }
    for seed in (0, 1):
        made[f"compat, seed {seed}"] = partial(ours, work, f"compat-{seed}", "compat", seed, None)
        made[f"upstream, seed {seed}"] = lambda tell, s=seed: upstream(work, s, done["compat, seed 0"]["images passed"], tell)
    return made


def all_pieces(work: Work, names: list[str], kills: int) -> dict[str, Piece]:
    """Make, or read again, the pieces that are named; says how long the rest may take."""
    done: dict[str, Piece] = {}
    call, spent = makers(work, kills, done), []
    for number, name in enumerate(names, start=1):
        file = work.folder / f"{name.replace(', ', '-').replace(' ', '-')}.piece.json"
        if not file.exists():
            left = f", about {sum(spent) / len(spent) * (len(names) - number + 1) / 60:.0f} minutes left" if spent else ""
            print(f"{name} ({number} of {len(names)}{left})", flush=True)
            began = time.monotonic()
            with share_bar(name) as tell:
                piece = call[name](tell)
            spent.append(time.monotonic() - began)
            file.write_text(json.dumps(piece), encoding="utf-8")
        done[name] = json.loads(file.read_text())
    return done


if __name__ == "__main__":
    go_on(*sys.argv[1:])
