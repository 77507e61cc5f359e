"""Networks that users bring: each works with the right numbers, or ends in one line before anything is written."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from conftest import fresh
from torch import nn
from torch.nn import functional as F

from faal_lab.data.images import Images, Splits
from faal_lab.errors import ConfigError, FaalLabError
from faal_lab.evaluation.adopt import adopt
from faal_lab.evaluation.evaluate import evaluate_run
from faal_lab.evaluation.suite import Manner, evaluate
from faal_lab.methods.predict import EvaluationError
from faal_lab.models.build import MODELS, ModelSpec, build
from faal_lab.models.examine import ModelProblem, NetworkWarning, architecture_sha256, examine_network, try_model
from faal_lab.models.weights import load_foreign
from faal_lab.runs import RunFolder, read_checkpoint
from faal_lab.runs.config import Config
from faal_lab.runs.events import RunFinished, RunResumed
from faal_lab.training.run import prepare, run

pytestmark = pytest.mark.filterwarnings("ignore::faal_lab.models.normalize.NormalizationWarning")
QUICK = Config(epochs=1, batch_size=250, attack_steps=2, validation_steps=1, learning_rate=0.02)


class Net(nn.Module):
    """A small network with BatchNorm on 1x8x8 images, with a step before and one behind it."""

    def __init__(
        self, behind: Callable = lambda z: z, before: Callable = lambda x: x, outputs: int = 10, channels: int = 1
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.linear = nn.Linear(8, outputs)
        self.behind, self.before = behind, before

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return F.relu(self.norm(self.conv(self.before(images)))).mean((2, 3))

    def forward(self, images: torch.Tensor) -> Any:
        return self.behind(self.linear(self.features(images)))


class Constant(Net):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear.bias.expand(len(images), -1)


class Zero(Net):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.linear(0 * self.features(images))


class Counting(Net):
    """A buffer moves in each pass, in evaluation mode too; `by` says how."""

    def __init__(self, by: str) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1))
        self.by = by

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.by == "in place":
            self.seen += len(images)
        elif self.by == "by another tensor":
            self.seen = self.seen + len(images)
        elif self.by == "by a longer one":
            self.seen = torch.cat([self.seen, self.seen])
        elif self.training:
            self.seen += len(images)
        return super().forward(images)


class Output:
    """As Hugging Face's networks return it."""

    def __init__(self, logits: torch.Tensor) -> None:
        self.loss, self.logits = None, logits


class InTraining(Net):
    """As googlenet with auxiliary outputs."""

    def forward(self, images: torch.Tensor) -> Any:
        logits = super().forward(images)
        return (logits, logits) if self.training else logits


class NoGrad(Net):
    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images)


class InPlace(nn.Module):
    def __init__(self, *, on_images: bool) -> None:
        super().__init__()
        self.on_images, self.linear = on_images, nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.on_images:
            images -= 0.5
        return self.linear(images.flatten(1))


def linear(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), *layers)


def frozen(model: nn.Module) -> nn.Module:
    return model.requires_grad_(False)


def zero_head(model: Net) -> Net:
    nn.init.zeros_(model.linear.weight)
    return model


def dead(model: Net) -> Net:
    nn.init.constant_(model.norm.bias, -1e6)
    return model


def broken(model: Net) -> Net:
    with torch.no_grad():
        model.linear.bias[0] = torch.nan
    return model


def by_batch(z: torch.Tensor) -> torch.Tensor:
    return z - z.mean(0)


PROBABILITIES = "returns probabilities, and the losses take their softmax once more. Return logits: leave its softmax out"
BLIND = "gives the same logits for every image, and no weight can change that"
NO_GRADIENT = "gives no gradient by its images, and attacks need one"
PLACE = "changes its images in place. Write x = x - mean in place of x -= mean"


class Row(NamedTuple):
    make: Callable[[], nn.Module]
    error: str = ""  # it is refused before training
    note: str = ""  # it trains, and this is told


