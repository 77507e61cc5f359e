"""The class weights of one batch: our solver against a conic solver, in time and in digits.

    python benchmarks/ambiguity.py            # two minutes on two cores; prints tables, writes benchmarks/ambiguity.json
    python benchmarks/ambiguity.py --quick    # a minute, to see that it works

Contenders for KL(U || w) <= 0.5, all on the same scores in the same round: ours; CVXPY with the problem built anew, as the FAAL
release does for each batch (Clarabel, SCS, and ECOS where the extra `paper` is installed); CVXPY with parameters, compiled once.
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cvxpy as cp
import mpmath
import numpy as np
import torch
from side_by_side import machine, ratio, rounds, seconds

from faal_lab.dro import AMBIGUITY_SETS, KLBall, conic

TAU, BATCH = 0.5, 4096
_CLASSES = (2, 10, 100, 1000)
_SOLVERS = [name for name in ("CLARABEL", "SCS", "ECOS") if name in cp.installed_solvers()]


def problems(classes: int, count: int) -> torch.Tensor:
    """Scores like margins, float64 [count, classes]."""
    return torch.tanh(torch.randn(count, classes, generator=torch.Generator().manual_seed(classes), dtype=torch.float64))


def rebuilt(scores: torch.Tensor, solver: str, tau: float = TAU) -> torch.Tensor | None:
    """The weights by a problem built for these scores alone; None where the solver gives up."""
    w: Any = cp.Variable(len(scores))
    uniform = np.full(len(scores), 1 / len(scores))
    constraints: list[Any] = [w >= 0, cp.sum(w) == 1, cp.sum(cp.kl_div(uniform, w)) <= tau]
    problem = cp.Problem(cp.Maximize(scores.numpy() @ w), constraints)
    try:
        problem.solve(solver=solver)
    except cp.SolverError:
        return None
    return None if w.value is None else torch.from_numpy(w.value)


def parametrised(scores: torch.Tensor, tau: float = TAU) -> torch.Tensor | None:
    """The weights by the statement compiled once."""
    try:
        return conic.solve(KLBall(tau), scores).weights
    except RuntimeError:
        return None


def exact(scores: torch.Tensor, tau: float = TAU) -> torch.Tensor:
    """The weights to fifty digits, from the stationarity condition alone."""
    mpmath.mp.dps = 50
    s = [mpmath.mpf(x) for x in scores.tolist()]
    gaps = [max(s) - x for x in s]

    def excess(log_eps: Any) -> Any:
        a = [mpmath.exp(log_eps) + g for g in gaps]
        return mpmath.log(sum(1 / x for x in a) / len(a)) + sum(map(mpmath.log, a)) / len(a) - tau

    root = mpmath.findroot(excess, (-60, 10), solver="illinois", tol=1e-80, maxsteps=400, verify=False)
    raw = [1 / (mpmath.exp(root) + g) for g in gaps]
    return torch.tensor([float(r / sum(raw)) for r in raw], dtype=torch.float64)


def speed(classes: int, count: int) -> dict[str, Any]:
    """Times and ratios at so many classes."""
    one, many = problems(classes, count + 1), problems(classes, BATCH)
    ball = KLBall(TAU)
    contenders: dict[str, Callable[[int], Any]] = {
        "ours": lambda n: ball.worst_case(one[n]),
        "ours, 4096 at once": lambda _: ball.worst_case(many),
        "CVXPY with parameters, Clarabel": lambda n: parametrised(one[n]),
    }
    contenders |= {f"CVXPY rebuilt, {s.title()}": lambda n, s=s: rebuilt(one[n], s) for s in _SOLVERS}
    alive = {name: call for name, call in contenders.items() if call(0) is not None}
    found = rounds(alive, count, f"{classes} classes")
    each = [t / BATCH for t in found["ours, 4096 at once"]]
    entry: dict[str, Any] = {"classes": classes, "rounds": count, "failed": sorted(set(contenders) - set(alive))}
    entry["milliseconds"] = {name: 1e3 * float(np.median(times)) for name, times in found.items()}
    entry["milliseconds"]["ours, 4096 at once, each"] = 1e3 * float(np.median(each))
    entry["times longer than ours"] = {n: ratio(t, found["ours"]) for n, t in found.items() if n.startswith("CVXPY")}
    entry["times longer than ours at once, each"] = {n: ratio(t, each) for n, t in found.items() if n.startswith("CVXPY")}
    return entry


def digits(classes: int) -> dict[str, Any]:
    """Largest errors over three radii and scores: of weights against fifty digits, of the divergence, of the sum."""
    contenders: dict[str, Callable[[torch.Tensor, float], torch.Tensor | None]] = {
        "ours": lambda s, tau: KLBall(tau).worst_case(s).weights,
        "ours, at once": lambda s, tau: KLBall(tau).worst_case(s[None]).weights[0],
        "CVXPY with parameters, Clarabel": parametrised,
    }
    contenders |= {f"CVXPY rebuilt, {s.title()}": lambda x, tau, s=s: rebuilt(x, s, tau) for s in _SOLVERS}
    found: dict[str, Any] = {}
    right = {(tau, n): exact(s, tau) for tau in (0.01, 0.5, 3.0) for n, s in enumerate(problems(classes, 3))}
    for name, call in contenders.items():
        weight, divergence, total, failed = 0.0, 0.0, 0.0, 0
        for (tau, n), truth in right.items():
            w = call(problems(classes, 3)[n], tau)
            if w is None or not bool((w > 0).all()):
                failed += 1
                continue
            weight = max(weight, float((w - truth).abs().max()))
            divergence = max(divergence, abs(float(-(classes * w).log().mean()) / tau - 1))
            total = max(total, abs(float(w.sum()) - 1))
        found[name] = {"weights": weight, "divergence, relative": divergence, "sum": total, "failed of 9": failed}
    return {"classes": classes, "errors": found}


def families(count: int) -> list[dict[str, Any]]:
    """Every set at ten classes against its own parametrised statement."""
    one, many, table = problems(10, count + 1), problems(10, BATCH), []
    for name, kind in AMBIGUITY_SETS.items():
        ball = kind()
        contenders = {"ours": lambda n, b=ball: b.worst_case(one[n]), "conic": lambda n, b=ball: conic.solve(b, one[n])}
        found = rounds(contenders, count, name)
        each = seconds(lambda b=ball: b.worst_case(many)) / BATCH
        table.append({
            "set": name, "microseconds": 1e6 * float(np.median(found["ours"])), "microseconds each of 4096": 1e6 * each,
            "CVXPY with parameters, times longer": ratio(found["conic"], found["ours"]),
        })  # fmt: skip
    return table


def on_gpu() -> dict[str, Any] | None:
    """One solve at ten classes on a GPU, compiled: microseconds by the device's clock, and kernels launched. None without one."""
    if not torch.cuda.is_available():
        return None
    ball, scores, radius = KLBall(), problems(10, 1)[0].cuda(), torch.tensor(TAU, device="cuda", dtype=torch.float64)
    solve = torch.compile(lambda s, r: tuple(ball.worst_case(s, radius=r, check=False)), fullgraph=True)
    for _ in range(3):
        solve(scores, radius)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        solve(scores, radius)
    torch.cuda.set_sync_debug_mode("default")
    kernels = [event for event in profile.events() or [] if "CUDA" in str(event.device_type)]
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(200):
        solve(scores, radius)
    end.record()
    torch.cuda.synchronize()
    return {"microseconds": 1e3 * begin.elapsed_time(end) / 200, "kernels": len(kernels)}


