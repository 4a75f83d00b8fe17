"""Tensors as JSON and bytes, and the check against what a model takes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdserver.configuration.model import ModelSpec
from pdserver.dialects.tensors import check, check_outputs, check_shape, dtype_of, from_json, to_json
from pdserver.dtypes import DATATYPES, DTYPES
from pdserver.errors import InvalidRequest
from pdserver.formats.elements import elements, packed
from pdserver.tensors import array, byte_size, tensor
from pdserver.types import Interface, Output, Port, Tensor

SPEC = ModelSpec(
    name="m", version="1", url="m", directory="", handler="", manifest={}, model_config={}, min_workers=1,
    max_workers=1, batch_size=4,
)  # fmt: skip
INTERFACE = Interface(
    [Port("a", "float32", (-1, 3)), Port("b", "int64", (-1, -1))], [Port("y", "float32", (-1, 1))], batched=True
)


def made(name: str, values: Any) -> Tensor:
    return tensor(name, values)


def floats(*shape: int) -> Tensor:
    return made("a", np.ones(shape, np.float32))


def whole(*shape: int) -> Tensor:
    return made("b", np.ones(shape, np.int64))


A, B = floats(2, 3), whole(2, 5)


def test_rows_are_counted() -> None:
    assert check(SPEC, INTERFACE, [A, B]) == 2
    unbatched = Interface([Port("a", "float32", (2, 3))], [Port("y", "float32", ())], batched=False)
    assert check(SPEC, unbatched, [A]) == SPEC.batch_size


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            [A],
            "expected 2 inputs but got 1 inputs for model 'm'. Got input(s) ['a'], but missing required input(s) ['b']",
        ),
        ([A, B, A], "an input is given twice for model 'm'"),
        ([A, B, made("c", np.ones(1))], "unexpected inference input 'c' for model 'm'"),
        ([A, made("b", np.ones((2, 5)))], "input 'b' data-type is 'FP64', but model 'm' expects 'INT64'"),
        ([floats(2, 4), B], "unexpected shape for input 'a' for model 'm'. Expected [-1,3], got [2,4]"),
        ([floats(3), B], "unexpected shape for input 'a' for model 'm'. Expected [-1,3], got [3]"),
        ([floats(0, 3), B], "unexpected shape for input 'a' for model 'm'. Expected [-1,3], got [0,3]"),
        ([A, whole(1, 5)], "the batch size of all inputs of model 'm' must be the same; got a 2, b 1"),
        (
            [floats(5, 3), whole(5, 1)],
            "inference request batch-size must be <= 4 for 'm'; got 5. More rows need a larger batchSize: set "
            "batchSize: 5 in the model's config file, packed with --config-file, or under models= in config.properties",
        ),
        (
            [Tensor("a", "float32", (2, 3), b"123"), B],
            "input byte size mismatch for input 'a' for model 'm'. Expected 24",
        ),
        ([Tensor("a", "float32", (2, 3), b"", 0, 0, 7), B], "Expected 24, got 7"),
    ],
)
def test_what_is_not_the_models_is_refused(inputs: list[Tensor], message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check(SPEC, INTERFACE, inputs)
    assert message in str(caught.value)


def test_outputs_are_known() -> None:
    check_outputs(SPEC, INTERFACE, [Output("y"), Output("")])
    for outputs, message in (
        ([Output("z")], "unexpected inference output 'z'"),
        ([Output("y")] * 2, "asked for twice"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            check_outputs(SPEC, INTERFACE, outputs)
        assert message in str(caught.value)


@pytest.mark.parametrize("shape", [[-1], [2**31], [2**16, 2**16], [1] * 33, [3, -2]])
def test_impossible_shapes(shape: list[int]) -> None:
    with pytest.raises(InvalidRequest):
        check_shape(shape, "input 'x'")


@pytest.mark.parametrize("datatype", ["FP33", "fp32", "", None, 7, []])
def test_unknown_datatypes(datatype: object) -> None:
    with pytest.raises(InvalidRequest, match="datatype"):
        dtype_of(datatype, "input 'x'")


@pytest.mark.parametrize("dtype", sorted(set(DTYPES.values()) - {"bytes", "bfloat16"}))
@pytest.mark.parametrize("nested", [False, True])
def test_numbers_there_and_back(dtype: str, nested: bool) -> None:
    values = np.array([[0, 1, 1], [1, 0, 1]]).astype(dtype)
    text = json.dumps((values if nested else values.ravel()).tolist()).encode()
    data = from_json("input 'x'", dtype, (2, 3), text)
    assert data == values.tobytes()
    assert json.loads(to_json(Tensor("x", dtype, (2, 3), data))) == values.ravel().tolist()
    assert byte_size(dtype, (2, 3)) == len(data)
    assert DTYPES[DATATYPES[dtype]] == dtype


@pytest.mark.parametrize(
    ("value", "bits"), [(1.0, 0x3F80), (-2.5, 0xC020), (0.1, 0x3DCD), (1.00390625, 0x3F80), (1.01171875, 0x3F82)]
)
def test_bfloat16_is_rounded_to_the_nearest_even(value: float, bits: int) -> None:
    data = from_json("input 'x'", "bfloat16", (1,), json.dumps([value]).encode())
    assert int.from_bytes(data, "little") == bits
    assert json.loads(to_json(Tensor("x", "bfloat16", (1,), data)))[0] == pytest.approx(value, rel=2**-8)


@pytest.mark.parametrize(
    ("dtype", "text", "message"),
    [
        ("float32", "[1, 2]", "shape [3] has 3 elements, 'data' has 2"),
        ("float32", '[1, 2, "3"]', "must be a list of numbers"),
        ("float32", "[1, 2, null]", "must be a list of numbers"),
        ("float32", "[1, 2, true]", "must be a list of numbers"),
        ("float32", "[1, 2, 1e39]", "too large for FP32"),
        ("float16", "[1, 2, 70000]", "too large for FP16"),
        ("float32", "[1, 2, NaN]", "not JSON"),
        ("float32", "7", "shape [3] has 3 elements, 'data' has 1"),
        ("float32", '{"a": 1}', "must be a list of numbers"),
        ("float32", "[" * 101 + "1" + "]" * 101, "nested deeper than 100"),
        ("float32", "[" * 100_000, "not JSON"),
        ("int8", "[1, 2, 128]", "128 is not a INT8"),
        ("uint8", "[1, 2, -1]", "-1 is not a UINT8"),
        ("int64", "[1, 2, 9223372036854775808]", "9223372036854775808 is not a INT64"),
        ("int32", "[1, 2, 1.5]", "must be a list of whole numbers"),
        ("bool", "[true, false, 1]", "must be a list of true or false"),
        ("bytes", '["a", "b", 3]', "must be a list of strings"),
        ("bytes", '["a", "b", "\\ud800"]', "not JSON"),
        ("bytes", '["a", "b", "\\udc00"]', "not JSON"),
    ],
)
def test_bad_data_are_refused(dtype: str, text: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        from_json("input 'x'", dtype, (3,), text.encode())
    assert message in str(caught.value)
    assert "input 'x'" in str(caught.value)


@given(st.lists(st.binary(max_size=20), max_size=5))
def test_elements_there_and_back(items: list[bytes]) -> None:
    assert elements(packed(items), len(items)) == items


@given(st.binary(max_size=40), st.integers(0, 4))
def test_any_bytes_are_elements_or_refused(data: bytes, count: int) -> None:
    try:
        found = elements(data, count)
    except ValueError:
        return
    assert packed(found) == data


def test_bytes_that_are_not_text_are_not_json() -> None:
    with pytest.raises(InvalidRequest, match="binary"):
        to_json(Tensor("x", "bytes", (1,), packed([b"\xff"])))
    assert json.loads(to_json(Tensor("x", "bytes", (2,), packed(["ä".encode(), b""])))) == ["ä", ""]


def test_large_tensors_are_not_copied() -> None:
    values = np.zeros((1000, 1000), np.float32)
    made = tensor("x", values)
    values[0, 0] = 5
    assert array(made)[0, 0] == 5
