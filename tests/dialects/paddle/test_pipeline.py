"""Paddle Serving's Pipeline over HTTP and gRPC, as curl and its own client ask it."""

from __future__ import annotations

import base64
import io
import json
import struct
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import requests
from grpc import StatusCode

from pdserver.dialects.protos import message_class
from tests.conftest import Lent
from tests.dialects.paddle.conftest import PaddleServer
from tests.dialects.paddle.tensors import ROW

PACKAGE = "baidu.paddle_serving.pipeline_serving"
Request, Response = message_class(f"{PACKAGE}.Request"), message_class(f"{PACKAGE}.Response")
TEXT = ", ".join(map(str, ROW))
ASKED = {"key": ["features"], "value": [TEXT]}


def npy(values: Any, **how: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, values, **how)
    return file.getvalue()


def post(server: PaddleServer, path: str, body: Any, **headers: str) -> requests.Response:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return server.session.post(f"{server.inference}/{path}", data=data, headers=headers, timeout=60)


def said(server: PaddleServer, path: str, body: Any) -> dict[str, Any]:
    """The answer, which has five keys whatever it says."""
    answer = post(server, path, body)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json"), answer.text
    given: dict[str, Any] = answer.json()
    assert list(given) == ["err_no", "err_msg", "key", "value", "tensors"]
    return given


def text_of(values: Any) -> str:
    """As numpy writes it, with as many digits as a number needs."""
    with np.printoptions(floatmode="unique"):
        return repr(values)


def failed(server: PaddleServer, path: str, body: Any) -> tuple[int, str]:
    given = said(server, path, body)
    assert given["key"] == given["value"] == given["tensors"] == []
    return given["err_no"], given["err_msg"]


@pytest.fixture(scope="module")
def price(paddle_server: PaddleServer) -> Any:
    """Of the tutorials' row, by TorchServe's way."""
    answer = paddle_server.predict("uci", json=ROW).json()
    return np.float32(answer["price"][0] if isinstance(answer, dict) else answer[0])


@pytest.fixture(scope="module")
def pipeline(paddle_server: PaddleServer) -> Iterator[Any]:
    """The method, as PipelineClient calls it."""
    options = [("grpc.max_receive_message_length", 512 * 1024 * 1024), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(paddle_server.grpc_inference, options) as channel:
        yield channel.unary_unary(
            f"/{PACKAGE}.PipelineService/inference", Request.SerializeToString, Response.FromString
        )


def test_curl(paddle_server: PaddleServer, price: np.float32) -> None:
    answer = post(paddle_server, "uci/prediction", ASKED, **{"Content-Type": "application/x-www-form-urlencoded"})
    text = json.dumps(text_of(np.array([[price]])))
    assert answer.text == f'{{"err_no":0,"err_msg":"","key":["price"],"value":[{text}],"tensors":[]}}'


@pytest.mark.parametrize("path", ["uci/prediction", "uci/predict_it", "uci/prediction/?any=query"])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"logid": "9007199254740993", "clientip": "1.2.3.4", "name": "other", "method": "m", "unknown": [{}]},
        {"logid": 7, "tensors": None, "clientip": None},
    ],
)
def test_any_method_and_fields_by_protobufs_rules(paddle_server: PaddleServer, path: str, more: dict[str, Any]) -> None:
    assert said(paddle_server, path, {**ASKED, **more})["key"] == ["price"]


@pytest.mark.parametrize("key", ["features", "x"])
def test_rows_in_text_and_either_name(paddle_server: PaddleServer, price: np.float32, key: str) -> None:
    given = said(paddle_server, "uci/prediction", {"key": [key], "value": [f"{TEXT};{TEXT}"]})
    assert given["value"] == [text_of(np.array([[price], [price]]))]


