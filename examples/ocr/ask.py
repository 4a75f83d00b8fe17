"""Ask a server to read pages; say how much of what is known to stand there was read, and draw it into a picture."""

from __future__ import annotations

import argparse
import json
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import requests
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
SHOWN_WIDTH = 1000
BLUE, RED = (200, 90, 0), (60, 60, 220)


@dataclass(frozen=True)
class Text:
    text: str
    score: float
    box: Any
    """Four corners (x, y)."""
    turned: bool
    """Whether it stood on its head."""


@dataclass(frozen=True)
class Found:
    """How what was read compares with what stands on the page."""

    accuracy: float
    """The share of the page's characters that were read; what was read too much counts against it."""
    overlap: float
    """The least of any text: the area that its box and the ink's have in common ÷ that of both."""


def ask(url: str, page: bytes) -> list[Text]:
    """The page's texts in the order of reading."""
    answer = requests.post(url, page, headers={"Content-Type": "application/octet-stream"}, timeout=120)
    answer.raise_for_status()
    return texts(answer.json()["result"])


def texts(result: dict[str, Any]) -> list[Text]:
    """Of a result in PaddleX's form."""
    found = result["ocrResults"][0]["prunedResult"]
    angles = zip(found["dt_polys"], found["textline_orientation_angles"], strict=True)
    turned = [box for box, angle in angles if angle]
    columns = (found[name] for name in ("rec_texts", "rec_scores", "rec_polys"))
    return [Text(text, score, box, box in turned) for text, score, box in zip(*columns, strict=True)]


def compare(said: list[Text], lines: list[dict[str, Any]]) -> Found:
    """`lines` are what stands on the page: text and box."""
    errors = sum(len(folded(text.text)) for text in said)
    overlaps = []
    for line in lines:
        best = max(said, key=lambda text: overlap(text.box, line["box"]), default=None)
        overlaps.append(overlap(best.box, line["box"]) if best else 0.0)
        there, read = folded(line["text"]), folded(best.text) if best and overlaps[-1] else ""
        errors += distance(there, read) - len(read)
    characters = sum(len(folded(line["text"])) for line in lines)
    return Found(1 - errors / characters, min(overlaps))


def folded(text: str) -> str:
    """Without what this model does not tell apart: blanks, and the widths of punctuation."""
    return "".join(unicodedata.normalize("NFKC", text).split())


def distance(one: str, other: str) -> int:
    """The fewest characters to insert, delete or replace: Levenshtein's."""
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, 1):
        before, row = row, [i]
        for j, right in enumerate(other, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (left != right)))
    return row[-1]


def overlap(one: Any, other: Any) -> float:
    first, second = np.array(one, np.float32), np.array(other, np.float32)
    common = cv2.intersectConvexConvex(first, second)[0]
    return float(common / (cv2.contourArea(first) + cv2.contourArea(second) - common))


def drawn(image: Pixels, said: list[Text]) -> Pixels:
    """The page with the boxes, red where the text stood on its head; beside it, the texts where they stand."""
    page, words = image.copy(), np.full_like(image, 255)
    font: Any = cv2.FontFace("uni")
    for text in said:
        corners = np.array(text.box, np.int32)
        colour = RED if text.turned else BLUE
        for side in (page, words):
            cv2.polylines(side, [corners], True, colour, 2, cv2.LINE_AA)
        left, high = int(corners[:, 0].min()), np.linalg.norm(corners[3] - corners[0])
        bottom = int(corners[:, 1].mean() + 0.3 * high)
        cv2.putText(words, text.text, (left + 4, bottom), (0, 0, 0), font, max(8, int(0.75 * high)), 400)
    return np.hstack([page, words])


def save(file: Path, picture: Pixels) -> None:
    """As wide as a screen shows it."""
    scale = min(1.0, SHOWN_WIDTH / picture.shape[1])
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(file), small)


def main() -> None:
    parser = argparse.ArgumentParser(description="Ask a server to read pages.")
    parser.add_argument("pages", type=Path, nargs="+", help="pictures; NAME.json beside one says what stands there")
    parser.add_argument("--url", default="http://localhost:8080/predictions/ocr")
    parser.add_argument("--draw", type=Path, help="draw what was read of the last page into this file")
    given = parser.parse_args()
    for file in given.pages:
        said = ask(given.url, file.read_bytes())
        print("\n".join(text.text for text in said))
        known = file.with_suffix(".json")
        if known.is_file():
            found = compare(said, json.loads(known.read_text("utf-8")))
            print(f"{file.name}: {found.accuracy:.1%} of the characters; boxes overlap by {found.overlap:.0%} or more")
    if given.draw:
        page: Any = cv2.imread(str(given.pages[-1]))
        save(given.draw, drawn(page, said))


if __name__ == "__main__":
    main()
