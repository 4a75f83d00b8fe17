"""Operators on pictures for detection, each with what is known of the picture; and what becomes of the boxes found."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np

from pdserver.handlers.reader.checks import check, is_whole, picture
from pdserver.handlers.reader.images import BGR2RGB, Div, File2Image, Normalize, PadStride, Transpose, resized
from pdserver.handlers.reader.segmentation import palette
from pdserver.handlers.runtime.rows import Array
from pdserver.handlers.vision import operations

Info: TypeAlias = dict[str, Any] | None
"""{"im_shape": height and width after resizing, "scale_factor": what they were multiplied by}, float32 [2] each."""
Found: TypeAlias = list[dict[str, Any]]
"""[{"category_id": class, "bbox": [left, top, width, height], "score": score}, …]"""
_DRAWN_FROM = 0.5
"""The score of boxes that are drawn."""


@dataclass(frozen=True)
class _WithInfo:
    """An operator on the picture alone, which hands on what is known of it."""

    operator: Callable[[Array], Array]

    def __call__(self, im: Array, im_info: Info = None) -> tuple[Array, Info]:
        return self.operator(im), im_info


class DetectionBGR2RGB(_WithInfo):
    """The channels in reverse order."""

    def __init__(self) -> None:
        super().__init__(BGR2RGB())


class DetectionDiv(_WithInfo):
    """float32, divided by `value`."""

    def __init__(self, value: float) -> None:
        super().__init__(Div(value))


class DetectionNormalize(_WithInfo):
    """(picture - mean) ÷ std for each channel → float32; of a picture [height, width, channels].

    `is_scale`: the picture is divided by 255 first.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float], is_scale: bool = True) -> None:
        super().__init__(Normalize(mean, std, scale=1 / 255 if is_scale else 1.0))


class DetectionTranspose(_WithInfo):
    """As Transpose."""

    def __init__(self, transpose_target: Sequence[int]) -> None:
        super().__init__(Transpose(transpose_target))


class DetectionPadStride(_WithInfo):
    """As PadStride."""

    def __init__(self, stride: int = 0) -> None:
        super().__init__(PadStride(stride))


@dataclass(frozen=True)
class DetectionFile2Image:
    """Path → uint8 [height, width, 3], red, green, blue. Never hand it a path that a client sent."""

    def __call__(self, img_path: str | PathLike[str], im_info: Info = None) -> tuple[Array, Info]:
        img = BGR2RGB()(File2Image()(img_path))
        return img, _known(im_info, img, (1.0, 1.0))


@dataclass(frozen=True)
class DetectionResize:
    """To a height and width, one number for both; with `keep_ratio` in proportion, so that the shorter side gets the
    smaller of the two, or the longer side the larger if it would exceed that. `interpolation` is OpenCV's number."""

    target_size: int | Sequence[int]
    keep_ratio: bool = True
    interpolation: int = cv2.INTER_LINEAR

    def __post_init__(self) -> None:
        lengths = self._lengths()
        valid = len(lengths) == 2 and all(map(is_whole, lengths))
        check(valid, self, "target_size", self.target_size, "a length, or a height and a width")

    def __call__(self, im: Array, im_info: Info = None) -> tuple[Array, Info]:
        height, width = picture(self, im).shape[:2]
        new_height, new_width = self._lengths()
        scale = new_height / height, new_width / width
        if self.keep_ratio:
            ratio = operations.ratio(height, width, *sorted((new_height, new_width)))
            scale = ratio, ratio
        im = resized(im, scale, self.interpolation)
        return im, _known(im_info, im, scale)

    def _lengths(self) -> Sequence[int]:
        size = self.target_size
        return size if isinstance(size, list | tuple) else (size, size)


def _known(im_info: Info, img: Array, scale: tuple[float, float]) -> Info:
    if im_info is None:
        return None
    return im_info | {"im_shape": np.array(img.shape[:2], np.float32), "scale_factor": np.array(scale, np.float32)}