ROWS = {
    "plain": Row(Net),
    "constant logits": Row(Constant, BLIND),
    "constant logits by a zero": Row(Zero, BLIND),
    "dead units": Row(lambda: dead(Net()), BLIND),
    "a last layer of zeros": Row(lambda: zero_head(Net())),
    "softmax": Row(lambda: Net(lambda z: z.softmax(1)), PROBABILITIES),
    "softmax layer": Row(lambda: linear(nn.Softmax(1)), PROBABILITIES),
    "softmax by hand": Row(lambda: Net(lambda z: z.exp() / z.exp().sum(1, keepdim=True)), PROBABILITIES),
    "sigmoid": Row(lambda: Net(torch.sigmoid), r"ends in a sigmoid, which bounds its logits to \[0, 1\]"),
    "log_softmax": Row(lambda: Net(lambda z: z.log_softmax(1))),
    "images detached": Row(lambda: Net(before=lambda x: x.detach()), NO_GRADIENT),
    "images by .data": Row(lambda: Net(before=lambda x: x.data), NO_GRADIENT),
    "logits detached": Row(lambda: Net(lambda z: z.detach()), NO_GRADIENT),
    "no_grad": Row(NoGrad, NO_GRADIENT),
    "images rounded": Row(lambda: Net(before=lambda x: (4 * x).round() / 4), r"has no slope by its images \(round, sign"),
    "images compared": Row(lambda: Net(before=lambda x: (x > 0.5).float()), NO_GRADIENT),
    "a root of black pixels": Row(lambda: Net(before=lambda x: x.sqrt()), "has a gradient by its images that is not finite"),
    "all frozen": Row(lambda: frozen(Net()), r"has no weight to train: all are frozen. Call .requires_grad_\(True\)"),
    "no weights": Row(lambda: nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(10)), "has no parameters, so there is nothing to train"),
    "a weight that is not finite": Row(lambda: broken(Net()), "returns logits that are not finite: weights in linear.bias are not"),
    "a division by zero": Row(lambda: Net(lambda z: z / 0), "not finite: look for divisions, roots and logarithms"),
    "a tuple": Row(lambda: Net(lambda z: (z, z)), r"got tuple. Its \[0\] fits: wrap it in a module that returns that alone"),
    "features and logits": Row(lambda: Net(lambda z: (z[:, :3], z)), r"got tuple. Its \[1\] fits"),
    "a dict": Row(lambda: Net(lambda z: {"loss": None, "out": z}), r"got dict. Its \['out'\] fits"),
    "an object with logits": Row(lambda: Net(Output), r"got Output. Its .logits fits"),
    "None": Row(lambda: Net(lambda z: None), "got NoneType. Return one tensor"),
    "several outputs in training": Row(InTraining, r"must give logits \[8, 10\] in training mode, got tuple. Its \[0\] fits"),
    "too few outputs": Row(lambda: Net(outputs=7), r"got \[2, 7\]. Give its last layer 10 outputs"),
    "too many outputs": Row(lambda: Net(outputs=1000), r"got \[2, 1000\]. Give its last layer 10 outputs"),
    "[B, C, 1, 1]": Row(lambda: Net(lambda z: z[:, :, None, None]), r"got \[2, 10, 1, 1\]. Return logits.flatten\(1\)"),
    "squeeze": Row(lambda: Net(lambda z: z[:, :, None].squeeze()), r"got \[10\]. A batch of one image loses its dimension"),
    "one batch size": Row(lambda: Net(lambda z: z.view(2, 10)), "Net fails on 8 images in evaluation mode: shape"),
    "another size of image": Row(lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)), "does not take images of 1x8x8: .*shapes cannot be multiplied"),
    "other channels": Row(lambda: Net(channels=3), "does not take images of 1x8x8: .*3 channels"),
    "float64": Row(lambda: Net().double(), r"has weights of float64, expected float32. Call .float\(\) on it first"),
    "half": Row(lambda: Net().half(), r"has weights of float16, expected float32"),
    "bfloat16 in part": Row(lambda: linear(nn.Linear(10, 10).bfloat16()), r"has weights of bfloat16, expected float32"),
    "logits in half": Row(lambda: Net(lambda z: z.half()), r"got float16, expected float32. Return logits.float\(\)"),
    "no numbers": Row(lambda: Net().to("meta"), r"has no numbers in conv.weight, conv.bias, norm.weight and \d+ more \(device meta\)"),
    "lazy layers": Row(
        lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(10)), r"does not know the shape of 1.weight, 1.bias yet \(a lazy layer\)"
    ),
    "images changed in place": Row(lambda: InPlace(on_images=True), PLACE),
    "ReLU in place on the images": Row(lambda: nn.Sequential(nn.Hardtanh(0.2, 0.5, inplace=True), linear()), PLACE),
    "ReLU in place inside": Row(lambda: linear(nn.ReLU(inplace=True), nn.Linear(10, 10))),
    "a value overwritten": Row(lambda: Net(lambda z: (y := z.exp(), y.mul_(2))[0]), "has no backward pass: one of the variables"),
    "dropout": Row(lambda: linear(nn.ReLU(), nn.Dropout(0.5), nn.Linear(10, 10))),
    "dropout that never rests": Row(lambda: Net(lambda z: F.dropout(z, 0.5)), note="two passes over the same images differ in evaluation"),
    "logits of the whole batch": Row(lambda: Net(by_batch), note="an image's logits depend on the other images of its batch"),
    "BatchNorm of the batch": Row(
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten(), nn.Linear(144, 10)),
        note="an image's logits depend on the other images",
    ),
    "a counter, in place": Row(lambda: Counting("in place"), note="Counting: seen changes in evaluation mode"),
    "a counter, by another tensor": Row(lambda: Counting("by another tensor"), note="seen changes in evaluation mode"),
    "a buffer that grows": Row(lambda: Counting("by a longer one"), "changes the shape of seen in a forward pass"),
    "a counter of training": Row(lambda: Counting("in training")),
    "a scripted network": Row(lambda: torch.jit.script(linear())),
}  # fmt: skip


