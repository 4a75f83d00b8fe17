"""The steps around the segmentation example's model: a picture becomes a tensor, and chances a mask."""

from __future__ import annotations

import base64
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pdserver.errors import InvalidRequest
from pdserver.handlers.vision import images
from pdserver.handlers.vision.images import Pixels

CLASSES = ("background", "lemon", "leaf", "plum")
COLOURS = np.array([(0, 0, 0), (0, 255, 255), (0, 255, 0), (255, 0, 255)], np.uint8)
MOST_PIXELS = 20_000_000
"""Of a picture. A small file may stand for very many."""
SIDE = 64
"""Width and height of the model's input."""

Row = dict[str, Any]


def to_input(picture: Pixels) -> NDArray[np.float32]:
    """float32 [1, 3, 64, 64] from -1 to 1, of any picture [h, w, 3]."""
    small = cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(small.transpose(2, 0, 1)[None] / np.float32(127.5) - 1, np.float32)


class Decode:
    """image → picture uint8 [h, w, 3], tensor float32 [1, 3, 64, 64]."""

    def handle(self, data: list[Row], context: Any) -> list[Row | Exception]:
        return [self._one(row["image"]) for row in data]

    def _one(self, image: bytearray) -> Row | Exception:
        try:
            picture = images.decode(image, gray=False, max_pixels=MOST_PIXELS)
        except InvalidRequest as error:  # it fails alone
            return error
        return {"picture": picture, "tensor": to_input(picture)}


class Classes:
    """chances float32 [1, classes, rows, columns], picture → mask uint8 [h, w], the number of each pixel's class, and
    areas, the share of the picture that each class has."""

    def handle(self, data: list[Row], context: Any) -> list[Row]:
        return [self._one(row["chances"][0], row["picture"]) for row in data]

    def _one(self, chances: NDArray[np.float32], picture: Pixels) -> Row:
        height, width = picture.shape[:2]
        large = [cv2.resize(of_class, (width, height), interpolation=cv2.INTER_LINEAR) for of_class in chances]
        mask = np.argmax(large, 0).astype(np.uint8)
        shares = np.bincount(mask.ravel(), minlength=len(CLASSES)) / mask.size
        return {"mask": mask, "areas": dict(zip(CLASSES, shares.round(4).tolist(), strict=True))}


class Draw:
    """picture, mask → drawn: a PNG file of the picture with each class in its colour."""

    def handle(self, data: list[Row], context: Any) -> list[Row]:
        return [{"drawn": self._one(row["picture"], row["mask"])} for row in data]

    def _one(self, picture: Pixels, mask: NDArray[np.uint8]) -> bytes:
        drawn = picture.copy()
        shown = mask > 0
        drawn[shown] = picture[shown] // 3 + COLOURS[mask[shown]] // 3 * 2
        return cv2.imencode(".png", drawn)[1].tobytes()


class Answer:
    """mask, drawn → result, as PaddleX's service gives it: all rows of the mask in one list, its size, the picture."""

    def handle(self, data: list[Row], context: Any) -> list[Row]:
        return [{"result": self._one(row["mask"], row["drawn"])} for row in data]

    def _one(self, mask: NDArray[np.uint8], drawn: bytes) -> Row:
        return {"labelMap": mask.ravel().tolist(), "size": [*mask.shape], "image": base64.b64encode(drawn).decode()}
