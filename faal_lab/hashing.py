"""A hash over named tensors.

Knows: names, types, shapes and bytes. Must not know: what the tensors are, or what the hash is compared with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def tensors_sha256(tensors: Mapping[str, torch.Tensor], prefix: str = "") -> str:
    """SHA-256 over `prefix`, and over name, type, shape and bytes of every tensor, in the order of their names."""
    import torch

    total = hashlib.sha256(prefix.encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
