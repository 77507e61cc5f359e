"""Exported weights in the libraries that they are for. Each test needs its library: CONTRIBUTING.md says how to install them."""

import importlib.util
import inspect
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import faal_lab as fl
from faal_lab.errors import ConfigError
from faal_lab.methods.pgd import pgd
from faal_lab.methods.predict import PGD_ATTACKS, predictions
from faal_lab.models.build import ModelSpec, build, frozen
from faal_lab.models.export import Origin, export_weights
from faal_lab.models.normalize import Normalized

RECORDED = Path(__file__).parents[2] / "notebooks" / "recorded" / "faal-steered"
CIFAR = ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))
REASON = "{} is not installed: see 'Other libraries' in CONTRIBUTING.md"


def needed(name: str) -> Any:
    return pytest.importorskip(name, reason=REASON.format(name))


def net(name: str, seed: int = 1, classes: int = 10, statistics=CIFAR, filters: int = 0) -> Normalized:
    """A network whose BatchNorm has seen images."""
    model = build(ModelSpec(name, classes, 3, 32, 32, *statistics, filters), seed).train()
    with torch.no_grad():
        model(torch.rand(8, 3, 32, 32))
    assert isinstance(model, Normalized)
    return model.eval()


def origin(name: str, classes: int = 10, **more: Any) -> Origin:
    return Origin(name, (3, 32, 32), [str(c) for c in range(classes)], **more)


def loader(file: Path) -> ModuleType:
    """The module that stands beside an export for torchattacks."""
    spec = importlib.util.spec_from_file_location("their_loader", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_loader_needs_torch_alone(tmp_path: Path) -> None:
    source, pixels = net("preact-resnet-18", filters=2), torch.rand(4, 3, 32, 32)
    odd = Origin("preact-resnet-18", (3, 32, 32), ['a "b"', "c\\", "'''", '"""', "{x}", "\udce9"], norm="l2", epsilon=0.5)
    said = export_weights(source, odd, "torchattacks", tmp_path / "net.pt")
    export_weights(source, odd, "robustbench", tmp_path / "same.pt")
    assert (tmp_path / "net.pt").read_bytes() == (tmp_path / "same.pt").read_bytes(), "one layout, two names"
    assert f"{tmp_path / 'net_loader.py'} loads it: load(network) takes images in [0, 1]." in said
    theirs = loader(tmp_path / "net_loader.py")
    text = (tmp_path / "net_loader.py").read_text(encoding="ascii")
    assert {line.split()[1] for line in text.splitlines() if line.startswith(("import", "from"))} == {
        "collections",
        "pathlib",
        "torch",
    }
    assert "torchattacks.PGDL2(model" in text
    assert odd.class_names == theirs.CLASSES
    assert (theirs.NORM, theirs.EPSILON, theirs.IMAGE) == ("l2", 0.5, (3, 32, 32))
    loaded = theirs.load(net("preact-resnet-18", seed=2, filters=2).network.train())
    assert torch.equal(loaded(pixels), source(pixels))
    assert not any(module.training for module in loaded.modules())
    with pytest.raises(RuntimeError, match="Missing key"):
        theirs.load(net("resnet-18", filters=2).network)


def test_a_network_that_normalises_by_itself_is_loaded_too(tmp_path: Path, tiny_model: nn.Module) -> None:
    said = export_weights(tiny_model, Origin("own", (1, 4, 4), ["a", "b", "c"]), "torchattacks", tmp_path / "w.pt")
    assert "It has no normalisation of ours." in said
    loaded = loader(tmp_path / "w_loader.py").load(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))
    pixels = torch.rand(5, 1, 4, 4)
    assert torch.equal(loaded(pixels), tiny_model(pixels))


def test_a_loader_that_is_there_stays(tmp_path: Path, tiny_model: nn.Module) -> None:
    (tmp_path / "w_loader.py").write_text("mine")
    with pytest.raises(ConfigError, match=r"w_loader\.py exists already"):
        export_weights(tiny_model, Origin("own", (1, 4, 4), ["a", "b", "c"]), "torchattacks", tmp_path / "w.pt")
    assert not (tmp_path / "w.pt").exists()


