"""Handwritten digits: 1,797 real 8×8 scans from scikit-learn's wheel, with a fixed split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

SEED = 20
"""Fixes the split and the training."""

PIXEL_MAX = 16
"""The scans count ink in 0..16; here and in the images that are served it is 0..255."""


@dataclass(frozen=True)
class Digits:
    """`images`: uint8 of shape [n, 8, 8], 0 is paper and 255 ink; `labels`: int64 of shape [n], 0 to 9."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def load() -> tuple[Digits, Digits]:
    """The training two thirds and the held-out third, each with the same share of every digit."""
    # Imported only here, since it takes seconds: the demo tells at once what is wrong.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch: Any = load_digits()
    images = np.rint(bunch.images * (255 / PIXEL_MAX)).astype(np.uint8)
    train_x, test_x, train_y, test_y = train_test_split(
        images, bunch.target.astype(np.int64), test_size=1 / 3, stratify=bunch.target, random_state=SEED
    )
    return Digits(train_x, train_y), Digits(test_x, test_y)


def to_png(image: NDArray[np.uint8], scale: int = 8) -> bytes:
    """A PNG of a scan, with every pixel drawn `scale` times `scale`, so that people can see it."""

    enlarged = np.kron(image, np.ones((scale, scale), np.uint8))
    ok, encoded = cv2.imencode(".png", enlarged)
    if not ok:
        raise ValueError(f"OpenCV cannot write an image of shape {enlarged.shape} as PNG")
    return encoded.tobytes()
