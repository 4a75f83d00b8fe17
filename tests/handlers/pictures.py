"""Pictures of one colour, whose numbers survive every resizing."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray


def encoded(pixels: NDArray[Any], suffix: str = ".png") -> bytes:
    """`pixels` as OpenCV has them, in the order blue, green, red."""
    done, data = cv2.imencode(suffix, pixels)
    assert done
    return bytes(data)


def plain(red: int, green: int, blue: int, width: int = 40, height: int = 20) -> bytes:
    return encoded(np.full((height, width, 3), (blue, green, red), np.uint8))
