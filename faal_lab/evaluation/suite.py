"""Turn a list of attack names into per-image verdicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from faal_lab.catalogue import ATTACKS, DEFAULT_ATTACKS, MODES
from faal_lab.data.images import Images, Scaled
from faal_lab.errors import check_name
from faal_lab.evaluation.autoattack import FORWARDS, attacks_for, autoattack, autoattack_note, too_small_for_square
from faal_lab.evaluation.masking import examine
from faal_lab.evaluation.probes import adversarial_examples, radius_curve
from faal_lab.evaluation.verdicts import Journal, Verdicts
from faal_lab.methods.pgd import NORMS
from faal_lab.methods.predict import PGD_ATTACKS, EvaluationError, predictions, taken_for
from faal_lab.models.examine import architecture_sha256, misfit
from faal_lab.runs.files import tensors_sha256

# Each attack of a chain runs on the images that the ones before it left.
CHAINS = {"apgd-ce+t": ("apgd-ce", "apgd-t"), "autoattack": tuple(FORWARDS)}
# Cost per image in forward passes, for the share of work done. A PGD step costs 2; AutoAttack's is upstream's worst case.
_COST = {"clean": 1, **{name: (2 * a.steps + 1) * a.draws for name, a in PGD_ATTACKS.items()}, **FORWARDS}
_COST |= {"apgd-ce+t": 1000, "autoattack": 4451}
_PROBED = 64
PIECES = "pgd"  # how the folders with pieces of PGD attacks begin; they go once the verdicts are written


Progress = Callable[[str, float], None]  # activity, share of all work done in [0, 1]


@dataclass(frozen=True)
class Manner:
    """The way AutoAttack runs; results depend on `mode`, `queries` and, in compat, `batch_size`."""

    mode: str = "per-image"  # or "compat": upstream's chunks and seeds
    batch_size: int = 500
    folder: Path | None = None  # keeps finished batches, so that a killed evaluation can resume
    part: int = 0  # this process's number among the `parts` that share the batches in one folder
    parts: int = 1
    queries: int = 5000  # of Square; with fewer it is not AutoAttack-standard


def evaluate(
    model: nn.Module,
    images: Images,
    class_names: tuple[str, ...],
    *,
    epsilon: float,
    norm: str = "linf",
    attacks: tuple[str, ...] = DEFAULT_ATTACKS,
    seed: int = 0,
    header: dict[str, Any] | None = None,
    manner: Manner | None = None,
    progress: Progress | None = None,
) -> Verdicts:
    """Attack every image with each of `attacks`, in the `norm` ball of radius `epsilon`.

    `attacks` are names in ATTACKS. The model takes pixels in [0, 1] and returns logits [B, C]; it must be in evaluation
    mode, with float32 weights. At the end the verdicts get a curve over radii and a few adversarial images (`probes`). Signs
    of masked gradients (`masking`) are in their header as `findings`. Raises UnknownName, or EvaluationError without attacks
    and where model, images or radius cannot be evaluated.
    """
    if not attacks:
        raise EvaluationError(f"No attack named; known: {', '.join(ATTACKS)}.")
    for name in attacks:
        check_name("attack", name, ATTACKS)
        if name in ("apgd-t", "apgd-ce+t") and "apgd-t" not in attacks_for(len(class_names)):
            raise EvaluationError(f"{name} compares four logits, and there are {len(class_names)} classes. Leave it out.")
    check_name("norm", norm, NORMS)
    manner = manner or Manner()
    check_name("mode", manner.mode, MODES)
    identity = {
        "model_sha256": model_digest(model), **_architecture(model), "data_sha256": data_digest(images),
        "epsilon": epsilon, "norm": norm, "seed": seed,
        "mode": manner.mode, "batch_size": manner.batch_size, "queries": manner.queries,
        "precision": precision(images.labels.device),
    }  # fmt: skip
    about = {**identity, "deterministic": check_model(model, images, len(class_names), epsilon, norm, attacks), **(header or {})}
    total, before = sum(_COST[name] for name in attacks), 0
    after: dict[str, torch.Tensor] = {}
    for name in attacks:
        tell = _part(progress, before / total, _COST[name] / total)
        if name in (*FORWARDS, *CHAINS):
            after[name] = _autoattack(model, images, len(class_names), epsilon, norm, seed, name, manner, identity, tell)
        else:
            after[name] = _pgd(model, images, name, epsilon, norm, seed, manner, identity, tell)
        before += _COST[name]
    if "autoattack" in attacks and (note := autoattack_note(len(class_names))):
        about["note"] = note
    predicted = {name: classes.cpu().numpy().astype(np.int64) for name, classes in after.items()}
    verdicts = Verdicts(images.labels.cpu().numpy().astype(np.int64), predicted, class_names, about)
    if set(attacks) != {"clean"} and manner.part == 0:
        if progress is not None:
            progress("looking for masked gradients", 1.0)
        ball: dict[str, Any] = {"epsilon": epsilon, "norm": norm, "seed": seed}
        curve = radius_curve(model, images, len(class_names), **ball)
        verdicts = replace(verdicts, curve=curve, examples=adversarial_examples(model, images, verdicts, **ball))
        found = examine(model, images, class_names, verdicts, **ball)
        about["findings"] = [finding.sentence() for finding in found]
    return verdicts


def describe(attack: str, verdicts: Verdicts) -> str:
    """Describe an attack of an evaluation in one line: steps, losses, starts, targets, queries."""
    about, targets = verdicts.header, min(9, len(verdicts.class_names) - 1)
    single = {
        "apgd-ce": "APGD on cross-entropy, 100 iterations",
        "apgd-t": f"APGD on the targeted DLR loss, 100 iterations at each of {targets} other classes",
        "fab-t": f"FAB, 100 iterations at each of {targets} other classes",
        "square": f"Square, {about.get('queries', 5000):,} queries, no gradient",
    }
    if attack == "clean":
        return "no attack"
    if attack in PGD_ATTACKS:
        return PGD_ATTACKS[attack].sentence()
    if attack in single:
        return f"{single[attack]} (pyautoattack, {about['mode']})"
    left = [single[name] for name in attacks_for(len(verdicts.class_names)) if name in CHAINS[attack]]
    return f"in turn on those left: {'; '.join(left)} (pyautoattack, {about['mode']})"


def model_digest(model: nn.Module) -> str:
    """Return the SHA-256 of a model's class name and all its tensors."""
    return tensors_sha256(model.state_dict(), type(model).__name__)


