"""Decode an image file faithfully to 8-bit RGB, or refuse it with the reason and the cure.

Pillow's own conversion cuts 16-bit pixels off at 255 and turns floats in [0, 1] into zeros, without a word.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from faal_lab.data.images import DataProblem

# What a conversion changed, for a line that counts the images.
TURNED = "turned upright, as their EXIF orientation asks"
ROUNDED = "rounded from more than 8 bits to 8"
OVER_WHITE = "drawn over white, because they are transparent in places"
NO_PROFILE = "converted from CMYK without a colour profile"

_SEE_THROUGH = {"RGBA", "RGBa", "LA", "La", "PA"}
_PLAIN = {"1", "L", "P", "RGB", "RGBX", "YCbCr", "CMYK"}
_BITS, _WHITE_IS_ZERO, _LOWEST, _HIGHEST = 258, 262, (340, 280), (341, 281)  # TIFF's tags
_ORIENTATION = 0x0112  # EXIF's


def decode(file: Path) -> tuple[Any, set[str]]:
    """Return the image, Pillow's in RGB, and what was changed on the way.

    Raises DataProblem for a file that is damaged, has several frames, or states no range for its numbers.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    bomb = (Image.DecompressionBombError, Image.DecompressionBombWarning)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as opened:
                frames = getattr(opened, "n_frames", 1)
                if frames > 1 and opened.format != "MPO":  # a camera's, with a preview behind the photo
                    raise DataProblem(f"{file} has {frames} frames; expected one image. Save each frame as a file.")
                opened.load()
                changed = {TURNED} if opened.getexif().get(_ORIENTATION, 1) in range(2, 9) else set()
                upright = ImageOps.exif_transpose(opened)
                return _in_rgb(file, upright, opened, changed), changed
    except bomb as error:
        raise DataProblem(
            f"{file} is too large: {error} Scale it down first; a network sees a few hundred pixels a side."
        ) from error
    except (UnidentifiedImageError, OSError, SyntaxError, EOFError) as error:
        raise DataProblem(f"Cannot read the image {file}: {error}. Repair it, or remove it.") from error


def _in_rgb(file: Path, image: Any, opened: Any, changed: set[str]) -> Any:
    from PIL import Image

    if image.mode in _SEE_THROUGH or "transparency" in image.info:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] < 255:
            changed.add(OVER_WHITE)
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    if image.mode in _PLAIN:
        changed |= {NO_PROFILE} if image.mode == "CMYK" else set()
        return image.convert("RGB")
    if image.mode.startswith("I") or image.mode == "F":
        low, high = _range(file, image, opened)
        values = (np.asarray(image, dtype=np.float64) - low) / (high - low)
        if not (values.min(initial=0) >= 0 and values.max(initial=1) <= 1):  # a NaN fails, too
            raise DataProblem(
                f"{file} has values from {np.min(image):g} to {np.max(image):g}; expected {low:g} to {high:g}. "
                "Scale them, or save the image with 8 or 16 bits a channel."
            )
        changed.add(ROUNDED)
        return Image.fromarray(np.rint(255 * values).astype(np.uint8)).convert("RGB")
    raise DataProblem(f"{file} has the mode {image.mode}; expected grey or colour, 8 or 16 bits, or floats. Save it as RGB.")


def _range(file: Path, image: Any, opened: Any) -> tuple[float, float]:
    """Return the values that mean black and white in an image of one channel."""
    tags = getattr(opened, "tag_v2", {})
    if tags.get(_WHITE_IS_ZERO) == 0:
        raise DataProblem(f"{file} states that 0 is white; expected 0 to be black. Invert it, and save it again.")
    if image.mode == "F":
        return 0.0, 1.0
    stated = [next((float(np.ravel(tags[tag])[0]) for tag in kind if tag in tags), None) for kind in (_LOWEST, _HIGHEST)]
    if stated[1] is not None and stated[1] > (stated[0] or 0.0):
        return stated[0] or 0.0, stated[1]
    if image.mode.startswith("I;16"):
        return 0.0, 2.0 ** tags.get(_BITS, (16,))[0] - 1
    if opened.format in ("PNG", "PPM"):  # their largest depth is 16 bits, which Pillow scales to
        return 0.0, 65535.0
    raise DataProblem(
        f"{file} holds 32-bit integers and states no range for them (TIFF's MaxSampleValue). Save it with 8 or 16 bits a channel."
    )
