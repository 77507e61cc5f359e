"""Each release's step stated again from the description of its code: loss, gradient, statistics, weights after two steps."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SHORT
from torch import nn
from torch.nn import functional as F

from faal_lab.catalogue import AVERAGING, FAIRNESS, OBJECTIVES
from faal_lab.data import keyed_random
from faal_lab.data.batches import Batch
from faal_lab.data.images import Splits
from faal_lab.dro import KLBall
from faal_lab.errors import ConfigError, RecipeError
from faal_lab.methods.class_stats import ClassStats, class_sums, softmax_margin
from faal_lab.methods.fairness.cfa import CFA
from faal_lab.methods.pgd import Climb, boundary_pair, released_pair
from faal_lab.methods.recipe import Recipe
from faal_lab.methods.releases import differences, order, releases
from faal_lab.runs.config import Config
from faal_lab.training.measure import Measurement
from faal_lab.training.restore import load_model
from faal_lab.training.run import recipe_settings, run
from faal_lab.training.step import before_batch, step
from faal_lab.training.trainer import Trainer, TrainingState

EPSILON, STEPS, BETA, CLASSES = 0.1, 3, 6.0, 10
ALPHA = EPSILON / 4
WEIGHTS = torch.linspace(0.6, 1.4, CLASSES, dtype=torch.float64)  # of classes, where a method has learned some
PSI = torch.linspace(-0.05, 0.15, CLASSES, dtype=torch.float64)
ACCURACY = torch.linspace(0.1, 0.9, CLASSES, dtype=torch.float64)
PHI = torch.linspace(0.0, 0.09, CLASSES, dtype=torch.float64)
COST = torch.linspace(0.0, 5.0, CLASSES + 1, dtype=torch.float64)
G = torch.rand(CLASSES, CLASSES, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 2 + 0.01


class Net(nn.Module):
    """Two BatchNorms in float64, for 8x8 images."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            self.layers = nn.Sequential(
                nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, CLASSES), nn.BatchNorm1d(CLASSES)
            ).double()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images.double())


def ce(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits, y, reduction="none")


def kl(clean: torch.Tensor, adv: torch.Tensor) -> torch.Tensor:
    """KL(p(clean) || p(adv)) of each image, written out."""
    return (clean.softmax(1) * (clean.log_softmax(1) - adv.log_softmax(1))).sum(1)


class Step:
    """One batch of a reference: its images, its noise, and a network of its own."""

    def __init__(self, net: Net, batch: Batch, config: Any, epoch: int = 0) -> None:
        self.net, self.x, self.y, self.keys, self.config = net, batch.images, batch.labels, batch.keys, config
        self.epoch = epoch

    def noise(self, kind: str, purpose: int = keyed_random.ATTACK_START) -> torch.Tensor:
        draw = keyed_random.normal if kind == "normal" else keyed_random.uniform
        return draw(self.config.seed, self.epoch, self.keys, purpose, tuple(self.x.shape[1:]))

    def gaussian(self) -> torch.Tensor:
        return self.x + 0.001 * self.noise("normal")

    def uniform(self, radius: torch.Tensor | float = EPSILON) -> torch.Tensor:
        return (self.x + radius * (2 * self.noise("uniform") - 1)).clamp(0, 1)

    def each(self, values: torch.Tensor) -> torch.Tensor:
        return values.float()[self.y].view(-1, 1, 1, 1)

    def attacked(
        self,
        start: torch.Tensor,
        loss: str,
        radius: torch.Tensor | float = EPSILON,
        move: torch.Tensor | float = ALPHA,
        target: torch.Tensor | None = None,
        training: bool = False,
        twice: bool = False,
    ) -> torch.Tensor:
        """PGD to its last iterate."""
        self.net.train(training)
        clean = self.net(self.x).detach() if loss == "kl" else torch.empty(0)
        adv = start
        for _ in range(STEPS):
            adv = adv.detach().requires_grad_()
            logits = self.net(adv)
            height = kl(clean, logits) if loss == "kl" else ce(logits, self.y)
            if target is not None:
                height = torch.where(target >= 0, -ce(logits, target.clamp(min=0)), height)
            (slope,) = torch.autograd.grad(height.sum(), adv)
            for _ in range(2 if twice else 1):
                adv = torch.min(torch.max(adv + move * slope.sign(), self.x - radius), self.x + radius)
            adv = adv.clamp(0, 1)
        return adv.detach()


