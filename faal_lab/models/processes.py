"""Train one network by several processes as if they were one: each has a share of every batch, sums are of all shares.

`torchrun -m faal_lab run ...` starts them, or `fl.train(processes=2)`. Every process holds the whole network and all images, and
solves the same problem of class weights from the same sums. The first process alone writes. One process needs nothing of this.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from faal_lab.errors import ConfigError, FaalLabError

MEETING = "FAAL_LAB_MEETING"  # the file by which processes of one machine find each other; torchrun has its own way


def launch(command: Sequence[str], number: int, **options: Any) -> list[subprocess.Popen[bytes]]:
    """Start a command in several processes of this machine that will meet; options are those of Popen.

    They meet by a file and talk over the loopback interface, so that nothing of them can be reached from elsewhere. The cores are
    divided among them.
    """
    start: Any = subprocess.Popen
    if number == 1:
        return [start([*command], **options)]
    if announced()[1] > 1:
        raise ConfigError(f"This is one of {announced()[1]} processes that a launcher has started: leave out processes.")
    meeting = Path(tempfile.gettempdir()) / f"faal-lab-{secrets.token_hex(16)}"
    shared = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // number))} | dict(os.environ)
    shared |= {"WORLD_SIZE": str(number), MEETING: str(meeting)}
    if sys.platform == "linux":
        shared["GLOO_SOCKET_IFNAME"] = "lo"
    return [start([*command], env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}, **options) for rank in range(number)]


class ProcessLost(FaalLabError, RuntimeError):
    """Another process of this run has ended; the last checkpoint is whole."""


def announced() -> tuple[int, int]:
    """Return the rank of this process and their number as the environment states them: 0 and 1 without a launcher."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    return (int(os.environ["RANK"]), count) if count > 1 and "RANK" in os.environ else (0, 1)


def restarted() -> bool:
    """Return whether torchrun has started these processes again after one was lost."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def join() -> bool:
    """Meet the other processes that the environment states; return False if there are none, or they have met before."""
    mine, total = announced()
    if total == 1 or dist.is_initialized():
        return False
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    meeting = os.environ.get(MEETING)
    if meeting:
        store: Any = dist.FileStore(meeting, total)  # pyright: ignore[reportPrivateImportUsage]
    else:  # where torchrun's environment says; its store still knows the addresses of processes that it has replaced
        again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.PrefixStore(f"start-{again}", next(iter(dist.rendezvous("env://", mine, total)))[0])  # pyright: ignore[reportPrivateImportUsage,reportAttributeAccessIssue]
    dist.init_process_group(backend, store=store, rank=mine, world_size=total)
    return True


def leave() -> None:
    """End what `join` began."""
    if rank() == 0 and MEETING in os.environ:
        Path(os.environ[MEETING]).unlink(missing_ok=True)
    dist.destroy_process_group()


def count() -> int:
    """Return the number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if count() > 1 else 0


def own_device(device: torch.device) -> torch.device:
    """Return the device of this process: of several GPUs one each. Raises ConfigError where there are too few."""
    if count() == 1 or device.type != "cuda":
        return device
    if device.index is not None:
        raise ConfigError(f"device {str(device)!r} is one GPU for {count()} processes. Say cuda: each takes its own.")
    number, there = int(os.environ.get("LOCAL_RANK") or rank()), torch.cuda.device_count()
    if number >= there:
        raise ConfigError(f"Process {number + 1} of this machine has no GPU: there are {there}. Start as many processes.")
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def share(values: torch.Tensor, parts: int = 1) -> torch.Tensor:
    """Return the share of this process of the rows of a batch [B, ...]: of each of its `parts`, in order."""
    if count() == 1:
        return values
    return torch.cat([part.tensor_split(count())[rank()] for part in values.tensor_split(parts)])


def _all(collective: Callable[..., Any], *arguments: Any, **more: Any) -> None:
    try:
        collective(*arguments, **more)
    except RuntimeError as error:
        raise ProcessLost(
            f"Another process of this run has ended, so that process {rank() + 1} of {count()} cannot go on. What was saved last "
            "is whole: resume the run."
        ) from error


def total(tensors: Sequence[torch.Tensor]) -> None:
    """Replace each tensor by its sum over all processes, in one collective for each type of numbers."""
    if count() == 1:
        return
    for kind in dict.fromkeys((t.dtype, t.device) for t in tensors):
        some = [t for t in tensors if (t.dtype, t.device) == kind]
        flat = torch.cat([t.detach().flatten() for t in some])
        _all(dist.all_reduce, flat)
        for tensor, summed in zip(some, flat.split([t.numel() for t in some]), strict=True):
            tensor.detach().copy_(summed.view_as(tensor))


def mean(values: torch.Tensor) -> torch.Tensor:
    """Return the mean [] of the values [B] of all processes, without gradient."""
    if count() == 1:
        return values.mean()
    held = torch.stack([values.detach().sum(), torch.ones_like(values).sum()])
    total([held])
    return held[0] / held[1]


