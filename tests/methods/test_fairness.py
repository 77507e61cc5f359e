"""Each fairness method's weights, radii and draws, against its paper's rule written out by hand."""

import math

import pytest
import torch
from torch.nn import functional as F

from faal_lab.errors import UnknownName
from faal_lab.methods.class_stats import CLASS_SCORES, ClassStats
from faal_lab.methods.fairness.base import AttackedBatch
from faal_lab.methods.fairness.cfa import CFA, RobustLT, size_multipliers
from faal_lab.methods.fairness.cfol import CFOL
from faal_lab.methods.fairness.csr import CSR, spectral_gradient
from faal_lab.methods.fairness.dafa import DAFA, TRIX, FairTAT, distance_weights, target_chances
from faal_lab.methods.fairness.fat import FAT
from faal_lab.methods.fairness.frl import FRL
from faal_lab.methods.fairness.sy_far import SyFAR
from faal_lab.methods.fairness.wat import WAT
from faal_lab.methods.objectives import TRADES, Outcome, weighted
from faal_lab.methods.presets import PRESETS
from faal_lab.methods.recipe import Recipe

LABELS = torch.tensor([0, 0, 0, 1, 1, 2])
COUNT = torch.tensor([3.0, 2.0, 1.0])


class Measured:
    """Stands in for what the loop measures."""

    def __init__(self, clean=None, robust=None, cost=None, confusion=None, count=(9, 9, 9)) -> None:
        self.found, self.count, self.asked = (clean, robust, cost, confusion), count, None

    def validation_counts(self):
        return torch.tensor(self.count), 8

    def validation_errors(self, steps: int, last: bool = False):
        assert steps == 20
        self.asked = last
        return torch.tensor(self.found[0]), torch.tensor(self.found[1])

    def validation_cost(self):
        return torch.tensor(self.found[2])

    def training_confusion(self, steps: int, released: float = 0.0):
        assert steps == 10
        self.asked = released
        return torch.tensor(self.found[3])


def batch_of(
    labels: torch.Tensor, classes: int = 3, logits: torch.Tensor | None = None, numbers=None, sizes=(9, 9, 9), progress=0.5
) -> AttackedBatch:
    return AttackedBatch(labels, classes, 0.25, lambda: logits, lambda: numbers, torch.tensor(sizes), progress)


def stats(**sums: list[float]) -> ClassStats:
    return ClassStats(COUNT, {name.replace("_", "-"): torch.tensor(values) for name, values in sums.items()})


def close(found: torch.Tensor, expected: list, tolerance: float = 1e-6) -> bool:
    return torch.allclose(found.double(), torch.tensor(expected, dtype=torch.float64), atol=tolerance)


# --- FAT ---


@pytest.mark.parametrize("variant, slots", [("paper", None), ("release", 100)])
def test_fats_gradient_is_that_of_the_variance_penalty(variant: str, slots: int | None) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(6, 4, generator=generator).requires_grad_()  # class 3 is absent
    method = FAT(strength=0.7, variant=variant)
    ce = F.cross_entropy(logits, LABELS, reduction="none")
    means = torch.stack([ce[c == LABELS].mean() for c in range(3)])
    over = means if slots is None else torch.cat([means, torch.zeros(slots - 3)])
    (by_hand,) = torch.autograd.grad(ce.mean() + 0.7 * over.var(unbiased=True), logits, retain_graph=True)
    outcome = Outcome({"robust": ce}, None, logits)
    terms = outcome.terms | method.more_terms(outcome, LABELS)
    found = ClassStats.of(LABELS, 4, {"cross-entropy": CLASS_SCORES["cross-entropy"](logits, LABELS)})
    weighing = method.weigh(found, tuple(terms), 0.5)
    (gradient,) = torch.autograd.grad(weighted(terms, weighing.multipliers, LABELS), logits)
    assert torch.allclose(gradient, by_hand, atol=1e-6)
    assert float(weighing.weights.sum()) == pytest.approx(1)


