"""Rows of benchmarks/reliability.py on files and values: damaged, not finite, hostile."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import random
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from faal_lab.errors import FaalLabError
from faal_lab.evaluation.evaluate import evaluate_run, read_verdicts
from faal_lab.evaluation.groups import Reported
from faal_lab.results.check import verify
from faal_lab.results.report import what_was_run
from faal_lab.results.tables import spread_table, summary
from faal_lab.runs import RunFolder, read_checkpoint
from faal_lab.runs.config import Config
from faal_lab.runs.events import StepDone
from faal_lab.runs.export import history_table
from faal_lab.runs.files import tensors_sha256
from faal_lab.runs.follower import Follower
from faal_lab.training.restore import load_model
from faal_lab.training.run import run

SHORT = Config(
    filters=4, batch_size=100, attack_steps=1, validation_steps=1, epochs=2, epsilon=0.1, fairness="faal", device="cpu"
)


def trained(out: Path, config: Config = SHORT, stop_after: int = 0) -> Path:
    """Train into a folder, whole or stopped after so many steps."""
    events = run(config, out)
    for event in events:
        if stop_after and isinstance(event, StepDone) and event.step >= stop_after:
            events.close()
            break
    return out


def tables(folder: Path) -> list[Any]:
    """Every number that we print or draw of a run: accuracies, spread, what was run, history, and a hash of its weights."""
    verdicts, reported = read_verdicts(folder), Reported.read("run", folder)
    history = [
        history_table(folder).to_csv(),
        str(reported.history.validation("robust")),
        str(reported.history.validation("clean")),
    ]
    run_of = what_was_run([reported]).rows
    weights = tensors_sha256(load_model(folder)[0].state_dict())
    return [summary({"run": verdicts}), spread_table({"run": verdicts}), run_of, *history, weights]


# --- damage -----------------------------------------------------------------------------------------------------------------


def _changed(content: bytes, drawn: random.Random, other: bytes) -> dict[str, bytes]:
    """The content of a file after each kind of accident."""
    at, long = drawn.randrange(len(content)), len(content)
    block = min(long, drawn.choice((1, 16, 512, 4096)))
    start = drawn.randrange(long - block + 1)
    flipped = content[:at] + bytes([content[at] ^ 1 << drawn.randrange(8)]) + content[at + 1 :]
    lines = content.split(b"\n")
    line = drawn.randrange(max(1, len(lines) - 1))
    return {
        "bit flipped": flipped,
        "cut": content[: drawn.randrange(long)],
        "block of zeros": content[:start] + bytes(block) + content[start + block :],
        "exchanged with another run's": other,
        "empty": b"",
        "bytes appended": content + drawn.randbytes(drawn.randrange(1, 64)),
        "block twice": content[:start] + content[start : start + block] + content[start:],
        "line missing": b"\n".join(lines[:line] + lines[line + 1 :]),
        "newer version": content.replace(b'"schema": 1', b'"schema": 7').replace(b'\\"schema\\": 1', b'\\"schema\\": 7'),
    }


def _outcome(folder: Path, before: list[Any], file: str, cut: bool = False) -> str:
    """What the tables of a folder with one damaged file are: refused, the same, or why that is a loss.

    Where whole lines at the end of timing.jsonl are missing, as after a kill, times are left out: that is the same.
    """
    try:
        after = tables(folder)
    except (FaalLabError, OSError) as error:
        named = [name for name in os.listdir(folder) if name in str(error)]  # of two that do not fit, either may be named
        return (
            "refused" if file in str(error) or (named and "another run" in str(error)) else f"refused without its name: {error}"
        )
    except Exception as error:  # a traceback for the user
        return f"{type(error).__name__}: {error}"
    if after == before:
        return "harmless"
    if file == "timing.jsonl" and cut:
        before, after = ([rest[:2], [row[:5] for row in rest[2]], rest[3:]] for rest in (before, after))
        return "harmless" if before == after else "silent: more than times"
    place = next(n for n, (a, b) in enumerate(zip(after, before, strict=True)) if a != b)
    return f"silent: {str(after[place])[:120]!r} in place of {str(before[place])[:120]!r}"


def damage(folder: Path, quick: bool) -> dict[str, Any]:
    """Damage each file of an evaluated run in many ways; read all tables of it, resume it, and verify it."""
    one, two = folder / "one", folder / "two"
    for path, config in ((one, SHORT), (two, replace(SHORT, fairness="none", seed=1))):
        trained(path, config)
        evaluate_run(path, attacks=("clean", "pgd-20"))
    before, drawn = tables(one), random.Random(0)
    names = ["config.json", "metrics.jsonl", "timing.jsonl", "last.safetensors", "best.safetensors", "verdicts-last.npz"]
    free = ["heartbeat.json", "writer.lock"]  # no number depends on them
    lost, counted = [], {"refused": 0, "harmless": 0}
    for _ in range(1 if quick else 22):
        for name in [*names, *free]:
            whole, other = (one / name).read_bytes(), (two / name).read_bytes()
            for kind, content in _changed(whole, drawn, other).items() if whole else ():
                (one / name).write_bytes(content)
                said = _outcome(one, before, name, cut=whole.startswith(content[: content.rfind(b"\n") + 1]))
                found = [case.name for case in verify(one) if case.outcome != "passed"] if name in names else []
                if said == "refused" and not (found if kind.startswith("exchanged") else name in found):
                    said = "refused by the tables, and whole by verify"
                if said == "harmless" and name == "best.safetensors" and content != whole and name not in found:
                    said = "whole by verify"  # the tables are of the last one
                if said in counted:
                    counted[said] += 1
                else:
                    lost.append(f"{name}, {kind}: {said}")
                (one / name).write_bytes(whole)
    resumed, more = _resumed_damaged(folder, drawn, 2 if quick else 40)
    return {"tried": sum(counted.values()) + len(lost) + resumed, "lost": lost + more, **counted, "resumed": resumed}


def _resumed_damaged(folder: Path, drawn: random.Random, times: int) -> tuple[int, list[str]]:
    """Resume a stopped run with one damaged file: refused by name, or it ends as the undamaged one does."""

    def end(path: Path) -> tuple[list[Any], str]:
        for _ in run(RunFolder.open(path).config(), path, resume=True):
            pass
        follower = Follower(path)
        follower.poll()
        return [*follower.steps, *follower.epochs], tensors_sha256(load_model(path)[0].state_dict())

    stopped, lost = trained(folder / "stopped", replace(SHORT, checkpoint_every=4), stop_after=9), []
    other = trained(folder / "other", replace(SHORT, seed=3, checkpoint_every=4), stop_after=9)
    expected = end(Path(shutil.copytree(stopped, folder / "whole")))
    for number in range(times):
        name = drawn.choice(("config.json", "metrics.jsonl", "last.safetensors"))
        kind, content = drawn.choice([*_changed((stopped / name).read_bytes(), drawn, (other / name).read_bytes()).items()])
        path = Path(shutil.copytree(stopped, folder / f"copy-{number}"))
        (path / name).write_bytes(content)
        try:
            if end(path) != expected:
                lost.append(f"resumed with {name}, {kind}: other numbers")
        except (FaalLabError, OSError) as error:
            if name not in str(error) and "of another run" not in str(error):  # of two that do not fit, either may be named
                lost.append(f"resumed with {name}, {kind}: refused without its name: {error}")
        except Exception as error:
            lost.append(f"resumed with {name}, {kind}: {type(error).__name__}: {error}")
        shutil.rmtree(path)
    return times, lost


# --- values that are not finite ---------------------------------------------------------------------------------------------


def _planted(trainer: Any, what: str, value: float) -> None:
    """Plant a value into a training's state."""
    model = trainer.state.model
    if what == "weight":
        next(model.parameters()).data.view(-1)[0] = value
    elif what == "momentum":
        for group in trainer.state.optimizer.param_groups:
            for parameter in group["params"]:
                trainer.state.optimizer.state[parameter]["momentum_buffer"] = torch.full_like(parameter, value)
    elif what == "BatchNorm's mean":
        next(tensor for name, tensor in model.named_buffers() if name.endswith("running_mean"))[0] = value
    elif what == "gradient":
        next(model.parameters()).register_hook(lambda gradient: gradient * value)
    elif what == "average":
        for tensor in trainer.state.average.values():
            if tensor.is_floating_point():
                tensor.fill_(value)