def tables(result: dict[str, Any]) -> str:
    """Markdown for a terminal and for docs/benchmarks.md."""
    lines = [
        "| classes | contender | times longer than ours, one by one | ... than ours, 4096 at once, each |",
        "|---|---|---|---|",
    ]
    spread = "{median:,.0f} ({low:,.0f} to {high:,.0f})".format_map
    for entry in result["speed"]:
        for name, found in entry["times longer than ours"].items():
            both = f"{spread(found)} | {spread(entry['times longer than ours at once, each'][name])}"
            lines.append(f"| {entry['classes']} | {name} | {both} |")
        lines += [f"| {entry['classes']} | {name} | fails | |" for name in entry["failed"]]
    lines += [
        "",
        "| classes | solver | weights off by | divergence off by, relative | sum off by | failed of 9 |",
        "|---|---|---|---|---|---|",
    ]
    for entry in result["digits"]:
        for name, e in entry["errors"].items():
            errors = f"{e['weights']:.0e} | {e['divergence, relative']:.0e} | {e['sum']:.0e} | {e['failed of 9']}"
            lines.append(f"| {entry['classes']} | {name} | {errors} |")
    lines += [
        "",
        "| set, ten classes | one, microseconds | each of 4096 | CVXPY with parameters, times longer |",
        "|---|---|---|---|",
    ]
    for e in result["sets"]:
        times = f"{e['microseconds']:.0f} | {e['microseconds each of 4096']:.2f}"
        lines.append(f"| {e['set']} | {times} | {spread(e['CVXPY with parameters, times longer'])} |")
    return "\n".join(lines)


def main() -> None:
    """Run everything, print the tables and write the JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="few rounds, up to 100 classes; nothing is written unless --out is given"
    )
    parser.add_argument("--out", type=Path, help="where the JSON goes (default: benchmarks/ambiguity.json)")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="cvxpy")  # "may be inaccurate": how inaccurate is what is measured here
    sizes = _CLASSES[:3] if options.quick else _CLASSES
    result = {
        "machine": machine(),
        "speed": [speed(c, 5 if options.quick else 60 if c <= 100 else 15) for c in sizes],
        "digits": [digits(c) for c in sizes],
        "sets": families(3 if options.quick else 20),
        "gpu": on_gpu(),
    }
    print(tables(result))
    out = options.out or (None if options.quick else Path(__file__).with_suffix(".json"))
    if out:
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"\nWritten: {out}")


if __name__ == "__main__":
    main()