def exported(tmp_path: Path) -> tuple[Any, nn.Module, ModuleType]:
    """The test images of a recorded run; its network as exported and loaded again, and the loader's module."""
    run = fl.open_run(RECORDED)
    run.export("torchattacks", tmp_path / "net.pt", say=lambda _: None)
    theirs = loader(tmp_path / "net_loader.py")
    untrained = build(ModelSpec("small-cnn", 10, 1, 8, 8, (0.0,), (1.0,), filters=24), 0)
    untrained.normalize = nn.Identity()
    return run.data().test, theirs.load(untrained), theirs


def stands(model: nn.Module, labels: torch.Tensor, *points: torch.Tensor) -> torch.Tensor:
    """Whether the network is right at each of the points: our verdicts count an image that is wrong without attack as fooled."""
    return torch.stack([model(point).argmax(1) == labels for point in points]).all(0)


def test_torchattacks_finds_the_same_robust_accuracy(tmp_path: Path) -> None:
    torchattacks = needed("torchattacks")
    test, model, theirs = exported(tmp_path)
    ours, epsilon = fl.open_run(RECORDED).model(), theirs.EPSILON
    pixels, labels = test.batch(torch.arange(len(test)))

    fgsm = torchattacks.FGSM(model, eps=epsilon)(pixels, labels)
    assert torch.equal(
        stands(model, labels, pixels, fgsm), predictions(ours, test, PGD_ATTACKS["fgsm"], epsilon, seed=0) == labels
    )

    settings = {"eps": epsilon, "alpha": epsilon / 4, "steps": 20}
    with frozen(ours):
        mine = pgd(ours, pixels, labels, radius=epsilon, step=epsilon / 4, steps=20)
    same = torchattacks.PGD(model, **settings, random_start=False)(pixels, labels)
    assert (mine - same).abs().amax((1, 2, 3)).gt(1e-4).sum() <= 3, "from the image itself the attacks are one"
    assert int((model(same).argmax(1) != ours(mine).argmax(1)).sum()) <= 1

    torch.manual_seed(0)
    drawn = torchattacks.PGD(model, **settings)(pixels, labels)
    right, count = int(stands(model, labels, pixels, drawn).sum()), int(fl.open_run(RECORDED).verdicts().survived["pgd-20"].sum())
    assert abs(right - count) <= 3, f"torchattacks leaves {right} images of {len(test)}, we {count}"


def test_foolbox_finds_the_same_robust_accuracy(tmp_path: Path) -> None:
    foolbox, eagerpy = needed("foolbox"), needed("eagerpy")
    test, model, theirs = exported(tmp_path)
    pixels, labels = test.batch(torch.arange(len(test)))
    ours = predictions(fl.open_run(RECORDED).model(), test, PGD_ATTACKS["fgsm"], theirs.EPSILON, seed=0)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    images, truth = eagerpy.astensors(pixels, labels)
    attack = foolbox.attacks.LinfFastGradientAttack(random_start=False)
    _, clipped, _ = attack(wrapped, images, truth, epsilons=theirs.EPSILON)
    assert torch.equal(stands(model, labels, pixels, clipped.raw), ours == labels)
    assert foolbox.accuracy(wrapped, images, truth) == pytest.approx(fl.open_run(RECORDED).verdicts().survived["clean"].mean())