@pytest.mark.parametrize(
    "fields",
    [
        {"float_data": ROW, "elem_type": 1, "shape": [1, 13]},
        {"floatData": list(map(str, ROW)), "elemType": "1", "shape": ["1", 13]},
        {"float64_data": ROW, "elem_type": 3, "shape": [13]},
        {"float64_data": ROW, "elem_type": 3},
        {"byte_data": base64.b64encode(npy(np.array([ROW], np.float32))).decode(), "elem_type": 13, "shape": [1, 13]},
        {"byteData": base64.urlsafe_b64encode(npy(np.array(ROW))).decode().rstrip("="), "elem_type": 13},
    ],
)
def test_tensors_in_json(paddle_server: PaddleServer, price: np.float32, fields: dict[str, Any]) -> None:
    given = said(paddle_server, "uci/prediction", {"tensors": [{"name": "x", **fields}]})
    assert given["value"] == [text_of(np.array([[price]]))]
    [tensor] = given["tensors"]
    assert list(tensor) == [
        *("int64_data", "float_data", "int_data", "float64_data", "uint32_data", "bool_data", "complex64_data"),
        *("complex128_data", "str_data", "byte_data", "elem_type", "shape", "lod", "name"),
    ]
    assert np.float32(tensor.pop("float_data")[0]) == price
    assert (tensor.pop("elem_type"), tensor.pop("shape"), tensor.pop("name")) == (1, [1, 1], "price")
    assert not any(tensor.values())


# dtype → elem_type, the field, two elements
VALUES: dict[str, tuple[int, str, list[Any]]] = {
    "int64": (0, "int64_data", [-(2**63), 2**63 - 1]),
    "float32": (1, "float_data", [0.5, -3.25]),
    "int32": (2, "int_data", [-(2**31), 2**31 - 1]),
    "float64": (3, "float64_data", [0.1, 1e308]),
    "int16": (4, "int_data", [-32768, 32767]),
    "float16": (5, "float_data", [-0.5, 65504.0]),
    "bfloat16": (6, "uint32_data", [0x3F80, 0xC020]),
    "uint8": (7, "uint32_data", [0, 255]),
    "int8": (8, "int_data", [-128, 127]),
    "bool": (9, "bool_data", [True, False]),
    "bytes": (12, "str_data", ["grüße", ""]),
}


def test_every_type_in_json_both_ways(paddle_server: PaddleServer) -> None:
    tensors = [
        {
            "name": name,
            "elem_type": number,
            field: list(map(str, values)) if name == "int64" else values,
            "shape": [1, 2],
        }
        for name, (number, field, values) in VALUES.items()
    ]
    given = said(paddle_server, "general_echo/prediction", {"tensors": tensors})
    assert given["key"] == list(VALUES)
    for sent, tensor in zip(tensors, given["tensors"], strict=True):
        assert {name: tensor[name] for name in sent} == sent
    assert dict(zip(given["key"], given["value"], strict=True))["bfloat16"] == "array([[ 1. , -2.5]], dtype=float32)"


def test_every_type_in_messages_both_ways(pipeline: Any) -> None:
    request = Request(name="general_echo")
    for name, (number, field, values) in VALUES.items():
        request.tensors.add(name=name, elem_type=number, shape=[1, 2], **{field: values})
    answer = pipeline(request, timeout=60)
    assert (answer.err_no, list(answer.key)) == (0, list(VALUES))
    assert list(answer.tensors) == list(request.tensors)


def test_what_json_has_no_numbers_for(paddle_server: PaddleServer) -> None:
    inputs = {name: {"name": name, "elem_type": n, f: v[:1], "shape": [1, 1]} for name, (n, f, v) in VALUES.items()}
    inputs["float32"]["float_data"] = ["NaN", "-Infinity"]
    inputs["float32"]["shape"] = [1, 2]
    given = said(paddle_server, "general_echo/prediction", {"tensors": list(inputs.values())})
    assert given["tensors"][1]["float_data"] == ["NaN", "-Infinity"]
    assert given["value"][1] == "array([[ nan, -inf]], dtype=float32)"


RECORDED = b"\x0a\x01x\x12%c%b\x32\x01m\x30\x07\x3a\x091.2.3.4.5" % (len(TEXT), TEXT.encode())
"""PipelineClient's request by key and value, byte by byte: no class of ours knows these numbers."""


def recorded_tensor() -> bytes:
    fields = b"\x12\x34%b\xa0\x01\x01\xaa\x01\x02\x01\x0d\xba\x01\x01x" % struct.pack("<13f", *ROW)
    return b"\x1a%c%b" % (len(fields), fields)


@pytest.mark.parametrize("message", [RECORDED, recorded_tensor()], ids=["text", "tensor"])
def test_recorded_messages(paddle_server: PaddleServer, price: np.float32, message: bytes) -> None:
    with grpc.insecure_channel(paddle_server.grpc_inference) as channel:
        raw: Any = channel.unary_unary(f"/{PACKAGE}.PipelineService/inference")
        answer = raw(message, timeout=60)
    text = text_of(np.array([[price]])).encode()
    expected = b"\x1a\x05price\x22%c%b" % (len(text), text)
    if message is not RECORDED:
        expected += b"\x2a\x16\x12\x04%b\xa0\x01\x01\xaa\x01\x02\x01\x01\xba\x01\x05price" % struct.pack("<f", price)
    assert answer == expected


