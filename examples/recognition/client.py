"""Ask which brands a picture shows, as PaddleClas's pipeline_http_client.py does, and draw the answer into it.

    python examples/recognition/client.py build/recognition/shelf.jpg --draw build/recognition/answer.png

With --expect, a file that train.py has written beside a picture, it says how much of the answer is right.
"""

from __future__ import annotations

import argparse
import ast
import base64
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import requests

GREEN, BLACK, WHITE = (60, 220, 60), (0, 0, 0), (255, 255, 255)


Found = dict[str, Any]


def ask(picture: bytes, server: str) -> list[Found]:
    """[{"bbox": [left, top, right, bottom], "rec_docs": label, "rec_scores": how alike}, …], the likeliest first."""
    message = {"key": ["image"], "value": [base64.b64encode(picture).decode()]}
    answer = requests.post(f"{server}/recognition/prediction", json=message, timeout=30).json()
    if answer["err_no"]:
        raise SystemExit(answer["err_msg"])
    found: list[Found] = ast.literal_eval(answer["value"][0])  # theirs is text, as Python prints it
    return found


def draw(picture: bytes, found: list[Found], file: Path) -> None:
    image = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    for one in found:
        left, top, right, bottom = one["bbox"]
        cv2.rectangle(image, (left, top), (right, bottom), GREEN, 2)
        for colour, width in ((BLACK, 3), (WHITE, 1)):
            at, font = (left, max(top - 4, 12)), cv2.FONT_HERSHEY_SIMPLEX
            cv2.putText(image, one["rec_docs"], at, font, 0.45, colour, width, cv2.LINE_AA)
    cv2.imwrite(str(file), image)


def right(found: list[Found], expected: list[Found]) -> int:
    """How many labels are there with their middle in the box, and nothing else of that name."""
    count = 0
    for one in expected:
        left, top, right, bottom = one["bbox"]
        middles = [
            ((a + c) / 2, (b + d) / 2) for a, b, c, d in (f["bbox"] for f in found if f["rec_docs"] == one["label"])
        ]
        count += len(middles) == 1 and left < middles[0][0] < right and top < middles[0][1] < bottom
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description="Ask the recognition example which brands a picture shows.")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--server", default="http://localhost:8080", help="%(default)s")
    parser.add_argument("--draw", type=Path, help="a file for the picture with the answer in it")
    parser.add_argument("--expect", type=Path, help="what is in the picture")
    given = parser.parse_args()
    picture = given.picture.read_bytes()
    found = ask(picture, given.server)
    for one in found:
        print(f"{one['rec_docs']}, {one['rec_scores']:.0%} alike, at {one['bbox']}")
    if given.expect:
        expected = json.loads(given.expect.read_text())
        print(f"{right(found, expected)} of {len(expected)} labels are recognised, and {len(found)} are found")
    if given.draw:
        draw(picture, found, given.draw)


if __name__ == "__main__":
    main()