def test_fat_at_strength_zero_and_with_one_class_present_adds_nothing() -> None:
    assert close(FAT(0.0).weigh(stats(cross_entropy=[3.0, 1.0, 5.0]), ("robust",), 0.5).multipliers["variance"], [0, 0, 0])
    alone = ClassStats(torch.tensor([6.0, 0.0, 0.0]), {"cross-entropy": torch.tensor([3.0, 0.0, 0.0])})
    assert close(FAT(1.0).weigh(alone, ("robust",), 0.5).multipliers["variance"], [0, 0, 0])


# --- FRL ---


@pytest.mark.parametrize("variant, twice", [("paper", 1), ("release", 2)])
def test_frl_steps_and_projects_its_multipliers(variant: str, twice: int) -> None:
    method = FRL(slack=0.05, rate=0.5, margin_rate=2.0, limit=0.3, variant=variant)
    clean, robust = [0.1, 0.2, 0.6], [0.3, 0.9, 0.9]
    measured = Measured(clean, robust)
    method.begin_epoch(measured)
    assert measured.asked == (variant == "release"), "the release judges the last iterate"
    mean, boundary = 0.9 / 3, [0.2, 0.7, 0.3]
    phi1 = [max(0.0, 0.5 * (e - mean - 0.05)) for e in clean]
    phi2 = [max(0.0, twice * 0.5 * (b - 0.4 - 0.05)) for b in boundary]
    phi2 = [p * min(1, 0.3 / sum(phi2)) for p in phi2]
    psi = [2.0 * (b - 0.4 - 0.05) for b in boundary]
    assert close(method.state["clean"], phi1)
    assert close(method.state["boundary"], phi2)
    plan = method.plan_attack(batch_of(LABELS))
    eps = [min(3.0, max(0.98, math.exp(2 * p))) for p in psi]
    assert close(plan.radius, [eps[y] for y in LABELS])
    assert close(plan.step, [eps[y] for y in LABELS] if variant == "paper" else [max(eps)] * 6)
    a = [1 / 3 + p - sum(phi1) / 3 for p in phi1]
    b = [1 / 3 + p - sum(phi2) / 3 for p in phi2]
    terms = {"clean": torch.rand(6), "robust": torch.rand(6)}
    found = weighted(terms, method.weigh(stats(), ("clean", "robust"), 0.5).multipliers, LABELS)
    by_hand = sum(
        sum(w[y] * float(t) for y, t in zip(LABELS, terms[n], strict=True)) / sum(w[y] for y in LABELS)
        for n, w in (("clean", a), ("robust", b))
    )
    assert float(found) == pytest.approx(float(by_hand), rel=1e-5)


def test_frls_projection_scales_only_what_exceeds_the_limit() -> None:
    method = FRL(limit=0.5)
    assert close(method._projected(torch.tensor([0.1, -0.2, 0.3])), [0.1, 0.0, 0.3])
    assert close(method._projected(torch.tensor([1.0, -0.2, 3.0])), [0.125, 0.0, 0.375])


def test_frls_rate_halves_after_forty_epochs_and_rate_zero_is_trades_up_to_rounding() -> None:
    method = FRL(slack=0.0, rate=0.1, remargin=False)
    method.state["epochs"] = torch.tensor(40)
    method.begin_epoch(Measured([0.3, 0.0, 0.0], [0.3, 0.0, 0.0]))
    assert close(method.state["clean"], [0.05 * 0.2, 0, 0])
    assert "psi" not in method.state
    released = FRL(slack=0.0, rate=0.1, remargin=False, variant="release")
    released.state["epochs"] = torch.tensor(39)  # its 40th epoch, counted from 1
    released.begin_epoch(Measured([0.3, 0.0, 0.0], [0.3, 0.0, 0.0]))
    assert close(released.state["clean"], [0.05 * 0.2, 0, 0])
    before = FRL(slack=0.0, rate=0.1, remargin=False)
    before.state["epochs"] = torch.tensor(39)
    before.begin_epoch(Measured([0.3, 0.0, 0.0], [0.3, 0.0, 0.0]))
    assert close(before.state["clean"], [0.1 * 0.2, 0, 0])
    still = FRL(rate=0.0)
    still.begin_epoch(Measured([0.3, 0.0, 0.0], [0.9, 0.0, 0.0]))
    assert close(still.plan_attack(batch_of(LABELS)).radius, [1.0] * 6)
    assert all(close(m, [1.0, 1.0, 1.0], 1e-12) for m in still.weigh(stats(), ("clean", "robust"), 0.5).multipliers.values())


