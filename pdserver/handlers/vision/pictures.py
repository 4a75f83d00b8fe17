"""What the handlers share that find things in pictures and say where: pictures of any size → what a model takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from pdarchiver.manifest import Signature, TensorSpec
from pdserver.errors import ArchiveUnusable, ConfigError, InvalidRequest
from pdserver.handlers.base import BaseHandler
from pdserver.handlers.context import Context
from pdserver.handlers.runtime import exported, sections
from pdserver.handlers.runtime.inputs import InputReader, Place
from pdserver.handlers.runtime.rows import Array, Arrays, stack
from pdserver.handlers.vision import image_requests, images
from pdserver.handlers.vision.image_requests import Several, agree
from pdserver.handlers.vision.pixel_settings import MAX_LENGTH, PixelSettings, pixel_limit
from pdserver.handlers.vision.transform import INTERPOLATIONS, normalize
from pdserver.types import Binary


class PictureSettings(PixelSettings, frozen=True, kw_only=True):
    """The section `image` of a model's own YAML, for handlers whose answers are places in the picture."""

    resize: tuple[int, int] | None = None
    """Width and height. None: those that the model takes, if it takes no others, else the picture's own."""
    fit: Literal["stretch", "inside", "shrink"] = "stretch"
    """stretch: to exactly `resize`. inside: in proportion, the shorter side to the smaller number of `resize`, or the
    longer side to the larger number if it would exceed that. shrink: the same, but never larger than it was."""
    pad: tuple[int, int] | None = None
    """Width and height; filled up at the right and at the bottom."""
    pad_to_multiple: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 1
    pad_value: tuple[float, ...] | None = None
    """A pixel, in the order of the channels, or one number for all. None: what is 0 for the model."""

    def __post_init__(self) -> None:
        for key, value in (("resize", self.resize), ("pad", self.pad)):
            if not all(1 <= length <= MAX_LENGTH for length in value or ()):
                raise ValueError(f"{key}: {value}: expected lengths from 1 to {MAX_LENGTH}")
        if self.pad_value and len(self.pad_value) not in (1, self.channels):
            raise ValueError(f"pad_value: {list(self.pad_value)}: expected one number for each channel, or one for all")


@dataclass(frozen=True)
class Picture:
    """One request's picture. Sizes are height and width."""

    array: NDArray[np.float32]
    """What the model gets, of shape [channels, height, width]."""
    size: tuple[int, int]
    """As it was sent."""
    resized: tuple[int, int]
    """The part of `array` that is not padding."""
    scale: tuple[float, float]
    """What the height and the width were multiplied by."""


