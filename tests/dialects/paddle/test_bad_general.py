"""What is wrong with a request is the client's to know: each of these is a 4xx that names it, and no 5xx of ours."""

from __future__ import annotations

import gzip
import json
import struct
import time
from typing import Any

import grpc
import numpy as np
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from pdserver.configuration.model import ModelSpec
from pdserver.dialects.paddle.general import read
from pdserver.dialects.paddle.request import Asked
from pdserver.dialects.protos import varints
from pdserver.errors import InvalidRequest
from pdserver.types import Interface, Port
from tests.dialects.paddle.conftest import PaddleServer
from tests.dialects.paddle.tensors import ROW, Request, as_json, recorded, request, row, tensor

INFERENCE = "/GeneralModelService/inference"
DEEP = 100_000


def ask(server: PaddleServer, body: bytes, content_type: str = "application/json", **headers: str) -> requests.Response:
    url = server.inference + INFERENCE
    return server.session.post(url, body, headers={"Content-Type": content_type, **headers}, timeout=60)


def refused(answer: requests.Response, words: str, status: int = 400) -> None:
    assert answer.status_code == status, answer.text
    assert answer.text.startswith("InferService inference failed! ")
    assert words in answer.text
    assert "Traceback" not in answer.text
    assert answer.headers["content-type"] == "text/plain"
    assert answer.headers["x-bd-error-code"] == "1003"


BOTH: list[tuple[dict[str, Any], str]] = [
    ({"tensor": []}, "expected 1 inputs but got 0"),
    (request(row(), row()), "given twice"),
    (request(*[row()] * 1001), "more than 1000 tensors"),
    (request(fetch_var_names=["price"] * 1000), "more than 1000 tensors and fetch_var_names"),
    (request(row(alias_name="nobody", name="n")), "no input 'nobody'; its inputs are features (the model's x)"),
    (request(row(alias_name="feature", name=None)), "did you mean features?"),
    (request(fetch_var_names=["nobody"]), "unexpected inference output 'nobody'"),
    (request(fetch_var_names=["price", "price"]), "asked for twice"),
    # elem_type
    (request(row(elem_type=0)), "elem_type is 0 (int64), the model takes 1 (float32)"),
    (request(row(elem_type=10)), "elem_type 10 (complex64)"),
    (request(row(elem_type=21)), "elem_type 21 is none of 0 (int64), 1 (float32)"),
    (request(row(elem_type=-1)), "elem_type -1 is none of"),
    # Shapes
    (request(row(shape=[13])), "has no batch"),
    (request(row(shape=None)), "shape [] takes 1 elements"),
    (request(row(shape=[1, 12])), "shape [1, 12] takes 12 elements"),
    (request(row(shape=[0, 13], float_data=[])), "got [0,13]"),
    (request(row(shape=[-1, 13])), "negative length"),
    (request(row(shape=[2**31 - 1, 2**31 - 1])), "exceed maximum size"),
    (request(row(shape=[1] * 40)), "exceed maximum size"),
    (request(row(shape=[1, 13, 1])), "Expected [-1,13], got [1,13,1]"),
    (request(row([0.5] * 13 * 9, shape=[9, 13])), "batch-size must be <= 8"),
    # Elements
    (request(row(ROW[:12])), "shape [1, 13] takes 13 elements of float32, 52 bytes; 48 came"),
    (request(row([])), "52 bytes; 0 came"),
    (request(row(shape=None)), "52 came (the tensor has no shape"),
    (
        request(row(float_data=None, int64_data=[1] * 13)),
        "elements of elem_type 1 (float32) are float_data, not int64_data",
    ),
    # LoD
    (request(row([0.5] * 26, shape=[26], lod=[0, 12, 26])), "rows of different lengths"),
    (request(row(lod=[0])), "lod [0] is refused"),
    (request(row(lod=[0, 2])), "lod [0, 2] is refused"),
    (request(row(lod=[1, 2])), "is refused"),
    (request(row(lod=[0, 0])), "is refused"),
]
JSON: list[tuple[bytes | dict[str, Any], str]] = [
    (b"", "can't be read as JSON"),
    (b"{", "can't be read as JSON"),
    (b"[]", "Expected `object`, got `array`"),
    (b"null", "Expected `object`"),
    (b"\xff\xfe", "can't be read as JSON"),
    (recorded(), "Content-Type: application/proto"),
    (b"[" * DEEP, "can't be read as JSON"),
    (b'{"tensor":' * DEEP, "can't be read as JSON"),
    (b'{"x":' + b"[" * DEEP + b"]" * DEEP + b"}", "can't be read as JSON"),
    (b'{"tensor":[{"shape":[1,13],"elem_type":1,"float_data":' + b"[" * 9000 + b"]" * 9000 + b"}]}", "can't be read"),
    (json.dumps(request()).encode() + b"x", "can't be read as JSON"),
    (request(row(name=1)), "$.tensor[0].name"),
    (request(row(shape="1,13")), "$.tensor[0].shape"),
    (request(row(shape=[1, 13.5])), "$.tensor[0].shape"),
    (request(row(shape=[1, 10**30])), "exceed maximum size"),
    (request(row(elem_type="1")), "$.tensor[0].elem_type"),
    (request(row(elem_type=10**30)), "is none of"),
    (request(log_id=-1), "log_id -1"),
    (request(log_id=2**64), "log_id 18446744073709551616"),
    (request(fetch_var_names="price"), "$.fetch_var_names"),
    (request(row(float_data="0.5")), "float_data can't be read"),
    (request(row(["0.5"] * 13)), "float_data can't be read"),
    (request(row([None] * 13)), "float_data can't be read"),
    (request(row([[0.5]] * 13)), "float_data can't be read"),
    (request(row([1e39] * 13)), "too large for float32"),
    (json.dumps(request(row([float("nan")] * 13))).encode(), "can't be read as JSON"),
    (request(row(float_data=None, tensor_content="!")), "expected base64"),
    (request(row(float_data=None, tensor_content="\ud800")), "can't be read as JSON"),
    (request(row(float_data=None, tensor_content="AAAA")), "52 bytes; 3 came"),
]


