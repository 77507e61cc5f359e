"""Look for masked gradients: signs that attacks failed for a reason other than a robust model.

Each check is made class by class: masking in a single class looks like fairness. The signs are those of
Athalye et al. (ICML 2018) and Carlini et al. (arXiv 1902.06705).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from faal_lab.data.images import Images
from faal_lab.evaluation.autoattack import Upstream, too_small_for_square
from faal_lab.evaluation.verdicts import RadiusCurve, Verdicts
from faal_lab.methods.predict import Attack, EvaluationError, predictions, taken_for
from faal_lab.models.build import frozen
from faal_lab.training.measure import certain, slopes

_BLIND, _STUCK = 0.25, 0.25  # shares that no plain network has: of images without any gradient, and of pixels without
_END, _FEW = 0.015, 3  # distance that counts as near an end of the pixel range; the fewest such pixels to judge by
_STANDING = 0.1  # share of a class that may survive the largest radius
_STRONGER = 0.15  # share of a class by which a stronger attack may exceed a weaker one
_FEW_IMAGES, _ALIKE = 8, 0.9  # images whose gradients are made alone, too; cosine of two that only rounding tells apart
_QUERIES = 300
_CHUNK = 250  # images at once: a thousand classes give 20,000, whose gradients fit no memory
_PASSES = 8  # with few passes, a model with few random transformations may draw the same ones again


@dataclass(frozen=True)
class Finding:
    """A sign of masked gradients, its classes (empty: all), and a text on its usual meaning."""

    sign: str
    classes: tuple[str, ...]
    text: str

    def sentence(self) -> str:
        """State the finding with its classes."""
        where = f" (class {', '.join(self.classes)})" if self.classes else ""
        return f"{self.text}{where}."


def examine(
    model: nn.Module, images: Images, class_names: tuple[str, ...], verdicts: Verdicts, *, epsilon: float, norm: str, seed: int
) -> list[Finding]:
    """Look for signs of masked gradients; an empty list is no proof of robustness.

    The checks use the images of `verdicts.curve`, the curve itself, and the attacks of `verdicts` against each other. The model
    must be in evaluation mode. Raises EvaluationError without a curve.
    """
    if verdicts.curve is None:
        raise EvaluationError("The verdicts have no curve over radii, whose images the checks use. Evaluate with an attack.")
    some = images.part(torch.from_numpy(verdicts.curve.indices).to(images.labels.device))
    found = _outputs(model, some) or _together(model, some)
    found += _gradients(model, some, class_names)
    labels = some.labels.cpu().numpy()

    def standing(attack: Attack, radius: float) -> np.ndarray:
        return (predictions(model, some, attack, radius, seed=seed, norm=norm) == some.labels).cpu().numpy()

    weak = standing(Attack("cross-entropy", 20), epsilon)
    strong = weak & standing(Attack("margin", 100, step_ratio=0.1), epsilon)
    # by the same loss: on a network hardly trained the margin loss is stronger, which is no sign of masking
    longer = weak & standing(Attack("cross-entropy", 100, step_ratio=0.1), epsilon)
    if names := _where(weak & ~longer, labels, class_names, _STRONGER):
        text = "PGD of 100 steps breaks many images that PGD-20 leaves: PGD-20 had not converged"
        found.append(Finding("steps", names, text))
    square = _square(model, some, strong, epsilon, norm, seed, len(class_names))
    if names := _where(strong & ~square, labels, class_names, _STRONGER):
        text = "Square, which sees no gradient, breaks many images that PGD leaves: gradients are masked"
        found.append(Finding("black box", names, text))
    return [*found, *_growing(verdicts.curve, labels, class_names), *between(verdicts)]


def _growing(curve: RadiusCurve, labels: np.ndarray, class_names: tuple[str, ...]) -> list[Finding]:
    """Check the accuracies at growing radii: they must not rise, and must end at 0."""
    found, stands = [], curve.predicted == labels
    if names := _where(stands[-1], labels, class_names, _STANDING):
        text = "Images still stand under PGD-20 at a radius in which every image can become every other: its gradients mislead"
        found.append(Finding("radius", names, text))
    fell = np.logical_or.accumulate(~stands, axis=0)
    if names := _where((fell[:-1] & stands[1:]).any(0), labels, class_names, _STRONGER):
        text = "Many images that fall at a radius stand again at a larger one, which holds the smaller: PGD-20 loses its way"
        found.append(Finding("rising", names, text))
    return found


def _where(flags: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...], share: float) -> tuple[str, ...]:
    """Return the classes in which more than `share` of the images, and at least two, are flagged."""
    counts, totals = np.bincount(labels[flags], minlength=len(class_names)), np.bincount(labels, minlength=len(class_names))
    return tuple(n for n, k, t in zip(class_names, counts, totals, strict=True) if k >= 2 and k > share * t)


def _chunks(images: Images) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield pixels and labels, a few hundred images at once."""
    return (images.batch(index) for index in torch.arange(len(images), device=images.labels.device).split(_CHUNK))


