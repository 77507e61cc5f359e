"""torchvision's data sets: its own code reads small stand-ins of the real files; nothing is fetched here."""

import hashlib
import pickle
import tarfile
import warnings
from collections.abc import Callable
from http.client import IncompleteRead
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torchvision import datasets

from faal_lab.data.images import DataProblem, Splits
from faal_lab.data.sets import LOADERS, load
from faal_lab.data.torchvision import SOURCES, resized

Arrays = tuple[np.ndarray, np.ndarray]  # uint8 [N, C, H, W], labels [N]
SHAPES = {"stl10": (3, 96, 96), "mnist": (1, 28, 28), "fashion-mnist": (1, 28, 28)}
NAMES = tuple(SOURCES)


def drawn(name: str, each: int, seed: int) -> Arrays:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(10), each))
    shape = (len(labels), *SHAPES.get(name, (3, 32, 32)))
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8), labels


def md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes()).hexdigest()


def write_cifar(root: Path, kind: type, train: Arrays, test: Arrays, patch: pytest.MonkeyPatch) -> None:
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    key = "labels" if kind is datasets.CIFAR10 else "fine_labels"

    def batches(listed: list, arrays: Arrays) -> list:
        parts = zip(np.array_split(arrays[0], len(listed)), np.array_split(arrays[1], len(listed)), strict=True)
        for (file, _), (pixels, labels) in zip(listed, parts, strict=True):
            (folder / file).write_bytes(pickle.dumps({"data": pixels.reshape(len(pixels), -1), key: labels.tolist()}))
        return [[file, md5(folder / file)] for file, _ in listed]

    patch.setattr(kind, "train_list", batches(kind.train_list, train))
    patch.setattr(kind, "test_list", batches(kind.test_list, test))
    meta = folder / kind.meta["filename"]
    meta.write_bytes(pickle.dumps({kind.meta["key"]: [f"class {c}" for c in range(10)]}))
    patch.setattr(kind, "meta", {**kind.meta, "md5": md5(meta)})


def write_svhn(root: Path, kind: type, train: Arrays, test: Arrays, patch: pytest.MonkeyPatch) -> None:
    root.mkdir(parents=True, exist_ok=True)
    listed = dict(kind.split_list)
    for part, (pixels, labels) in (("train", train), ("test", test)):
        file = root / listed[part][1]
        savemat(file, {"X": pixels.transpose(2, 3, 1, 0), "y": np.where(labels == 0, 10, labels)[:, None].astype(np.uint8)})
        listed[part] = [*listed[part][:2], md5(file)]
    patch.setattr(kind, "split_list", listed)


def write_stl(root: Path, kind: type, train: Arrays, test: Arrays, patch: pytest.MonkeyPatch) -> None:
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    for part, (pixels, labels) in (("train", train), ("test", test)):
        pixels.transpose(0, 1, 3, 2).tofile(folder / f"{part}_X.bin")
        (labels + 1).astype(np.uint8).tofile(folder / f"{part}_y.bin")
    (folder / "unlabeled_X.bin").write_bytes(b"")
    (folder / kind.class_names_file).write_text("\n".join(f"class {c}" for c in range(10)))
    for listed in ("train_list", "test_list"):
        patch.setattr(kind, listed, [[file, md5(folder / file)] for file, _ in getattr(kind, listed)])


def write_mnist(root: Path, kind: type, train: Arrays, test: Arrays, patch: pytest.MonkeyPatch) -> None:
    folder = root / kind.__name__ / "raw"
    folder.mkdir(parents=True)
    for part, (pixels, labels) in (("train", train), ("t10k", test)):
        for what, array in (("images", pixels[:, 0]), ("labels", labels.astype(np.uint8))):
            sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
            head = bytes([0, 0, 8, array.ndim]) + sizes
            (folder / f"{part}-{what}-idx{array.ndim}-ubyte").write_bytes(head + array.tobytes())


WRITERS: dict[str, Callable] = {
    "cifar10": write_cifar, "cifar100": write_cifar, "svhn": write_svhn, "stl10": write_stl,
    "mnist": write_mnist, "fashion-mnist": write_mnist,
}  # fmt: skip


def write(name: str, root: Path, patch: pytest.MonkeyPatch) -> tuple[Arrays, Arrays]:
    """Write a stand-in of `name`: 120 training and 20 test images; torchvision takes its hashes for the right ones."""
    train, test = drawn(name, 12, 0), drawn(name, 2, 1)
    WRITERS[name](root, getattr(datasets, SOURCES[name].kind), train, test, patch)
    return train, test


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments, **options):
        raise URLError("no network in tests")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