@pytest.mark.parametrize(("body", "words"), [*BOTH, *JSON])
def test_bad_json(paddle_server: PaddleServer, body: bytes | dict[str, Any], words: str) -> None:
    refused(ask(paddle_server, body if isinstance(body, bytes) else json.dumps(body).encode()), words)


MESSAGES: list[tuple[bytes, str]] = [
    (recorded()[:-30], "not a baidu.paddle_serving"),
    (recorded()[:20], "not a baidu.paddle_serving"),
    (b"\xff" * 100, "not a baidu.paddle_serving"),
    (json.dumps(request()).encode(), "not a baidu.paddle_serving"),
    (b"", "expected 1 inputs but got 0"),
    (recorded().replace(b"features", b"\xff\xfeatures"), "not a baidu.paddle_serving"),
    (Request(**request(row([], tensor_content=b"abc"))).SerializeToString(), "52 bytes; 3 came"),
]


@pytest.mark.parametrize(
    ("data", "words"), [*((Request(**body).SerializeToString(), words) for body, words in BOTH), *MESSAGES]
)
def test_bad_messages(paddle_server: PaddleServer, data: bytes, words: str) -> None:
    refused(ask(paddle_server, data, "application/proto"), words)
    with grpc.insecure_channel(paddle_server.grpc_inference) as channel:
        infer: Any = channel.unary_unary("/baidu.paddle_serving.predictor.general_model.GeneralModelService/inference")
        with pytest.raises(grpc.RpcError) as failed:
            infer(data, timeout=60)
    assert (failed.value.code(), words in str(failed.value.details())) == (grpc.StatusCode.INVALID_ARGUMENT, True)


def test_elements_are_not_taken_from_another_field(paddle_server: PaddleServer) -> None:
    """Each type that has no field of its own, and strings, which can't be as they are in memory."""
    feeds = [tensor(dtype) for dtype in ("int16", "uint8", "bytes")]
    for feed in feeds:
        wrong = {name: value for name, value in feed.items() if name not in ("data", "tensor_content")}
        wrong |= {"tensor_content": b"ab"} if feed["elem_type"] == 20 else {"int_data": [1, 2]}
        body = json.dumps(request(as_json(wrong))).encode()
        answer = paddle_server.session.post(f"{paddle_server.inference}/general_echo{INFERENCE}", body, timeout=60)
        refused(answer, f"elements of elem_type {feed['elem_type']}")


def test_halves_of_surrogate_pairs(paddle_server: PaddleServer) -> None:
    for body in (
        b'{"tensor":[{"alias_name":"\\ud800","elem_type":1,"shape":[1,13],"float_data":[1]}]}',
        b'{"tensor":[{"elem_type":1,"shape":[1,13],"float_data":[1]}],"fetch_var_names":["\\ud800"]}',
    ):
        assert ask(paddle_server, body).status_code == 400
    body = b'{"tensor":[{"alias_name":"body","elem_type":20,"shape":[1],"data":["\\ud800"]}]}'
    answer = paddle_server.session.post(f"{paddle_server.inference}/chaos{INFERENCE}", body, timeout=60)
    assert answer.status_code == 400, answer.text


