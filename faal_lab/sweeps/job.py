"""Run one job in a process of its own: a papermill run, its log, its lock and its result.

    python -m faal_lab.sweeps.job ORDER.json

The process and its kernel end when the parent process is gone, or when the job's time is over. So a killed sweep leaves no
process that still writes to a run folder. SIGTERM goes to the kernel first, and a run saves its state.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from faal_lab.sweeps.status import LOCK, Status, read_status

_PATIENCE = 60.0  # seconds for a process of an earlier sweep to end
_GRACE = 15.0  # seconds for a kernel to save its state
_SOCKET_NAME = 103  # bytes of a socket's path that all systems take
_SOCKETS: list[str] = []  # folders of this process's kernel, which an end by force leaves
_LOG, _EXECUTED, _ORDER, END = "log.txt", "executed.ipynb", "order.json", "end"

# A job inherits these environment variables, and those in `environment` of the sweep file.
INHERITED = (
    "PATH", "HOME", "USER", "USERPROFILE", "SYSTEMROOT", "APPDATA", "LOCALAPPDATA", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR",
    "TEMP", "TMP", "VIRTUAL_ENV", "CONDA_PREFIX", "LD_LIBRARY_PATH", "PYTHONPATH", "JUPYTER_PATH", "JUPYTER_DATA_DIR",
    "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "XDG_CACHE_HOME", "TORCH_HOME", "HF_HOME", "CUDA_HOME", "OMP_WAIT_POLICY",
    "GOMP_SPINCOUNT", "ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY",
)  # fmt: skip


@dataclass(frozen=True)
class Order:
    """A job for another process, perhaps on another machine that sees the same files."""

    key: str
    stage: str
    notebook: str
    parameters: dict[str, Any]
    folder: str
    home: str
    fingerprint: str
    code: str
    anew: bool = False  # make it anew, even if a result exists
    limit: float = 0.0  # seconds that it may take; 0: any


def environment(more: tuple[str, ...], own: dict[str, str]) -> dict[str, str]:
    """Return a job's environment: INHERITED, `more` names, and its `own` values (device, threads)."""
    return {name: os.environ[name] for name in (*INHERITED, *more) if name in os.environ} | own


def start(order: Order, variables: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a job in a child process. Raises OSError if its folder is not writable."""
    home = Path(order.home)
    home.mkdir(parents=True, exist_ok=True)
    (home / _ORDER).write_text(json.dumps(asdict(order), indent=1), encoding="utf-8")
    with open(home / _LOG, "ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "faal_lab.sweeps.job", str(home / _ORDER)],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=variables, start_new_session=os.name == "posix",
        )  # fmt: skip


def outcome(order: Order, code: int) -> Status:
    """Return the status after a process ended with `code`: failed if it left no final one."""
    found = read_status(Path(order.home))
    if found is None or found.fingerprint != order.fingerprint:
        found = Status("running", order.fingerprint, order.code, order.stage, Path(order.notebook).stem)
    if found.state == "running" or (found.state == "done" and code):
        by = f"signal {-code}" + (" (no memory left?)" if code == -9 else "") if code < 0 else f"exit code {code}"
        found = replace(found, state="failed", error=f"The process ended by {by}: {_last_line(Path(order.home) / _LOG)}")
        with contextlib.suppress(OSError):  # full disk: still report it; the next sweep finds no "done"
            found.write(Path(order.home))
    return found


def execute(order: Order, variables: dict[str, str]) -> dict[str, Any]:
    """Run a job on a worker, wait for it, and return its status as plain values.

    A worker's thread cannot be interrupted. To end the job, create the file `end` in its home.
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
    """End a job's process in order; kill it 5 s after its kernel's time to save is over."""
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
    """Run the order in a file, and return the exit code."""
    from filelock import FileLock, Timeout

    order = Order(**json.loads(file.read_text(encoding="utf-8")))
    home = Path(order.home)
    threading.Thread(target=_watch, args=(os.getppid(), order.limit), daemon=True).start()
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
    if same and before is not None and before.state == "done":  # an earlier sweep's process finished it during our wait
        return 0
    spent, attempts = (before.seconds, before.attempts) if same and before is not None else (0.0, 0)
    status = Status("running", order.fingerprint, order.code, order.stage, Path(order.notebook).stem, spent, attempts + 1)
    if not same and Path(order.folder).exists():  # made from other inputs: never resume from it
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
    except Exception as error:  # any error fails this job alone, and is recorded
        print(f"{type(error).__name__}: {error}", flush=True)
        ended = replace(status, state="failed", error=_words(error))
    replace(ended, seconds=round(spent + time.monotonic() - began, 2)).write(home)
    return ended.state != "done"


def _run_notebook(order: Order, home: Path) -> None:
    import papermill

    Path(order.folder).mkdir(parents=True, exist_ok=True)
    with _without_ports() as config:
        papermill.execute_notebook(
            order.notebook, str(home / _EXECUTED), order.parameters, kernel_name="python3", cwd=os.getcwd(), progress_bar=False,
            log_output=True, stdout_file=sys.stdout, stderr_file=sys.stdout, config=config,
        )  # fmt: skip


@contextlib.contextmanager
def _without_ports() -> Iterator[Any]:
    """Return the configuration of a kernel that is spoken to through files of its own, not ports.

    jupyter_client picks five free ports, and frees them again for the kernel to take. Where many jobs begin at once, another one
    may be quicker: the kernel dies, or answers the wrong job.
    """
    from traitlets.config import Config

    with tempfile.TemporaryDirectory(prefix="faal-lab-") as folder:
        _SOCKETS.append(folder)
        files = {"transport": "ipc", "ip": f"{folder}/kernel"}
        short = len(os.fsencode(f"{folder}/kernel-5")) <= _SOCKET_NAME
        yield Config({"KernelManager": files} if short and os.name == "posix" else {})


def _words(error: Exception) -> str:
    """Return the error of the failed cell, without papermill's frame around it."""
    name, value = getattr(error, "ename", None), getattr(error, "evalue", None)
    return f"{name}: {value}" if name else f"{type(error).__name__}: {error}"


def _watch(parent: int, limit: float) -> None:
    """End this process when its parent is gone, or when it took longer than `limit` seconds."""
    begun = time.monotonic()
    while os.getppid() == parent:
        if limit and time.monotonic() - begun > limit:
            print(f"it took longer than {limit / 3600:.3g} hours, the limit_hours of its sweep.", flush=True)
            _end(124)
        time.sleep(0.25)
    _end(1)


def _end(code: int) -> None:
    """End the kernel (in order first, then by force) and this process."""
    import psutil  # installed with ipykernel

    children = psutil.Process().children(recursive=True)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.terminate()  # a run saves its state on SIGTERM
    for child in psutil.wait_procs(children, timeout=_GRACE)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    for folder in _SOCKETS:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