# --- CFA ---


def test_cfa_sets_radius_and_beta_by_the_accuracy_of_the_last_epoch() -> None:
    method = CFA(objective="trades", beta=6.0)
    assert close(method.plan_attack(batch_of(LABELS)).radius, [1.0] * 6), "nothing is known before the first epoch has ended"
    method.end_epoch(stats(error=[0.6, 1.0, 0.9]), None)
    t = [0.8, 0.5, 0.1]
    plan = method.plan_attack(batch_of(LABELS))
    assert close(plan.radius, [0.3 + t[y] for y in LABELS])
    assert close(plan.step, [1.0] * 6)
    clean, kl = torch.rand(6), torch.rand(6)
    found = weighted({"clean": clean, "robust": 6.0 * kl}, method.weigh(stats(), ("clean", "robust"), 0.5).multipliers, LABELS)
    beta = [(0.5 + t[y]) * 6.0 for y in LABELS]
    by_hand = sum((float(c) + b * float(k)) / (1 + b) for c, b, k in zip(clean, beta, kl, strict=True)) / 6
    assert float(found) == pytest.approx(by_hand, rel=1e-5)


def test_cfas_neutral_setting_scales_trades_by_one_over_one_plus_beta() -> None:
    method = CFA(objective="trades", beta=6.0)
    multipliers = method.weigh(stats(), ("clean", "robust"), 0.5).multipliers
    assert all(close(m, [1 / 7] * 3) for m in multipliers.values())
    assert CFA(objective="at").weigh(stats(), ("robust",), 0.5).multipliers == {}
    at = CFA(objective="at", regularise=False)
    at.end_epoch(stats(error=[0.6, 1.0, 0.9]), None)
    assert close(at.plan_attack(batch_of(torch.tensor([2]))).radius, [0.5 + 0.1])
    unseen = CFA(objective="at")
    unseen.end_epoch(ClassStats(torch.tensor([2.0, 2.0, 0.0]), {"error": torch.tensor([1.0, 0.0, 0.0])}), None)
    assert close(unseen.state["accuracy"], [0.5, 1.0, 0.75])


# --- WAT ---


def test_wats_experts_sum_to_the_number_of_classes_and_remember_all_costs() -> None:
    method = WAT(rate=0.3)
    method.end_epoch(stats(), Measured(cost=[1.0, 2.0, 6.0]))
    method.end_epoch(stats(), Measured(cost=[2.0, 2.0, 5.0]))
    total = [3.0, 4.0, 11.0, 6.0]  # the average's costs were 3 and 3
    raw = [math.exp(0.3 * v) for v in total]
    experts = [3 * r / sum(raw) for r in raw]
    assert close(method.experts(3), experts)
    assert float(method.experts(3).sum()) == pytest.approx(3)
    loss = torch.rand(6)
    found = weighted({"robust": loss}, method.weigh(stats(), ("robust",), 0.5).multipliers, LABELS)
    by_hand = sum(experts[y] * float(v) for y, v in zip(LABELS, loss, strict=True)) / 6 + experts[3] * float(loss.mean())
    assert float(found) == pytest.approx(by_hand, rel=1e-5)
    WAT(rate=1.0).end_epoch(stats(), Measured(cost=[1e4, 2e4, 0.0]))  # its release's exp would overflow


def test_wats_scale_at_rate_zero_and_the_releases_start() -> None:
    method = WAT(rate=0.0)
    method.end_epoch(ClassStats(torch.ones(10)), Measured(cost=[float(c) for c in range(10)]))
    assert close(method.weigh(ClassStats(torch.ones(10)), ("robust",), 0.5).multipliers["robust"], [20 / 11] * 10)
    assert pytest.approx(1.82, abs=0.002) == 20 / 11
    assert float(WAT().experts(10).sum()) == pytest.approx(10)
    assert WAT(variant="release").experts(10).tolist() == [1.0] * 11