@pytest.mark.parametrize("name", NAMES)
def test_every_set_is_read(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    (pixels, labels), (test_pixels, test_labels) = write(name, tmp_path / "sets", monkeypatch)
    splits = load(name, seed=0, data_dir=str(tmp_path / "sets"))
    assert np.array_equal(splits.test.pixels.numpy(), test_pixels)
    assert np.array_equal(splits.test.labels.numpy(), test_labels)
    assert (len(splits.train), len(splits.validation)) == (108, 12)
    kept = torch.cat([splits.train.pixels, splits.validation.pixels]).numpy()
    classes = torch.cat([splits.train.labels, splits.validation.labels]).numpy()
    found, drawn_ = ({(x.tobytes(), int(y)) for x, y in zip(*pair, strict=True)} for pair in ((kept, classes), (pixels, labels)))
    assert found == drawn_
    assert (splits.train.pixels.dtype, splits.train.labels.dtype) == (torch.uint8, torch.int64)
    assert set(splits.validation.labels.tolist()) == set(range(10)), "by class"
    assert (splits.name, splits.num_classes) == (name, 10)
    assert splits.augmentation == ("crop-flip" if name in ("cifar10", "cifar100", "stl10") else "none")
    assert capfd.readouterr() == ("", ""), "quiet"


def test_class_names_are_torchvisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {"cifar100": "class 3", "svhn": "3", "mnist": "3 - three", "fashion-mnist": "Dress"}
    for name, third in expected.items():
        write(name, tmp_path / name, monkeypatch)
        assert load(name, seed=0, data_dir=str(tmp_path / name)).class_names[3] == third


def test_the_seed_cuts_validation_and_the_default_folder_is_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("mnist", tmp_path / "data", monkeypatch)
    monkeypatch.chdir(tmp_path)
    first, again, other = (load("mnist", seed=s) for s in (0, 0, 1))
    assert torch.equal(first.validation.pixels, again.validation.pixels)
    assert not torch.equal(first.validation.pixels, other.validation.pixels)
    assert torch.equal(first.test.pixels, other.test.pixels), "its own, whatever the seed"


def test_validation_is_at_most_3000(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = drawn("mnist", 3200, 0)
    write_mnist(tmp_path, datasets.MNIST, many, drawn("mnist", 1, 1), monkeypatch)
    splits = load("mnist", seed=0, data_dir=str(tmp_path))
    assert (len(splits.train), len(splits.validation)) == (29_000, 3000)
    assert torch.bincount(splits.validation.labels).tolist() == [300] * 10


def test_training_on_all_and_long_tails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("svhn", tmp_path, monkeypatch)
    splits = load("svhn", seed=0, data_dir=str(tmp_path), validation="none", imbalance=12.0)
    assert len(splits.validation) == 0
    assert torch.bincount(splits.train.labels).tolist() == [12, 9, 7, 5, 4, 3, 2, 2, 1, 1]


def test_images_are_resized_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("stl10", tmp_path, monkeypatch)
    splits = load("stl10", seed=0, data_dir=str(tmp_path), image_size=32)
    assert {tuple(p.pixels.shape[1:]) for p in (splits.train, splits.validation, splits.test)} == {(3, 32, 32)}
    whole = load("stl10", seed=0, data_dir=str(tmp_path))
    means = [s.test.pixels.float().mean((1, 2, 3)) for s in (splits, whole)]
    assert torch.allclose(*means, atol=1.5)
    many = torch.randint(0, 256, (501, 1, 8, 8), dtype=torch.uint8)
    assert torch.equal(resized(many, 4)[500:], resized(many[500:], 4)), "chunks change nothing"
    assert resized(many, 8) is many is resized(many, 0)


@pytest.mark.parametrize("name", NAMES)
def test_a_set_that_is_not_there(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataProblem) as caught:
        load(name, seed=0, data_dir=str(tmp_path / "none"))
    said = str(caught.value)
    assert said.startswith(
        f"{name} is not in {tmp_path / 'none'} (data_dir; the folder 'data' where none is given). Fetch it with --download"
    )
    assert all(archive in said for archive in SOURCES[name].archives)
    assert not (tmp_path / "none").exists(), "nothing is made without being asked"


@pytest.mark.parametrize("name", NAMES)
def test_our_file_names_are_torchvisions(name: str) -> None:
    source, kind = SOURCES[name], getattr(datasets, SOURCES[name].kind)
    if hasattr(kind, "resources"):
        assert source.archives == tuple(f"{kind.__name__}/raw/{file}" for file, _ in kind.resources)
    elif hasattr(kind, "split_list"):
        assert source.archives == tuple(kind.split_list[part][1] for part in ("train", "test"))
    else:
        assert (source.archives, source.unpacked) == ((kind.filename,), (kind.base_folder,))


class Trap:
    """A pickle that tells when it is opened."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("download", [False, True])
@pytest.mark.parametrize(
    "name, file, fetches",
    [
        ("cifar10", "cifar-10-batches-py/data_batch_2", True),
        ("cifar10", "cifar-10-batches-py/batches.meta", False),
        ("cifar100", "cifar-100-python/test", True),
        ("svhn", "train_32x32.mat", True),
        ("stl10", "stl10_binary/test_y.bin", True),
        ("mnist", "MNIST/raw/train-images-idx3-ubyte", False),
        ("fashion-mnist", "FashionMNIST/raw/t10k-labels-idx1-ubyte", False),
    ],
)
def test_damaged_files(name: str, file: str, fetches: bool, download: bool, tmp_path: Path, monkeypatch) -> None:
    write(name, tmp_path, monkeypatch)
    damaged = tmp_path / file
    damaged.write_bytes(damaged.read_bytes()[:-9] if "idx" in file else pickle.dumps(Trap(tmp_path / "opened")))
    with pytest.raises(DataProblem) as caught:
        load(name, seed=0, data_dir=str(tmp_path), download=download)
    said = str(caught.value)
    if download and fetches:  # torchvision fetches anew what it finds damaged, but not all of it
        assert said.startswith(f"{name} could not be fetched: ")
    else:
        assert f"{name} in {tmp_path} is damaged, incomplete or not the original (" in said
        assert f"Delete {', '.join(SOURCES[name].unpacked)} there and fetch it again with --download" in said
    assert not (tmp_path / "opened").exists(), "no unchecked pickle is opened"


def test_files_without_class_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("stl10", tmp_path, monkeypatch)
    (tmp_path / "stl10_binary" / "class_names.txt").unlink()
    with pytest.raises(DataProblem, match=r"labels up to 9, 0 class names\)\. Delete stl10_binary there"):
        load("stl10", seed=0, data_dir=str(tmp_path))


def test_files_of_an_old_torchvision_are_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("mnist", tmp_path, monkeypatch)
    old = tmp_path / "MNIST" / "processed"
    old.mkdir()
    for name in ("training.pt", "test.pt"):
        (old / name).write_bytes(pickle.dumps(Trap(tmp_path / "opened")))
    with pytest.raises(
        DataProblem, match=r"training\.pt was made by an old torchvision and has no hash to check\. Delete its folder"
    ):
        load("mnist", seed=0, data_dir=str(tmp_path))
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_download_that_fails(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataProblem) as caught:
        load(name, seed=0, data_dir=str(tmp_path), download=True)
    said = str(caught.value)
    assert said.startswith(f"{name} could not be fetched: ")
    assert "no network in tests" in said
    assert f"copy {', '.join(SOURCES[name].archives)} into {tmp_path} from a machine" in said
    assert "\n" not in said


@pytest.mark.parametrize(
    "error", [IncompleteRead(b"half"), RuntimeError("File not found or corrupted."), PermissionError(13, "denied")]
)
def test_every_way_a_download_fails(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", fail)
    with pytest.raises(DataProblem, match="cifar10 could not be fetched: .+ Without a connection: copy cifar-10-python"):
        load("cifar10", seed=0, data_dir=str(tmp_path), download=True)


def test_an_archive_copied_by_hand_is_unpacked_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, (pixels, _) = write("cifar10", tmp_path / "there", monkeypatch)
    here = tmp_path / "here"
    here.mkdir()
    with tarfile.open(here / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "there" / "cifar-10-batches-py", "cifar-10-batches-py")
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", md5(here / "cifar-10-python.tar.gz"))
    splits = load("cifar10", seed=0, data_dir=str(here), download=True)
    assert np.array_equal(splits.test.pixels.numpy(), pixels)


def test_a_warning_of_numpy_about_old_pickles_is_not_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("cifar10", tmp_path, monkeypatch)
    real = pickle.load

    def warning(*arguments, **options):
        warnings.warn("dtype(): align should be passed as Python or NumPy boolean but got `align=0`.", stacklevel=2)
        return real(*arguments, **options)

    monkeypatch.setattr(pickle, "load", warning)
    assert isinstance(load("cifar10", seed=0, data_dir=str(tmp_path)), Splits)


def test_all_of_them_can_be_chosen() -> None:
    assert set(NAMES) < set(LOADERS)
