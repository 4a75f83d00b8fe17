"""A picture as it was sent → what a model takes: resized, cropped, normalized and padded, float32, channels first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from pdarchiver.manifest import TensorSpec
from pdserver.errors import ConfigError, InvalidRequest
from pdserver.handlers.vision import images, operations
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
        self._resized = operations.resizer(settings.backend, settings.interpolation)
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
        scale = self._scale(height, width)
        if scale != (1, 1):
            operations.check_growth(height, width, scale, settings.max_pixels)
            pixels = self._resized(pixels, *scale)
        if self._crop is not None:
            pixels = operations.crop(pixels, *self._crop)
        resized: Size = pixels.shape[:2]
        array = self._canvas(*resized, out)
        operations.normalize(_planes(pixels, settings.color), self._factors, array[:, : resized[0], : resized[1]])
        return array, Picture((height, width), resized, array.shape[1:], scale)

    def _scale(self, height: int, width: int) -> tuple[float, float]:
        resize, fit = self._settings.resize, self._settings.fit
        if resize is None:
            return 1.0, 1.0
        if isinstance(resize, int):
            return operations.whole_scale(height, width, resize)
        if fit == "stretch":
            return resize[1] / height, resize[0] / width
        ratio = operations.ratio(height, width, *sorted(resize))
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
        return length if length == -1 else operations.rounded_up(length, self._settings.pad_to_multiple)

    def _settings_for(self, channels: int, height: int, width: int) -> str:
        said = [f"color: {'gray' if channels == 1 else 'rgb'}"]
        if -1 not in (height, width):
            said += [f"resize: [{width}, {height}]", *(["crop: null"] if self._crop else [])]
        return ", ".join(said)


def _planes(pixels: Pixels, color: str) -> list[Pixels]:
    """The channels in the order of `color`; reading one channel out of three with strides costs twice as much."""
    planes = [pixels] if pixels.ndim == 2 else list(cv2.split(pixels))
    return planes[::-1] if color == "rgb" else planes


def _agree(some: Sequence[int], others: Sequence[int]) -> bool:
    """Whether two shapes, of equal rank, are the same but for lengths of -1."""
    return all(-1 in pair or pair[0] == pair[1] for pair in zip(some, others, strict=True))
