"""Margins and class sums against loops written by hand."""

import torch

from faal_lab.methods.class_stats import ClassStats, class_sums, margin, softmax_margin


def test_margin_is_best_wrong_minus_true() -> None:
    scores = torch.tensor([[1.0, 3.0, 2.0], [0.0, -1.0, -5.0]])
    assert margin(scores, torch.tensor([1, 1])).tolist() == [-1.0, 1.0]


def test_softmax_margin_lies_between_minus_one_and_one() -> None:
    logits, labels = 30 * torch.randn(200, 7), torch.randint(0, 7, (200,))
    values = softmax_margin(logits, labels)
    assert values.min() >= -1
    assert values.max() <= 1
    assert torch.equal(values > 0, logits.argmax(1) != labels)


def test_sums_and_means_by_class_keep_absent_classes() -> None:
    labels, values = torch.tensor([0, 2, 2, 0, 0]), torch.tensor([1.0, 2.0, 4.0, 3.0, 5.0])
    assert class_sums(values, labels, 4).tolist() == [9.0, 0.0, 6.0, 0.0]
    stats = ClassStats.of(labels, 4, {"value": values.requires_grad_()})
    assert stats.count.tolist() == [3, 0, 2, 0]
    assert stats.present.tolist() == [True, False, True, False]
    assert stats.mean("value").tolist() == [3.0, 0.0, 3.0, 0.0]
    assert not stats.sums["value"].requires_grad
