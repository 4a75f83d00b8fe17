"""The segmentation example's steps. Its README, which the tests run, asks the model in a server."""

from __future__ import annotations

import base64
from typing import Any

import cv2
import numpy as np

from examples.segmentation import steps
from pdserver.errors import InvalidRequest

PICTURE = np.full((20, 30, 3), 90, np.uint8)


def test_a_file_that_is_no_picture_fails_alone() -> None:
    png = cv2.imencode(".png", PICTURE)[1].tobytes()
    good, *bad = steps.Decode().handle([{"image": bytearray(image)} for image in (png, b"junk", b"")], None)
    assert isinstance(good, dict)
    assert np.array_equal(good["picture"], PICTURE)
    assert (good["tensor"].shape, good["tensor"].dtype) == ((1, 3, 64, 64), np.float32)
    assert [type(row) for row in bad] == [InvalidRequest] * 2


def test_chances_become_a_mask_as_large_as_the_picture_areas_and_a_drawing() -> None:
    chances = np.zeros((1, 4, 64, 64), np.float32)
    chances[0, 0], chances[0, 2, :, :32] = 0.5, 1  # leaves on the left half
    [row] = steps.Classes().handle([{"chances": chances, "picture": PICTURE}], None)
    assert (row["mask"].shape, row["mask"].dtype) == ((20, 30), np.uint8)
    assert (row["mask"][:, :14] == 2).all()
    assert not row["mask"][:, 16:].any()
    assert row["areas"]["lemon"] == row["areas"]["plum"] == 0
    assert abs(row["areas"]["leaf"] - 0.5) < 0.05

    [drawn] = steps.Draw().handle([{"picture": PICTURE, "mask": row["mask"]}], None)
    shown: Any = cv2.imdecode(np.frombuffer(drawn["drawn"], np.uint8), cv2.IMREAD_COLOR)
    assert shown[0, 0].tolist() == [30, 200, 30]
    assert shown[0, 29].tolist() == [90, 90, 90]

    [answer] = steps.Answer().handle([{"mask": row["mask"], **drawn}], None)
    result = answer["result"]
    assert np.array_equal(np.reshape(result["labelMap"], result["size"]), row["mask"])
    assert base64.b64decode(result["image"]) == drawn["drawn"]
