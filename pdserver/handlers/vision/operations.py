"""What is done to pictures, by the image handlers and by the operators of `handlers.reader` alike.

A picture is an array [height, width] or [height, width, channels].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import cv2
import numpy as np

from pdserver.errors import ConfigError, InvalidRequest
from pdserver.handlers.runtime.rows import Array

Resizer = Callable[[Array, float, float], Array]
"""By what the height and the width are multiplied by."""
_OPENCV = {
    "nearest": cv2.INTER_NEAREST,
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
    "lanczos": cv2.INTER_LANCZOS4,
}
_PILLOW = {"nearest": "NEAREST", "linear": "BILINEAR", "cubic": "BICUBIC", "area": "BOX", "lanczos": "LANCZOS"}


def ratio(height: int, width: int, short: float, long: float = math.inf) -> float:
    """What both sides are multiplied by so that the shorter one gets `short`, or the longer one `long` if it would
    exceed that. No side vanishes, however narrow the picture."""
    found = short / min(height, width)
    if round(found * max(height, width)) > long:
        found = long / max(height, width)
    return max(found, 1 / min(height, width))


def whole_scale(height: int, width: int, short: float, long: float = math.inf) -> tuple[float, float]:
    """As `ratio`, for the height and for the width, so that both become whole numbers."""
    found = ratio(height, width, short, long)
    return round(height * found) / height, round(width * found) / width


def check_growth(height: int, width: int, scale: tuple[float, float], max_pixels: int) -> None:
    """Raises InvalidRequest for a picture that would become too large.

    One that is a pixel wide and thousands long grows by the square when its shorter side is resized.
    """
    new_height, new_width = round(height * scale[0]), round(width * scale[1])
    if new_height * new_width > max(max_pixels, height * width):
        raise InvalidRequest(f"the image is too narrow: {width}×{height} would become {new_width}×{new_height}")


def resize(pixels: Array, scale_y: float, scale_x: float, interpolation: int) -> Array:
    """`interpolation` is OpenCV's number."""
    # By factors and not to a size, so that pixels come from where they come from in Paddle's own tools.
    return np.asarray(cv2.resize(pixels, None, fx=scale_x, fy=scale_y, interpolation=interpolation))


def resizer(backend: Literal["cv2", "pil"], interpolation: str) -> Resizer:
    """Raises ConfigError where Pillow is asked for and missing."""
    if backend == "cv2":
        return lambda pixels, y, x: resize(pixels, y, x, _OPENCV[interpolation])
    try:
        from PIL import Image
    except ImportError:
        raise ConfigError("resizing with the backend Pillow needs one more library: pip install pillow") from None
    resampling = Image.Resampling[_PILLOW[interpolation]]

    def resized(pixels: Array, y: float, x: float) -> Array:
        height, width = pixels.shape[:2]
        return np.asarray(Image.fromarray(pixels).resize((round(width * x), round(height * y)), resampling))

    return resized


def crop(pixels: Array, width: int, height: int) -> Array:
    """From the centre. Raises InvalidRequest for a picture that is smaller."""
    there_y, there_x = pixels.shape[:2]
    if there_x < width or there_y < height:
        raise InvalidRequest(f"the image has {there_x}×{there_y} pixels; at least {width}×{height} are needed")
    left, top = (there_x - width) // 2, (there_y - height) // 2
    return pixels[top : top + height, left : left + width]


def normalize(planes: Iterable[Array], factors: Sequence[tuple[float, float]], out: Iterable[Array]) -> None:
    """Write each plane to its float32 array of `out`, times the channel's factor plus its shift."""
    for plane, channel, (factor, shift) in zip(planes, out, factors, strict=True):
        np.multiply(plane, np.float32(factor), out=channel)
        channel += np.float32(shift)


def rounded_up(length: int, multiple: int) -> int:
    """The next multiple."""
    return -(-length // multiple) * multiple
