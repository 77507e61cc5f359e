"""The root of a falling curve, for many rows at once.

Knows: brackets and Newton's step. Must not know: what the curve means.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from faal_lab.ambiguity.pose import eager_on_cpu

# At most so many looks at the curve. On a CPU the loop ends when every row has settled, after 3 to 9 as a rule. Where nobody may
# wait for the device a fixed number is made; a test holds that it is enough for hard problems.
_ROUNDS, _ROUNDS_BLIND = 64, 24
_CLOSE = 1e-9  # Newton doubles the digits: a step of this size lands on the last one


def falling_root(
    curve: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    low: torch.Tensor,
    high: torch.Tensor,
    start: torch.Tensor,
) -> torch.Tensor:
    """The s in [low, high] where `curve` (value and slope at s, all [...]) falls through 0.

    Newton's step where it stays inside the bracket, which every look narrows; the middle of the bracket where it does not.
    """
    s, eager = torch.clamp(start, low, high), eager_on_cpu(start)
    for _ in range(_ROUNDS if eager else _ROUNDS_BLIND):
        value, slope = curve(s)
        low, high = torch.where(value > 0, s, low), torch.where(value > 0, high, s)
        moved = s - value / slope
        inside = (moved >= low) & (moved <= high)  # false for NaN
        settled = (inside & ((moved - s).abs() <= _CLOSE)) | (high - low <= 1e-14)
        s = torch.where(inside, moved, (low + high) / 2)
        if eager and bool(settled.all()):
            break
    return s
