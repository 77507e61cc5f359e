"""Compare two versions of the package byte for byte: what they train, measure and print must be the same.

    PYTHONPATH=OLD_CHECKOUT python benchmarks/behaviour.py make OLD
    PYTHONPATH=NEW_CHECKOUT python benchmarks/behaviour.py make NEW --from OLD
    python benchmarks/behaviour.py compare OLD NEW

`make` trains short runs of every fairness method with PGD-AT and TRADES, and of every other part that a setting can choose; it
interrupts and resumes one, steers one, replays it, attacks three with AutoAttack, and prints tables, comparisons and checks.
With `--from` the new code also resumes the interrupted run that the old code left. `compare` prints each difference and
returns 1 where there is one. Both folders must be made on one machine: other processors round otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

SMALL = {"filters": 4, "batch_size": 100, "attack_steps": 2, "epochs": 2, "validation_steps": 2}
# What a version is allowed to say otherwise: when and with what it ran.
MAY_DIFFER = {"versions", "time", "seconds", "data_dir"}


def cases() -> dict[str, dict[str, Any]]:
    """Name -> settings of each run; a combination that the package refuses is left out, by both versions alike."""
    from faal_lab.catalogue import AMBIGUITY_SETS, FAIRNESS, OBJECTIVES

    found: dict[str, dict[str, Any]] = {}
    for method, row in FAIRNESS.items():
        for loss in ("at", "trades"):
            if set(row.terms) <= set(OBJECTIVES[loss].terms):
                found[f"{method}-{loss}"] = {"fairness": method, "objective": loss}
                found[f"{method}-{loss}-release"] = {"fairness": method, "objective": loss, "variant": "release"}
    for ball in AMBIGUITY_SETS:
        found[f"faal-{ball}"] = {"fairness": "faal", "ambiguity": ball, "tau": 0.4}
    found |= {f"faal-{score}": {"fairness": "faal", "score": score} for score in ("sum", "running")}
    found |= {f"faal-by-{measure}": {"fairness": "faal", "measure": measure} for measure in ("cross-entropy", "error")}
    found |= {f"start-{start}": {"attack_start": start} for start in ("zero", "uniform", "gaussian")}
    found |= {f"lr-{name}": {"lr_schedule": name} for name in ("constant", "one-cycle", "step")}
    faal, trades = {"fairness": "faal"}, {"objective": "trades"}
    return found | {
        "standard": {"objective": "standard"},
        "mart": {"objective": "mart"},
        "bat": {"objective": "bat"},
        "faal-mart-release": {"objective": "mart", "variant": "release", **faal},
        "faal-bat": {"objective": "bat", **faal},
        "awp": {"awp_gamma": 0.01},
        "faal-trades-awp": {"awp_gamma": 0.005, "awp_start": 1, **faal, **trades},
        "ema": {"averaging": "ema", **faal},
        "ema-copy": {"averaging": "ema", "average_buffers": "copy"},
        "fawa": {"averaging": "fawa", "average_threshold": 0.0, "fairness": "cfa"},
        "free": {"replays": 3, "attack_start": "zero"},
        "free-faal": {"replays": 3, **faal},
        "later": {"epochs": 3, "fairness_start": 1, **faal},
        "tau-changes": {"tau_changes": "1:0.1", **faal},
        "multiplier": {"multiplier": 2.0, **faal},
        "conic": {"solver": "cvxpy", "epochs": 1, "batch_size": 250, **faal},
        "in-parts": {"accumulation": 2, **faal},
        "batch-norm": {"batch_norm": "train"},
        "l2": {"norm": "l2", "epsilon": 1.0, **faal},
        "imbalance": {"imbalance": 10.0, **faal},
        "no-validation": {"validation": "none"},
        "validated-on-test": {"validation": "test"},
        "resnet": {"model": "preact-resnet-18", "epochs": 1, "batch_size": 250, **faal},
        "low-precision": {"model": "preact-resnet-18", "epochs": 1, "batch_size": 250, "precision": "bfloat16"},
        "refused-network": {"model": "torchvision.models:squeezenet1_0", "filters": 0, "epochs": 1, "batch_size": 500},
        "seeded": {"seed": 3, "split_seed": 1},
    }


def command(*words: object) -> tuple[int, str]:
    """Run `faal-lab WORDS` in this process; returns its exit code and what it printed."""
    try:
        from faal_lab.cli import main  # pyright: ignore[reportAttributeAccessIssue]
    except ImportError:
        from faal_lab.__main__ import main

    said, asides = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(asides):
        try:
            code = main([str(word) for word in words])
        except SystemExit as error:
            code = int(error.code or 0)
    return code, said.getvalue() if code == 0 else said.getvalue() + asides.getvalue()


def options(settings: dict[str, Any]) -> list[str]:
    """Settings as the command line has them."""
    return [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]


def events(settings: dict[str, Any], out: str, *, resume: bool = False) -> Iterator[Any]:
    """The generator of a run, by the name it has in either version."""
    names = ["faal_lab.runs.config:Config faal_lab.training.run:run", "faal_lab.config:RunConfig faal_lab.experiment:run"]
    for pair in names:
        with contextlib.suppress(ImportError):
            kind, steps = (getattr(import_module(module), name) for module, name in (word.split(":") for word in pair.split()))
            return steps(kind.from_mapping(settings), out, resume=resume)
    raise ImportError(f"none of {names} is on the path")


def interrupted(settings: dict[str, Any], out: str) -> None:
    """Train seven steps, which end within an epoch, and stop."""
    made = events(settings, out)
    for event in made:
        if getattr(event, "step", 0) >= 7:
            break
    made.close()  # pyright: ignore[reportAttributeAccessIssue]


def steered(settings: dict[str, Any], out: str) -> None:
    """Turn tau after the third step, and switch the method off after the ninth."""
    turns = {3: "tau=0.1", 9: "fairness_on=0"}
    for event in events(settings, out):
        if type(event).__name__ == "StepDone" and event.step in turns:
            command("tell", out, turns[event.step])
            time.sleep(0.3)  # longer than the loop waits between two looks


def make(out: Path, old: Path | None) -> None:
    """Make everything in `out`, with the package that is on the path."""
    out.mkdir(parents=True)
    os.chdir(out)  # so that what is printed holds no path
    said: dict[str, Any] = {}
    names = cases()
    for number, (name, settings) in enumerate(names.items(), 1):
        print(f"{number} of {len(names)}: {name}", file=sys.stderr, flush=True)
        code, text = command("run", "--quiet", "--out", name, *options(SMALL | settings))
        if code:
            said[f"run {name}"] = text
    based = {**SMALL, "base": "none-at", "base_checkpoint": "best", "fairness": "faal"}
    command("run", "--quiet", "--out", "fine-tuned", *options(based))
    settings = SMALL | {"fairness": "faal", "checkpoint_every": 5}
    interrupted(settings, "interrupted")
    shutil.copytree("interrupted", "resumed")
    command("run", "--quiet", "--resume", "resumed")
    if old is not None:
        shutil.copytree(old / "interrupted", "resumed-of-old")
        command("run", "--quiet", "--resume", "resumed-of-old")
    else:
        shutil.copytree("resumed", "resumed-of-old")
    steered(settings, "steered")
    command("run", "--quiet", "--replay", "steered", "--out", "replayed")
    runs = ["none-at", "faal-at", "faal-trades"]
    for words in (
        ["evaluate", *runs, "--images", "60", "--attacks", "clean,pgd-20,cw-20,autoattack"],
        ["evaluate", "faal-at", "--checkpoint", "best", "--attacks", "clean,noise,fgsm,apgd-ce", "--images", "50"],
        ["evaluate", "faal-at", "--classes", "3,8", "--attacks", "fab-t,square", "--images", "10"],
        ["evaluate", "none-at", "--attacks", "pgd-20", "--epsilon", "0.05"],
        ["compare", *runs],
        ["compare", *runs, "--attack", "pgd-20"],
        ["check", "faal-at", "--worst-min", "90", "--baseline", "none-at", "--accept-findings"],
        ["evaluate", "none-at/best.safetensors", "--attacks", "clean,pgd-20", "--images", "50", "--out", "adopted"],
        ["report", *runs, "--out", "report.html"],
        ["run", "--recipe", "faal-trades-awp", "--protocol", "scratch-200ep", "--fairness", "fal"],
        ["run", "--objective", "at", "--fairness", "csr"],
        ["methods"],
        ["settings", "--recipe", "cfa-at", "--protocol", "finetune-2ep"],
    ):
        said[" ".join(words)] = command(*words)
    Path("said.json").write_text(json.dumps(said, indent=1), encoding="utf-8")


def pruned(value: Any) -> Any:
    """A record without what may differ."""
    if isinstance(value, dict):
        return {k: pruned(v) for k, v in value.items() if k not in MAY_DIFFER}
    return [pruned(v) for v in value] if isinstance(value, list) else value


def described(array: np.ndarray) -> str:
    """An array as type, shape and hash; a text as it is, without what may differ where it is JSON."""
    if array.dtype.kind == "U" and array.ndim == 0:
        with contextlib.suppress(ValueError):
            return json.dumps(pruned(json.loads(str(array))), sort_keys=True)
        return str(array)
    return f"{array.dtype}{array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"


def content(file: Path) -> dict[str, str]:
    """What is compared of a file: part -> text or hash."""
    if file.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(file, framework="np") as stored:
            tensors = {}
            for name in stored.keys():  # noqa: SIM118 (not a dict)
                tensors[name] = described(stored.get_tensor(name))
            header = json.loads((stored.metadata() or {"faal_lab": "{}"})["faal_lab"])["header"]
        source = pruned(header)
        return {**tensors, "header": json.dumps(source, sort_keys=True)}
    if file.suffix == ".npz":
        with np.load(file, allow_pickle=False) as stored:
            parts = {name: stored[name] for name in stored.files}
        return {name: described(array) for name, array in parts.items()}
    if file.name in ("config.json", "said.json"):
        return {k: json.dumps(v) for k, v in pruned(json.loads(file.read_text(encoding="utf-8"))).items()}
    text = file.read_bytes().decode("utf-8")
    return {"bytes": re.sub(r'(?<="versions": )\{[^}]*\}', "null", text)}  # a resumed run names the commit that went on with it


COMPARED = (
    "metrics.jsonl",
    "config.json",
    "said.json",
    "*.safetensors",
    "verdicts-*.npz",
    "report.csv",
    "report.md",
    "report.tex",
)


def compare(old: Path, new: Path) -> int:
    """Print every difference, and how much was compared; returns 1 where there is one."""
    differences, counted, files = [], 0, 0
    found = [{p.relative_to(root) for pattern in COMPARED for p in root.rglob(pattern)} for root in (old, new)]
    differences += [f"{path} is only in one of them" for path in sorted(found[0] ^ found[1])]
    for path in sorted(found[0] & found[1]):
        before, after = content(old / path), content(new / path)
        files, counted = files + 1, counted + len(before)
        for part in sorted(before.keys() | after.keys()):
            if before.get(part) != after.get(part):
                differences.append(f"{path} {part}: {str(before.get(part))[:300]} -> {str(after.get(part))[:300]}")
    print("\n".join([*differences, f"{files} files, {counted} tensors, arrays, texts: {len(differences)} differences"]))
    return 1 if differences else 0


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    sub = commands.add_parser("make")
    sub.add_argument("out", type=Path)
    sub.add_argument("--from", dest="old", type=Path, help="a folder that the other version made")
    sub = commands.add_parser("compare")
    sub.add_argument("old", type=Path)
    sub.add_argument("new", type=Path)
    chosen = parser.parse_args()
    if chosen.command == "compare":
        return compare(chosen.old, chosen.new)
    make(chosen.out, chosen.old.resolve() if chosen.old else None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
