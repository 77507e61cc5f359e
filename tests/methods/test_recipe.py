"""Objectives, fairness methods and their product, against formulas written by hand."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from faal_lab.dro import AMBIGUITY_SETS, KLBall
from faal_lab.errors import RecipeError, UnknownName
from faal_lab.methods.class_stats import CLASS_SCORES, ClassStats, softmax_margin
from faal_lab.methods.fairness.base import NoFairness
from faal_lab.methods.fairness.faal import FAAL
from faal_lab.methods.fairness.group_dro import GroupDRO
from faal_lab.methods.objectives import BAT, MART, OBJECTIVES, TRADES, BalancedSoftmax, weighted
from faal_lab.methods.presets import PRESETS
from faal_lab.methods.recipe import Recipe
from faal_lab.runs.config import Config
from faal_lab.training.run import prepare


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    images = torch.rand(30, 1, 4, 4, generator=generator)
    return images, (images + 0.05).clamp(0, 1), torch.randint(0, 3, (30,), generator=generator)


def stats_of(logits: torch.Tensor, labels: torch.Tensor, classes: int = 3) -> ClassStats:
    values = {name: score(logits, labels) for name, score in CLASS_SCORES.items()}
    return ClassStats.of(labels, classes, values | {"loss": F.cross_entropy(logits, labels, reduction="none")})


def test_at_is_cross_entropy_on_adversarial_images(tiny_model: nn.Module, batch: tuple) -> None:
    images, adv, labels = batch
    outcome = OBJECTIVES["at"]()(tiny_model, images, adv, labels)
    p = tiny_model(adv).softmax(1)
    assert torch.allclose(outcome.terms["robust"], -p[torch.arange(30), labels].log(), atol=1e-6)
    assert outcome.clean_logits is None


def test_trades_is_clean_cross_entropy_and_a_divergence(tiny_model: nn.Module, batch: tuple) -> None:
    images, adv, labels = batch
    terms = TRADES(beta=4.0)(tiny_model, images, adv, labels).terms
    p, q = tiny_model(images).softmax(1), tiny_model(adv).softmax(1)
    assert torch.allclose(terms["clean"], -p[torch.arange(30), labels].log(), atol=1e-6)
    assert torch.allclose(terms["robust"], 4.0 * (p * (p / q).log()).sum(1), atol=1e-6)
    terms["robust"].sum().backward()
    found = tiny_model[1].bias.grad.clone()
    tiny_model.zero_grad()
    (4.0 * (tiny_model(images).softmax(1).detach() * (p.detach() / tiny_model(adv).softmax(1)).log()).sum()).backward()
    assert not torch.allclose(found, tiny_model[1].bias.grad, atol=1e-6), "the gradient flows into the clean prediction too"


def test_mart_leans_on_what_is_wrong(tiny_model: nn.Module, batch: tuple) -> None:
    images, adv, labels = batch
    terms = {n: t.tolist() for n, t in MART(beta=5.0)(tiny_model, images, adv, labels).terms.items()}
    p, q = tiny_model(images).softmax(1).tolist(), tiny_model(adv).softmax(1).tolist()
    for i, y in enumerate(labels.tolist()):
        wrong = max(q[i][j] for j in range(3) if j != y)
        boosted = -math.log(q[i][y]) - math.log(1.0001 - wrong)
        kl = sum(a * math.log(a / b) for a, b in zip(p[i], q[i], strict=True))
        assert terms["boosted"][i] == pytest.approx(boosted, abs=1e-5)
        assert terms["robust"][i] == pytest.approx(5 * kl * (1 - p[i][y]), abs=1e-5)


def test_bat_is_two_points_and_their_distance_from_uniform(tiny_model: nn.Module, batch: tuple) -> None:
    images, inner, labels = batch
    outer = (images - 0.1).clamp(0, 1)
    outcome = BAT(beta=3.0)(tiny_model, images, torch.stack([inner, outer]), labels)
    p, a, b = (tiny_model(x).softmax(1) for x in (images, inner, outer))
    assert torch.allclose(outcome.terms["source"], -a[torch.arange(30), labels].log(), atol=1e-6)
    assert torch.allclose(outcome.terms["robust"], 3.0 * (p * (p / b).log()).sum(1), atol=1e-6)
    uniform = (a * (3 * a).log()).sum(1) + (b * (3 * b).log()).sum(1)
    assert torch.allclose(outcome.terms["uniformity"], uniform, atol=1e-6)
    assert outcome.adv_logits is not None
    assert torch.allclose(outcome.adv_logits, tiny_model(outer))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_return_the_terms_they_name(tiny_model: nn.Module, batch: tuple, name: str) -> None:
    images, adv, labels = batch
    objective = OBJECTIVES[name]()
    adv = torch.stack([adv] * objective.points) if objective.points > 1 else adv
    assert tuple(objective(tiny_model, images, adv, labels).terms) == objective.terms


def test_bsl_shifts_logits_by_the_logarithm_of_class_sizes(tiny_model: nn.Module, batch: tuple) -> None:
    images, adv, labels = batch
    logits = tiny_model(adv)
    outcome = BalancedSoftmax((50, 10, 1))(tiny_model, images, adv, labels)
    z = logits.double().tolist()
    for i, y in enumerate(labels.tolist()):
        total = sum(n * math.exp(v) for n, v in zip((50, 10, 1), z[i], strict=True))
        expected = math.log(total / ((50, 10, 1)[y] * math.exp(z[i][y])))
        assert outcome.terms["robust"][i].item() == pytest.approx(expected, abs=1e-5)
    assert outcome.adv_logits is not None
    assert torch.equal(outcome.adv_logits, logits), "classes are scored by the network's own logits"
    plain = OBJECTIVES["at"]()(tiny_model, images, adv, labels).terms["robust"]
    for sizes in ((), (7, 7, 7)):
        assert torch.allclose(BalancedSoftmax(sizes)(tiny_model, images, adv, labels).terms["robust"], plain, atol=1e-6)
    without = BalancedSoftmax((5, 5, 0))(tiny_model, images, adv, labels).terms["robust"]
    assert bool(torch.isfinite(without).all()), "a class without training images counts as one"


def test_bsl_has_the_sizes_of_its_runs_training_images() -> None:
    config = Config(objective="bsl", imbalance=10.0, fairness="faal", fairness_start=1, epochs=2)
    trainer = prepare(config)
    recipe = trainer.state.recipe
    assert recipe.objective.class_sizes == tuple(trainer.class_sizes.tolist())  # pyright: ignore[reportAttributeAccessIssue]
    assert recipe.at(0).objective == recipe.objective
    assert recipe.start == "zero", "FAAL's attack begins at the clean image with this cross-entropy, too"
    with pytest.raises(RecipeError, match=r"bsl needs the number of training images of each class.*class_sizes="):
        prepare(config, recipe=Recipe.of("bsl", "none"))
    known = Recipe.of("bsl", "none", class_sizes=tuple(trainer.class_sizes.tolist()))
    assert prepare(config, recipe=known).state.recipe is known


def test_standard_training_sees_clean_images_and_makes_no_attack(tiny_model: nn.Module, batch: tuple) -> None:
    images, adv, labels = batch
    objective = OBJECTIVES["standard"]()
    outcome = objective(tiny_model, images, adv, labels)
    assert objective.attack_loss is None
    assert torch.allclose(outcome.terms["clean"].mean(), F.cross_entropy(tiny_model(images), labels))


def test_faal_loss_is_algorithm_1_line_7(tiny_model: nn.Module, batch: tuple) -> None:
    _, adv, labels = batch
    logits = tiny_model(adv)
    weighing = FAAL(KLBall(0.5)).weigh(stats_of(logits, labels), ("robust",), 0.5)
    means = torch.stack([softmax_margin(logits, labels)[labels == c].mean() for c in range(3)])
    w = KLBall(0.5).worst_case(means).weights
    losses = F.cross_entropy(logits, labels, reduction="none")
    by_hand = sum(3 * w[labels[i]] * losses[i] for i in range(30)) / 30
    assert torch.allclose(weighted({"robust": losses}, weighing.multipliers, labels), by_hand.float(), atol=1e-6)
    assert not weighing.weights.requires_grad


def test_gradient_is_that_of_the_loss_at_fixed_weights(tiny_model: nn.Module, batch: tuple) -> None:
    _, adv, labels = batch
    logits = tiny_model(adv)
    multipliers = FAAL().weigh(stats_of(logits, labels), ("robust",), 0.5).multipliers
    weighted({"robust": F.cross_entropy(logits, labels, reduction="none")}, multipliers, labels).backward()
    found = tiny_model[1].bias.grad.clone()
    p, hot = logits.detach().softmax(1), F.one_hot(labels, 3).float()
    by_hand = (multipliers["robust"].float()[labels][:, None] * (p - hot)).mean(0)
    assert torch.allclose(found, by_hand, atol=1e-6)


def test_tau_zero_is_plain_training_bit_for_bit(tiny_model: nn.Module, batch: tuple) -> None:
    _, adv, labels = batch
    logits = tiny_model(adv)
    terms = {"robust": F.cross_entropy(logits, labels, reduction="none")}
    multipliers = FAAL().weigh(stats_of(logits, labels), ("robust",), 0.0).multipliers
    assert multipliers["robust"].tolist() == [1.0, 1.0, 1.0]
    assert weighted(terms, multipliers, labels).item() == weighted(terms, {}, labels).item() == terms["robust"].mean().item()


def test_an_absent_class_gets_no_weight_by_the_paper_and_wastes_some_by_the_release() -> None:
    logits, labels = torch.randn(12, 3, generator=torch.Generator().manual_seed(0)) * 3, torch.tensor([0, 1] * 6)
    logits[torch.arange(12), labels] += 4
    stats = stats_of(logits, labels)
    paper = FAAL().weigh(stats, ("robust",), 0.5)
    assert paper.weights[2] == 0
    assert float(paper.multipliers["robust"][:2].mean()) == pytest.approx(1.0)
    release = FAAL(score="sum").weigh(stats, ("robust",), 0.5)
    assert release.weights.argmax() == 2, "an absent class acts as score 0, harder than every class with negative margin"
    by_hand = KLBall(0.5).worst_case(stats.sums["margin"]).weights
    assert torch.allclose(release.weights, by_hand)


def test_a_running_score_remembers_the_classes_a_batch_does_not_hold() -> None:
    first = ClassStats(torch.tensor([4.0, 2.0, 0.0]), {"margin": torch.tensor([-2.0, 1.0, 0.0])})
    second = ClassStats(torch.tensor([0.0, 2.0, 1.0]), {"margin": torch.tensor([0.0, -1.0, 0.3])})
    faal = FAAL(score="running", score_decay=0.5)
    assert faal.weigh(first, (), 0.5).weights[2] == 0, "never seen: takes no part"
    found = faal.weigh(second, ("robust",), 0.5)
    means = torch.tensor([-2.0 / 4, (0.5 * 1 - 1) / (0.5 * 2 + 2), 0.3]).double()
    assert torch.allclose(found.weights, KLBall(0.5).worst_case(means).weights, atol=1e-6)
    again = FAAL(score="running", score_decay=0.5)
    again.state.update(faal.state)
    assert torch.equal(again.weigh(second, (), 0.5).weights, faal.weigh(second, (), 0.5).weights)
    with pytest.raises(ValueError, match="score_decay must be at least 0 and below 1, got 1"):
        FAAL(score="running", score_decay=1)


@pytest.mark.parametrize("name", AMBIGUITY_SETS)
def test_every_set_can_be_faals(name: str) -> None:
    logits, labels = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 4
    method = Recipe.of("at", "faal", ambiguity=name).fairness
    weighing = method.weigh(stats_of(logits, labels, 4), ("robust",), 0.5)
    assert float(weighing.weights.sum()) == pytest.approx(1.0)
    assert torch.equal(weighing.weights, AMBIGUITY_SETS[name](0.5).worst_case(stats_of(logits, labels, 4).mean("margin")).weights)


@pytest.mark.parametrize("measure", CLASS_SCORES)
def test_faal_can_score_by_another_measure(measure: str) -> None:
    logits, labels = torch.randn(30, 3, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 3
    found = FAAL(measure=measure).weigh(stats_of(logits, labels), (), 0.5).weights
    p = logits.softmax(1)
    by_hand = {
        "margin": [max(p[i, j] for j in range(3) if j != y) - p[i, y] for i, y in enumerate(labels)],
        "cross-entropy": [-p[i, y].log() for i, y in enumerate(labels)],
        "error": [float(logits[i].argmax() != y) for i, y in enumerate(labels)],
    }[measure]
    means = torch.tensor([[float(v) for v, y in zip(by_hand, labels, strict=True) if y == c] for c in range(3)]).mean(1)
    assert torch.allclose(found, KLBall(0.5).worst_case(means).weights, atol=1e-5)


def test_group_dro_multiplies_and_remembers() -> None:
    first = ClassStats(torch.tensor([4.0, 2.0, 0.0]), {"loss": torch.tensor([4.0, 6.0, 0.0])})
    second = ClassStats(torch.tensor([1.0, 0.0, 3.0]), {"loss": torch.tensor([2.0, 0.0, 3.0])})
    method = GroupDRO(rate=0.5)
    raw = torch.tensor([math.exp(0.5 * 1.0), math.exp(0.5 * 3.0), 1.0]).double()
    found = method.weigh(first, ("robust",), 0.5)
    assert torch.allclose(found.weights, raw / raw.sum(), atol=1e-12)
    raw = raw * torch.tensor([math.exp(0.5 * 2.0), 1.0, math.exp(0.5 * 1.0)]).double()
    again = GroupDRO(rate=0.5)
    again.state.update(method.state)
    found = again.weigh(second, ("robust",), 0.5)
    assert torch.allclose(found.weights, raw / raw.sum(), atol=1e-12)
    losses, labels = torch.tensor([2.0, 0.5, 1.5, 1.0]), torch.tensor([0, 2, 2, 2])
    by_hand = found.weights[0] * 2.0 + found.weights[2] * 1.0
    assert float(weighted({"robust": losses}, found.multipliers, labels)) == pytest.approx(float(by_hand), rel=1e-6)


def test_group_dro_at_rate_zero_is_the_average_over_classes() -> None:
    stats = ClassStats(torch.tensor([1.0, 3.0]), {"loss": torch.tensor([2.0, 3.0])})
    found = GroupDRO(rate=0.0).weigh(stats, ("robust",), 0.5)
    losses, labels = torch.tensor([2.0, 0.5, 1.5, 1.0]), torch.tensor([0, 1, 1, 1])
    assert float(weighted({"robust": losses}, found.multipliers, labels)) == pytest.approx((2.0 + 1.0) / 2)


def test_cvxpy_can_be_the_solver() -> None:
    logits, labels = torch.randn(40, 4, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 4
    stats = stats_of(logits, labels, 4)
    exact, conic = (FAAL(solver=s).weigh(stats, ("robust",), 0.5) for s in ("exact", "cvxpy"))
    assert torch.allclose(exact.weights, conic.weights, atol=1e-5)


def test_permuting_the_classes_permutes_the_weights() -> None:
    logits, labels = torch.randn(60, 5, generator=torch.Generator().manual_seed(3)), torch.arange(60) % 5
    order = torch.tensor([3, 1, 4, 0, 2])
    there = FAAL().weigh(stats_of(logits, labels, 5), (), 0.5).weights
    back = FAAL().weigh(stats_of(logits[:, order], torch.argsort(order)[labels], 5), (), 0.5).weights
    assert torch.allclose(there[order], back, atol=1e-9)


def test_named_recipes_and_where_their_attacks_begin() -> None:
    assert isinstance(Recipe.named("pgd-at").fairness, NoFairness)
    faal = Recipe.named("faal-at")
    assert isinstance(faal.fairness, FAAL)
    with pytest.raises(RecipeError, match=r"tau is a dial of the run.*Config\(tau=0.2\)"):
        Recipe.named("faal-at", tau=0.2)
    assert (Recipe.named("pgd-at").start, faal.start) == ("uniform", "zero")
    assert (Recipe.named("trades").start, Recipe.named("mart").start, Recipe.named("faal-mart").start) == (
        "gaussian",
        "gaussian",
        "zero",
    )
    assert Recipe.named("faal-trades").start == "gaussian", "at the clean image KL has no slope: the attack would stand still"
    assert all(Recipe.named(name) for name in PRESETS if name not in ("fgsm-rs", "free-at"))
    assert Recipe.of("trades", "none", beta=3.0).objective.beta == 3.0


def test_unknown_names_offer_the_nearest() -> None:
    with pytest.raises(
        UnknownName,
        match=r"Unknown recipe 'fal-at'\. Did you mean 'faal-at'\? Known: standard, pgd-at, pgd-at-ema, pgd-at-awp, fgsm-rs, free-at, trades",
    ):
        Recipe.named("fal-at")
    with pytest.raises(UnknownName, match=r"Unknown fairness method 'fall'\. Did you mean 'faal'"):
        Recipe.of("at", "fall")
    with pytest.raises(ValueError, match=r"score must be 'mean' .* got 'median'"):
        FAAL(score="median")
