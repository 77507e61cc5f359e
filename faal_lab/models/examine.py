"""Examine a network of somebody else before it is trained or adopted.

A network that cannot work ends in one line, before anything is written. One that works in another way than its owner may expect
gets a note. A few images go forward and back; weights, buffers, modes and random numbers stay as they were.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple, NoReturn

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from faal_lab.errors import FaalLabError

_SAME = 1e-3  # share of the spread of logits by which two passes may round apart
_EXAMINED = 8  # images


class ModelProblem(FaalLabError, ValueError):
    """A network that cannot be loaded, or does not fit the images. The message names the cure."""


class NetworkWarning(UserWarning):
    """A network works in another way than its owner may expect. The message says how."""


class Examined(NamedTuple):
    """The result of an examination."""

    notes: list[str]
    draws: bool  # its passes in training mode draw random numbers, as dropout does


def train_mode(model: nn.Module) -> nn.Module:
    """Put a model in training mode; leave its parts as they are if it is in training mode already.

    A part that its owner put in evaluation mode, such as a BatchNorm of frozen layers, thus stays there.
    """
    return model if model.training else model.train()


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Restore modes, buffers and the global random state at the end."""
    modes = [(module, module.training) for module in model.modules()]
    kept = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    where = device_of_weights(model)
    try:
        with torch.random.fork_rng(devices=[where] if where.type == "cuda" else []):
            yield
    finally:
        for module, training in modes:
            module.training = training
        with torch.no_grad():
            for module, name, buffer, old in kept:
                if buffer.shape == old.shape:
                    buffer.copy_(old)
                    module._buffers[name] = buffer
                else:
                    module._buffers[name] = old


def device_of_weights(model: nn.Module) -> torch.device:
    """Return the device of a model's first weight; the CPU for a model without any."""
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def check_weights(model: nn.Module, who: str) -> None:
    """Raise ModelProblem unless all weights are there, in float32."""
    held = [*model.named_parameters(), *model.named_buffers()]
    if absent := [n for n, t in held if t.device.type == "meta"]:
        raise ModelProblem(f"{who} has no numbers in {_few(absent)} (device meta). Load its weights first.")
    if lazy := [n for n, t in held if is_lazy(t)]:
        raise ModelProblem(
            f"{who} does not know the shape of {_few(lazy)} yet (a lazy layer). Call it once on a batch of images first."
        )
    kinds = {str(p.dtype).removeprefix("torch.") for p in model.parameters()} - {"float32"}
    if kinds:
        raise ModelProblem(f"{who} has weights of {' and '.join(sorted(kinds))}, expected float32. Call .float() on it first.")


def misfit(output: Any, count: int, num_classes: int) -> str:
    """State how an output differs from logits [count, num_classes], with the cure; empty if it does not."""
    if not isinstance(output, torch.Tensor):
        place = next(
            (p for p, part in _parts(output) if isinstance(part, torch.Tensor) and part.shape == (count, num_classes)), ""
        )
        cure = f" Its {place} fits: wrap it in a module that returns that alone." if place else " Return one tensor."
        return f"got {type(output).__name__}.{cure}"
    got = f"got {list(output.shape)}."
    if output.shape != (count, num_classes):
        if output.ndim > 2 and output.shape[0] == count and output.numel() == count * num_classes:
            return f"{got} Return logits.flatten(1)."
        if output.ndim == 1 and count == 1:
            return f"{got} A batch of one image loses its dimension: use .flatten(1) in place of .squeeze()."
        return f"{got} Give its last layer {num_classes} outputs." if output.ndim == 2 and output.shape[0] == count else got
    if output.dtype != torch.float32:
        return f"got {str(output.dtype).removeprefix('torch.')}, expected float32. Return logits.float()."
    return ""


def _parts(output: Any) -> list[tuple[str, Any]]:
    """List the parts of an output that is no tensor, with their names."""
    if isinstance(output, Mapping) and not hasattr(output, "logits"):
        return [(f"[{name!r}]", part) for name, part in output.items()]
    if isinstance(output, (tuple, list)) and not hasattr(output, "logits"):
        return [(f"[{place}]", part) for place, part in enumerate(output)]
    return [(".logits", getattr(output, "logits", None))]