def not_finite(folder: Path, quick: bool) -> dict[str, Any]:
    """Plant values into a running training; it must stop at that step by our error, and its checkpoint be that of before."""
    lost, tried = [], 0
    places = ("weight", "momentum", "BatchNorm's mean", "gradient", "average")
    cases = [(what, value) for what in places for value in (float("nan"), float("inf"), -float("inf"), 1e38)]
    settings = {"model": "preact-resnet-18", "filters": 4, "batch_size": 200, "averaging": "ema", "checkpoint_every": 1}
    for number, (what, value) in enumerate(cases[::7] if quick else cases):
        out, tried = folder / f"planted-{number}", tried + 1
        why = _stops(out, replace(SHORT, **settings), what, value)
        lost += [f"{what} = {value}: {why}"] if why else []
    for kind in ("nan", "inf", "label", "fraction"):
        tried, file = tried + 1, folder / f"{kind}.npz"
        drawn = np.random.default_rng(0)
        images, labels = drawn.random((200, 8, 8, 1)).astype(np.float32), np.arange(200) % 4
        images[7, 0, 0, 0] = {"nan": np.nan, "inf": np.inf}.get(kind, 0.5)
        labels = (
            labels.astype(float) + 0.5
            if kind == "fraction"
            else np.where(np.arange(200) == 9, -1, labels)
            if kind == "label"
            else labels
        )
        np.savez(file, images=images, labels=labels)
        try:
            trained(
                folder / f"data-{kind}",
                Config(data="npz", data_dir=str(file), epochs=1, attack_steps=1, validation_steps=1, device="cpu"),
            )
            lost.append(f"images with {kind}: trained on")
        except FaalLabError as error:
            lost += [f"images with {kind}: {error}"] if "\n" in str(error) else []
        if (folder / f"data-{kind}").exists():
            lost.append(f"images with {kind}: a folder was left behind")
    return {"tried": tried, "lost": lost}


