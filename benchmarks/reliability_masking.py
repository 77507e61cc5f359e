"""Row of benchmarks/reliability.py on masked gradients of many kinds, put around networks of the digits.

`planted.py` does the same with six kinds on networks of one's own, and tells the signs and the accuracies.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from planted import ATTACKS, DEFECTS, Forward, Wrapped
from reliability_files import trained
from torch import nn
from torch.nn import functional as F

from faal_lab.data.images import Images, stratified
from faal_lab.evaluation.suite import evaluate
from faal_lab.methods.predict import EvaluationError
from faal_lab.runs.config import Config
from faal_lab.training.restore import load_model
from faal_lab.training.run import load_data

ROBUST = Config(filters=8, batch_size=100, attack_steps=5, validation_steps=1, epochs=6, epsilon=0.1, device="cpu")
RESULTS = Path(__file__).resolve().parent.parent / "results"


class _Slope(torch.autograd.Function):
    """The images as they are; of their gradient, what a rule makes of it."""

    @staticmethod
    def forward(ctx: Any, images: torch.Tensor, rule: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        ctx.rule = rule
        return images.view_as(images)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.rule(gradients[0]), None


def _steered(rule: Callable[[torch.Tensor], torch.Tensor]) -> Forward:
    return lambda model, x: model(_Slope.apply(x, rule))


def _for_classes(*classes: int) -> Forward:
    """No gradient for images that are taken for one of these classes."""

    def forward(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        logits = model(x)
        return torch.where(torch.isin(logits.argmax(1), torch.tensor(classes))[:, None], logits.detach(), logits)

    return forward


def _where_sure(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """No gradient for images of which the network is sure."""
    logits = model(x)
    return torch.where((logits.softmax(1).amax(1) > 0.5)[:, None], logits.detach(), logits)


def _noise_in_one_class(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    logits = model(x)
    return torch.where((logits.argmax(1) == 3)[:, None], logits + torch.randn_like(logits), logits)


def _shifted(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model(torch.roll(x, int(torch.randint(-1, 2, ())), 3))


def _dropped(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model(x * (torch.rand_like(x) < 0.9))


def _half_blind(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x[..., : x.shape[-1] // 2].detach(), x[..., x.shape[-1] // 2 :]], -1)


def _by_content(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Gradients that depend on the image's last digits: noise by its content."""
    generator = torch.Generator().manual_seed(int((x.double().sum() * 1e9) % 2**31))
    noise = torch.randn(x.shape, generator=generator)
    return model(_Slope.apply(x, lambda gradient: noise * gradient.abs().amax()))


# kinds beside planted.py's six; each leaves the prediction for the very image as it was, or nearly
KINDS: dict[str, Forward] = {
    **{name: forward for name, (forward, _) in DEFECTS.items()},
    "eight levels of grey": lambda model, x: model((x * 8).round() / 8),
    "black and white": lambda model, x: model((x > 0.5).float()),
    "rounded down": lambda model, x: model((x * 16).floor() / 16),
    "one pixel value": lambda model, x: model(x.sign() * x.round()),
    "random shift": _shifted,
    "noise on the image": lambda model, x: model(x + 0.05 * torch.randn_like(x)),
    "noise on the logits": lambda model, x: (lambda z: z + 0.5 * torch.randn_like(z))(model(x)),
    "noise in one class": _noise_in_one_class,
    "random brightness": lambda model, x: model(x * (0.9 + 0.2 * torch.rand(()))),
    "pixels dropped": _dropped,
    "logits x 1000": lambda model, x: 1000 * model(x),
    "probabilities, sharpened": lambda model, x: (20 * model(x)).softmax(1),
    "probabilities, rounded": lambda model, x: (lambda p: (100 * p).round() / 100)(model(x).softmax(1)),
    "the class alone": lambda model, x: F.one_hot(model(x).argmax(1), 10).float(),
    "logits in steps": lambda model, x: model(x).round(),
    "logits cut off": lambda model, x: (lambda z: (z - z.amax(1, keepdim=True)).clamp(min=-0.01, max=0.01) * 1000)(model(x)),
    "saturated tanh": lambda model, x: 10 * torch.tanh(1000 * (lambda z: z - z.topk(2).values.mean(1, keepdim=True))(model(x))),
    "logits cut from the graph": lambda model, x: model(x.detach()) + 0 * x.sum(),
    "no gradient where sure": _where_sure,
    "no gradient in two classes": _for_classes(1, 8),
    "no gradient in the left half": lambda model, x: model(_half_blind(x)),
    "cut off far inside": lambda model, x: model(x.clamp(0.1, 0.9)),
    "saturated image": lambda model, x: model(torch.sigmoid(200 * (x - 0.5))),
    "gradient turned round": _steered(torch.neg),
    "gradient at random": _steered(lambda g: torch.randn_like(g) * g.abs().amax()),
    "gradient by content": _by_content,
    "gradient of a neighbour": _steered(lambda g: g.roll(3, -1).roll(2, -2)),
    "gradient of another image": _steered(lambda g: g.roll(1, 0)),
    "gradient upside down": _steered(lambda g: g.flip(-2)),
    "gradient nearly none": _steered(lambda g: g * (torch.rand_like(g) < 0.02)),
    "gradient of one sign": _steered(torch.abs),
    "gradient underflows": _steered(lambda g: g * 1e-46),
}


