"""Exported weights: loaded again by us and by plain torch, they give the same logits, bit for bit."""

import json
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import faal_lab as fl
from faal_lab.errors import ConfigError, RunFolderError
from faal_lab.evaluation.adopt import adopt
from faal_lab.models.build import ModelSpec, build
from faal_lab.models.export import FORMATS, Origin, export_weights, model_info, timm_config
from faal_lab.models.normalize import Normalized
from faal_lab.models.weights import load_foreign
from faal_lab.runs import CheckpointError
from faal_lab.training.restore import load_model

RECORDED = Path(__file__).parents[2] / "notebooks" / "recorded" / "faal-steered"
STATISTICS = ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))
PLAIN = ((0.0,) * 3, (1.0,) * 3)
NETWORKS = ("small-cnn", "preact-resnet-18", "resnet-18", "wrn-16-4")


def net(name: str, seed: int, statistics=STATISTICS) -> nn.Module:
    model = build(ModelSpec(name, 3, 3, 16, 16, *statistics, 0 if name.startswith("wrn") else 2), seed).train()
    with torch.no_grad():
        model(torch.rand(8, 3, 16, 16))  # moves the statistics of batch norm away from 0 and 1
    return model.eval()


def origin(name: str) -> Origin:
    return Origin(name, (3, 16, 16), ["ant", "bee", "cow"])


def out_of(to: str, tmp_path: Path) -> Path:
    return tmp_path / {"safetensors": "w.safetensors", "timm": "folder"}.get(to, "w.pt")


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("name", NETWORKS)
def test_our_own_reader_gets_the_same_network(name: str, to: str, tmp_path: Path) -> None:
    source, pixels = net(name, 1), torch.rand(4, 3, 16, 16)
    export_weights(source, origin(name), to, out_of(to, tmp_path))
    brings = to != "state_dict"
    target = net(name, 2, PLAIN if brings else STATISTICS)
    file = out_of(to, tmp_path) / ("model.safetensors" if to == "timm" else "")
    assert load_foreign(target, 3, 3, file) == brings
    assert torch.equal(source(pixels), target(pixels))


