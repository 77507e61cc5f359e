"""Other people's checkpoints: every wrapping that is met in the wild, and what is refused."""

import json
import pickle
import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from faal_lab.data.images import Images, Splits
from faal_lab.models.build import ModelSpec, build
from faal_lab.models.networks import SmallConvNet
from faal_lab.models.normalize import NormalizationWarning, Normalize, Normalized, check_normalization
from faal_lab.models.weights import WeightsWarning, load_foreign, read_foreign
from faal_lab.runs import CheckpointError, RunFolder, read_checkpoint, write_checkpoint
from faal_lab.runs.config import Config
from faal_lab.runs.events import RunFinished
from faal_lab.training.restore import load_model
from faal_lab.training.run import prepare, run

NONE, CIFAR = ((0.0,) * 3, (1.0,) * 3), ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))


def net(name: str = "preact-resnet-18", seed: int = 0, statistics=NONE, num_classes: int = 10, filters: int = 2) -> Normalized:
    model = build(ModelSpec(name, num_classes, 3, 16, 16, *statistics, 0 if name.startswith("wrn") else filters), seed)
    assert isinstance(model, Normalized)
    return model.eval()


def told(names: dict, prefix: str) -> dict:
    return {prefix + n: t for n, t in names.items()}


def spread(mean: str, std: str, *, shape: tuple[int, ...] = (1, 3, 1, 1)) -> dict[str, torch.Tensor]:
    return {mean: torch.tensor(CIFAR[0]).view(shape), std: torch.tensor(CIFAR[1]).view(shape)}


def robustness(w: dict) -> dict:
    """The names of MadryLab's AttackerModel, which holds the network and its normalisation twice."""
    inner = {**spread("normalizer.new_mean", "normalizer.new_std", shape=(3, 1, 1)), **told(w, "model.")}
    return {
        **inner,
        **told(w, "attacker.model."),
        **spread("attacker.normalize.new_mean", "attacker.normalize.new_std", shape=(3, 1, 1)),
    }


# What is put in the file, from the weights; and whether the file brings a normalisation.
WRAPPINGS = {
    "plain": (lambda w: w, False),
    "DataParallel": (lambda w: told(w, "module."), False),
    "state_dict": (lambda w: {"state_dict": told(w, "module."), "epoch": 3, "best": torch.tensor(0.5)}, False),
    "model_state_dict": (lambda w: {"model_state_dict": w, "optimizer": {"lr": 0.1}}, False),
    "model": (lambda w: {"model": w}, False),
    "net": (lambda w: {"net": w, "acc": 84.0}, False),
    "a wrapper's name": (lambda w: told(w, "model."), False),
    "torch.compile": (lambda w: told(w, "_orig_mod."), False),
    "Sequential": (lambda w: {**spread("0.mean", "0.std"), **told(w, "1.")}, True),
    "Sequential in DataParallel": (lambda w: {**spread("module.0.mean", "module.0.std"), **told(w, "module.1.")}, True),
    "DataParallel in Sequential": (lambda w: {**spread("0.mean", "0.std"), **told(w, "1.module.")}, True),
    "normalize and model": (lambda w: {**spread("normalize.mean", "normalize.std"), **told(w, "model.")}, True),
    "mu and sigma": (lambda w: {**spread("mu", "sigma"), **w}, True),
    "mean and std": (lambda w: {**spread("mean", "std", shape=(3,)), **told(w, "model.")}, True),
    "ours, without a header": (lambda w: {**spread("normalize.mean", "normalize.std"), **told(w, "network.")}, True),
    "RobustBench's own": (
        lambda w: {"state_dict": {**spread("normalize.mean", "normalize.std"), **told(w, "module.model.")}},
        True,
    ),
    "robustness": (lambda w: {"model": told(robustness(w), "module."), "epoch": 90}, True),
    "MAIR with add_normalize": (
        lambda w: {"rmodel": {"n_classes": torch.tensor(10), **spread("model.0.mean", "model.0.std"), **told(w, "model.1.")}},
        True,
    ),
    "AveragedModel": (lambda w: {"n_averaged": torch.tensor(7), **told(w, "module.")}, False),
    "compiled in DataParallel": (lambda w: told(w, "module._orig_mod."), False),
    "DataParallel in a compiled wrapper": (lambda w: told(w, "_orig_mod.model.module."), False),
    "a compiled part": (lambda w: {n.replace("layer1.", "layer1._orig_mod."): t for n, t in w.items()}, False),
    "only an average of timm": (lambda w: {"state_dict_ema": w, "epoch": 3}, False),
    "only model_ema": (lambda w: {"model_ema": told(w, "module.")}, False),
    "only ema": (lambda w: {"ema": w, "step": 5}, False),
    "only last": (lambda w: {"last": w}, False),
    "only best, inside": (lambda w: {"best": {"state_dict": told(w, "module.")}}, False),
    "before batch norm counted": (lambda w: {n: t for n, t in w.items() if not n.endswith("num_batches_tracked")}, False),
}


