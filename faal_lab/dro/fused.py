"""Solve for the worst case on a GPU by one Triton kernel: a program a row, from the scores to the answer, in float64.

The kernel states the sets of `kl.py`, `reverse_kl.py` and `balls.py` again, for one row. Two things differ. A root ends as soon
as its row has settled. No row is sorted: `_level` halves the range of the gaps until one class is left, and each step looks at
all classes at once. Triton is imported by the first solve; until then the parts of the kernel are plain Python.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import warnings
from contextlib import nullcontext
from functools import cache
from importlib import util
from typing import Any

import torch

CLASSES = 1024  # one program holds a whole row in registers; tensors solve larger ones
OLDEST = (7, 0)  # compute capability
KINDS = ("kl", "reverse-kl", "chi-square", "hellinger", "total-variation", "cvar")
_BITS = {torch.float32, torch.float64}  # other types are cast before the launch
tl: Any = None  # triton.language, from the first solve on
constexpr = Any  # Triton's, from the first solve on: a value that is compiled in
_failed: dict[str, str] = {}  # device -> why its kernel is not used
proven: set[tuple[str, str]] = set()  # kernel and device whose first answer was that of the tensors


def refusal(device: torch.device, classes: int = 1) -> str:
    """Return why tensors solve on this device, or an empty text where the kernel does."""
    if device.type != "cuda":
        return "the kernel is for CUDA"
    if os.environ.get("FAAL_LAB_FUSED", "1") == "0":
        return "FAAL_LAB_FUSED=0"
    if classes > CLASSES:
        return f"{classes} classes are more than the kernel's {CLASSES}"
    return _failed.get(str(device), "") or _unfit(device)


@cache
def _unfit(device: torch.device) -> str:
    if torch.version.hip:
        return "the kernel was compiled for CUDA alone, not for ROCm"
    if util.find_spec("triton") is None:
        return "triton is missing: pip install triton"
    found = torch.cuda.get_device_capability(device)
    if found < OLDEST:
        return f"compute capability {found[0]}.{found[1]} is older than {OLDEST[0]}.{OLDEST[1]}"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "triton needs a C compiler: install gcc or clang, or name one in CC"
    return ""


def solve(
    kind: str, scores: torch.Tensor, radius: torch.Tensor | float, reference: torch.Tensor | None, present: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor] | None:
    """Return weights [..., C], value, divergence and dual [...] of a set in `KINDS`.

    The other arguments are those of `AmbiguitySet.worst_case`, with shapes that fit. None means that tensors must solve: there is
    no row, or the kernel does not start here. The latter is warned of once, and `refusal` gives the reason from then on.
    """
    rows, classes = scores.shape[:-1].numel(), scores.shape[-1]
    if not rows:
        return None
    device, lead = scores.device, scores.shape[:-1]
    scores = scores.detach()
    table = (scores if scores.dtype in _BITS else scores.double()).reshape(rows, classes)
    if isinstance(radius, torch.Tensor):
        bound = radius.detach().to(device, torch.float64)
    else:
        bound = torch.full((), radius, dtype=torch.float64, device=device)  # no copy from the host, so nothing waits
    bound = bound.expand(lead).reshape(rows)
    centre, mask = table, table  # placeholders, which are not read
    if reference is not None:
        centre = reference.detach().to(device, torch.float64).expand(scores.shape).reshape(rows, classes)
    if present is not None:
        mask = present.to(device).expand(scores.shape).reshape(rows, classes).view(torch.uint8)
    weights = torch.empty(rows, classes, dtype=torch.float64, device=device)
    rest = torch.empty(3, rows, dtype=torch.float64, device=device)
    block = 1 << max(classes - 1, 1).bit_length()
    try:
        kernel = compiled()
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            kernel[(rows,)](
                table, centre, mask, bound, weights, rest, classes, rows,
                *table.stride(), *centre.stride(), *mask.stride(), *bound.stride(),
                KIND=kind, BLOCK=block, CENTRED=reference is not None, MASKED=present is not None, **options(block),
            )  # fmt: skip
    except _errors() as error:
        first = (str(error).splitlines() or [""])[0]
        give_up(device, f"the kernel's launch failed with {type(error).__name__}: {first}")
        return None
    value, divergence, dual = (part.view(lead) for part in rest)
    return weights.view(*lead, classes), value, divergence, dual


def give_up(device: torch.device, why: str) -> None:
    """Have tensors solve on a device from now on, and warn of it."""
    _failed[str(device)] = why
    said = f"The fused solver is not used on {device}, so tensors solve there, to the same digits: {why}."
    warnings.warn(f"{said} FAAL_LAB_FUSED=0 turns it off.", RuntimeWarning, stacklevel=4)


def options(block: int) -> dict[str, Any]:
    """Return how Triton compiles: at most four numbers a thread; no fused multiply-add, so that sums round as on a CPU."""
    return {"num_warps": max(1, min(8, block // 128)), "enable_fp_fusion": False}


@cache
def compiled() -> Any:
    """Import Triton and return the kernel for it. Its parts find each other by name, so that Triton takes their place here."""
    import triton
    import triton.language

    here = globals()
    here["tl"], here["constexpr"] = triton.language, triton.language.constexpr
    for part in (
        _log1p, _expm1, _within_reference, _proportional, _level, _mean_gap, _tilted, _variation, _curve, _root,
        _kl, _reverse_kl, _hellinger, _chi_square, _total_variation, _cvar,
    ):  # fmt: skip
        here[part.__name__] = triton.jit(part)
    return triton.jit(_kernel)


def _errors() -> tuple[type[Exception], ...]:
    from triton.errors import TritonError

    return RuntimeError, OSError, subprocess.SubprocessError, TritonError


def _kernel(
    scores, reference, present, radius, weights, rest, classes, rows,
    score_row, score_step, reference_row, reference_step, present_row, present_step, radius_row,
    KIND: constexpr, BLOCK: constexpr, CENTRED: constexpr, MASKED: constexpr,
):  # fmt: skip
    row, lane = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK).to(tl.int64)  # a stride times 1,023 may exceed 32 bits
    here = lane < classes
    x = tl.load(scores + row * score_row + lane * score_step, mask=here, other=0.0).to(tl.float64)
    bound = tl.load(radius + row * radius_row)
    u = tl.where(here, tl.full((), 1.0, tl.float64) / classes, 0.0)
    if CENTRED:
        u = tl.load(reference + row * reference_row + lane * reference_step, mask=here, other=0.0)
    if MASKED:
        stated = tl.load(present + row * present_row + lane * present_step, mask=here, other=0) != 0
        here = stated | (here & (tl.sum(stated.to(tl.int32)) == 0))  # no class present: solve as if all were
        u = tl.where(here, u, 0.0)
        u = u / tl.sum(u)
    x = tl.where(here, x, 0.0)
    # maxima drop NaN, so that it must be carried to the answer by hand
    poison = tl.sum((x - x) + (u - u)) + tl.where(bound != bound, bound, 0.0)
    top, bottom = tl.max(tl.where(here, x, float("-inf"))), tl.min(tl.where(here, x, float("inf")))
    spread = top - bottom
    flat = spread <= 1e-12 * tl.maximum(tl.abs(top), tl.abs(bottom))
    spread = tl.where(flat, 1.0, spread)
    d = tl.where(here, (top - x) / spread, 1.0)
    if KIND == "reverse-kl" or KIND == "chi-square" or KIND == "cvar":  # a class without reference mass is infinitely far
        here = here & (u > 0)
        d, spread, flat = _within_reference(d, here, spread, flat)
    nominal = bound >= 1 if KIND == "cvar" else bound <= 0
    still = flat | nominal
    if KIND == "kl":
        w, spent, dual = _kl(u, d, here, bound, still)
    elif KIND == "reverse-kl":
        w, spent, dual = _reverse_kl(u, d, here, bound, still)
    elif KIND == "chi-square":
        w, spent, dual = _chi_square(u, d, here, bound)
    elif KIND == "hellinger":
        w, spent, dual = _hellinger(u, d, here, bound, still)
    elif KIND == "total-variation":
        w, spent, dual = _total_variation(u, d, here, bound)
    else:
        w, spent, dual = _cvar(u, d, here, bound)
    w = tl.where(still, u, w) + poison
    spent = tl.where(still, 0.0, spent)
    if KIND == "cvar":
        spent = tl.where(spent == 0, 1.0, spent)
    elif KIND != "total-variation":
        dual = tl.where(nominal, float("inf"), dual)
    tl.store(weights + row * classes + lane, w, mask=lane < classes)
    tl.store(rest + row, tl.sum(w * x))
    tl.store(rest + rows + row, spent + poison)
    tl.store(rest + 2 * rows + row, tl.where(flat, 0.0, dual * spread) + poison)


def _log1p(x):
    y = 1.0 + x  # Kahan: the rounding of y cancels; libdevice has no interpreter
    return tl.where(y == 1.0, x, tl.log(y) * (x / (y - 1.0)))


def _expm1(x):
    y = tl.exp(x)
    grown = y - 1.0
    return tl.where(y == 1.0, x, tl.where(tl.abs(x) < 1.0, grown * (x / tl.log(y)), grown))


def _within_reference(d, here, spread, flat):
    near = tl.min(tl.where(here, d, float("inf")))
    length = tl.max(tl.where(here, d, 0.0)) - near
    flat = flat | (length <= 1e-12)
    length = tl.where(flat, 1.0, length)
    return tl.where(here, (d - near) / length, 1.0), spread * length, flat


def _proportional(mask, u):
    part = tl.where(mask, u, 0.0)
    part = tl.where(tl.sum(part) > 0, part, mask.to(tl.float64))
    return part / tl.sum(part)


def _level(d, here, mass, need, low, high, SPENDS: constexpr):
    """Return the smallest d in [low, high] where the mass at or below it reaches `need`, and `high` if that is nowhere.

    With SPENDS, it is where the threshold d spends `need` or less. Each step leaves out a class, and mostly half of them.
    """
    while low < high:
        middle = low + (high - low) / 2
        # at a class: between two, a threshold proves nothing for the class below it
        middle = tl.max(tl.where(here & (d <= middle) & (d < high), d, low))
        if SPENDS:
            reach = mass * tl.maximum(middle - d, 0.0)
            total = tl.sum(reach)
            met = tl.sum(reach * (middle - d)) <= (1.0 + need) * total * total
        else:
            met = tl.sum(tl.where(d <= middle, mass, 0.0)) >= need
        above = tl.min(tl.where(here & (d > middle) & (d < high), d, high))
        high = tl.where(met, middle, high)
        low = tl.where(met, low, above)
    return high


def _mean_gap(s, u, d):
    """Return g, its slope in s, and E[q]; see `_log_mean_gap` in kl.py."""
    eps = tl.exp(s)
    a = eps + d
    q = eps / a
    near, mean = tl.sum(u * q), tl.sum(u * a)
    z = a / mean - 1.0
    g = _log1p(-tl.sum(u * z * q) * (mean / eps)) + tl.sum(u * _log1p(z))
    ill = tl.min(tl.where(u > 0, z, 0.0)) < -0.999999
    g = tl.where(ill, tl.log(near) - s + tl.sum(u * tl.log(a)), g)
    return g, -tl.sum(u * (q - near) * (q - near)) / near, near


def _tilted(sharpness, u, d):
    """Return u exp(-sharpness d), normalised, and its divergence; see `tilted` in reverse_kl.py."""
    x = -tl.minimum(sharpness, 1e300) * d
    raw = u * tl.exp(x)
    total = tl.sum(raw)
    w = raw / total
    far = tl.sum(w * x) - tl.log(total)
    y = x - tl.sum(u * x)
    grown = _expm1(tl.minimum(y, 1.0))
    lift = tl.sum(u * grown)
    close = tl.sum(u * y * grown) / (1.0 + lift) - _log1p(lift)
    return w, tl.where(sharpness < 0.5, close, far)


def _variation(s, u, d):
    """Return v and its slope in s; see `HellingerBall._solve` in balls.py."""
    eps = tl.exp(s)
    q = eps / (eps + d)
    near = tl.sum(u * q)
    off, rise = q - near, q * (1.0 - q) / near
    v = tl.sum(u * (off / near) * (off / near))
    return v, 2.0 * (tl.sum(u * off * rise) / near - v * tl.sum(u * rise))


def _curve(s, target, u, d, KIND: constexpr):
    """Return the curve of a set, which falls through 0 at the root, and its slope."""
    if KIND == "kl":
        g, slope, _near = _mean_gap(s, u, d)
        g = tl.maximum(g, 1e-300)
        away = -_expm1(-g)
        value, slope = g + tl.log(away) - target, slope / away
    elif KIND == "hellinger":
        v, slope = _variation(s, u, d)
        v = tl.maximum(v, 1e-300)
        value, slope = tl.log(v) - target, slope / v
    else:
        sharpness = tl.exp(s)
        w, spent = _tilted(sharpness, u, d)
        off = d - tl.sum(w * d)
        value = target - tl.log(tl.maximum(spent, 1e-300))
        slope = -sharpness * sharpness * tl.sum(w * off * off) / spent
    return value, slope


def _root(low, high, start, target, u, d, idle, KIND: constexpr):
    """Find the root by Newton's steps in a bracket, unless `idle`; see `falling_root` in base.py."""
    s = tl.minimum(tl.maximum(start, low), high)
    turn = tl.where(idle, 64, 0)
    while turn < 64:
        value, slope = _curve(s, target, u, d, KIND)
        low, high = tl.where(value > 0, s, low), tl.where(value > 0, high, s)
        moved = s - value / slope
        inside = (moved >= low) & (moved <= high)  # false for NaN
        settled = (inside & (tl.abs(moved - s) <= 1e-9)) | (high - low <= 1e-14 + 2e-16 * tl.abs(low))
        s = tl.where(inside, moved, (low + high) / 2)
        turn = tl.where(settled, 64, turn + 1)
    return s


