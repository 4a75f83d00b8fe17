"""What is wrong with a request is the client's to know: each of these is a 4xx that names the field, never a 5xx."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import zlib
from contextlib import closing
from typing import Any

import pytest

from tests.oip.conftest import OipServer
from tests.oip.tensors import all_inputs

X = {"name": "x", "shape": [1, 13], "datatype": "FP32", "data": [0.5] * 13}
ROW_BYTES = 13 * 4


def fit(**changes: Any) -> dict[str, Any]:
    """A request for the model `fit` with its one input changed; a change to None leaves the field out."""
    return {"inputs": [{name: value for name, value in {**X, **changes}.items() if value is not None}]}


def echo(datatype: str, **changes: Any) -> dict[str, Any]:
    inputs = all_inputs()
    next(item for item in inputs if item["datatype"] == datatype).update(changes)
    return {"inputs": inputs}


def asked(**parameters: Any) -> dict[str, Any]:
    """A good request with these parameters."""
    return {**fit(), "parameters": parameters}


def wants(*outputs: Any) -> dict[str, Any]:
    return {**fit(), "outputs": list(outputs)}


def output(**parameters: Any) -> dict[str, Any]:
    return wants({"name": "OUTPUT", "parameters": parameters})


# (model, body, what the error says)
IN_JSON: list[tuple[str, Any, str]] = [
    # The document
    ("fit", b"", "failed to parse the request JSON buffer"),
    ("fit", b"{", "failed to parse the request JSON buffer"),
    ("fit", b"[]", "Unable to parse the request: Expected `object`, got `array`"),
    ("fit", b"null", "Expected `object`"),
    ("fit", b"\xff\xfe{}", "failed to parse the request JSON buffer"),
    ("fit", b'{"inputs": [], "inputs": ', "failed to parse the request JSON buffer"),
    ("fit", b"[" * 100_000, "Unable to parse the request"),
    ("fit", json.dumps(fit()).encode() + b"trailing", "failed to parse the request JSON buffer"),
    # The fields
    ("fit", {}, "missing required field `inputs`"),
    ("fit", {"inputs": {}}, "`$.inputs`"),
    ("fit", {"inputs": "x"}, "`$.inputs`"),
    ("fit", {"inputs": [1]}, "`$.inputs[0]`"),
    ("fit", {"inputs": []}, "expected 1 inputs but got 0 inputs for model 'fit'"),
    ("fit", fit(name=None), "missing required field `name`"),
    ("fit", fit(name=7), "`$.inputs[0].name`"),
    ("fit", fit(shape=None), "missing required field `shape`"),
    ("fit", fit(shape="1,13"), "`$.inputs[0].shape`"),
    ("fit", fit(shape=[1, 1.5]), "`$.inputs[0].shape[1]`"),
    ("fit", fit(shape=[True, 13]), "`$.inputs[0].shape[0]`"),
    ("fit", fit(datatype=None), "missing required field `datatype`"),
    ("fit", fit(datatype=1), "`$.inputs[0].datatype`"),
    ("fit", fit(parameters=[]), "`$.inputs[0].parameters`"),
    ("fit", {**fit(), "id": 7}, "`$.id`"),
    ("fit", {**fit(), "parameters": []}, "`$.parameters`"),
    ("fit", {**fit(), "outputs": {}}, "`$.outputs`"),
    ("fit", wants({}), "missing required field `name`"),
    ("fit", wants({"name": None}), "`$.outputs[0].name`"),
    # What the model takes
    ("fit", fit(name="y"), "unexpected inference input 'y' for model 'fit'"),
    ("fit", {"inputs": [X, X]}, "an input is given twice"),
    ("fit", fit(datatype="FP33"), "input 'x': datatype FP33 is unknown"),
    ("fit", fit(datatype="fp32"), "input 'x': datatype fp32 is unknown"),
    ("fit", fit(datatype="INT32", data=[1] * 13), "data-type is 'INT32', but model 'fit' expects 'FP32'"),
    ("fit", fit(shape=[1, 12], data=[0.5] * 12), "unexpected shape for input 'x' for model 'fit'"),
    ("fit", fit(shape=[13]), "Expected [-1,13], got [13]"),
    ("fit", fit(shape=[0, 13], data=[]), "unexpected shape for input 'x'"),
    ("fit", fit(shape=[-1, 13]), "shape [-1,13] has a negative length"),
    ("fit", fit(shape=[2**40, 2**40]), "causes total element count to exceed maximum size of"),
    ("fit", fit(shape=[2**80, 13]), "shape"),
    ("fit", fit(shape=[1] * 40, data=[1]), "input 'x': shape"),
    ("fit", fit(shape=[9, 13], data=[0.5] * 117), "inference request batch-size must be <= 8 for 'fit'"),
    ("echo", {"inputs": all_inputs()[:13]}, "missing required input(s) ['bytes']"),
    # The data
    ("fit", fit(data=None), "input 'x' must have exactly one of 'data', the parameter 'binary_data_size'"),
    ("fit", fit(data=[0.5] * 12), "input 'x': Unable to parse 'data': Shape does not match true shape"),
    ("fit", fit(data=[0.5] * 14), "has 13 elements, 'data' has 14"),
    ("fit", fit(data=0.5), "Shape does not match true shape"),
    ("fit", fit(data={"a": 1}), "input 'x': 'data' must be a list of numbers"),
    ("fit", fit(data="0.5"), "input 'x': 'data' must be a list of numbers"),
    ("fit", fit(data=["0.5"] * 13), "input 'x': 'data' must be a list of numbers"),
    ("fit", fit(data=[True] * 13), "input 'x': 'data' must be a list of numbers"),
    ("fit", fit(data=[1e39] * 13), "input 'x': 'data' has a number that is too large for FP32"),
    ("echo", echo("FP16", data=[70000.0, 0]), "input 'fp16': 'data' has a number that is too large for FP16"),
    ("echo", echo("INT8", data=[128, 0]), "input 'int8': 'data': 128 is not a INT8"),
    ("echo", echo("UINT8", data=[-1, 0]), "input 'uint8': 'data': -1 is not a UINT8"),
    ("echo", echo("UINT64", data=[2**64, 0]), "input 'uint64'"),
    ("echo", echo("INT32", data=[0.5, 0]), "input 'int32': 'data' must be a list of whole numbers"),
    ("echo", echo("BOOL", data=[1, 0]), "input 'bool': 'data' must be a list of true or false"),
    ("echo", echo("BYTES", data=[1, 2]), "input 'bytes': 'data' must be a list of strings"),
    ("fit", json.dumps(fit(data=None)).replace('"FP32"', '"FP32", "data": ' + "[" * 300 + "]" * 300).encode(),
     "nested deeper than"),
    ("fit", fit(data=[float("nan")]), "has 13 elements, 'data' has 1"),
    # Binary data that is not there
    ("fit", fit(data=None, parameters={"binary_data_size": 52}),
     "must specify valid 'Inference-Header-Content-Length'"),
    ("fit", fit(parameters={"binary_data_size": 52}), "input 'x' must have exactly one of"),
    # Parameters
    ("fit", asked(triton_mine=1), "parameter 'triton_mine': names that begin with 'triton_' are reserved"),
    ("fit", asked(timeout=-1), "parameter 'timeout' is -1: expected a whole number"),
    ("fit", asked(timeout="1"), "parameter 'timeout' is 1: expected a whole number"),
    ("fit", asked(priority=1.5), "parameter 'priority' is 1.5"),
    ("fit", asked(binary_data_output=1), "parameter 'binary_data_output' is 1: expected true or false"),
    ("fit", asked(mine=[1]), "parameter 'mine' is [1]: expected a number, text, true or false"),
    ("fit", asked(mine=None), "parameter 'mine' is None"),
    ("fit", asked(sequence_id=-1, sequence_start=True), "parameter 'sequence_id' is -1"),
    ("fit", asked(sequence_id="a\r\nb", sequence_start=True), "parameter 'sequence_id'"),
    ("fit", asked(sequence_start=True), "need the sequence's name: parameter 'sequence_id'"),
    ("fit", asked(sequence_id=1, sequence_end="yes"), "parameter 'sequence_end' is yes"),
    # Outputs
    ("fit", wants({"name": "nope"}), "unexpected inference output 'nope' for model 'fit'"),
    ("fit", wants({"name": "OUTPUT"}, {"name": "OUTPUT"}), "an output is asked for twice of model 'fit'"),
    ("fit", output(binary_data="no"), "output 'OUTPUT': parameter 'binary_data' is no: expected true or false"),
    ("fit", output(classification=-1), "output 'OUTPUT': parameter 'classification' is -1"),
    ("fit", output(classification=0), "output 'OUTPUT': parameter 'classification' is 0"),
    ("fit", output(classification="3"), "output 'OUTPUT': parameter 'classification' is 3"),
    # Shared memory
    ("fit", fit(data=None, parameters={"shared_memory_region": "no", "shared_memory_byte_size": 52}),
     "Unable to find shared memory region: 'no'"),
    ("fit", fit(data=None, parameters={"shared_memory_region": "no"}), "needs the parameter 'shared_memory_byte_size'"),
    ("fit", fit(data=None, parameters={"shared_memory_region": 7, "shared_memory_byte_size": 52}),
     "parameter 'shared_memory_region' is 7"),
    ("fit", output(shared_memory_region="no", shared_memory_byte_size=4), "Unable to find shared memory region: 'no'"),
    ("fit", output(shared_memory_region="no", shared_memory_byte_size=4, classification=1), "can't be combined with"),
    ("fit", output(shared_memory_region="no", shared_memory_byte_size=-4), "parameter 'shared_memory_byte_size' is -4"),
]  # fmt: skip


def encoded(body: Any, server: OipServer) -> bytes:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    name = server.session.get(f"{server.inference}/v2/models/fit", timeout=60).json()["outputs"][0]["name"]
    return text.replace(b"OUTPUT", name.encode())


def ask(server: OipServer, model: str, body: Any, headers: dict[str, str]) -> Any:
    url = f"{server.inference}/v2/models/{model}/versions/1/infer"
    return server.session.post(url, data=encoded(body, server), headers=headers, timeout=60)


def check(answer: Any, status: int, words: str, server: OipServer) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    name = server.session.get(f"{server.inference}/v2/models/fit", timeout=60).json()["outputs"][0]["name"]
    assert list(answer.json()) == ["error"]
    assert words.replace("OUTPUT", name) in answer.json()["error"]


@pytest.mark.parametrize(("model", "body", "words"), IN_JSON)
def test_wrong_json(oip_server: OipServer, model: str, body: Any, words: str) -> None:
    check(ask(oip_server, model, body, {}), 400, words, oip_server)


LARGER, LARGE = b" " * 300_000, b" " * 100_000
"""What makes a body one that another process reads, with and without a memory file."""


@pytest.mark.parametrize(("model", "body", "words"), IN_JSON)
def test_a_large_body_is_refused_in_the_same_words(oip_server: OipServer, model: str, body: Any, words: str) -> None:
    text = encoded(body, oip_server)
    for more in (LARGE, LARGER):
        check(ask(oip_server, model, text + more, {}), 400, words, oip_server)
    for more in (b"", LARGE):
        sent = gzip.compress(text + more)
        check(ask(oip_server, model, sent, {"content-encoding": "gzip"}), 400, words, oip_server)


@pytest.mark.parametrize("headers", [{}, {"content-encoding": "gzip"}, {"accept-encoding": "gzip"}])
@pytest.mark.parametrize("more", [b"", LARGE, LARGER])
def test_a_large_body_is_answered_as_a_small_one(oip_server: OipServer, more: bytes, headers: dict[str, str]) -> None:
    given = {
        "inputs": all_inputs(),
        "outputs": [{"name": "fp32", "parameters": {"classification": 1}}, {"name": "bytes"}],
        "parameters": {"priority": 2, "mine": "x"},
        "id": "own",
    }
    text = json.dumps(given).encode() + more
    answer = ask(oip_server, "echo", gzip.compress(text) if "content-encoding" in headers else text, headers)
    assert answer.json() == {
        "id": "own",
        "model_name": "echo",
        "model_version": "1",
        "outputs": [
            {"name": "fp32", "datatype": "BYTES", "shape": [1, 1], "data": ["0.100000:0:cat"]},
            {"name": "bytes", "datatype": "BYTES", "shape": [1, 2], "data": ["grüße", ""]},
        ],
    }


def binary(size: object, data: bytes) -> tuple[bytes, dict[str, str]]:
    """A request with this binary_data_size and these bytes behind its JSON."""
    text = json.dumps(fit(data=None, parameters={"binary_data_size": size})).encode()
    return text + data, {"inference-header-content-length": str(len(text))}


GOOD, LENGTH = binary(ROW_BYTES, bytes(ROW_BYTES))
# (what is changed, body, headers, status, what the error says)
FRAMES: list[tuple[str, bytes, dict[str, str], int, str]] = [
    ("negative length", GOOD, {"inference-header-content-length": "-1"}, 400, "Inference-Header-Content-Length"),
    ("no number", GOOD, {"inference-header-content-length": "ten"}, 400, "Inference-Header-Content-Length 'ten'"),
    ("empty length", GOOD, {"inference-header-content-length": ""}, 400, "Inference-Header-Content-Length"),
    ("huge length", GOOD, {"inference-header-content-length": "9" * 30}, 400, "Inference-Header-Content-Length"),
    ("longer than the body", GOOD, {"inference-header-content-length": "100000"}, 400, "but the body has only"),
    ("JSON cut short", GOOD, {"inference-header-content-length": "20"}, 400, "failed to parse the request JSON buffer"),
    ("too few bytes", GOOD[:-1], LENGTH, 400, "unexpected size for input 'x'"),
    ("too many bytes", GOOD + b"x", LENGTH, 400,
     "unexpected additional input data for model 'fit'"),
    ("size of no shape", *binary(48, bytes(48)), 400, "input byte size mismatch for input 'x' for model 'fit'"),
    ("negative size", *binary(-4, b""), 400, "input 'x': parameter 'binary_data_size' is -4"),
    ("size is text", *binary("52", bytes(52)), 400, "input 'x': parameter 'binary_data_size' is 52"),
    ("nothing raw", b"", {"inference-header-content-length": "0"}, 400, "input byte size mismatch for input 'x'"),
    ("raw of another size", bytes(50), {"inference-header-content-length": "0"}, 400, "input byte size mismatch"),
    ("no gzip", b"{}", {"content-encoding": "gzip"}, 400, "the body is not gzip"),
    ("no deflate", gzip.compress(GOOD), {"content-encoding": "deflate"}, 400, "the body is not deflate"),
    ("cut gzip", gzip.compress(GOOD)[:-9], {"content-encoding": "gzip"}, 400, "the body is cut short"),
    ("more than deflate", zlib.compress(GOOD) + b"x", {"content-encoding": "deflate"}, 400, "follow the end"),
    ("unknown encoding", GOOD, {"content-encoding": "br"}, 501, "content encoding 'br' is not supported"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "headers", "status", "words"), [f[1:] for f in FRAMES], ids=[f[0] for f in FRAMES])
def test_wrong_frames(oip_server: OipServer, body: bytes, headers: dict[str, str], status: int, words: str) -> None:
    check(ask(oip_server, "fit", body, headers), status, words, oip_server)


def test_what_comes_out_of_a_compressed_body_is_bounded(oip_server: OipServer) -> None:
    bomb = zlib.compress(bytes(80 * 1024 * 1024), 9)
    answer = ask(oip_server, "fit", bomb, {"content-encoding": "deflate"})
    check(answer, 400, "exceeds the maximum allowed input size", oip_server)


def test_a_body_that_is_too_large_is_refused_before_it_comes(oip_server: OipServer) -> None:
    host, port = oip_server.oip.split(":")
    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall(b"POST /v2/models/fit/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999\r\n\r\n")
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"exceeds the maximum allowed input size" in answer


@pytest.mark.parametrize(
    ("target", "status", "words"),
    [
        ("/v2/models/%ff/infer", 400, "the URL is not UTF-8"),
        ("/v2/models/a%2Fb/infer", 404, "Request for unknown model: 'a/b' is not found"),
        ("/v2/models/%00/infer", 404, "Request for unknown model: '"),
        ("/v2/models//infer", 404, "Not Found"),
        ("/v2/models/fit/versions//infer", 404, "Not Found"),
        ("/v2/models/fit/versions/1/2/infer", 404, "Not Found"),
        ("/v2/models/fit/infer/", 400, "Object missing required field `inputs`"),
        ("/v2/models/../repository/index", 404, "Not Found"),
        ("/v2/models/fit/versions/one/infer", 404, "Request for unknown model: 'fit' version one is not found"),
    ],
)
def test_odd_addresses(oip_server: OipServer, target: str, status: int, words: str) -> None:
    host, port = oip_server.oip.split(":")
    with closing(http.client.HTTPConnection(host, int(port), timeout=60)) as connection:
        connection.request("POST", target, b"{}")
        answer = connection.getresponse()
        assert (answer.status, words in json.loads(answer.read())["error"]) == (status, True)


def test_malformed_data_in_a_bytes_tensor(oip_server: OipServer) -> None:
    for data, words in (
        (b"\x05\x00\x00\x00abc", "element 0 has 5 bytes, of which 3 are there"),
        (b"\x01\x00", "2 bytes are left over"),
    ):
        head = {"inputs": [
            {"name": "body", "shape": [1, 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(data)}}
        ]}  # fmt: skip
        text = json.dumps(head).encode()
        answer = ask(oip_server, "mirror", text + data, {"inference-header-content-length": str(len(text))})
        check(answer, 400, words, oip_server)


def test_bytes_that_are_no_text_are_not_for_json(oip_server: OipServer) -> None:
    body = b"\x04\x00\x00\x00\xff\xfe\x00\x01"
    head = {"inputs": [{"name": "body", "shape": [1, 1], "datatype": "BYTES", "parameters": {"binary_data_size": 8}}]}
    text = json.dumps(head).encode()
    answer = ask(oip_server, "mirror", text + body, {"inference-header-content-length": str(len(text))})
    check(answer, 400, "output 'answer' is not UTF-8, which JSON needs: ask for it as binary data", oip_server)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("POST", "/v2/repository/index", {"ready": "yes"}, 400, "'ready' is yes: expected true or false"),
        ("POST", "/v2/repository/index", [1], 400, "expected a JSON object"),
        ("POST", "/v2/repository/mine/index", {}, 501, "'repository_name' specification is not supported"),
        ("GET", "/v2/repository/index", None, 405, "Method Not Allowed"),
        ("POST", "/v2/repository/models/fit/load", {"parameters": 1}, 400, "'parameters' is 1"),
        ("POST", "/v2/repository/models/fit/load", {"parameters": {"config": {}}}, 400, "parameter 'config' is {}"),
        ("POST", "/v2/repository/models/nobody/load", {}, 500, "failed to load 'nobody', failed to poll from model"),
        ("POST", "/v2/repository/models/fit/unload", {"parameters": {"unload_dependents": 1}}, 400, "unload_dep"),
        ("POST", "/v2/repository/models/fit/unload", {"parameters": {"other": True}}, 400, "parameter 'other'"),
        ("POST", "/v2/trace/setting", {"trace_speed": "1"}, 400, "unknown trace setting 'trace_speed'"),
        ("POST", "/v2/trace/setting", {"trace_file": "/x"}, 501, "trace setting 'trace_file' can't be changed"),
        ("POST", "/v2/models/nobody/trace/setting", {}, 404, "unknown model: 'nobody'"),
        ("GET", "/v2/models/fit/versions/1/trace/setting", None, 404, "Not Found"),
        ("POST", "/v2/logging", {"log_info": "yes"}, 400, "log_info is yes: expected true or false"),
        ("POST", "/v2/logging", {"log_verbose_level": -1}, 400, "log_verbose_level is -1"),
        ("POST", "/v2/logging", {"log_format": "xml"}, 400, "log_format is xml"),
        ("POST", "/v2/logging", {"log_file": "/x"}, 501, "log_file can't be changed over the network"),
        ("POST", "/v2/logging", {"log_inf": True}, 400, "unknown log setting 'log_inf'; did you mean log_info?"),
        ("POST", "/v2/systemsharedmemory/region/r/register", {}, 400, "'key' is None"),
        ("POST", "/v2/systemsharedmemory/region/r/register", {"key": "/x"}, 400, "'byte_size' is None"),
        ("POST", "/v2/systemsharedmemory/region/r/register", {"key": "/../etc/x", "byte_size": 1}, 400, "not allowed"),
        ("POST", "/v2/systemsharedmemory/region/r/register", {"key": "..", "byte_size": 1}, 400, "not allowed"),
        ("POST", "/v2/systemsharedmemory/region/r/register", {"key": "sem.x", "byte_size": 1}, 400, "not allowed"),
        ("POST", "/v2/systemsharedmemory/region/r/register", {"key": "/not-there", "byte_size": 1}, 400,
         "Unable to open shared memory region: '/not-there'"),
        ("POST", "/v2/cudasharedmemory/region/r/register", {"byte_size": 1}, 400, "no CUDA shared memory"),
        ("GET", "/v2/systemsharedmemory/region/r/status", None, 404, "Unable to find system shared memory region: 'r'"),
        ("POST", "/v2/models/fit/generate", {"x": "text"}, 400, "input 'x': 'data' must be a list of numbers"),
        ("POST", "/v2/models/fit/generate", {}, 400, "missing required input(s) ['x']"),
        ("POST", "/v2/models/fit/generate", b'{"x": [1], "x": [2]}', 400,
         'failed to parse the request JSON buffer: the key "x" is given twice'),
        ("POST", "/v2/models/fit/generate", b'{"x": 1, "parameters": {"a": 1, "a": 2}}', 400, 'key "a" is given twice'),
        ("POST", "/v2/repository/index", b'{"ready": true, "ready": false}', 400, 'key "ready" is given twice'),
        ("POST", "/v2/repository/models/fit/load", {"parameters": {"config": "{}"}}, 400,
         "failed to load 'fit', load parameter 'config'"),
        ("POST", "/v2/models/fit/generate", {"x": [0.5] * 13, "parameters": 1}, 400, "'parameters' is 1"),
        ("POST", "/v2/models/fit/generate", {"x": [0.5] * 13, "other": [1]}, 400, "parameter 'other'"),
        ("POST", "/v2/models/nobody/generate_stream", {}, 404, "unknown model: 'nobody'"),
        ("DELETE", "/v2/models/fit", None, 405, "Method Not Allowed"),
        ("PUT", "/v2/models/fit/infer", {}, 405, "Method Not Allowed"),
    ],
)  # fmt: skip
def test_wrong_calls_of_the_extensions(
    oip_server: OipServer, method: str, path: str, body: Any, status: int, words: str
) -> None:
    text = body if isinstance(body, bytes) else None
    given = {"data": text} if text is not None else {"json": body}
    answer = oip_server.session.request(method, oip_server.inference + path, timeout=60, **given)
    check(answer, status, words, oip_server)
