"""The recognition of text: pictures of lines → the model's input, and its output → the text."""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from pdserver.handlers.reader.checks import check, is_whole, picture
from pdserver.handlers.reader.images import resized
from pdserver.handlers.runtime.rows import Array

_ALPHABETS = {
    "en": string.digits + string.ascii_lowercase,
    "en_sensitive": string.printable[:94],
    "EN_symbol": string.printable[:94],
}
"""The characters of kinds that need no file."""
_DECODED, _CHANCES = "ctc_greedy_decoder_0.tmp_0", "softmax_0.tmp_0"
_SECOND = "save_infer_model/scale_0.tmp_1"


class OCRReader:
    """For CRNN models that PaddleOCR exports.

    `image_shape` is channels, height and width of the model's input. For `char_type` "ch", pictures are as wide as the
    widest needs. `char_dict_path` has the model's characters in their order, one in a line; "en" and "en_sensitive"
    need no file. `algorithm` and `batch_num` are taken and do nothing, as there.
    """

    def __init__(
        self,
        algorithm: str = "CRNN",
        image_shape: Sequence[int] = (3, 32, 320),
        char_type: str = "ch",
        batch_num: int = 1,
        char_dict_path: str | PathLike[str] = "./ppocr_keys_v1.txt",
    ) -> None:
        valid = len(image_shape) == 3 and all(map(is_whole, image_shape))
        check(valid, self, "image_shape", image_shape, "channels, height and width")
        self.rec_image_shape, self.character_type = tuple(image_shape), char_type
        if char_type in _ALPHABETS:
            self._characters = _ALPHABETS[char_type]
        else:
            path = Path(char_dict_path)
            check(path.is_file(), self, "char_dict_path", str(char_dict_path), "the file of the model's characters")
            self._characters = path.read_text(encoding="utf-8").replace("\r", "").replace("\n", "")
        with_space = "" if char_type in _ALPHABETS else " "
        self._second = ["", *self._characters, *with_space]
        """By the number that models of the second generation have for them; 0 is the blank."""

    def resize_norm_img(self, img: Array, max_wh_ratio: float) -> Array:
        """uint8 [height, width, 3] → float32 [3, height, width] from -1 to 1, with zeros at the right up to the width.

        `max_wh_ratio` is the largest width ÷ height of the pictures that go to the model together.
        """
        there_y, there_x = picture(self, img).shape[:2]
        channels, height, width = self.rec_image_shape
        if self.character_type == "ch":
            width = max(1, int(height * max_wh_ratio))
        wide = min(width, math.ceil(height * (there_x / there_y)))
        small = resized(img, (height / there_y, wide / there_x), None)
        padded = np.zeros((channels, height, width), np.float32)
        padded[:, :, :wide] = (small.transpose(2, 0, 1) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
        return padded

    def preprocess(self, img_list: Sequence[Array]) -> Array:
        """One picture → the model's input. Raises ValueError for several."""
        check(len(img_list) == 1, self, "img_list", len(img_list), "one picture; for several, use resize_norm_img")
        height, width = picture(self, img_list[0]).shape[:2]
        return self.resize_norm_img(img_list[0], width / height)

    def postprocess(self, outputs: Mapping[str, Any], with_score: bool = False) -> list[list[Any]]:
        """[text], or [text, score], for each line, from a model of the first generation, which decodes by itself."""
        decoded = np.asarray(outputs[_DECODED]).reshape(-1).astype(np.int64)
        blank = len(self._characters)
        texts = [
            "".join(self._characters[number] for number in line if number != blank)
            for line in _split(decoded, outputs[f"{_DECODED}.lod"])
        ]
        if not with_score:
            return [[text] for text in texts]
        chances = np.asarray(outputs[_CHANCES], np.float32)
        scores = [_score(line, line.shape[1] - 1) for line in _split(chances, outputs[f"{_CHANCES}.lod"])]
        return [[text, score] for text, score in zip(texts, scores, strict=True)]

    def postprocess_ocrv2(self, outputs: Mapping[str, Any], with_score: bool = False) -> list[tuple[str, float]]:
        """(text, score) for each line, from a model of the second generation, whose output is how probable each
        character is at each place: [lines, places, characters]. An output that is the only one may have any name."""
        known = _SECOND in outputs or len(outputs) == 1
        check(known, self, "outputs", list(outputs), f"{_SECOND!r}, or one output of any name")
        found = outputs[_SECOND] if _SECOND in outputs else next(iter(outputs.values()))
        chances = picture(self, np.asarray(found), "lines, places, characters")
        check(
            chances.shape[2] <= len(self._second), self, "char_dict_path", chances.shape[2],
            f"as many characters as the model tells apart, but the file makes {len(self._second)}",
        )  # fmt: skip
        return [self._line(line) for line in chances]

    def _line(self, chances: Array) -> tuple[str, float]:
        """Connectionist temporal classification: a number that is repeated counts once, blanks are left out."""
        numbers = chances.argmax(axis=1)
        kept = numbers != 0
        kept[1:] &= numbers[1:] != numbers[:-1]
        text = "".join(self._second[number] for number in numbers[kept])
        return text, float(chances.max(axis=1)[kept].mean()) if kept.any() else 0.0


def _split(rows: Array, offsets: Sequence[int]) -> list[Array]:
    """What lies between one offset and the next."""
    return [rows[start:stop] for start, stop in pairwise(offsets)]


def _score(chances: Array, blank: int) -> float:
    """The mean of the highest at each place that is not blank; 0 where all are."""
    numbers = chances.argmax(axis=1)
    kept = chances.max(axis=1)[numbers != blank]
    return float(kept.mean()) if kept.size else 0.0
