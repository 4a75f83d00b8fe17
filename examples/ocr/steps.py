"""What lies between the models of PP-OCRv4, as functions of numpy arrays, and the pipeline's nodes made of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from pdserver.errors import InvalidRequest
from pdserver.handlers.context import Context
from pdserver.handlers.reader import DBPostProcess, FilterBoxes, GetRotateCropImage
from pdserver.handlers.vision import images

Pixels: TypeAlias = NDArray[np.uint8]
"""[height, width, 3], blue first."""
Floats: TypeAlias = NDArray[np.float32]
Row: TypeAlias = dict[str, Any]

MAX_PIXELS = 50_000_000
LONGEST_SIDE = 960
"""Larger pages are shrunk for detection. Texts are cut from the page as it came."""
STRIDE = 32
"""The detection model takes multiples of it."""
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)
HEIGHT = 48
"""Of a line, in pixels, as the other two models take it."""
FACE_WIDTH = 192
"""What the direction model sees of a line."""
WIDTHS = (64, 96, 128, 192, 256, 384, 512, 768, 1024, 1280, 1536, 2048)
"""Lines are filled up to the next of these, and so share a run of the model with lines of other pages. The model's
rec.yaml has them, too."""
SURELY_TURNED = 0.9
SURELY_TEXT = 0.5

find_boxes = DBPostProcess({"thresh": 0.3, "box_thresh": 0.6, "max_candidates": 1000, "unclip_ratio": 1.5})
keep_large = FilterBoxes(width=3, height=3)
cut_out = GetRotateCropImage()


def decode(data: bytes | bytearray) -> Pixels:
    """Raises InvalidRequest for what is no picture, or one of too many pixels."""
    return images.decode(data, gray=False, max_pixels=MAX_PIXELS)


def for_detection(image: Pixels) -> Floats:
    """float32 [1, 3, height, width] in multiples of STRIDE."""
    height, width = image.shape[:2]
    scale = min(1.0, LONGEST_SIDE / max(height, width))
    to = tuple(max(STRIDE, round(length * scale / STRIDE) * STRIDE) for length in (width, height))
    small = cv2.resize(image, to).astype(np.float32)
    return np.ascontiguousarray(((small / 255 - MEAN) / STD).transpose(2, 0, 1)[None])


def boxes_in(chances: Floats, image: Pixels) -> Floats:
    """The detection model's map [1, 1, height, width] → corners, float32 [boxes, 4, 2], in the order of reading."""
    ratios = [(chances.shape[2] / image.shape[0], chances.shape[3] / image.shape[1])]
    return in_order(keep_large(find_boxes(chances, ratios)[0], image.shape))


def in_order(boxes: Floats) -> Floats:
    """Line by line, from left to right. A box is in the line whose last box, from the left, has its middle as high."""
    lines: list[list[Floats]] = []
    for box in sorted(boxes, key=lambda box: float(box[:, 0].min())):
        height = float(np.linalg.norm(box[3] - box[0]))
        near = [line for line in lines if abs(_middle(line[-1]) - _middle(box)) < height / 2]
        if near:
            min(near, key=lambda line: abs(_middle(line[-1]) - _middle(box))).append(box)
        else:
            lines.append([box])
    lines.sort(key=lambda line: _middle(line[0]))
    return np.array([box for line in lines for box in line], np.float32).reshape(-1, 4, 2)


def face(crop: Pixels) -> Floats:
    """The beginning of a line for the direction model: float32 [1, 3, HEIGHT, FACE_WIDTH]."""
    return _line(crop, FACE_WIDTH)


def upright(crop: Pixels, directions: Floats) -> tuple[Floats, bool]:
    """A line for the recognition model, float32 [1, 3, HEIGHT, one of WIDTHS], and whether it stood on its head.

    `directions` [1, 2] is how sure the direction model is of each.
    """
    turned = bool(directions[0, 1] > SURELY_TURNED)
    wide = math.ceil(HEIGHT * crop.shape[1] / crop.shape[0])
    width = next((width for width in WIDTHS if width >= wide), WIDTHS[-1])
    return _line(crop[::-1, ::-1] if turned else crop, width), turned