def try_model(model: nn.Module, path: str, num_classes: int, image: tuple[int, int, int]) -> None:
    """Try the model on two images [channels, H, W], in evaluation mode.

    Raises ModelProblem unless it has parameters and returns logits [2, num_classes].
    """
    shown = "x".join(map(str, image))
    lazy = any(is_lazy(p) for p in model.parameters())  # its first pass makes its weights
    if not lazy:
        check_weights(model, path)
    with nullcontext() if lazy else untouched(model), torch.no_grad():
        model.eval()
        try:
            output = model(torch.zeros(2, *image, device=device_of_weights(model)))
        except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError) as error:
            raise ModelProblem(
                f"{path} does not take images of {shown}: {str(error).splitlines()[0]} Choose another network, or write a "
                "function that fits it to them."
            ) from error
        finally:
            if lazy:
                model.train()
    if said := misfit(output, 2, num_classes):
        raise ModelProblem(f"{path} must give logits [2, {num_classes}] for two images of {shown}, {said}")
    if next(model.parameters(), None) is None:
        raise ModelProblem(f"{path} has no parameters, so there is nothing to train or to keep. Return a network with weights.")


def examine_network(
    model: nn.Module, images: torch.Tensor, num_classes: int, *, who: str, training: bool = True, attacked: bool = True
) -> Examined:
    """Send a few images forward and back through a network; return notes on it.

    Args:
        model: the network, on its device.
        images: eight or more images [B, C, H, W] in [0, 1]; the first eight are used.
        num_classes: of the data set.
        who: the name of the network in messages.
        training: it is to be trained, not only evaluated.
        attacked: it is to be attacked by the gradient of its images.

    Raises:
        ModelProblem: it cannot work; the message states the reason and the cure.
    """
    check_weights(model, who)
    some = images[:_EXAMINED].to(device_of_weights(model))
    look = _Look(model, some, num_classes, who)
    notes = _standing(model) if training else []
    with untouched(model):
        notes += look.evaluated(training, attacked)
    draws = False
    if training:
        with untouched(model):
            draws = look.trained()
    return Examined([f"{who}: {note}" for note in notes], draws)


def _standing(model: nn.Module) -> list[str]:
    """Note the parts of a network that its training is to leave as they are."""
    notes = []
    weights = dict(model.named_parameters())
    still = [name for name, weight in weights.items() if not weight.requires_grad]
    if still and len(still) < len(weights):
        notes.append(f"{len(still)} of {len(weights)} weight tensors are frozen (requires_grad=False) and stay as they are.")
    resting = [name for name, module in model.named_modules() if model.training and not module.training]
    if resting:
        notes.append(f"{_few(resting)} stay{'s' * (len(resting) == 1)} in evaluation mode, as handed over. .train() wakes them.")
    norms = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None and module.affine
        and (module.training or not model.training) and not any(p.requires_grad for p in module.parameters())
    ]  # fmt: skip
    if norms:
        notes.append(f"the weights of {_few(norms)} are frozen, and its statistics still move; .eval() on it keeps them.")
    return notes


