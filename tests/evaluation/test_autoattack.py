"""AutoAttack at scale: upstream's verdicts in its own mode; killing, resuming and dividing change nothing."""

import json
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SHORT, fresh
from made_up import AutoAttack, shorter
from torch import nn

from faal_lab.data.images import Images, Splits
from faal_lab.data.sets import load
from faal_lab.evaluation.autoattack import autoattack, content_keys
from faal_lab.evaluation.suite import Manner, evaluate
from faal_lab.evaluation.verdicts import Journal, Verdicts
from faal_lab.training.loop import train
from faal_lab.training.trainer import Trainer

COUNT = 30
NAMES = tuple("0123456789")
FEW = 60  # queries of Square: what is tested does not depend on how many


@pytest.fixture(autouse=True)
def short_attacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AutoAttack, "__init__", shorter(AutoAttack.__init__))


@pytest.fixture(scope="module")
def robust(few: Splits) -> nn.Module:
    """A network that is robust enough to leave something to each attack."""
    config = replace(SHORT, epochs=12, batch_size=32, learning_rate=0.05)
    state = fresh(config)
    list(train(Trainer(state, few, config)))
    return state.model.eval()


@pytest.fixture(scope="module")
def test_images() -> Images:
    test = load("digits", seed=0).test
    return replace(test, pixels=test.pixels[:COUNT], labels=test.labels[:COUNT])


def made(model: nn.Module, images: Images, epsilon: float = 0.08, **options) -> dict[str, torch.Tensor]:
    pixels, labels = images.all()
    settings = {"epsilon": epsilon, "seed": 3, "num_classes": 10, "queries": FEW, "batch_size": 25} | options
    return autoattack(model, pixels, labels, **settings)


@pytest.mark.parametrize("norm, epsilon", [("linf", 0.08), ("l2", 0.6)])
def test_compat_gives_the_verdicts_of_a_plain_call_image_by_image(
    robust: nn.Module, test_images: Images, norm: str, epsilon: float
) -> None:
    pixels, labels = test_images.all()
    shares: list[float] = []
    began = time.monotonic()
    ours = made(robust, test_images, epsilon, norm=norm, mode="compat", progress=lambda _, share, __: shares.append(share))
    took = time.monotonic() - began
    plain = AutoAttack(robust.requires_grad_(False), norm="Linf" if norm == "linf" else "L2", eps=epsilon, seed=3)
    plain.verbose, plain.square.n_queries = False, FEW
    _, found = plain.run_standard_evaluation(pixels, labels, batch_size=25)
    assert torch.equal(ours["square"], found)
    stand = [int((p == labels).sum()) for p in ours.values()]
    assert stand == sorted(stand, reverse=True)
    assert 5 < stand[-1] <= stand[0] < COUNT, "neither all nor none"
    assert len(shares) <= 10 * took + 20, "not at each of thousands of passes"
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)


def test_per_image_noise_does_not_depend_on_the_partition(robust: nn.Module, test_images: Images) -> None:
    whole = made(robust, test_images)
    labels = test_images.labels
    for batch_size in (11, COUNT):
        assert torch.equal(made(robust, test_images, batch_size=batch_size)["square"], whole["square"])
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(0))
    turned = replace(test_images, pixels=test_images.pixels[order], labels=labels[order])
    assert torch.equal(made(robust, turned)["square"], whole["square"][order])
    part = replace(test_images, pixels=test_images.pixels[12:22], labels=labels[12:22])
    assert torch.equal(made(robust, part)["square"], whole["square"][12:22])


def test_the_modes_disagree_no_more_than_two_of_upstreams_seeds(robust: nn.Module, test_images: Images) -> None:
    labels = test_images.labels
    seeds = [made(robust, test_images, mode="compat", seed=s)["square"] == labels for s in range(3)]
    ours = [made(robust, test_images, seed=s)["square"] == labels for s in range(1)]
    among = max(int((a != b).sum()) for a in seeds for b in seeds)
    between = float(np.mean([int((a != b).sum()) for a in seeds for b in ours]))
    assert between <= max(among, 1)