@pytest.mark.parametrize("form", ["file", "folder"])
def test_timm_builds_the_network(form: str, tmp_path: Path) -> None:
    timm = needed("timm")
    source, pixels, folder = net("timm.models.resnet:resnet18", classes=3), torch.rand(4, 3, 32, 32), tmp_path / "net"
    export_weights(source, origin("timm.models.resnet:resnet18", 3), "timm", folder)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in CIFAR)
    if form == "file":
        found = timm.create_model("resnet18", num_classes=3, checkpoint_path=str(folder / "model.safetensors"))
    else:
        if "local-dir" not in inspect.getsource(timm.models._factory.parse_model_name):
            pytest.skip(f"timm {timm.__version__} knows no local-dir: pip install --upgrade timm")
        found = timm.create_model(f"local-dir:{folder}", pretrained=True)
        about = timm.data.resolve_model_data_config(found)
        mean, std = (torch.tensor(about[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
        assert (list(about["input_size"]), about["crop_pct"]) == ([3, 32, 32], 1.0)
        assert found.pretrained_cfg["label_names"] == ["0", "1", "2"]
    assert torch.equal(found.eval()((pixels - mean) / std), source(pixels))


@pytest.fixture
def robustbench() -> Any:
    needed("robustbench")
    from faal_lab.models.build import _zoo_loader

    _zoo_loader()  # lends pyautoattack the name by which robustbench imports it
    return pytest.importorskip("robustbench.utils", reason=REASON.format("robustbench"))


def test_robustbench_frames_the_network_alike(robustbench: Any, tmp_path: Path) -> None:
    from robustbench.model_zoo.architectures.utils_architectures import normalize_model  # pyright: ignore[reportMissingImports]

    source, pixels = net("resnet-18", filters=2), torch.rand(4, 3, 32, 32)
    export_weights(source, origin("resnet-18"), "robustbench", tmp_path / "net.pt")
    framed = normalize_model(net("resnet-18", seed=2, filters=2).network, (0.0,) * 3, (1.0,) * 3).eval()
    framed.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True), strict=True)
    assert torch.equal(framed(pixels), source(pixels))


def test_robustbench_loads_the_file_into_an_entry_of_its_own(
    robustbench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """load_model cuts "model." off: the class of a CIFAR entry has `normalize` beside its layers."""
    from robustbench.model_zoo.architectures.resnet import ResNet18  # pyright: ignore[reportMissingImports]
    from robustbench.model_zoo.architectures.utils_architectures import ImageNormalizer  # pyright: ignore[reportMissingImports]
    from robustbench.model_zoo.enums import BenchmarkDataset, ThreatModel  # pyright: ignore[reportMissingImports]

    def entry() -> nn.Module:
        network = ResNet18()
        network.normalize = ImageNormalizer((0.0,) * 3, (1.0,) * 3)
        network.register_forward_pre_hook(lambda module, images: (module.normalize(images[0]),))
        return network

    source, pixels = net("resnet-18"), torch.rand(4, 3, 32, 32)
    place = tmp_path / "cifar10" / "Linf" / "Ours2026Fair.pt"
    export_weights(source, origin("resnet-18"), "robustbench", place)
    zoo = robustbench.all_models[BenchmarkDataset.cifar_10][ThreatModel.Linf]
    monkeypatch.setitem(zoo, "Ours2026Fair", {"model": entry, "gdrive_id": "none"})
    loaded = robustbench.load_model("Ours2026Fair", model_dir=tmp_path, dataset="cifar10", threat_model="Linf")
    assert torch.allclose(loaded(pixels), source(pixels), atol=1e-5)
    assert torch.equal(loaded(pixels).argmax(1), source(pixels).argmax(1))


def test_an_entry_of_robustbench_keeps_its_own_normalisation(robustbench: Any, tmp_path: Path) -> None:
    """Rice2020Overfitting (L2) is our preact-resnet-18 with CIFAR's `mu` and `sigma`; load_model passes over `normalize`."""
    pixels = torch.rand(4, 3, 32, 32)
    for name, statistics in (("same", CIFAR), ("other", ((0.5,) * 3, (0.25,) * 3))):
        source, place = (
            net("preact-resnet-18", statistics=statistics),
            tmp_path / name / "cifar10" / "L2" / "Rice2020Overfitting.pt",
        )
        export_weights(source, origin("preact-resnet-18"), "robustbench", place)
        loaded = robustbench.load_model("Rice2020Overfitting", model_dir=tmp_path / name, threat_model="L2")
        assert torch.allclose(loaded(pixels), source(pixels), atol=1e-4) == (name == "same")
        shutil.rmtree(tmp_path / name)