def _kl(u, d, here, bound, still):
    tau = tl.maximum(bound, 1e-300)
    held = u > 0
    offset = tl.min(tl.where(held, d, float("inf")))  # above 0 where the hardest class has no reference mass
    e = tl.where(held, d - offset, 1.0)
    at_top = held & (e == 0)
    rest = tl.sum(tl.where(at_top, 0.0, u))
    logs = tl.sum(u * tl.log(tl.where(e > 0, e, 1.0)))
    low = tl.maximum((logs + _log1p(-rest) - tau) / tl.maximum(rest, 1e-300), -700.0)
    target_away = -_expm1(-tau)
    high = tl.maximum(low, tl.log(tl.maximum(0.5 * (1.0 / tl.sqrt(target_away) - 1.0), 1e-304)))
    s = _root(low, high, high, tau + tl.log(target_away), u, e, still, "kl")
    eps = tl.exp(s)
    spent, _slope, near = _mean_gap(s, u, e)
    raw = u * (eps / (eps + e))
    free = eps < offset  # a class that costs nothing takes the mass that is left over
    away = tl.where(held & (d > 0), d, 1.0)
    price = tl.exp(tl.sum(u * tl.log(away)) - tau)
    kept = tl.where(held, price * u / away, 0.0)
    top = (here & (d == 0)).to(tl.float64)
    popped = kept + tl.maximum(1.0 - tl.sum(kept), 0.0) * top / tl.maximum(tl.sum(top), 1.0)
    w = tl.where(free, popped, raw / tl.sum(raw))
    return w, tl.where(free, tau, spent), tl.where(free, price, eps / near)