Reference = Callable[[Step], Any]  # returns the loss; passes the network in training mode as the release does


def at(s: Step, training: bool = True, restart: bool = True, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Rice et al.: the attack's passes move BatchNorm, and so does the one that compares restarts."""
    adv = s.attacked(s.uniform(), "ce", training=training)
    s.net.train(training)
    if restart:
        s.net(adv)
    s.net.train()
    return (ce(s.net(adv), s.y) * (1 if weights is None else weights[s.y])).mean()


def trades(s: Step) -> torch.Tensor:
    adv = s.attacked(s.gaussian(), "kl")
    s.net.train()
    first = s.net(s.x)
    moved = s.net(adv)
    again = s.net(s.x)
    return ce(first, s.y).mean() + BETA * kl(again, moved).mean()


def mart(s: Step, attack: str = "ce") -> tuple[torch.Tensor, torch.Tensor]:
    adv = s.attacked(s.gaussian(), attack)
    s.net.train()
    logits = {}
    for name in ("clean", "adv") if attack == "ce" else ("adv", "clean"):
        logits[name] = s.net(s.x if name == "clean" else adv)
    p, q = logits["clean"].softmax(1), logits["adv"].softmax(1)
    wrong = q.clone()
    wrong[torch.arange(len(s.y)), s.y] = -1
    boosted = ce(logits["adv"], s.y) - torch.log(1.0001 - wrong.amax(1) + 1e-12)
    moved = (p * (p.log() - torch.log(q + 1e-12))).sum(1) * (1.0000001 - p[torch.arange(len(s.y)), s.y])
    return boosted + BETA * moved, logits["adv"]


def bat(s: Step) -> torch.Tensor:
    """Image by image, so that none depends on the bookkeeping of a batch."""
    s.net.eval()
    starts = [(s.x + 0.001 * s.noise("normal", p)).clamp(0, 1) for p in (keyed_random.ATTACK_START, keyed_random.SECOND_START)]
    points: list[list[torch.Tensor]] = [[], []]
    for i in range(len(s.y)):
        x, y = s.x[i : i + 1], s.y[i : i + 1]
        clean = s.net(x).detach()
        for which in (0, 1):
            path = [starts[which][i : i + 1]]
            wrongs: list[int] = []
            for k in range(STEPS):
                adv = path[-1].detach().requires_grad_()
                logits = s.net(adv)
                wrongs += [k] if int(logits.argmax()) != int(y) else []
                (slope,) = torch.autograd.grad(kl(clean, logits).sum(), adv)
                path.append(torch.min(torch.max(adv + ALPHA * slope.sign(), x - EPSILON), x + EPSILON).clamp(0, 1).detach())
            if which == 0:
                points[0].append(path[max(wrongs[0] - 1, 0)] if wrongs else path[-1])
            else:
                points[1].append(path[wrongs[1]] if len(wrongs) > 1 else path[-1])
    s.net.train()
    inner, outer = s.net(torch.cat(points[0])), s.net(torch.cat(points[1]))
    clean = s.net(s.x)
    flat = torch.zeros_like(clean)
    return ce(inner, s.y).mean() + BETA * kl(clean, outer).mean() + (kl(inner, flat) + kl(outer, flat)).mean()


def weights_of_faal(s: Step, adv: torch.Tensor) -> torch.Tensor:
    """C * w of the release: from sums of margins; an absent class has score 0."""
    sums = class_sums(softmax_margin(adv.detach(), s.y), s.y, CLASSES)
    return CLASSES * KLBall(0.5).worst_case(sums).weights


def faal_at(s: Step) -> torch.Tensor:
    adv = s.attacked(s.uniform(), "ce")
    s.net.train()
    logits = s.net(adv)
    s.net(s.x)
    return (ce(logits, s.y) * weights_of_faal(s, logits)[s.y]).mean()


def faal_trades(s: Step) -> torch.Tensor:
    adv = s.attacked(s.gaussian(), "kl")
    s.net.train()
    logits = s.net(adv)
    clean = s.net(s.x)
    return ((ce(clean, s.y) + BETA * kl(clean, logits)) * weights_of_faal(s, logits)[s.y]).mean()


def faal_mart(s: Step) -> torch.Tensor:
    terms, logits = mart(s, "kl")
    return (terms * weights_of_faal(s, logits)[s.y]).mean()


def frl(s: Step) -> torch.Tensor:
    """Class radii up to exp(2 psi); all images have a quarter of the batch's largest radius as their step."""
    factor = torch.exp(2 * PSI).clamp(0.98, 3)
    radius = s.each(factor) * EPSILON
    adv = s.attacked(s.gaussian(), "kl", radius, radius.max() / 4)
    s.net.train()
    first = s.net(s.x)
    moved = s.net(adv)
    again = s.net(s.x)
    a = (1 / CLASSES + PHI - PHI.mean())[s.y]
    b = (1 / CLASSES + PHI.flip(0) - PHI.mean())[s.y]
    return (a * ce(first, s.y)).sum() / a.sum() + BETA * (b * kl(again, moved)).sum() / b.sum()


def cfa_at(s: Step) -> torch.Tensor:
    radius = s.each(0.5 + ACCURACY) * EPSILON
    adv = s.attacked(s.uniform(radius), "ce", radius, training=True)
    s.net.train()
    return ce(s.net(adv), s.y).mean()


def cfa_trades(s: Step) -> torch.Tensor:
    adv = s.attacked(s.gaussian(), "kl", s.each(0.5 + ACCURACY) * EPSILON)
    s.net.train()
    first = s.net(s.x)
    moved = s.net(adv)
    again = s.net(s.x)
    beta = ((0.5 + ACCURACY) * BETA)[s.y]
    share = beta / (1 + beta)
    return ((1 - share) * ce(first, s.y) + share * kl(again, moved)).mean()


def cfa_ccm_trades(s: Step) -> torch.Tensor:
    """With the margin alone the code divides TRADES' loss by 1 + beta all the same."""
    adv = s.attacked(s.gaussian(), "kl", s.each(0.5 + ACCURACY) * EPSILON)
    s.net.train()
    first = s.net(s.x)
    moved = s.net(adv)
    again = s.net(s.x)
    return ((ce(first, s.y) + BETA * kl(again, moved)) / (1 + BETA)).mean()


def wat(s: Step) -> torch.Tensor:
    adv = s.attacked(s.gaussian(), "kl")
    s.net.train()
    clean = s.net(s.x)
    moved = s.net(adv)
    factor = torch.exp(0.1 * COST)
    w = CLASSES * factor / factor.sum()
    each = ce(clean, s.y) + BETA * kl(clean, moved)
    return (w[s.y] * each).mean() + w[-1] * each.mean()


def fat(s: Step, objective: str) -> torch.Tensor:
    adv = s.attacked(s.uniform(), "ce")
    s.net.train()
    moved = s.net(adv)
    found = torch.zeros(100, dtype=torch.float64)
    for c in s.y.unique():
        found[c] = ce(moved, s.y)[s.y == c].mean()
    if objective == "at":
        return ce(moved, s.y).mean() + 0.1 * found.var()
    clean = s.net(s.x)
    return ce(clean, s.y).mean() + BETA * kl(clean, moved).mean() + 0.1 * found.var()


def dafa(s: Step) -> torch.Tensor:
    w = s.each(WEIGHTS)
    adv = s.attacked(s.gaussian(), "kl", w * EPSILON, w * ALPHA)
    s.net.train()
    moved = s.net(adv)
    clean = s.net(s.x)
    return (WEIGHTS[s.y] * ce(clean, s.y)).mean() + BETA * kl(clean, moved).mean()


def dafa_at(s: Step) -> torch.Tensor:
    """Before the weights are known: the code makes each step twice then, too."""
    adv = s.attacked(s.gaussian(), "ce", twice=True)
    s.net.train()
    return ce(s.net(adv), s.y).mean()


def trix(s: Step) -> torch.Tensor:
    s.net.eval()
    p = s.net(s.x).detach().softmax(1)
    mean = torch.zeros(CLASSES, CLASSES, dtype=torch.float64)
    for c in s.y.unique():
        mean[c] = p[s.y == c].mean(0)
    weight = torch.ones(CLASSES, dtype=torch.float64)
    for i in range(CLASSES):
        for j in range(CLASSES):
            if i != j:
                weight[i] += mean[i, j] * mean[j, j] if mean[i, i] < mean[j, j] else -mean[j, i] * mean[i, i]
    easy = weight[s.y] < weight[s.y].mean()
    number = keyed_random.uniform(s.config.seed, 0, s.keys, keyed_random.TARGET)
    other = (s.y + 1 + (number * (CLASSES - 1)).long()) % CLASSES
    w = s.each(WEIGHTS)
    adv = s.attacked(s.gaussian(), "kl", w * EPSILON, w * ALPHA, torch.where(easy, other, -1))
    s.net.train()
    moved = s.net(adv)
    clean = s.net(s.x)
    return (WEIGHTS[s.y] * ce(clean, s.y)).mean() + BETA * kl(clean, moved).mean()


def csr(s: Step) -> torch.Tensor:
    adv = s.attacked(s.gaussian(), "kl")
    s.net.train()
    first = s.net(s.x)
    moved = s.net(adv)
    again = s.net(s.x)
    last = s.net(adv)
    confused = G[last.argmax(1), s.y] * ce(last, s.y)
    return 0.7 * ce(first, s.y).mean() + BETA * kl(again, moved).mean() + 0.3 * confused.mean()


def csr_awp(s: Step, adv: torch.Tensor) -> torch.Tensor:
    clean = s.net(s.x)
    moved = s.net(adv)
    confused = G[moved.argmax(1), s.y] * ce(moved, s.y)
    return 0.7 * ce(clean, s.y).mean() + BETA * kl(clean, moved).mean() + 0.3 * confused.mean()


def trades_awp(s: Step, adv: torch.Tensor) -> torch.Tensor:
    moved = s.net(adv)
    again = s.net(s.x)
    clean = s.net(s.x)
    return ce(clean, s.y).mean() + BETA * kl(again, moved).mean()


def perturbed(s: Step, adv: torch.Tensor, proxy_loss: Callable[[nn.Module], torch.Tensor], gamma: float) -> list[torch.Tensor]:
    """The move of each weight tensor of more than one dimension, by a copy that keeps its statistics to itself."""
    proxy = copy.deepcopy(s.net).train()
    weights = [w for w in proxy.parameters() if w.ndim > 1]
    slopes = torch.autograd.grad(proxy_loss(proxy), weights)
    return [gamma * w.detach().norm() * g / (g.norm() + 1e-20) for w, g in zip(weights, slopes, strict=True)]


LEARNED: dict[str, dict[str, torch.Tensor]] = {
    "frl-rwrm": {"clean": PHI, "boundary": PHI.flip(0), "psi": PSI},
    "cfa": {"accuracy": ACCURACY},
    "cfa-ccm": {"accuracy": ACCURACY},
    "wat": {"cost": COST},
    "dafa": {"weights": WEIGHTS},
    "trix": {"weights": WEIGHTS},
    "csr": {"gradient": G, "expected": torch.ones(CLASSES, dtype=torch.float64)},
}
CASES: list[tuple[str, dict[str, Any], Reference, str]] = [  # objective and method, settings, reference, pass after the step
    ("at none", {}, at, "clean"),
    ("at none", {"batch_norm": "eval"}, lambda s: at(s, training=False), "clean"),
    ("trades none", {}, trades, ""),
    ("mart none", {}, lambda s: mart(s)[0].mean(), ""),
    ("bat none", {}, bat, ""),
    ("at faal", {}, faal_at, ""),
    ("trades faal", {}, faal_trades, ""),
    ("mart faal", {}, faal_mart, ""),
    ("trades frl-rwrm", {}, frl, ""),
    ("at cfa", {}, cfa_at, "clean"),
    ("trades cfa", {}, cfa_trades, "clean"),
    ("at cfa-ccm", {}, cfa_at, "clean"),
    ("trades cfa-ccm", {}, cfa_ccm_trades, "clean"),
    ("trades wat", {}, wat, ""),
    ("at fat", {}, lambda s: fat(s, "at"), ""),
    ("trades fat", {}, lambda s: fat(s, "trades"), ""),
    ("trades dafa", {}, dafa, ""),
    ("at dafa", {}, dafa_at, ""),
    ("trades trix", {}, trix, ""),
    ("at cfol", {}, lambda s: at(s, training=False, restart=False), ""),
    ("trades csr", {}, csr, ""),
]


def prepared(objective: str, fairness: str, few: Splits, **settings: Any) -> Trainer:
    config = replace(
        SHORT, objective=objective, fairness=fairness, variant="release", attack_steps=STEPS, fairness_rate=-1.0, **settings
    )
    state = TrainingState.fresh(Net(), Recipe.of(**recipe_settings(config, validation=True)), config)
    if (objective, fairness) != ("at", "dafa"):
        state.recipe.fairness.state.update({n: t.clone() for n, t in LEARNED.get(fairness, {}).items()})
    return Trainer(state, few, config)


def batches(few: Splits) -> list[Batch]:
    found = []
    for first in (0, 40):
        keys = torch.arange(first, first + 40)
        found.append(Batch(*few.train.batch(keys), keys))
    return found


def same(net: nn.Module, reference: nn.Module) -> None:
    for (name, mine), theirs in zip(net.state_dict().items(), reference.state_dict().values(), strict=True):
        assert torch.allclose(mine.double(), theirs.double(), atol=1e-7, rtol=1e-6), name


@pytest.mark.parametrize("parts, settings, reference, after", CASES, ids=[f"{c[0]} {c[1].get('batch_norm', '')}" for c in CASES])
def test_two_steps_are_those_of_the_release(
    parts: str, settings: dict[str, Any], reference: Reference, after: str, few: Splits
) -> None:
    trainer = prepared(*parts.split(), few, **settings)
    config, net = trainer.config, Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=config.momentum, weight_decay=config.weight_decay)
    for batch in batches(few):
        optimizer.param_groups[0]["lr"] = trainer.learning_rate
        done = step(trainer, batch, before_batch(trainer.state))
        loss = reference(Step(net, batch, config))
        optimizer.zero_grad()
        loss.backward()
        for mine, theirs in zip(trainer.state.model.parameters(), net.parameters(), strict=True):
            assert mine.grad is not None
            assert theirs.grad is not None
            assert torch.allclose(mine.grad, theirs.grad, atol=1e-7, rtol=1e-6)
        optimizer.step()
        if after == "clean":
            net.train()
            net(batch.images)
        if "fat" not in parts:  # its penalty is descended, not shown
            assert done.loss == pytest.approx(loss.item(), rel=1e-6)
        same(trainer.state.model, net)


