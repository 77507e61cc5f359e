"""The rule written out by hand, and the contract of fairness methods."""

import torch
from faal_lab_tophalf import TopHalf

import faal_lab as fl
from faal_lab.methods.class_stats import ClassStats


def test_the_two_worst_of_four_classes_count_twice() -> None:
    stats = ClassStats(torch.ones(4), {"margin": torch.tensor([-0.9, 0.4, -0.2, 0.1])})
    found = TopHalf().weigh(stats, ("robust",), tau=0.0).multipliers["robust"]
    assert torch.allclose(found, torch.tensor([1.0, 2.0, 1.0, 2.0]) / 1.5)


def test_the_contract() -> None:
    assert fl.check_method(TopHalf())
