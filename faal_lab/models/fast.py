"""Run forward passes in bfloat16, compiled by torch.compile, or with freed memory kept for the next one. Count what tensors hold.

A pixel near 1 has steps of 1/256 in bfloat16, so a PGD step of 2/255 would be rounded away. Pixels, normalisation and the first
convolution therefore stay float32. From that convolution's output on, rounding is noise like any other. Logits are float32
again, and so is every loss. Compiled passes are for batches of one size in training, and of any size in an evaluation.
"""

from __future__ import annotations

import copy
import ctypes
import os
import warnings
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from faal_lab.models.build import frozen
from faal_lab.models.examine import ModelProblem, train_mode, untouched
from faal_lab.models.layout import memory_format
from faal_lab.models.normalize import Normalized, QuickPasses
from faal_lab.runs.progress import doing


class Float32Conv2d(nn.Conv2d):
    """A convolution in float32 with a bfloat16 result.

    A float32 result would keep a whole residual stream in float32.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Convolve as nn.Conv2d does, and round the result."""
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input).bfloat16()


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 natively. On others, bfloat16 is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # private names of torch: if one is gone, support is unknown, and float32 is used
    asked = [getattr(torch.cpu, name, lambda: False) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    return device.type == "cpu" and any(ask() for ask in asked)


def takes_bfloat16(model: nn.Module) -> bool:
    """Return whether a network can run in bfloat16: behind our normalisation, with a convolution."""
    return isinstance(model, Normalized) and _first_convolution(model) is not None


def wants_bfloat16(precision: str, model: nn.Module, device: torch.device) -> bool:
    """Return whether the setting `precision` means bfloat16 for a network on a device."""
    return precision == "bfloat16" or (precision == "auto" and takes_bfloat16(model) and has_bfloat16(device))


def _first_convolution(model: nn.Module) -> nn.Conv2d | None:
    return next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)


@contextmanager
def in_bfloat16(model: nn.Module, on: bool) -> Iterator[None]:
    """Run the forward passes of the model in bfloat16; do nothing if `on` is False."""
    first = _first_convolution(model)
    if not on or not isinstance(model, Normalized) or first is None:
        yield
        return
    kind = type(first)
    if kind is nn.Conv2d:
        first.__class__ = Float32Conv2d  # in place, so that names, weights and optimiser stay valid
    model.reduced = True
    try:
        yield
    finally:
        model.reduced = False
        first.__class__ = kind


_TRIM, _MMAP = -1, -3  # of glibc's mallopt: how much freed memory is kept, and the size from which a block is the system's own
_kept = 0  # how many blocks of `memory_kept` are open


@contextmanager
def memory_kept() -> Iterator[None]:
    """Keep freed memory in the process for the next tensor, and give it back at the end.

    By itself glibc hands a large tensor back to the system when it is freed, and the next one costs a page fault for each 4 kB.
    Kept, an attack on a CPU is about 1.2 times as quick (`benchmarks/allocation.py`). The peak stays the same. Nothing happens
    without glibc, or where the environment sets its allocator.
    """
    global _kept
    libc = _glibc()
    if libc is None:
        yield
        return
    _kept += 1
    if not libc.mallopt(_MMAP, 2**31 - 1):
        libc.mallopt(_MMAP, 2**25)  # older ones take no more than 32 MiB
    libc.mallopt(_TRIM, -1)
    try:
        yield
    finally:
        _kept -= 1
        if not _kept:  # what glibc itself comes to in time
            libc.mallopt(_MMAP, 2**25)
            libc.mallopt(_TRIM, 2**26)
            libc.malloc_trim(0)


def _glibc() -> Any:
    """Return glibc, or None where it does not allocate, or is told how to."""
    if "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(name.startswith("MALLOC_") for name in os.environ):
        return None
    try:
        libc = ctypes.CDLL(None)
        return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
    except (OSError, TypeError):  # no such thing on Windows
        return None