def test_frls_average_error_is_over_images_in_the_release() -> None:
    found = {}
    for variant in ("paper", "release"):
        method = FRL(slack=0.0, rate=0.1, remargin=False, variant=variant)
        method.begin_epoch(Measured([0.6, 0.0, 0.0], [0.6, 0.0, 0.0], count=(1, 2, 3)))
        found[variant] = method.state["clean"]
    assert close(found["paper"], [0.1 * 0.4, 0, 0])
    assert close(found["release"], [0.1 * 0.5, 0, 0])


def test_wats_cost_is_a_sum_over_batches_times_batch_size_in_the_release() -> None:
    method = WAT(rate=1.0, variant="release")
    method.end_epoch(stats(), Measured(cost=[2.0, 1.0, 5.0], count=(6, 3, 2)))  # 11 images: two batches of 8
    by_class = [2.0 * 6 * 3 / 16, 1.0 * 3 * 3 / 16, 5.0 * 2 * 3 / 16]
    assert close(method.state["cost"], [*by_class, sum([12.0, 3.0, 10.0]) / 16])
    paper = WAT(rate=1.0)
    paper.end_epoch(stats(), Measured(cost=[2.0, 1.0, 5.0], count=(6, 3, 2)))
    assert close(paper.state["cost"], [2.0, 1.0, 5.0, 8 / 3])
    balanced = WAT(variant="release")
    balanced.end_epoch(ClassStats(torch.ones(10)), Measured(cost=[1.0] * 10, count=[300] * 10))
    assert close(balanced.state["cost"], [3000 / 3000] * 11), "batches of 8 divide 3,000"


# --- DAFA and TRIX ---

SIMILARITY = [[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.15, 0.05, 0.8]]


def by_formula(s: list[list[float]], strength: float) -> list[float]:
    found = []
    for i in range(3):
        w = 1.0
        for j in range(3):
            if i != j and s[i][i] < s[j][j]:
                w += strength * s[i][j] * s[j][j]
            elif i != j and s[i][i] > s[j][j]:
                w -= strength * s[j][i] * s[i][i]
        found.append(w)
    return found