def text_of(numbers: NDArray[np.integer[Any]], chances: Floats, characters: Sequence[str]) -> tuple[str, float]:
    """The likeliest characters [places] and their chances → text and score, by connectionist temporal classification:
    a number that is repeated counts once, and 0 is no character."""
    kept = numbers != 0
    kept[1:] &= numbers[1:] != numbers[:-1]
    return "".join(characters[number] for number in numbers[kept]), float(chances[kept].mean()) if kept.any() else 0.0


def read_characters(file: Path) -> list[str]:
    """By the recognition model's numbers."""
    lines = file.read_text("utf-8").split("\n")
    return ["", *(line.removesuffix("\r") for line in lines if line), " "]


def result(
    size: Sequence[int], boxes: Floats, turned: Sequence[bool], read: Iterable[tuple[int, tuple[str, float]]]
) -> dict[str, Any]:
    """What PaddleX's OCR answers: all boxes, and the texts that were surely read. Source: PaddleX 3, `OCRResult`.

    `size`: the page's height and width; `read`: (number of the box, (text, score)).
    """
    corners = boxes.astype(int)
    sure = [(number, text, score) for number, (text, score) in read if score >= SURELY_TEXT]
    polys = [corners[number] for number, _, _ in sure]
    found = {
        "dt_polys": corners.tolist(),
        "textline_orientation_angles": list(map(int, turned)),
        "rec_texts": [text for _, text, _ in sure],
        "rec_scores": [round(score, 4) for _, _, score in sure],
        "rec_polys": [poly.tolist() for poly in polys],
        "rec_boxes": [[*poly.min(axis=0).tolist(), *poly.max(axis=0).tolist()] for poly in polys],
    }
    return {
        "ocrResults": [{"prunedResult": found, "ocrImage": None, "docPreprocessingImage": None, "inputImage": None}],
        "dataInfo": {"type": "image", "width": int(size[1]), "height": int(size[0])},
    }


class Decode:
    def handle(self, data: list[Row], context: Context) -> list[Any]:
        return _each(data, self._one)

    def _one(self, row: Row) -> Row:
        image = decode(row["image"])
        return {"image": image, "tensor": for_detection(image), "size": np.array(image.shape[:2], np.int32)}


class Find:
    def handle(self, data: list[Row], context: Context) -> list[Any]:
        return _each(data, self._one)

    def _one(self, row: Row) -> Row:
        boxes = boxes_in(row["map"], row["image"])
        crops = [np.ascontiguousarray(cut_out(row["image"], box)) for box in boxes]
        return {"boxes": boxes, "crops": crops, "faces": [face(crop) for crop in crops]}


class Turn:
    def handle(self, data: list[Row], context: Context) -> list[Any]:
        return _each(data, self._one)

    def _one(self, row: Row) -> Row:
        made = [upright(crop, direction) for crop, direction in zip(row["crops"], row["directions"], strict=True)]
        return {"lines": [line for line, _ in made], "turned": np.array([turned for _, turned in made], bool)}


class Texts:
    def initialize(self, context: Context) -> None:
        self.characters = read_characters(Path(__file__).with_name("characters.txt"))

    def handle(self, data: list[Row], context: Context) -> list[Any]:
        return _each(data, self._one)

    def _one(self, row: Row) -> Row:
        lines = zip(row["positions"].tolist(), row["numbers"], row["chances"], strict=True)
        read = [(at, text_of(numbers[0], chances[0], self.characters)) for at, numbers, chances in lines]
        return {"result": result(row["size"], row["boxes"], row["turned"].tolist(), read)}


def _each(data: list[Row], one: Callable[[Row], Row]) -> list[Any]:
    """A page that can't be read fails alone."""
    answers: list[Any] = []
    for row in data:
        try:
            answers.append(one(row))
        except InvalidRequest as error:
            answers.append(error)
    return answers


def _line(crop: Pixels, width: int) -> Floats:
    """A line, HEIGHT high and at most `width` wide, with grey at its right up to that."""
    wide = min(width, math.ceil(HEIGHT * crop.shape[1] / crop.shape[0]))
    small = cv2.resize(np.ascontiguousarray(crop), (wide, HEIGHT)).astype(np.float32)
    line = np.zeros((1, 3, HEIGHT, width), np.float32)
    line[0, :, :, :wide] = (small / 127.5 - 1).transpose(2, 0, 1)
    return line


def _middle(box: Floats) -> float:
    return float(box[:, 1].mean())
