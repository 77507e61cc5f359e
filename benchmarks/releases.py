"""Compare one training step of `--variant release` with the authors' own code, on this machine's processor.

    git clone https://github.com/yaodongyu/TRADES codes/TRADES      # and others, each in a folder of its repository's name
    python benchmarks/releases.py codes

Each code that is there computes loss, gradient and BatchNorm's statistics of one batch on a small network in float64, from the
same noise as ours; BAT's two attacks are compared by their points, AWP by its move of the weights. A code that is absent is
skipped, and says so. Only codes whose step is a function can be compared: those of FAAL, FAT and WAT are scripts. The codes are
made for a GPU and run on the CPU here. They are the authors', run as they are: look at what you cloned first. `--out FILE` keeps
the numbers as JSON. Returns 1 if a difference is above 1e-6, or if nothing was compared.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import nn

from faal_lab.data import keyed_random
from faal_lab.data.batches import Batch
from faal_lab.data.sets import load
from faal_lab.methods.awp import weight_perturbed
from faal_lab.methods.objectives import TRADES
from faal_lab.methods.recipe import Recipe
from faal_lab.runs.config import Config
from faal_lab.training.attack import attack
from faal_lab.training.run import recipe_settings
from faal_lab.training.step import before_batch, step
from faal_lab.training.trainer import Trainer, TrainingState

CLASSES, IMAGES, STEPS, EPSILON, ALPHA, BETA, SEED, LARGEST = 10, 40, 3, 0.1, 0.025, 6.0, 7, 1e-6
WEIGHTS = torch.linspace(0.6, 1.4, CLASSES, dtype=torch.float64)
ACCURACY = torch.linspace(0.1, 0.9, CLASSES, dtype=torch.float64)
PHI = torch.linspace(0.0, 0.09, CLASSES, dtype=torch.float64)
PSI = torch.linspace(-0.05, 0.15, CLASSES, dtype=torch.float64)
G = torch.linspace(0.01, 2.01, CLASSES**2, dtype=torch.float64).view(CLASSES, CLASSES)
SHIFT = torch.arange(IMAGES) % (CLASSES - 1)  # of TRIX's targets


class Net(nn.Module):
    """Two BatchNorms in float64, for 3x32x32 images."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            self.layers = nn.Sequential(
                nn.Conv2d(3, 4, 5, stride=3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(400, CLASSES),
                nn.BatchNorm1d(CLASSES),
            ).double()  # fmt: skip

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits [B, 10]."""
        return self.layers(images.double())


class Seen(NamedTuple):
    """The results of a step that are compared."""

    loss: float | None  # None: the code does not return it, or adds a constant
    gradient: torch.Tensor
    statistics: torch.Tensor


class Optimizer:
    """Stands in for an optimiser that a code steps by itself; keeps the gradient."""

    def __init__(self, net: nn.Module) -> None:
        self.net, self.kept = net, torch.zeros(0)

    def zero_grad(self) -> None:
        """Clear the gradients."""
        self.net.zero_grad()

    def step(self) -> None:
        """Keep the gradient, and move nothing."""
        self.kept = gradient(self.net)


def gradient(net: nn.Module) -> torch.Tensor:
    """Return all gradients as one vector."""
    return torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])


def statistics(net: nn.Module) -> torch.Tensor:
    """Return BatchNorm's running statistics as one vector."""
    return torch.cat([b.flatten() for name, b in net.named_buffers() if "running" in name])


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Return images with a tenth of the pixels at the border of the box, and labels of all classes."""
    drawn = torch.rand(IMAGES, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return ((drawn - 0.05) / 0.9).clamp(0, 1), torch.arange(IMAGES) % CLASSES


def prepared(objective: str, fairness: str, learned: dict[str, torch.Tensor], mode: str) -> Trainer:
    """Return our training of the release form, which moves no weight. Passes after the step are not in the codes' functions."""
    config = Config(
        objective=objective, fairness=fairness, variant="release", epsilon=EPSILON, attack_steps=STEPS, learning_rate=0.0,
        batch_norm=mode, epochs=2, batch_size=IMAGES,
    )  # fmt: skip
    state = TrainingState.fresh(Net(), Recipe.of(**recipe_settings(config, validation=True)), config)
    state.recipe = replace(state.recipe, passes=state.recipe.passes.partition("|")[0], plain=None)
    state.recipe.fairness.state.update({name: tensor.clone() for name, tensor in learned.items()})
    return Trainer(state, load("digits", seed=0), config)