def _stops(out: Path, config: Config, what: str, value: float) -> str:
    """Why a training with a planted value did not stop as it should; empty if it did."""
    from faal_lab.training import run as module

    held: list[Any] = []
    original = module.prepare

    def kept(*arguments: Any, **named: Any) -> Any:
        held.append(original(*arguments, **named))
        return held[-1]

    module.prepare = kept
    steps = 0
    try:
        for event in run(config, out):
            steps += isinstance(event, StepDone)
            if isinstance(event, StepDone) and event.step == 3:
                _planted(held[0], what, value)
            if isinstance(event, StepDone) and event.step == 6:
                break
    except FaalLabError as error:
        if "\n" in str(error):
            return f"more than a line: {error}"
        state = read_checkpoint(out / "last.safetensors")
        finite = all(bool(t.isfinite().all()) for t in state.tensors.values() if t.is_floating_point())
        return (
            "" if finite and state.header["step"] <= 4 else f"its checkpoint is of step {state.header['step']}, finite: {finite}"
        )
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        module.prepare = original
    state = read_checkpoint(out / "last.safetensors")
    finite = all(bool(t.isfinite().all()) for t in state.tensors.values() if t.is_floating_point())
    return "" if abs(value) == 1e38 and finite else f"went on for {steps - 3} steps"


# --- hostile files ----------------------------------------------------------------------------------------------------------

# Names of classes as a stranger may have them: markup, colours of a terminal, lines, marks of direction, formulas.
NAMES = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "a\x1b[31mred",
    "two\nlines",
    "\u202egnp.exe",
    "=1+2",
    '=HYPERLINK("http:..x";"y")',
    "+1+2",
    "-1+2",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "a\x00b",
    "%s%n",
    "${jndi:x}",
    "'; --",
    "\x9b31m",
    "x" * 255,
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Payload:
    """What a pickle would run: it makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.makedirs, (self.marker, 0o777, True)


def said(words: list[str]) -> tuple[int | str, str]:
    """Run the command line; return its exit code, or the traceback's last line, and what it printed."""
    from faal_lab.__main__ import main

    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            code: int | str = main(words)
        except SystemExit as error:
            code = int(error.code or 0)
        except BaseException as error:
            code = f"{type(error).__name__}: {error}"
    return code, text.getvalue()


def _safetensors(header: bytes, stated: int | None = None, rest: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header) if stated is None else stated) + header + rest