def test_the_client_is_told_how_long_it_took(pipeline: Any) -> None:
    answer = pipeline(Request(key=["x", "pipeline.profile"], value=[TEXT, "1"]), timeout=60)
    assert list(answer.key) == ["price", "pipeline.profile"]
    assert answer.value[1].startswith("\nPROFILE\tpid:")
    begun, ended = (int(piece.rpartition(":")[2]) for piece in answer.value[1].split("\t")[2].split())
    assert 0 <= ended - begun < 60_000_000


def test_a_handler_is_given_texts_and_arrays(paddle_server: PaddleServer, pipeline: Any) -> None:
    given = said(paddle_server, "appraiser/prediction", {"key": ["city", "rooms"], "value": ["北京", "[3]"]})
    assert given["key"] == ["price", "given", "client", "rows"]
    assert given["value"] == ["[[1.0]]", "{'city': '北京', 'rooms': '[3]'}", "[None, None]", "[0.5, True, None]"]
    request = Request(name="appraiser", logid=2**62, clientip="1.2.3.4", key=["city"], value=["x"])
    request.tensors.add(name="a", elem_type=0, shape=[2], int64_data=[1, 2], lod=[0, 1, 1, 2])
    request.tensors.add(name="s", elem_type=12, str_data=["ab", "c"])
    request.tensors.add(name="b", elem_type=13, byte_data=npy(np.array([[0.5]])))
    answer = pipeline(request, timeout=60)
    assert (answer.err_no, answer.value[2]) == (0, f"['{2**62}', '1.2.3.4']")
    expected = {"city": "x", "a": "int64 [1, 2]", "s": "abc", "b": "float64 [[0.5]]", "a.lod": "int32 [[0, 1], [1, 2]]"}
    assert answer.value[1] == str(expected)


@pytest.mark.parametrize(
    ("model", "body", "err_no", "words"),
    [
        ("nobody", ASKED, 3002, "Service name error. Model not found: nobody"),
        ("uci", {}, 5000, "missing required input(s) ['features']"),
        ("uci", {"key": ["x"], "value": []}, 5000, "1 keys and 0 values"),
        ("uci", {"key": ["x", "x"], "value": [TEXT, TEXT]}, 5000, "'x' twice"),
        ("uci", {"key": ["x", "features"], "value": [TEXT, TEXT]}, 5000, "twice"),
        ("uci", {"tensors": [{}] * 1001}, 5000, "more than 1000 keys and tensors"),
        ("uci", {"key": ["x"], "value": ["1, 2"]}, 5000, "Expected [-1,13], got [2]"),
        ("uci", {"key": ["x"], "value": ["one"]}, 5000, "one is no number"),
        ("uci", {"key": ["y"], "value": [TEXT]}, 5000, 'unknown input "y"'),
        ("uci", {"tensors": [{"name": "y", "int64_data": [1]}]}, 5000, "unexpected inference input 'y'"),
        ("uci", {"tensors": [{"name": "x", "elem_type": 1, "float_data": ROW, "lod": [0, 1]}]}, 5000, "has a lod"),
        ("uci", {"tensors": [{"name": "x", "elem_type": 1, "shape": [1, 13]}]}, 5000, "float_data has 0"),
        ("uci", {"tensors": [{"name": "x", "elem_type": 1, "shape": [-1]}]}, 5000, "negative length"),
        ("uci", {"tensors": [{"name": "x", "elem_type": 20}]}, 5000, "elem_type 20 is not read here; 0 int64"),
        ("uci", {"tensors": [{"name": "x", "elem_type": 10}]}, 5000, "elem_type 10"),
        ("uci", {"tensors": [{"name": "x", "elem_type": 12, "str_data": ["a"]}]}, 5000, "data-type is 'BYTES'"),
        ("general_echo", {"tensors": [{"name": "int8", "elem_type": 0, "int64_data": [128, 0]}]}, 5000, "not fit int8"),
        ("general_echo", {"tensors": [{"name": "float16", "elem_type": 3, "float64_data": [1e9]}]}, 5000, "not fit"),
        ("appraiser", {"key": ["fail"], "value": ["51"]}, 51, "keine Häuser"),
        ("appraiser", {"key": ["fail"], "value": ["x"]}, 9000, "keine Häuser"),
        ("appraiser", {"key": ["raise"], "value": ["no house"]}, 9000, "ValueError: no house"),
    ],
)
def test_failures_have_their_numbers(
    paddle_server: PaddleServer, pipeline: Any, model: str, body: dict[str, Any], err_no: int, words: str
) -> None:
    number, text = failed(paddle_server, f"{model}/prediction", body)
    assert number == err_no
    assert words in text
    request = Request(name=model, key=body.get("key", []), value=body.get("value", []))
    for tensor in body.get("tensors", []):
        request.tensors.add(**tensor)
    answer = pipeline(request, timeout=60)
    assert (answer.err_no, answer.err_msg) == (number, text), "the same over gRPC"


