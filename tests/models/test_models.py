"""Networks: every name on every kind of image, names of weights, and networks that come from elsewhere."""

import re
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from faal_lab.__main__ import main
from faal_lab.catalogue import FILTERS
from faal_lab.errors import ConfigError, UnknownName
from faal_lab.models.build import MODELS, ModelSpec, build
from faal_lab.models.examine import ModelProblem
from faal_lab.models.normalize import Normalized, statistics
from faal_lab.runs.config import Config
from faal_lab.training.restore import load_model
from faal_lab.training.run import prepare, run
from faal_lab.widgets import Workbench

DIGITS = {"channels": 1, "height": 8, "width": 8, "mean": (0.3,), "std": (0.4,)}
CIFAR = {"channels": 3, "height": 32, "width": 32, "mean": (0.5,) * 3, "std": (0.25,) * 3}


def made(name: str, images: dict, seed: int = 0, filters: int = 0, num_classes: int = 10) -> nn.Module:
    return build(ModelSpec(name, num_classes, **images, filters=filters), seed)


def numbers(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("images", [DIGITS, CIFAR], ids=["1x8x8", "3x32x32"])
@pytest.mark.parametrize("name", MODELS)
def test_every_network_on_every_image(name: str, images: dict) -> None:
    filters = 4 if name in FILTERS else 0
    before = torch.random.get_rng_state()
    model, again = (made(name, images, seed=3, filters=filters, num_classes=7) for _ in range(2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    pixels = torch.rand(2, images["channels"], images["height"], images["width"], requires_grad=True)
    logits = model(pixels)
    assert logits.shape == (2, 7)
    (slope,) = torch.autograd.grad(logits[0, 0] - logits[0, 1], pixels)
    assert slope[0].abs().sum() > 0
    assert not torch.equal(next(made(name, images, seed=4, filters=filters).parameters()), next(model.parameters()))


@pytest.mark.parametrize(
    "name, count",
    [
        ("small-cnn", 18_778),
        ("preact-resnet-18", 11_172_170),
        ("resnet-18", 11_173_962),
        ("wrn-34-10", 46_160_474),
        ("wrn-28-10", 36_479_194),
        ("wrn-16-4", 2_748_890),
    ],
)
def test_weights_at_full_width_as_published(name: str, count: int) -> None:
    assert numbers(made(name, CIFAR)) == count
    if name in FILTERS:
        assert numbers(made(name, CIFAR, filters=FILTERS[name])) == count, "0 filters are the network's own"


def test_the_names_of_weights_are_the_fields() -> None:
    def names(name: str) -> set[str]:
        model = made(name, CIFAR)
        assert isinstance(model, Normalized)
        return {n.removesuffix(".weight") for n in model.network.state_dict() if n.endswith(".weight")}

    def blocks(stages: list[str], count: int, inner: list[str], first: dict[str, list[str]]) -> set[str]:
        plain = {f"{s}.{b}.{i}" for s in stages for b in range(count) for i in inner}
        return plain | {f"{s}.0.{i}" for s in stages for i in first.get(s, [])}

    layers, inner = [f"layer{n}" for n in range(1, 5)], ["bn1", "conv1", "bn2", "conv2"]
    changing = {s: ["shortcut.0"] for s in layers[1:]}
    assert names("preact-resnet-18") == {"conv1", "bn", "linear"} | blocks(layers, 2, inner, changing)
    changing = {s: ["shortcut.0", "shortcut.1"] for s in layers[1:]}
    assert names("resnet-18") == {"conv1", "bn1", "linear"} | blocks(layers, 2, inner, changing)
    stages = [f"block{n}.layer" for n in range(1, 4)]
    changing = {s: ["convShortcut"] for s in stages}
    assert names("wrn-16-4") == {"conv1", "bn1", "fc"} | blocks(stages, 2, inner, changing)


def test_the_normalisation_is_the_first_thing_a_network_does() -> None:
    model = made("preact-resnet-18", CIFAR, filters=4).eval()
    assert isinstance(model, Normalized)
    pixels = torch.rand(2, 3, 32, 32)
    assert torch.equal(model(pixels), model.network((pixels - 0.5) / 0.25))
    assert statistics("none", 2, ((0.1, 0.2), (0.3, 0.4))) == ((0, 0), (1, 1))
    assert prepare(Config(normalization="none")).spec.std == (1.0,)
    with pytest.raises(ConfigError, match=r"normalization: cifar is for images of 3 channels, these have 1\. Use data or none"):
        prepare(Config(normalization="cifar"))
    three = statistics("cifar", 3, ((0.0,) * 3, (1.0,) * 3))
    assert three == ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))


def test_settings_that_a_network_does_not_have() -> None:
    with pytest.raises(ConfigError, match=r"filters is a setting of small-cnn, preact-resnet-18, resnet-18, not of wrn-16-4"):
        Config(model="wrn-16-4", filters=8)
    with pytest.raises(ConfigError, match=r"not of torchvision\.models:resnet18; got 8\. Leave it at 0"):
        Config(model="torchvision.models:resnet18", filters=8)
    with pytest.raises(ConfigError, match="filters must be between 0 and 4096, got -1"):
        Config(filters=-1)
    with pytest.raises(ConfigError, match="robustbench:Wong2020Fast normalises inside"):
        Config(model="robustbench:Wong2020Fast", normalization="none")
    with pytest.raises(UnknownName, match=r"Unknown model 'wrn-34-1'\. Did you mean 'wrn-34-10'"):
        Config(model="wrn-34-1")
    for wrong in (":", "module:", ":name", "a b:c", "robustbench:", "1:x", "a:b:c"):
        with pytest.raises(
            ConfigError, match="model must be a known name, module:callable, FILE.py:callable or robustbench:NAME"
        ):
            Config(model=wrong)


def test_a_run_of_another_width_and_specs_of_before(tmp_path: Path, quick: Config) -> None:
    for _ in run(replace(quick, model="preact-resnet-18", filters=2), tmp_path / "thin"):
        pass
    model, _, checkpoint = load_model(tmp_path / "thin")
    assert checkpoint.header["spec"]["filters"] == 2
    assert model(torch.rand(3, 1, 8, 8)).shape == (3, 10)
    before, wide = ModelSpec("small-cnn", 10, **DIGITS), ModelSpec("small-cnn", 10, **DIGITS, filters=24)
    assert before.differences(wide) == [], "checkpoints of before have the network's own filters"
    assert before.differences(replace(wide, filters=8)) == ["filters is 24, expected 8"]


FACTORY = """
import torch
from torch import nn

width = 4

def make_net(num_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))

class Nested:
    make = staticmethod(make_net)

def deaf():
    return make_net(10)

def hungry(num_classes, depth):
    return make_net(num_classes)

def hidden(**settings):
    return deaf(**settings)

def faulty(num_classes):
    raise TypeError("of its own")

def no_network(num_classes):
    return num_classes

def stubborn(num_classes):
    return make_net(4)

def talkative(num_classes):
    class Two(nn.Module):
        def forward(self, images):
            return images, images
    return Two()
"""


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"net_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(FACTORY)
    (tmp_path / f"{name}_poor.py").write_text("import no_such_module_anywhere")
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


def test_a_network_by_its_path_there_and_back(tmp_path: Path, factory: str, quick: Config) -> None:
    for path in (f"{factory}:make_net", f"{factory}:Nested.make"):
        config = replace(quick, model=path)
        out = tmp_path / path.replace(":", "-")
        for _ in run(config, out):
            pass
        model, stored, checkpoint = load_model(out)
        assert (stored.model, checkpoint.header["spec"]["name"]) == (path, path)
        assert isinstance(model, Normalized)
        assert torch.equal(model.network[1].weight, checkpoint.part("model")["network.1.weight"])
    assert Workbench(tmp_path, model=path).config().model == path


def test_torchvision_by_its_path() -> None:
    model = made("torchvision.models:resnet18", CIFAR, num_classes=7)
    assert model.training
    assert model.eval()(torch.rand(2, 3, 32, 32)).shape == (2, 7)
    with pytest.raises(ModelProblem, match=r"torchvision\.models:resnet18 does not take images of 1x8x8: .*3 channels"):
        made("torchvision.models:resnet18", DIGITS)


@pytest.mark.parametrize(
    "path, text",
    [
        ("no_such_module_anywhere:x", "there is no module no_such_module_anywhere. Install it, or put its folder on PYTHONPATH"),
        ("torch.no_such:x", r"there is no module torch\.no_such"),
        ("{}_poor:x", "_poor needs a module that is missing: No module named 'no_such_module_anywhere'"),
        ("{}:make_nt", r"has no 'make_nt'\. Did you mean 'make_net'\?"),
        ("{}:width", "must name a callable, got int"),
        (
            "{}:deaf",
            r"must be callable with num_classes=10 alone: .*unexpected keyword argument 'num_classes'\. Write a function",
        ),
        ("{}:hungry", "must be callable with num_classes=10 alone: missing a required argument: 'depth'"),
        ("{}:hidden", r"must be callable with num_classes=10 alone: deaf\(\) got an unexpected"),
        ("{}:no_network", r"must return a torch\.nn\.Module, got int"),
        ("{}:stubborn", r"must give logits \[2, 10\] for two images of 1x8x8, got \[2, 4\]"),
        ("{}:talkative", r"must give logits \[2, 10\] for two images of 1x8x8, got tuple"),
    ],
)
def test_paths_that_lead_nowhere(factory: str, path: str, text: str) -> None:
    with pytest.raises(ModelProblem, match=text):
        prepare(Config(model=path.format(factory)))


def test_the_command_line_says_it_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--quiet", "--model", "no_such_module_anywhere:x", "--out", str(tmp_path / "x")]) == 1
    said = capsys.readouterr().err
    assert re.fullmatch(r"faal-lab: model=no_such_module_anywhere:x: there is no module .*\n", said)
    assert not (tmp_path / "x").exists(), "bad input leaves nothing behind"


def test_a_defect_of_the_factory_keeps_its_traceback(factory: str) -> None:
    with pytest.raises(TypeError, match="of its own"):
        prepare(Config(model=f"{factory}:faulty"))


class Zoo:
    """Stands in for robustbench: one small network by name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: dict = {}
        self.failure: Exception | None = None
        package, utils = types.ModuleType("robustbench"), types.ModuleType("robustbench.utils")
        package.utils, utils.load_model = utils, self.load_model
        monkeypatch.setitem(sys.modules, "robustbench", package)
        monkeypatch.setitem(sys.modules, "robustbench.utils", utils)

    def load_model(self, **asked) -> nn.Module:
        self.asked = asked
        if self.failure:
            raise self.failure
        known = {
            "Tiny2020Net": lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 10 if asked["dataset"] == "cifar10" else 100))
        }
        return known[asked["model_name"]]()


def test_a_network_of_robustbench(monkeypatch: pytest.MonkeyPatch) -> None:
    zoo = Zoo(monkeypatch)
    model = made("robustbench:Tiny2020Net", CIFAR)
    assert isinstance(model, nn.Sequential), "as it is: no normalisation of ours around it"
    folder = zoo.asked.pop("model_dir")
    assert zoo.asked == {"model_name": "Tiny2020Net", "dataset": "cifar10", "threat_model": "Linf"}
    made("robustbench:Tiny2020Net", CIFAR, num_classes=100)
    assert zoo.asked["dataset"] == "cifar100"
    with pytest.raises(ModelProblem, match="RobustBench has no network 'Tny' for cifar10 under Linf"):
        made("robustbench:Tny", CIFAR)
    with pytest.raises(ModelProblem, match="have 10 or 100 classes, the data 7"):
        made("robustbench:Tiny2020Net", CIFAR, num_classes=7)
    with pytest.raises(ModelProblem, match="takes images of 3x32x32, these are 1x8x8"):
        made("robustbench:Tiny2020Net", DIGITS)
    zoo.failure = ConnectionError("no route\nto host")
    with pytest.raises(ModelProblem, match=r"could not be had: ConnectionError: no route Without a network, download") as caught:
        made("robustbench:Tiny2020Net", CIFAR)
    assert str(caught.value).endswith(f"put it at {Path(folder, 'cifar10', 'Linf', 'Tiny2020Net.pt')}.")


def test_robustbench_is_asked_for_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "robustbench", None)
    monkeypatch.setitem(sys.modules, "robustbench.utils", None)
    with pytest.raises(ImportError, match=r"needs robustbench \(.*\): pip install 'faal-lab\[zoo\]'$") as caught:
        made("robustbench:Tiny2020Net", CIFAR)
    assert "\n" not in str(caught.value)


def test_a_network_without_parameters_is_none() -> None:
    with pytest.raises(ModelProblem, match="Sequential has no parameters, so there is nothing to train or to keep"):
        prepare(Config(), nn.Sequential(nn.AvgPool2d((8, 8)), nn.Upsample((1, 10)), nn.Flatten()))
