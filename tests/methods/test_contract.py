"""`check_method` passes each of our methods, and names what a faulty one breaks."""

import math
import re

import pytest
import torch

import faal_lab as fl
from faal_lab.catalogue import FAIRNESS
from faal_lab.errors import OwnPartError, UnknownName
from faal_lab.methods.class_stats import ClassStats
from faal_lab.methods.fairness.base import NoFairness, Weighing, fixed


@pytest.mark.parametrize("name", FAIRNESS)
def test_each_of_our_methods_keeps_the_contract(name: str) -> None:
    lines: list[str] = []
    assert fl.check_method(name, terms=("clean", "robust"), say=lines.append), lines
    held = [line for line in lines if line.startswith("holds")]
    assert len(lines) == 15
    assert len(held) >= 11
    assert any("tau 0" in line for line in held) == (name == "faal"), "one has a radius"
    plans = any("radius, step" in line for line in held)
    assert plans == (name.startswith(("frl", "cfa-", "dafa", "trix", "robust-lt", "fair-tat")) or name == "cfa"), (
        "the others leave the attack alone"
    )


class Tilted(NoFairness):
    """Weighs class 0 by `first`; the faulty ones change one thing."""

    first = 2.0

    def weigh(self, stats: ClassStats, terms: tuple[str, ...], tau: float) -> Weighing:
        multipliers = torch.ones_like(stats.count)
        multipliers[0] = self.first
        weights, divergence = fixed(multipliers)
        return Weighing(weights, dict.fromkeys(terms, multipliers), divergence)


class Negative(Tilted):
    first = -1.0


class Endless(Tilted):
    first = math.inf


class Unscaled(Tilted):
    def weigh(self, stats, terms, tau):
        return super().weigh(stats, terms, tau)._replace(weights=torch.ones_like(stats.count))


class Stranger(Tilted):
    def weigh(self, stats, terms, tau):
        found = super().weigh(stats, terms, tau)
        return found._replace(multipliers={"clear": found.multipliers[terms[0]]})


class Forgetful(Tilted):
    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def weigh(self, stats, terms, tau):
        self.seen += 1
        self.first = 1.0 + self.seen
        return super().weigh(stats, terms, tau)


class Counting(Tilted):
    def weigh(self, stats, terms, tau):
        self.state["seen"] = 1  # pyright: ignore[reportArgumentType]
        return super().weigh(stats, terms, tau)


class Never(Tilted):
    """Has a radius, and is not plain training at tau 0."""

    def weigh(self, stats, terms, tau):
        self.first = 2.0 + tau
        return super().weigh(stats, terms, tau)


class Absent(Tilted):
    """Divides by the counts of absent classes."""

    def weigh(self, stats, terms, tau):
        found = super().weigh(stats, terms, tau)
        means = stats.sums["margin"] / stats.count
        return found._replace(multipliers=dict.fromkeys(terms, means.exp()))


class InPlace(Tilted):
    def weigh(self, stats, terms, tau):
        stats.count.clamp_(min=1)
        return super().weigh(stats, terms, tau)


class Graph(Tilted):
    def weigh(self, stats, terms, tau):
        found = super().weigh(stats, terms, tau)
        rate = torch.ones(1, requires_grad=True)
        return found._replace(multipliers={name: values * rate for name, values in found.multipliers.items()})


class Raising(Tilted):
    def weigh(self, stats, terms, tau):
        return super().weigh(stats, terms, tau) if stats.present.all() else {}[3]


class Drawing(Tilted):
    def class_probabilities(self, num_classes: int) -> torch.Tensor:
        return torch.ones(num_classes)


@pytest.mark.parametrize(
    "method, text",
    [
        (Negative(), "FAILS    multipliers are finite.*: those of robust have the least -1"),
        (Endless(), r"FAILS    multipliers.*: those of robust are \[inf"),
        (Unscaled(), "FAILS    weights.*: weights must be at least 0 and sum to 1, got the least 1 and the sum 5"),
        (Stranger(), "FAILS    multipliers.*: there is no term 'clear' of robust: the training would ignore it"),
        (Forgetful(), "FAILS    state.*: the weights differ after a restore: keep in `state` all that it remembers"),
        (Counting(), r"FAILS    state.*: AttributeError|FAILS    state.*state\['seen'\] is a int"),
        (Never(), r"FAILS    tau 0 is plain training.*: those of robust are \[2.0, 1.0"),
        (Absent(), "FAILS    multipliers.*a batch without some classes: those of robust are .*nan"),
        (InPlace(), "FAILS    leaves the statistics.*: `weigh` changed its counts or sums in place"),
        (Graph(), "FAILS    keeps no graph.*: robust hold a gradient: detach them"),
        (Raising(), "FAILS    weights.*a batch of one class: KeyError: 3"),
        (Drawing(), "FAILS    class probabilities.*sum to 1, got the least 1 and the sum 5"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_broken_demand_is_named(method: Tilted, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert fl.check_method(Tilted())
    capsys.readouterr()
    before = dict(method.state)
    assert not fl.check_method(method)
    said = capsys.readouterr().out
    assert any(re.match(text, line) for line in said.splitlines()), said
    assert method.state == before, "the check works on a copy"


def test_what_is_no_method_is_an_error() -> None:
    with pytest.raises(UnknownName, match="Unknown fairness method 'fal'. Did you mean 'faal'"):
        fl.check_method("fal")
    with pytest.raises(OwnPartError, match=r"must have needs, state, weigh; needs, state, weigh is missing, got a Linear"):
        fl.check_method(torch.nn.Linear(2, 2))  # pyright: ignore[reportArgumentType]
    with pytest.raises(OwnPartError, match=r"Needing cannot be made without arguments: .*'strength'. Hand over an object"):
        fl.check_method(Needing)


class Needing(NoFairness):
    def __init__(self, strength: float) -> None:
        super().__init__()


def test_a_class_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    assert fl.check_method(fl.FAAL)
    assert "FAILS" not in capsys.readouterr().out
