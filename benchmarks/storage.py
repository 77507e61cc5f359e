"""Train on a set of four times the memory that a process may use, beside one that fits in it.

    python benchmarks/storage.py             # six minutes on two cores, 9 GB of disk; as root on Linux

Each contender is a process of its own in a control group with a limit, which counts the pages of files that the system keeps for
it, too. So most images of the large set come from the disk. All train the same small network, by turns of 20 steps, so that a
slow second of the machine hits all alike. One of them gives no page back after reading.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from side_by_side import machine, ratio
from tqdm import tqdm

SIDE, SLICE = 32, 20
_GROUPS = Path("/sys/fs/cgroup")
_SELF = "import sys; sys.path.insert(0, {folder!r}); import storage; storage.contend(*{arguments!r})"


def write_images(file: Path, count: int) -> Path:
    """Write `count` images of random pixels and their labels as .npz, a few at once."""
    from zipfile import ZIP_STORED, ZipFile

    rng = np.random.default_rng(0)
    with ZipFile(file, "w", ZIP_STORED) as held:
        with held.open("x_train.npy", "w", force_zip64=True) as stream:
            head: Any = {"descr": "|u1", "fortran_order": False, "shape": (count, 3, SIDE, SIDE)}
            np.lib.format.write_array_header_1_0(stream, head)
            for start in range(0, count, 20_000):
                stream.write(rng.bytes(min(20_000, count - start) * 3 * SIDE * SIDE))
        with held.open("y_train.npy", "w") as stream:
            np.lib.format.write_array(stream, np.arange(count) % 10)
    return file


def contend(file: str, storage: str, give_back: bool) -> None:
    """Train in this process, `SLICE` steps for each line on stdin; print seconds a step, and bytes a step from the disk."""
    from faal_lab.data.storage import OnDisk
    from faal_lab.runs.config import Config
    from faal_lab.runs.events import StepDone
    from faal_lab.training.loop import train
    from faal_lab.training.run import prepare

    config = Config(
        batch_size=128,
        data="npz",
        data_dir=file,
        storage=storage,
        validation="none",
        epochs=999,
        fairness="faal",
        epsilon=8 / 255,
    )
    begun = time.perf_counter()
    trainer = prepare(config)
    if isinstance(pixels := trainer.splits.train.pixels, OnDisk):
        pixels._passing = give_back
    steps = (event for event in train(trainer) if isinstance(event, StepDone))
    next(steps)
    print(json.dumps({"ready": time.perf_counter() - begun, "images": len(trainer.splits.train)}), flush=True)
    for _ in sys.stdin:
        begun, read = time.perf_counter(), _read_bytes()
        for _ in range(SLICE):
            next(steps)
        taken = (time.perf_counter() - begun) / SLICE
        print(json.dumps({"step": taken, "read": (_read_bytes() - read) / SLICE}), flush=True)


def _read_bytes() -> int:
    """Bytes that this process had fetched from the disk, so far."""
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["read_bytes"])


@contextmanager
def limited(allowed: int, name: str) -> Iterator[Path]:
    """A control group that may use `allowed` bytes: the file that a process writes its number to, to join it."""
    old = (_GROUPS / "memory").is_dir()
    group = (_GROUPS / "memory" if old else _GROUPS) / f"faal-lab-{os.getpid()}-{name}"
    group.mkdir()
    try:
        (group / ("memory.limit_in_bytes" if old else "memory.max")).write_text(str(allowed))
        yield group / "cgroup.procs"
    finally:
        group.rmdir()


class Contender:
    """A process that trains when it is asked to; it joins the control group `group` first, if there is one."""

    def __init__(self, file: Path, storage: str, cache: Path, group: Path | None, give_back: bool = True) -> None:
        code = _SELF.format(folder=str(Path(__file__).parent), arguments=(str(file), storage, give_back))
        join = f"open({str(group)!r}, 'w').write(str(__import__('os').getpid())); " if group else ""
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", join + code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "FAAL_LAB_CACHE": str(cache)},
        )  # fmt: skip
        self.about = self._said()
        self.slices: list[dict[str, float]] = []

    def _said(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"A contender ended with {self._process.wait()}; its error is above.")

    def go(self) -> None:
        """Have it make one slice of steps."""
        assert self._process.stdin is not None
        print(file=self._process.stdin, flush=True)
        self.slices.append(self._said())

    def end(self) -> None:
        """End it; its group is empty then."""
        self._process.kill()
        self._process.communicate()  # waits, and closes both pipes


def _forget(file: Path) -> None:
    """Ask the system to keep no page of a file in memory."""
    with open(file, "rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def disk(file: Path) -> dict[str, float]:
    """How quick the disk is: milliseconds for one image at a random place, MB a second in a row."""
    size, rng = 3 * SIDE * SIDE, np.random.default_rng(1)
    _forget(file)
    with open(file, "rb", buffering=0) as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        begun = time.perf_counter()
        for place in rng.integers(0, file.stat().st_size // size, 500):
            stream.seek(int(place) * size)
            stream.read(size)
        single = (time.perf_counter() - begun) / 500
    _forget(file)
    with open(file, "rb", buffering=0) as stream:
        begun, got = time.perf_counter(), 0
        while got < 500_000_000 and (content := stream.read(16_000_000)):
            got += len(content)
        row = got / (time.perf_counter() - begun)
    return {"ms an image": 1000 * single, "MB a second": row / 1e6}


def side_by_side(large: Path, small: Path, cache: Path, allowed: int, rounds: int) -> dict[str, Contender]:
    """Run all contenders in turns, a slice each."""
    kinds = {"fits": (small, "memory", True), "does not fit": (large, "disk", True), "nothing given back": (large, "disk", False)}
    with ExitStack() as stack:
        found = {}
        for number, (name, (file, storage, give_back)) in enumerate(kinds.items()):
            for held in (large, small, *cache.glob("*.npy")):
                _forget(held)
            group = stack.enter_context(limited(allowed, str(number)))
            found[name] = Contender(file, storage, cache, group, give_back)
            stack.callback(found[name].end)
        for number in tqdm(range(rounds + 1)):
            for contender in found.values():
                contender.go()
                if not number:
                    contender.slices.clear()  # warm
    return found


def main() -> None:
    """Measure, and write it down."""
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("--allowed", type=int, default=1024, help="MiB of memory that a process may use")
    words.add_argument("--rounds", type=int, default=30)
    words.add_argument("--folder", type=Path, help="a folder on the disk to measure; default: the system's for temporary files")
    words.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = words.parse_args()
    allowed = options.allowed * 2**20
    with tempfile.TemporaryDirectory(dir=options.folder) as place:
        large = write_images(Path(place) / "large.npz", 4 * allowed // (3 * SIDE * SIDE))
        small = write_images(Path(place) / "small.npz", allowed // 32 // (3 * SIDE * SIDE))
        of_disk = disk(large)
        found = side_by_side(large, small, Path(place) / "cache", allowed, options.rounds)
    steps = {name: [row["step"] for row in contender.slices] for name, contender in found.items()}
    speed = {name: ratio(steps["fits"], taken) for name, taken in steps.items() if name != "fits"}
    about = {
        name: {**contender.about, "step": float(np.median(steps[name])),
               "read a step": float(np.median([row["read"] for row in contender.slices]))}
        for name, contender in found.items()
    }  # fmt: skip
    told = {
        "machine": machine(), "disk": of_disk, "allowed MiB": options.allowed, "bytes an image": 3 * SIDE * SIDE,
        "times the allowed memory": 4, "rounds": options.rounds, "speed": speed, "contenders": about,
    }  # fmt: skip
    options.out.write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps({"speed": speed, "disk": of_disk, "contenders": about}, indent=1))


if __name__ == "__main__":
    main()
