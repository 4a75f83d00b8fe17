"""Made-up pictures of lemons, leaves and plums on a table, and which pixel shows what."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

SEED = 31
CLASSES = ("background", "lemon", "leaf", "plum")
COLOURS = {"lemon": (40, 200, 225), "leaf": (60, 150, 70), "plum": (110, 45, 95)}
Image = NDArray[np.uint8]
"""[height, width, 3], blue first, as OpenCV has it."""


def scene(rng: np.random.Generator, size: tuple[int, int] = (192, 256)) -> tuple[Image, NDArray[np.uint8]]:
    """A picture with three to six things, and for each pixel the number of its class."""
    height, width = size
    coarse = rng.uniform(90, 190, (4, 5, 1)) + rng.uniform(-15, 15, (4, 5, 3)) + (-15, 0, 15)
    picture: Image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    mask = np.zeros(size, np.uint8)
    places = [(row, column) for row in range(2) for column in range(3)]
    for place in rng.permutation(len(places))[: rng.integers(3, 7)].tolist():
        row, column = places[place]
        number = int(rng.integers(1, len(CLASSES)))
        middle = np.array([(column + 0.5) / 3, (row + 0.5) / 2]) + rng.uniform(-0.04, 0.04, 2)
        points = _outline(CLASSES[number], rng) * rng.uniform(0.15, 0.22) * height + middle * [width, height]
        colour = np.array(COLOURS[CLASSES[number]]) * rng.uniform(0.75, 1.15) + rng.uniform(-25, 25, 3)
        cv2.fillPoly(picture, [np.rint(points).astype(np.int32)], colour.tolist(), cv2.LINE_AA)
        cv2.fillPoly(mask, [np.rint(points).astype(np.int32)], number)
    noisy = cv2.GaussianBlur(picture, (0, 0), 0.8) + rng.normal(0, 6, picture.shape)
    return noisy.clip(0, 255).astype(np.uint8), mask


def _outline(name: str, rng: np.random.Generator) -> NDArray[np.float64]:
    """A polygon around 0, within a distance of 1, turned at random."""
    around = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    x, y = np.cos(around), np.sin(around)
    if name == "lemon":
        points = np.stack([x, 0.7 * y], 1)
    elif name == "leaf":
        points = np.stack([x, 0.45 * y * np.abs(y)], 1)
    else:
        points = 0.75 * np.stack([x, y], 1)
    turn = rng.uniform(0, 2 * np.pi)
    return points @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
