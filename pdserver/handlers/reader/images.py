"""Operators on pictures. Decoded ones are uint8 [height, width, 3], blue, green, red, as OpenCV has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pdserver.handlers.reader.checks import are_numbers, check, is_whole, picture
from pdserver.handlers.runtime.base64_text import from_base64
from pdserver.handlers.runtime.rows import Array
from pdserver.handlers.vision import images, operations
from pdserver.handlers.vision.image_settings import IMAGENET, USUAL_MAX_PIXELS
from pdserver.handlers.vision.images import Pixels


def decoded(data: Any) -> Pixels:
    """Raises InvalidRequest for anything but a whole JPEG, PNG, WebP or BMP file of at most 100 million pixels."""
    if isinstance(data, str):
        raise TypeError("expected the bytes of an image file, got str; Base64ToImage reads base64, File2Image a path")
    return images.decode(bytes(data), gray=False, max_pixels=USUAL_MAX_PIXELS)


def resized(img: Array, scale: tuple[float, float], interpolation: int | None) -> Array:
    """By what the height and the width are multiplied by. Raises InvalidRequest for what would become too large."""
    height, width = img.shape[:2]
    operations.check_growth(height, width, scale, USUAL_MAX_PIXELS)
    return operations.resize(img, *scale, cv2.INTER_LINEAR if interpolation is None else interpolation)


@dataclass(frozen=True)
class File2Image:
    """Path → decoded picture. Never hand it a path that a client sent."""

    def __call__(self, img_path: str | PathLike[str]) -> Pixels:
        return decoded(Path(img_path).read_bytes())


@dataclass(frozen=True)
class String2Image:
    """The bytes of an image file → decoded picture."""

    def __call__(self, img_buffer: Any) -> Pixels:
        return decoded(img_buffer)


@dataclass(frozen=True)
class Base64ToImage:
    """Base64, as str or bytes, plain or URL-safe, or a data URI → decoded picture."""

    def __call__(self, img_base64: str | bytes) -> Pixels:
        text = img_base64 if isinstance(img_base64, str) else bytes(img_base64).decode("latin-1")
        return decoded(from_base64(text))


@dataclass(frozen=True)
class Resize:
    """To a width and height, or in proportion so that the shorter side gets `size`.

    `max_size`: width and height get no longer. In proportion, the longer side gets it if it would exceed it.
    `interpolation` is OpenCV's number; None: linear. Keeps the dtype.
    """

    size: int | Sequence[int]
    max_size: int = 2**31 - 1
    interpolation: int | None = None

    def __post_init__(self) -> None:
        pair = isinstance(self.size, list | tuple) and len(self.size) == 2 and all(map(is_whole, self.size))
        check(pair or is_whole(self.size), self, "size", self.size, "a length, or a width and a height")
        check(is_whole(self.max_size), self, "max_size", self.max_size, "a length")

    def __call__(self, img: Array) -> Array:
        height, width = picture(self, img).shape[:2]
        if isinstance(self.size, list | tuple):
            new_width, new_height = (min(length, self.max_size) for length in self.size)
            scale = new_height / height, new_width / width
        else:
            scale = operations.whole_scale(height, width, self.size, self.max_size)  # type: ignore[arg-type]
        return resized(img, scale, self.interpolation)


@dataclass(frozen=True)
class ResizeByFactor:
    """For the detection of text: sides that are not multiples of `factor` shrink to the multiple before the last one,
    but never below `factor`; the longer side is at most `max_side_len`, in proportion."""

    factor: int = 32
    max_side_len: int = 2400

    def __post_init__(self) -> None:
        check(is_whole(self.factor), self, "factor", self.factor, "a length")
        check(is_whole(self.max_side_len), self, "max_side_len", self.max_side_len, "a length")

    def __call__(self, img: Array) -> Array:
        height, width = picture(self, img).shape[:2]
        ratio = min(1.0, self.max_side_len / max(height, width))
        new_height, new_width = (self._multiple(int(length * ratio)) for length in (height, width))
        return resized(img, (new_height / height, new_width / width), None)

    def _multiple(self, length: int) -> int:
        if length and length % self.factor == 0:
            return length
        return max(1, length // self.factor - 1) * self.factor


@dataclass(frozen=True)
class CenterCrop:
    """A square of `size` from the centre. Raises InvalidRequest for a smaller picture."""

    size: int

    def __post_init__(self) -> None:
        check(is_whole(self.size), self, "size", self.size, "a length")

    def __call__(self, img: Array) -> Array:
        return operations.crop(picture(self, img), self.size, self.size)


@dataclass(frozen=True)
class RGB2BGR:
    """The channels in reverse order."""

    def __call__(self, img: Array) -> Array:
        return picture(self, img)[:, :, ::-1]


@dataclass(frozen=True)
class BGR2RGB(RGB2BGR):
    """The same: the channels in reverse order."""


@dataclass(frozen=True)
class Div:
    """Numbers of any shape → float32, divided by `value`."""

    value: float

    def __post_init__(self) -> None:
        check(are_numbers([self.value]) and float(self.value) != 0, self, "value", self.value, "a number other than 0")

    def __call__(self, img: Array) -> Array:
        found: Array = np.divide(img, np.float32(self.value), dtype=np.float32)
        return found


@dataclass(frozen=True)
class Normalize:
    """(picture × `scale` - mean) ÷ std for each channel → float32, of the picture's shape.

    `channel_first`: the picture is [channels, height, width]. `scale` is ours; the others are theirs.
    """

    mean: Sequence[float]
    std: Sequence[float]
    channel_first: bool = False
    scale: float = 1.0

    def __post_init__(self) -> None:
        check(are_numbers(self.mean), self, "mean", self.mean, "a number for each channel")
        valid = are_numbers(self.std) and len(self.std) == len(self.mean) and all(self.std)
        check(valid, self, "std", self.std, f"{len(self.mean)} numbers other than 0, as many as mean has")

    def __call__(self, img: Array) -> Array:
        axis = 0 if self.channel_first else 2
        axes = "channels, height, width" if self.channel_first else "height, width, channels"
        planes = np.moveaxis(picture(self, img, axes), axis, 0)
        if len(planes) != len(self.mean):
            raise TypeError(
                f"Normalize: channel_first={self.channel_first}: expected an array [{axes}] with {len(self.mean)} "
                f"channels, got one of shape {list(img.shape)}"
            )
        factors = [(self.scale / std, -mean / std) for mean, std in zip(self.mean, self.std, strict=True)]
        out = np.empty(img.shape, np.float32)
        operations.normalize(planes, factors, np.moveaxis(out, axis, 0))
        return out


@dataclass(frozen=True)
class Transpose:
    """Axis i of the result is axis `transpose_target[i]` of the picture."""

    transpose_target: Sequence[int]

    def __post_init__(self) -> None:
        axes = self.transpose_target
        valid = isinstance(axes, list | tuple) and sorted(axes) == list(range(len(axes)))
        check(valid, self, "transpose_target", axes, "axes counted from 0, such as (2, 0, 1)")

    def __call__(self, img: Array) -> Array:
        return np.transpose(img, self.transpose_target)


@dataclass(frozen=True)
class PadStride:
    """[channels, height, width] → float32, with zeros at the bottom and at the right up to multiples of `stride`.

    0: the picture as it is.
    """

    stride: int

    def __post_init__(self) -> None:
        check(is_whole(self.stride, least=0), self, "stride", self.stride, "a length, or 0")

    def __call__(self, img: Array) -> Array:
        if not self.stride:
            return img
        channels, height, width = picture(self, img, "channels, height, width").shape
        lengths = (operations.rounded_up(length, self.stride) for length in (height, width))
        padded = np.zeros((channels, *lengths), np.float32)
        padded[:, :height, :width] = img
        return padded


@dataclass(frozen=True)
class ImageReader:
    """What classifiers trained on ImageNet take; `process_image` makes it.

    `image_shape` is channels, height and width of the model's input, of which the height is the side of the square
    that is cut out; 0: the picture keeps its size. `crop_center` False: the square is anywhere.
    """

    image_shape: Sequence[int] = (3, 224, 224)
    image_mean: Sequence[float] = IMAGENET["mean"]
    image_std: Sequence[float] = IMAGENET["std"]
    resize_short_size: int = 256
    interpolation: int | None = None
    crop_center: bool = True

    def __post_init__(self) -> None:
        shape = self.image_shape
        valid = len(shape) == 3 and all(is_whole(length, least=0) for length in shape)
        check(valid, self, "image_shape", shape, "channels, height and width")
        self._normalize()

    def process_image(self, sample: Any) -> Array:
        """The bytes of an image file → float32 [3, height, width], red, green, blue."""
        img: Array = decoded(sample)
        if size := self.image_shape[1]:
            img = self.resize_short(img, self.resize_short_size, self.interpolation)
            img = self.crop_image(img, size, self.crop_center)
        return self._normalize()(np.transpose(img[:, :, ::-1], (2, 0, 1)))

    def resize_short(self, img: Array, target_size: int, interpolation: int | None = None) -> Array:
        return Resize(target_size, interpolation=interpolation)(img)

    def crop_image(self, img: Array, target_size: int, center: bool) -> Array:
        if center:
            return CenterCrop(target_size)(img)
        height, width = img.shape[:2]
        top, left = np.random.default_rng().integers(0, [max(0, side - target_size) + 1 for side in (height, width)])
        return operations.crop(img[top : top + target_size, left : left + target_size], target_size, target_size)

    def _normalize(self) -> Normalize:
        return Normalize(self.image_mean, self.image_std, channel_first=True, scale=1 / 255)
