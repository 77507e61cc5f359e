"""A network's passes compiled by torch.compile, for batches of one size.

Knows: which passes are compiled, what is done where the compiler fails. Must not know: training, attacks.
Another size would be compiled anew, for half a minute: the last batch of an epoch and all measuring run as they are. Radii, tau
and learning rates are no part of a pass, so that turning them compiles nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from faal_lab.adversary import frozen
from faal_lab.models.normalize import Normalized, QuickPasses
from faal_lab.models.precision import in_bfloat16

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


def compile_passes(model: Normalized, images: int) -> QuickPasses:
    """The pass of `images` at once, compiled when it is first used. Forgets what was compiled for networks before."""
    torch.compiler.reset()  # a process that trains many networks would reach the compiler's limit, and go on without it
    return QuickPasses(torch.compile(model.plain, dynamic=False, backend=BACKEND), images)


def why_not(model: nn.Module, quick: QuickPasses, shape: tuple[int, int, int], low: bool) -> str:
    """Compile what an attack and what training needs of images [C, H, W]: why that failed, or nothing where it did not."""
    parameter = next(model.parameters())
    images = torch.zeros((quick.images, *shape), device=parameter.device)
    before, training = [b.detach().clone() for b in model.buffers()], model.training
    try:
        with compiled(model, quick), in_bfloat16(model, low):
            with frozen(model):
                point = images.clone().requires_grad_()
                torch.autograd.grad(model(point).sum(), point)
            torch.autograd.grad(model.train()(images).sum(), list(model.parameters()), allow_unused=True)
    except Exception as error:  # whatever a compiler can end with
        return f"{type(error).__name__}: {' '.join(str(error).split()[:40])}"
    finally:
        model.train(training)
        with torch.no_grad():
            for buffer, old in zip(model.buffers(), before, strict=True):
                buffer.copy_(old)
    return ""
