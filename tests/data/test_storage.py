"""Images in a file are the images in memory, bit for bit, from reading to verdicts; and memory need not hold them."""

import mmap
import os
import subprocess
import sys
import textwrap
import warnings
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from conftest import draw_images

import faal_lab as fl
from faal_lab.data import folder, images, storage
from faal_lab.data.batches import Sampler
from faal_lab.data.images import DataNote, DataProblem, Images, Splits, heard
from faal_lab.data.sets import load
from faal_lab.data.storage import OnDisk, StorageError
from faal_lab.errors import UnknownName
from faal_lab.evaluation.suite import data_digest
from faal_lab.runs import RunFolder, read_checkpoint

CLASSES = {"ant": 40, "bee": 40, "cow": 40}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FAAL_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(params=["digits", "folder", "csv", "npz"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    if request.param == "digits":
        return {"name": "digits"}
    images = draw_images(tmp_path / "shapes", CLASSES)
    if request.param == "folder":
        return {"name": "folder", "data_dir": str(images)}
    files = sorted(images.rglob("*.png"))
    if request.param == "csv":
        pd.DataFrame({"file": files, "label": [f.parent.name for f in files]}).to_csv(tmp_path / "shapes.csv", index=False)
        return {"name": "csv", "data_dir": str(tmp_path / "shapes.csv")}
    x = np.random.default_rng(0).random((90, 6, 5, 3))
    y = np.arange(90) % 3
    np.savez(tmp_path / "own.npz", x_train=x[:60], y_train=y[:60], x_val=x[60:75], y_val=y[60:75], x_test=x[75:], y_test=y[75:])
    return {"name": "npz", "data_dir": str(tmp_path / "own.npz")}


def both(source: dict[str, Any], **how: Any) -> tuple[Splits, Splits]:
    """The data set in memory and on disk."""
    found = [load(**source, seed=3, storage=place, **how) for place in ("memory", "disk")]
    assert [type(s.train.pixels) for s in found] == [torch.Tensor, OnDisk]
    return found[0], found[1]


@pytest.mark.parametrize("how", [{}, {"validation": "none"}, {"validation": "test"}, {"imbalance": 4.0}], ids=str)
@pytest.mark.filterwarnings("ignore::faal_lab.data.images.DataNote")
def test_every_part_and_every_batch_is_the_same(source: dict[str, Any], how: dict[str, Any]) -> None:
    inside, outside = both(source, **how)
    assert inside.channel_statistics() == outside.channel_statistics()
    for part in ("train", "validation", "test"):
        a, b = getattr(inside, part), getattr(outside, part)
        assert torch.equal(a.pixels, b.pixels[:]), part
        assert torch.equal(a.labels, b.labels), part
        assert data_digest(a) == data_digest(b), part
    weights = torch.full((inside.num_classes,), 1 / inside.num_classes)
    for drawn_by in (None, weights):
        for epoch in range(2):
            samplers = [Sampler(s.train, 0, epoch, 16, "crop-flip") for s in (inside, outside)]
            for index in range(-(-len(inside.train) // 16)):
                a, b = (sampler.batch(index, drawn_by) for sampler in samplers)
                assert all(torch.equal(x, y) for x, y in zip(a[:3], b[:3], strict=True)), (epoch, index)


def test_a_run_and_its_verdicts_are_the_same(tmp_path: Path) -> None:
    images = draw_images(tmp_path / "shapes", CLASSES)
    quick: dict[str, Any] = {
        "epochs": 2, "batch_size": 32, "attack_steps": 2, "validation_steps": 1, "filters": 4, "fairness": "faal", "quiet": True,
        "data": "folder", "data_dir": str(images), "epsilon": 0.03,
    }  # fmt: skip
    runs = [fl.train(out=tmp_path / place, storage=place, **quick) for place in ("memory", "disk")]
    events = [RunFolder.open(run.path).events() for run in runs]
    assert events[0] == events[1]
    first, second = (read_checkpoint(RunFolder.open(run.path).checkpoint()).tensors for run in runs)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    found = [fl.evaluate(run, "clean,pgd-20,apgd-ce", quiet=True) for run in runs]
    a, b = (next(iter(verdicts.values())) for verdicts in found)
    assert {n: p.tolist() for n, p in a.predicted.items()} == {n: p.tolist() for n, p in b.predicted.items()}
    assert a.header["data_sha256"] == b.header["data_sha256"]


def test_what_was_decoded_once_is_not_decoded_again(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = draw_images(tmp_path / "shapes", CLASSES)
    decoded: list[Path] = []
    plain = folder.decode
    monkeypatch.setattr(folder, "decode", lambda file: decoded.append(file) or plain(file))
    for seed in (0, 1):  # another split of the same images
        load("folder", seed=seed, data_dir=str(images), storage="disk")
    assert len(decoded) == 120 + 2, "each image once, and the first one each time for its size"
    file = images / "ant" / "000.png"
    os.utime(file, (1, 1))
    load("folder", seed=0, data_dir=str(images), storage="disk")
    assert len(decoded) == 122 + 121, "a file that changed is read again, and with it its set"
    assert len(list(cache.glob("*.npy"))) == 2


def test_notes_of_decoding_are_told_again(tmp_path: Path) -> None:
    x = np.random.default_rng(0).random((60, 1, 5, 5))
    np.savez(tmp_path / "own.npz", x_train=x, y_train=np.arange(60) % 2)
    for _ in range(2):
        with heard() as notes:
            load("npz", seed=0, data_dir=str(tmp_path / "own.npz"), storage="disk")
        assert notes == [f"{tmp_path / 'own.npz'}: x_train: floats were rounded to 256 levels."]
    images._told.clear()  # they were heard
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            load("npz", seed=0, data_dir=str(tmp_path / "own.npz"))
    assert len(caught) == 1, "told once in a process"


def test_a_large_set_goes_to_disk_by_itself(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = draw_images(tmp_path / "shapes", CLASSES)
    size = 120 * 3 * 12 * 12
    monkeypatch.setattr(storage, "memory", lambda: 4 * size)
    assert isinstance(load("folder", seed=0, data_dir=str(images)).train.pixels, torch.Tensor), "a quarter is not more"
    assert not cache.exists()
    monkeypatch.setattr(storage, "memory", lambda: 4 * size - 4)
    with pytest.warns(DataNote, match=r"more than 25% of the memory \(0.0 GB\): they are kept decoded in .*\.npy"):
        splits = load("folder", seed=0, data_dir=str(images))
    assert isinstance(splits.train.pixels, OnDisk)


@pytest.mark.parametrize(
    ("own", "limits", "least"),
    [
        ("0::/\n", {"memory.max": "1000000\n"}, 1_000_000),
        ("0::/jobs/7\n", {"jobs/7/memory.max": "max\n", "jobs/memory.max": "2000000\n"}, 2_000_000),
        ("9:name=systemd:/\n4:cpu,memory:/a/b\n", {"memory/a/b/memory.limit_in_bytes": "3000000\n"}, 3_000_000),
        ("4:memory:/elsewhere\n", {"memory/memory.limit_in_bytes": "4000000\n"}, 4_000_000),
        ("3:cpuset:/a\n", {"memory/a/memory.limit_in_bytes": "5000000\n"}, None),
        ("0::/\n", {"memory.max": "max\n"}, None),
        (None, {}, None),
    ],
)
def test_a_container_or_job_limits_the_memory(
    own: str | None, limits: dict[str, str], least: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in limits.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    if own is not None:
        (tmp_path / "own").write_text(own)
    monkeypatch.setattr(storage, "_GROUPS", tmp_path)
    monkeypatch.setattr(storage, "_OWN_GROUP", tmp_path / "own")
    assert storage.memory() == (least or psutil.virtual_memory().total)


def test_no_room_is_said_before_anything_is_decoded(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = draw_images(tmp_path / "shapes", CLASSES)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda place: usage(10, 9, 1))
    with pytest.raises(StorageError, match="0.0 GB left. Set FAAL_LAB_CACHE to a folder on a larger disk"):
        load("folder", seed=0, data_dir=str(images), storage="disk")
    assert list(cache.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a file").touch()
    monkeypatch.setenv("FAAL_LAB_CACHE", str(tmp_path / "a file"))
    with pytest.raises(StorageError, match="Decoded images cannot be kept in .*a file"):
        load("digits", seed=0, storage="disk")


def test_half_a_set_is_not_kept(tmp_path: Path, cache: Path) -> None:
    images = draw_images(tmp_path / "shapes", {"ant": 40, "bee": 40})
    draw_images(tmp_path / "shapes", {"cow": 40}, size=14)
    with pytest.raises(DataProblem, match="Images differ in size"):
        load("folder", seed=0, data_dir=str(images), storage="disk")
    assert list(cache.iterdir()) == []


def test_what_a_killed_process_left_is_removed_after_a_day(cache: Path) -> None:
    cache.mkdir()
    old, new = cache / "a-1.part", cache / "b-2.part"
    for file in (old, new):
        file.write_bytes(b"half")
    os.utime(old, (1, 1))
    load("digits", seed=0, storage="disk")
    assert not old.exists()
    assert new.exists(), "another process may be writing it"


def test_a_file_that_is_gone_or_cut_is_named(cache: Path) -> None:
    splits = load("digits", seed=0, storage="disk")
    (file,) = cache.glob("*.npy")
    content = file.read_bytes()
    file.write_bytes(content[:-200])
    with pytest.raises(StorageError, match="damaged: it ends early. Delete it"):
        list(splits.test.chunks())
    file.unlink()
    with pytest.raises(StorageError, match="was removed meanwhile"):
        splits.train.all()


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the system takes no advice")
def test_the_next_batch_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    splits = load("digits", seed=0, storage="disk")
    asked: list[int] = []
    plain = os.posix_fadvise

    def advise(file: int, begin: int, size: int, advice: int) -> None:
        asked.extend([size] if advice == os.POSIX_FADV_WILLNEED else [])
        plain(file, begin, size, advice)

    monkeypatch.setattr(os, "posix_fadvise", advise)
    sampler = Sampler(splits.train, 0, 0, 128, "none")
    sampler.batch(0)
    assert 100 <= len(asked) <= 128, "the next batch, neighbours at once"
    assert all(size % mmap.PAGESIZE == 0 for size in asked), "whole pages"
    before = len(asked)
    sampler.batch(7)
    sampler.batch(0, torch.full((10,), 0.1))
    assert len(asked) == before, "after the last batch none, nor where it is not known"


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="the system takes no advice")
def test_pages_that_cannot_all_stay_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda file, begin, size, advice: given.append(advice))
    load("digits", seed=0, storage="disk").train.batch(torch.arange(0, 900, 7))
    assert os.POSIX_FADV_DONTNEED not in given
    monkeypatch.setattr(storage, "memory", lambda: 100_000)  # the digits take 115,000 bytes
    splits = load("digits", seed=0, storage="disk")
    pixels, _ = splits.train.batch(torch.arange(0, 900, 7))
    assert given.count(os.POSIX_FADV_DONTNEED) >= 100
    assert torch.equal(pixels, load("digits", seed=0, storage="memory").train.batch(torch.arange(0, 900, 7))[0])


def test_no_test_set_is_made_float_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = fl.train(out=tmp_path / "run", epochs=1, batch_size=250, attack_steps=1, quiet=True)
    sizes: list[int] = []
    plain = Images.batch
    monkeypatch.setattr(Images, "batch", lambda self, indices: sizes.append(len(indices)) or plain(self, indices))
    verdicts = fl.evaluate(run, "clean,pgd-20,apgd-ce", quiet=True)["run"]
    assert len(verdicts.labels) == 597
    assert max(sizes) <= 500


def test_digits_and_unknown_storages_are_told(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="ram.*auto, memory, disk"):
        load("digits", seed=0, storage="ram")


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts what a process holds on Linux alone")
def test_a_set_that_memory_does_not_hold(tmp_path: Path) -> None:
    """A process that may hold 40 MB more reads 120 MB of images from an .npz."""
    code = f"""
        import re, resource
        import numpy as np, torch
        from pathlib import Path
        from faal_lab.data.batches import Sampler
        from faal_lab.data.sets import load
        from faal_lab.data.storage import StorageError
        import sklearn.model_selection, psutil
        torch.set_num_threads(1)
        rng, place = np.random.default_rng(0), Path({str(tmp_path)!r})
        load("digits", seed=0, storage="disk").train.ahead(torch.arange(3))  # the thread and its libraries
        y = np.arange(40_000) % 2
        def written(count, name):
            x = np.lib.format.open_memmap(place / "x.npy", "w+", np.uint8, (count, 3, 32, 32))
            for start in range(0, count, 10_000):
                x[start : start + 10_000] = rng.integers(0, 256, x[start : start + 10_000].shape, dtype=np.uint8)
            np.savez(place / name, x_train=x, y_train=y[:count])
        written(1_000, "small.npz"), written(40_000, "large.npz")
        load("npz", seed=0, data_dir=str(place / "small.npz"), storage="disk")
        held = int(re.findall(r"VmData:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[0]) * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (held + 40_000_000,) * 2)
        try:
            load("npz", seed=0, data_dir=str(place / "large.npz"), storage="memory")
        except StorageError as error:
            print(error)
        splits = load("npz", seed=0, data_dir=str(place / "large.npz"), storage="disk")
        sampler = Sampler(splits.train, 0, 0, 128, "crop-flip")
        print(len(splits.train), sum(len(sampler.batch(i).labels) for i in range(20)), splits.channel_statistics()[0])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=240,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    refused, read = done.stdout.splitlines()
    assert refused == "The images take 0.1 GB, more memory than there is. Set storage=disk."
    assert read.startswith("28000 2560 (0.5")


def test_parts_of_other_files_join_in_memory() -> None:
    splits = load("digits", seed=0, storage="disk")
    other = load("digits", seed=0)
    joined = splits.train.joined(other.test)
    assert isinstance(joined.pixels, torch.Tensor)
    assert torch.equal(joined.pixels, torch.cat([part.pixels[:] for part in (other.train, other.test)]))
    assert len(replace(joined, labels=joined.labels)) == 1597