def _npy(shape: str, dtype: str = "<f8") -> bytes:
    head = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    head += b" " * (63 - (len(head) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head


def _zip(file: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as stored:
        for name, content in members.items():
            stored.writestr(name, content)


def _network_files(folder: Path, marker: Path) -> Iterator[tuple[str, Path]]:
    """Files that are taken for a network's weights."""
    for name in ("evil.pt", "evil.pth", "evil.ckpt", "evil.safetensors"):
        torch.save({"state_dict": {"w": Payload(marker)}}, folder / name)
        yield f"pickle in {name}", folder / name
    plain = folder / "plain.pth"
    plain.write_bytes(pickle.dumps(Payload(marker)))
    yield "bare pickle", plain
    old = folder / "old.pt"
    torch.save({"w": Payload(marker)}, old, _use_new_zipfile_serialization=False)
    yield "pickle of the old format", old
    deep = b'{"a":' * 20_000 + b"1" + b"}" * 20_000
    over = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 1 << 60]}}).encode()
    wide = json.dumps({"w": {"dtype": "F32", "shape": [1 << 40, 1 << 40], "data_offsets": [0, 16]}}).encode()
    same = json.dumps({n: {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} for n in "ab"}).encode()
    for name, content in {
        "header of 2^63 bytes": _safetensors(b"{}", 1 << 63),
        "header of 100 MB stated": _safetensors(b"{}", 100_000_000),
        "offsets beyond the file": _safetensors(over, rest=bytes(16)),
        "shape of 2^80": _safetensors(wide, rest=bytes(16)),
        "two tensors in one place": _safetensors(same, rest=bytes(16)),
        "header without an end": _safetensors(deep),
        "header that is no JSON": _safetensors(b"\xff" * 64),
        "empty file": b"",
    }.items():
        file = folder / f"{name.replace(' ', '-').replace('^', '')}.safetensors"
        file.write_bytes(content)
        yield f"safetensors, {name}", file
    bomb = folder / "bomb.pt"
    _zip(bomb, {"bomb/data.pkl": pickle.dumps({}), "bomb/data/0": bytes(1 << 28), "bomb/version": b"3"})
    yield "torch file that unpacks to 256 MB", bomb


def _image_files(folder: Path, outside: Path, marker: Path) -> Iterator[tuple[str, str, Path]]:
    """(name, kind of data set, place) of images of a stranger."""
    labels = np.arange(40) % 4
    evil = np.array([Payload(marker)], dtype=object)
    np.savez(folder / "pickled.npz", images=evil, labels=labels)
    yield "npz with a pickle", "npz", folder / "pickled.npz"
    for name, shape in {
        "huge": "(1000000000000, 8, 8, 1)",
        "negative": "(-1, 8, 8, 1)",
        "overflow": "(9223372036854775807, 9, 9, 9)",
    }.items():
        _zip(folder / f"{name}.npz", {"images.npy": _npy(shape), "labels.npy": _npy("(4,)", "<i8") + bytes(32)})
        yield f"npz, {name} shape", "npz", folder / f"{name}.npz"
    _zip(
        folder / "bomb.npz",
        {"images.npy": _npy("(4, 30000, 30000, 3)", "|u1") + bytes(1 << 28), "labels.npy": _npy("(4,)", "<i8") + bytes(32)},
    )
    yield "npz that unpacks to more than it states", "npz", folder / "bomb.npz"
    _zip(folder / "up.npz", {"../images.npy": _npy("(4,)"), "labels.npy": _npy("(4,)", "<i8") + bytes(32)})
    yield "npz with a path upwards", "npz", folder / "up.npz"
    for name, where in {
        "upwards": "../outside/secret.png",
        "absolute": str(outside / "secret.png"),
        "device": "/dev/zero",
        "of a URL": "http://127.0.0.1:9/x.png",
    }.items():
        (folder / f"{name.replace(' ', '-')}.csv").write_text("file,label\n" + f"{where},a\n" * 20 + f"{where},b\n" * 20)
        yield f"CSV with a path {name}", "csv", folder / f"{name.replace(' ', '-')}.csv"
    for name in ("link", "bomb"):
        for label in ("a", "b"):
            (folder / name / label).mkdir(parents=True)
    for number in range(20):
        (folder / "link" / "a" / f"{number}.png").symlink_to(outside / "secret.png")
        (folder / "link" / "b" / f"{number}.png").symlink_to("/dev/zero")
    yield "links out of the folder", "folder", folder / "link"
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sIIBBBBB", 13, b"IHDR", 60_000, 60_000, 8, 2, 0, 0, 0)
    for number in range(20):
        for label in ("a", "b"):
            (folder / "bomb" / label / f"{number}.png").write_bytes(head + bytes(16))
    yield "PNG of 60,000 x 60,000 pixels", "folder", folder / "bomb"