def _by_the_batch(model: nn.Module) -> nn.Module:
    """The network, whose first BatchNorm uses the batch."""
    changed = copy.deepcopy(model)
    first = next(module for module in changed.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
    first.track_running_stats, first.running_mean, first.running_var = False, None, None
    return changed


def _images(config: Config, count: int) -> tuple[Images, tuple[str, ...]]:
    splits = load_data(config)
    return splits.test.part(stratified(splits.test.labels, count, splits.num_classes)), splits.class_names


def _findings(model: nn.Module, images: Images, classes: tuple[str, ...], epsilon: float) -> list[str]:
    """Return what an evaluation says of masked gradients."""
    return evaluate(model.eval(), images, classes, epsilon=epsilon, attacks=ATTACKS).header["findings"]


def masking(folder: Path, quick: bool) -> dict[str, Any]:
    """Plant every kind into two networks; look for signs in those, in networks without, and in the committed verdicts."""
    lost, tried, plain = [], 0, 0
    names = dict(list(KINDS.items())[:: 8 if quick else 1])
    for model_name, changes in {"small-cnn": {}, "preact-resnet-18": {"filters": 4, "epochs": 4}}.items():
        config = replace(ROBUST, model=model_name, **changes)
        if quick and model_name != "small-cnn":
            continue
        model, _, _ = load_model(trained(folder / model_name, config))
        images, classes = _images(config, 100)
        changed: dict[str, nn.Module] = {name: Wrapped(model, forward) for name, forward in names.items()}
        if any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()):
            changed["batchnorm by the batch"] = _by_the_batch(model)
        for name, network in changed.items():
            torch.manual_seed(0)
            tried += 1
            try:
                found = _findings(network, images, classes, config.epsilon)
            except EvaluationError:
                continue  # refused before any attack
            lost += [] if found else [f"{model_name}, {name}: not found"]
        plain += 1
        lost += [f"{model_name} is accused: {text}" for text in _findings(model, images, classes, config.epsilon)]
    for seed in range(1 if quick else 20):
        plain += 1
        config = replace(ROBUST, seed=seed, filters=8 + 4 * (seed % 3), fairness=("none", "faal")[seed % 2])
        model, _, _ = load_model(trained(folder / f"fresh-{seed}", config))
        found = _findings(model, *_images(config, 100), config.epsilon)
        lost += [f"fresh network {seed} is accused: {text}" for text in found]
    for file in sorted(RESULTS.rglob("*.npz")):
        plain += 1
        with np.load(file, allow_pickle=False) as held:
            found = json.loads(str(held["header"])).get("findings")
        lost += [] if found == [] else [f"{file.name}: {found}"]
    return {"tried": tried + plain, "lost": lost, "kinds": len(names) + 1, "networks without a defect": plain}