def _architecture(model: nn.Module) -> dict[str, str]:
    """Return the hash of a foreign network's structure and source, which tensors do not show."""
    found = architecture_sha256(model)
    return {"architecture_sha256": found} if found else {}


def precision(device: torch.device) -> str:
    """Return the precision of evaluation on a device; on a GPU, torch convolves in TF32 by default."""
    if device.type == "cuda" and (torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32):
        return "float32, TF32 inside"
    return "float32"


def data_digest(images: Images) -> str:
    """Return the SHA-256 of pixels and labels, in order, and of the pixel value that stands for 1.0."""
    return tensors_sha256({"pixels": images.pixels, "labels": images.labels}, str(images.pixel_max))


def check_model(model: nn.Module, images: Images, num_classes: int, epsilon: float, norm: str, attacks: tuple[str, ...]) -> bool:
    """Raise EvaluationError where an evaluation would make no sense.

    Returns whether two forward passes agree bit for bit.
    """
    if not epsilon > 0 and set(attacks) != {"clean"}:
        raise EvaluationError(
            f"epsilon must be above 0 to attack, got {epsilon}. For clean accuracy alone name the attack clean."
        )
    if any(module.training for module in model.modules()):
        raise EvaluationError(
            "The model is in training mode, where BatchNorm and dropout depend on the batch. Call model.eval() first."
        )
    kinds = {str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.is_floating_point()} - {"float32"}
    if kinds:
        raise EvaluationError(
            f"The model's weights are {' and '.join(sorted(kinds))}, expected float32. Call model.float() first."
        )
    if not len(images):
        raise EvaluationError("There is no image to evaluate on.")
    if {"square", "autoattack"} & set(attacks) and too_small_for_square(images.pixels.shape, norm):
        size = list(images.pixels.shape[2:])
        raise EvaluationError(f"Square in L2 needs images of 5 pixels or more, got {size}. Leave it out.")
    labels = images.labels
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise EvaluationError(f"Labels must be between 0 and {num_classes - 1}, got {int(labels.min())} to {int(labels.max())}.")
    pixels, _ = images.batch(torch.arange(min(_PROBED, len(images)), device=labels.device))
    ends = [(int(chunk.min()), int(chunk.max())) for chunk in images.chunks()]
    lowest, highest = min(low for low, _ in ends), max(high for _, high in ends)
    if lowest < 0 or highest > images.pixel_max:
        raise EvaluationError(f"Pixels must be in [0, 1] after division by {images.pixel_max}, got up to {highest}.")
    pixels.requires_grad_(set(attacks) != {"clean"})
    first, second = model(pixels), model(pixels)
    if said := misfit(first, len(pixels), num_classes):
        raise EvaluationError(f"The model must return logits [{len(pixels)}, {num_classes}] here, {said}")
    if pixels.requires_grad and (
        not first.requires_grad or torch.autograd.grad(first.sum(), pixels, allow_unused=True)[0] is None
    ):
        raise EvaluationError("The logits have no gradient by the pixels, and attacks need one. Take .detach() or no_grad out.")
    taken_for(model, pixels)
    return bool(torch.equal(first, second))


