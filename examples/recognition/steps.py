"""The steps between the recognition example's models: pictures become tensors, boxes crops, vectors names."""

from __future__ import annotations

import base64
import binascii
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from pdserver.errors import InvalidRequest
from pdserver.handlers.vision import images
from pdserver.handlers.vision.images import Pixels

INPUT = (160, 128)
"""Width and height of the detector's input."""
CROP = 32
"""Width and height of the embedding's input."""
MOST_PIXELS = 20_000_000
"""Of a picture. A small file may stand for very many."""
CELL = 8
"""Pixels of the picture that the detector's distances are of, for each of its cells."""
AROUND = np.ones((3, 3), np.uint8)
THERE = 0.2
"""How likely there is something, at least."""
MOST = 30
"""Boxes of a picture that are looked at."""
ALIKE = 0.6
"""How alike a label and one of the gallery are at least; less is something unknown."""
OVERLAP = 0.1
"""By how much of both together boxes may overlap."""

Row = dict[str, Any]


def to_input(picture: Pixels, size: tuple[int, int]) -> NDArray[np.float32]:
    """float32 [1, 3, height, width] from -1 to 1, of any picture [h, w, 3]."""
    small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return np.asarray(small.transpose(2, 0, 1)[None] / np.float32(127.5) - 1, np.float32)


def decoded(image: bytes | bytearray) -> Pixels:
    """The picture in a file, or in its base64, as PaddleClas's clients send it. Raises InvalidRequest."""
    if not images.is_image(image):
        with suppress(binascii.Error):
            image = base64.b64decode(image, validate=True)
    return images.decode(image, gray=False, max_pixels=MOST_PIXELS)


class Decode:
    """image → picture uint8 [h, w, 3], tensor float32 [1, 3, 128, 160]."""

    def handle(self, data: list[Row], context: Any) -> list[Row | Exception]:
        return [self._one(row["image"]) for row in data]

    def _one(self, image: bytearray) -> Row | Exception:
        try:
            picture = decoded(image)
        except InvalidRequest as error:  # it fails alone
            return error
        return self._given(picture)

    def _given(self, picture: Pixels) -> Row:
        return {"picture": picture, "tensor": to_input(picture, INPUT)}


class Whole(Decode):
    """image, of one label → crop float32 [1, 3, 32, 32]."""

    def _given(self, picture: Pixels) -> Row:
        return {"crop": to_input(picture, (CROP, CROP))}


class Find:
    """found float32 [1, 5, rows, columns], picture → boxes float32 [n, 4] in its pixels, crops: n of [1, 3, 32, 32].

    A box for each cell that is likelier to show something than its neighbours, as it and they see it; the likeliest
    first.
    """

    def handle(self, data: list[Row], context: Any) -> list[Row]:
        return [self._one(row["found"][0], row["picture"]) for row in data]

    def _one(self, found: NDArray[np.float32], picture: Pixels) -> Row:
        height, width = picture.shape[:2]
        chance, (left, top, right, bottom) = found[0], found[1:] / CELL
        peaks = np.nonzero((chance >= THERE) & (chance == cv2.dilate(chance, AROUND)))
        best = np.argsort(-chance[peaks], kind="stable")[:MOST]
        y, x = np.mgrid[: chance.shape[0], : chance.shape[1]] + 0.5
        whole = (width / chance.shape[1], height / chance.shape[0])
        sides = [(x - left) * whole[0], (y - top) * whole[1], (x + right) * whole[0], (y + bottom) * whole[1]]
        boxes = np.stack(sides, 2)
        sure = np.where(chance >= THERE, chance, 0)[..., None]
        together = cv2.filter2D(np.concatenate([boxes * sure, sure], 2), -1, AROUND, borderType=cv2.BORDER_CONSTANT)
        chosen = together[peaks][best]
        limits = np.array([width, height, width, height], np.float32)
        boxes = (chosen[:, :4] / chosen[:, 4:]).clip(0, limits).astype(np.float32)
        boxes = boxes[(boxes[:, 2:] - boxes[:, :2] >= 2).all(1)]
        crops = [to_input(picture[top:bottom, left:right], (CROP, CROP))
                 for left, top, right, bottom in np.rint(boxes).astype(int).tolist()]  # fmt: skip
        return {"boxes": boxes, "crops": crops}


class Search:
    """vectors (a list of float32 [1, size]) → labels and how alike they are, from the gallery as it is now."""

    def initialize(self, context: Any) -> None:
        from recognition_gallery.index import Gallery  # here, for the other steps need no faiss

        self.gallery = Gallery(Path(os.environ["RECOGNITION_GALLERY"]))

    def handle(self, data: list[Row], context: Any) -> list[Row]:
        vectors = [vector.reshape(1, -1) for row in data for vector in row["vectors"]]
        labels, alike = self.gallery.nearest(np.concatenate(vectors)) if vectors else ([], [])
        answers = []
        start = 0
        for row in data:
            end = start + len(row["vectors"])
            answers.append({"labels": labels[start:end], "alike": np.array(alike[start:end], np.float32)})
            start = end
        return answers


class Choose:
    """boxes, labels, alike → result, as PaddleClas's service gives it: the likeliest of boxes that overlap."""

    def handle(self, data: list[Row], context: Any) -> list[Row]:
        return [{"result": chosen(row["boxes"], row["labels"], row["alike"])} for row in data]


def chosen(boxes: NDArray[np.float32], labels: list[str], alike: NDArray[np.float32]) -> list[Row]:
    result: list[Row] = []
    kept: list[NDArray[np.float32]] = []
    for i in np.argsort(-alike, kind="stable").tolist():
        if alike[i] >= ALIKE and all(_overlap(boxes[i], box) <= OVERLAP for box in kept):
            kept.append(boxes[i])
            pixels = np.rint(boxes[i]).astype(int).tolist()
            result.append({"bbox": pixels, "rec_docs": labels[i], "rec_scores": float(alike[i])})
    return result


def _overlap(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """What both cover, as a part of what either covers."""
    both = np.prod((np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])).clip(0))
    return float(both / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - both))