def test_dafas_weights_sum_to_c_and_go_from_easy_to_hard() -> None:
    s = [[0.5, 0.3, 0.2], [0.1, 0.7, 0.2], [0.15, 0.05, 0.8]]
    weights = distance_weights(torch.tensor(s, dtype=torch.float64), 1.5)
    assert close(weights, by_formula(s, 1.5), 1e-12)
    assert float(weights.sum()) == pytest.approx(3, abs=1e-12)
    assert weights[0] > 1 > weights[2]
    drawn = torch.rand(7, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float(distance_weights(drawn / drawn.sum(1, keepdim=True)).sum()) == pytest.approx(7, abs=1e-12)


def test_level_classes_trade_nothing_by_the_paper_and_both_pay_in_the_release() -> None:
    level = torch.full((3, 3), 1 / 3, dtype=torch.float64)
    assert close(distance_weights(level), [1, 1, 1], 1e-12)
    assert close(distance_weights(level, ties="pay"), [1 - 2 / 9] * 3, 1e-12)


def test_dafa_weighs_the_cross_entropy_alone_and_scales_radius_and_step() -> None:
    method = DAFA(strength=1.0)
    sums = [[v * n for v in row] for row, n in zip(SIMILARITY, COUNT.tolist(), strict=True)]
    assert close(method.plan_attack(batch_of(LABELS)).radius, [1.0] * 6)
    method.end_epoch(stats(softmax=sums), None)
    w = by_formula(SIMILARITY, 1.0)
    weighing = method.weigh(stats(), ("clean", "robust"), 0.5)
    assert close(weighing.multipliers["clean"], w)
    assert "robust" not in weighing.multipliers
    plan = method.plan_attack(batch_of(LABELS))
    assert close(plan.radius, [w[y] for y in LABELS])
    assert close(plan.step, [w[y] for y in LABELS])
    method.end_epoch(stats(softmax=[[1.0, 0, 0]] * 3), None)
    assert close(method.state["weights"], w), "made once"
    extreme = DAFA(strength=50.0)
    extreme.end_epoch(stats(softmax=sums), None)
    assert float(extreme.state["weights"].min()) == pytest.approx(0.05)
    uncut = DAFA(strength=50.0, variant="release")
    uncut.end_epoch(stats(softmax=sums), None)
    assert float(uncut.state["weights"].min()) < 0, "the authors' code does not cut them"


def test_dafas_release_takes_a_second_step_for_at_and_never_leaves_epsilon() -> None:
    method = DAFA(variant="release", objective="at")
    method.state["weights"] = torch.tensor([0.5, 1.0, 1.4])
    plan = method.plan_attack(batch_of(torch.tensor([0, 1, 2])))
    assert close(plan.radius, [0.75, 1.0, 1.0])
    assert close(plan.step, [1.5, 2.0, 2.4])


def test_trix_aims_easy_classes_at_another_class() -> None:
    logits = torch.tensor([[2.0, 0, 0], [0, 1, 0], [0, 0, 1.0], [0, 3.0, 0], [0.0, 3, 0], [0, 0, 5.0]])
    numbers = torch.tensor([0.0, 0.6, 0.99, 0.0, 0.6, 0.2])
    found = TRIX().plan_attack(batch_of(LABELS, logits=logits, numbers=numbers))
    p = logits.softmax(1)
    s = [[float(p[i == LABELS, j].mean()) for j in range(3)] for i in range(3)]
    weights = [by_formula(s, 1.0)[y] for y in LABELS]
    assert found.target is not None
    for target, weight, label, number in zip(found.target.tolist(), weights, LABELS.tolist(), numbers.tolist(), strict=True):
        easy = weight < sum(weights) / 6
        assert target == ((label + 1 + int(number * 2)) % 3 if easy else -1)
        assert target != label
    assert len(set(found.target.tolist())) > 2
    level = TRIX(variant="release")
    level.end_epoch(stats(softmax=[[n / 3] * 3 for n in COUNT.tolist()]), None)
    assert close(level.state["weights"], [1 - 2 / 9] * 3), "in the release level classes both pay"
    flat = TRIX(variant="release").plan_attack(batch_of(LABELS, logits=torch.zeros(6, 3), numbers=numbers))
    assert flat.target is not None
    assert flat.target.tolist() == [-1] * 6
    two = TRIX().plan_attack(batch_of(torch.tensor([0, 1]), 2, torch.tensor([[1.0, 0], [0, 5.0]]), torch.tensor([0.99, 0.99])))
    assert two.target is not None
    assert two.target.tolist() in ([-1, 0], [1, -1])


# --- CFOL ---


def test_cfols_scores_are_importance_weighted_errors_and_no_class_falls_below_half_its_share() -> None:
    method = CFOL(rate=0.1)
    assert close(method.class_probabilities(3), [1 / 3] * 3)
    method.weigh(stats(error=[3.0, 0.0, 1.0]), ("robust",), 0.5)
    raw = [math.exp(0.1 * e * 3) for e in (3.0, 0.0, 1.0)]
    p = [0.5 / 3 + 0.5 * r / sum(raw) for r in raw]
    assert close(method.class_probabilities(3), p)
    method.weigh(stats(error=[0.0, 2.0, 1.0]), ("robust",), 0.5)
    raw = [r * math.exp(0.1 * e / q) for r, e, q in zip(raw, (0.0, 2.0, 1.0), p, strict=True)]
    assert close(method.class_probabilities(3), [0.5 / 3 + 0.5 * r / sum(raw) for r in raw])
    extreme = CFOL(rate=1e4)
    extreme.weigh(stats(error=[3.0, 0.0, 0.0]), ("robust",), 0.5)
    assert float(extreme.class_probabilities(3).min()) == pytest.approx(0.5 / 3)


# --- CSR ---


def test_csrs_gradient_is_that_of_the_spectral_norm() -> None:
    counts = torch.tensor([[40, 10, 2], [5, 30, 8], [5, 10, 10]])
    shares = counts.double() / counts.sum(0)
    off = (shares - torch.diag(shares.diagonal())).requires_grad_()
    (slope,) = torch.autograd.grad(torch.linalg.matrix_norm(off, 2), off)
    expected = 0.01 + 2.0 * (slope - slope.min()) / (slope.max() - slope.min())
    assert torch.allclose(spectral_gradient(shares), expected, atol=1e-9)
    assert torch.equal(spectral_gradient(torch.eye(3)), torch.ones(3, 3)), "nothing is confused"


@pytest.mark.parametrize("variant", ["paper", "release"])
def test_csrs_loss(variant: str) -> None:
    method = CSR(strength=0.3, variant=variant)
    counts = [[40, 10, 2], [5, 30, 8], [5, 10, 10]]
    measured = Measured(confusion=counts)
    method.begin_epoch(measured)
    assert measured.asked == (0.0 if variant == "paper" else 0.9), "the release lowers the true logit in the confusion"
    shares = torch.tensor(counts).double() / torch.tensor(counts).sum(0)
    g = spectral_gradient(shares if variant == "paper" else torch.tensor(counts).double())
    assert torch.equal(method.state["gradient"], g)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    images = torch.rand(6, 1, 2, 2)
    outcome = TRADES(beta=6.0)(model, images, images + 0.1, LABELS)
    terms = outcome.terms | method.more_terms(outcome, LABELS)
    assert outcome.adv_logits is not None
    adv = outcome.adv_logits.detach()
    predicted = adv.argmax(1)
    found = weighted(terms, method.weigh(stats(), tuple(terms), 0.5).multipliers, LABELS, predicted)
    by_hand = 0.0
    for i, y in enumerate(LABELS.tolist()):
        z = adv[i].clone()
        z[y] -= 0.1 if variant == "paper" else 0.0
        ce = float(torch.logsumexp(z, 0) - z[y])
        by_hand += 0.7 * terms["clean"][i].item() + terms["robust"][i].item() + 0.3 * float(g[predicted[i], y]) * ce
    assert found.item() == pytest.approx(by_hand / 6, rel=1e-5)
    with pytest.raises(ValueError, match=r"strength, CSR's alpha, must be between 0 and 1, got 2"):
        CSR(strength=2)


# --- Sy-FAR ---


def asymmetry_by_hand(logits: torch.Tensor, absent: str) -> torch.Tensor:
    """The sum over pairs of classes, from loops; classes 0 to 2 are in LABELS, and class 3 is not."""
    p = logits.softmax(1)
    rows = [p[c == LABELS].mean(0) for c in range(3)] + [torch.zeros(4, dtype=p.dtype)]
    total = torch.zeros((), dtype=p.dtype)
    for i in range(4 if absent == "all" else 3):
        for j in range(i):
            both = rows[i][j] + rows[j][i]
            total = total + abs(rows[i][j] - rows[j][i]) / (both + 0.1) * both
    return total


@pytest.mark.parametrize("pairs", ["present", "all"])
def test_sy_fars_penalty_and_its_gradient_are_those_of_the_sum_over_pairs(pairs: str) -> None:
    logits = 2 * torch.randn(6, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    logits.requires_grad_()
    method = SyFAR(strength=7.0, pairs=pairs)
    ce = F.cross_entropy(logits, LABELS, reduction="none")
    by_hand = ce.mean() + 7.0 * asymmetry_by_hand(logits, pairs)
    (expected,) = torch.autograd.grad(by_hand, logits, retain_graph=True)
    outcome = Outcome({"robust": ce}, None, logits)
    terms = outcome.terms | method.more_terms(outcome, LABELS)
    weighing = method.weigh(ClassStats.of(LABELS, 4, {"softmax": logits.softmax(1)}), tuple(terms), 0.5)
    loss = weighted(terms, weighing.multipliers, LABELS)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-12)
    assert torch.allclose(gradient, expected, atol=1e-12)
    assert float(weighing.weights.sum()) == pytest.approx(1)
    assert float(weighing.weights[3]) == pytest.approx(0, abs=1e-9), "an absent class is shown no weight"


def test_sy_far_is_silent_where_confusions_are_symmetric_and_counts_absent_classes_only_if_asked() -> None:
    even = torch.tensor([[2.0, 1.0, 1.0], [1.0, 2.0, 1.0], [1.0, 1.0, 2.0]]).log()[LABELS]
    outcome = Outcome({}, even, None)  # an objective without an attack: the clean logits
    assert close(SyFAR().more_terms(outcome, LABELS)["asymmetry"], [0.0] * 6)
    assert close(SyFAR().weigh(ClassStats.of(LABELS, 3, {"softmax": even.softmax(1)}), (), 0.5).weights, [1 / 3] * 3)
    alone, labels = Outcome({}, None, torch.tensor([[2.0, 0.0, 0.0]])), torch.tensor([0])
    assert close(SyFAR().more_terms(alone, labels)["asymmetry"], [0.0])
    q = 1 / (math.exp(2) + 2)
    assert close(SyFAR(pairs="all").more_terms(alone, labels)["asymmetry"], [2 * q * q / (q + 0.1)])
    with pytest.raises(ValueError, match=r"strength, the coefficient of Sy-FAR's asymmetry, must be at least 0.*got -1"):
        SyFAR(strength=-1.0)
    with pytest.raises(UnknownName, match="Unknown choice of pairs 'al'. Did you mean 'all'"):
        SyFAR(pairs="al")


# --- RobustLT ---


def test_robust_lts_radii_are_the_papers_and_their_mean_over_images_is_one() -> None:
    sizes = [round(5000 * 50 ** (-c / 9)) for c in range(10)]
    s = [math.sqrt(math.log(5000 / n)) for n in sizes]
    t = 0.3 / (sum(n * v for n, v in zip(sizes, s, strict=True)) / sum(sizes))
    by_hand = [1 - 0.3 + t * v for v in s]
    found = size_multipliers(torch.tensor(sizes), 0.3)
    assert close(found, by_hand, 1e-12)
    assert close(found, [0.70, 1.00, 1.13, 1.23, 1.31, 1.38, 1.44, 1.50, 1.56, 1.61], 0.006)
    assert float((found * torch.tensor(sizes)).sum()) == pytest.approx(sum(sizes), rel=1e-12)
    assert sorted(found.tolist()) == found.tolist(), "a smaller class has a larger radius"
    labels = torch.tensor([0, 9, 4])
    for progress, risen in ((0.0, 0.0), (0.2, 0.25), (0.8, 1.0), (0.95, 1.0)):
        plan = RobustLT().plan_attack(batch_of(labels, 10, sizes=sizes, progress=progress))
        assert close(plan.radius, [risen * by_hand[y] for y in labels])
        assert torch.equal(plan.radius, plan.step)
        assert plan.target is None


def test_robust_lt_leaves_balanced_classes_alone_but_for_the_rise() -> None:
    assert size_multipliers(torch.tensor([7, 7, 7]), 0.3).tolist() == [1.0] * 3, "the release divides 0 by 0"
    assert close(RobustLT().plan_attack(batch_of(LABELS, progress=0.4)).radius, [0.5] * 6)
    tail = batch_of(LABELS, sizes=(50, 5, 1), progress=0.0)
    assert close(RobustLT(strength=0.0, warm_up=0.0).plan_attack(tail).radius, [1.0] * 6)
    assert RobustLT(warm_up=0.0).plan_attack(tail).radius[5] > 1
    nearly = size_multipliers(torch.tensor([500] * 9 + [499]), 0.3)
    assert close(nearly, [0.7] * 9 + [0.7 + 0.3 * 4999 / 499]), "the scale is relative: one image decides"
    empty = size_multipliers(torch.tensor([8, 4, 0]), 0.3)
    assert bool(torch.isfinite(empty).all())
    assert float((empty[:2] * torch.tensor([8, 4])).sum()) == pytest.approx(12)
    for wrong in ({"strength": 1.5}, {"warm_up": -0.1}):
        with pytest.raises(ValueError, match="RobustLT's (alpha|beta), must be between 0 and 1, got (1.5|-0.1)"):
            RobustLT(**wrong)


# --- FAIR-TAT ---


def test_fair_tat_draws_targets_by_how_often_a_class_is_a_false_positive() -> None:
    method = FairTAT()
    measured = Measured(confusion=[[40, 10, 2], [5, 30, 8], [5, 10, 10]])  # rows: predicted
    method.begin_epoch(measured)
    assert measured.asked == 0.0
    score = [10 / 50 + 2 / 20, 5 / 50 + 8 / 20, 5 / 50 + 10 / 50]
    chances = [[score[t] / sum(score[u] for u in range(3) if u != y) if t != y else 0.0 for t in range(3)] for y in range(3)]
    assert close(method.state["chances"], chances, 1e-12)
    numbers = torch.arange(600) / 600
    for y in range(3):
        plan = method.plan_attack(batch_of(torch.full((600,), y), numbers=numbers))
        assert plan.target is not None
        drawn = [int((plan.target == t).sum()) / 600 for t in range(3)]
        assert drawn == pytest.approx(chances[y], abs=1.5 / 600)
        assert drawn[y] == 0
        assert plan.radius.tolist() == plan.step.tolist() == [1.0] * 600
    shown = method.weigh(stats(), ("robust",), 0.5)
    assert shown.multipliers == {}
    assert close(shown.weights, [sum(n / 6 * chances[y][t] for y, n in enumerate((3, 2, 1))) for t in range(3)])


def test_fair_tat_aims_evenly_where_nothing_is_confused_and_never_at_the_label() -> None:
    assert close(target_chances(torch.zeros(3)), [[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    assert close(target_chances(torch.tensor([0.0, 4.0, 0.0])), [[0, 1, 0], [0.5, 0, 0.5], [0, 1, 0]])
    assert close(target_chances(torch.tensor([0.3, 0.1])), [[0, 1], [1, 0]]), "two classes leave no choice"
    generator = torch.Generator().manual_seed(0)
    for classes in (2, 3, 7):
        method = FairTAT()
        method.state["chances"] = target_chances(torch.rand(classes, generator=generator).double())
        labels = torch.arange(classes).repeat(200)
        numbers = torch.rand(len(labels), generator=generator)
        numbers[:classes], numbers[-classes:] = 0.0, 1 - 2**-24  # the ends of [0, 1)
        target = method.plan_attack(batch_of(labels, classes, numbers=numbers)).target
        assert target is not None
        assert not bool((target == labels).any())
        assert int(target.min()) >= 0
        assert int(target.max()) < classes


# --- CODAT ---


def test_codats_recipe_descends_the_mean_plus_the_standard_deviation_of_class_losses() -> None:
    recipe = Recipe.of(**PRESETS["codat-at"])
    assert recipe.start == "uniform"
    logits = torch.randn(8, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()
    labels, rho = torch.tensor([0, 1, 2, 3, 3, 2, 1, 0]), 0.2
    ce = F.cross_entropy(logits, labels, reduction="none")
    means = torch.stack([ce[c == labels].mean() for c in range(4)])
    (expected,) = torch.autograd.grad(means.mean() + rho**0.5 * means.std(unbiased=False), logits, retain_graph=True)
    found = ClassStats.of(labels, 4, {"cross-entropy": CLASS_SCORES["cross-entropy"](logits, labels)})
    weighing = recipe.fairness.weigh(found, ("robust",), rho)
    assert float(weighing.weights.min()) > 0, "no weight reaches 0"
    (gradient,) = torch.autograd.grad(weighted({"robust": ce}, weighing.multipliers, labels), logits)
    assert torch.allclose(gradient, expected, atol=1e-7)
