"""Any JSON: it is a request or an InvalidRequest, and the quick way reads what it reads as the ordinary way does."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdserver.configuration.model import ModelSpec
from pdserver.dialects.tensorflow.examples_json import read_examples
from pdserver.dialects.tensorflow.predict_json import read_predict
from pdserver.dialects.tensorflow.request import Asked, Form, fitted, flat_fitted
from pdserver.dialects.tensorflow.usual import usual_of
from pdserver.dtypes import BYTES
from pdserver.errors import InvalidRequest
from pdserver.tensors import array
from pdserver.types import Interface, Port, Tensor

SCORES = [Port("y", "float32", (-1, 2))]


SPEC = ModelSpec(name="m", version="1", url="", directory="", handler="", manifest={}, model_config={}, batch_size=4)


def asked(*inputs: Port) -> Asked:
    return Asked(SPEC, Interface([*inputs], SCORES, batched=True), [(b"a", b"b")], "id", b"gzip", 2.0)


Scalar = st.none() | st.booleans() | st.integers() | st.floats(width=32) | st.sampled_from(["", "a", "\ud800", "ü"])
Json = st.recursive(
    Scalar | st.fixed_dictionaries({"b64": st.sampled_from(["", "YQ", "Y", "é", 1])}),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=2),
    max_leaves=12,
)
DTYPES = ("float32", "bfloat16", "float16", "float64", "int8", "uint64", "int64", "bool", BYTES)


@settings(max_examples=200)
@given(Json, st.sampled_from(DTYPES), st.sampled_from([(-1,), (-1, 1), (-1, 2), (-1, -1), (2, 2, 1)]), st.data())
def test_anything_is_a_request_or_refused(value: Any, dtype: str, shape: tuple[int, ...], data: st.DataObject) -> None:
    ports = [Port("x", dtype, shape), Port("y", "int64", (-1,))][: data.draw(st.sampled_from([1, 2]))]
    key = data.draw(st.sampled_from(["instances", "inputs", "examples", "context"]))
    text = json.dumps({key: value, **data.draw(st.dictionaries(st.just("examples"), Json))}).encode()
    for read in (read_predict, *(_reader(form) for form in ("classify", "regress"))):
        try:
            request = read(asked(*ports), text)
        except InvalidRequest as error:
            str(error).encode()  # or it could not be sent
            continue
        assert {tensor.name: tensor.dtype for tensor in request.inputs if isinstance(tensor, Tensor)} == {
            port.name: port.dtype for port in ports
        }
        for tensor, port in zip(request.inputs, ports, strict=True):
            assert isinstance(tensor, Tensor)
            assert len(array(tensor).shape) == len(port.shape)


def _reader(form: Form) -> Any:
    return lambda asked, text: read_examples(asked, text, form, 1_000_000)


Numbers = st.integers(-3, 300) | st.floats(-4, 1e39, width=64)


@settings(max_examples=200)
@given(
    st.sampled_from([(-1,), (-1, 1), (-1, 3), (-1, 2, 2), (-1, 1, 1)]),
    st.sampled_from(["float32", "float64", "int64", "uint8"]),
    st.sampled_from(["instances", "inputs"]),
    st.recursive(Numbers, lambda inner: st.lists(inner, min_size=1, max_size=3), max_leaves=12) | st.just([]),
    st.sampled_from([{}, {"signature_name": "serving_default"}, {"signature_name": ""}, {"inputs": [1]}]),
)
def test_the_quick_way_is_right(shape: tuple[int, ...], dtype: str, key: str, value: Any, more: dict[str, Any]) -> None:
    given = asked(Port("x", dtype, shape))
    text = json.dumps({key: value, **more}).encode()
    reader = usual_of(given.spec, given.interface)
    assert reader is not None
    quick = reader.read(text, given.headers, given.request_id, given.accepts, given.timeout_seconds)
    if quick is not None:
        assert quick == read_predict(given, text)


def test_the_quick_way_is_that_of_the_usual_request() -> None:
    def quick(port: Port, text: bytes) -> bool:
        given = asked(port)
        reader = usual_of(given.spec, given.interface)
        return reader is not None and reader.read(text, [], "", b"", 0.0) is not None

    assert quick(Port("x", "float32", (-1, 2)), b'{"instances": [[1, 2.5], [3, 4]]}')
    assert quick(Port("x", "float32", (-1, 2)), b'{"inputs": [[1, 2.5]], "signature_name": "serving_default"}')
    assert quick(Port("x", "float32", (-1, 1)), b'{"instances": [1.0, 2.0, 5.0]}')
    assert quick(Port("x", "int64", (-1,)), b'{"instances": [1, 2]}')
    assert quick(Port("x", "float32", (-1, 1, 2, 2)), b'{"instances": [[[[1, 2], [3, 4]]]]}')
    assert not quick(Port("x", "float32", (-1, -1)), b'{"instances": [[1]]}')
    assert not quick(Port("x", "bool", (-1, 1)), b'{"instances": [[true]]}')


@pytest.mark.parametrize(
    ("wanted", "shape", "expected", "flat"),
    [
        ((-1,), (3,), (3,), (3,)),
        ((-1,), (3, 1), (3,), (3,)),
        ((-1,), (3, 2), (3, 2), (3, 2)),
        ((-1, 1), (3,), (3, 1), (3, 1)),
        ((-1, -1), (3,), (3, 1), (3, 1)),
        ((-1, 13), (3,), (3,), (3,)),
        ((-1, 1, 1), (3,), (3, 1, 1), (3, 1, 1)),
        ((-1, 2, 2), (3, 4), (3, 4), (3, 2, 2)),
        ((-1, 2, -1), (3, 4), (3, 4, 1), (3, 4, 1)),
        ((-1, 1), (), (1, 1), (1, 1)),
    ],
)  # fmt: skip
def test_axes_of_one(
    wanted: tuple[int, ...], shape: tuple[int, ...], expected: tuple[int, ...], flat: tuple[int, ...]
) -> None:
    port = Port("x", "float32", wanted)
    assert (fitted(port, shape), flat_fitted(port, shape)) == (expected, flat)