class Trap:
    def __reduce__(self) -> Any:
        return print, ("pickle was read",)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (npy(np.array([Trap()], object), allow_pickle=True), "which is no number. Pickles are not read here"),
        (b"\x80\x04K\x01.", "byte_data is no .npy file"),
        (b"PK\x03\x04", "byte_data is no .npy file"),
        (b"", "byte_data is no .npy file"),
        (npy(np.array([ROW]))[:-1], "104 bytes, found 103"),
        (
            b"\x93NUMPY\x01\x00\x46\x00{'descr':'<f4','fortran_order':False,'shape':(99999999,999999),}",
            "cannot be read",
        ),
        (npy(np.array([1j])), "complex128 is not read here"),
    ],
    ids=["pickle in npy", "pickle", "npz", "nothing", "cut short", "more than there is", "complex"],
)
def test_npy_files_are_read_with_care(paddle_server: PaddleServer, pipeline: Any, data: bytes, words: str) -> None:
    request = Request(name="uci")
    request.tensors.add(name="x", elem_type=13, byte_data=data)
    answer = pipeline(request, timeout=60)
    assert (answer.err_no, words in answer.err_msg) == (5000, True), answer.err_msg
    fields = {"name": "x", "elem_type": 13, "byte_data": base64.b64encode(data).decode()}
    assert failed(paddle_server, "uci/prediction", {"tensors": [fields]}) == (5000, answer.err_msg)
    assert "pickle was read" not in paddle_server.log()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "the body is not JSON"),
        (b"{", "the body is not JSON"),
        (b"[]", "the body: Expected `object`"),
        (b"\xff", "the body"),
        (b'{"key": "x"}', "key: Expected `array | null`, got `str`"),
        (b'{"key": ["x"], "value": [1]}', "value: Expected `str`"),
        (b'{"logid": "x"}', "logid"),
        (b'{"logid": 9223372036854775808}', "logid"),
        (b'{"tensors": [{"int64_data": [0.5]}]}', "int64_data"),
        (b'{"tensors": [{"elem_type": 13, "byte_data": "!"}]}', "byte_data is not base64"),
        (b'{"tensors": [{"shape": "1"}]}', "shape"),
        (b'{"a":' * 100_000, "not JSON"),
        (b'{"feed": []}', 'has no "fetch"'),
    ],
)
def test_what_is_no_request_gets_the_gateways_error(paddle_server: PaddleServer, body: bytes, words: str) -> None:
    answer = post(paddle_server, "uci/prediction", body)
    assert answer.status_code == 400
    error = answer.json()
    assert list(error) == ["error", "code", "message", "details"]
    assert words in error["error"]
    assert (error["code"], error["message"], error["details"]) == (3, error["error"], [])


def test_bytes_that_are_no_message(paddle_server: PaddleServer) -> None:
    with grpc.insecure_channel(paddle_server.grpc_inference) as channel:
        raw: Any = channel.unary_unary(f"/{PACKAGE}.PipelineService/inference")
        for message in (b"\xff\xff", b"\xff" * 100_000, b"\x22\x01\xff" + b"\x0a\x00" * 50_000):
            with pytest.raises(grpc.RpcError) as refused:
                raw(message, timeout=60)
            assert refused.value.code() == StatusCode.INVALID_ARGUMENT


