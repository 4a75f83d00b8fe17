"""What counts as the same answer."""

from __future__ import annotations

import numpy as np
import pytest

from pdarchiver.manifest import TensorSpec
from pdserver.handlers.runtime.rows import Array
from pdserver.handlers.runtime.trial.comparison import Tolerance, compare
from pdserver.handlers.runtime.trial.made import made

LOW = Tolerance(2e-2)
ROW = np.array([[0.1, 0.5, 0.49]], np.float32)


def problem(wanted: Array, found: Array, tolerance: Tolerance = Tolerance()) -> str:  # noqa: B008 (frozen)
    return compare({"y": wanted}, {"y": found}, tolerance).problem


def test_the_largest_difference_counts_as_a_share_of_the_largest_number() -> None:
    wanted = np.array([[1000, 1e-3]], np.float32)
    assert problem(wanted, wanted + np.float32(0.05)) == ""
    assert compare({"y": wanted}, {"y": wanted + np.float32(0.05)}, Tolerance()).relative == pytest.approx(
        5e-5, rel=0.01
    )
    assert "differs by 2.0e-04, and may by 1.0e-04" in problem(wanted, wanted + np.float32(0.2))


def test_the_likeliest_class_has_to_be_the_same() -> None:
    """Also where numbers are allowed to differ more. Classes that are as likely as each other may change places."""
    other = np.array([[0.1, 0.49, 0.5]], np.float32)
    assert problem(ROW, other, LOW) == 'output "y": another class is the likeliest'
    assert problem(ROW[None], other[None], LOW) == 'output "y": another class is the likeliest'
    assert problem(ROW[None, None], other[None, None], LOW) == "", "a picture"
    tie = np.array([[0.1, 0.5, 0.49999]], np.float32)
    assert problem(tie, tie[:, [0, 2, 1]], LOW) == ""


def test_other_shapes_types_and_numbers() -> None:
    whole = np.arange(3)
    assert problem(whole, whole + (whole == 2)).startswith('output "y" differs by inf')
    assert problem(whole, whole.copy()) == ""
    assert problem(ROW, ROW[0]) == 'output "y": float32 of shape [3], and should be float32 of shape [1, 3]'
    assert problem(ROW, ROW.astype(np.float64)).startswith('output "y": float64')
    assert problem(ROW, ROW * np.float32(np.nan)).startswith('output "y" differs by inf')
    infinite = np.array([[np.inf, 1, np.nan]], np.float32)
    assert problem(infinite, infinite.copy()) == ""
    assert problem(infinite, -infinite).startswith('output "y" differs by inf')
    assert problem(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32)) == ""
    assert compare({"y": ROW}, {}, Tolerance()).problem == 'it gives no output "y"'


def test_inputs_that_are_made_fit_the_signature() -> None:
    specs = [
        TensorSpec("picture", "float32", (-1, 3, -1, -1), "picture"),
        TensorSpec("ids", "int64", (-1, -1), "words"),
        TensorSpec("mask", "bool", (-1, 5), "mask"),
        TensorSpec("scale", "bfloat16", (), "scale"),
        TensorSpec("fixed", "float16", (4, 2), "fixed"),
    ]
    one, eight = made(specs, (1, 8), {"words": 3})
    assert {name: (array.dtype.name, array.shape) for name, array in eight.items()} == {
        "picture": ("float32", (8, 3, 224, 224)),
        "ids": ("int64", (8, 16)),
        "mask": ("bool", (8, 5)),
        "scale": ("float32", ()),
        "fixed": ("float16", (4, 2)),
    }
    assert one["ids"].shape == (1, 16)
    assert set(np.unique(eight["ids"])) == {0, 1, 2}
