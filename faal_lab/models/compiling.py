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

from faal_lab.models.normalize import Normalized
from faal_lab.models.precision import in_bfloat16

BACKEND = "inductor"


class CompileWarning(UserWarning):
    """The compiler failed; the message says why, and that all runs without it."""


@contextmanager
def compiled(model: nn.Module, size: int) -> Iterator[None]:
    """Passes of just `size` images are compiled while it lasts; none where `size` is 0."""
    if not size or not isinstance(model, Normalized):
        yield
        return
    model.compiled = torch.compile(model.plain, dynamic=False, backend=BACKEND), size
    try:
        yield
    finally:
        model.compiled = None


def why_not_compiled(model: nn.Module, shape: tuple[int, ...], low: bool) -> str:
    """Compile a pass as attacks need it, with images of `shape` [B, C, H, W]: why that failed, or nothing where it did not."""
    torch.compiler.reset()  # a process that trains many networks would reach the compiler's limit, and go on without it
    parameter = next(model.parameters())
    training, images = model.training, torch.zeros(shape, device=parameter.device, requires_grad=True)
    try:
        with compiled(model.eval(), shape[0]), in_bfloat16(model, low):
            torch.autograd.grad(model(images).sum(), images)
    except Exception as error:  # whatever a compiler can end with
        return f"{type(error).__name__}: {' '.join(str(error).split()[:40])}"
    finally:
        model.train(training)
    return ""