def test_compressed_bodies(paddle_server: PaddleServer) -> None:
    body = json.dumps(request()).encode()
    zeros = gzip.compress(bytes(9_000_000))  # more than max_request_size
    for data, encoding, words, status in (
        (body, "gzip", "is not gzip", 400),
        (gzip.compress(body)[:-9], "gzip", "cut short", 400),
        (body, "br", "is not supported", 501),
        (zeros, "gzip", "max_request_size", 413),
    ):
        answer = ask(paddle_server, data, **{"Content-Encoding": encoding})
        assert (answer.status_code, words in answer.text) == (status, True), answer.text
        assert answer.headers["content-type"] == "text/plain"


@pytest.mark.parametrize("in_json", [True, False])
def test_large_ones_that_are_wrong(paddle_server: PaddleServer, in_json: bool) -> None:
    """They are read by another process."""
    body = request(row([0.5] * 100_000))
    data = json.dumps(body).encode() if in_json else Request(**body).SerializeToString()
    refused(ask(paddle_server, data, "application/json" if in_json else "application/proto"), "52 bytes; 400000 came")
    with_strings = request({"data": [""] * 200_000, "elem_type": 20, "shape": [2**30, 1], "alias_name": "body"})
    data = json.dumps(with_strings).encode() if in_json else Request(**with_strings).SerializeToString()
    headers = {} if in_json else {"Content-Type": "application/proto"}
    url = f"{paddle_server.inference}/chaos{INFERENCE}"
    answer = paddle_server.session.post(url, data, headers=headers, timeout=60)
    refused(answer, f"{2**30} strings; 200000 came")


# Whatever comes, reading it gives a request or says what is wrong

PORTS = [Port("features", "float32", (-1, 13), source="x"), Port("ids", "int64", (-1, -1)), Port("s", "bytes", (-1, 1))]
INTERFACE = Interface(PORTS, PORTS, batched=True)
SPEC = ModelSpec(name="m", version="1", url="", directory="", handler="", manifest={}, model_config={}, batch_size=8)
GOOD = request(
    row(), {"alias_name": "ids", "int64_data": [1, -2, 300], "shape": [1, 3]},
    {"alias_name": "s", "elem_type": 20, "data": ["a"], "shape": [1]}, profile_server=True,
)  # fmt: skip
GOODS = {True: json.dumps(GOOD).encode(), False: Request(**GOOD).SerializeToString()}


@given(st.data(), st.booleans())
@settings(max_examples=300)
def test_changed_bytes(data: Any, in_json: bool) -> None:
    body = bytearray(GOODS[in_json])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(body) - 1))
        kind = data.draw(st.integers(0, 2))
        body[place : place + data.draw(st.integers(0, 3))] = [b"", data.draw(st.binary(max_size=4)), b"\xff"][kind]
        if not body:
            return
    try:
        found = read(Asked(SPEC, INTERFACE, [], "id", in_json), bytes(body))
    except InvalidRequest:
        return
    assert {given.name for given in found.inputs} == {"features", "ids", "s"}


def test_what_the_changes_begin_with_is_right() -> None:
    began_us = time.time_ns() // 1000
    for in_json, data in GOODS.items():
        found = read(Asked(SPEC, INTERFACE, [], "id", in_json), data)
        inputs = {given.name: bytes(given.data) for given in found.inputs}
        assert inputs["features"] == struct.pack("<13f", *ROW)
        assert inputs["ids"] == np.array([1, -2, 300]).tobytes()
        assert inputs["s"] == b"\1\0\0\0a"
        assert began_us <= found.began_us <= found.read_us
        assert found.sources == {"features": "x"}


# Varints


@pytest.mark.parametrize(("dtype", "field"), [("int64", "int64_data"), ("int32", "int_data"), ("bool", "bool_data")])
@given(data=st.data())
@settings(max_examples=100)
def test_varints_are_as_protobuf_writes_them(data: Any, dtype: str, field: str) -> None:
    held = np.dtype(dtype)
    low, high = (0, 1) if dtype == "bool" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    near = st.sampled_from([low, high, 0, 1, 127, 128, 2**14 - 1, 2**14] if high > 1 else [0, 1])
    values = data.draw(st.lists(st.integers(int(low), int(high)) | near))
    array = np.array(values, held)
    written = varints.write(array.tobytes(), dtype)
    message = Request(tensor=[{field: array.tolist()}]).SerializeToString()
    assert written == b"" if not values else message.endswith(written)
    assert varints.read(written, dtype) == array.tobytes()


@pytest.mark.parametrize("data", [b"\x80", b"\x01\xff", b"\xff" * 10 + b"\x01", b"\x80" * 11])
def test_what_is_no_varint(data: bytes) -> None:
    with pytest.raises(InvalidRequest, match="packed field"):
        varints.read(data, "int64")