def _reverse_kl(u, d, here, bound, still):
    tau = tl.maximum(bound, 1e-300)
    top = here & (d == 0)
    most = -tl.log(tl.sum(tl.where(top, u, 0.0)))
    low = tl.minimum(0.5 * tl.log(8.0 * tau), 700.0)
    high = tl.maximum(low, tl.log(700.0 / tl.maximum(tl.min(tl.where(top, 1.0, d)), 1e-300)))
    vertex = bound >= most
    s = _root(low, high, low, tl.log(tau), u, d, still | vertex, "reverse-kl")
    w, spent = _tilted(tl.exp(s), u, d)
    w = tl.where(vertex, _proportional(top, u), w)
    return w, tl.where(vertex, most, spent), tl.where(vertex, 0.0, tl.exp(-s))


def _hellinger(u, d, here, bound, still):
    one = tl.full((), 1.0, tl.float64)
    rho = tl.minimum(tl.maximum(bound, 1e-300), one - 1e-16)
    high = tl.maximum(0.5 * tl.log(1.0 / rho), 0.0) + 1.0
    top = here & (d == 0)
    most = 1.0 - tl.sqrt(tl.sum(tl.where(top, u, 0.0)))
    vertex = bound >= most
    s = _root(one * -700.0, high, one * 0.0, tl.log(_expm1(-2.0 * _log1p(-rho))), u, d, still | vertex, "hellinger")
    v, _slope = _variation(s, u, d)
    eps = tl.exp(s)
    raw = u * (eps / (eps + d)) * (eps / (eps + d))
    total = tl.sum(raw)
    w = tl.where(vertex, _proportional(top, u), raw / total)
    return w, tl.where(vertex, most, -_expm1(-0.5 * _log1p(v))), tl.where(vertex, 0.0, 2.0 * eps / tl.sqrt(total))