def built(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit is to go
        torch.manual_seed(1)
        return ROWS[name].make()


def snapshot(model: nn.Module) -> dict[str, Any]:
    return {
        "modes": [m.training for m in model.modules()],
        "flags": [p.requires_grad for p in model.parameters()],
        "grads": [p.grad is None for p in model.parameters()],
        "tensors": {n: (id(t), t.clone()) for n, t in model.state_dict(keep_vars=True).items()},
        "random": torch.get_rng_state().tolist(),
    }


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    a, b = one.pop("tensors"), other.pop("tensors")
    kept = all((a[n][0] == b[n][0] and torch.equal(a[n][1], b[n][1])) or bool(a[n][1].isnan().any()) for n in a)
    return one == other and a.keys() == b.keys() and kept


def test_the_table_is_long() -> None:
    assert len(ROWS) >= 25


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.error])
def test_what_cannot_work_ends_before_training(name: str, tmp_path: Path) -> None:
    with pytest.raises(FaalLabError, match=ROWS[name].error) as caught:
        list(run(QUICK, tmp_path / "run", model=built(name)))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists(), "nothing is written"


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if not row.error])
def test_what_works_trains_and_is_evaluated(name: str, tmp_path: Path) -> None:
    model = built(name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", NetworkWarning)
        events = list(run(QUICK, tmp_path / "run", model=model))
    told = [str(w.message) for w in caught if w.category is NetworkWarning]
    assert (len(told), ROWS[name].note in " ".join(told)) == (1 if ROWS[name].note else 0, True)
    assert events[-1] == RunFinished(4, "done")
    assert RunFolder(tmp_path / "run").versions().get("network", "") == " ".join(told), "the note stays in config.json"
    if not told:
        found = evaluate_run(tmp_path / "run", attacks=("clean", "fgsm"), images=20, model=built(name))
        chosen = found.predicted["clean"]
        splits = prepare(QUICK).splits
        pixels, _ = splits.test.all()
        all_of_them = model.eval()(pixels).argmax(1).tolist()
        assert sorted(chosen.tolist()) == sorted(all_of_them[i] for i in stratified_of(splits, 20))
        assert found.header["architecture_sha256"] == architecture_sha256(model)


def stratified_of(splits: Splits, count: int) -> list[int]:
    from faal_lab.data.images import stratified

    return stratified(splits.test.labels, count, splits.num_classes).tolist()


@pytest.mark.parametrize("name", ROWS)
def test_an_examination_leaves_everything_as_it_was(name: str, few: Splits) -> None:
    model, (pixels, _) = built(name), few.train.all()
    if name in ("lazy layers", "no numbers"):
        return
    model.eval() if name == "float64" else model.train()
    before = snapshot(model)
    for training in (True, False):
        try:
            try_model(model, "x", 10, (1, 8, 8))
            examine_network(model, pixels, 10, who="x", training=training)
        except ModelProblem:
            pass
        assert same(snapshot(model), before | {"tensors": dict(before["tensors"])})


WIDE = ("wrn-28-10", "wrn-34-10")  # ten seconds each at 32x32
OURS = [
    pytest.param(n, s, marks=[pytest.mark.slow] * (n in WIDE and s[0] == 3)) for n in MODELS for s in ((1, 8, 8), (3, 32, 32))
]


@pytest.mark.parametrize("name, size", OURS)
def test_our_own_networks_are_not_accused(name: str, size: tuple[int, int, int], few: Splits) -> None:
    filters = {"wrn-16-4": 0, "wrn-28-10": 0, "wrn-34-10": 0}.get(name, 4)
    spec = ModelSpec(name, 10, *size, (0.5,) * size[0], (0.25,) * size[0], filters)
    images = few.train.all()[0] if size[0] == 1 else torch.rand(8, *size, generator=torch.Generator().manual_seed(0))
    for seed in (0, 1) if filters else (0,):
        assert examine_network(build(spec, seed).train(), images, 10, who=name) == ([], False)


def test_the_recorded_networks_are_not_accused() -> None:
    root = Path(__file__).parents[2] / "results" / "cifar10-narrow"
    files = sorted(root.glob("*.safetensors"))
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for file in files:
        model = build(ModelSpec("preact-resnet-18", 10, 3, 32, 32, (0.0,) * 3, (1.0,) * 3, 16), seed=0)
        load_foreign(model, 3, 10, file)
        assert examine_network(model, images, 10, who=file.stem) == ([], False)
    assert len(files) == 4


def taught(config: Config, model: nn.Module, folder: Path) -> dict[str, torch.Tensor]:
    """Train, and return the checkpoint's tensors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NetworkWarning)
        assert list(run(config, folder, model=model))[-1].reason == "done"
    return read_checkpoint(RunFolder(folder).checkpoint()).tensors


def backbone(*, resting: bool) -> Net:
    torch.manual_seed(3)
    model = Net()
    for part in (model.conv, model.norm):
        part.requires_grad_(False)
    model.norm.running_mean += 0.1
    if resting:
        model.norm.eval()
    return model


@pytest.mark.parametrize("batch_norm", ["eval", "train"])
@pytest.mark.parametrize("resting", [True, False])
def test_frozen_parts_stay_as_they_are(resting: bool, batch_norm: str, tmp_path: Path) -> None:
    config = Config(epochs=2, batch_size=250, attack_steps=1, validation_steps=1, awp_gamma=0.02, averaging="ema", batch_norm=batch_norm)  # fmt: skip
    before = {n: t.clone() for n, t in backbone(resting=resting).state_dict().items()}
    model = backbone(resting=resting)
    found = taught(config, model, tmp_path / "run")
    still = {n for n in before if torch.equal(found[f"model.{n}"], before[n])}
    weights = {"conv.weight", "conv.bias", "norm.weight", "norm.bias"}
    statistics = {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
    assert still == (weights | statistics if resting else weights)
    assert {n for n in before if torch.equal(found[f"average.{n}"], before[n])} == still, (
        "the average of a still weight is itself"
    )
    assert [p.requires_grad for p in model.parameters()] == [False] * 4 + [True] * 2
    assert model.training
    assert model.norm.training != resting
    note = RunFolder(tmp_path / "run").versions()["network"]
    assert "4 of 6 weight tensors are frozen (requires_grad=False) and stay as they are." in note
    said = "norm stays in evaluation mode" if resting else "the weights of norm are frozen, and its statistics still move"
    assert said in note


def test_a_network_in_evaluation_mode_as_a_whole_is_woken(tmp_path: Path) -> None:
    model = Net().eval()
    before = model.norm.running_mean.clone()
    found = taught(QUICK, model, tmp_path / "run")
    assert not torch.equal(found["model.norm.running_mean"], before)
    assert "network" not in RunFolder(tmp_path / "run").versions()


@pytest.mark.parametrize("size, last", [(250, None), (333, 1), (999, 1), (1, 1), (1000, None)])
def test_a_batch_of_one_image_is_refused_before_training(size: int, last: int | None, tmp_path: Path) -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))
    if last is None:
        assert prepare(Config(batch_size=size), flat).state.step == 0
        return
    other = {333: 334, 999: 1000, 1: 4}[size]  # 1000 images: 1000 % 3 == 1 as well
    which = "Every batch" if size == 1 else "The last batch of an epoch"
    text = rf"{which} has one image \(1000 training images, batch_size={size}\), of which BatchNorm in \w+ can learn nothing. "
    with pytest.raises(ConfigError, match=text + rf"Set batch_size={other}\."):
        prepare(Config(batch_size=size), flat)
    prepare(Config(batch_size=other), flat)
    if size > 1:
        prepare(Config(batch_size=size), linear())  # without BatchNorm a single image is as good as any


def test_log_probabilities_are_logits() -> None:
    plain, log = built("plain").eval(), built("log_softmax").eval()
    images = prepare(QUICK).splits.test.part(torch.arange(40))
    names = tuple(map(str, range(10)))
    found = [evaluate(m, images, names, epsilon=0.05, attacks=("clean", "pgd-20", "cw-20", "apgd-ce+t")) for m in (plain, log)]
    for attack, predicted in found[0].predicted.items():
        assert (predicted == found[1].predicted[attack]).mean() >= 0.95, attack  # rounding may turn an image


def test_dropout_draws_by_the_seed_and_resumes_bit_for_bit(tmp_path: Path) -> None:
    config = Config(epochs=2, batch_size=250, attack_steps=1, validation_steps=1)
    whole = taught(config, built("dropout"), tmp_path / "whole")
    torch.rand(7)  # the global random state is another
    events = run(config, tmp_path / "cut", model=built("dropout"))
    for _ in range(4):
        next(events)
    events.close()
    list(run(config, tmp_path / "cut", model=built("dropout"), resume=True))
    again = read_checkpoint(RunFolder(tmp_path / "cut").checkpoint()).tensors
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[n], again[n]) for n in whole)
    other = taught(Config(**{**config.to_mapping(), "seed": 1}), built("dropout"), tmp_path / "other")
    assert not all(torch.equal(whole[n], other[n]) for n in whole)


def test_an_activation_in_place_learns_the_same(tmp_path: Path) -> None:
    def made(inplace: bool) -> nn.Module:
        torch.manual_seed(5)
        return linear(nn.ReLU(inplace=inplace), nn.Linear(10, 10))

    one, other = (taught(QUICK, made(inplace), tmp_path / str(inplace)) for inplace in (True, False))
    assert all(torch.equal(one[n], other[n]) for n in one)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 6), (4, 6, 9), (1, 5, 12)])
def test_channels_and_sizes(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    model = Net(channels=shape[0]).eval()
    pixels = torch.randint(0, 256, (20, *shape), dtype=torch.uint8)
    images = Images(pixels, torch.arange(20) % 10, 255)
    assert examine_network(model.train(), images.all()[0], 10, who="x") == ([], False)
    names = tuple(map(str, range(10)))
    found = evaluate(model.eval(), images, names, epsilon=0.1, attacks=("clean", "pgd-20", "square"))
    assert found.predicted["clean"].tolist() == model(images.all()[0]).argmax(1).tolist()
    lost = found.survived["pgd-20"] & ~found.survived["clean"]
    assert not lost.any()


@pytest.mark.parametrize(
    "shape, runs", [((1, 4, 9), False), ((1, 9, 4), True), ((1, 9, 1), True), ((3, 5, 5), True), ((1, 5, 2), True)]
)
def test_square_in_l2_on_small_images(shape: tuple[int, int, int], runs: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(int(torch.Size(shape).numel()), 4)).eval()
    images = Images(torch.randint(0, 256, (12, *shape), dtype=torch.uint8), torch.arange(12) % 4, 255)

    def attacked(name: str) -> Any:
        return evaluate(model, images, tuple("abcd"), epsilon=0.3, norm="l2", attacks=(name,), manner=Manner(queries=40))

    if runs:
        assert len(attacked("square").predicted["square"]) == 12
    for attack in () if runs else ("square", "autoattack"):
        with pytest.raises(EvaluationError, match=r"Square in L2 needs images of 5 pixels or more"):
            attacked(attack)


ADOPTED = {
    "constant logits": BLIND,
    "softmax": PROBABILITIES,
    "images detached": NO_GRADIENT,
    "a tuple": r"got tuple. Its \[0\] fits",
    "float64": "has weights of float64",
    "squeeze": "A batch of one image loses its dimension",
}


@pytest.mark.parametrize("name", ADOPTED)
def test_what_cannot_be_attacked_is_not_adopted(name: str, tmp_path: Path) -> None:
    with pytest.raises(FaalLabError, match=ADOPTED[name]):
        adopt(Config(epsilon=0.1), tmp_path / "run", built(name))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["all frozen", "several outputs in training", "log_softmax"])
def test_what_cannot_be_trained_may_still_be_evaluated(name: str, tmp_path: Path) -> None:
    model = built(name)
    adopt(Config(epsilon=0.1), tmp_path / "run", model)
    found = evaluate_run(tmp_path / "run", attacks=("clean",), model=built(name))
    pixels, _ = prepare(QUICK).splits.test.all()
    assert found.predicted["clean"].tolist() == model.eval()(pixels).argmax(1).tolist()


@pytest.mark.parametrize(
    "name, note", [("images rounded", "has no slope by its images"), ("a last layer of zeros", "as before any training")]
)
def test_an_adopted_network_is_told_of_its_gradients(name: str, note: str, tmp_path: Path) -> None:
    with pytest.warns(NetworkWarning, match=note):
        adopt(Config(epsilon=0.1), tmp_path / "run", built(name))
    assert note in RunFolder(tmp_path / "run").versions()["network"]


def test_clean_accuracy_alone_needs_no_gradient(tmp_path: Path) -> None:
    adopt(Config(epsilon=0.0), tmp_path / "run", built("images detached"))
    with pytest.raises(EvaluationError, match="The logits have no gradient by the pixels"):
        evaluate_run(tmp_path / "run", attacks=("fgsm",), epsilon=0.1, model=built("images detached"))
    network = built("images detached").eval()
    images = prepare(QUICK).splits.test.part(torch.arange(12))
    with pytest.raises(EvaluationError, match="The logits have no gradient by the pixels"):
        evaluate(network, images, tuple(map(str, range(10))), epsilon=0.1, attacks=("fgsm",))


def test_an_architecture_is_known_by_its_source_not_by_its_name(tmp_path: Path) -> None:
    relu, tanh = (linear(kind, nn.Linear(10, 10)) for kind in (nn.ReLU(), nn.Tanh()))
    tanh.load_state_dict(relu.state_dict())
    assert architecture_sha256(relu) != architecture_sha256(tanh)
    assert architecture_sha256(relu) == architecture_sha256(linear(nn.ReLU(), nn.Linear(10, 10)))
    assert architecture_sha256(Constant()) != architecture_sha256(Zero())
    assert architecture_sha256(build(ModelSpec("small-cnn", 10, 1, 8, 8, (0.5,), (0.5,)), 0)) == ""
    adopt(Config(epsilon=0.1), tmp_path / "run", relu)
    with pytest.raises(FaalLabError, match="already holds another model: the architecture is not that of Sequential"):
        adopt(Config(epsilon=0.1), tmp_path / "run", tanh)
    evaluate_run(tmp_path / "run", attacks=("clean",), images=20, model=relu)
    found = evaluate_run(tmp_path / "run", attacks=("fgsm",), images=20, model=tanh)
    assert "architecture, or the source of its classes, is another than this run folder was made with" in found.header["note"]
    assert list(found.predicted) == ["fgsm"], "verdicts of another architecture are not joined"


def test_a_resume_tells_that_the_source_has_changed(tmp_path: Path) -> None:
    def made(kind: type[nn.Module]) -> nn.Module:
        return linear(kind(), nn.Linear(10, 10))

    events = run(QUICK, tmp_path / "run", model=made(nn.ReLU))
    next(events), next(events)
    events.close()
    resumed = next(run(QUICK, tmp_path / "run", model=made(nn.Tanh), resume=True))
    assert isinstance(resumed, RunResumed)
    assert set(resumed.versions or {}) == {"architecture"}


def test_a_step_longer_than_the_ball_is_refused() -> None:
    assert Config(step_ratio=2.0).step_ratio == 2.0
    with pytest.raises(ConfigError, match="step_ratio must be between 0 and 2, got 10"):
        Config(step_ratio=10.0, attack_steps=1)


def test_an_examined_state_trains_as_before() -> None:
    state = fresh(QUICK)
    before = snapshot(state.model)
    examine_network(state.model, torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)), 10, who="x")
    assert same(snapshot(state.model), before)