class _Look:
    """The passes of an examination, over images [B, C, H, W]."""

    def __init__(self, model: nn.Module, images: torch.Tensor, num_classes: int, who: str) -> None:
        self.model, self.images, self.who = model, images, who
        self.num_classes = num_classes
        self.mix = torch.linspace(-1, 1, num_classes, device=images.device)  # a plain sum of logits may be constant
        self.mixes = self.mix * torch.arange(1, len(images) + 1, device=images.device)[:, None]  # nor may it be over images

    def fail(self, text: str) -> NoReturn:
        """End the examination."""
        raise ModelProblem(f"{self.who} {text}")

    def passed(self, given: torch.Tensor, mode: str = "evaluation") -> torch.Tensor:
        """Return the logits [B, C] of a batch."""
        try:
            output = self.model(given)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            if "in-place" in str(error):
                self.fail("changes its images in place. Write x = x - mean in place of x -= mean, and ReLU() without inplace.")
            images = "one image" if len(given) == 1 else f"{len(given)} images"
            self.fail(f"fails on {images} in {mode} mode: {str(error).splitlines()[0]}")
        if said := misfit(output, len(given), self.num_classes):
            self.fail(f"must give logits [{len(given)}, {self.num_classes}] in {mode} mode, {said}")
        return output

    def evaluated(self, training: bool, attacked: bool) -> list[str]:
        """Examine passes in evaluation mode; return notes."""
        self.model.eval()
        before = {name: buffer.detach().clone() for name, buffer in self.model.named_buffers()}
        given = self.images.clone()
        with torch.no_grad():
            first = self.passed(given).detach()  # a weight as it is keeps its flag
        if not torch.equal(given, self.images):
            self.fail("changes its images in place. Write x = x - mean in place of x -= mean, and ReLU() without inplace.")
        after = dict(self.model.named_buffers())
        if grown := [n for n, old in before.items() if n in after and after[n].shape != old.shape]:
            self.fail(f"changes the shape of {_few(grown)} in a forward pass. Give it one size, or keep it out of the buffers.")
        moved = [n for n, old in before.items() if n in after and not torch.equal(after[n], old)]
        notes = []
        if moved:
            notes.append(
                f"{_few(moved)} changes in evaluation mode: results depend on the passes before. Guard it by self.training."
            )
        point = self.images.clone().requires_grad_()
        with torch.enable_grad():
            logits = self.passed(point)
        self._no_probabilities(logits)
        finite = bool(torch.isfinite(logits).all())
        if not finite and training:
            broken = [n for n, p in self.model.named_parameters() if not bool(torch.isfinite(p).all())]
            where = f"weights in {_few(broken)} are not" if broken else "look for divisions, roots and logarithms"
            self.fail(f"returns logits that are not finite: {where}.")
        if not finite:
            return notes  # adoption names the weights, and evaluation refuses the logits
        spread = float((first - first[0]).abs().max())
        constant = spread <= 1e-7 * float(first.abs().max())
        if constant and not bool((self.images == self.images[0]).all()):
            self._not_blind(logits)
            if not training:
                notes.append("its logits are the same for all images, as before any training.")
        if attacked:
            notes += self._slopes(logits, point, constant, training)
        near = _SAME * max(spread, 1e-6)
        with torch.no_grad():
            alone = self.passed(self.images[:1].clone())
        if float((logits.detach() - first).abs().max()) > near:
            notes.append(
                "two passes over the same images differ in evaluation mode. F.dropout needs training=self.training; "
                "noise that is meant hides gradients."
            )
        elif not moved and float((alone - first[:1]).abs().max()) > near:
            notes.append("an image's logits depend on the other images of its batch, so its verdict does, too.")
        return notes

    def _no_probabilities(self, logits: torch.Tensor) -> None:
        """Refuse probabilities; log-probabilities are logits up to a constant, which no loss here sees."""
        made = logits.grad_fn.name().removesuffix("Backward0") if logits.grad_fn is not None else ""
        sums = torch.allclose(logits.detach().sum(1), torch.ones_like(logits[:, 0]), atol=1e-4)
        if made in ("Softmax", "SafeSoftmax") or (self.num_classes > 1 and sums and bool((logits >= 0).all())):
            self.fail("returns probabilities, and the losses take their softmax once more. Return logits: leave its softmax out.")
        if made == "Sigmoid":
            self.fail("ends in a sigmoid, which bounds its logits to [0, 1]. Return logits: leave the sigmoid out.")

    def _not_blind(self, logits: torch.Tensor) -> None:
        """Refuse constant logits, unless a weight could learn to tell images apart (a last layer may start at zero)."""
        weights = [p for p in self.model.parameters() if p.requires_grad]
        if weights and logits.requires_grad:
            one, *others = (
                torch.autograd.grad((logits[i] * self.mix).sum(), weights, retain_graph=True, allow_unused=True)
                for i in range(len(logits))
            )
            for other in others:
                for a, b in zip(one, other, strict=True):
                    if (
                        a is not None
                        and b is not None
                        and float((a - b).abs().max()) > 1e-6 * float(a.abs().max() + b.abs().max())
                    ):
                        return
        self.fail(
            "gives the same logits for every image, and no weight can change that. Does its forward pass use the images, and are "
            "its units alive (no ReLU at 0 for all)?"
        )

    def _slopes(self, logits: torch.Tensor, point: torch.Tensor, constant: bool, training: bool) -> list[str]:
        """Examine the gradient by the images that attacks follow."""
        slope = None
        if logits.requires_grad:
            try:
                (slope,) = torch.autograd.grad((logits * self.mixes).sum(), point, allow_unused=True)
            except RuntimeError as error:
                self.fail(f"has no backward pass: {str(error).splitlines()[0]}")
        if slope is None:
            self.fail(
                "gives no gradient by its images, and attacks need one. Take .detach(), .data and no_grad out of its forward."
            )
        if not bool(torch.isfinite(slope).all()):
            self.fail("has a gradient by its images that is not finite. Look for roots, norms and divisions that meet a zero.")
        if constant or bool((slope != 0).any()):
            return []
        text = "has no slope by its images (round, sign or a comparison in its forward pass), so attacks by gradient stand still."
        if training:
            self.fail(f"{text} Take that step out.")
        return [f"it {text}"]

    def trained(self) -> bool:
        """Examine a pass in training mode; return whether it draws random numbers."""
        weights = [p for p in self.model.parameters() if p.requires_grad]
        if not weights:
            self.fail("has no weight to train: all are frozen. Call .requires_grad_(True) on the parts to train.")
        train_mode(self.model)
        before = _random_state(self.images.device)
        with torch.enable_grad():
            logits = self.passed(self.images.clone(), "training")
        draws = not torch.equal(before, _random_state(self.images.device))
        found: Sequence[torch.Tensor | None] = []
        if logits.requires_grad:
            try:
                found = torch.autograd.grad((logits * self.mixes).sum(), weights, allow_unused=True)
            except RuntimeError as error:
                self.fail(f"has no backward pass: {str(error).splitlines()[0]}")
        if all(gradient is None for gradient in found):
            self.fail("gives no gradient to its weights. Take .detach(), .data and no_grad out of its forward pass.")
        return draws


