"""What tests make up, count and parse: verdicts by their numbers, a shorter AutoAttack, operations, command lines."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pyautoattack import AutoAttack
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from faal_lab.cli import application
from faal_lab.evaluation.verdicts import Verdicts
from faal_lab.runs.files import checksum, first_seal, seal_of, sealed

__all__ = ["ABOUT", "AutoAttack", "Counting", "parsed", "resealed", "shorter", "unpadded", "unspaced", "verdicts"]

ABOUT = {"epsilon": 0.1, "norm": "linf", "data_sha256": "same", "mode": "per-image", "queries": 5000}


def resealed(file: Path) -> None:
    """Put right the checksums of a run's config.json or of a file of its records, after a test has changed it."""
    if file.name == "config.json":
        record = json.loads(file.read_text())
        record.pop("check", None)
        file.write_text(json.dumps(record | {"check": checksum(record)}))
        return
    lines, before = [], first_seal(file) or 0
    for line in file.read_bytes().splitlines():
        record = json.loads(line)
        record.pop("check", None)
        lines.append(sealed(json.dumps(record).encode(), before))
        before = seal_of(lines[-1]) or 0
    file.write_bytes(b"\n".join([*lines, b""]))


def verdicts(right: list[int], total: int = 100, **header) -> Verdicts:
    """`right[c]` of `total` images of class c stand; those that fall are taken for the next class."""
    classes = len(right)
    labels = np.repeat(np.arange(classes), total)
    stands = np.concatenate([np.arange(total) < k for k in right])
    found = {"clean": labels.copy(), "pgd-20": np.where(stands, labels, (labels + 1) % classes)}
    return Verdicts(labels, found, tuple("abcdefghij"[:classes]), {**ABOUT, **header})


def shorter(plain: Callable[..., None]) -> Callable[..., None]:
    """AutoAttack's constructor with a fifth of the iterations: what is compared here goes through it on both sides."""

    def made(self: Any, *words: Any, **options: Any) -> None:
        plain(self, *words, **options)
        for attack in (self.apgd, self.apgd_targeted, self.fab):
            attack.n_iter = attack.n_iter_orig = 20
        self.apgd.n_restarts = 2

    return made


class Counting(TorchDispatchMode):
    """Floating-point operations of matrix products and convolutions. (FlopCounterMode's hooks refuse a gradient for pixels.)"""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.total += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


def parsed(words: list[str]) -> tuple[str, dict[str, Any]]:
    """What `faal-lab WORDS` would call: the command's name and its arguments; raises where the words are none."""
    command, bound, *_ = application().parse_args(words, exit_on_error=False, print_error=False)
    bound.apply_defaults()
    return command.__name__, bound.arguments


def unpadded(markdown: str) -> str:
    """Markdown whose columns are not padded, so that a test can look for a row."""
    return re.sub(" +", " ", markdown)


def unspaced(page: str) -> str:
    """HTML without the space between its elements, so that a test can look for the cells of a row."""
    return re.sub(r">\s+<", "><", page)