@pytest.mark.parametrize("name", WRAPPINGS)
def test_every_wrapping(name: str, tmp_path: Path) -> None:
    wrap, brings = WRAPPINGS[name]
    source, target = net(seed=1, statistics=CIFAR if brings else NONE), net(seed=2)
    torch.save(wrap(source.network.state_dict()), tmp_path / "weights.pth")
    assert load_foreign(target, 3, 10, tmp_path / "weights.pth") == brings
    pixels = torch.rand(2, 3, 16, 16)
    assert torch.equal(source(pixels), target(pixels))


def raw(w: dict) -> dict:
    """Other weights of the same network."""
    return {n: t + 1 for n, t in w.items()}


# What is put in the file beside the weights that are to be taken, and the words for it.
BESIDE = {
    "timm": (lambda w: {"state_dict": raw(w), "state_dict_ema": w}, "state_dict_ema and state_dict: state_dict_ema was taken, the average"),
    "model and model_ema": (lambda w: {"model": raw(w), "model_ema": told(w, "module.")}, "model_ema and model: model_ema was taken"),
    "net and ema": (lambda w: {"net": raw(w), "ema": w, "step": 5}, "ema and net: ema was taken, the average, as timm does"),
    "an average of another form": (lambda w: {"net": w, "ema": {"decay": 0.9, "shadow_params": list(w.values())}}, "net and ema: net was taken"),
    "an average that was named raw": (
        lambda w: {"model_state_dict": w, "unaveraged_model_state_dict": raw(w)},
        "model_state_dict and unaveraged_model_state_dict: model_state_dict was taken, the average",
    ),
    "last and best": (lambda w: {"last": w, "best": raw(w)}, "last and best: last was taken. base_checkpoint=best takes the other"),
    "an average by prefix": (lambda w: {**told(raw(w), "online_model."), **told(w, "ema_model.")}, r"ema_model\.\* and online_model\.\*: ema_model"),
    "Lightning": (
        lambda w: {"state_dict": {**told(w, "model."), "criterion.weight": torch.ones(10), "best": torch.tensor(torch.inf)}},
        r"model\.\* and 1 tensor of other parts \(criterion\.weight\)",
    ),
    "MAIR": (
        lambda w: {"rmodel": {"n_classes": torch.tensor(10), **spread("mean", "std", shape=(3,)), **told(w, "model.")}},
        "as MAIR does, whose forward pass does not apply them: they were not applied",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BESIDE)
def test_the_weights_that_were_taken_of_several_are_named(name: str, tmp_path: Path) -> None:
    source, target = net(seed=1), net(seed=2)
    torch.save(BESIDE[name][0](source.network.state_dict()), tmp_path / "weights.pth")
    with pytest.warns(WeightsWarning, match=BESIDE[name][1]):
        assert not load_foreign(target, 3, 10, tmp_path / "weights.pth")
    pixels = torch.rand(2, 3, 16, 16)
    assert torch.equal(source(pixels), target(pixels))


def test_last_or_best_is_chosen_by_base_checkpoint(tmp_path: Path) -> None:
    weights = net("resnet-18", filters=64).network.state_dict()
    torch.save({"last": weights, "best": {n: t + 1 for n, t in weights.items()}}, tmp_path / "both.pth")
    source, target = read_both(tmp_path / "both.pth", "best"), net("resnet-18", seed=2, filters=64)
    with pytest.warns(WeightsWarning, match="best was taken. base_checkpoint=last takes the other"):
        load_foreign(target, 3, 10, tmp_path / "both.pth", "best")
    assert torch.equal(source["linear.bias"], target.network.linear.bias)
    assert torch.equal(weights["linear.bias"] + 1, target.network.linear.bias)


def read_both(file: Path, which: str) -> dict[str, torch.Tensor]:
    with pytest.warns(WeightsWarning):
        return read_foreign(file, which)


@pytest.mark.parametrize("name", ["preact-resnet-18", "resnet-18", "wrn-16-4"])
def test_every_network_from_safetensors_and_from_old_files(name: str, tmp_path: Path) -> None:
    source = net(name, seed=1)
    save_file(told(source.network.state_dict(), "module."), tmp_path / "a.safetensors")
    torch.save(source.network.state_dict(), tmp_path / "b.pt", _use_new_zipfile_serialization=False)
    for file in ("a.safetensors", "b.pt"):
        target = net(name, seed=2)
        assert not load_foreign(target, 3, 10, tmp_path / file)
        pixels = torch.rand(2, 3, 16, 16)
        assert torch.equal(source(pixels), target(pixels))


def test_the_second_first_block_of_trades_is_left_out(tmp_path: Path) -> None:
    source, target = net("wrn-16-4", seed=1), net("wrn-16-4", seed=2)
    weights = source.network.state_dict()
    double = {n.replace("block1", "sub_block1"): t + 1 for n, t in weights.items() if n.startswith("block1.")}
    torch.save(told({**weights, **double}, "module."), tmp_path / "trades.pt")
    load_foreign(target, 3, 10, tmp_path / "trades.pt")
    assert all(torch.equal(weights[n], t) for n, t in target.network.state_dict().items())


def test_networks_without_a_frame_of_ours(tmp_path: Path) -> None:
    source, target = (SmallConvNet(3, 1, (8, 8), (mean,), (0.5,), filters=2) for mean in (0.1, 0.9))
    torch.save(told(source.state_dict(), "module."), tmp_path / "small.pt")
    assert load_foreign(target, 1, 3, tmp_path / "small.pt")
    assert all(torch.equal(a, b) for a, b in zip(source.state_dict().values(), target.state_dict().values(), strict=True))
    bare, other = (nn.Sequential(nn.Flatten(), nn.Linear(64, 3)) for _ in range(2))
    torch.save(told(bare.state_dict(), "1."), tmp_path / "bare.pt")
    assert not load_foreign(other, 1, 3, tmp_path / "bare.pt")
    assert torch.equal(bare[1].weight, other[1].weight)
    torch.save({**spread("0.mean", "0.std"), **told(bare.state_dict(), "1.")}, tmp_path / "framed.pt")
    with pytest.raises(CheckpointError, match="has a normalisation of its own, and the network no place for it"):
        load_foreign(other, 3, 3, tmp_path / "framed.pt")


class RecordManager:
    """An object beside the weights, as in MAIR's checkpoints."""


def test_a_checkpoint_with_objects_is_converted_as_the_message_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = net(seed=1), net(seed=2)
    rmodel = {"n_classes": torch.tensor(10), **told(source.network.state_dict(), "model.")}
    optimizer = torch.optim.SGD(source.parameters(), 0.1).state_dict()
    torch.save({"rmodel": rmodel, "optimizer": optimizer, "recordmanager": RecordManager()}, tmp_path / "last.pth")
    with pytest.raises(CheckpointError, match=r"holds more than tensors \(\S*RecordManager\)") as caught:
        load_foreign(target, 3, 10, tmp_path / "last.pth")
    monkeypatch.chdir(tmp_path)
    code = re.search(r'python -c "(.*)"$', str(caught.value))
    assert code
    exec(code[1].replace("FILE", "last.pth"), {})
    assert torch.load("weights.pt", weights_only=True).keys() == {"rmodel"}
    load_foreign(target, 3, 10, tmp_path / "weights.pt")
    assert torch.equal(source.network.linear.weight, target.network.linear.weight)


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    marker, file = tmp_path / "was-run", tmp_path / "model.pth"
    torch.save({"state_dict": net().network.state_dict(), "args": Malicious(marker)}, file)
    with pytest.raises(CheckpointError, match=r"holds more than tensors \(\S*open\), and reading that could run code") as caught:
        prepare(Config(model="resnet-18", filters=2, base=str(file)))
    assert "If you trust who made it, convert it once, where the code that made it is installed: python -c" in str(caught.value)
    assert not marker.exists()
    torch.load(file, weights_only=False)["args"].close()
    assert marker.exists(), "it would have run"


def test_a_blocked_module_in_a_file_is_told_apart_from_damage(tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(b"\x80\x02cposix\nsystem\n(X\x04\x00\x00\x00truetR.")
    with pytest.raises(CheckpointError, match=r"would call posix\.system when it is read: it was not read"):
        read_foreign(tmp_path / "model.pth")


def test_a_whole_network_is_converted_as_the_message_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = net(seed=1), net(seed=2)
    torch.save(source.network, tmp_path / "whole.pt")
    with pytest.raises(CheckpointError, match=r"holds more than tensors \(faal_lab.models.networks.PreActResNet18\)") as caught:
        read_foreign(tmp_path / "whole.pt")
    monkeypatch.chdir(tmp_path)
    code = re.search(r'python -c "(.*)"$', str(caught.value))
    assert code
    exec(code[1].replace("FILE", "whole.pt"), {})
    load_foreign(target, 3, 10, tmp_path / "weights.pt")
    assert torch.equal(source.network.linear.weight, target.network.linear.weight)


@pytest.mark.parametrize(
    "name, content, text",
    [
        ("a.pth", b"not a checkpoint", "is damaged, or no file of torch.save"),
        ("a.pth", b"", "is damaged"),
        ("a.pth", b"PK\x03\x04 cut", "is damaged"),
        ("a.pth", pickle.dumps({"weights": 1}, protocol=2)[:-3], "is damaged"),
    ],
)
def test_no_checkpoints(tmp_path: Path, name: str, content: bytes, text: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=text):
        prepare(Config(base=str(tmp_path / name)))


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    def refused(content: object, text: str, target: nn.Module | None = None) -> None:
        torch.save(content, tmp_path / "x.pt")
        with pytest.raises(CheckpointError, match=text):
            load_foreign(target or net(seed=2), 3, 10, tmp_path / "x.pt")

    weights = net().network.state_dict()
    refused(net(num_classes=100).network.state_dict(), "the checkpoint has 100 classes, the data 10")
    older = {n: t for n, t in weights.items() if not n.startswith("bn.")}
    refused(older, r"do not fit the network: 4 missing \(bn\.weight, bn\.bias, bn\.running_mean, \.\.\.\)\. Choose the network")
    refused({**weights, "more": torch.ones(1)}, r"1 unexpected \(more\)")
    refused(net(filters=3).network.state_dict(), r"\d+ of another shape \(conv1\.weight \[3, 3, 3, 3\], expected \[2, 3, 3, 3\]")
    refused(net("resnet-18").network.state_dict(), r"4 missing \(bn\..*; \d+ unexpected \(bn1\.weight")
    refused({"epoch": 3}, "holds no weights: expected a state dict, alone or under state_dict_ema, .* last or best; got epoch")
    refused([1, 2], "holds list, expected a state dict")
    refused({**weights, "linear.bias": torch.full((10,), torch.nan)}, r"is not finite in linear\.bias")
    refused(told({**weights, "more": torch.ones(1)}, "module."), r"1 unexpected \(more\)")
    refused({"0.shift": torch.ones(3), **told(weights, "1.")}, r"1 unexpected \(0\.shift\)")
    refused({"prenorm.shift": torch.ones(3), **told(weights, "model.")}, r"1 unexpected \(prenorm\.shift\)")
    refused(told(robustness(net(num_classes=100).network.state_dict()), "module."), "the checkpoint has 100 classes, the data 10")
    both = {**spread("a.mean", "a.std"), "b.mean": torch.zeros(3), "b.std": torch.ones(3)}
    refused({**both, **told(weights, "model.")}, "holds 2 normalisations, at a, b. Save the weights with the one")
    refused({"0.mean": torch.zeros(4), "0.std": torch.ones(4), **told(weights, "1.")}, "one positive std for each of 3")
    refused({"0.mean": torch.zeros(3), "0.std": torch.zeros(3), **told(weights, "1.")}, "one positive std for each of 3")


def test_the_number_of_classes_of_ours(base: Path, image_folder: Path) -> None:
    with pytest.raises(CheckpointError, match="num_classes is 10, expected 3"):
        prepare(Config(base=str(base), data="folder", data_dir=str(image_folder)))


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    """Weights that tell three dark classes apart without any normalisation, in a file that does not say so.

    The classes differ in brightness alone, so that another normalisation takes one for the other. Of 18 validation images 12 to
    18 are right without any, at most 6 with another, by all that a processor has and by AVX2 alone, over seeds 0 to 2.
    """
    root, noise = tmp_path_factory.mktemp("foreign"), np.random.default_rng(0)
    for name, level in {"ant": 20, "bee": 60, "cow": 100}.items():
        (root / "shapes" / name).mkdir(parents=True)
        for number in range(60):
            pixels = (level + noise.integers(-8, 9, (12, 12, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(root / "shapes" / name / f"{number:03d}.png")
    config = Config(
        data="folder", data_dir=str(root / "shapes"), model="resnet-18", filters=4, normalization="none", objective="standard",
        epochs=12, batch_size=16, attack_steps=0, validation_steps=0, learning_rate=0.02, augment="none",
    )  # fmt: skip
    for _ in run(config, root / "run"):
        pass
    model, _, _ = load_model(root / "run")
    assert isinstance(model, Normalized)
    torch.save({"net": told(model.network.state_dict(), "module.")}, root / "best.pth")
    return root / "best.pth", replace(config, base=str(root / "best.pth"), epochs=1)


def test_the_right_normalisation_is_silent_and_trains_on(learned: tuple[Path, Config], tmp_path: Path) -> None:
    _, config = learned
    assert list(run(config, tmp_path / "tuned"))[-1].reason == "done"
    assert RunFolder(tmp_path / "tuned").config() == config
    load_model(tmp_path / "tuned")


@pytest.mark.parametrize("wrong", ["data", "cifar"])
def test_the_wrong_normalisation_is_told_with_the_cure(learned: tuple[Path, Config], wrong: str) -> None:
    _, config = learned
    text = (
        rf"best\.pth is right on \d+\.\d% of \d+ validation images with normalization={wrong}, on \d+\.\d% with none\. "
        "It was most likely trained so: --normalization none$"
    )
    with pytest.warns(NormalizationWarning, match=text):
        wronged = prepare(replace(config, normalization=wrong))
    normalize = wronged.state.model.normalize
    assert torch.equal(normalize.mean.flatten(), torch.tensor(wronged.spec.mean)), "trying the others leaves it as it was"
    assert torch.equal(normalize.std.flatten(), torch.tensor(wronged.spec.std))


def test_normalisations_that_few_images_do_not_tell_apart_are_both_named(
    learned: tuple[Path, Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("faal_lab.models.normalize._right_with_others", lambda *_: {"none": 18, "cifar": 18})
    text = (
        r"on 100\.0% with none and on 100\.0% with cifar\. It was most likely trained by one of these, which its author knows: "
        "--normalization none or cifar$"
    )
    with pytest.warns(NormalizationWarning, match=text):
        prepare(replace(learned[1], normalization="data"))


class Between(nn.Module):
    """Class 0 where the mean of an image is between 0 and 0.7, class 1 elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.middle = nn.Parameter(torch.tensor(0.35))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        inside = self.middle - (images.mean((1, 2, 3)) - self.middle).abs()
        return torch.stack([inside, torch.zeros_like(inside)], 1)


def test_a_tie_on_eighteen_images_is_told_as_one() -> None:
    """Levels of 0.6 and 0.9 are on both sides of 0.7 raw and by CIFAR's numbers (0.5, 1.7), and by the data's own at -1 and 1."""
    labels = torch.arange(18) % 2
    pixels = torch.where(labels == 0, 153, 230).to(torch.uint8)[:, None, None, None].expand(18, 3, 4, 4).contiguous()
    images = Images(pixels, labels, 255)
    splits = Splits("levels", ("dark", "bright"), images, images, images, "none")
    own = splits.channel_statistics()
    text = r"on 50\.0% of 18 validation images with normalization=data, on 100\.0% with none and on 100\.0% with cifar\. It was .* none or cifar$"
    with pytest.warns(NormalizationWarning, match=text):
        check_normalization(Normalized(Normalize(*own), Between()), splits, "data", "it")


def test_four_images_of_eighteen_are_no_proof_of_a_normalisation(
    learned: tuple[Path, Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, config = learned
    monkeypatch.setattr("faal_lab.models.normalize._right", lambda *_: (13, 18))
    for others, text in (
        ({"none": 17, "cifar": 9}, ""),
        ({"none": 18, "cifar": 9}, "most likely trained so: --normalization none$"),
        ({"none": 18, "cifar": 14}, "by one of these, which its author knows: --normalization none or cifar$"),
    ):
        monkeypatch.setattr("faal_lab.models.normalize._right_with_others", lambda *_, others=others: others)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            prepare(replace(config, normalization="data"))
        said = [str(w.message) for w in caught if w.category is NormalizationWarning]
        assert len(said) == bool(text)
        assert all(re.search(text, line) for line in said)


def test_a_normalisation_in_the_file_goes_before_the_setting(learned: tuple[Path, Config], tmp_path: Path) -> None:
    _, config = learned
    weights = told(read_foreign(Path(config.base)), "1.")
    weights = {n.replace("module.", ""): t for n, t in weights.items()}
    torch.save({"0.mean": torch.zeros(3), "0.std": torch.ones(3), **weights}, tmp_path / "framed.pt")
    experiment = prepare(replace(config, normalization="cifar", base=str(tmp_path / "framed.pt")))
    assert experiment.state.model.normalize.std.unique().tolist() == [1.0]


def test_weights_that_know_nothing_are_told(learned: tuple[Path, Config], tmp_path: Path) -> None:
    _, config = learned
    experiment = prepare(replace(config, base=""))
    network = experiment.state.model.network
    nn.init.zeros_(network.linear.weight)
    torch.save(network.state_dict(), tmp_path / "blank.pt")
    text = r"blank\.pt is right on 33\.3% of \d+ .* with normalization=none, 33\.3% is chance, no better with data or cifar\. Are its"
    with pytest.warns(NormalizationWarning, match=text):
        prepare(replace(config, base=str(tmp_path / "blank.pt")))
    with pytest.warns(NormalizationWarning, match=r"images with the normalisation that it brought, 33\.3% is chance\. Are its"):
        check_normalization(experiment.state.model, experiment.splits, "", "blank.pt")


def test_the_test_images_are_not_looked_at(learned: tuple[Path, Config]) -> None:
    file, config = learned
    experiment = prepare(config)
    closed = replace(experiment.splits, test=None)
    model = experiment.state.model.train()
    check_normalization(model, closed, "none", file.name)
    assert model.training


def test_checkpoints_of_before_still_load(base: Path, tmp_path: Path, quick: Config) -> None:
    checkpoint = read_checkpoint(RunFolder(base).checkpoint())
    assert checkpoint.header["spec"].pop("filters") == 0
    (tmp_path / "old").mkdir()
    stored = json.loads((base / "config.json").read_text())
    for name in ("filters", "normalization"):
        del stored["config"][name]
    (tmp_path / "old" / "config.json").write_text(json.dumps({n: v for n, v in stored.items() if n != "check"}))
    write_checkpoint(tmp_path / "old" / "last.safetensors", checkpoint)
    model, _, _ = load_model(tmp_path / "old")
    assert isinstance(model.normalize, Normalize)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert list(run(replace(quick, base=str(tmp_path / "old")), tmp_path / "tuned"))[-1] == RunFinished(4, "done")
