"""Find one number a class that makes a trained classifier fairer: a game between class weights and a bias.

The bias of class c is added to its logit. Class weights w play against it, within a KL ball of radius tau around uniform:

    minimise over b   max over w in the ball   sum_c w_c * error_c(b)

Here error_c(b) is the share of images of class c that the biased network gets wrong, under attack if the caller attacks it. The
answer of a calibrated classifier to class weights w is the logit adjustment b = log(C w) (Menon et al., ICLR 2021), and Hedge
moves the weights by exp(rate * error). Together that is one step for the bias: b moves by rate * (error - mean error). The steps
lead from the network as it is to equal errors, along the trade-off; tau and a floor on the average choose a point of that path. A
test holds the choice to a search over all biases. For errors without an attack this is near DROPS (Wei et al., ICLR 2023), which
holds the weights near uniform by a multiplier instead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from faal_lab.dro.kl import KLBall
from faal_lab.errors import ConfigError

Counts = tuple[Sequence[int], Sequence[int]]  # of each class: the images that are right, and all images
RATE = 1.5  # of Hedge: a class whose error is 0.1 above the mean gains 0.15
_PATIENCE = 2  # rounds without a better one, after which the game ends


@dataclass(frozen=True)
class Round:
    """One round of the game: a bias, and the images that the network with this bias gets right.

    Args:
        bias: [C], of mean 0, added to the logits.
        correct: [C], the images of each class that are right.
        total: [C], the images of each class.

    >>> from faal_lab.dro.balance import Round
    >>> found = Round((0.1, -0.1), correct=(30, 20), total=(40, 40))
    >>> found.average, found.worst, round(found.value(tau=0.02), 3)
    (0.625, 0.5, 0.4)
    """

    bias: tuple[float, ...]
    correct: tuple[int, ...]
    total: tuple[int, ...]

    @property
    def accuracy(self) -> tuple[float, ...]:
        """The accuracy of each class, in [0, 1]."""
        return tuple(k / n for k, n in zip(self.correct, self.total, strict=True))

    @property
    def average(self) -> float:
        """The mean of the class accuracies."""
        return sum(self.accuracy) / len(self.total)

    @property
    def worst(self) -> float:
        """The accuracy of the worst class."""
        return min(self.accuracy)

    def value(self, tau: float) -> float:
        """Return the objective: the worst mean of class errors in the KL ball of radius `tau`; less is better."""
        errors = 1 - torch.tensor(self.accuracy, dtype=torch.float64)
        return float(KLBall(tau).worst_case(errors).value)


def shrunken(correct: Sequence[int], total: Sequence[int]) -> tuple[torch.Tensor, float]:
    """Return the error of each class, float64 [C], pulled to their mean as far as noise spreads them; and the share that is real.

    Few images spread class errors even where all classes are alike. By how much follows from their number, so the rest is real
    (empirical Bayes). A share of 0 means that the classes cannot be told apart.
    """
    k, n = (torch.tensor(list(some), dtype=torch.float64) for some in (correct, total))
    smooth = 1 - (k + 0.5) / (n + 1)
    noise, seen = float((smooth * (1 - smooth) / (n + 1)).mean()), float(smooth.var()) if len(n) > 1 else 0.0
    real = max(0.0, 1 - noise / seen) if seen > 0 else 0.0
    return smooth.mean() + real * (smooth - smooth.mean()), real


def play(
    measure: Callable[[tuple[float, ...]], Counts], classes: int, *, tau: float = 0.5, average_floor: float | None = None,
    rate: float = RATE, rounds: int = 6, patience: int = _PATIENCE,
) -> list[Round]:  # fmt: skip
    """Play the game; return its rounds, of which the first has no bias.

    It ends after `rounds` biases, after `patience` rounds without a better one, or when the classes can no longer be told apart.
    A bias that lowers the average below the floor is taken back by half, towards the best one that holds it.

    Args:
        measure: return the correct and all images of each class for a bias. It should attack the network with that bias.
        classes: the number of classes C.
        tau: radius of the KL ball of class weights; infinity minimises the error of the worst class alone.
        average_floor: least average accuracy in [0, 1]; default None.
        rate: step of Hedge.
        rounds: the most biases to try.
        patience: rounds without a better one.

    Returns:
        All rounds in order; `best` chooses among them.

    Raises:
        ConfigError: a class has no images, or the network is below the floor without a bias.

    >>> from faal_lab.dro.balance import best, play
    >>> def measure(bias):  # class 1 is weak; its bias helps it, and hurts class 0 less
    ...     return (90 - round(20 * bias[1]), 40 + round(50 * bias[1])), (100, 100)
    >>> found = play(measure, classes=2)
    >>> [round(r.bias[1], 2) for r in found][:3], best(found).worst > found[0].worst
    ([0.0, 0.37, 0.54], True)
    """
    found: list[Round] = []
    bias = torch.zeros(classes, dtype=torch.float64)
    while True:
        correct, total = (tuple(map(int, some)) for some in measure(tuple(bias.tolist())))
        found.append(Round(tuple(bias.tolist()), correct, total))
        if min(total) == 0:
            raise ConfigError(f"Class {total.index(0)} has no image to balance by; expected images of all {classes} classes.")
        chosen = best(found, tau, average_floor)
        if len(found) > rounds or len(found) - 1 - found.index(chosen) >= patience:
            return found
        if found[-1].average < (average_floor or 0.0):
            bias = (bias + torch.tensor(chosen.bias, dtype=torch.float64)) / 2
            continue
        errors, real = shrunken(correct, total)
        if not real:
            return found
        bias = bias + rate * (errors - errors.mean())


def best(rounds: Sequence[Round], tau: float = 0.5, average_floor: float | None = None) -> Round:
    """Choose the round of the least objective, of those that hold the floor; of equal ones the first.

    Args:
        rounds: as `play` returns them.
        tau: radius of the KL ball of class weights.
        average_floor: least average accuracy in [0, 1]; default None.

    Raises:
        ConfigError: the network is below the floor without a bias.
    """
    floor = average_floor or 0.0
    if rounds[0].average < floor:
        raise ConfigError(
            f"average_floor={100 * floor:g} % cannot be met: without a bias the average on these images is "
            f"{100 * rounds[0].average:.1f} %. Lower it."
        )
    return min((r for r in rounds if r.average >= floor), key=lambda r: r.value(tau))
