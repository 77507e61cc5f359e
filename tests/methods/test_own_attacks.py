"""A training attack of the user's own: by object and by path, cut to its ball, refused where it cannot serve."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import faal_lab as fl
from faal_lab.errors import ConfigError, OwnPartError, RecipeError
from faal_lab.methods.pgd import PGD, Goal
from faal_lab.runs import RunFolder, read_checkpoint

QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 250, "attack_steps": 1, "validation_steps": 1, "filters": 4, "quiet": True}


class OneStep:
    """FGSM: one step of the whole radius from the image."""

    def __init__(self) -> None:
        self.goals: list[Goal] = []

    def __call__(self, model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, goal: Goal) -> torch.Tensor:
        """Attack images."""
        self.goals.append(goal)
        x = images.detach().requires_grad_(True)
        (slope,) = torch.autograd.grad(F.cross_entropy(model(x), labels), x)
        return images + goal.radius * slope.sign()


class Far(OneStep):
    """It leaves the ball and the pixel box."""

    def __call__(self, model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, goal: Goal) -> torch.Tensor:
        """Attack images."""
        return images + 7


class Flat(OneStep):
    def __call__(self, model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor, goal: Goal) -> torch.Tensor:
        """Attack images, and lose their shape."""
        return images.flatten(1)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(RunFolder.open(folder).checkpoint()).part("model")


def test_one_step_of_the_radius_is_pgd_with_one_step(tmp_path: Path) -> None:
    attack = OneStep()
    fl.train(attack=attack, out=tmp_path / "own", **QUICK)
    fl.train(attack_start="zero", step_ratio=1.0, out=tmp_path / "pgd", **QUICK)
    own, pgd = tensors(tmp_path / "own"), tensors(tmp_path / "pgd")
    assert all(torch.equal(own[name], pgd[name]) for name in own)
    assert attack.goals[0].radius == 0.1
    assert attack.goals[0].steps == 1
    assert attack.goals[0].loss == "cross-entropy"


def test_pgd_itself_as_an_object_changes_nothing(tmp_path: Path) -> None:
    fl.train(attack=PGD(), out=tmp_path / "own", **QUICK)
    fl.train(out=tmp_path / "named", **QUICK)
    own, named = tensors(tmp_path / "own"), tensors(tmp_path / "named")
    assert all(torch.equal(own[name], named[name]) for name in own)


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 0.1), ("l2", 0.5)])
def test_what_leaves_the_ball_is_cut_to_it(norm: str, epsilon: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from faal_lab.training import step

    seen: list[float] = []
    plain = step.attack

    def watched(trainer: Any, batch: Any) -> Any:
        found = plain(trainer, batch)
        moved = (found.images - batch.images).flatten(1)
        seen.append(float(moved.abs().max() if norm == "linf" else moved.norm(dim=1).max()))
        assert float(found.images.min()) >= 0
        assert float(found.images.max()) <= 1
        return found

    monkeypatch.setattr(step, "attack", watched)
    fl.train(attack=Far(), norm=norm, epsilon=epsilon, out=tmp_path / "run", **QUICK)
    assert max(seen) <= epsilon + 1e-6
    assert max(seen) > 0.5 * epsilon


def test_by_path_and_resumed(tmp_path: Path) -> None:
    file = tmp_path / "my_attacks.py"
    file.write_text("class Noise:\n    def __call__(self, model, images, labels, goal):\n        return goal.start\n")
    run = fl.train(attack=f"{file}:Noise", out=tmp_path / "run", **(QUICK | {"epochs": 2}))
    assert run.config.attack == f"{file}:Noise"
    assert run.status == "done"


def test_an_object_is_needed_again_to_resume(tmp_path: Path) -> None:
    run = fl.train(attack=Far(), out=tmp_path / "run", **QUICK)
    with pytest.raises(ConfigError, match=r"made with a attack|made with an attack|attack \(.*Far\)"):
        fl.train(out=run.path, resume=True)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"replays": 4}, "Set replays to 0"),
        ({"objective": "bat"}, "objective to at, trades or mart"),
        ({"objective": "standard"}, "objective to at, trades or mart"),
        ({"fairness": "trix", "objective": "trades", "fairness_start": 1, "epochs": 2}, "fairness not to trix"),
    ],
)
def test_where_it_cannot_serve_it_is_refused(settings: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises((ConfigError, RecipeError), match=text):
        fl.train(attack=Far(), out=tmp_path / "run", **(QUICK | settings))
    assert not (tmp_path / "run").exists()


def test_what_is_no_attack_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OwnPartError, match="must have __call__"):
        fl.train(attack=3, out=tmp_path / "run", **QUICK)
    with pytest.raises(OwnPartError, match="must be an object, got the class Far"):
        fl.train(attack=Far, out=tmp_path / "run", **QUICK)
    with pytest.raises(OwnPartError, match=r"The attack Flat returned \[250, 64\]; expected images \[250, 1, 8, 8\]"):
        fl.train(attack=Flat(), out=tmp_path / "run", **QUICK)
