"""Probe convolutions for wrong results, crashes and hangs: every shape, in both memory layouts, under every instruction set.

    python benchmarks/convolutions.py                   # the whole table, half an hour on two cores with nothing beside it
    python benchmarks/convolutions.py --short --isa AVX2
    python benchmarks/convolutions.py --speed           # what a network loses that has to run in the default layout

Each case is a forward and a backward pass of one layer in a process of its own with a time limit, compared with the same layer
in float64 and the default layout. `faal_lab/models/layout.py` holds the rule that is drawn from the table (convolutions.json).

oneDNN reads ONEDNN_MAX_CPU_ISA once a process. So there is one parent for each instruction set: it imports torch, convolves
nothing itself, and forks a child for each case. glibc's checking allocator, where there is one, makes a write beyond a buffer
end the process at the next free instead of some time later.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TABLE = HERE / "convolutions.json"
# What oneDNN may use -> what torch's own kernels may; "" is all that the processor has.
INSTRUCTION_SETS = {"": "", "AVX512_CORE": "avx512", "AVX2": "avx2", "AVX": "default", "SSE41": "default"}
CHANNELS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 17, 24, 32, 33, 63, 64)
FEW_CHANNELS = (1, 3, 4, 6, 8, 16)
LIMIT = 10.0  # seconds; a case takes some milliseconds
TOLERANCE = {"float32": 1e-4, "bfloat16": 4e-2}  # of the largest entry
CHECKING = "libc_malloc_debug.so.0"


@dataclass(frozen=True)
class Case:
    """One layer, one batch, one memory layout."""

    layer: str  # plain, depthwise or transposed
    kernel: int
    stride: int
    inputs: int
    outputs: int
    batch: int
    dtype: str
    layout: str  # default or channels_last


def cases(short: bool = False) -> Iterator[Case]:
    """Every case, or those few that tell in seconds whether the known fault is there."""
    if short:
        sizes = [("plain", 4, 8), ("plain", 6, 12), ("plain", 8, 16), ("depthwise", 4, 4)]
        for (layer, inputs, outputs), kernel, layout in itertools.product(sizes, (1, 3), ("default", "channels_last")):
            yield Case(layer, kernel, 2, inputs, outputs, 16, "float32", layout)
        return
    sizes = [("plain", i, o) for i, o in itertools.product(CHANNELS, CHANNELS)]
    sizes += [("depthwise", c, c) for c in CHANNELS]
    sizes += [("transposed", i, o) for i, o in itertools.product(FEW_CHANNELS, FEW_CHANNELS)]
    for (layer, inputs, outputs), kernel, stride, batch, dtype, layout in itertools.product(
        sizes, (1, 3), (1, 2), (1, 16), TOLERANCE, ("default", "channels_last")
    ):
        yield Case(layer, kernel, stride, inputs, outputs, batch, dtype, layout)


def differs(case: Case) -> str:
    """Pass one batch forward and backward; returns what is wrong with the results, or nothing.

    The layer runs three times and its tensors are freed in between, so that a damaged heap is found out.
    """
    import torch
    from torch import nn

    kind = nn.ConvTranspose2d if case.layer == "transposed" else nn.Conv2d
    groups = case.inputs if case.layer == "depthwise" else 1
    layout = torch.channels_last if case.layout == "channels_last" else torch.contiguous_format
    torch.manual_seed(0)
    exact = kind(case.inputs, case.outputs, case.kernel, case.stride, case.kernel // 2, groups=groups).double()
    layer = kind(case.inputs, case.outputs, case.kernel, case.stride, case.kernel // 2, groups=groups)
    layer.load_state_dict(exact.state_dict())
    layer = layer.to(getattr(torch, case.dtype)).to(memory_format=layout)  # pyright: ignore[reportCallIssue] (not in the stubs)
    with torch.no_grad():  # the same rounded numbers on both sides; all positive, since what cancels has no relative error
        for mine, theirs in zip(exact.parameters(), layer.parameters(), strict=True):
            mine.copy_(theirs.abs_())
    images = torch.rand(case.batch, case.inputs, 16, 16).to(getattr(torch, case.dtype))
    wanted = _passes(exact, images.double(), torch.contiguous_format)
    for _ in range(3):
        found = _passes(layer, images, layout)
        for name, got, want in zip(("output", "input", "weight", "bias"), found, wanted, strict=True):
            error = float((got.double() - want).abs().max() / want.abs().max())
            if not error <= TOLERANCE[case.dtype]:
                return f"wrong {name} ({error:.1e})"
    return ""


def _passes(layer: Any, images: Any, layout: Any) -> list[Any]:
    """Output and gradients of input, weight and bias."""
    import torch

    point = images.contiguous(memory_format=layout).requires_grad_()
    output = layer(point)
    slope = torch.linspace(0.5, 1.5, output.numel(), dtype=output.dtype).view(output.shape).contiguous(memory_format=layout)
    return [output.detach(), *torch.autograd.grad(output, [point, *layer.parameters()], slope)]


def tried(case: Case) -> str:
    """Run a case in a forked child; returns how it failed, or nothing."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        word = "error: the child ended early"
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what the allocator says before it aborts
            word = differs(case)
        except BaseException as error:
            word = f"error: {' '.join(str(error).split())[:100]}"
        finally:
            os.write(writer, word.encode() or b" ")
            os._exit(0)
    os.close(writer)
    said = b""
    if select.select([reader], [], [], LIMIT)[0]:
        said = os.read(reader, 400)
    else:
        os.kill(child, signal.SIGKILL)
    os.close(reader)
    status = os.waitpid(child, 0)[1]
    if said:
        return said.decode().strip()
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    return "hang" if number == signal.SIGKILL else f"crash ({signal.Signals(number).name if number else 'no word'})"