class _Joint(torch.autograd.Function):
    """The sum over all processes, whose gradient is the sum of their gradients."""

    @staticmethod
    def forward(_: Any, value: torch.Tensor) -> torch.Tensor:
        found = value.clone()
        _all(dist.all_reduce, found)
        return found

    @staticmethod
    def backward(_: Any, gradient: torch.Tensor) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _Joint.forward(None, gradient.contiguous())


def joint(value: torch.Tensor) -> torch.Tensor:
    """Return the sum of a tensor over all processes, through which gradients flow to each of them."""
    return value if count() == 1 else _Joint.apply(value)  # pyright: ignore[reportReturnType]


def told(text: str) -> str:
    """Return the text of the first process, in every process."""
    if count() == 1:
        return text
    size = torch.tensor(len(text.encode()))
    _all(dist.broadcast, size, 0)
    held = torch.tensor(list(text.encode()) if rank() == 0 else [0] * int(size), dtype=torch.uint8)
    if len(held):
        _all(dist.broadcast, held, 0)
    return bytes(held.tolist()).decode()


def largest(number: int) -> int:
    """Return the largest of the numbers of all processes."""
    if count() == 1:
        return number
    held = torch.tensor(number)
    _all(dist.all_reduce, held, op=dist.ReduceOp.MAX)
    return int(held)


Result = TypeVar("Result")


def first_alone(work: Callable[[], Result]) -> Result | None:
    """Let the first process do something; the others get None. If it fails, it fails in all of them."""
    found, failed = None, None
    if rank() == 0:
        try:
            found = work()
        except FaalLabError as error:
            failed = error
    said = told(str(failed or ""))
    if failed is not None:
        raise failed
    if said:
        raise FaalLabError(said)
    return found


def check_same(what: str, value: Any) -> None:
    """Raise ConfigError unless all processes hold the same value, which JSON can state."""
    if count() == 1:
        return
    mine = json.dumps(value, sort_keys=True)
    if largest(told(mine) != mine):
        raise ConfigError(f"The processes of this run have different {what}. Give all the same command, files and versions.")


class _JointNorm(_BatchNorm):
    """A BatchNorm that normalises by all processes' images: as one process would that had them all."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalise as nn.BatchNorm does, by the statistics of the whole batch."""
        if not self.training and self.running_mean is not None:
            return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps)
        x = input if input.dtype == torch.float64 else input.float()
        dims, shape = [0, *range(2, x.ndim)], [1, -1, *[1] * (x.ndim - 2)]
        size, mean = x.numel() // x.shape[1], x.mean(dims)
        spread = (x - mean.view(shape)).square().sum(dims)
        row = torch.cat([mean, spread, torch.full_like(mean[:1], size)])
        # each process writes a row of its own, so that the sum is the list of all rows
        rows = joint(torch.where(torch.arange(count(), device=x.device)[:, None] == rank(), row, torch.zeros_like(row)))
        means, spreads, sizes = rows[:, : len(mean)], rows[:, len(mean) : -1], rows[:, -1:].detach()
        n = sizes.sum()
        whole = (sizes * means).sum(0) / n
        variance = (spreads + sizes * (means - whole).square()).sum(0) / n
        if self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            part = 1 / self.num_batches_tracked.to(x.dtype) if self.momentum is None else self.momentum
            with torch.no_grad():
                self.running_mean.lerp_(whole.to(self.running_mean), part)
                self.running_var.lerp_((variance * n / (n - 1)).to(self.running_var), part)
        found = (x - whole.view(shape)) / (variance + self.eps).sqrt().view(shape)
        if self.weight is not None:
            found = found * self.weight.view(shape)
        if self.bias is not None:
            found = found + self.bias.view(shape)
        return found.to(input.dtype)


_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def check_batch_norm(model: nn.Module) -> None:
    """Raise ConfigError for a BatchNorm with a forward pass of its own, which several processes cannot make together."""
    for name, layer in model.named_modules():
        if isinstance(layer, _BatchNorm) and type(layer) not in _NORMS:
            raise ConfigError(
                f"The layer {name} is a {type(layer).__name__}, a BatchNorm of its own kind: several processes cannot normalise "
                "by it together. Train in one process."
            )


@contextmanager
def joint_batch_norm(model: nn.Module) -> Iterator[None]:
    """Let every BatchNorm of the model normalise by the images of all processes. Nothing changes with one process."""
    layers = [layer for layer in model.modules() if type(layer) in _NORMS] if count() > 1 else []
    kinds = [type(layer) for layer in layers]
    for layer in layers:
        layer.__class__ = _JointNorm  # in place, so that names, weights and optimiser stay valid
    try:
        yield
    finally:
        for layer, kind in zip(layers, kinds, strict=True):
            layer.__class__ = kind