def test_paths_of_two_segments_are_pipelines_for_models_alone(paddle_server: PaddleServer) -> None:
    missing = post(paddle_server, "nobody/something", ASKED)
    assert (missing.status_code, missing.json()["type"]) == (404, "ResourceNotFoundException")
    assert post(paddle_server, "uci/predict", ROW).json() != said(paddle_server, "uci/prediction", ASKED)
    assert paddle_server.session.get(f"{paddle_server.inference}/uci/prediction", timeout=60).status_code == 404
    large = post(paddle_server, "uci/prediction", b" " * 8_000_001)
    assert (large.status_code, large.json()["code"]) == (413, 8)
    packed = post(paddle_server, "uci/prediction", ASKED, **{"Content-Encoding": "gzip"})
    assert (packed.status_code, packed.json()["code"]) == (400, 3)


def test_large_requests_and_answers(paddle_server: PaddleServer, pipeline: Any) -> None:
    """Answers of more than 4 MiB, which Paddle Serving's gateway can't pass on."""
    values = np.arange(300_000, dtype=np.int64).reshape(2, -1) * 2**40
    request = Request(name="general_echo")
    inputs: dict[str, Any] = {}
    for name, (number, field, two) in VALUES.items():
        request.tensors.add(name=name, elem_type=number, shape=[2, 1], **{field: two})
        inputs[name] = {"name": name, "elem_type": number, "shape": [2, 1], field: two}
    request.tensors[0].int64_data[:] = values.ravel()
    request.tensors[0].shape[:] = values.shape
    answer = pipeline(request, timeout=60)
    assert answer.err_no == 0, answer.err_msg
    assert answer.ByteSize() > 2 * 4 * 1024 * 1024
    assert np.array(answer.tensors[0].int64_data).tolist() == values.ravel().tolist()
    assert answer.value[0].startswith("array([[")
    assert "..." not in answer.value[0]
    inputs["int64"] |= {"shape": list(values.shape), "int64_data": values.ravel().tolist()}
    given = said(paddle_server, "general_echo/prediction", {"tensors": list(inputs.values())})
    assert given["err_msg"] == ""
    assert list(map(int, given["tensors"][0]["int64_data"])) == values.ravel().tolist()
    assert given["value"] == list(answer.value)


def test_time_outs_have_their_number(paddle_server: PaddleServer) -> None:
    answer = post(
        paddle_server, "appraiser/prediction", {"key": ["sleep"], "value": ["0.5"]}, **{"x-request-timeout-ms": "20"}
    )
    assert (answer.status_code, answer.json()["err_no"]) == (200, 6000), answer.text


def test_without_a_worker_the_status_says_so(lent: Lent) -> None:
    """So that balancers take notice."""
    server = lent("appraiser")
    assert server.manage("PUT", "/models/appraiser?min_worker=0&synchronous=true").ok
    for body in (ASKED, {"feed": [{"x": 1}], "fetch": []}):
        answer = requests.post(f"{server.inference}/appraiser/prediction", json=body, timeout=60)
        assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, 14, "1")
    with grpc.insecure_channel(server.grpc_inference) as channel:
        raw: Any = channel.unary_unary(f"/{PACKAGE}.PipelineService/inference")
        with pytest.raises(grpc.RpcError) as refused:
            raw(RECORDED, timeout=60)
    assert refused.value.code() == StatusCode.UNAVAILABLE


def test_on_paddle_servings_own_port_every_method_is_pipelines(paddle_server: PaddleServer, price: Any) -> None:
    address = paddle_server.settings["paddle_serving_address"]
    answer = requests.post(f"{address}/uci/predict", json=ASKED, timeout=60).json()
    assert answer["value"] == [text_of(np.array([[price]]))]
    with grpc.insecure_channel(address.removeprefix("http://")) as channel:
        raw: Any = channel.unary_unary(f"/{PACKAGE}.PipelineService/inference")
        assert Response.FromString(raw(RECORDED, timeout=60)).value == answer["value"]


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("uci/prediction", b'{"key": ["x"], "value": ["%b"]}' % (b"1," * 60_000), 200, "Expected [-1,13]"),
        ("uci/prediction", b'{"key": ["x"], "value": ["' + b"1" * 100_000, 400, "not JSON"),
        ("uci/prediction", b'{"fetch": ["%b"], "feed": []}' % (b"x" * 100_000), 200, "empty input"),
    ],
)
def test_large_bad_bodies_fail_as_small_ones_do(
    paddle_server: PaddleServer, path: str, body: bytes, status: int, words: str
) -> None:
    answer = post(paddle_server, path, body)
    assert answer.status_code == status
    assert words in answer.text
