"""Each operator beside paddle_serving_app's own, whose results `record.py` wrote down."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pdserver.handlers import reader
from pdserver.handlers.reader import video
from tests.handlers.reader.cases import FAMILIES, INPUTS

READER = SimpleNamespace(**{name: getattr(reader, name) for name in reader.__all__}, VideoCenterCrop=video.CenterCrop)
EVERY = [(family, name) for family, cases in FAMILIES.items() for name in cases]
ROUNDING = 1e-6
"""Theirs subtracts and divides where ours multiplies and adds: the last bits differ, of values up to 5. OpenCV resizes
floats in another order from one version to the next."""
TOLERANCES = {
    **dict.fromkeys(
        [
            ("images", "Resize, of floats"),
            ("images", "Normalize"),
            ("images", "Normalize, channels first"),
            ("images", "Sequential"),
            ("images", "ImageReader"),
            ("images", "ImageReader, whole"),
            ("detection", "DetectionSequential"),
            ("detection", "DetectionNormalize, no scale"),
        ],
        ROUNDING,
    ),
    # OpenCV 3.4, which theirs needs, rounds the weights of neighbours; the result is off by one level here and there.
    ("ocr", "GetRotateCropImage"): 1.0,
}
"""All others are equal, bit by bit."""


@functools.cache
def recorded(family: str) -> dict[str, NDArray[Any]]:
    with np.load(Path(__file__).parent / "data" / f"{family}.npz") as file:
        return dict(file)


@pytest.mark.parametrize(("family", "name"), EVERY)
def test_the_result_is_theirs(family: str, name: str, tmp_path: Path) -> None:
    data = recorded(family)
    given: dict[str, Any] = {key: data[f"input/{key}"].copy() for key in INPUTS[family]}
    result = FAMILIES[family][name](READER, {**given, "folder": tmp_path})
    parts = result if isinstance(result, tuple) else (result,)
    assert f"{name}/{len(parts)}" not in data
    for number, part in enumerate(parts):
        compare(part, data[f"{name}/{number}"], TOLERANCES.get((family, name), 0))
    for key, value in given.items():
        np.testing.assert_array_equal(value, data[f"input/{key}"], "operators leave what they are given as it is")


def compare(found: Any, expected: NDArray[Any], tolerance: float) -> None:
    if expected.dtype.kind == "U":
        assert json.loads(json.dumps(found)) == json.loads(str(expected))
        return
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_allclose(found.astype(np.float64), expected.astype(np.float64), rtol=0, atol=tolerance)


def test_nothing_else_was_recorded() -> None:
    """A case that was renamed or dropped is recorded anew."""
    for family, cases in FAMILIES.items():
        names = {key.rpartition("/")[0] for key in recorded(family)} - {"input", ""}
        assert names == set(cases)
        assert "paddle_serving_app 0.9.0" in str(recorded(family)["versions"])
