"""Pages to read, with what stands where: drawn, and as a camera would see them. OpenCV 5 brings the font, Chinese too.

A box is four corners (x, y), float32 [4, 2], from the text's own top left corner clockwise.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Box = NDArray[np.float32]
PAPER, INK = (248, 252, 252), (40, 32, 28)
SEED = 7


@dataclass(frozen=True)
class Line:
    text: str
    box: Box


@dataclass(frozen=True)
class Page:
    image: Pixels
    """[height, width, 3], blue first."""
    lines: tuple[Line, ...]
    """In the order in which they are read."""

    def encoded(self, ending: str) -> bytes:
        """As a file of the format that the ending says, such as ".png"."""
        return bytes(cv2.imencode(ending, self.image)[1])


NOTICE = (
    (60, 90, 40, "飞桨模型服务"),
    (60, 150, 26, "Serving with PaddlePaddle"),
    (60, 230, 24, "检测文字的位置"),
    (430, 230, 24, "Where is text?"),
    (60, 280, 24, "判断方向并转正"),
    (430, 280, 24, "Which way up is it?"),
    (60, 330, 24, "识别每一行的内容"),
    (430, 330, 24, "What does it say?"),
    (60, 420, 26, "Order No. 20260417-0093"),
    (60, 470, 26, "合计金额：1280.50元"),
    (60, 520, 26, "北京市海淀区中关村大街27号"),
    (60, 570, 26, "Open daily 9:30 - 18:45"),
)
"""x, the line under the letters (y), the size, the text."""
UPSIDE_DOWN = (60, 650, 30, "Upside down, 上下颠倒")


def notice() -> Page:
    """Chinese and English, in one column and in two, and a last line that stands on its head."""
    image = _paper(760, 720)
    lines = [draw(image, *line) for line in NOTICE]
    other = _paper(760, 720)
    turned = draw(other, *UPSIDE_DOWN)
    left, top, right, bottom = _bounds(turned.box)
    part = (slice(top, bottom + 1), slice(left, right + 1))
    image[part] = other[part][::-1, ::-1]
    lines.append(Line(turned.text, turned.box[[2, 3, 0, 1]]))
    return Page(image, tuple(lines))


GOODS = ("苹果", "牛奶", "面包", "鸡蛋", "大米", "Tea", "Coffee", "Butter", "Sugar", "Honey", "Salt", "茶叶", "蜂蜜")


def receipt(number: int, goods: int = 8) -> Page:
    """Short words and prices, other ones for each number: small pages with many texts."""
    chance = np.random.default_rng(number)
    image = _paper(70 + 40 * goods + 50, 420)
    lines = [draw(image, 30, 45, 26, f"收据 No. {1000 + number}")]
    total = 0
    for row in range(goods):
        name, price = chance.choice(GOODS), int(chance.integers(100, 9999))
        total += price
        y = 95 + 40 * row
        lines += [draw(image, 30, y, 22, str(name)), draw(image, 300, y, 22, f"{price / 100:.2f}")]
    y = 95 + 40 * goods
    lines += [draw(image, 30, y, 24, "合计 Total"), draw(image, 300, y, 24, f"{total / 100:.2f}")]
    return Page(image, tuple(lines))


def photographed(page: Page) -> Page:
    """As by a hand-held camera: on a table, askew, in uneven light, a little blurred, with noise."""
    chance = np.random.default_rng(SEED)
    height, width = page.image.shape[:2]
    size = (round(width * 1.25), round(height * 1.2))
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    seen = (np.array([[0.11, 0.05], [0.91, 0.09], [0.96, 0.93], [0.05, 0.95]]) * size).astype(np.float32)
    matrix = cv2.getPerspectiveTransform(corners, seen)
    table = np.full((size[1], size[0], 3), (70, 96, 130), np.uint8)
    table[np.arange(size[1]) % 46 < 2] = (52, 74, 104)
    there = cv2.warpPerspective(np.full((height, width), 255, np.uint8), matrix, size) > 127
    image = np.where(there[..., None], cv2.warpPerspective(page.image, matrix, size), table)
    image = cv2.GaussianBlur(image, (0, 0), 0.8).astype(np.float32)
    across, down = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
    image *= (1.0 - 0.35 * across - 0.15 * down)[..., None]
    image += chance.normal(0, 6, image.shape)
    lines = tuple(Line(line.text, cv2.perspectiveTransform(line.box[None], matrix)[0]) for line in page.lines)
    return Page(np.clip(image, 0, 255).astype(np.uint8), lines)


def draw(image: Pixels, x: int, y: int, size: int, text: str, colour: tuple[int, int, int] = INK) -> Line:
    """Write `text` from (x, y) on. The box is that of its ink."""
    font: Any = cv2.FontFace("uni")
    cv2.putText(image, text, (x, y), colour, font, size, 400)
    alone = np.zeros(image.shape[:2], np.uint8)
    cv2.putText(alone, text, (x, y), (255,), font, size, 400)
    left, top, wide, high = cv2.boundingRect(alone)
    right, bottom = left + wide, top + high
    return Line(text, np.array([[left, top], [right, top], [right, bottom], [left, bottom]], np.float32))


def _paper(height: int, width: int) -> Pixels:
    return np.full((height, width, 3), PAPER, np.uint8)


def _bounds(box: Box) -> tuple[int, int, int, int]:
    left, top = box.min(axis=0).astype(int)
    right, bottom = box.max(axis=0).astype(int)
    return left, top, right, bottom


def by_name() -> dict[str, Page]:
    """The example's pages, by the names of their files."""
    page = notice()
    return {"page.png": page, "photo.jpg": photographed(page), "receipt.png": receipt(1)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw the pages of the OCR example.")
    parser.add_argument("--output", type=Path, default=Path("build/ocr"), help="folder (%(default)s)")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    pages = by_name()
    for name, page in pages.items():
        file = given.output / name
        file.write_bytes(page.encoded(file.suffix))
        lines = [{"text": line.text, "box": line.box.tolist()} for line in page.lines]
        file.with_suffix(".json").write_text(json.dumps(lines, ensure_ascii=False, indent=1))
    print(f"{', '.join(pages)}; see {given.output}")


if __name__ == "__main__":
    main()
