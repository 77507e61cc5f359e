"""Train on a set of four times the memory that a process may use, beside one that fits in it.

    python benchmarks/storage.py             # six minutes on two cores, 9 GB of disk; as root on Linux

Each contender is a process of its own in a control group with a limit, which counts the pages of files that the system keeps for
it, too. So most images of the large set come from the disk. Both train the same small network by the same steps; the ratio is
that of images a second in rounds side by side.
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
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from side_by_side import machine, ratio

SIDE, WARM, STEPS = 32, 10, 120
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


def contend(file: str, storage: str, steps: int) -> None:
    """Train in this process; print seconds a step, and the bytes a step that came from the disk."""
    from faal_lab.runs.config import Config
    from faal_lab.runs.events import StepDone
    from faal_lab.training.loop import train
    from faal_lab.training.run import prepare

    config = Config(data="npz", data_dir=file, storage=storage, epochs=1, batch_size=128, fairness="faal", epsilon=8 / 255)
    begun = time.perf_counter()
    trainer = prepare(config)
    ready, taken, read, last = time.perf_counter() - begun, [], 0, 0.0
    for event in train(trainer):
        if isinstance(event, StepDone):
            now = time.perf_counter()
            if event.step == WARM:
                read = _read_bytes()
            if event.step > WARM:
                taken.append(now - last)
            last = now
            if event.step == WARM + steps:
                break
    found = {"ready": ready, "step": float(np.mean(taken)), "read a step": (_read_bytes() - read) / steps}
    print(json.dumps(found | {"images": len(trainer.splits.train)}))


def _read_bytes() -> int:
    """Bytes that this process had fetched from the disk, so far."""
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["read_bytes"])


@contextmanager
def limited(allowed: int) -> Iterator[list[Path]]:
    """A control group that may use `allowed` bytes: the files that a process writes its number to, to join it."""
    old = (_GROUPS / "memory").is_dir()
    group = (_GROUPS / "memory" if old else _GROUPS) / f"faal-lab-{os.getpid()}"
    group.mkdir()
    try:
        (group / ("memory.limit_in_bytes" if old else "memory.max")).write_text(str(allowed))
        yield [group / "cgroup.procs"]
    finally:
        group.rmdir()


def ran(file: Path, storage: str, steps: int, groups: list[Path], cache: Path) -> dict[str, Any]:
    """What a contender prints, in a process of its own that joins `groups` first."""
    for held in (file, *cache.glob("*.npy")):
        _forget(held)
    code = _SELF.format(folder=str(Path(__file__).parent), arguments=(str(file), storage, steps))
    join = "".join(f"open({str(group)!r}, 'w').write(str(__import__('os').getpid())); " for group in groups)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", join + code], capture_output=True, text=True, check=False,
        env={**os.environ, "FAAL_LAB_CACHE": str(cache)},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{storage} ended with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


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


def main() -> None:
    """Measure, and write it down."""
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("--allowed", type=int, default=1024, help="MiB of memory that a process may use")
    words.add_argument("--rounds", type=int, default=3)
    words.add_argument("--folder", type=Path, help="a folder on the disk to measure; default: the system's for temporary files")
    words.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    options = words.parse_args()
    allowed = options.allowed * 2**20
    with tempfile.TemporaryDirectory(dir=options.folder) as place, limited(allowed) as groups:
        cache = Path(place) / "cache"
        large = write_images(Path(place) / "large.npz", 4 * allowed // (3 * SIDE * SIDE))
        small = write_images(Path(place) / "small.npz", allowed // 32 // (3 * SIDE * SIDE))
        of_disk = disk(large)
        ran(large, "disk", 1, groups, cache)  # decodes
        inside, outside = [], []
        for number in range(options.rounds):
            inside.append(ran(small, "memory", STEPS, groups, cache))
            outside.append(ran(large, "disk", STEPS, groups, cache))
            print(number + 1, inside[-1], outside[-1], flush=True)
    speed = ratio([r["step"] for r in inside], [r["step"] for r in outside])
    found = {
        "machine": machine(), "disk": of_disk, "allowed MiB": options.allowed, "bytes an image": 3 * SIDE * SIDE,
        "times the allowed memory": 4, "speed": speed, "fits": inside, "does not fit": outside,
    }  # fmt: skip
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({"speed": speed, "disk": of_disk}, indent=1))


if __name__ == "__main__":
    main()