class Held(TorchDispatchMode):
    """Count the bytes of all tensors that operations make inside: those that live `now`, and the `most` that lived at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count what it made."""
        made = func(*args, **(kwargs or {}))
        self.count(tensor for tensor in tree_leaves(made) if isinstance(tensor, torch.Tensor))
        return made

    def count(self, tensors: Iterable[torch.Tensor]) -> None:
        """Count tensors, each storage once."""
        for storage in (tensor.untyped_storage() for tensor in tensors):
            if storage._cdata not in self._known:
                self._known.add(storage._cdata)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())

    def _freed(self, which: int, size: int) -> None:
        self._known.discard(which)
        self.now -= size


@contextmanager
def imagined(model: nn.Module) -> Iterator[nn.Module]:
    """Yield a copy of a network whose tensors have shapes and no numbers, as has every tensor that is made inside."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    mode = FakeTensorMode()
    kept: dict[int, Any] = {id(t): mode.from_tensor(t) for t in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, kept)
    with mode:
        yield twin


BACKEND = "inductor"


class CompileWarning(UserWarning):
    """The compiler failed. The message gives the reason; all passes run uncompiled."""


@contextmanager
def compiled(model: nn.Module, quick: QuickPasses | None) -> Iterator[None]:
    """Run passes of batches of the right size compiled; do nothing without `quick`."""
    if quick is None or not isinstance(model, Normalized):
        yield
        return
    model.quick = quick
    try:
        yield
    finally:
        model.quick = None


def try_to_compile(
    model: nn.Module, name: str, shape: Sequence[int], *, images: int = 0, low: bool = False, training: bool = False
) -> tuple[QuickPasses | None, str]:
    """Compile the pass of a network for `images` [C, H, W] at once (0: any number from 16 on).

    Returns None and the reason if the compiler failed, which a CompileWarning also reports. `low` compiles for bfloat16,
    `training` also what a weight update needs. Raises ModelProblem for a network that gains nothing.
    """
    if not takes_bfloat16(model) or not isinstance(model, Normalized):
        raise ModelProblem(f"compile is for ResNets; {name} is as quick without. Leave it out.")
    doing(f"compiling {name}, half a minute to a minute")
    torch.compiler.reset()  # with many networks a process would reach the compiler's limit, and continue uncompiled
    layout = memory_format(model)
    # on a CPU, inductor moves convolutions to channels_last by itself, also those for which it is unsafe
    own: Any = {"layout_optimization": False} if layout == torch.contiguous_format and BACKEND == "inductor" else None
    call = torch.compile(model.plain, dynamic=not images, backend=BACKEND, options=own)

    def any_size(some: torch.Tensor) -> torch.Tensor:  # attacks differ in layout and flags: each would be compiled
        return call((some if torch.is_grad_enabled() else some.detach()).contiguous(memory_format=layout))

    quick = QuickPasses(call if images else any_size, images)
    failed = _why_not(model, quick, shape, low, training)
    doing("")
    if failed:
        warnings.warn(f"torch.compile failed, all goes on without it: {failed}", CompileWarning, stacklevel=3)
    return (None if failed else quick), failed


def _why_not(model: nn.Module, quick: QuickPasses, shape: Sequence[int], low: bool, training: bool) -> str:
    """Compile for an attack, and for training; return the reason of a failure, or nothing."""
    parameter = next(model.parameters())
    images = torch.zeros((quick.images or 16, *shape), device=parameter.device)
    try:
        with untouched(model), compiled(model, quick), in_bfloat16(model, low), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The .grad attribute", UserWarning)  # the compiler reads that of re-laid pixels
            with frozen(model):
                point = images.clone().requires_grad_()
                torch.autograd.grad(model(point).sum(), point)
            if training:
                weights = [p for p in model.parameters() if p.requires_grad]
                torch.autograd.grad(train_mode(model)(images).sum(), weights, allow_unused=True)
    except Exception as error:  # a compiler can raise anything
        return f"{type(error).__name__}: {' '.join(str(error).split()[:40])}"
    return ""
