"""How a picture becomes a model's input: the section `image` of the model's own YAML."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from pdserver.errors import ConfigError
from pdserver.formats.values import shown
from pdserver.handlers.context import Context

MAX_LENGTH = 65536
"""Of a picture's side."""
MAX_PIXELS = 1 << 30
"""OpenCV decodes no more."""
USUAL_MAX_PIXELS = 100_000_000
"""Of a picture as it is sent, unless somebody says otherwise."""
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
"""Red, green, blue."""


def pixel_limit(context: Context) -> dict[str, int]:
    """The default for `max_pixels`: OpenCV's own limit, where `limit_max_image_pixels` is off."""
    return {} if context.system_properties["limit_max_image_pixels"] else {"max_pixels": MAX_PIXELS}


class ImageSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The steps from a picture to the input: decode, resize, crop, normalize, pad. Pairs are width and height.

    The step `crop` is the classifier's: places in a picture that was cropped are not places in the picture as sent.
    """

    color: Literal["rgb", "bgr", "gray"] = "rgb"
    """The order of the channels, or the one channel."""
    max_pixels: Annotated[int, msgspec.Meta(ge=1, le=MAX_PIXELS)] = USUAL_MAX_PIXELS
    """Of the picture as it is sent."""
    resize: int | tuple[int, int] | None = None
    """One number: the shorter side gets this length, whatever `fit` says."""
    fit: Literal["stretch", "inside", "shrink"] = "stretch"
    """stretch: to exactly `resize`. inside: in proportion, the shorter side to the smaller number of `resize`, or the
    longer side to the larger number if it would exceed that. shrink: the same, but the picture never grows."""
    interpolation: Literal["nearest", "linear", "cubic", "area", "lanczos"] = "linear"
    backend: Literal["cv2", "pil"] = "cv2"
    """What resizes: OpenCV or Pillow, whose results differ when pictures become smaller."""
    scale: float | str = 1 / 255
    """Pixels are multiplied by it before mean and std are applied; a fraction can be written "1/255"."""
    mean: tuple[float, ...] | None = None
    """In the order of the channels, or one for all. ImageNet's unless given; 0 for gray."""
    std: tuple[float, ...] | None = None
    """As `mean`; 1 for gray."""
    pad: tuple[int, int] | None = None
    """The picture is filled up to this at the right and at the bottom."""
    pad_to_multiple: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 1
    pad_value: tuple[float, ...] | None = None
    """A pixel, in the order of the channels, or one number for all. None: what is 0 for the model."""

    def __post_init__(self) -> None:
        # Not as constraints of the type: msgspec 0.22 corrupts memory over a bounded int in a union with a tuple.
        check_lengths("resize", self.resize)
        check_lengths("pad", self.pad)
        if self.pad_value and len(self.pad_value) not in (1, self.channels):
            raise ValueError(f"pad_value: {list(self.pad_value)}: expected one number for each channel, or one for all")

    @property
    def channels(self) -> int:
        return 1 if self.color == "gray" else 3

    def factors(self) -> list[tuple[float, float]]:
        """For each channel, what pixels are multiplied by and what is added then.

        Raises ConfigError for a mean or std of the wrong length, a std of 0 and a scale that is not a number.
        """
        scale = _number(self.scale)
        means, stds = self._per_channel("mean"), self._per_channel("std")
        if 0 in stds:
            raise ConfigError("image.std: 0 is not possible: pixels are divided by it")
        return [(scale / std, -mean / std) for mean, std in zip(means, stds, strict=True)]

    def _per_channel(self, key: Literal["mean", "std"]) -> tuple[float, ...]:
        given = self.mean if key == "mean" else self.std
        if given is None:
            if self.color == "gray":
                return (0.0,) if key == "mean" else (1.0,)
            return IMAGENET[key] if self.color == "rgb" else IMAGENET[key][::-1]
        if len(given) not in (1, self.channels):
            numbers = f"{self.channels} numbers" if self.channels > 1 else "1 number"
            raise ConfigError(f"image.{key}: {list(given)}: expected {numbers}, because image.color is {self.color}")
        return given if len(given) == self.channels else given * self.channels


def check_lengths(key: str, value: int | tuple[int, int] | None) -> None:
    """Raises ValueError for sides that no picture has."""
    lengths = value if isinstance(value, tuple) else (value,)
    if not all(length is None or 1 <= length <= MAX_LENGTH for length in lengths):
        raise ValueError(f"{key}: {value}: expected lengths from 1 to {MAX_LENGTH}")


def _number(scale: float | str) -> float:
    if not isinstance(scale, str):
        return scale
    above, slash, below = scale.partition("/")
    try:
        return float(above) / (float(below) if slash else 1.0)
    except (ValueError, ZeroDivisionError):
        raise ConfigError(f'image.scale: {shown(scale)}: expected a number or a fraction like "1/255"') from None