class RCNNPostprocess:
    """Boxes as the model gave them → a list of {"category_id", "bbox": [left, top, width, height], "score"}.

    `label_file` has the name of a class in each line. With `visualize`, the picture with its boxes and `bbox.json` are
    written to `output_dir`. `resize_shape` is the width and height that the boxes refer to, if they do not refer to
    the picture as it is.
    """

    def __init__(
        self,
        label_file: str | PathLike[str],
        output_dir: str | PathLike[str],
        resize_shape: Sequence[int] | None = None,
    ) -> None:
        self.label_file, self.output_dir, self.resize_shape = label_file, output_dir, resize_shape
        valid = resize_shape is None or (len(resize_shape) == 2 and all(map(is_whole, resize_shape)))
        check(valid, self, "resize_shape", resize_shape, "a width and a height")
        self.label_list = [line.strip() for line in Path(label_file).read_text(encoding="utf-8").splitlines()]

    def __call__(self, image_with_bbox: Mapping[str, Any], visualize: bool = True) -> Found:
        """`image_with_bbox` has the boxes, rows of (class, score, left, top, right, bottom), under any name. `image` is
        the path of the picture to draw on. Raises ValueError for what is no boxes or of an unknown class."""
        rows = _boxes(self, image_with_bbox)
        unknown = [int(number) for number in rows[:, 0] if number >= len(self.label_list)]
        if unknown:
            raise ValueError(
                f"{type(self).__name__}: label_file={str(self.label_file)!r} names {len(self.label_list)} classes, the "
                f"model found class {unknown[0]}, counted from 0"
            )
        found = [
            {"category_id": int(number), "bbox": place.tolist(), "score": score}
            for (number, score), place in zip(
                rows[:, :2].tolist(), self._places(rows[:, 2:], image_with_bbox), strict=True
            )
        ]
        if visualize:
            self._write(found, image_with_bbox)
        return found

    def _places(self, corners: Array, fetch_map: Mapping[str, Any]) -> Array:
        """Left, top, width and height, of boxes whose right and bottom pixels belong to them."""
        return np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2] + 1])

    def _write(self, found: Found, fetch_map: Mapping[str, Any]) -> None:
        if "image" not in fetch_map:
            raise ValueError(f'{type(self).__name__}: visualize=True: expected the path of the picture as "image"')
        source, folder = Path(fetch_map["image"]), Path(self.output_dir)
        image = File2Image()(source)
        height, width = image.shape[:2]
        refer_width, refer_height = self.resize_shape or (width, height)
        colors = palette(len(self.label_list))
        for box in found:
            if box["score"] >= _DRAWN_FROM:
                left, top, wide, high = np.multiply(box["bbox"], [width / refer_width, height / refer_height] * 2)
                text = f"{self.label_list[box['category_id']]} {box['score']:.2f}"
                _draw(image, (left, top, left + wide, top + high), text, colors[box["category_id"]][::-1].tolist())
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / source.name), image)
        (folder / "bbox.json").write_text(json.dumps(found, indent=4))


class BlazeFacePostprocess(RCNNPostprocess):
    """As RCNNPostprocess, for boxes in shares of the picture's size. `im_shape` has its height and width."""

    def _places(self, corners: Array, fetch_map: Mapping[str, Any]) -> Array:
        if "im_shape" not in fetch_map:
            raise ValueError('BlazeFacePostprocess: expected the height and width of the picture as "im_shape"')
        height, width = np.asarray(fetch_map["im_shape"]).ravel()[:2].astype(np.int32)
        shares = np.clip(corners, 0, 1)
        found: Array = np.hstack([shares[:, :2], shares[:, 2:] - shares[:, :2]]) * [width, height, width, height]
        return found


def _boxes(operator: object, fetch_map: Mapping[str, Any]) -> Array:
    """Rows of six numbers, float64; without those of class -1, which are padding."""
    arrays = {
        name: np.asarray(value)
        for name, value in fetch_map.items()
        if name not in ("image", "im_shape") and not name.endswith(".lod")
    }
    for array in reversed(arrays.values()):
        if array.shape[-1:] == (6,):
            rows = array.reshape(-1, 6).astype(np.float64)
            return rows[rows[:, 0] >= 0]
    if any(array.shape == (1, 1) or not array.size for array in arrays.values()):
        return np.empty((0, 6))  # what models give that found nothing
    shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items()) or "nothing"
    raise ValueError(f"{type(operator).__name__}: expected boxes of shape [boxes, 6], got {shapes}")


def _draw(image: Array, box: tuple[float, float, float, float], text: str, color: Sequence[int]) -> None:
    left, top, right, bottom = (round(place) for place in box)
    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.4
    (wide, high), _ = cv2.getTextSize(text, font, size, 1)
    cv2.rectangle(image, (left, top), (right, bottom), color, 2)
    cv2.rectangle(image, (left, top - high - 2), (left + wide, top), color, -1)
    cv2.putText(image, text, (left, top - 2), font, size, (255, 255, 255), 1)
