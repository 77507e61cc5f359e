"""Look at a data set before a network learns from it: parts, classes, sizes, distances, notes, and a sheet of its images.

If epsilon is at least half of the distance of two images of different classes, their balls meet: at the point between them no
network can be right for both (Yang et al., NeurIPS 2020, call half of the least distance the separation of the data).
"""

from __future__ import annotations

import base64
import html
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from faal_lab.data import keyed_random
from faal_lab.data.images import Images, Splits, heard
from faal_lab.data.sets import load
from faal_lab.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

_PARTS = ("train", "validation", "test")
_CLASSES, _LEAST, _MOST, _NAME = 24, 48, 96, 110  # rows of a sheet; sides of an image and room for a class name, in pixels
_COMPARED = 500  # images in the sample
_BUDGET = 3e8  # differences of pixels to form: half a second at most; images of 224 x 224 pixels get a sample of 44
_ROWS = 50  # images compared at once
_ORDERS = {"linf": float("inf"), "l2": 2.0}


@dataclass(frozen=True)
class Looked:
    """A data set as it would be trained on, with the notes of reading it. Shown as text, in a notebook as its sheet, too."""

    splits: Splits
    notes: tuple[str, ...]

    @property
    def counts(self) -> pd.DataFrame:
        """Return the number of images: one row a class, one column a part, and how bright the training images are."""
        import pandas as pd

        names, rows = self.splits.class_names, {}
        for part in _PARTS:
            labels = getattr(self.splits, part).labels
            rows[part] = torch.bincount(labels, minlength=len(names)).tolist()
        rows["mean brightness"] = [round(self._brightness(c), 3) for c in range(len(names))]
        return pd.DataFrame(rows, index=pd.Index(names, name="class"))

    def _brightness(self, label: int) -> float:
        train = self.splits.train
        own = train.part((train.labels == label).nonzero().flatten())
        total = sum(float(chunk.double().mean((1, 2, 3)).sum()) for chunk in own.chunks())
        return total / len(own) / train.pixel_max if len(own) else float("nan")

    def sheet(self, each: int = 8) -> Any:
        """Draw `each` training images of every class (of at most 24), as Pillow's image."""
        from PIL import Image, ImageDraw

        train, names = self.splits.train, self.splits.class_names[:_CLASSES]
        side = min(_MOST, max(_LEAST, *train.pixels.shape[2:]))
        sheet = Image.new("RGB", (_NAME + each * (side + 2), len(names) * (side + 2)), "white")
        draw = ImageDraw.Draw(sheet)
        for row, name in enumerate(names):
            top = row * (side + 2)
            draw.text((4, top + side // 2 - 6), name if len(name) <= 16 else name[:15] + "…", fill="black")
            for column, pixels in enumerate(_spread(train, row, each)):
                image = Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)
                sheet.paste(image, (_NAME + column * (side + 2), top))
        return sheet

    def __repr__(self) -> str:
        splits, (channels, height, width) = self.splits, self.splits.train.pixels.shape[1:]
        total = sum(len(getattr(splits, part)) for part in _PARTS)
        kind = {1: "grey", 3: "colour"}.get(channels, f"{channels} channels")
        first = f"{splits.name}: {total:,} images of {width} x {height} pixels, {kind}, in {splits.num_classes} classes."
        cut = (
            []
            if splits.own_test
            else ["The test images are cut out by seed: a network from elsewhere may have learned from them."]
        )
        return "\n".join([first, self.counts.to_string(), sentence(self.splits.train), *cut, *self.notes])

    def _repr_html_(self) -> str:
        file = io.BytesIO()
        self.sheet().save(file, "png")
        picture = base64.b64encode(file.getvalue()).decode()
        first, *_ = repr(self).splitlines()
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        return f"<p>{html.escape(first)}</p>{self.counts.to_html()}{notes}<img src='data:image/png;base64,{picture}'>"


def _spread(images: Images, label: int, count: int) -> list[Any]:
    """Return up to `count` images of a class, spread over all, uint8 [H, W, 3] each."""
    own = (images.labels == label).nonzero().flatten()
    chosen = own[torch.linspace(0, len(own) - 1, min(count, len(own))).long()] if len(own) else own
    pixels = images.batch(chosen)[0].mul(255).round().to(torch.uint8)[:, :3]
    return list(
        (pixels if pixels.shape[1] == 3 else pixels[:, :1].expand(-1, 3, -1, -1)).permute(0, 2, 3, 1).contiguous().numpy()
    )


def look(
    data: str = "folder",
    data_dir: str | Path = "",
    *,
    image_size: int = 0,
    download: bool = False,
    seed: int = 0,
    storage: str = "auto",
    imbalance: float = 1.0,
) -> Looked:
    """Read a data set as training would, and show what it holds.

    Args:
        data: name of the data set; default "folder".
        data_dir: its folder or file, as of the setting.
        image_size: resize images to this side in pixels; 0, the default, keeps their size.
        download: fetch missing files; default False.
        seed: seed of the parts that are cut; default 0.
        storage: "memory", "disk" or "auto" (default), as of the setting.
        imbalance: above 1, thin out the training images as the setting does; 1, the default, keeps all.

    Returns:
        The parts, the number of images by class, the notes, and a sheet of images.

    Raises:
        UnknownName: there is no such data set.
        DataProblem: the images cannot be learned from.
        ConfigError: imbalance is below 1, or would leave a class without an image.

    >>> import faal_lab as fl
    >>> fl.look("digits").counts.loc["8"].to_dict()
    {'train': 97.0, 'validation': 19.0, 'test': 58.0, 'mean brightness': 0.318}
    """
    if not imbalance >= 1:
        raise ConfigError(f"imbalance must be at least 1, got {imbalance}.")
    with heard() as notes:
        splits = load(
            data,
            seed=seed,
            data_dir=str(data_dir),
            image_size=image_size,
            download=download,
            storage=storage,
            imbalance=imbalance,
        )
    return Looked(splits, tuple(notes))


def sample_size(values: int, images: int) -> int:
    """Return the number of images to compare, of so many `values` each."""
    return min(images, _COMPARED, max(2, int((_BUDGET / values) ** 0.5)))


def nearest_other_class(images: Images, norm: str) -> torch.Tensor:
    """Return the distance of each sampled image to the nearest sampled one of another class: [K], in `norm`, pixels in [0, 1].

    The sample is the same at each call. It is not the whole set, so that true distances are not larger. [0] where all images of
    the sample are of one class.
    """
    count = sample_size(math.prod(images.pixels.shape[1:]), len(images))
    some = keyed_random.permutation(0, 0, len(images), images.labels.device)[:count]
    pixels, labels = images.batch(some)
    pixels, nearest = pixels.flatten(1), []
    for rows, own in zip(pixels.split(_ROWS), labels.split(_ROWS), strict=True):
        # by matrix products, two equal images would have a distance
        distances = torch.cdist(rows, pixels, p=_ORDERS[norm], compute_mode="donot_use_mm_for_euclid_dist")
        nearest.append(distances.masked_fill(own[:, None] == labels, float("inf")).amin(1))
    found = torch.cat(nearest)
    return found[torch.isfinite(found)]


def median_distance(images: Images, norm: str) -> float | None:
    """Return the median distance of an image to the nearest one of another class, rounded; None where a sample has one class.

    >>> from faal_lab.data.sets import load
    >>> median_distance(load("digits", seed=0).train, "linf")
    0.75
    """
    found = nearest_other_class(images, norm)
    return round(float(found.median()), 6) if len(found) else None


def sentence(images: Images) -> str:
    """State the median distances in both norms, and the epsilon that belongs to them."""
    found = {name: median_distance(images, norm) for name, norm in (("L-infinity", "linf"), ("L2", "l2"))}
    if None in found.values():
        return "The distances between classes are not known: a sample of the training images has one class."
    said = ", ".join(f"{distance:.3g} in {name}" for name, distance in found.items())
    return f"Median distance to the nearest image of another class: {said}. From half of it on, epsilon lets two classes meet."
