"""Add one number a class to the logits of a network: in the bias of its last layer, or in a wrapper around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from faal_lab.models.build import frozen


class Shifted(nn.Module):
    """A network whose logits [B, C] get a bias [C].

    It is for networks whose logits do not come straight from a linear layer with a bias.

    Args:
        network: a network of your own.
        classes: the number of classes C.
        bias: [C]; default 0 for each class.

    >>> import torch
    >>> from faal_lab.models.shift import Shifted
    >>> Shifted(torch.nn.Flatten(), 2, [1.0, -1.0])(torch.zeros(1, 2))
    tensor([[ 1., -1.]])
    """

    def __init__(self, network: nn.Module, classes: int, bias: Sequence[float] = ()) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("shift", torch.tensor(list(bias) or [0.0] * classes, dtype=torch.float32))
        self.training = network.training

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits [B, C] of images [B, channels, H, W], with the bias."""
        return self.network(images) + self.shift


def bias_name(model: nn.Module, pixels: torch.Tensor) -> str:
    """Return the name of the bias [C] that is the last addition to the logits, as in the state dict; "" if there is none.

    It is the bias of a linear layer, used once, whose output the network returns as it is. A few `pixels` [B, channels, H, W] go
    through the network, then again with another bias: a hook, a scale in place or a second use of the tensor show there.
    """
    if isinstance(model, Shifted):
        return "shift"
    outputs: list[tuple[str, Any]] = []
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    hooks = [
        layer.register_forward_hook(lambda _, __, output, name=name: outputs.append((name, output)))
        for name, layer in layers.items()
    ]
    try:
        logits = _answer(model, pixels)
    finally:
        for hook in hooks:
            hook.remove()
    last = [name for name, output in outputs if output is logits]
    if not last or [name for name, _ in outputs].count(last[0]) > 1:
        return ""
    name = f"{last[0]}.bias".removeprefix(".")
    known = dict(model.named_parameters(remove_duplicate=False))  # a bias that a parametrization makes is none of them
    bias = known.get(name)
    if bias is None or sum(parameter is bias for parameter in known.values()) > 1:
        return ""
    return name if _adds(model, bias, pixels, logits) else ""


def _answer(model: nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """Return the logits; a network that draws gets the same numbers at each call, and leaves the random state as it was."""
    with frozen(model), torch.no_grad(), torch.random.fork_rng([pixels.device] if pixels.is_cuda else []):
        torch.manual_seed(0)
        return model(pixels)


def _adds(model: nn.Module, bias: torch.Tensor, pixels: torch.Tensor, logits: torch.Tensor) -> bool:
    """Return whether logits move by as much as the bias does."""
    plain, before = bias.detach().clone(), logits.clone()
    step = torch.linspace(1, 2, len(bias), dtype=bias.dtype, device=bias.device)
    try:
        with torch.no_grad():
            bias.copy_(plain + step)
        moved = _answer(model, pixels) - before
    finally:
        with torch.no_grad():
            bias.copy_(plain)
    return bool((moved - step).abs().max() <= 1e-3 * max(1.0, float(before.abs().max())))


def shifted(model: nn.Module, pixels: torch.Tensor, classes: int) -> tuple[nn.Module, str]:
    """Return the network, behind a wrapper if it needs one, and the name of the tensor [C] that a bias is added to."""
    name = bias_name(model, pixels)
    return (model, name) if name else (Shifted(model, classes).to(pixels.device), "shift")