def walk(isa: str, short: bool) -> dict[str, Any]:
    """All cases under the instruction set that this process was started with: counts, and each failed case."""
    import torch
    import torch._dynamo  # torch loads it at the first layer: here once, and not in every child

    torch.set_num_threads(1)
    began, failed, count = time.monotonic(), [], 0
    for case in cases(short):
        count += 1
        if word := tried(case):
            failed.append([*astuple(case), word])
        if count % 500 == 0:
            print(f"{isa or 'all'}: {count} cases, {len(failed)} failed, {time.monotonic() - began:.0f} s", file=sys.stderr)
    return {"cases": count, "failed": failed}


def environment(isa: str) -> dict[str, str]:
    """The variables under which a process uses no more than an instruction set."""
    own = {"OMP_NUM_THREADS": "1", "MALLOC_CHECK_": "3"}
    if isa:
        own |= {"ONEDNN_MAX_CPU_ISA": isa, "ATEN_CPU_CAPABILITY": INSTRUCTION_SETS[isa]}
    checking = any(Path(folder, CHECKING).exists() for folder in ("/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64"))
    return {**os.environ, **own, **({"LD_PRELOAD": CHECKING} if checking else {})}


def probe(sets: list[str], short: bool) -> dict[str, Any]:
    """Walk several instruction sets, two at a time: name -> what `walk` found."""
    found: dict[str, Any] = {}
    for pair in (sets[n : n + 2] for n in range(0, len(sets), 2)):
        words = [sys.executable, str(Path(__file__)), *(["--short"] if short else [])]
        begun = {
            isa: subprocess.Popen([*words, f"--walk={isa}"], stdout=subprocess.PIPE, text=True, env=environment(isa))
            for isa in pair
        }
        for isa, process in begun.items():
            said = process.communicate()[0]
            if process.returncode:
                raise RuntimeError(f"The walk under {isa or 'all'} ended with exit code {process.returncode}.")
            found[isa or "all"] = json.loads(said)
    return found


def machine() -> dict[str, str]:
    """Processor and versions, which the table holds for."""
    import torch

    processor, cpuinfo = platform.processor(), Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        processor = lines[0] if lines else processor
    built = [line for line in torch.__config__.show().splitlines() if "MKL-DNN" in line]
    onednn = built[0].strip(" -") if built else "none"
    has = torch.backends.cpu.get_cpu_capability()
    return {"processor": processor, "capability": has, "torch": torch.__version__, "onednn": onednn}


def speed(filters: int, count: int = 9) -> dict[str, float]:
    """How many times longer a training pass of PreActResNet-18 takes in the default layout than in channels_last."""
    import torch
    from side_by_side import ratio, rounds

    from faal_lab.models.build import ModelSpec, build

    images = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    contenders = {}
    for name, layout in (("default", torch.contiguous_format), ("channels_last", torch.channels_last)):
        model = build(ModelSpec("preact-resnet-18", 10, 3, 32, 32, (0.5,) * 3, (0.2,) * 3, filters), seed=0)
        model = model.to(memory_format=layout)  # pyright: ignore[reportCallIssue] (not in the stubs)
        contenders[name] = lambda _, model=model: model(images).square().mean().backward()
    found = rounds(contenders, count, f"{filters} filters")
    return ratio(found["default"], found["channels_last"])


def main() -> None:
    """Run the probe and write or print its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--isa", nargs="+", choices=[s for s in INSTRUCTION_SETS if s], help="only these instruction sets")
    parser.add_argument("--speed", action="store_true", help="time both layouts, where neither is unsound, and keep the ratio")
    parser.add_argument("--short", action="store_true", help="a few cases, printed instead of written")
    parser.add_argument("--out", type=Path, default=TABLE)
    parser.add_argument("--walk", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.walk is not None:
        print(json.dumps(walk(options.walk, options.short)))
        return
    if options.speed:
        table = json.loads(options.out.read_text(encoding="utf-8"))
        table["default layout / channels_last, PreActResNet-18"] = {str(f): speed(f) for f in (4, 6)}
        options.out.write_text(_compact(table), encoding="utf-8")
        print(table["default layout / channels_last, PreActResNet-18"])
        return
    found = probe(options.isa or list(INSTRUCTION_SETS), options.short)
    table = {"machine": machine(), "columns": [*(f.name for f in fields(Case)), "failure"], "sets": found}
    for name, row in found.items():
        print(f"{name:<12} {row['cases']} cases, {len(row['failed'])} failed")
        if options.short:
            for failed in row["failed"]:
                print("   ", *failed)
    if not options.short:
        options.out.write_text(_compact(table), encoding="utf-8")


def _compact(table: dict[str, Any]) -> str:
    """JSON with one failed case a line."""
    parts = []
    for name, row in table["sets"].items():
        failed = ",\n   ".join(json.dumps(case) for case in row["failed"])
        parts.append(f'  {json.dumps(name)}: {{"cases": {row["cases"]}, "failed": [\n   {failed}\n  ]}}')
    head = "".join(f" {json.dumps(key)}: {json.dumps(value)},\n" for key, value in table.items() if key != "sets")
    return f'{{\n{head} "sets": {{\n' + ",\n".join(parts) + "\n }\n}\n"


if __name__ == "__main__":
    main()