def _sweeps(folder: Path, marker: Path) -> Iterator[tuple[str, Path]]:
    """Sweep files of a stranger."""
    body = "name: x\nstages:\n  one:\n    notebook: train\n    parameters: {{{}: 1}}\n    list: [{{label: a}}]\n"
    for name, text in {
        "tag of YAML": f"!!python/object/apply:os.makedirs ['{marker}']",
        "tag in a value": f"base: !!python/object/apply:os.makedirs ['{marker}']",
        "name that is code": body.format(f'"x = 1; import os; os.makedirs({str(marker)!r}) #"'),
        "name with a line": body.format('"tau\\nimport os"'),
        "aliases without end": "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{c}: &{c} [{', '.join(['*' + p] * 9)}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)),
        "label that leaves the folder": body.format("epochs").replace("label: a", "label: ../../../outside/run"),
        "name of a folder outside": body.format("epochs").replace("name: x", "name: ../outside/x"),
        "notebook elsewhere": body.format("epochs").replace("train", "../../../etc/passwd"),
        "nested without end": "[" * 50_000,
    }.items():
        file = folder / f"{name.replace(' ', '-')}.yaml"
        file.write_text(text)
        yield name, file


def hostile(folder: Path, quick: bool) -> dict[str, Any]:
    """Hand hostile files to the command line, in a process of its own whose memory is watched."""
    words = [sys.executable, __file__, str(folder)]
    ended = subprocess.run(
        words, capture_output=True, text=True, timeout=1500, env={**os.environ, "FAAL_LAB_CACHE": str(folder / "cache")}
    )
    if ended.returncode:
        return {"tried": 0, "lost": [f"the process ended with {ended.returncode}: {ended.stderr[-300:]}"]}
    return json.loads(ended.stdout.splitlines()[-1])


def _tried(folder: Path) -> dict[str, Any]:
    """Try all hostile files in this process."""
    import PIL.Image

    os.chdir(folder)
    outside, marker = folder / "outside", folder / "executed"
    for name in ("outside", "weights", "images", "sweeps"):
        (folder / name).mkdir()
    PIL.Image.new("RGB", (8, 8), (1, 2, 3)).save(outside / "secret.png")
    lost, tried, peak = [], 0, 0.0

    def attempt(what: str, words: list[str], refused: bool = True) -> str:
        nonlocal tried, peak
        Path("/proc/self/clear_refs").write_text("5")  # the largest memory is counted anew
        before, kept = _peak(), sorted(p.name for p in outside.iterdir())
        code, text = said(words)
        grown = _peak() - before
        tried, peak = tried + 1, max(peak, grown)
        for wrong, why in (
            (marker.exists(), "its code ran"),
            (grown > 1000, f"it took {grown:.0f} MB"),
            (not isinstance(code, int), f"{code}"),
            (refused and code == 0, "it was taken"),
            (sorted(p.name for p in outside.iterdir()) != kept, "it wrote outside its folder"),
            ("\x1b" in text or "\x9b" in text or "\u202e" in text, "marks of a terminal in what was printed"),
            (refused and text.strip().count("\n") > 3, f"more than a few lines: {text[:200]!r}"),
        ):
            lost.extend([f"{what}: {why}"] if wrong else [])
        if marker.exists():
            marker.rmdir()
        return text

    cheap = ["--epochs", "1", "--attack-steps", "1", "--validation-steps", "1", "--quiet", "--device", "cpu"]
    for what, file in _network_files(folder / "weights", marker):
        attempt(
            what,
            [
                "evaluate",
                str(file),
                "--model",
                "small-cnn",
                "--data",
                "digits",
                "--epsilon",
                "0.1",
                "--attacks",
                "clean",
                "--images",
                "10",
            ],
        )
    for what, kind, place in _image_files(folder / "images", outside, marker):
        attempt(what, ["run", "--data", kind, "--data-dir", str(place), "--out", str(folder / "runs" / "taken"), *cheap])
    for what, file in _sweeps(folder / "sweeps", marker):
        attempt(what, ["sweep", str(file), "--out", str(folder / "swept"), "--dry-run"], refused="leaves" not in what)
    run_of = trained(folder / "runs" / "good", replace(SHORT, epochs=1))
    evaluate_run(run_of, attacks=("clean", "pgd-20"))
    whole = {
        name: (run_of / name).read_bytes() for name in ("config.json", "metrics.jsonl", "verdicts-last.npz", "heartbeat.json")
    }
    np.savez(folder / "evil.npz", header=np.array([Payload(marker)], dtype=object), labels=np.zeros(3))
    record = json.loads(whole["config.json"])
    for name, content in {
        "verdicts-last.npz": (folder / "evil.npz").read_bytes(),
        "config.json": json.dumps({**record, "config": {**record["config"], "base": "\x1b[31m", "fal": "<b>"}}).encode(),
        "metrics.jsonl": b'{"event": "\x1b[2J\x9b", "schema": 1}\n',
        "heartbeat.json": b'{"pid": 1, "host": "\x1b[31m", "activity": "\x1b[31m", "time": 1e400}',
    }.items():
        (run_of / name).write_bytes(content)
        attempt(
            f"{name} of a stranger's run",
            ["report", str(run_of), "--out", str(folder / "page.html")],
            refused=name != "heartbeat.json",
        )
        (run_of / name).write_bytes(whole[name])
    lost += [f"class name {name!r}: {why}" for name, why in _named(folder, cheap)]
    return {"tried": tried + len(NAMES), "lost": lost, "largest memory in MB": round(peak)}