def _chi_square(u, d, here, bound):
    one = tl.full((), 1.0, tl.float64)
    easier = here & (d > 0)
    active = here & (d < _level(d, easier, u, bound, tl.min(tl.where(easier, d, 2.0)), 2.0 * one, True))
    held = tl.where(active, u, 0.0)
    share, dropped = tl.sum(held), tl.sum(tl.where(active, 0.0, u))
    mean = tl.sum(held * d) / share
    variance = tl.sum(held * (d - mean) * (d - mean)) / share
    theta = mean + tl.sqrt(variance / tl.maximum(bound * share - dropped, 1e-300))  # the sum of u is 1
    height = tl.where(active, tl.maximum(theta - d, 0.0), 0.0)
    top = here & (d == 0)
    vertex = bound >= 1.0 / tl.sum(tl.where(top, u, 0.0)) - 1.0
    w = tl.where(vertex, _proportional(top, u), u * height / tl.maximum(tl.sum(u * height), 1e-300))
    off = w / tl.where(u > 0, u, 1.0) - 1.0
    slope = tl.sqrt(tl.sum(u * height * height) / (1.0 + bound)) / 2.0
    return w, tl.sum(u * off * off), tl.where(vertex, 0.0, slope)


def _total_variation(u, d, here, bound):
    one = tl.full((), 1.0, tl.float64)
    top = here & (d == 0)
    spare = tl.where(top, 0.0, u)
    all_spare = tl.sum(spare)
    moved = tl.minimum(bound, all_spare)
    level = -_level(-d, here, spare, moved, -one, 0.0 * one, False)  # the easiest class that keeps some mass
    taken = tl.where(here & (d > level), spare, 0.0)
    taken = taken + (moved - tl.sum(taken)) * _proportional(here & (d == level), spare)
    return tl.maximum(u - taken, 0.0) + moved * _proportional(top, u), moved, tl.where(bound >= all_spare, 0.0, level)


def _cvar(u, d, here, bound):
    one = tl.full((), 1.0, tl.float64)
    cap = u / bound
    level = _level(d, here, cap, one - 1e-15, 0.0 * one, one, False)
    above = tl.where(here & (d < level), cap, 0.0)
    edge = tl.where(here & (d == level), u, 0.0)
    w = above + (1.0 - tl.sum(above)) * edge / tl.sum(edge)
    largest = tl.max(tl.where(u > 0, w / tl.where(u > 0, u, 1.0), 0.0))
    return w, 1.0 / largest, tl.sum(u * tl.maximum(level - d, 0.0))
