"""Balance a trained network: a bias for each class, found on attacked validation images or set by hand.

The network with the bias is written into a run folder of its own.
`balanced` is `fl.balance`. A `Desk` attacks the network for any bias, and keeps the logits: they estimate the biases nearby.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from faal_lab.catalogue import PATH_FORM
from faal_lab.data.images import Images, Splits, stratified
from faal_lab.dro.balance import Round, best, play
from faal_lab.errors import ConfigError, RunFolderError, check_name
from faal_lab.evaluation.adopt import run_folders
from faal_lab.evaluation.suite import check_model
from faal_lab.methods.pgd import AttackTick
from faal_lab.methods.predict import Attack, attacked_logits, count_by_class
from faal_lab.models.build import device_of, frozen
from faal_lab.models.examine import architecture_sha256
from faal_lab.models.fast import memory_kept
from faal_lab.models.layout import placed
from faal_lab.models.shift import shifted
from faal_lab.runs import Checkpoint, RunFolder, free_name, write_checkpoint
from faal_lab.runs.config import Config, check_dial
from faal_lab.runs.events import Balanced, RunFinished, RunStarted
from faal_lab.runs.files import versions
from faal_lab.runs.progress import share_bar
from faal_lab.settings import typed
from faal_lab.training.measure import LEAST, check_balance, check_balance_settings, event, sentence
from faal_lab.training.measure import balance as found_bias
from faal_lab.training.parameters import ADOPTION_SETTINGS
from faal_lab.training.restore import load_model
from faal_lab.training.run import load_data

IMAGES = 200  # validation images of a class
_ARGUMENTS = ("tau", "average_floor", "rounds", "images", "steps", "checkpoint", "epsilon", "model", "unseen", "device", "out")


@dataclass(frozen=True)
class Opened:
    """A trained network that takes a bias, and the validation images that it is attacked on."""

    path: Path
    config: Config
    stored: Checkpoint
    network: nn.Module
    weights: str  # the tensor [C] that a bias is added to
    class_names: tuple[str, ...]
    images: Images
    epsilon: float


def opened(
    run: str | os.PathLike[str], *, tau: float = 0.5, average_floor: float | None = None, images: int = IMAGES, steps: int = 10,
    checkpoint: str = "last", epsilon: float | None = None, model: str | nn.Module = "", unseen: bool = False,
    device: str = "auto", say: Callable[[str], None] = print, settings: dict[str, Any] | None = None, again: bool = False,
) -> Opened:  # fmt: skip
    """Open a run or a network from elsewhere, to balance it; with `again`, also one that is balanced already."""
    word = os.fspath(run)
    for name, value, least in (("images", images, LEAST), ("steps", steps, 1)):  # before minutes of attacks, or a folder
        _check_whole(name, value, least)
    for name in settings or {}:
        check_name("argument", name, (*_ARGUMENTS, *ADOPTION_SETTINGS, "base_checkpoint"))
    floor = 0.0 if average_floor is None else average_floor
    check_balance_settings(Config(balance="bias", balance_tau=tau, balance_floor=floor))
    if not unseen and not Path(word).expanduser().is_dir() and (Path(word).expanduser().is_file() or PATH_FORM.fullmatch(word)):
        raise _seen(word)
    named = {"model": model} if isinstance(model, str) and model else {}
    known = {**(settings or {}), **named, **({} if epsilon is None else {"epsilon": epsilon}), "device": device}
    (path,) = run_folders([word], known, attacks=("pgd-20",), say=say)
    network, config, stored = load_model(path, checkpoint, None if isinstance(model, str) else model)
    if not (again and "balanced" in stored.header):
        config = _settings(config, stored, path, tau, floor, steps, unseen)
    elif epsilon is None:
        epsilon = stored.header["dials"]["epsilon"]  # of its attacks
    splits, radius = load_data(config), config.epsilon if epsilon is None else check_dial("epsilon", epsilon, config)
    check_balance(splits, replace(config, epsilon=radius), str(path))
    where, some = device_of(device), _few(splits, images)
    placed(network, where)
    with frozen(network):
        check_model(network, some.to(where), splits.num_classes, radius, config.norm, ("pgd-20",))
        pixels, _ = some.to(where).batch(torch.arange(2, device=where))
    network, weights = shifted(network, pixels, splits.num_classes)
    return Opened(path, config, stored, network, weights, splits.class_names, some.to(where), radius)


def balanced(
    run: str | os.PathLike[str], *, rounds: int, out: str | os.PathLike[str] | None, quiet: bool, **options: Any
) -> Path:
    """Balance a run or a network from elsewhere into a new run folder; return its path. `fl.balance` has the arguments."""
    place = None if out is None else Path(out)
    _check_place(place)
    _check_whole("rounds", rounds, 1)
    found = opened(run, **options)
    done = 0
    with memory_kept(), nullcontext() if quiet else share_bar(f"balance {found.path.name}") as bar:

        def progress(count: int) -> None:
            nonlocal done
            done += count
            if bar is not None:
                at, share = done // len(found.images), done / len(found.images) / (rounds + 1)
                bar("without a bias" if at < 1 else f"bias {at}", min(1.0, share))

        network, weights = found.network, found.weights
        made, chosen = found_bias(
            network, weights, found.images, found.config, epsilon=found.epsilon, rounds=rounds, progress=progress
        )
    said = sentence(made, chosen, found.config, found.epsilon)
    return write_balanced(found, made, chosen, said, place or free_name("runs", f"{found.path.name}-balanced"))


def write_balanced(found: Opened, rounds: list[Round], chosen: Round, said: str, place: Path) -> Path:
    """Write the network as it is now, which has the bias of `chosen`, into a new run folder; return its path.

    `said` tells readers of its verdicts where the bias is from. Raises RunFolderError if `place` holds a run.
    """
    network, config, stored = found.network, found.config, found.stored
    tensors = {f"model.{name}": tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
    kept = {key: value for key, value in stored.header.items() if key != "wrapped"}
    wrapped = {"wrapped": True} if found.weights == "shift" else {}
    header = {**kept, "dials": {**kept["dials"], "epsilon": found.epsilon}, "balanced": said, "apart": True, **wrapped}
    architecture = architecture_sha256(network)
    made = versions() | ({"architecture": architecture} if architecture else {})
    folder = RunFolder.create(place, config, made, RunFolder.open(found.path).own())
    write_checkpoint(folder.checkpoint(), Checkpoint(tensors, header))
    with folder.recording() as recorder:
        at = int(stored.header["step"])
        dials = (config.tau, found.epsilon, config.learning_rate)
        recorder.write(RunStarted(list(found.class_names), *_length(found.path, at, config), *dials))
        recorder.write(event(at, config, rounds, chosen))
        recorder.write(RunFinished(at, "done"))
    return folder.path


def _check_whole(name: str, value: object, least: int) -> None:
    """Raise ConfigError unless an argument is a whole number, and large enough."""
    if typed(name, value, int) < least:
        raise ConfigError(f"{name} must be at least {least}{' a class' if name == 'images' else ''}, got {value}.")


def _check_place(place: Path | None) -> None:
    """Raise RunFolderError where no new run folder can be made."""
    if place is None:
        return
    folder = RunFolder(place)
    if folder.config_file.exists() or folder.metrics_file.exists():
        raise RunFolderError(f"{place} already holds a run. Choose another folder, or delete it.")
    there = next(path for path in (place.absolute(), *place.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        said = "is not a folder" if not there.is_dir() else "cannot be written"
        raise RunFolderError(f"Cannot write to the run folder {place}: {there} {said}. Choose another.")


def _seen(what: object) -> ConfigError:
    """Return the error for a network that may have learned from the validation images."""
    return ConfigError(
        f"{what} was trained elsewhere, so it may have learned from the images that a balance is found on: a val/ part, "
        "or those that split_seed cuts from the training images. If it has not, say so: unseen=True, --unseen."
    )


def _settings(config: Config, stored: Checkpoint, path: Path, tau: float, floor: float, steps: int, unseen: bool) -> Config:
    """Return the settings of the balanced run; raises ConfigError where its images would not be unseen ones."""
    if "balanced" in stored.header:  # a run that was stopped before its balance is not, whatever its settings say
        cure = "Balance the run it was made from." if "apart" in stored.header else "Train it without a balance to find another."
        raise ConfigError(f"{path} is balanced already. {cure}")
    if "adopted" in stored.header:
        if not unseen:
            raise _seen(path)
        config = replace(config, validation="split")
    return replace(config, balance="bias", balance_tau=tau, balance_floor=floor, validation_steps=steps)


def _length(path: Path, step: int, config: Config) -> tuple[int, int]:
    """Return the batches of an epoch, and the epochs, that a run was started with: 0 epochs for a network from elsewhere."""
    started = next((event for event in RunFolder.open(path).events() if isinstance(event, RunStarted)), None)
    return (started.steps_per_epoch, started.epochs) if started else (max(1, step // config.epochs), config.epochs)


def _few(splits: Splits, images: int) -> Images:
    """Return at most `images` validation images of each class."""
    labels = splits.validation.labels
    counts = torch.bincount(labels, minlength=splits.num_classes).clamp(max=images)
    return splits.validation.part(stratified(labels, int(counts.sum()), splits.num_classes))


@dataclass(frozen=True)
class Seen:
    """The images that stand with a bias: counted under an attack on exactly this bias, or estimated by that on a near one."""

    round: Round
    near: int  # the attacked bias, in `Desk.attacked`
    exact: bool


class Desk:
    """A network, validation images, and each bias that they were attacked for.

    Args:
        found: the network; one that is balanced has its rounds, another plays the game for them.
        rounds: the most biases that the game tries.

    >>> from faal_lab.evaluation.balance import Desk, opened
    >>> desk = Desk(opened("notebooks/recorded/control", images=20), rounds=1)
    >>> desk.prepare()
    >>> [desk.name(n) for n in range(len(desk.attacked))]
    ['no bias', 'round 1']
    >>> desk.look([0.0] * 8 + [0.5, 0.0]).exact
    False
    """

    def __init__(self, found: Opened, rounds: int = 6) -> None:
        self.found, self._rounds, self._labels = found, rounds, found.images.labels.cpu()
        self.game, self.by_hand = list[Round](), list[Round]()  # attacked biases: of the game, and set by hand
        self._logits: dict[tuple[float, ...], torch.Tensor] = {}  # by bias: see `attacked_logits`
        self._tensor = dict([*found.network.named_parameters(), *found.network.named_buffers()])[found.weights]
        self._recorded: Balanced | None = None
        self._plain = self._tensor.detach().clone()
        if "balanced" in found.stored.header:
            events = RunFolder.open(found.path).events()
            self._recorded = next(event for event in events if isinstance(event, Balanced))
            self._plain -= self._added(self._recorded.bias[self._recorded.chosen])

    @property
    def attacked(self) -> list[Round]:
        """All attacked biases: first the rounds of the game, then those set by hand."""
        return [*self.game, *self.by_hand]

    @property
    def chosen(self) -> int:
        """The round that the game chose; -1 before it is attacked."""
        if self._recorded is not None:
            return self._recorded.chosen if self._recorded.chosen < len(self.game) else -1
        config = self.found.config
        return self.game.index(best(self.game, config.balance_tau, config.balance_floor / 100)) if self.game else -1

    @property
    def most(self) -> int:
        """The most rounds that `prepare` attacks for, without the one that has no bias."""
        return len(self._recorded.bias) - 1 if self._recorded is not None else self._rounds

    def name(self, number: int) -> str:
        """Name an attacked bias: "no bias", "round 2", "by hand 1"."""
        rounds = len(self.game)
        return f"by hand {number - rounds + 1}" if number >= rounds else f"round {number}" if number else "no bias"

    def prepare(self, tick: AttackTick | None = None, progress: Callable[[int], None] | None = None) -> None:
        """Attack the images for each round: of the record, else of a game that is played now.

        One that `tick` ended by an error goes on where it was.
        """

        def measure(bias: tuple[float, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
            held = next((held for held in self.game if held.bias == bias), None)
            held = self._attacked(bias, self.game, tick, progress) if held is None else held
            return held.correct, held.total

        config = self.found.config
        if self._recorded is None:
            floor = config.balance_floor / 100
            play(measure, len(self._plain), tau=config.balance_tau, average_floor=floor, rounds=self._rounds)
        for bias in self._recorded.bias if self._recorded is not None else ():
            measure(tuple(bias))

    def attack(
        self, bias: Sequence[float], tick: AttackTick | None = None, progress: Callable[[int], None] | None = None
    ) -> Seen:
        """Attack the images for exactly this bias, unless they were: what stands then is no estimate."""
        if not self.game:  # the first round, that others are compared with
            self._attacked((0.0,) * len(bias), self.game, tick, progress)
        if not self.look(bias).exact:
            self._attacked(_centred(bias), self.by_hand, tick, progress)
        return self.look(bias)

    def look(self, bias: Sequence[float]) -> Seen:
        """Count the images that stand with a bias, at once: an estimate by the attack on the nearest bias.

        It counts an image that is right at each kept point. That attack aimed at another bias: rather too high.
        """
        wanted, attacked = torch.tensor(_centred(bias)), self.attacked
        distances = torch.stack([(torch.tensor(held.bias) - wanted).abs().max() for held in attacked])
        near = int(distances.argmin())
        held = attacked[near]
        if distances[near] < 1e-6:
            return Seen(held, near, exact=True)
        logits = self._logits[held.bias]
        moved = (wanted - torch.tensor(held.bias)).to(logits.dtype)
        return Seen(self._counted(tuple(wanted.tolist()), logits + moved), near, exact=False)

    def rivals(self, number: int, first: int, second: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return logit `first` minus logit `second` at the attacked images of each of the two classes, for one attacked bias."""
        logits = self._logits[self.attacked[number].bias][1]
        gaps = logits[:, first] - logits[:, second]
        return gaps[self._labels == first], gaps[self._labels == second]

    def keep(self, bias: Sequence[float], out: str | os.PathLike[str] | None = None, tick: AttackTick | None = None) -> Path:
        """Write the network with this bias into a new run folder, as `fl.balance` does; return its path.

        The images are attacked for it first, unless they were. Raises RunFolderError if `out` holds a run.
        """
        found, game = self.found, self.game
        seen = self.attack(bias, tick)
        self._put(seen.round.bias)
        ours = seen.near < len(game)
        rounds = game if ours else [*game, seen.round]
        what = f"round {seen.near} of the {len(game) - 1}" if ours else f"beside the {len(game) - 1} rounds"
        said = (
            f"A bias for each class was set by hand, by {len(self._labels):,} validation images under "
            f"PGD-{found.config.validation_steps} at epsilon {found.epsilon:.4g}: {what} of a balance."
        )
        stem = found.path.name.removesuffix("-balanced")
        place = free_name("runs", f"{stem}-by-hand") if out is None else Path(out)
        return write_balanced(found, rounds, seen.round, said, place)

    def _attacked(
        self, bias: tuple[float, ...], into: list[Round], tick: AttackTick | None, progress: Callable[[int], None] | None
    ) -> Round:
        self._put(bias)
        found, config = self.found, self.found.config
        kind = Attack("cross-entropy", config.validation_steps, config.step_ratio)
        logits = attacked_logits(
            found.network, found.images, kind, found.epsilon, seed=config.seed, norm=config.norm, tick=tick, progress=progress
        ).cpu()
        self._logits[bias] = logits
        into.append(self._counted(bias, logits[:1]))
        return into[-1]

    def _counted(self, bias: tuple[float, ...], logits: torch.Tensor) -> Round:
        right = count_by_class((logits.argmax(-1) == self._labels).all(0), self._labels, len(bias))
        return Round(bias, tuple(right), tuple(torch.bincount(self._labels, minlength=len(bias)).tolist()))

    def _put(self, bias: Sequence[float]) -> None:
        with torch.no_grad():
            self._tensor.copy_(self._plain + self._added(bias))

    def _added(self, bias: Sequence[float]) -> torch.Tensor:
        return torch.tensor(bias, dtype=self._plain.dtype, device=self._plain.device)


def _centred(bias: Sequence[float]) -> tuple[float, ...]:
    """Return the bias of mean 0 that classifies alike."""
    mean = sum(bias) / len(bias)
    return tuple(float(b) - mean for b in bias)