def _peak() -> float:
    """The largest memory of this process in MB since it was counted anew."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def _named(folder: Path, cheap: list[str]) -> Iterator[tuple[str, str]]:
    """Train on, evaluate and report classes with the names of a stranger; what of them comes through unescaped."""
    import PIL.Image

    drawn, taken = np.random.default_rng(0), []
    for name in NAMES:
        with contextlib.suppress(OSError, ValueError):  # a name that no folder can have
            (folder / "named" / name).mkdir(parents=True)
            taken.append(name)
    for name in taken:
        for number in range(30):
            PIL.Image.fromarray(drawn.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / "named" / name / f"{number}.png")
    out, page = folder / "runs" / "named", folder / "named.html"
    texts = {}
    for words in (
        ["look", str(folder / "named"), "--out", str(folder / "look.png")],
        ["run", "--data", "folder", "--data-dir", str(folder / "named"), "--out", str(out), "--normalization", "none", *cheap],
        ["evaluate", str(out), "--attacks", "clean,pgd-20"],
        ["compare", str(out), str(out) + "/"],
        ["report", str(out), "--out", str(page)],
        ["export", str(out), "--to", "csv", "--out", str(folder / "tables")],
        ["export", str(out), "--to", "replay", "--out", str(folder / "replay.html")],
        ["figures", str(out), "--out", str(folder / "figures"), "--formats", "html,csv"],
    ):
        code, texts[words[0]] = said(words)
        if not isinstance(code, int) or (code and words[0] != "compare"):
            yield "all", f"{' '.join(words[:1])} ended with {code}: {texts[words[0]][-300:]}"
    for command, text in texts.items():
        for mark in ("\x1b", "\x9b", "\u202e", "\x00"):
            if mark in text:
                yield repr(mark), f"printed by {command}"
    pages = [page, folder / "replay.html", *folder.glob("figures/*.html")]
    for file in pages:
        text = file.read_text() if file.exists() else ""
        for name in ("<script>alert(1)", "<img src=x"):
            if name in text:
                yield name, f"stands in {file.name} as markup"
    for file in [*folder.glob("*.csv"), *folder.glob("tables/*.csv"), *folder.glob("figures/*.csv")]:
        import csv

        with open(file, newline="") as stream:
            cells = {cell for row in csv.reader(stream) for cell in row}
        for cell in cells:
            if cell.startswith(_FORMULA) and any(cell.startswith(name.replace("..", "//")[:3]) for name in NAMES):
                yield cell, f"is a formula in {file.name}"


if __name__ == "__main__":
    print(json.dumps(_tried(Path(sys.argv[1]).resolve())))
