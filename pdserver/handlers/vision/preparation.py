"""A picture as it was sent → what a model takes: resized, cropped, normalized and padded, float32, channels first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pdarchiver.manifest import TensorSpec
from pdserver.errors import ConfigError, InvalidRequest
from pdserver.handlers.vision import images
from pdserver.handlers.vision.image_settings import ImageSettings
from pdserver.handlers.vision.images import Pixels
from pdserver.types import Binary

Floats = NDArray[np.float32]
Size = tuple[int, int]
"""Height and width."""


@dataclass(frozen=True)
class Picture:
    """One picture on its way into the model."""

    size: Size
    """As it was sent."""
    resized: Size
    """Without the padding."""
    padded: Size
    """As the model gets it."""
    scale: tuple[float, float]
    """What the height and the width were multiplied by."""


class Preparation:
    """What makes of pictures the input `spec`, of shape [n, channels, height, width]. `crop` is a width and height.

    Raises ConfigError for settings that contradict each other, or that do not fit the input.
    """

    def __init__(self, settings: ImageSettings, spec: TensorSpec, crop: tuple[int, int] | None = None) -> None:
        self._settings, self._crop = settings, crop
        self._resized = (_with_pillow if settings.backend == "pil" else _with_opencv)(settings.interpolation)
        self._factors = settings.factors()
        pad_value = settings.pad_value or ()
        pad_values = pad_value * settings.channels if len(pad_value) == 1 else pad_value
        self._fill = [
            value * factor + shift for value, (factor, shift) in zip(pad_values, self._factors, strict=False)
        ] or [0.0] * settings.channels
        made, taken = (settings.channels, *self._made()), spec.shape[1:]
        if not _agree(made, taken):
            raise ConfigError(
                f'image: the settings make {list(made)} (channels, height, width), the input "{spec.name}" takes '
                f"{list(taken)}; in the model's config file, set image: {{{self._settings_for(*taken)}}}"
            )
        self.shape = tuple(max(lengths) for lengths in zip(made, taken, strict=True))
        """Channels, height and width of what the model gets; -1 where they depend on the picture."""

    def read(self, data: Binary, out: Floats | None = None) -> tuple[Floats, Picture]:
        """The model's input for an image file, of shape [channels, height, width]; in `out`, if given.

        Raises InvalidRequest for what is no image, and for one that the settings cannot be applied to.
        """
        settings = self._settings
        pixels = images.decode(data, gray=settings.color == "gray", max_pixels=settings.max_pixels)
        height, width = pixels.shape[:2]
        scale_y, scale_x = self._scale(height, width)
        if (scale_y, scale_x) != (1, 1):
            new_height, new_width = round(height * scale_y), round(width * scale_x)
            # A picture one pixel wide and thousands long grows by the square when its shorter side is resized.
            if new_height * new_width > max(settings.max_pixels, height * width):
                raise InvalidRequest(f"the image is too narrow: {width}×{height} would become {new_width}×{new_height}")
            pixels = self._resized(pixels, scale_y, scale_x)
        if self._crop is not None:
            pixels = _crop(pixels, *self._crop)
        resized: Size = pixels.shape[:2]
        array = self._canvas(*resized, out)
        normalize(pixels, settings.color, self._factors, array[:, : resized[0], : resized[1]])
        return array, Picture((height, width), resized, array.shape[1:], (scale_y, scale_x))

    def _scale(self, height: int, width: int) -> tuple[float, float]:
        resize, fit = self._settings.resize, self._settings.fit
        if resize is None:
            return 1.0, 1.0
        if isinstance(resize, int):
            ratio = resize / min(height, width)
            return round(height * ratio) / height, round(width * ratio) / width
        if fit == "stretch":
            return resize[1] / height, resize[0] / width
        short, long = sorted(resize)
        ratio = short / min(height, width)
        if round(ratio * max(height, width)) > long:
            ratio = long / max(height, width)
        # No side vanishes, however narrow the picture.
        ratio = max(ratio, 1 / min(height, width))
        return (1.0, 1.0) if fit == "shrink" and ratio > 1 else (ratio, ratio)

    def _canvas(self, height: int, width: int, out: Floats | None) -> Floats:
        """Room for a picture of this size, beside its padding."""
        pad_width, pad_height = self._settings.pad or (width, height)
        if width > pad_width or height > pad_height:
            raise InvalidRequest(f"the image has {width}×{height} pixels; at most {pad_width}×{pad_height} are taken")
        lengths = (self._rounded_up(pad_height), self._rounded_up(pad_width))
        if not _agree(self.shape[1:], lengths):
            raise InvalidRequest(f"expected an image of height and width {list(self.shape[1:])}, got {list(lengths)}")
        canvas = np.empty((self._settings.channels, *lengths), np.float32) if out is None else out
        if lengths != (height, width):
            canvas[:] = np.asarray(self._fill, np.float32)[:, None, None]
        return canvas

    def _made(self) -> Size:
        """The height and width that every picture gets; -1 where they depend on the picture."""
        settings = self._settings
        stretched = settings.resize if isinstance(settings.resize, tuple) and settings.fit == "stretch" else None
        width, height = settings.pad or self._crop or stretched or (-1, -1)
        return self._rounded_up(height), self._rounded_up(width)

    def _rounded_up(self, length: int) -> int:
        multiple = self._settings.pad_to_multiple
        return length if length == -1 else -(-length // multiple) * multiple

    def _settings_for(self, channels: int, height: int, width: int) -> str:
        said = [f"color: {'gray' if channels == 1 else 'rgb'}"]
        if -1 not in (height, width):
            said += [f"resize: [{width}, {height}]", *(["crop: null"] if self._crop else [])]
        return ", ".join(said)


def normalize(pixels: Pixels, color: str, factors: Sequence[tuple[float, float]], out: Floats) -> None:
    """Write `pixels` to `out`, of shape [channels, height, width], each times its channel's factor plus its shift."""
    # Planes first: strided reads of one channel out of three cost twice as much.
    planes = [pixels] if pixels.ndim == 2 else list(cv2.split(pixels))
    if color == "rgb":
        planes.reverse()
    for plane, channel, (factor, shift) in zip(planes, out, factors, strict=True):
        np.multiply(plane, np.float32(factor), out=channel)
        channel += np.float32(shift)