@contextlib.contextmanager
def drawn_as_theirs() -> Iterator[None]:
    """Draw our noise as the codes draw theirs, from torch's generator."""

    def draw(kind: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def drawn(seed: int, epoch: int, indices: torch.Tensor, purpose: int, shape: tuple[int, ...] = ()) -> torch.Tensor:
            torch.manual_seed(SEED)
            return (SHIFT + 0.5) / (CLASSES - 1) if purpose == keyed_random.TARGET else kind(len(indices), *shape)

        return drawn

    with mock.patch.multiple(keyed_random, normal=draw(torch.randn), uniform=draw(torch.rand)):
        yield


def ours(objective: str, fairness: str, learned: dict[str, torch.Tensor], mode: str) -> Seen:
    """Make our step, with the noise that the code will draw."""
    trainer = prepared(objective, fairness, learned, mode)
    with drawn_as_theirs():
        done = step(trainer, Batch(*batch(), torch.arange(IMAGES)), before_batch(trainer.state))
    return Seen(done.loss, gradient(trainer.state.model), statistics(trainer.state.model))


def of_loss(net: Net, loss: torch.Tensor, constant: bool = False) -> Seen:
    """Return what a loss gives."""
    net.zero_grad()
    loss.backward()
    return Seen(None if constant else loss.item(), gradient(net), statistics(net))


PGD = {"step_size": ALPHA, "epsilon": EPSILON, "perturb_steps": STEPS, "beta": BETA}
ARGS = SimpleNamespace(pgd_step_size=ALPHA, pgd_num_steps=STEPS, epsilon=EPSILON, beta=BETA, n_class=CLASSES)


def simple(name: str) -> Callable[[ModuleType, Net], Seen]:
    """TRADES and MART: a function of the network, images, labels and an optimiser."""
    return lambda code, net: of_loss(net, getattr(code, name)(net, *batch(), Optimizer(net), **PGD))


def weighed(name: str, weights: torch.Tensor) -> Callable[[ModuleType, Net], Seen]:
    """DAFA and TRIX: the same with class weights."""
    return lambda code, net: of_loss(net, getattr(code, name)(net, *batch(), Optimizer(net), ARGS, weights.tolist())[0])


def cfa(name: str, regularise: bool = True) -> Callable[[ModuleType, Net], Seen]:
    """CFA: class radii, and class shares of the divergence, or one share for all. Our networks normalise inside."""

    def run(code: ModuleType, net: Net) -> Seen:
        code.normalize_cifar = lambda images: images  # pyright: ignore[reportAttributeAccessIssue]
        beta = (0.5 + ACCURACY) * BETA if regularise else torch.full_like(ACCURACY, BETA)
        radii = ((0.5 + ACCURACY) * EPSILON).float()
        return of_loss(net.train(), getattr(code, name)(net, *batch(), radii, beta / (1 + beta), ALPHA, STEPS)[0])

    return run


def csr(code: ModuleType, net: Net) -> Seen:
    """CSR: the value of its loss holds a constant, the mean of G log G."""
    return of_loss(net, code.trades_loss(net, *batch(), G, Optimizer(net), **PGD), constant=True)


def frl(code: ModuleType, net: Net) -> Seen:
    """FRL steps by itself."""
    optimizer = Optimizer(net)
    a, b = (1 / CLASSES + phi - phi.mean() for phi in (PHI, PHI.flip(0)))
    attack = {"epsilon": EPSILON, "clip_max": 1, "clip_min": 0, "num_steps": STEPS, "step_size": ALPHA}
    code.train_model(net, [batch()], optimizer, a, b, torch.exp(2 * PSI).clamp(0.98, 3), 1, BETA, attack, "cpu")
    return Seen(None, optimizer.kept, statistics(net))


class Code(NamedTuple):
    """An official code, and the combination of ours that follows it."""

    folder: str
    file: str
    objective: str
    fairness: str
    learned: dict[str, torch.Tensor]
    run: Callable[[ModuleType, Net], Seen]
    mode: str = "eval"


TWO = {"accuracy": ACCURACY}
CODES = [
    Code("TRADES", "trades", "trades", "none", {}, simple("trades_loss")),
    Code("MART", "mart", "mart", "none", {}, simple("mart_loss")),
    Code("DAFA", "losses", "trades", "dafa", {"weights": WEIGHTS}, weighed("trades_loss", WEIGHTS)),
    Code("DAFA", "losses", "at", "dafa", {}, weighed("madry_loss", torch.ones(CLASSES))),
    Code("TRIX", "losses", "trades", "trix", {"weights": WEIGHTS}, weighed("mixed_trades_loss", WEIGHTS)),
    Code("CFA", "attack", "trades", "cfa", TWO, cfa("cw_trades_loss")),
    Code("CFA", "attack", "trades", "cfa-ccm", TWO, cfa("cw_trades_loss", regularise=False)),
    Code("CFA", "attack", "at", "cfa", TWO, cfa("cw_pgd_loss"), "train"),
    Code("CONFUSIONAL-SPECTRAL-REGULARIZATION/CIFAR10_TRADES_fairness", "trades_fair", "trades", "csr",
         {"gradient": G, "expected": torch.ones(CLASSES, dtype=torch.float64)}, csr),
    Code("fair_robust", "utils_frl2", "trades", "frl-rwrm", {"clean": PHI, "boundary": PHI.flip(0), "psi": PSI}, frl),
]  # fmt: skip


@contextlib.contextmanager
def on_cpu() -> Iterator[None]:
    """Let code that names a GPU run on the CPU."""
    to, zeros = torch.Tensor.to, torch.zeros

    def without(thing: Any, *where: Any, **more: Any) -> Any:
        return to(thing, *[w for w in where if w != "cuda"], **more) if where and where != ("cuda",) else thing

    def plain_zeros(*size: Any, **more: Any) -> torch.Tensor:
        return zeros(*size, **{k: v for k, v in more.items() if v != "cuda"})

    def targets(*_: Any, **__: Any) -> torch.Tensor:
        return (batch()[1] + 1 + SHIFT) % CLASSES

    with (
        mock.patch.object(torch.Tensor, "cuda", lambda tensor, *_: tensor),
        mock.patch.object(nn.Module, "cuda", lambda module, *_: module),
        mock.patch.object(torch.Tensor, "to", without),
        mock.patch.object(torch, "zeros", plain_zeros),
        mock.patch.object(torch, "randint", targets),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # the codes are years old
        yield


@contextlib.contextmanager
def imported(folder: Path, file: str) -> Iterator[ModuleType]:
    """Import a file of a code with its neighbours, and forget them afterwards: codes share the names of files."""
    known = set(sys.modules)
    with mock.patch.object(sys, "path", [str(folder), *sys.path]), on_cpu():
        yield importlib.import_module(file)
    for name in set(sys.modules) - known:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


Row = dict[str, Any]  # code, ours, commit, and the largest difference of each thing that is compared; or skipped


def there(root: Path, folder: str, file: str, said: str) -> Row | None:
    """Return the row of a code that is absent; None if it is there."""
    return None if (root / folder / f"{file}.py").is_file() else {"code": folder, "ours": said, "skipped": f"no {file}.py"}


def largest(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest difference of two tensors."""
    return float((one.detach() - other.detach()).abs().max())


def compared(root: Path, code: Code) -> Row:
    """Compare loss, gradient and statistics of a step."""
    said = f"{code.objective}, {code.fairness}"
    if absent := there(root, code.folder, code.file, said):
        return absent
    mine = ours(code.objective, code.fairness, code.learned, code.mode)
    with imported(root / code.folder, code.file) as module, contextlib.redirect_stdout(sys.stderr):
        torch.manual_seed(SEED)
        theirs = code.run(module, Net())
    row: Row = {"code": code.folder, "ours": said}
    if theirs.loss is not None and mine.loss is not None:
        row["loss"] = abs(theirs.loss - mine.loss)
    return row | {
        "gradient": largest(mine.gradient, theirs.gradient),
        "statistics": largest(mine.statistics, theirs.statistics),
    }


def perturbation(root: Path) -> Row:
    """Compare AWP's move of the weights under TRADES."""
    folder = "AWP/trades_AWP"
    if absent := there(root, folder, "utils_awp", "trades, awp"):
        return absent
    images, labels = batch()
    adv, loss, gamma = (images + 0.05).clamp(0, 1), TRADES(BETA), 0.005
    nets = [Net().train() for _ in range(3)]
    with imported(root / folder, "utils_awp") as code:
        proxy = code.TradesAWP(nets[0], nets[1], torch.optim.SGD(nets[1].parameters(), lr=0.01), gamma)
        proxy.perturb(proxy.calc_awp(adv, images, labels, BETA))

    def whole() -> list[torch.Tensor]:
        terms = loss(nets[2], images, adv, labels).terms.values()
        return [torch.stack([term.mean() for term in terms]).sum()]

    with weight_perturbed(nets[2], whole, gamma):
        moved = [p.detach().clone() for p in nets[2].parameters()]
    move = max(largest(a, b) for a, b in zip(moved, nets[0].parameters(), strict=True))
    return {"code": folder, "ours": "trades, awp", "weights": move}


def points(root: Path) -> Row:
    """Compare BAT's two points. Its code returns them in another order, beside their images."""
    folder = "Improving-Robust-Fairness-via-Balance-Adversarial-Training/train_mode"
    if absent := there(root, folder, "stop_to_firstadv", "bat, points"):
        return absent
    images, trainer = batch()[0], prepared("bat", "none", {}, "eval")
    labels = trainer.state.model.eval()(images).argmax(1)  # so that every ascent begins on the right side
    with drawn_as_theirs():
        mine = attack(trainer, Batch(images, labels, torch.arange(IMAGES))).images
    net, found = trainer.state.model, []
    common = {"step_size": ALPHA, "epsilon": EPSILON, "perturb_steps": STEPS, "loss_fn": "kl"}
    start = "normal_distribution_randominit"
    with mock.patch.dict(sys.modules, {"models": ModuleType("models")}):  # its networks are not in the repository
        for name, which in (("stop_to_lastclean", 0), ("stop_to_firstadv", 1)):
            with imported(root / folder, name) as code:
                torch.manual_seed(SEED)
                more = {"print_flag": False} if which == 0 else {"tau": 1}
                point, _, image, _ = getattr(code, name)(net, images, labels, randominit_type=start, **common, **more)
            place = torch.cdist(image.flatten(1), images.flatten(1)).argmin(1)
            found.append(largest(point, mine[which][place]))
    return {
        "code": folder,
        "ours": "bat, points",
        "images": max(found),
        "crossed": int((mine[0] != mine[1]).flatten(1).any(1).sum()),
    }


def rows(root: Path) -> list[Row]:
    """Compare all codes that are there, with the commit of each clone."""
    made = [*(compared(root, code) for code in CODES), perturbation(root), points(root)]
    for row in made:
        if "skipped" not in row:
            told = subprocess.run(["git", "-C", root / row["code"], "rev-parse", "HEAD"], capture_output=True, text=True)
            row["commit"] = told.stdout.strip() if told.returncode == 0 else "unknown"
    return made


KINDS = ("loss", "gradient", "statistics", "weights", "images")


def report(found: list[Row]) -> int:
    """Print a row for each code; return 1 if one differs, or none is there."""
    print("| code | ours | largest differences |\n|---|---|---|")
    for row in found:
        told = ", ".join(f"{kind} {row[kind]:.1e}" for kind in KINDS if kind in row)
        print(f"| {row['code']} | {row['ours']} | {told or 'skipped: ' + row['skipped']} |")
    numbers = [row[kind] for row in found for kind in KINDS if kind in row]
    print(f"{len(numbers)} numbers, the largest {max(numbers):.1e}" if numbers else "Nothing was compared: clone a code first.")
    return 0 if numbers and max(numbers) <= LARGEST else 1


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("codes", type=Path, help="the folder with the clones")
    parser.add_argument("--out", type=Path, help="keep the numbers in this JSON file")
    chosen = parser.parse_args()
    found = rows(chosen.codes.resolve())
    if chosen.out:
        chosen.out.write_text(json.dumps({"torch": torch.__version__, "rows": found}, indent=1) + "\n", encoding="utf-8")
    return report(found)


if __name__ == "__main__":
    sys.exit(main())
