"""How often an evaluation waits for a GPU: counted on a CPU, by the operations that would."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from faal_lab.evaluation.autoattack import Upstream
from faal_lab.methods.pgd import pgd_until_fooled
from faal_lab.models.build import frozen

READS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal", "aten::is_nonzero", "aten::item"}


class Reads(TorchDispatchMode):
    """Count the operations whose result has to be known on the host: numbers read, and shapes that depend on values."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        chosen = args[1] if name in ("aten::index", "aten::index_put_", "aten::index_put") else ()
        self.count += name in READS
        self.count += any(isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in chosen)
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 10))


def counted(call: Any) -> int:
    with Reads() as reads:
        call()
    return reads.count


def test_a_step_of_pgd_reads_twice(network: nn.Module) -> None:
    images = torch.rand(64, 3, 2, 2)
    labels = network(images).argmax(1)

    def attack(steps: int) -> None:
        pgd_until_fooled(network, images, labels, radius=0.01, step=0.003, steps=steps)

    with frozen(network):
        found = [counted(lambda steps=steps: attack(steps)) for steps in (5, 15)]
    assert (found[1] - found[0]) / 10 == 2, "which images are left, for their indices and their places"


def test_an_iteration_of_apgd_reads_as_often_as_upstreams(network: nn.Module, capsys: pytest.CaptureFixture[str]) -> None:
    upstream = pytest.importorskip("pyautoattack")
    images = torch.rand(32, 3, 2, 2)
    labels = network(images).argmax(1)
    settings: dict[str, Any] = {"epsilon": 0.001, "norm": "linf", "seed": 0, "num_classes": 10, "queries": 1}
    found: dict[str, list[int]] = {"ours": [], "upstream": []}
    with frozen(network):
        ours = Upstream(network, device=torch.device("cpu"), mode="per-image", seen=lambda _: None, **settings)
        theirs = upstream.AutoAttack(network, norm="Linf", eps=0.001, seed=0, device="cpu")
        for steps in (20, 40):
            ours._attacks["apgd-ce"].n_iter = theirs.apgd.n_iter = steps
            found["ours"].append(counted(lambda: ours.perturb("apgd-ce", images, labels)))
            found["upstream"].append(counted(lambda: theirs.apgd.perturb(images, labels)))
    each = {who: (last - first) / 20 for who, (first, last) in found.items()}
    with capsys.disabled():
        print(f"\nreads an iteration of APGD: ours {each['ours']:g}, upstream {each['upstream']:g}", end=" ")
    assert 0 < each["ours"] <= each["upstream"]
