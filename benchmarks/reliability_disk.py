"""Row of benchmarks/reliability.py on the disk and the clock: full, read-only, copied while written, set back, shared.

A full disk is a small tmpfs, which root alone may mount, and a limit on the size of a file, which stops a write in its middle.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from processes import outcome
from reliability_kills import SHORT, Tries, end, same, start, taken, unreadable

from faal_lab.runs import RunFolder
from faal_lab.runs.events import Command

RESUME = ["run", "--resume", "run", "--quiet"]
# a child's Python, changed before the command line is run
CLOCK = """import time
real, begun = time.time, time.time()
time.time = lambda: real() - (86400 if real() - begun > {after} else 0)"""
SLOW = "import os, time\nreal = os.fsync\nos.fsync = lambda file: (time.sleep(0.05), real(file))[1]"
NO_LINKS = "import os\ndef refuse(*_, **__): raise OSError(1, 'Operation not permitted')\nos.link = refuse"
SILLY = """import os, time
real = os.replace
def late(source, target):  # a name that is gone for a moment, as on a network disk
    if os.path.exists(target): os.unlink(target)
    time.sleep(0.002)
    real(source, target)
os.replace = late"""
LIMITED = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"


def changed(before: str, words: list[str], folder: Path) -> tuple[int, str]:
    """Run the command line in a Python that was changed first; its exit code, and what it said on stderr."""
    code = f"{before}\nimport sys, torch\ntorch.set_num_threads(1)\nfrom faal_lab.__main__ import main\nsys.exit(main({words!r}))"
    ended = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=200)
    return ended.returncode, ended.stderr


def refused(code: int, said: str, *named: str) -> str:
    """What is wrong with the end of a command that could not write: a code of 1 and one line that names the place."""
    if code != 1 or "Traceback" in said:
        return f"ended with {code}: {said.strip()[-300:]!r}"
    return "" if any(name in said for name in named) else f"does not name {' or '.join(named)}: {said.strip()[-300:]!r}"


@contextlib.contextmanager
def small_disk(place: Path, options: str) -> Iterator[bool]:
    """Mount a tmpfs of these options at `place`; False where that is not allowed."""
    place.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    mounted = shutil.which("mount") is not None and subprocess.run(words, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(place)], check=True)


class _Tries(Tries):
    """Tries in a folder, beside a whole run."""

    def __init__(self, folder: Path, whole: Any) -> None:
        super().__init__()
        self.folder, self.whole, self.left_out = folder, whole, list[str]()

    def place(self, name: str) -> Path:
        """A new folder for a try."""
        made = self.folder / name.replace(" ", "-")
        made.mkdir()
        made.chmod(0o777)
        return made

    def goes_on(self, place: Path) -> str:
        """Resume with room again (start anew where nothing was written): the end must be that of a whole run."""
        run = place / "run"
        bad = unreadable(run)
        if bad:
            return f"unreadable: {bad[0]}"
        words = RESUME if (run / "config.json").exists() else SHORT
        if (code := end(words, place)) != 0:
            return f"started again, it ended with {code}"
        return "" if same(outcome(run), self.whole) else "started again, it ended with other numbers"


def disk(folder: Path, quick: bool) -> dict[str, Any]:
    """Train on disks that are full, read-only, slow, shared, or with a clock that is set back."""
    folder.chmod(0o755)
    (folder / "whole").mkdir()
    taken(SHORT, folder / "whole")
    length = _again(folder / "whole")
    tries = _Tries(folder, outcome(folder / "whole" / "run"))
    largest = max(f.stat().st_size for f in (folder / "whole" / "run").iterdir())
    for work in (_full, _read_only, _names, _clocks, _writers, _copies):
        work(tries, quick, length, largest)
    said = {"tried": tries.tried, "lost": tries.lost}
    return {**said, "left out": len(tries.left_out)} if tries.left_out else said


def _again(place: Path) -> float:
    shutil.rmtree(place / "run")
    return taken(SHORT, place)


def _full(tries: _Tries, quick: bool, length: float, largest: int) -> None:
    for share in (0.5,) if quick else (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97):
        place = tries.place(f"limit {share}")
        code, said = changed(LIMITED.format(size=int(share * largest)), SHORT, place)
        tries.note(f"files of at most {share:.0%}", refused(code, said, "run/", str(place)) or tries.goes_on(place))
    whole = sum(f.stat().st_size for f in (tries.folder / "whole" / "run").iterdir())
    for number, options in enumerate([f"size={int(s * whole / 4096 + 4) * 4096}" for s in (0.2, 0.6, 0.9)] + ["nr_inodes=4"]):
        if quick and number:
            break
        place = tries.place(f"tmpfs {number}")
        with small_disk(place / "small", options) as mounted:
            if not mounted:
                tries.left_out.append(options)
                continue
            words = [w if n != 2 else "small/run" for n, w in enumerate(SHORT)]
            code, said = changed("", words, place)
            why = refused(code, said, "small/run")
            if (place / "small" / "run").exists():
                shutil.copytree(place / "small" / "run", place / "run")
        tries.note(f"a tmpfs of {options}", why or tries.goes_on(place))


def _read_only(tries: _Tries, quick: bool, length: float, largest: int) -> None:
    for name, words in {"run": SHORT, "resume": RESUME, "evaluate": ["evaluate", "run", "--attacks", "clean"]}.items():
        place = tries.place(f"read only {name}")
        with small_disk(place / "disk", "size=64m") as mounted:
            if not mounted and os.geteuid() == 0:  # root may write anywhere else
                tries.left_out.append(name)
                continue
            if name != "run":
                there = tries.folder / "whole" / "run" if name == "evaluate" else _stopped(tries)
                shutil.copytree(there, place / "disk" / "run")
            if mounted:
                subprocess.run(["mount", "-o", "remount,ro", str(place / "disk")], check=True)
            else:
                for path in (place / "disk", *(place / "disk").glob("run")):
                    path.chmod(0o555)
            before = {f: f.read_bytes() for f in place.rglob("*") if f.is_file()}
            code, said = changed("", words, place / "disk")
            why = refused(code, said, "run", str(place))
            if {f: f.read_bytes() for f in place.rglob("*") if f.is_file()} != before:
                why = "something was changed"
            for path in () if mounted else (place / "disk", *(place / "disk").glob("run")):
                path.chmod(0o755)
        tries.note(f"a read-only disk, {name}", why)
        if quick:
            break


def _stopped(tries: _Tries) -> Path:
    """A run that was ended before its end."""
    place = tries.folder / "stopped"
    if not place.exists():
        place.mkdir()
        while not (place / "run" / "last.safetensors").exists():
            child = start(SHORT, place)
            until = time.monotonic() + 60
            while not (place / "run" / "last.safetensors").exists() and time.monotonic() < until:
                time.sleep(0.01)
            os.kill(child.pid, signal.SIGTERM)
            child.join()
    return place / "run"


def _names(tries: _Tries, quick: bool, length: float, largest: int) -> None:
    for count in (255, 256):
        place, name = tries.place(f"name {count}"), "n" * count
        code, said = changed("", [w if n != 2 else name for n, w in enumerate(SHORT)], place)
        if count == 255:
            good = code == 0 and same(outcome(place / name), tries.whole)
            tries.note("a name of 255 bytes", "" if good else f"ended with {code}: {said[-300:]}")
        else:
            tries.note("a name of 256 bytes", refused(code, said, "nnnn", "name too long"))
    other = Path("/dev/shm") / f"faal-lab-{os.getpid()}"  # another device than that of temporary files
    other.mkdir()
    try:
        code, said = changed("", [w if n != 2 else str(other / "run") for n, w in enumerate(SHORT)], tries.folder)
        good = code == 0 and same(outcome(other / "run"), tries.whole)
        tries.note("a folder on another device", "" if good else f"ended with {code}: {said[-300:]}")
    finally:
        shutil.rmtree(other)


def _clocks(tries: _Tries, quick: bool, length: float, largest: int) -> None:
    cases = {f"the clock set back after {s:.1f} s": CLOCK.format(after=s) for s in (0, 0.3 * length, 0.6 * length)}
    cases |= {"a slow disk": SLOW, "a disk without links": NO_LINKS, "names that are gone for a moment": SILLY}
    for number, (name, before) in enumerate(cases.items()):
        if quick and number % 3:
            continue
        place = tries.place(f"changed {number}")
        code, said = changed(before, SHORT, place)
        why = "" if code == 0 else f"ended with {code}: {said[-300:]}"
        if not why and not same(outcome(place / "run"), tries.whole):
            why = "other numbers"
        if not why and RunFolder(place / "run").status() != "done":
            why = "not done"
        if not why and (bad := unreadable(place / "run")):
            why = bad[0]
        tries.note(name, why)


def _writers(tries: _Tries, quick: bool, length: float, largest: int) -> None:
    for number in range(1 if quick else 5):
        place = tries.place(f"two resumes {number}")
        shutil.copytree(_stopped(tries), place / "run")
        both = [start(RESUME, place) for _ in range(2)]
        for child in both:
            child.join(120)
        codes = sorted(child.exitcode for child in both)
        # the slower one may begin when the other has ended: then it finds a run that is done
        why = "" if codes in ([0, 0], [0, 1]) else f"ended with {codes}"
        if not why and not same(outcome(place / "run"), tries.whole):
            why = "other numbers"
        tries.note(f"two resumes at once, {number}", why)
    place = tries.place("two runs")
    both = [start(SHORT, place) for _ in range(2)]
    for child in both:
        child.join(120)
    good = sorted(child.exitcode for child in both) == [0, 1] and same(outcome(place / "run"), tries.whole)
    tries.note("two runs into one folder", "" if good else f"ended with {[child.exitcode for child in both]}")
    place = tries.place("two speakers")
    control = RunFolder(place)
    many = 20 if quick else 200

    def speak() -> None:
        for _ in range(many):
            control.send(Command("turn", "tau", 0.5))

    speakers = [threading.Thread(target=speak) for _ in range(2)]
    for one in speakers:
        one.start()
    for one in speakers:
        one.join()
    held = len(list((place / "control").glob("*.json")))
    tries.note("two writers of commands", "" if held == 2 * many else f"{2 * many} commands, {held} files")


def _copies(tries: _Tries, quick: bool, length: float, largest: int) -> None:
    """A folder that is copied while it is written: the copy goes on to the same end, or is refused by name."""
    for seed in range(1 if quick else 12):
        place, drawn = tries.place(f"copied {seed}"), random.Random(seed)
        (place / "there").mkdir()
        child = start(SHORT, place / "there")
        time.sleep(drawn.uniform(0.2, 1) * length)
        with contextlib.suppress(shutil.Error, FileNotFoundError):  # a file that went while it was copied
            shutil.copytree(place / "there" / "run", place / "run", dirs_exist_ok=True)
        child.join()
        if (place / "run" / "config.json").exists() and not unreadable(place / "run"):
            tries.note(f"copied while written, {seed}", tries.goes_on(place))
        elif (place / "run" / "config.json").exists():
            tries.note(f"copied while written, {seed}", "" if end(RESUME, place) == 1 else "verify refuses it, resume does not")
