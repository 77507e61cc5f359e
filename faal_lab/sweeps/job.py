"""Run one job in a process of its own: a papermill run, its log, its lock and its result.

    python -m faal_lab.sweeps.job ORDER.json

The process ends, and its kernel with it, when whoever ordered it is gone: a sweep that was killed leaves nobody who still
writes to a run folder. On SIGTERM the kernel is told first, and a training saves its state.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from faal_lab.sweeps.status import LOCK, Status, read_status

_PATIENCE = 60.0  # seconds that an orphan of an earlier sweep has to end
_GRACE = 15.0  # seconds that a kernel has to save its state
_LOG, _EXECUTED, _ORDER, END = "log.txt", "executed.ipynb", "order.json", "end"

# What a job inherits of the environment; a sweep file's `environment` names more.
INHERITED = (
    "PATH", "HOME", "USER", "USERPROFILE", "SYSTEMROOT", "APPDATA", "LOCALAPPDATA", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR",
    "TEMP", "TMP", "VIRTUAL_ENV", "CONDA_PREFIX", "LD_LIBRARY_PATH", "PYTHONPATH", "JUPYTER_PATH", "JUPYTER_DATA_DIR",
    "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "XDG_CACHE_HOME", "TORCH_HOME", "HF_HOME", "CUDA_HOME", "OMP_WAIT_POLICY",
    "GOMP_SPINCOUNT", "ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY",
)  # fmt: skip


@dataclass(frozen=True)
class Order:
    """All that another process, perhaps on another machine with the same files, needs to carry out a job."""

    key: str
    stage: str
    notebook: str
    parameters: dict[str, Any]
    folder: str
    home: str
    fingerprint: str
    code: str
    anew: bool = False  # whatever is there already


def environment(more: tuple[str, ...], own: dict[str, str]) -> dict[str, str]:
    """What a job's process gets to see: INHERITED, those that a file names too, and what is its own (its device, its threads)."""
    return {name: os.environ[name] for name in (*INHERITED, *more) if name in os.environ} | own


def start(order: Order, variables: dict[str, str]) -> subprocess.Popen[bytes]:
    """Begin a job in a child process; raises OSError where its folder cannot be written to."""
    home = Path(order.home)
    home.mkdir(parents=True, exist_ok=True)
    (home / _ORDER).write_text(json.dumps(asdict(order), indent=1), encoding="utf-8")
    with open(home / _LOG, "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "faal_lab.sweeps.job", str(home / _ORDER)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=variables, start_new_session=os.name == "posix",
        )  # fmt: skip


def outcome(order: Order, code: int) -> Status:
    """What became of a job whose process ended with an exit code; a process that could not say is said to have failed."""
    found = read_status(Path(order.home))
    if found is None or found.fingerprint != order.fingerprint:
        found = Status("running", order.fingerprint, order.code, order.stage, Path(order.notebook).stem)
    if found.state == "running" or (found.state == "done" and code):
        by = f"signal {-code}" + (" (no memory left?)" if code == -9 else "") if code < 0 else f"exit code {code}"
        found = replace(found, state="failed", error=f"The process ended by {by}: {_last_line(Path(order.home) / _LOG)}")
        with contextlib.suppress(OSError):  # a full disk: it is told all the same, and the next sweep finds no "done"
            found.write(Path(order.home))
    return found


def execute(order: Order, variables: dict[str, str]) -> dict[str, Any]:
    """Carry out a job and wait for it, for workers elsewhere; what became of it, as plain values.

    A worker's thread cannot be interrupted: a file `end` in the job's home ends it.
    """
    process, end = start(order, variables), Path(order.home) / END
    end.unlink(missing_ok=True)
    try:
        while process.poll() is None and not end.exists():
            time.sleep(0.3)
    finally:
        stop(process)
    return asdict(outcome(order, process.returncode))


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a job's process in order; it has its kernel's time of grace, and a little more."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(_GRACE + 5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _last_line(log: Path) -> str:
    try:
        with open(log, "rb") as stream:
            stream.seek(max(0, log.stat().st_size - 4000))
            lines = stream.read().decode("utf-8", errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1][:400] if lines else "it said nothing."


def main(file: Path) -> int:
    """Carry out the order in a file; returns the exit code."""
    from filelock import FileLock, Timeout

    order = Order(**json.loads(file.read_text(encoding="utf-8")))
    home = Path(order.home)
    threading.Thread(target=_watch_parent, args=(os.getppid(),), daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: _end(143))
    try:
        with FileLock(str(home / LOCK), timeout=_PATIENCE):
            return _carry_out(order, home)
    except Timeout:
        print(f"{order.key}: another process has been at work on it for {_PATIENCE:.0f} seconds. Wait for that one, or end it.")
        return 1


def _carry_out(order: Order, home: Path) -> int:
    before = read_status(home)
    same = before is not None and (before.fingerprint, before.code) == (order.fingerprint, order.code) and not order.anew
    if same and before is not None and before.state == "done":  # an orphan finished it while we waited for the lock
        return 0
    spent, attempts = (before.seconds, before.attempts) if same and before is not None else (0.0, 0)
    status = Status("running", order.fingerprint, order.code, order.stage, Path(order.notebook).stem, spent, attempts + 1)
    if not same and Path(order.folder).exists():  # made from something else: nothing of it may be gone on with
        if before is None:
            print(f"{order.folder} is there already, and no sweep made it. Choose another --out, or move it away.")
            return 1
        replace(status, state="clearing", fingerprint="").write(home)
        shutil.rmtree(order.folder)
    status.write(home)
    began = time.monotonic()
    try:
        _run_notebook(order, home)
        ended = replace(status, state="done")
    except Exception as error:  # whatever it was: this job failed, with these words
        print(f"{type(error).__name__}: {error}", flush=True)
        ended = replace(status, state="failed", error=_words(error))
    replace(ended, seconds=round(spent + time.monotonic() - began, 2)).write(home)
    return ended.state != "done"


def _run_notebook(order: Order, home: Path) -> None:
    import papermill

    Path(order.folder).mkdir(parents=True, exist_ok=True)
    papermill.execute_notebook(
        order.notebook, str(home / _EXECUTED), order.parameters, kernel_name="python3", cwd=os.getcwd(), progress_bar=False,
        log_output=True, stdout_file=sys.stdout, stderr_file=sys.stdout,
    )  # fmt: skip


def _words(error: Exception) -> str:
    """The error that a user needs: the failed cell's, without papermill's frame around it."""
    name, value = getattr(error, "ename", None), getattr(error, "evalue", None)
    return f"{name}: {value}" if name else f"{type(error).__name__}: {error}"


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.25)
    _end(1)


def _end(code: int) -> None:
    """End the kernel, in order first, and this process with it."""
    import psutil  # ipykernel needs it, too

    children = psutil.Process().children(recursive=True)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.terminate()  # a training saves its state on SIGTERM
    for child in psutil.wait_procs(children, timeout=_GRACE)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
