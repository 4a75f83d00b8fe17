"""Shows which parts of a picture a classifier looks at: it hides them one by one and compares the answers."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray

_ROWS_AT_A_TIME = 16


class OcclusionSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The section `explanation` of a model's own YAML."""

    patch: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """The side of the square that is hidden, in pixels of what the model gets; None: an eighth of the shorter side."""
    stride: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """From one square to the next; None: as `patch`."""


def importances(
    image: NDArray[np.float32],
    chance: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    settings: OcclusionSettings,
) -> NDArray[np.float32]:
    """How much less probable the class is when a square is hidden behind the picture's mean colour.

    `image` is [channels, height, width], and `chance` takes [rows, channels, height, width] to [rows]. The answer is
    [squares from top to bottom, squares from left to right]; the last ones touch the border.
    """
    height, width = image.shape[1:]
    patch = min(settings.patch or max(1, min(height, width) // 8), height, width)
    tops, lefts = (_starts(length, patch, settings.stride or patch) for length in (height, width))
    mean = image.mean(axis=(1, 2), keepdims=True)
    corners = list(product(tops, lefts))
    hidden = []
    for start in range(0, len(corners), _ROWS_AT_A_TIME):
        some = corners[start : start + _ROWS_AT_A_TIME]
        batch = np.repeat(image[None], len(some), axis=0)
        for row, (top, left) in zip(batch, some, strict=True):
            row[:, top : top + patch, left : left + patch] = mean
        hidden.append(chance(batch))
    drops: NDArray[np.float32] = chance(image[None]) - np.concatenate(hidden)
    return drops.reshape(len(tops), len(lefts))


def _starts(length: int, patch: int, stride: int) -> list[int]:
    last = length - patch
    return [*range(0, last, stride), last]
