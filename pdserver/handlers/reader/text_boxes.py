"""From a map of where text is to the pictures of its lines: the steps of PaddleOCR between detection and recognition.

The map is that of Differentiable Binarization: Liao et al. 2019, https://arxiv.org/abs/1911.08947. A box is its four
corners (x, y): top left, top right, bottom right, bottom left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from pdserver.errors import ConfigError
from pdserver.handlers.reader.checks import are_numbers, check, picture
from pdserver.handlers.runtime.rows import Array

_KEYS = ("thresh", "box_thresh", "max_candidates", "unclip_ratio")
_MIN_SIDE = 3
"""Of what is taken for text, in pixels of the map."""
_SAME_LINE = 10
"""Boxes whose tops differ by less stand in one line."""


class DBPostProcess:
    """Maps [n, 1, height, width] of how probably each pixel is text → the boxes in each picture, int32 [boxes, 4, 2].

    `params` has `thresh` (of a pixel), `box_thresh` (of a box's mean), `max_candidates` and `unclip_ratio` (by how much
    a box grows). Raises ConfigError where the library pyclipper is missing.
    """

    def __init__(self, params: Mapping[str, Any]) -> None:
        for key in _KEYS:
            check(key in params and are_numbers([params[key]]), self, f"params[{key!r}]", params.get(key), "a number")
        self.thresh, self.box_thresh, self.max_candidates, self.unclip_ratio = (params[key] for key in _KEYS)
        _clipper()

    def __call__(self, pred: Array, ratio_list: Sequence[Sequence[float]]) -> list[Array]:
        """`ratio_list` has for each picture what its height and its width were multiplied by before detection."""
        maps = picture(self, pred, "n, 1, height, width")[:, 0]
        if len(ratio_list) != len(maps):
            raise ValueError(f"DBPostProcess: ratio_list: expected {len(maps)} pairs, got {len(ratio_list)}")
        found = []
        for chances, (ratio_height, ratio_width) in zip(maps, ratio_list, strict=True):
            boxes = np.array(list(self._boxes(chances)), np.float64).reshape(-1, 4, 2)
            found.append((boxes / [ratio_width, ratio_height]).astype(np.int32))
        return found

    def _boxes(self, chances: Array) -> Iterator[Array]:
        height, width = chances.shape
        bitmap = (chances > self.thresh).astype(np.uint8)
        contours = cv2.findContours(bitmap, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)[0]
        for contour in contours[: int(self.max_candidates)]:
            box, side = _smallest_box(contour)
            if side < _MIN_SIDE or _mean_inside(chances, box) <= self.box_thresh:
                continue
            grown = self._grown(box)
            if not len(grown):
                continue
            box, side = _smallest_box(grown)
            if side >= _MIN_SIDE + 2:
                yield np.clip(np.round(box), 0, [width, height])

    def _grown(self, box: Array) -> Array:
        """The outline at a distance of area × `unclip_ratio` ÷ perimeter from the box, int32 [points, 2]."""
        corners = box.astype(np.float64)
        after = np.roll(corners, -1, axis=0)
        area = abs(np.sum(corners[:, 0] * after[:, 1] - after[:, 0] * corners[:, 1])) / 2
        perimeter = np.linalg.norm(after - corners, axis=1).sum()
        clipper = _clipper()
        offset = clipper.PyclipperOffset()
        offset.AddPath(box.astype(int).tolist(), clipper.JT_ROUND, clipper.ET_CLOSEDPOLYGON)
        outlines = offset.Execute(area * self.unclip_ratio / perimeter)
        return np.array(max(outlines, key=len, default=[]), np.int32)


@dataclass(frozen=True)
class FilterBoxes:
    """Boxes [n, 4, 2] → those wider than `width` and higher than `height`, clipped to the picture: float32."""

    width: float
    height: float

    def __call__(self, dt_boxes: Iterable[Array], image_shape: Sequence[int]) -> Array:
        """`image_shape` begins with the picture's height and width."""
        height, width = image_shape[:2]
        kept = []
        for box in dt_boxes:
            corners = np.trunc(np.clip(_clockwise(np.asarray(box)), 0, [width - 1, height - 1])).astype(np.float32)
            wide, high = _size(corners)
            if wide > self.width and high > self.height:
                kept.append(corners)
        return np.array(kept, np.float32).reshape(-1, 4, 2)


