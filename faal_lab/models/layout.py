"""Choose the memory layout of a network, by one rule for our networks and for all others.

channels_last makes small convolutions on a CPU up to twice as fast, and one kind of them wrong: see `corrupts`. The rule follows
`benchmarks/convolutions.json`, a table of every shape under every instruction set. A test compares the rule with it.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import torch
from torch import nn

_LIMIT = 60.0  # seconds for a try on this machine, most of them to load torch
_LATE = "no answer in time"
_FEWEST = 8  # the fewest input channels with which a strided 1x1 convolution is sound


def corrupts(layer: nn.Module) -> bool:
    """Return whether a layer may damage memory in channels_last.

    oneDNN 3.13.3 (torch 2.15), with AVX2 as the best instruction set: the backward pass of a 1x1 convolution with a stride and
    fewer than 8 input channels writes beyond its buffer. The process aborts ("free(): invalid size") or hangs, at once or later.
    Such a layer is refused on every processor, so that a run does not depend on the machine.
    """
    if not isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
        return False
    return max(layer.kernel_size) == 1 and max(layer.stride) > 1 and layer.in_channels // layer.groups < _FEWEST


def memory_format(model: nn.Module) -> torch.memory_format:
    """Return channels_last, or the default layout for a network with a layer that `corrupts`.

    A tensor outside torch's own convolutions that could be the kernel of such a layer counts as one: its use is unknown.
    """
    for layer in model.modules():
        own = [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
        convolution = isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))
        if corrupts(layer) or (not convolution and any(_small_kernel(tensor) for tensor in own)):
            return torch.contiguous_format
    return torch.channels_last


def _small_kernel(tensor: torch.Tensor) -> bool:
    """Return whether a tensor could be the kernel [outputs, inputs, 1, 1] of a layer that `corrupts`."""
    # a scale [1, C, 1, 1] is none
    return tensor.ndim == 4 and tensor.shape[2:] == (1, 1) and tensor.shape[0] > 1 and tensor.shape[1] < _FEWEST


def placed(model: nn.Module, device: torch.device) -> nn.Module:
    """Move a model to a device, in its memory layout."""
    return model.to(device, memory_format=memory_format(model))  # pyright: ignore[reportCallIssue] (not in torch's stubs)


def examine() -> tuple[str, bool]:
    """Try convolutions here, in separate processes; return a line of text, and whether all is sound."""
    known, ours = (_tried(word) for word in ("known", "ours"))
    if ours == _LATE:
        return f"not tried: no answer in {_LIMIT:.0f} s", True
    if ours:
        return f"WRONG here ({ours}): do not trust numbers of networks from this machine. Try another version of torch.", False
    if known:
        return (
            f"strided 1x1 convolutions of fewer than {_FEWEST} channels fail in channels_last here ({known}); networks that have "
            "one run in the default layout",
            True,
        )
    return "right in the layouts that networks run in", True


def _tried(what: str) -> str:
    """Return how a try on this machine failed, or nothing."""
    words = [sys.executable, "-c", f"from faal_lab.models.layout import _look; _look({what!r})"]
    try:
        found = subprocess.run(words, capture_output=True, text=True, timeout=_LIMIT, env={**os.environ, "OMP_NUM_THREADS": "1"})
    except subprocess.TimeoutExpired:
        return _LATE
    if found.returncode < 0:
        return f"a crash by signal {-found.returncode}"
    return "" if found.returncode == 0 else (found.stderr.strip().splitlines() or ["no word"])[-1][:200]


def _look(what: str) -> None:
    """Run the layer known to fail, or compare our networks with float64. Raises AssertionError."""
    from faal_lab.models.networks import preact_resnet_18, resnet_18

    torch.manual_seed(0)
    if what == "known":
        layer = nn.Conv2d(4, 8, 1, 2).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        for _ in range(50):
            images = torch.rand(16, 4, 16, 16).contiguous(memory_format=torch.channels_last).requires_grad_()
            layer(images).sum().backward()
        return
    for make in (preact_resnet_18, resnet_18):
        for filters in (4, 16):
            model = placed(make(10, 3, (16, 16), (0.5,) * 3, (0.2,) * 3, filters=filters), torch.device("cpu"))
            error = gradient_error(model, torch.rand(16, 3, 16, 16))
            assert error < 0.05, f"gradients of {make.__name__} with {filters} filters are off by {error:.1e}"


def gradient_error(model: nn.Module, images: torch.Tensor) -> float:
    """Compare a network's gradients with those in float64 and the default layout.

    Returns |difference| / |float64 gradient|. Rounding makes it 1e-5. A ReLU whose input is 1e-7 from zero may take the other
    side and make it 1e-2; a wrong convolution makes it 1.
    """
    exact = copy.deepcopy(model).double().to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
    found, wanted = _gradients(model, images), _gradients(exact, images.double())
    return float((found - wanted).norm() / wanted.norm())


def _gradients(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return the gradients of the images and of all weights, concatenated, in float64."""
    point = images.clone().requires_grad_()
    found = torch.autograd.grad(model(point).square().mean(), [point, *model.parameters()])
    return torch.cat([gradient.double().flatten() for gradient in found])
