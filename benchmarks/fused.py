"""The fused solver, compiled for GPUs that need not be here: registers, spills and shared memory of each kernel.

    python benchmarks/fused.py            # two minutes on two cores; prints a table, writes benchmarks/fused.json

It needs Triton with NVIDIA's assembler, as the wheels for Linux bring it. Speed needs a GPU, and is not measured here.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from faal_lab.dro import fused

CAPABILITIES = (80, 90)  # A100 and H100
STEPS = ("score_step", "reference_step", "present_step")  # between neighbours in memory
_BLOCKS = (16, 128, 1024)


def kernel(
    kind: str, block: int, capability: int, *, bare: bool = False, scores: str = "*fp64", ones: tuple[str, ...] = STEPS
) -> tuple[dict[str, Any], str]:
    """Return the use of resources of one kernel, and its PTX.

    It has a mask and a reference unless `bare`. Triton compiles arguments in that are 1, as `ones` are here.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    made = fused.compiled()
    kinds = {"KIND": kind, "BLOCK": block, "CENTRED": not bare, "MASKED": not bare, **dict.fromkeys(ones, 1)}
    pointers = ("scores", "reference", "radius", "weights", "rest")
    signature = {name: "*fp64" if name in pointers else "i64" for name in made.arg_names}
    signature |= {"scores": scores, "present": "*u8", "classes": "i32", "rows": "i32", **dict.fromkeys(kinds, "constexpr")}
    source = ASTSource(fn=made, signature=signature, constexprs=kinds)
    found = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=fused.options(block))
    used = _resources(found.asm["cubin"], Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump")
    entry = {
        "set": kind,
        "classes": block,
        "capability": capability,
        "warps": fused.options(block)["num_warps"],
        "registers": used["REG"],
    }
    entry |= {"stack, bytes a thread": used["STACK"], "shared, bytes": found.metadata.shared}
    return entry, found.asm["ptx"]


def _resources(cubin: bytes, reader: Path) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        said = subprocess.run([reader, "--dump-resource-usage", file], capture_output=True, text=True, check=True).stdout
    return {name: int(number) for name, number in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", said)}


def table(kernels: list[dict[str, Any]]) -> str:
    """Markdown for a terminal."""
    lines = ["| set | classes | capability | warps | registers | stack, bytes | shared, bytes |", "|---|---|---|---|---|---|---|"]
    for k in kernels:
        cells = (
            k["set"],
            k["classes"],
            k["capability"],
            k["warps"],
            k["registers"],
            k["stack, bytes a thread"],
            k["shared, bytes"],
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    """Compile every kernel, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"), help="where the JSON goes")
    options = parser.parse_args()
    kernels = [kernel(kind, block, cap)[0] for cap in CAPABILITIES for kind in fused.KINDS for block in _BLOCKS]
    print(table(kernels))
    made = {"triton": metadata.version("triton"), "gpu": "none: compiled, not run", "kernels": kernels}
    options.out.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    print(f"\nWritten: {options.out}")


if __name__ == "__main__":
    main()