def test_two_parts_make_what_one_makes(robust: nn.Module, test_images: Images, tmp_path: Path) -> None:
    import threading

    whole = made(robust, test_images)
    found: dict[int, dict[str, torch.Tensor]] = {}

    def work(part: int) -> None:
        model = fresh(SHORT).model
        model.load_state_dict(robust.state_dict())
        found[part] = made(model.eval(), test_images, journal=Journal(tmp_path, {"a": 1}, part), part=part, parts=2)

    threads = [threading.Thread(target=work, args=(part,)) for part in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert all(torch.equal(found[part]["square"], whole["square"]) for part in (0, 1))
    sizes = [len((next(tmp_path.iterdir()) / f"part-{part}.jsonl").read_text().splitlines()) for part in (0, 1)]
    assert min(sizes) >= 4, "both have worked"


def test_a_part_that_is_silent_is_made_by_the_other(
    robust: nn.Module, test_images: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("faal_lab.evaluation.autoattack.PATIENCE", 0.5)
    said: list[str] = []
    journal = Journal(tmp_path, {"a": 1}, 0)
    found = made(robust, test_images, journal=journal, part=0, parts=2, progress=lambda what, *_: said.append(what))
    assert torch.equal(found["square"], made(robust, test_images)["square"])
    assert "apgd-ce: waiting for part 2" in said
    assert "apgd-ce: part 2 is silent, making its images here" in said


# A process of its own, with one thread: it forks an evaluation, kills it after each delay, and at last lets one end.
WORKER = """
import json, os, signal, sys, time
from dataclasses import replace
from pathlib import Path
tests, weights, folder, out, queries, count, delays = json.loads(sys.argv[1])
sys.path.insert(0, tests)
from conftest import SHORT, fresh
from made_up import AutoAttack, shorter
AutoAttack.__init__ = shorter(AutoAttack.__init__)
from faal_lab.data.sets import load
from faal_lab.evaluation.suite import Manner, evaluate
from safetensors.torch import load_file
model = fresh(SHORT).model
model.load_state_dict(load_file(weights))
test = load("digits", seed=0).test
test = replace(test, pixels=test.pixels[:count], labels=test.labels[:count])
manner = Manner(batch_size=10, folder=Path(folder), queries=queries)
killed = 0
for delay in [*delays, None]:
    child = os.fork()
    if not child:
        found = evaluate(model.eval(), test, tuple("0123456789"), epsilon=0.08, attacks=("autoattack",), seed=3, manner=manner)
        Path(out).write_bytes(found.to_bytes())
        os._exit(0)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    killed += os.waitpid(child, 0)[1] != 0
    files = [len(p.read_text().splitlines()) for p in Path(folder).glob("*/part-0.jsonl")]
    print(killed, sum(files), flush=True)
"""


@pytest.mark.slow
def test_killed_twenty_times_it_ends_with_the_same_verdicts(robust: nn.Module, test_images: Images, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(robust.state_dict(), tmp_path / "w.safetensors")
    settings = {"epsilon": 0.08, "attacks": ("autoattack",), "seed": 3}
    started = time.monotonic()
    expected = evaluate(robust, test_images, NAMES, manner=Manner(batch_size=10, queries=FEW), **settings)
    whole = time.monotonic() - started
    numbers = random.Random(0)
    delays = [numbers.uniform(0.02, 0.12) * whole for _ in range(20)]
    arguments = [
        str(Path(__file__).parents[1]), str(tmp_path / "w.safetensors"), str(tmp_path / "journal"), str(tmp_path / "out.npz"), FEW, COUNT,
        delays,
    ]  # fmt: skip
    ran = subprocess.run([sys.executable, "-c", WORKER, json.dumps(arguments)], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    progress = [tuple(map(int, line.split())) for line in ran.stdout.splitlines()]
    lines = [count for _, count in progress]
    assert lines == sorted(lines), "what was finished stays"
    assert progress[-1][0] >= 10, "it was killed on the way"
    found = Verdicts.read(tmp_path / "out.npz")
    assert np.array_equal(found.predicted["autoattack"], expected.predicted["autoattack"])


def test_a_journal_survives_a_line_that_was_broken_off(tmp_path: Path) -> None:
    journal = Journal(tmp_path, {"model": "a"})
    journal.add("square", 0, [1, 2])
    file = next(tmp_path.glob("*/part-0.jsonl"))
    with open(file, "a") as broken:
        broken.write('["square", 1, [3')
    assert Journal(tmp_path, {"model": "a"}).done() == {("square", 0): [1, 2]}
    again = Journal(tmp_path, {"model": "a"})
    again.add("square", 1, [3, 4])
    assert Journal(tmp_path, {"model": "a"}).done() == {("square", 0): [1, 2], ("square", 1): [3, 4]}
    assert Journal(tmp_path, {"model": "b"}).done() == {}, "another model's batches are not one's own"
    assert len(list(tmp_path.iterdir())) == 2
    assert json.loads((file.parent / "identity.json").read_text()) == {"model": "a"}


def test_keys_follow_the_pixels() -> None:
    images = torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    keys = content_keys(images)
    assert len(set(keys.tolist())) == 200
    assert torch.equal(content_keys(images[7:9]), keys[7:9])
    changed = images.clone()
    changed[0, 0, 3, 3] += 1 / 255
    assert content_keys(changed)[0] != keys[0]
    assert int(keys.min()) >= 0


def test_the_names_that_upstream_has_inside_still_exist(robust: nn.Module) -> None:
    whole = AutoAttack(robust, norm="Linf", eps=0.1, seed=0)
    for attack in (whole.apgd, whole.apgd_targeted):
        assert callable(attack.attack_single_run)
        assert callable(attack.normalize)
        assert "x_init" in attack.attack_single_run.__code__.co_varnames
    assert callable(whole.square.random_choice)
    assert callable(whole.square.attack_single_run)
    assert callable(whole.fab.perturb)
    assert {"n_target_classes", "n_restarts", "targeted"} <= vars(whole.fab).keys()
    assert whole.attacks_to_run == ["apgd-ce", "apgd-t", "fab-t", "square"]
