"""A network's passes compiled by torch.compile: for batches of one size in training, of any size in an evaluation.

Knows: which passes are compiled, what is done where the compiler fails. Must not know: training, attacks.
In training another size would be compiled anew, for half a minute: the last batch of an epoch and validation run as they are.
Radii, tau and learning rates are no part of a pass, so that turning them compiles nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from faal_lab.adversary import frozen
from faal_lab.models.factory import ModelProblem
from faal_lab.models.layout import memory_format
from faal_lab.models.normalize import Normalized, QuickPasses
from faal_lab.models.precision import in_bfloat16, takes_bfloat16
from faal_lab.progress import doing

BACKEND = "inductor"


class CompileWarning(UserWarning):
    """The compiler failed; the message says why, and that all runs without it."""


@contextmanager
def compiled(model: nn.Module, quick: QuickPasses | None) -> Iterator[None]:
    """Passes of batches of the right size run compiled while it lasts; none does without `quick`."""
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
    """The network's pass of `images` [C, H, W] at once (0: of 16 or more), or None and why the compiler failed.

    That is also said in a CompileWarning. `low`: in bfloat16; `training`: what a weight update needs is compiled, too. Raises
    ModelProblem for a network that gains nothing by it.
    """
    if not takes_bfloat16(model) or not isinstance(model, Normalized):
        raise ModelProblem(f"compile is for ResNets; {name} is as quick without. Leave it out.")
    doing(f"compiling {name}, half a minute to a minute")
    torch.compiler.reset()  # a process that sees many networks would reach the compiler's limit, and go on without it
    layout = memory_format(model)
    # inductor puts convolutions on a CPU into channels_last by itself, also those that must not be
    own: Any = {"layout_optimization": False} if layout == torch.contiguous_format and BACKEND == "inductor" else None
    call = torch.compile(model.plain, dynamic=not images, backend=BACKEND, options=own)

    def any_size(some: torch.Tensor) -> torch.Tensor:  # attacks differ in layout and flags, and would have each compiled for
        return call((some if torch.is_grad_enabled() else some.detach()).contiguous(memory_format=layout))

    quick = QuickPasses(call if images else any_size, images)
    failed = _why_not(model, quick, shape, low, training)
    doing("")
    if failed:
        warnings.warn(f"torch.compile failed, all goes on without it: {failed}", CompileWarning, stacklevel=3)
    return (None if failed else quick), failed


def _why_not(model: nn.Module, quick: QuickPasses, shape: Sequence[int], low: bool, training: bool) -> str:
    """Compile what an attack needs, and what training needs: why that failed, or nothing where it did not."""
    parameter = next(model.parameters())
    images = torch.zeros((quick.images or 16, *shape), device=parameter.device)
    before, mode = [b.detach().clone() for b in model.buffers()], model.training
    try:
        with compiled(model, quick), in_bfloat16(model, low), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The .grad attribute", UserWarning)  # the compiler looks at pixels laid out anew
            with frozen(model):
                point = images.clone().requires_grad_()
                torch.autograd.grad(model(point).sum(), point)
            if training:
                torch.autograd.grad(model.train()(images).sum(), list(model.parameters()), allow_unused=True)
    except Exception as error:  # whatever a compiler can end with
        return f"{type(error).__name__}: {' '.join(str(error).split()[:40])}"
    finally:
        model.train(mode)
        with torch.no_grad():
            for buffer, old in zip(model.buffers(), before, strict=True):
                buffer.copy_(old)
    return ""