Resize = Callable[[Pixels, float, float], Pixels]
"""By what the height and the width are multiplied by."""


def _with_opencv(interpolation: str) -> Resize:
    numbers = {
        "nearest": cv2.INTER_NEAREST,
        "linear": cv2.INTER_LINEAR,
        "cubic": cv2.INTER_CUBIC,
        "area": cv2.INTER_AREA,
        "lanczos": cv2.INTER_LANCZOS4,
    }
    number = numbers[interpolation]
    # By factors and not to a size, so that pixels come from where they come from in Paddle's own tools.
    return lambda pixels, y, x: np.asarray(cv2.resize(pixels, None, fx=x, fy=y, interpolation=number), np.uint8)


def _with_pillow(interpolation: str) -> Resize:
    try:
        from PIL import Image
    except ImportError:
        raise ConfigError("image.backend: pil: needs Pillow: pip install pillow") from None
    names = {"linear": "BILINEAR", "cubic": "BICUBIC", "area": "BOX"}
    resampling = Image.Resampling[names.get(interpolation, interpolation.upper())]

    def resized(pixels: Pixels, y: float, x: float) -> Pixels:
        height, width = pixels.shape[:2]
        return np.asarray(Image.fromarray(pixels).resize((round(width * x), round(height * y)), resampling))

    return resized


def _crop(pixels: Pixels, width: int, height: int) -> Pixels:
    """From the centre."""
    there_y, there_x = pixels.shape[:2]
    if there_x < width or there_y < height:
        raise InvalidRequest(f"the image has {there_x}×{there_y} pixels; at least {width}×{height} are needed")
    left, top = (there_x - width) // 2, (there_y - height) // 2
    return pixels[top : top + height, left : left + width]


def _agree(some: Sequence[int], others: Sequence[int]) -> bool:
    """Whether two shapes, of equal rank, are the same but for lengths of -1."""
    return all(-1 in pair or pair[0] == pair[1] for pair in zip(some, others, strict=True))
