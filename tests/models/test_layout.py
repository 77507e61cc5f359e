"""Memory layouts: the rule admits no case that the table of convolutions found wrong, and gradients are right in each of them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from faal_lab.models import layout
from faal_lab.models.build import MODELS, ModelSpec, build
from faal_lab.models.doctor import examine
from faal_lab.models.layout import placed

TABLE = Path(__file__).parents[2] / "benchmarks" / "convolutions.json"
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}


def layer_of(kind: str, kernel: int, stride: int, inputs: int, outputs: int) -> nn.Module:
    make = nn.ConvTranspose2d if kind == "transposed" else nn.Conv2d
    return make(inputs, outputs, kernel, stride, groups=inputs if kind == "depthwise" else 1)


def test_the_rule_admits_no_failing_case_of_the_table() -> None:
    table = json.loads(TABLE.read_text())
    assert table["columns"] == ["layer", "kernel", "stride", "inputs", "outputs", "batch", "dtype", "layout", "failure"]
    assert set(table["sets"]) == {"all", "AVX512_CORE", "AVX2", "AVX", "SSE41"}
    assert min(found["cases"] for found in table["sets"].values()) > 10_000
    failed = [row for found in table["sets"].values() for row in found["failed"]]
    assert failed, "the fault that the rule is about is in the table"
    for *shape, _, _, used, _ in failed:
        assert used == "channels_last", "the default layout has no known fault"
        assert layout.corrupts(layer_of(*shape)), shape


def test_the_page_states_what_was_tried_and_what_it_costs() -> None:
    table, page = json.loads(TABLE.read_text()), " ".join((TABLE.parent.parent / "docs" / "measuring.md").read_text().split())
    assert f"tried {sum(found['cases'] for found in table['sets'].values()):,} cases under five instruction sets" in page
    four, six = (table["default layout / channels_last, PreActResNet-18"][filters]["median"] for filters in ("4", "6"))
    assert f"takes {four:.1f} times as long with 4 filters, {six:.1f} times with 6" in page


@pytest.mark.parametrize("inputs, format", [(7, torch.contiguous_format), (8, torch.channels_last)])
def test_one_layer_decides_for_the_whole_network(inputs: int, format: torch.memory_format) -> None:
    model = nn.Sequential(nn.Conv2d(3, inputs, 3), nn.Sequential(nn.Conv2d(inputs, 16, 1, stride=2)), nn.Conv2d(16, 4, 3))
    model = model.to(memory_format=torch.channels_last)
    assert layout.memory_format(model) == format
    placed(model, torch.device("cpu"))
    assert model[0].weight.is_contiguous(memory_format=format)


class Holds(nn.Module):
    """A module with a tensor of its own, of which nobody sees how it is used."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.register_buffer("held", torch.ones(shape))


@pytest.mark.parametrize(
    "shape, format",
    [
        ((8, 4, 1, 1), torch.contiguous_format),  # a kernel like the layer's that corrupts
        ((8, 8, 1, 1), torch.channels_last),
        ((8, 4, 3, 3), torch.channels_last),
        ((1, 3, 1, 1), torch.channels_last),  # channel statistics, layer scales
    ],
)
def test_kernels_whose_use_cannot_be_seen_keep_the_default_layout(shape: tuple[int, ...], format: torch.memory_format) -> None:
    assert layout.memory_format(nn.Sequential(nn.Conv2d(3, 8, 3), Holds(*shape))) == format


COMPILED = """
import torch
from torch import nn
from faal_lab.models.fast import compiled, try_to_compile
from faal_lab.models.layout import placed
from faal_lab.models.normalize import Normalize, Normalized
network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 8, 1, 2), nn.Flatten(), nn.Linear(512, 3))
model = placed(Normalized(Normalize((0.5,) * 3, (0.2,) * 3), network), torch.device("cpu"))
quick, failed = try_to_compile(model, "mine", (3, 16, 16), images=16, training=True)
assert not failed, failed
for _ in range(50):
    images = torch.rand(16, 3, 16, 16, requires_grad=True)
    with compiled(model, quick):
        torch.autograd.grad(model(images).sum(), [images, *model.parameters()])
print("whole")
"""


@pytest.mark.slow
def test_a_compiled_network_keeps_to_the_rule_too() -> None:
    """inductor lays convolutions out by itself; in the wrong layout this process dies."""
    found = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, env={**os.environ, **AVX2})
    assert (found.returncode, found.stdout.strip()) == (0, "whole"), found.stderr[-2000:]


@pytest.mark.parametrize("name", MODELS)
def test_networks_of_usual_width_run_in_channels_last(name: str) -> None:
    with torch.device("meta"):
        model = build(ModelSpec(name, 10, 3, 32, 32, (0.5,) * 3, (0.2,) * 3), seed=0)
    assert layout.memory_format(model) == torch.channels_last


NARROW = [(name, filters) for name in ("small-cnn", "preact-resnet-18", "resnet-18") for filters in (2, 4, 6, 8)]


@pytest.mark.parametrize("name, filters", [*NARROW, ("wrn-16-4", 0)])
@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_those_of_the_default_layout(
    name: str, filters: int, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        F, "relu", lambda x, inplace=False: F.softplus(x)
    )  # without a kink, on whose two sides rounding may put the two
    model = placed(build(ModelSpec(name, 10, 1, 8, 8, (0.3,), (0.4,), filters), seed=0), torch.device("cpu")).train(training)
    images = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert layout.gradient_error(model, images) < 1e-4


def test_the_probe_in_short_finds_a_sound_layout_for_each_case() -> None:
    words = [sys.executable, "benchmarks/convolutions.py", "--short", "--isa", "AVX2"]
    found = subprocess.run(words, capture_output=True, text=True, timeout=300, cwd=TABLE.parent.parent)
    assert found.returncode == 0, found.stderr
    assert "16 cases" in found.stdout
    failed = [line.split() for line in found.stdout.splitlines()[1:]]
    assert all(layout.corrupts(layer_of(row[0], *map(int, row[1:5]))) and row[7] == "channels_last" for row in failed)


def test_doctor_says_what_fails_here_and_what_is_done_about_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in AVX2.items():
        monkeypatch.setitem(os.environ, name, value)
    text, wrong = examine()
    (line,) = [line for line in text.splitlines() if line.startswith("convolutions")]
    assert "default layout" in line or "right in the layouts" in line
    assert wrong == []
    tried = {"known": "no answer in time", "ours": ""}
    monkeypatch.setattr(layout, "_tried", tried.get)
    assert "fewer than 8 channels fail in channels_last here (no answer in time)" in examine()[0]
    tried["ours"] = "gradients are off"
    text, wrong = examine()
    assert "WRONG here (gradients are off): do not trust numbers" in text
    assert wrong == ["sound convolutions"]
    assert text.splitlines()[-1] == "Nothing is missing, but numbers made here are WRONG: see convolutions."
    tried["ours"] = "no answer in time"
    text, wrong = examine()
    assert "not tried: no answer in 60 s" in text
    assert wrong == []
