"""Random numbers depend on their key alone, and look random."""

import torch

from faal_lab.data import keyed_random as kr

PINNED = [
    [0.3984972834587097, 0.39424341917037964],
    [0.0809563398361206, 0.08298122882843018],
]  # changing them changes every result


def test_a_number_does_not_depend_on_its_batch() -> None:
    whole = kr.uniform(3, 1, torch.arange(100), kr.AUGMENT, (2, 5))
    some = kr.uniform(3, 1, torch.tensor([70, 4]), kr.AUGMENT, (2, 5))
    assert torch.equal(whole[[70, 4]], some)


def test_every_part_of_the_key_matters() -> None:
    index = torch.arange(50)
    first = kr.uniform(0, 0, index, kr.AUGMENT, (8,))
    for other in (
        kr.uniform(1, 0, index, kr.AUGMENT, (8,)),
        kr.uniform(0, 1, index, kr.AUGMENT, (8,)),
        kr.uniform(0, 0, index, kr.ATTACK_START, (8,)),
    ):
        assert (first == other).float().mean() < 0.01


def test_numbers_are_uniform_and_uncorrelated() -> None:
    numbers = kr.uniform(0, 0, torch.arange(2000), kr.ATTACK_START, (64,)).double()
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.005
    assert abs(numbers.var() - 1 / 12) < 0.002
    for shifted in (torch.roll(numbers, 1, 0), torch.roll(numbers, 1, 1)):
        assert abs(torch.corrcoef(torch.stack([numbers.flatten(), shifted.flatten()]))[0, 1]) < 0.015


def test_normal_numbers_are_normal() -> None:
    numbers = kr.normal(0, 0, torch.arange(2000), kr.ATTACK_START, (64,)).double()
    assert torch.isfinite(numbers).all()
    assert abs(numbers.mean()) < 0.01
    assert abs(numbers.var() - 1) < 0.02
    assert abs((numbers**4).mean() - 3) < 0.15
    alone = kr.normal(0, 0, torch.tensor([7]), kr.ATTACK_START, (64,)).double()
    assert torch.equal(alone[0], numbers[7])


def test_first_numbers_are_the_ones_they_always_were() -> None:
    found = kr.uniform(0, 0, torch.tensor([0, 1]), kr.ATTACK_START, (2,))
    assert found.tolist() == PINNED


def test_an_epoch_visits_every_image_once_in_its_own_order() -> None:
    first, second = kr.permutation(0, 0, 1000), kr.permutation(0, 1, 1000)
    assert torch.equal(first.sort().values, torch.arange(1000))
    assert (first == second).float().mean() < 0.02
