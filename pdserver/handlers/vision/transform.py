"""Pixels → what an image model takes: resized, cropped, normalised, float32, channels first."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from pdserver.errors import ConfigError, InvalidRequest
from pdserver.handlers.vision.image_settings import ImageSettings
from pdserver.handlers.vision.images import Pixels

INTERPOLATIONS = {
    "nearest": cv2.INTER_NEAREST,
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
    "lanczos": cv2.INTER_LANCZOS4,
}


def normalize(pixels: Pixels, color: str, factors: Sequence[tuple[float, float]], out: NDArray[np.float32]) -> None:
    """Write `pixels` to `out`, of shape [channels, height, width], each times its channel's factor plus its shift."""
    # Planes first: strided reads of one channel out of three cost twice as much.
    planes = [pixels] if pixels.ndim == 2 else list(cv2.split(pixels))
    if color == "rgb":
        planes.reverse()
    for plane, channel, (factor, shift) in zip(planes, out, factors, strict=True):
        np.multiply(plane, np.float32(factor), out=channel)
        channel += np.float32(shift)


class Transform:
    """Raises ConfigError for settings that contradict each other."""

    def __init__(self, settings: ImageSettings) -> None:
        self._settings = settings
        self._resized = _with_pillow(settings.interpolation) if settings.backend == "pil" else _with_opencv(settings)
        self._factors = settings.factors()

    def fit(self, pixels: Pixels) -> Pixels:
        """Resized and cropped. Raises InvalidRequest for an image that is too small for the crop, or too narrow."""
        resize, crop = self._settings.resize, self._settings.crop
        if resize is not None:
            pixels = self._resize(pixels, resize)
        if crop is not None:
            pixels = _crop(pixels, crop if isinstance(crop, tuple) else (crop, crop))
        return pixels

    def normalize(self, pixels: Pixels, out: NDArray[np.float32]) -> None:
        """Write `pixels` to `out`, of shape [channels, height, width]."""
        normalize(pixels, self._settings.color, self._factors, out)

    def _resize(self, pixels: Pixels, resize: int | tuple[int, int]) -> Pixels:
        height, width = pixels.shape[:2]
        if isinstance(resize, tuple):
            new_width, new_height = resize
        else:
            ratio = resize / min(width, height)
            new_width, new_height = round(width * ratio), round(height * ratio)
        # A picture one pixel wide and thousands long grows by the square when its shorter side is resized.
        if new_width * new_height > max(self._settings.max_pixels, width * height):
            raise InvalidRequest(f"the image is too narrow: {width}×{height} would become {new_width}×{new_height}")
        return self._resized(pixels, (new_width, new_height))


Resize = Callable[[Pixels, tuple[int, int]], Pixels]
"""To a width and height."""


def _with_opencv(settings: ImageSettings) -> Resize:
    interpolation = INTERPOLATIONS[settings.interpolation]
    return lambda pixels, size: np.asarray(cv2.resize(pixels, size, interpolation=interpolation), np.uint8)


def _with_pillow(interpolation: str) -> Resize:
    try:
        from PIL import Image
    except ImportError:
        raise ConfigError("image.backend: pil: needs Pillow: pip install pillow") from None
    names = {"linear": "BILINEAR", "cubic": "BICUBIC", "area": "BOX"}
    resampling = Image.Resampling[names.get(interpolation, interpolation.upper())]
    return lambda pixels, size: np.asarray(Image.fromarray(pixels).resize(size, resampling))


def _crop(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    height, width = pixels.shape[:2]
    new_width, new_height = size
    if width < new_width or height < new_height:
        raise InvalidRequest(f"the image has {width}×{height} pixels; at least {new_width}×{new_height} are needed")
    left, top = (width - new_width) // 2, (height - new_height) // 2
    return pixels[top : top + new_height, left : left + new_width]