@dataclass(frozen=True)
class SortedBoxes:
    """Boxes [n, 4, 2] → a list of them, from top to bottom. Of two neighbours in one line, the left one comes first."""

    def __call__(self, dt_boxes: Iterable[Array]) -> list[Array]:
        boxes = sorted(dt_boxes, key=lambda box: (box[0][1], box[0][0]))
        for i in range(len(boxes) - 1):
            here, there = boxes[i][0], boxes[i + 1][0]
            if abs(there[1] - here[1]) < _SAME_LINE and there[0] < here[0]:
                boxes[i], boxes[i + 1] = boxes[i + 1], boxes[i]
        return boxes


@dataclass(frozen=True)
class GetRotateCropImage:
    """What is in a box [4, 2], upright: its text runs from left to right. Boxes half again as high as wide are turned
    to the left."""

    def __call__(self, img: Array, points: Array) -> Array:
        height, width = picture(self, img).shape[:2]
        corners = np.asarray(points, np.float32)
        if corners.shape != (4, 2):
            raise TypeError(f"GetRotateCropImage: points: expected four corners [4, 2], got {list(corners.shape)}")
        left, top = (max(0, int(place)) for place in corners.min(axis=0))
        right, bottom = (int(place) for place in corners.max(axis=0))
        wide, high = _size(corners)
        if not (wide and high and left < min(right, width) and top < min(bottom, height)):
            raise ValueError(f"GetRotateCropImage: points={corners.tolist()}: no box in a picture of {width}×{height}")
        target = np.array([[0, 0], [wide, 0], [wide, high], [0, high]], np.float32)
        matrix = cv2.getPerspectiveTransform(corners - np.array([left, top], np.float32), target)
        region = np.ascontiguousarray(img[top:bottom, left:right])
        found: Array = cv2.warpPerspective(region, matrix, (wide, high), borderMode=cv2.BORDER_REPLICATE)
        return np.rot90(found) if high / wide >= 1.5 else found


def _clipper() -> Any:
    try:
        import pyclipper
    except ImportError:
        raise ConfigError("DBPostProcess needs pyclipper: pip install 'pdserver[reader]'") from None
    return pyclipper


def _smallest_box(points: Array) -> tuple[Array, float]:
    """The smallest rectangle, turned at will, around the points; and its shorter side."""
    rectangle = cv2.minAreaRect(points)
    return _clockwise(cv2.boxPoints(rectangle)), min(rectangle[1])


def _clockwise(corners: Array) -> Array:
    """The corners from the top left one on. The two at the left are told apart by their height, as at the right."""
    by_x = corners[np.argsort(corners[:, 0], kind="stable")]
    left, right = (pair[np.argsort(pair[:, 1], kind="stable")] for pair in (by_x[:2], by_x[2:]))
    return np.array([left[0], right[0], right[1], left[1]])


def _mean_inside(chances: Array, box: Array) -> float:
    height, width = chances.shape
    left, top = np.clip(np.floor(box.min(axis=0)).astype(np.int32), 0, [width - 1, height - 1])
    right, bottom = np.clip(np.ceil(box.max(axis=0)).astype(np.int32), 0, [width - 1, height - 1])
    mask = np.zeros((bottom - top + 1, right - left + 1), np.uint8)
    cv2.fillPoly(mask, (box - [left, top]).astype(np.int32)[None], 1)
    mean: float = cv2.mean(chances[top : bottom + 1, left : right + 1], mask)[0]
    return mean


def _size(corners: Array) -> tuple[int, int]:
    """Width and height, by the upper and the left side."""
    return int(np.linalg.norm(corners[0] - corners[1])), int(np.linalg.norm(corners[0] - corners[3]))