def _random_state(device: torch.device) -> torch.Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def takes_one_image(model: nn.Module, images: torch.Tensor) -> bool:
    """Return whether a batch of one image goes through in training mode; BatchNorm of single values refuses it."""
    with untouched(model), torch.no_grad():
        train_mode(model)
        try:
            model(images[:1].to(device_of_weights(model)))
        except ValueError:
            return False
    return True


def architecture_sha256(model: nn.Module) -> str:
    """Return the SHA-256 of a network's structure and of the source of its classes; empty for a network of this package.

    Tensors do not tell two networks apart that differ in an activation. The source of functions outside the classes is not seen,
    and a class without source counts by its name.
    """
    network = getattr(model, "network", model)
    if type(network).__module__.startswith("faal_lab."):  # a bias around a normalisation around the network
        network = getattr(network, "network", network)
    if type(network).__module__.startswith("faal_lab."):
        return ""
    total = hashlib.sha256(repr(network).encode())
    for kind in sorted({type(m) for m in network.modules()}, key=lambda k: f"{k.__module__}.{k.__qualname__}"):
        if not kind.__module__.startswith(("torch.", "faal_lab.")):
            try:
                total.update(inspect.getsource(kind).encode())
            except (OSError, TypeError):
                total.update(kind.__qualname__.encode())
    return total.hexdigest()


def _few(names: Sequence[str]) -> str:
    """Return the first three of `names` as text."""
    return ", ".join(name or "the whole" for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