def _part(progress: Progress | None, start: float, width: float) -> Progress:
    """Return `progress` for one attack, whose share fills `width` of the whole from `start`."""

    def tell(what: str, share: float) -> None:
        if progress is not None:
            progress(what, start + width * share)

    return tell


def _pgd(
    model: nn.Module, images: Images, name: str, epsilon: float, norm: str, seed: int, manner: Manner, identity: dict[str, Any],
    tell: Progress,
) -> torch.Tensor:  # fmt: skip
    """Run one attack of PGD's kind, or none; of several processes each runs it whole, and the first keeps its pieces."""
    done, attack = 0, PGD_ATTACKS.get(name)
    kept = None
    if attack is not None and manner.part == 0:
        kept = Journal(manner.folder, identity | {"attack": asdict(attack)}, kind=PIECES).of(name)

    def finished(count: int) -> None:
        nonlocal done
        done += count
        tell(name, done / len(images))

    return predictions(model, images, attack, epsilon, seed=seed, norm=norm, progress=finished, kept=kept)


def _autoattack(
    model: nn.Module,
    images: Images,
    num_classes: int,
    epsilon: float,
    norm: str,
    seed: int,
    name: str,
    manner: Manner,
    identity: dict[str, Any],
    tell: Progress,
) -> torch.Tensor:
    """Run several attacks in turn, or one of them on all images."""
    attacks = tuple(attack for attack in attacks_for(num_classes) if attack in CHAINS.get(name, (name,)))

    def finished(what: str, share: float, left: int) -> None:
        tell(f"{name}: {what}, {left} still robust" if name in CHAINS else what, share)

    after = autoattack(
        model, Scaled(images), images.labels, epsilon=epsilon, norm=norm, seed=seed, num_classes=num_classes, attacks=attacks,
        mode=manner.mode, batch_size=manner.batch_size, queries=manner.queries, part=manner.part, parts=manner.parts,
        progress=finished, journal=Journal(manner.folder, identity | {"attacks": attacks}, manner.part),
    )  # fmt: skip
    return list(after.values())[-1]
