"""The product of parts: every point that makes sense trains, acts, and survives an interruption; every other one is refused."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from conftest import RATES, SHORT, fresh, sensible
from torch import nn

from faal_lab.catalogue import FAIRNESS
from faal_lab.data.images import Splits
from faal_lab.errors import ConfigError, RecipeError, UnknownName
from faal_lab.methods.fairness.cfa import size_multipliers
from faal_lab.methods.objectives import OBJECTIVES
from faal_lab.methods.presets import PRESETS, PROTOCOLS, preset_settings
from faal_lab.methods.recipe import Recipe
from faal_lab.models.build import ModelSpec
from faal_lab.runs.config import Config
from faal_lab.runs.events import Command, DialTurned, EpochDone, StepDone
from faal_lab.training.loop import train
from faal_lab.training.restore import from_checkpoint, to_checkpoint
from faal_lab.training.run import recipe_settings
from faal_lab.training.steering import Steering
from faal_lab.training.step import TrainingDiverged
from faal_lab.training.trainer import Trainer, TrainingState

SPEC = ModelSpec("small-cnn", 10, 1, 8, 8, (0.3,), (0.4,))


def test_how_many_points_make_sense() -> None:
    pairs = {(objective, fairness) for objective, fairness, _, _ in sensible()}
    assert len(sensible()) == 6 * len(pairs)
    refused = {(o, f) for o in OBJECTIVES for f in FAIRNESS} - pairs
    only_trades = ("frl-rw", "frl-rwrm", "cfa-ccr", "csr")
    attacked = ("frl-rm", "cfa", "cfa-ccm", "dafa", "trix", "robust-lt", "fair-tat")
    expected = {(o, f) for o in OBJECTIVES if o != "trades" for f in only_trades} | {("standard", f) for f in attacked}
    assert refused == expected | {("bat", "trix"), ("bat", "fair-tat")}


@pytest.mark.parametrize("objective, fairness, gamma, averaging", sensible(), ids=lambda value: str(value))
def test_every_point_trains_and_acts(few: Splits, objective: str, fairness: str, gamma: float, averaging: str) -> None:
    config = replace(
        SHORT, objective=objective, fairness=fairness, awp_gamma=gamma, averaging=averaging,
        fairness_rate=RATES.get(fairness, -1.0),
    )  # fmt: skip
    state = fresh(config)
    before = {n: p.detach().clone() for n, p in state.model.named_parameters()}
    events = list(train(Trainer(state, few, config)))
    steps = [e for e in events if isinstance(e, StepDone)]
    assert len(steps) == 4
    assert all(math.isfinite(s.loss) for s in steps)
    assert all(sum(s.weights) == pytest.approx(1) for s in steps)
    assert all(min(s.weights) >= 0 for s in steps)
    assert all(torch.isfinite(p).all() for p in state.model.parameters())
    assert all(not torch.equal(before[n], p) for n, p in state.model.named_parameters())
    assert bool(state.average) == (averaging != "none")
    if averaging != "none":
        assert state.average.keys() == state.model.state_dict().keys()
    uniform = [1 / 10 if n else 0.0 for n in steps[-1].count]
    uniform = [u / sum(uniform) for u in uniform]
    acts = max(abs(w - u) for w, u in zip(steps[-1].weights, uniform, strict=True)) > 1e-4 or any(
        r is not None and abs(r - config.epsilon) > 1e-4 for r in steps[-1].radii or []
    )
    assert acts == (fairness != "none")
    assert [sum(e.count) for e in events if isinstance(e, EpochDone)] == [64, 64]


@pytest.mark.parametrize("gamma", [0.0, 0.01])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_faal_at_tau_zero_is_its_base_bit_for_bit(few: Splits, objective: str, gamma: float) -> None:
    plain = replace(SHORT, objective=objective, awp_gamma=gamma, attack_start="gaussian")
    faal = replace(plain, fairness="faal", tau=0.0)
    first, second = fresh(plain), fresh(faal)
    losses = [
        [e.loss for e in train(Trainer(state, few, c)) if isinstance(e, StepDone)]
        for state, c in ((first, plain), (second, faal))
    ]
    assert losses[0] == losses[1]
    assert all(torch.equal(a, b) for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True))


# Setting that makes a method do nothing -> the factor by which it still scales the loss. The pages in docs/methods list the same.
NEUTRAL = [
    ("at", {"fairness": "faal", "tau": 0.0}, 1.0),
    ("at", {"fairness": "wat", "fairness_rate": 0.0}, 20 / 11),
    ("at", {"fairness": "fat", "fairness_strength": 0.0}, 1.0),
    ("at", {"fairness": "sy-far", "fairness_strength": 0.0}, 1.0),
    ("trades", {"fairness": "sy-far", "fairness_strength": 0.0}, 1.0),
    ("at", {"fairness": "dafa", "fairness_strength": 0.0}, 1.0),
    ("trades", {"fairness": "dafa", "fairness_strength": 0.0}, 1.0),
    ("trades", {"fairness": "csr", "fairness_strength": 0.0}, 1.0),
    ("trades", {"fairness": "frl-rw", "fairness_rate": 0.0}, 1.0),
    ("trades", {"fairness": "frl-rwrm", "fairness_rate": 0.0}, 1.0),
    ("at", {"fairness": "frl-rm", "fairness_rate": 0.0}, 1.0),
]


def second_epoch(config: Config, few: Splits) -> tuple[float, list[torch.Tensor]]:
    """Loss and update of the first step of the second epoch, at rate 0 until then: by then every method has learned."""
    state = fresh(config)
    state.dials["learning_rate"] = 0.0
    events = train(Trainer(state, few, config))
    while not isinstance(next(events), EpochDone):
        pass
    state.dials["learning_rate"] = config.learning_rate
    state.optimizer.state.clear()  # no momentum of the first epoch
    before = [p.detach().clone() for p in state.model.parameters()]
    done = next(event for event in events if isinstance(event, StepDone))
    return done.loss, [p.detach() - old for p, old in zip(state.model.parameters(), before, strict=True)]


@pytest.mark.parametrize("objective, settings, scale", NEUTRAL, ids=lambda value: str(value))
def test_neutral_settings_leave_the_scale_that_is_stated(few: Splits, objective: str, settings: dict, scale: float) -> None:
    plain = replace(SHORT, objective=objective, attack_start="gaussian", weight_decay=0.0, lr_schedule="constant")
    loss, update = second_epoch(plain, few)
    other, changed = second_epoch(replace(plain, **settings), few)
    assert other == pytest.approx(scale * loss, rel=1e-5)
    assert all(torch.allclose(c, scale * u, rtol=1e-2, atol=1e-6) for c, u in zip(changed, update, strict=True))
    active = {name: {"tau": 1.0}.get(name, 3.0) for name in settings if name != "fairness"}
    if "csr" in settings.values():
        active = {"fairness_strength": 0.5}
    acting, _ = second_epoch(replace(plain, **(settings | active)), few)
    assert acting != pytest.approx(scale * loss, rel=1e-5), "with another setting it does act"


def test_robust_lts_radii_rise_by_the_epochs_of_the_run_and_follow_the_training_images(few: Splits) -> None:
    config = replace(SHORT, fairness="robust-lt", epochs=5)
    trainer = Trainer(fresh(config), few, config)
    sizes = trainer.class_sizes
    assert sizes.tolist() == [int((few.train.labels == c).sum()) for c in range(10)]
    steps = [e for e in train(trainer) if isinstance(e, StepDone)]
    for done in steps:
        risen = min(1.0, done.epoch / 5 / 0.8)
        expected = risen * config.epsilon * size_multipliers(sizes, 0.3)
        assert done.radii is not None
        assert all(r == pytest.approx(float(e), abs=1e-6) for r, e, n in zip(done.radii, expected, done.count, strict=True) if n)
    assert len(steps) == 10


def test_cfas_scale_holds_before_it_acts_and_after(few: Splits) -> None:
    plain = replace(SHORT, objective="trades", attack_start="gaussian", learning_rate=0.0)
    base = [e.loss for e in train(Trainer(fresh(plain), few, plain)) if isinstance(e, StepDone)]
    for start in (0, 1):
        config = replace(plain, fairness="cfa", fairness_start=start)
        found = [e.loss for e in train(Trainer(fresh(config), few, config)) if isinstance(e, StepDone)]
        assert found[:2] == pytest.approx([loss / 7 for loss in base[:2]], rel=1e-5)
        assert found[2] != pytest.approx(base[2] / 7, rel=1e-3)
        assert 0.4 < found[2] / (base[2] / 7) < 2.5, "no jump of the scale where it sets in"


def test_an_average_that_keeps_nothing_is_the_last_weights(few: Splits) -> None:
    config = replace(SHORT, averaging="ema", average_decay=0.0)
    state = fresh(config)
    list(train(Trainer(state, few, config)))
    assert all(torch.equal(t, state.average[n]) for n, t in state.model.state_dict().items())


INTERRUPTED = [
    *({"objective": "trades", "fairness": name, "fairness_rate": RATES.get(name, -1.0)} for name in FAIRNESS),
    {"objective": "at", "fairness": "faal", "score": "running"},
    {"objective": "at", "averaging": "ema", "awp_gamma": 0.01},
    {"objective": "trades", "fairness": "cfa", "averaging": "fawa"},
    {"objective": "at", "fairness": "faal", "replays": 2},
    {"objective": "bat", "fairness": "faal", "tau_changes": "1:0.2"},
    # with BatchNorm, whose statistics are state, too
    {"model": "preact-resnet-18", "fairness": "faal", "averaging": "ema", "awp_gamma": 0.01},
    {"model": "preact-resnet-18", "objective": "trades", "fairness": "wat", "batch_norm": "train"},
    {"model": "preact-resnet-18", "fairness": "cfa", "averaging": "fawa", "batch_norm": "train"},
    {"model": "preact-resnet-18", "objective": "trades", "fairness": "csr", "replays": 2},
]


@pytest.mark.parametrize("settings", INTERRUPTED, ids=lambda s: "-".join(map(str, s.values())))
@pytest.mark.parametrize("after", [1, 2, 4])
def test_every_methods_state_survives_save_and_resume(few: Splits, settings: dict, after: int) -> None:
    config = replace(SHORT, **settings)
    whole = fresh(config)
    expected = list(train(Trainer(whole, few, config)))
    first = fresh(config)
    events = train(Trainer(first, few, config))
    seen = list(itertools.islice(events, after))
    events.close()
    saved = to_checkpoint(Trainer(first, few, config, SPEC))
    second = fresh(config)
    from_checkpoint(Trainer(second, few, config), saved)
    assert seen + list(train(Trainer(second, few, config))) == expected
    for mine, theirs in zip(whole.model.state_dict().values(), second.model.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)
    assert all(torch.equal(whole.average[n], second.average[n]) for n in whole.average)


@pytest.mark.parametrize(
    "settings, text",
    [
        (
            {"objective": "at", "fairness": "frl-rw"},
            "frl-rw weighs the terms clean and robust apart, and objective=at has robust: there is no clean term",
        ),
        ({"objective": "at", "fairness": "csr"}, "csr weighs the terms clean and robust apart.* Choose objective=trades"),
        ({"objective": "mart", "fairness": "frl-rwrm"}, "objective=mart has boosted, robust: there is no clean term"),
        ({"objective": "bat", "fairness": "trix"}, "bat needs attacks that run away from the true class.* aims some at a target"),
        (
            {"objective": "standard", "fairness": "dafa"},
            "dafa acts on attacks, and objective=standard trains on clean images alone",
        ),
        ({"fairness": "cfol", "replays": 4}, "free training. uses each batch several times, and fairness=cfol draws anew"),
        (
            {"objective": "trades", "fairness": "wat", "epochs": 1},
            "wat learns from an epoch before it acts: in one epoch it would never",
        ),
        ({"tau_changes": "1:0.7,1:0.2"}, "tau_changes names an epoch twice: '1:0.7,1:0.2'"),
        ({"tau_changes": "1:0.7", "multiplier": 3.0}, "multiplier and tau_changes both set the radius. Give one of them"),
        ({"learning_rate": 1e300}, "learning_rate must be between 0 and 1e.30, got 1e.300"),
        ({"tau_changes": "7:0.2"}, "tau_changes names epoch 7, and the run has the epochs 0 to 3"),
        ({"objective": "bat", "replays": 4}, "free training.* cannot make what objective=bat"),
        ({"objective": "trades", "fairness": "trix", "replays": 4}, "free training.*fairness=trix"),
        (
            {"fairness": "faal", "fairness_start": 4},
            "fairness_start=4 is not within the 4 epochs of this run: faal would never act",
        ),
        (
            {"averaging": "ema", "average_start": 50},
            "average_start=50 is not within the 4 epochs of this run: ema would never act",
        ),
        (
            {"awp_gamma": 0.1, "awp_start": 9},
            "awp_start=9 is not within the 4 epochs of this run: awp would never act. Lower it, or train",
        ),
        ({"averaging": "emma"}, "Unknown averaging 'emma'. Did you mean 'ema'"),
        ({"tau_changes": "x:0.5"}, "tau_changes must be like 100:0.25,150:0.5 .epoch:tau., got 'x:0.5'"),
        ({"tau_changes": "3:-1"}, "tau_changes wants tau -1.0 at epoch 3; it must be between 0 and"),
        ({"lr_drops": "50,75"}, "lr_drops must be shares of the run such as 0.5,0.75, got '50,75'"),
    ],
)
def test_what_makes_no_sense_is_refused_with_its_reason(settings: dict, text: str) -> None:
    with pytest.raises((ConfigError, UnknownName), match=text):
        Config.from_mapping(settings)


@pytest.mark.parametrize("settings", [{"averaging": "fawa"}, {"fairness": "wat"}, {"objective": "trades", "fairness": "frl-rw"}])
def test_what_is_decided_on_validation_images_is_refused_without_them(settings: dict) -> None:
    with pytest.raises(RecipeError, match="is decided on validation images, and there are none. Set validation to split"):
        Recipe.of(**{"objective": "at", "fairness": "none", **settings}, validation=False)


LATE = {"trades-awp", "cfa-at", "cfa-trades", "dafa-trades", "trix-trades"}  # begin after more epochs than a fine-tuning has


@pytest.mark.parametrize("recipe", PRESETS)
@pytest.mark.parametrize("protocol", ["", *PROTOCOLS])
def test_every_recipe_under_every_protocol_is_an_ordinary_configuration(recipe: str, protocol: str) -> None:
    stated = {**preset_settings(recipe, protocol), "data": "digits", "model": "small-cnn"}
    if (
        recipe in LATE
        and stated.get("epochs", 4) < 70
        and not (recipe in ("trades-awp", "cfa-at", "cfa-trades") and stated.get("epochs", 4) > 50)
    ):
        with pytest.raises(ConfigError, match="would never act. Lower it, or train for longer"):
            Config.from_mapping(stated)
        return
    config = Config.from_mapping(stated)
    assert config.to_mapping().items() >= stated.items()
    built = Recipe.of(**recipe_settings(config, validation=True))
    assert built.awp_gamma == PRESETS[recipe].get("awp_gamma", 0.0)
    assert Config.from_mapping(config.to_mapping()) == config


def test_a_preset_that_is_more_than_a_recipe_says_so() -> None:
    with pytest.raises(RecipeError, match="free-at is more than a recipe: it also sets replays=8. Use Config.from_mapping"):
        Recipe.named("free-at")
    with pytest.raises(RecipeError, match="fgsm-rs is more than a recipe: it also sets attack_steps=1, step_ratio=1.25"):
        Recipe.named("fgsm-rs")
    assert Recipe.named("trades-awp").awp_start == 10
    assert Recipe.named("cfa-at").fairness_start == 10


def test_the_papers_protocols() -> None:
    two = Config.from_mapping(preset_settings("faal-at-awp", "finetune-2ep") | {"data": "digits"})
    assert (two.epochs, two.learning_rate, two.drops(), two.tau, two.awp_gamma) == (2, 0.01, (0.5,), 0.5, 0.01)
    long = Config.from_mapping(preset_settings("faal-trades", "scratch-200ep") | {"data": "digits", "model": "small-cnn"})
    assert (long.fairness_start, long.tau, long.tau_schedule(), long.average_start) == (100, 0.25, {150: 0.5}, 100)
    assert preset_settings("pgd-at", "scratch-200ep")["averaging"] == "none", "the baseline does not borrow FAAL's average"
    assert preset_settings("cfa-at", "scratch-200ep")["average_start"] == 50
    assert preset_settings("faal-at", "cifar100-100ep")["tau"] == 0.05


def test_tau_follows_its_schedule_and_says_so(few: Splits) -> None:
    config = replace(SHORT, fairness="faal", tau=0.25, tau_changes="1:0.5")
    events = list(train(Trainer(fresh(config), few, config)))
    assert [s.tau for s in events if isinstance(s, StepDone)] == [0.25] * 2 + [0.5] * 2
    assert [e for e in events if isinstance(e, DialTurned)] == [DialTurned(2, "tau", 0.25, 0.5)]
    assert all(s.divergence == pytest.approx(s.tau) for s in events if isinstance(s, StepDone))


@pytest.mark.parametrize(
    "objective, fairness, variant",
    [("trades", "frl-rwrm", "paper"), ("at", "faal", "paper"), ("mart", "faal", "release"), ("trades", "fat", "release")],
)
def test_a_method_does_nothing_before_it_starts(few: Splits, objective: str, fairness: str, variant: str) -> None:
    plain = replace(SHORT, objective=objective, model="preact-resnet-18")
    late = replace(plain, fairness=fairness, fairness_start=1, variant=variant)
    if variant == "release":  # its own code, switched off: passes, start and attack are those of the release
        plain = replace(late, fairness_start=0, tau=0.0, fairness_strength=0.0)
    first, second = fresh(plain), fresh(late)
    found = [list(itertools.islice(train(Trainer(state, few, c)), 3)) for state, c in ((first, plain), (second, late))]
    if variant == "paper":
        assert found[0] == found[1]
    for mine, theirs in zip(first.model.state_dict().values(), second.model.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("name", ["dafa", "cfa", "wat"])
def test_a_method_that_learns_from_an_epoch_learns_from_the_one_before_it_starts(few: Splits, name: str) -> None:
    config = replace(SHORT, objective="trades", fairness=name, fairness_start=1)
    events = [e for e in train(Trainer(fresh(config), few, config)) if isinstance(e, StepDone)]
    assert events[1].weights == pytest.approx([1 / 10] * 10)
    assert events[-1].weights != pytest.approx([1 / 10] * 10)


@pytest.mark.parametrize("name", ["cfol", "group-dro"])
def test_a_refused_step_leaves_what_the_method_has_learned(few: Splits, name: str) -> None:
    config = replace(SHORT, fairness=name, fairness_rate=0.1)
    state = fresh(config)
    events = train(Trainer(state, few, config))
    next(events)
    learned = {n: t.clone() for n, t in state.recipe.fairness.state.items()}
    state.model.classifier.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(TrainingDiverged, match="The last good state is step 1"):
        next(events)
    assert all(torch.equal(t, learned[n]) for n, t in state.recipe.fairness.state.items())


def test_a_recipe_can_be_trained_by_twice(few: Splits) -> None:
    recipe, found = Recipe.of("trades", "dafa"), []
    for _ in range(2):
        state = TrainingState.fresh(fresh(SHORT).model, recipe, SHORT)
        found.append([e for e in train(Trainer(state, few, SHORT)) if isinstance(e, StepDone)])
    assert found[0] == found[1]


def test_a_dial_turned_while_validating_does_not_lose_the_epoch(few: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Steering, "_INTERVAL", 0.0)
    state, sent = fresh(SHORT), []

    def poll() -> list[Command]:
        if state.activity == "validating" and not sent:
            sent.append(Command("turn", "tau", 0.9, number=1))
            return sent
        return []

    kinds = [type(e).__name__ for e in train(Trainer(state, few, SHORT), poll)]
    assert kinds == ["StepDone", "StepDone", "EpochDone", "DialTurned", "StepDone", "StepDone", "EpochDone"]


def test_faals_release_differs_from_the_paper_where_its_docstring_says() -> None:
    paper, release = (Recipe.of("mart", "faal", variant=v) for v in ("paper", "release"))
    assert (paper.start, release.start) == ("zero", "gaussian-uncut")
    assert (paper.fairness.score, release.fairness.score) == ("mean", "sum")
    assert (paper.objective.attack_loss, release.objective.attack_loss) == ("cross-entropy", "kl")
    assert (paper.passes, release.passes) == ("", "adv clean")
    assert Recipe.of("at", "faal", variant="release").start == "uniform"
    assert Recipe.of("at", "faal", variant="release", score="mean").fairness.score == "mean"


def test_the_releases_extra_clean_forward_moves_batchnorm_as_0_81_0_09_0_10(few: Splits) -> None:
    def statistics(passes: str) -> torch.Tensor:
        config = replace(SHORT, attack_steps=0, epochs=1, batch_size=256, learning_rate=0.0)
        state = fresh(config)
        state.model = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 10))
        state.optimizer = torch.optim.SGD(state.model.parameters(), lr=0.0)
        state.recipe = replace(state.recipe, passes=passes, start="zero")
        next(train(Trainer(state, few, config)))
        return state.model[0].running_mean

    mean = few.train.all()[0].mean()
    assert statistics("").item() == pytest.approx(0.1 * mean.item(), rel=1e-5)
    assert statistics("adv clean").item() == pytest.approx(0.19 * mean.item(), rel=1e-5)
