"""What the tests share: a quick run on the digits, a folder of made-up images, a JupyterLab and pages of a browser."""

import os
from dataclasses import replace

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # two threads on tiny networks fight more than they help, beside other work above all
os.environ.setdefault("JUPYTER_PLATFORM_DIRS", "1")  # silences a deprecation warning of jupyter_core

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

from faal_lab.catalogue import AVERAGING, FAIRNESS, check_combination
from faal_lab.data import images as loaded
from faal_lab.data.images import Images, Splits
from faal_lab.data.sets import load
from faal_lab.errors import RecipeError
from faal_lab.methods.objectives import OBJECTIVES
from faal_lab.methods.recipe import Recipe
from faal_lab.models.build import ModelSpec, build
from faal_lab.runs.config import Config
from faal_lab.training.run import recipe_settings, run
from faal_lab.training.trainer import TrainingState

settings.register_profile("same", derandomize=True, deadline=None)  # a stranger's run tries what ours tried
settings.load_profile("same")

SHORT = Config(
    epochs=2, batch_size=128, attack_steps=2, validation_steps=1, learning_rate=0.02, average_threshold=0.0, epsilon=0.1
)
QUICK = {"epochs": 1, "batch_size": 250, "attack_steps": 2, "validation_steps": 2}


@pytest.fixture(autouse=True)
def fresh_notes() -> None:
    """Notes on data are told once in a process: each test begins as a new one."""
    loaded._told.clear()


@pytest.fixture(scope="session")
def quick() -> Config:
    """Four steps on the digits."""
    return Config.from_mapping(QUICK)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, quick: Config) -> Path:
    """A finished quick run; tests must not write to it."""
    folder = tmp_path_factory.mktemp("runs") / "base"
    for _ in run(quick, folder):
        pass
    return folder


def draw_images(root: Path, classes: dict[str, int], size: int = 12, seed: int = 0) -> Path:
    """A folder of images that can be told apart: each class is brighter at its own place."""
    numbers = np.random.default_rng(seed)
    for place, (name, count) in enumerate(classes.items()):
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            pixels = numbers.integers(0, 80, (size, size, 3), dtype=np.uint8)
            pixels[place * 3 : place * 3 + 3] += 150
            Image.fromarray(pixels).save(root / name / f"{index:03d}.png")
    return root


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Three classes of 40 images of 12x12."""
    return draw_images(tmp_path / "shapes", {"ant": 40, "bee": 40, "cow": 40})


@pytest.fixture
def tiny_model() -> torch.nn.Module:
    """A linear model on 1x4x4 images with three classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))


@pytest.fixture(scope="session")
def few() -> Splits:
    """256 digits to train on, 64 to validate."""
    splits = load("digits", seed=0)

    def first(images: Images, count: int) -> Images:
        return replace(images, pixels=images.pixels[:count], labels=images.labels[:count])

    return replace(splits, train=first(splits.train, 256), validation=first(splits.validation, 64))


# the authors' rates are for long runs
RATES = {"cfol": 0.01, "group-dro": 0.1, "wat": 1.0}


def sensible() -> list[tuple[str, str, float, str]]:
    """Every point of the product that makes sense: objective, fairness, AWP's gamma, averaging."""
    points = []
    for objective, fairness, gamma, averaging in itertools.product(OBJECTIVES, FAIRNESS, (0.0, 0.01), AVERAGING):
        try:
            check_combination(objective, fairness, averaging)
        except RecipeError:
            continue
        points.append((objective, fairness, gamma, averaging))
    return points


def fresh(config: Config) -> TrainingState:
    """A small network (of four filters) with the recipe of `config`, before its first step."""
    model = build(ModelSpec(config.model, 10, 1, 8, 8, (0.3,), (0.4,), filters=4), seed=0)
    return TrainingState.fresh(model, Recipe.of(**recipe_settings(config, validation=True)), config)


@pytest.fixture(scope="session")
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """JupyterLab as `faal-lab lab` starts it: (address, folder it shows)."""
    import in_browser
    import in_lab

    in_lab.require_browser()
    folder = tmp_path_factory.mktemp("jupyter")
    (folder / "shown").mkdir()
    with in_browser.jupyter(folder / "shown", folder, "") as (address, _):
        yield address, folder / "shown"


@pytest.fixture
def lab(jupyter: tuple[str, Path], request: pytest.FixtureRequest) -> Iterator[Any]:
    """A folder of its own in JupyterLab, with a copy of the notebooks: in_lab.Lab."""
    import in_lab

    lab = in_lab.Lab(jupyter[0], in_lab.own_folder(jupyter[1], request.node.name.partition("[")[0]))
    yield lab
    lab.end()


@pytest.fixture(scope="module")  # not session: while Playwright runs, asyncio belongs to it
def browser(jupyter: tuple[str, Path]) -> Iterator[Any]:
    """A browser whose pages share what was loaded once."""
    import in_browser

    with in_browser.browser() as browser:
        yield browser


@pytest.fixture
def page(browser: Any, jupyter: tuple[str, Path]) -> Iterator[Any]:
    """A page that remembers what it asked for outside and what it logged as an error."""
    import in_lab

    page = browser.new_page()
    in_lab.watch(page, jupyter[0])
    yield page
    page.close()