@pytest.mark.parametrize("name", ["at none", "trades none", "trades csr", "at faal"])
def test_two_steps_under_perturbed_weights_are_those_of_the_release(name: str, few: Splits) -> None:
    objective, fairness = name.split()
    trainer, net = prepared(objective, fairness, few, awp_gamma=0.01), Net()
    config = trainer.config
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=config.momentum, weight_decay=config.weight_decay)
    for epoch, batch in enumerate(batches(few)):
        trainer.state.epoch, trainer.state.batch = epoch, 0  # each is the first of an epoch
        train = name == "at none" and epoch == 0  # AWP's code attacks in evaluation mode after an evaluation
        optimizer.param_groups[0]["lr"] = trainer.learning_rate
        step(trainer, batch, before_batch(trainer.state))
        s = Step(net, batch, config, epoch)
        adv = s.attacked(s.uniform() if objective == "at" else s.gaussian(), "ce" if objective == "at" else "kl", training=train)
        if train:
            net(adv)
        net.train()
        if objective == "at":
            moves = perturbed(s, adv, lambda p, adv=adv, s=s: ce(p(adv), s.y).mean(), 0.01)
        else:
            moves = perturbed(
                s, adv, lambda p, adv=adv, s=s: (ce(p(s.x), s.y) + BETA * kl(p(s.x), p(adv))).mean(), 0.01
            )  # fmt: skip
        weights = [w for w in net.parameters() if w.ndim > 1]
        with torch.no_grad():
            for weight, move in zip(weights, moves, strict=True):
                weight.add_(move)
        if objective == "at":
            logits = net(adv)
            factor = torch.ones(CLASSES) if fairness == "none" else weights_of_faal(s, logits)
            if fairness == "faal":
                net(s.x)
            loss = (factor[s.y] * ce(logits, s.y)).mean()
        else:
            loss = trades_awp(s, adv) if fairness == "none" else csr_awp(s, adv)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for weight, move in zip(weights, moves, strict=True):
                weight.sub_(move)
        if name == "at none":
            net(s.x)
        same(trainer.state.model, net)