class ImageNormalizer(nn.Module):
    """RobustBench's layer, by its names and shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, 3, 1, 1))
        self.register_buffer("std", torch.zeros(1, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images - self.mean) / self.std


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("name", NETWORKS[1:])
def test_plain_torch_gets_the_same_network(name: str, to: str, tmp_path: Path) -> None:
    source, pixels = net(name, 1), torch.rand(4, 3, 16, 16)
    said = export_weights(source, origin(name), to, out_of(to, tmp_path))
    other = net(name, 2)
    assert isinstance(other, Normalized)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in STATISTICS)
    if to in ("robustbench", "torchattacks"):
        whole = nn.Sequential(OrderedDict(normalize=ImageNormalizer(), model=other.network)).eval()
        whole.load_state_dict(torch.load(tmp_path / "w.pt", weights_only=True), strict=True)
        assert torch.equal(source(pixels), whole(pixels))
        return
    if to == "state_dict":
        other.network.load_state_dict(torch.load(tmp_path / "w.pt", weights_only=True), strict=True)
        assert "Its normalisation is not in it: put mean [0.4914, 0.4822, 0.4465]" in said
    else:
        file = out_of(to, tmp_path) / ("model.safetensors" if to == "timm" else "")
        other.network.load_state_dict(load_file(file), strict=True)
        with safe_open(file, framework="pt") as opened:
            about = opened.metadata()
        assert about["architecture"] == name
        assert json.loads(about["class_names"]) == ["ant", "bee", "cow"]
    if to == "timm":
        config = json.loads((tmp_path / "folder" / "config.json").read_text())
        mean, std = (torch.tensor(config["pretrained_cfg"][key]).view(1, 3, 1, 1) for key in ("mean", "std"))
        assert config["pretrained_cfg"]["input_size"] == [3, 16, 16]
        assert (config["architecture"], config["num_classes"], config["label_names"]) == (name, 3, ["ant", "bee", "cow"])
    assert torch.equal(source(pixels), other.network((pixels - mean) / std))


def test_a_run_exported_and_adopted_again_is_the_same(tmp_path: Path) -> None:
    run = fl.open_run(RECORDED)
    said: list[str] = []
    for to in (name for name in FORMATS if name != "state_dict"):  # whose reader must know the normalisation
        file = run.export(to, out_of(to, tmp_path / to), say=said.append)
        base = file / "model.safetensors" if to == "timm" else file
        config = fl.Config(data="digits", model="small-cnn", base=str(base), epsilon=0.1, normalization="data")
        again, _, _ = load_model(adopt(config, tmp_path / to / "run").path)
        pixels = run.data().test.pixels[:64].float() / 255
        assert torch.equal(run.model()(pixels), again(pixels)), to
    assert len(said) == 4


def test_the_numbers_of_robustbench_are_the_verdicts(tmp_path: Path) -> None:
    run = fl.open_run(RECORDED)
    run.export("robustbench", tmp_path / "faal.pt", say=lambda _: None)
    info, verdicts = json.loads((tmp_path / "faal.json").read_text()), run.verdicts()
    for field, attack in (("clean_acc", "clean"), ("autoattack_acc", "autoattack")):
        assert info[field] == f"{100 * verdicts.survived[attack].mean():.2f}"
    right, total = verdicts.counts("autoattack")
    worst = (right / total).argmin()
    assert (
        f"autoattack: worst class {worst} {100 * (right / total)[worst]:.2f}, all images {info['autoattack_acc']}"
        in info["footnote"]
    )
    assert (info["dataset"], info["eps"], info["architecture"]) == ("digits", "0.1", "small-cnn")
    unknown = ("link", "name", "authors", "additional_data", "number_forward_passes", "venue", "reported", "unreliable")
    assert {info[name] for name in unknown} == {""}


@pytest.mark.parametrize("epsilon, said", [(8 / 255, "8/255"), (0.03137, "0.03137"), (0.1, "0.1"), (0.0, "")])
def test_radii_are_written_as_robustbench_does(epsilon: float, said: str) -> None:
    assert model_info(Origin("a", (3, 32, 32), [], epsilon=epsilon))["eps"] == said


def test_a_network_by_its_path_is_named_as_timm_knows_it() -> None:
    config = timm_config(Origin("timm.models.resnet:resnet18", (3, 32, 32), ["a", "b"]), None, None)
    assert config["architecture"] == "resnet18"
    assert (config["pretrained_cfg"]["mean"], config["pretrained_cfg"]["std"]) == ([0.0] * 3, [1.0] * 3)


def test_a_network_without_our_normalisation_says_so(tmp_path: Path, tiny_model: nn.Module) -> None:
    said = export_weights(tiny_model, Origin("own", (1, 4, 4), ["a", "b", "c"]), "robustbench", tmp_path / "w.pt")
    assert "It has no normalisation of ours." in said
    assert torch.load(tmp_path / "w.pt", weights_only=True).keys() == {"model.1.weight", "model.1.bias"}


@pytest.mark.parametrize("mean", ["[0.5", '["x"]', "3"])
def test_a_damaged_normalisation_is_refused(tmp_path: Path, mean: str) -> None:
    about = {"producer": "faal_lab 1", "mean": mean, "std": "[0.5]"}
    save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "w.safetensors", metadata=about)
    with pytest.raises(CheckpointError, match="its normalisation cannot be read"):
        load_foreign(net("resnet-18", 1), 3, 3, tmp_path / "w.safetensors")


def test_a_run_of_an_own_network_is_exported_with_one(tmp_path: Path) -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    run = fl.train(out=tmp_path / "run", model=make(), epochs=1, batch_size=500, attack_steps=1, validation_steps=0, quiet=True)
    run.export("state_dict", tmp_path / "w.pt", network=make(), say=lambda _: None)
    stored = torch.load(tmp_path / "w.pt", weights_only=True)
    assert torch.equal(stored["1.weight"], run.model(network=make()).state_dict()["1.weight"])
    with pytest.raises(RunFolderError, match="was trained with a network of its own"):
        run.export("timm", tmp_path / "folder")


def test_files_that_are_there_stay(tmp_path: Path) -> None:
    model = net("small-cnn", 1)
    export_weights(model, origin("small-cnn"), "safetensors", tmp_path / "w.safetensors")
    with pytest.raises(ConfigError, match="exists already"):
        export_weights(model, origin("small-cnn"), "safetensors", tmp_path / "w.safetensors")
    export_weights(model, origin("small-cnn"), "safetensors", tmp_path / "w.safetensors", force=True)
    (tmp_path / "w.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"w\.json exists already"):
        export_weights(model, origin("small-cnn"), "robustbench", tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"must not end in \.json"):
        export_weights(model, origin("small-cnn"), "robustbench", tmp_path / "x.json")
    with pytest.raises(ConfigError, match="is a run folder"):
        export_weights(model, origin("small-cnn"), "safetensors", RECORDED / "last.safetensors", force=True)
    assert not (tmp_path / "x.json").exists()