class Preparation:
    """Image files → Pictures. Raises ConfigError for settings that contradict each other."""

    def __init__(self, settings: PictureSettings) -> None:
        self._settings = settings
        self._factors = settings.factors()
        pad_value = settings.pad_value or ()
        pad_values = pad_value * settings.channels if len(pad_value) == 1 else pad_value
        self._fill = [
            value * factor + shift for value, (factor, shift) in zip(pad_values, self._factors, strict=False)
        ] or [0.0] * settings.channels

    def read(self, data: Binary) -> Picture:
        """Raises InvalidRequest for what is no image, and for one that the settings cannot be applied to."""
        settings = self._settings
        pixels = images.decode(data, gray=settings.color == "gray", max_pixels=settings.max_pixels)
        height, width = pixels.shape[:2]
        scale_y, scale_x = self._scale(height, width)
        if (scale_y, scale_x) != (1, 1):
            # A picture one pixel wide and thousands long grows by the square when its shorter side is resized.
            if height * scale_y * width * scale_x > max(settings.max_pixels, height * width):
                raise InvalidRequest(f"the image is too narrow: {width}×{height} pixels")
            # By factors and not to a size, so that pixels come from where they come from in Paddle's own tools.
            interpolation = INTERPOLATIONS[settings.interpolation]
            pixels = cv2.resize(pixels, None, fx=scale_x, fy=scale_y, interpolation=interpolation)
        resized: tuple[int, int] = pixels.shape[:2]
        array = self._canvas(*resized)
        normalize(pixels, settings.color, self._factors, array[:, : resized[0], : resized[1]])
        return Picture(array, (height, width), resized, (scale_y, scale_x))

    def _scale(self, height: int, width: int) -> tuple[float, float]:
        if self._settings.resize is None:
            return 1.0, 1.0
        new_width, new_height = self._settings.resize
        if self._settings.fit == "stretch":
            return new_height / height, new_width / width
        short, long = sorted((new_width, new_height))
        ratio = short / min(height, width)
        if round(ratio * max(height, width)) > long:
            ratio = long / max(height, width)
        # No side vanishes, however narrow the picture.
        ratio = max(ratio, 1 / min(height, width))
        return (1.0, 1.0) if self._settings.fit == "shrink" and ratio > 1 else (ratio, ratio)

    def _canvas(self, height: int, width: int) -> NDArray[np.float32]:
        """Room for a picture of this size and its padding."""
        multiple = self._settings.pad_to_multiple
        pad_width, pad_height = self._settings.pad or (width, height)
        if width > pad_width or height > pad_height:
            raise InvalidRequest(f"the image has {width}×{height} pixels; at most {pad_width}×{pad_height} are taken")
        lengths = [-(-length // multiple) * multiple for length in (pad_height, pad_width)]
        if lengths == [height, width]:
            return np.empty((self._settings.channels, height, width), np.float32)
        canvas = np.empty((self._settings.channels, *lengths), np.float32)
        canvas[:] = np.asarray(self._fill, np.float32)[:, None, None]
        return canvas


class PictureHandler(BaseHandler):
    """For models with one input [n, channels, height, width], and perhaps others that a subclass knows.

    A request is an image file, its base64 as text, several in a JSON list or as parts of a form, or one tensor for the
    model as it is.
    """

    export_files: tuple[str, ...]
    """Where Paddle's tools say how pictures are prepared; the first that is there is read."""
    pictures: list[Picture]
    """Of the current batch, one for each row."""

    def initialize(self, context: Context) -> None:
        """Raises what BaseHandler raises; ConfigError for wrong settings, ArchiveUnusable when none is an image."""
        super().initialize(context)
        # What is wrong with an image is the client's to know, not the log's.
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        directory = Path(context.system_properties["model_dir"])
        files = [directory / name for name in self.export_files if (directory / name).is_file()]
        defaults = self.read_export(files[0].name, exported.read(files[0])) if files else {}
        defaults = pixel_limit(context) | defaults
        settings = sections.read(PictureSettings, "image", context.model_yaml_config, defaults)
        self.image = image_input(self.signature)
        if self.image.shape[1] not in (-1, settings.channels):
            raise ConfigError(
                f'image.color: {settings.color}: the input "{self.image.name}" has {self.image.shape[1]} channels'
            )
        if settings.resize is None and settings.pad is None and -1 not in self.image.shape[2:]:
            settings = msgspec.structs.replace(settings, resize=self.image.shape[:1:-1])
        self._preparation = Preparation(settings)
        self._tensors = InputReader([self.image])

    def read_export(self, name: str, config: dict[str, Any]) -> dict[str, Any]:
        """The settings in an exported file; a subclass also takes from it what else it needs."""
        raise NotImplementedError

    def preprocess(self, data: list[dict[str, Any]]) -> Arrays:
        """The pictures, of shape [rows, channels, height, width]; as rows, where they differ in size."""
        self.pictures = []
        places: list[Place] = []
        for row in data:
            try:
                value = image_requests.find(row, self.image.name)
                several = isinstance(value, Several)
                found = value.read(self._fitting) if several else [self._fitting(value)]
                start = len(self.pictures)
                self.pictures += found
                places.append(slice(start, len(self.pictures)) if several else start)
            except InvalidRequest as error:
                places.append(error)
        self.places = places
        return self.tensors(self.pictures) if self.pictures else {}

    def tensors(self, pictures: Sequence[Picture]) -> Arrays:
        """The model's inputs for `pictures`, which has at least one."""
        return {self.image.name: stack([picture.array[None] for picture in pictures])}

    def _fitting(self, value: Any) -> Picture:
        picture = self._read(value)
        if not agree(self.image.shape[1:], picture.array.shape):
            raise InvalidRequest(
                f"expected an image of height and width {list(self.image.shape[2:])}, got "
                f"{list(picture.array.shape[1:])}"
            )
        return picture

    def _read(self, value: Any) -> Picture:
        if isinstance(value, Binary):
            return self._preparation.read(value)
        inputs, (place,) = self._tensors.read([{self.image.name: value}])
        if isinstance(place, Exception):
            raise place
        rows: Array = inputs[self.image.name]
        if len(rows) != 1:
            raise InvalidRequest(f"expected one image, got {len(rows)}")
        size = (rows.shape[2], rows.shape[3])
        return Picture(rows[0], size, size, (1.0, 1.0))


def image_input(signature: Signature) -> TensorSpec:
    """The model's one float input of rank 4. Raises ArchiveUnusable when there is none, or more than one."""
    found = [spec for spec in signature.inputs if len(spec.shape) == 4 and spec.dtype.startswith("float")]
    if len(found) != 1:
        inputs = ", ".join(map(str, signature.inputs))
        raise ArchiveUnusable(
            f"expected a model with one float input [n, channels, height, width]; this one's are {inputs}"
        )
    return found[0]