def test_every_release_names_parts_that_exist_and_has_the_passes_that_its_loss_needs() -> None:
    for fairness, rows in releases().items():
        for name, row in rows.items():
            objective, gamma = name.removesuffix("-awp"), 0.01 if name.endswith("-awp") else 0.0
            recipe = Recipe.of(objective, fairness, variant="release", awp_gamma=gamma)
            made = order(row.passes)
            assert set(recipe.objective.passes) <= set(made.before), f"{fairness} {name}"
            assert set(made.before) <= {"clean", "adv", "inner", "outer", "restart"}
            assert set(made.after) <= {"clean"}
            assert (recipe.passes, recipe.start, recipe.plain.passes) == (row.passes, row.start, row.passes)
            assert len(made.before) - ("restart" in made.before) + len(made.after) <= len(recipe.objective.passes) + 2


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"objective": "at", "fairness": "wat"}, "variant=release: there is no released code of fairness=wat for objective=at. It has trades."),
        ({"objective": "at", "fairness": "group-dro"}, "there is no released code of fairness=group-dro. Releases are known of none, faal"),
        ({"objective": "trades", "fairness": "dafa", "awp_gamma": 0.1}, "for objective=trades with awp_gamma above 0. It has at, trades."),
        ({"objective": "at", "fairness": "none", "replays": 3}, r"no released code of fairness=none for objective=at with free training \(replays=3\)"),
        ({"objective": "standard", "fairness": "none"}, "for objective=standard. It has at, at-awp, trades"),
    ],
)  # fmt: skip
def test_a_release_that_does_not_exist_is_an_error_that_names_those_that_do(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Recipe.of(**settings, variant="release")
    with pytest.raises(RecipeError, match="batch_norm_passes=release: "):
        Recipe.of(**settings, batch_norm_passes="release")
    with pytest.raises(ConfigError, match=said):
        Config.from_mapping(settings | {"variant": "release"})
    assert Recipe.of(**settings, batch_norm_passes="fewest").passes == ""


def test_the_passes_can_be_chosen_apart_from_the_variant() -> None:
    assert Recipe.of("at", "faal", batch_norm_passes="release").passes == "adv clean"
    assert Recipe.of("at", "faal", variant="release", batch_norm_passes="fewest").passes == ""
    assert Recipe.of("at", "faal").passes == ""
    paper = Recipe.of("trades", "csr", batch_norm_passes="release")
    assert (paper.passes, paper.start) == ("clean adv clean adv", "gaussian")


@pytest.mark.parametrize(
    "passes, said",
    [
        ("clean advv", "'advv' is not a pass here. Passes are clean, adv, inner, outer, restart"),
        ("clean adv | restart", "'restart' is not a pass here"),
        ("clean | adv", "the objective needs clean, adv; adv is missing before the step"),
    ],
)
def test_passes_that_make_no_sense_are_refused(passes: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        replace(Recipe.of("trades", "none"), passes=passes)


def test_passes_of_an_objective_that_makes_its_own_are_refused() -> None:
    class Own:
        terms, points, attack_loss, start = ("robust",), 1, "cross-entropy", "uniform"

        def __call__(self, model: nn.Module, images: torch.Tensor, adv: torch.Tensor, labels: torch.Tensor) -> Any:
            raise NotImplementedError

    with pytest.raises(RecipeError, match="this objective makes its own passes. Leave passes empty"):
        replace(Recipe.of(Own(), "none"), passes="adv clean")


def tracked(trainer: Trainer) -> int:
    return int(trainer.state.model.layers[1].num_batches_tracked)


@pytest.mark.parametrize("accumulation", [1, 4])
def test_a_batch_in_parts_makes_the_releases_passes_once_a_part(accumulation: int, few: Splits) -> None:
    trainer = prepared("trades", "cfa", few, accumulation=accumulation)
    step(trainer, batches(few)[0], before_batch(trainer.state))
    assert tracked(trainer) == 4 * accumulation, "clean, adv, clean, and clean after the step"
    fewest = prepared("trades", "cfa", few, accumulation=accumulation, batch_norm_passes="fewest")
    step(fewest, batches(few)[0], before_batch(fewest.state))
    assert tracked(fewest) == 2 * accumulation


def test_the_restarts_pass_moves_batchnorm_only_where_the_attack_does(few: Splits) -> None:
    found = []
    for mode in ("eval", "train"):
        trainer = prepared("at", "none", few, batch_norm=mode)
        step(trainer, batches(few)[0], before_batch(trainer.state))
        found.append(tracked(trainer))
    assert found == [2, 2 + STEPS + 1]


def test_a_run_of_a_release_resumes_bit_for_bit(tmp_path: Path) -> None:
    config = Config.from_mapping(
        {"objective": "trades", "fairness": "cfa", "variant": "release", "model": "preact-resnet-18", "filters": 2, "epochs": 2,
         "batch_size": 400, "attack_steps": 1, "validation_steps": 1, "checkpoint_every": 1}
    )  # fmt: skip
    for _ in run(config, tmp_path / "whole"):
        pass
    cut = run(config, tmp_path / "cut")
    for event in cut:
        if getattr(event, "step", 0) == 4:  # within the second epoch
            break
    cut.close()  # pyright: ignore[reportAttributeAccessIssue]
    for _ in run(config, tmp_path / "cut", resume=True):
        pass
    whole, resumed = (load_model(tmp_path / name)[0].state_dict() for name in ("whole", "cut"))
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


def scripted(signs: str) -> tuple[Climb, torch.Tensor, torch.Tensor]:
    """An ascent whose k-th iterate is the number k, right or wrong by the k-th sign."""

    def climb(point: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        right = signs[int(point.item())] == "+"
        return torch.tensor([[1.0, 0.0] if right else [0.0, 1.0]]), point + 1

    return climb, torch.zeros(1, 1, 1, 1), torch.tensor([0])


@pytest.mark.parametrize(
    "signs, paper, release",
    [
        ("++++++++++-", (9, 10), (10, 10)),
        ("++-++++-+++", (1, 3), (1, 7)),
        ("++-+++++++-", (1, 3), (1, 10)),
        ("-+-++++++++", (0, 1), (0, 2)),
        ("+++++++++--", (8, 10), (8, 10)),
        ("+++++++++++", (10, 10), (10, 10)),
    ],
)
def test_bats_points_are_those_of_the_paper_or_of_the_release(
    signs: str, paper: tuple[int, int], release: tuple[int, int]
) -> None:
    climb, start, label = scripted(signs)
    found = boundary_pair(climb, start, label, 10, lambda: None)
    assert tuple(found.flatten().int().tolist()) == paper
    found = released_pair(climb, torch.stack([start, start]), label, 10, lambda: None)
    assert tuple(found.flatten().int().tolist()) == release


def test_csrs_confusion_is_counted_at_the_last_iterate_with_the_true_logit_lowered(few: Splits) -> None:
    trainer = prepared("trades", "csr", few)
    with torch.no_grad():
        for parameter in trainer.state.model.parameters():
            parameter.mul_(3.0)  # so that predictions differ
    found = Measurement.of(trainer).training_confusion(STEPS, 0.9)
    net, config = trainer.state.model, trainer.config
    keys = torch.arange(len(few.train))
    x, y = few.train.batch(keys)
    noise = keyed_random.uniform(config.seed, 0, keys, keyed_random.EVALUATION_START, tuple(x.shape[1:]))
    start = x + EPSILON * (2 * noise - 1)  # outside of the box at black pixels
    adv = Step(net, Batch(x, y, keys), config).attacked(start, "ce")
    logits = net.eval()(adv).detach()
    for i, label in enumerate(y.tolist()):
        logits[i, label] *= 0.9
    expected = torch.zeros(CLASSES, CLASSES)
    for guess, label in zip(logits.argmax(1).tolist(), y.tolist(), strict=True):
        expected[guess, label] += 1
    assert torch.equal(found.float(), expected)
    assert not torch.equal(found, Measurement.of(trainer).training_confusion(STEPS)), "ours stops at the first wrong iterate"


def test_frls_errors_are_those_of_the_last_iterate_in_the_release(few: Splits) -> None:
    trainer = prepared("trades", "frl-rwrm", few)
    measure = Measurement.of(trainer)
    keys = torch.arange(len(few.validation))
    x, y = few.validation.batch(keys)
    noise = keyed_random.uniform(trainer.config.seed, 0, keys, keyed_random.EVALUATION_START, tuple(x.shape[1:]))
    start = (x + EPSILON * (2 * noise - 1)).clamp(0, 1)
    adv = Step(trainer.state.model, Batch(x, y, keys), trainer.config).attacked(start, "ce")
    wrong = (trainer.state.model.eval()(adv).argmax(1) != y).float()
    by_class = torch.stack([wrong[y == c].mean() for c in range(CLASSES)])
    assert torch.allclose(measure.validation_errors(STEPS, last=True)[1], by_class)
    assert bool((measure.validation_errors(STEPS)[1] >= by_class).all())
    assert measure.validation_counts() == (pytest.approx(torch.bincount(y, minlength=CLASSES)), trainer.config.batch_size)


@pytest.mark.parametrize("objective, fairness", [("at", "dafa"), ("trades", "trix"), ("trades", "cfa"), ("trades", "cfa-ccm")])
def test_before_it_starts_a_release_is_its_own_code_with_no_weights_yet(objective: str, fairness: str) -> None:
    recipe = Recipe.of(objective, fairness, variant="release", fairness_start=5)
    early = recipe.at(4)
    assert type(early.fairness) is type(recipe.fairness)
    assert early.fairness is not recipe.fairness, "it never learns"
    assert (early.passes, early.start) == (recipe.passes, recipe.start)
    if fairness != "cfa":
        assert type(Recipe.of(objective, fairness, fairness_start=5).at(4).fairness).__name__ == "NoFairness"


def test_cfas_accuracy_of_a_class_takes_classes_for_balanced_in_the_release() -> None:
    epoch = ClassStats(torch.tensor([6.0, 3.0, 1.0]), {"error": torch.tensor([3.0, 0.0, 1.0])})
    found = {}
    for variant in ("paper", "release"):
        method = CFA(variant=variant)
        method.end_epoch(epoch, None)
        found[variant] = method.state["accuracy"].tolist()
    assert found["paper"] == pytest.approx([3 / 6, 3 / 3, 0 / 1])
    assert found["release"] == pytest.approx([3 * 3 / 10, 3 * 3 / 10, 3 * 0 / 10]), "C * correct / all images"


def test_differences_are_about_methods_that_exist() -> None:
    rows = differences()
    assert len(rows) >= 20
    known = {*OBJECTIVES, *FAIRNESS, *AVERAGING, "awp", "all"}
    assert {name.strip() for row in rows for name in row.method.split(",")} <= known
    assert all(all(field.strip() for field in row) for row in rows)
    assert len({(row.method, row.what) for row in rows}) == len(rows)
    assert {row.method for row in differences("csr")} == {"csr", "all"}
