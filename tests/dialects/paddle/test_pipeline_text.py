"""Tensors as text: what Python clients write with `repr`, and what people type."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdserver.dialects.paddle.pipeline_text import read_text, written
from pdserver.errors import InvalidRequest
from pdserver.tensors import array, tensor
from pdserver.types import Port

ROW = [0.0137, -0.1136, 1e-05, 2.0]
PORT = Port("x", "float32", (-1, 4))


def whole_repr(values: object) -> str:
    with np.printoptions(threshold=sys.maxsize, floatmode="unique"):
        return repr(values)


@pytest.mark.parametrize(
    "text",
    [
        "0.0137, -0.1136, 1e-05, 2.0",
        "  0.0137,-.1136,+1.E-5,2.\n",
        "[0.0137, -0.1136, 0.00001, 2]",
        "[[0.0137, -0.1136, 0.00001, 2]]",
        "(0.0137, -0.1136, 1e-05, 2.0)",
        "([0.0137, -0.1136, 1e-05, 2.0,],)",
        repr(np.array(ROW)),
        repr(np.array([ROW], np.float32)),
    ],
)
def test_one_row_in_many_ways(text: str) -> None:
    read = read_text(PORT, text)
    assert read.shape == (1, 4)
    assert array(read).tolist() == np.array([ROW], np.float32).tolist()


@pytest.mark.parametrize("text", ["1,2,3,4;5,6,7,8", "[[1,2,3,4],[5,6,7,8]]", repr(np.arange(1, 9).reshape(2, 4))])
def test_several_rows(text: str) -> None:
    assert array(read_text(PORT, text)).tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]


@pytest.mark.parametrize(
    ("port", "text", "expected"),
    [
        (Port("n", "int64", (-1, 1)), "9223372036854775807", [[2**63 - 1]]),
        (Port("n", "int64", (-1,)), "1, 2, 3", [1, 2, 3]),
        (Port("n", "int64", (-1, -1)), "[1, 2, 3]", [[1, 2, 3]]),
        (Port("n", "bool", (-1, 2)), "array([ True, False])", [[True, False]]),
        (Port("n", "float32", (-1, 2, 2)), "1,2,3,4", [[[1, 2], [3, 4]]]),
        (
            Port("n", "float64", (-1, 9)),
            "+1., -.5, 007, 00.5, 1.e5, 1e-05, .0, 100, 0.005",
            [[1, -0.5, 7, 0.5, 1e5, 1e-5, 0, 100, 0.005]],
        ),
        (Port("n", "float64", (-1, 2)), "[nan, -inf]", [[np.nan, -np.inf]]),
        (Port("n", "bytes", (-1, 1)), "[0.1, grüße", [["[0.1, grüße".encode()]]),
        (Port("n", "float32", (2, 2)), "[[1, 2], [3, 4]]", [[1, 2], [3, 4]]),
    ],
)
def test_text_comes_to_what_the_model_takes(port: Port, text: str, expected: object) -> None:
    read = read_text(port, text)
    assert read.dtype == port.dtype
    np.testing.assert_equal(array(read).tolist(), expected)


def test_what_clients_write_with_repr_is_read_bit_by_bit() -> None:
    values = np.random.default_rng(3).normal(scale=1e-3, size=(3, 700)).astype(np.float32)
    port = Port("x", "float32", (-1, 700))
    for text in (whole_repr(values), written(tensor("x", values))):
        assert array(read_text(port, text)).tobytes() == values.tobytes()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "uint8", "bool", "<U3"])
def test_long_answers_are_what_python_reads(dtype: str) -> None:
    values = (np.arange(20_000) % 250).reshape(2, 50, 200).astype(dtype)
    text = written(tensor("x", values))
    names: dict[str, Any] = {**vars(np), "array": np.array}
    read = eval(text, names)
    assert (read.dtype, read.tolist()) == (values.dtype, values.tolist())
    values = values.astype("f2" if dtype == "float16" else "f4")
    values[0, 0, 0] = np.nan
    np.testing.assert_equal(eval(written(tensor("x", values)), names), values)


@pytest.mark.parametrize(
    "values",
    [
        *(
            np.array([[value]], np.float32)
            for value in (14.125, 0.1, -2, 0, 1e-4, 12345678, 99999999, 1e8, 3e-5, np.nan)
        ),
        *(np.array([value]) for value in (0.1, 1 / 3, -2.0, 99999999.5, 3, -(2**63))),
        np.array(7, np.int32),
        np.array([[[0.25]]], np.float16),
        np.array([[0.5, -2.0], [1e-7, 1e20]]),
        np.array([[True, False]]),
        np.array([["grüße", ""]]),
        np.zeros((2, 0), np.float32),
    ],
)
def test_answers_are_what_numpy_writes(values: object) -> None:
    assert written(tensor("x", values)) == whole_repr(values)


@given(
    dtype=st.sampled_from(["float32", "float32", "float64", "int32", "int64"]),
    shape=st.lists(st.integers(1, 12), min_size=1, max_size=3).filter(lambda shape: math.prod(shape) <= 100),
    low=st.floats(-4, 6),
    span=st.floats(0, 4),
    digits=st.sampled_from([0, 1, 3, 9]),
    seed=st.integers(0, 2**32 - 1),
    odd=st.sampled_from([None, None, None, 0.0, -0.0, np.nan, np.inf, -1.0]),
)
def test_rows_are_what_numpy_writes(
    dtype: str, shape: list[int], low: float, span: float, digits: int, seed: int, odd: float | None
) -> None:
    rng = np.random.default_rng(seed)
    values = np.round(10 ** rng.uniform(low, low + span, shape) * rng.choice([-1, 1, 1], shape), digits)
    if odd is not None and dtype.startswith("float") and values.size:
        values.reshape(-1)[rng.integers(values.size)] = odd
    values = values.astype(dtype)
    assert written(tensor("x", values)) == whole_repr(values)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1, 2", "can't be read; expected numbers with commas between them"),
        *((text, f"'x': {text} is no number") for text in ("1.2.3", "1..5", "-+5", "+-5", "1e.5", "1_0", "nano", "١")),
        ("a, b", "'x': a is no number; expected numbers"),
        ("__import__('os').system('true')", "is no number"),
        ("array([1, ..., 2])", "numpy has shortened it: np.set_printoptions(threshold=sys.maxsize)"),
        ("[[1, 2], [3, 4, 5], [6]]", "'x' has lists of different lengths"),
        ("[1, [2], 3, 4]", "'x' has lists beside single values"),
        ("[" * 5000, "can't be read"),
        ("[" * 50 + "]" * 50, "nested more than 32 deep"),
        ("9" * 5000, "can't be read"),
        ("9" * 1_000_000 + "x", "is no number"),
        ("1e99, 1, 1, 1", "too large for FP32"),
        ("1e999, 1, 1, 1", "can't be read"),
        ('["1", "2", "3", "4"]', "'data' must be a list of numbers"),
        ("[true, 1, 1, 1]", "'data' must be a list of numbers"),
        ("{1: 2}", "is no number"),
        ("array(" + " " * 200_000, "no number"),
        ("array([1, 2, 3, 4], dtype=object", "no number"),
    ],
)
def test_text_that_is_no_numbers_is_refused(text: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_text(PORT, text)
    assert words in str(refused.value)
    assert len(str(refused.value)) < 400