def _outputs(model: nn.Module, images: Images) -> list[Finding]:
    """Check the outputs for probabilities, randomness, and dependence on the batch."""
    with torch.no_grad():
        first, *again = (torch.cat([model(pixels) for pixels, _ in _chunks(images)]) for _ in range(_PASSES))
    found = []
    if bool((first >= 0).all()) and torch.allclose(first.sum(1), torch.ones_like(first[:, 0]), atol=1e-4):
        text = "The model returns probabilities instead of logits: cross-entropy takes its softmax twice and hardly has a slope"
        found.append(Finding("probabilities", (), text))
    if not all(torch.equal(first, other) for other in again):
        text = "Passes over the same images differ: attacks must average over the model's randomness, and these do not"
        found.append(Finding("randomness", (), text))
    if any(isinstance(m, nn.modules.batchnorm._BatchNorm) and (m.training or m.running_mean is None) for m in model.modules()):
        found.append(Finding("batchnorm", (), "BatchNorm uses the statistics of the batch: verdicts depend on the other images"))
    return found


def _together(model: nn.Module, images: Images) -> list[Finding]:
    """Check that the gradients of a few images, alone and in one batch, have the same direction."""
    pixels, labels = images.batch(torch.arange(min(_FEW_IMAGES, len(images)), device=images.labels.device))
    with frozen(model):
        at_once = slopes(model, pixels, labels)[0].flatten(1)
        alone = torch.cat([slopes(model, *one)[0] for one in zip(pixels.split(1), labels.split(1), strict=True)]).flatten(1)
    alike = F.cosine_similarity(at_once.double(), alone.double()) > _ALIKE
    same = alike | (at_once == alone).all(1)
    if int((~same).sum()) < 2:
        return []
    text = "The gradient of an image depends on the other images of its batch: attacks follow a slope that is not the image's"
    return [Finding("batch", (), text)]


def _gradients(model: nn.Module, images: Images, class_names: tuple[str, ...]) -> list[Finding]:
    """Find classes with images, or pixels, at which cross-entropy has no slope."""
    found_there = []
    with frozen(model):
        for pixels, labels in _chunks(images):
            found_there.append(_slopes(model, pixels, labels))
    blind, full, stuck, taken = (torch.cat(parts).cpu().numpy() for parts in zip(*found_there, strict=True))
    found, truth = [], images.labels.cpu().numpy()
    # a branch for one class depends on the prediction more often than on the label: try the predicted classes first
    if names := _where(blind, taken, class_names, _BLIND) or _where(blind, truth, class_names, _BLIND):
        found.append(Finding("no gradient", names, "Cross-entropy has no slope at many images: attacks by gradient stand still"))
    if names := _where(full, truth, class_names, _BLIND):
        text = "Probabilities are 1 to the last digit at many images: logits are so large that cross-entropy loses its slope"
        found.append(Finding("saturated", names, text))
    if names := _where(stuck & ~blind, truth, class_names, _BLIND):
        text = "Cross-entropy has no slope in many pixels: they are cut off inside the model, and attacks cannot move them"
        found.append(Finding("stuck pixels", names, text))
    return found


def _slopes(
    model: nn.Module, pixels: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return per image: no slope at all, a probability of exactly 1, stuck pixels, the predicted class."""
    gradient, logits = slopes(model, pixels, labels)
    none = (gradient == 0).flatten(1)
    stuck = (none.float().mean(1) > _STUCK) | _cut_off(pixels.flatten(1), none)
    return none.all(1), certain(logits), stuck, logits.argmax(1)


def _cut_off(pixels: torch.Tensor, none: torch.Tensor) -> torch.Tensor:
    """Find images [N] whose pixels [N, P] have no slope only near the ends of their range: a clamp."""
    ends, middle = (pixels < _END) | (pixels > 1 - _END), (pixels > 0.2) & (pixels < 0.8)
    counts = ends.sum(1)
    at_ends, amid = (none & ends).sum(1) / counts.clamp(min=1), (none & middle).sum(1) / middle.sum(1).clamp(min=1)
    return (counts >= _FEW) & (at_ends > 0.95) & (amid < 0.05)


def _square(
    model: nn.Module, images: Images, left: np.ndarray, epsilon: float, norm: str, seed: int, num_classes: int
) -> np.ndarray:
    """Attack the images `left` with a few hundred queries of Square; return the survivors, bool [N]."""
    stands, some = left.copy(), images.part(torch.from_numpy(np.flatnonzero(left)).to(images.labels.device))
    if len(some) and not too_small_for_square(images.pixels.shape, norm):
        with frozen(model):
            attack = Upstream(
                model, epsilon=epsilon, norm=norm, seed=seed, num_classes=num_classes, device=images.labels.device,
                mode="per-image", queries=_QUERIES, seen=lambda _: None,
            )  # fmt: skip
            found = [taken_for(model, attack.perturb("square", *chunk)) == chunk[1] for chunk in _chunks(some)]
        stands[np.flatnonzero(left)] = torch.cat(found).cpu().numpy()
    return stands


def between(verdicts: Verdicts) -> list[Finding]:
    """Find signs of masking by comparing the attacks of an evaluation, on all its images."""
    found, survived = [], verdicts.survived
    pairs = (
        ("pgd-20", "noise", "Random noise breaks images that PGD-20 leaves"),
        ("pgd-20", "autoattack", "AutoAttack breaks many more images than PGD-20"),
        ("apgd-ce", "square", "Square, which sees no gradient, breaks many images that APGD leaves: gradients are masked"),
    )
    for weak, strong, text in pairs:
        if weak in survived and strong in survived:
            only = survived[weak] & ~survived[strong]
            if names := _where(only, verdicts.labels, verdicts.class_names, _STRONGER):
                found.append(Finding(f"{strong} against {weak}", names, text))
    return found
