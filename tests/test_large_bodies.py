"""What is large is read and written by other processes: everybody else is served meanwhile, and nobody can tell."""

from __future__ import annotations

import base64
import contextlib
import gzip
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import psutil
import pytest
from hyperframe import frame as frames
from tritonclient.grpc import service_pb2

from tests.conftest import pack_handler
from tests.grpc_client import prediction
from tests.http2_client import Http2, head, message
from tests.other import FEW, Other
from tests.running import RunningServer, eventually, open_descriptors

INFER = "/inference.GRPCInferenceService/ModelInfer"
LOAD = "/inference.GRPCInferenceService/RepositoryModelLoad"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    store = tmp_path_factory.mktemp("store")
    pack_handler(store, "mirror")
    pack_handler(store, "wide", name="floats")
    pack_handler(store, "wide", name="whole", config="dtype: int64\n")
    pack_handler(store, "wide", name="texts", config="dtype: bytes\n")
    folder = tmp_path_factory.mktemp("server")
    with RunningServer(folder, store, "all", {"model_control_mode": "explicit"}) as server:
        yield server


class Answer(NamedTuple):
    status: int
    body: bytes
    others: int
    """How many answers others were given from the moment at which the request was complete."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def ask(server: RunningServer, path: str, body: bytes, **headers: str) -> Answer:
    """The last byte is sent when all before it is there, and then the others' answers are counted."""
    address = urlsplit(server.inference)
    assert address.hostname
    with Other(server) as other:
        connection = http.client.HTTPConnection(address.netloc, timeout=120)
        connection.putrequest("POST", path)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders(body[:-1])
        before = other.answers
        while other.answers < before + 3:  # whatever the server has to do with what it has got
            time.sleep(0.001)
        before = other.answers
        connection.send(body[-1:])
        answer = connection.getresponse()
        others = other.answers - before
        read = answer.read()
        connection.close()
    if answer.headers.get("content-encoding") == "gzip":
        read = gzip.decompress(read)
    return Answer(answer.status, read, others)


def call(server: RunningServer, method: str, request: Any) -> tuple[dict[str, str], bytes, int]:
    """The same over gRPC: trailers, message, others' answers."""
    with Other(server) as other, Http2(server.grpc_inference) as connection:
        *request_frames, last = connection.request(1, message(request), head(method))
        last.flags.discard("END_STREAM")
        for frame in [*request_frames, last]:
            connection.send(frame)
        before = other.answers
        while other.answers < before + 3:
            time.sleep(0.001)
        before = other.answers
        connection.send(frames.DataFrame(1, b"", flags=["END_STREAM"]))
        answer = connection.answers([1])[1]
        return answer.headers, answer.data[5:], other.answers - before


def infer_json(data: str, datatype: str, width: int, *outputs: str, **more: Any) -> bytes:
    """An inference request's body; `data` is JSON."""
    given = f'{{"name": "x", "datatype": "{datatype}", "shape": [1, {width}], "data": {data}}}'
    wanted = json.dumps([{"name": name} for name in outputs])
    rest = "".join(f", {json.dumps(name)}: {json.dumps(value)}" for name, value in more.items())
    return f'{{"inputs": [{given}], "outputs": {wanted}{rest}}}'.encode()


def many(element: str, times: int = 1) -> str:
    return f"[{','.join([element] * MANY * times)}]"


MANY = 1_500_000
FLAT = infer_json(many("0.5"), "FP32", MANY, "count")
NESTED = infer_json(many("[0]"), "FP32", MANY, "count")
TEXTS = infer_json(many('""', 5), "BYTES", 1, "count")
GENERATE = f'{{"x": {many("0.5")}}}'.encode()
FORM = b"a=" + b"%41" * MANY
COUNTED = [MANY]
WRONG_COUNT = (
    "input 'x': Unable to parse 'data': Shape does not match true shape of 'data' field: shape [1,1] has 1 elements,"
    " 'data' has 7500000"
)
READ: dict[str, tuple[str, bytes, Callable[[Any], Any], Any]] = {
    "flat": ("/v2/models/floats/infer", FLAT, lambda json: json["outputs"][0]["data"], COUNTED),
    "nested": ("/v2/models/floats/infer", NESTED, lambda json: json["outputs"][0]["data"], COUNTED),
    "texts": ("/v2/models/texts/infer", TEXTS, lambda json: json["error"], WRONG_COUNT),
    "generate": ("/v2/models/floats/generate", GENERATE, lambda json: json["count"], MANY),
}


@pytest.mark.parametrize("case", READ)
@pytest.mark.parametrize("encoding", ["", "gzip"])
def test_others_are_answered_while_json_is_read(server: RunningServer, case: str, encoding: str) -> None:
    path, body, read, expected = READ[case]
    headers = {"content_encoding": encoding} if encoding else {}
    answer = ask(server, path, gzip.compress(body, 1) if encoding else body, **headers)
    assert read(answer.json) == expected
    assert answer.others >= FEW


def test_others_are_answered_while_a_form_is_read(server: RunningServer) -> None:
    answer = ask(server, "/predictions/floats", FORM, content_type="application/x-www-form-urlencoded")
    assert answer.json == {"a": MANY}
    assert answer.others >= FEW


def test_others_are_answered_while_a_model_is_unpacked_from_base64(server: RunningServer) -> None:
    content = base64.b64encode(bytes(45_000_000)).decode()
    body = json.dumps({"parameters": {"config": "{}", "file:1/../../x": content}}).encode()
    answer = ask(server, "/v2/repository/models/brought/load", body)
    assert "an archive of the model store is loaded with the settings in it" in answer.json["error"]
    assert answer.others >= FEW


def whole_numbers(**more: Any) -> Any:
    contents = service_pb2.InferTensorContents(int64_contents=[1] * (2 * MANY))
    given = service_pb2.ModelInferRequest.InferInputTensor(
        name="x", datatype="INT64", shape=[1, 2 * MANY], contents=contents
    )
    wanted = [service_pb2.ModelInferRequest.InferRequestedOutputTensor(name="count")]
    return service_pb2.ModelInferRequest(**({"model_name": "whole", "inputs": [given], "outputs": wanted} | more))


def test_others_are_answered_while_typed_contents_are_read(server: RunningServer) -> None:
    trailers, data, others = call(server, INFER, whole_numbers(id="mine"))
    assert trailers["grpc-status"] == "0"
    answer = service_pb2.ModelInferResponse.FromString(data)
    assert answer.id == "mine"
    assert np.frombuffer(answer.raw_output_contents[0], np.int64) == [2 * MANY]
    assert others >= FEW


WROTE = {"json": ("", {}), "gzip": ("gzip", {}), "binary, gzip": ("gzip", {"binary_data_output": True})}


@pytest.mark.parametrize("how", WROTE)
def test_others_are_answered_while_a_large_answer_is_written(server: RunningServer, how: str) -> None:
    encoding, parameters = WROTE[how]
    many = 6_000_000
    outputs = [{"name": "ones"}]
    body = infer_json(f"[{many}]", "FP32", 1, outputs=outputs, parameters=parameters)
    answer = ask(server, "/v2/models/floats/infer", body, **({"accept_encoding": encoding} if encoding else {}))
    if parameters:
        assert answer.body.endswith(np.ones(many, np.float32).tobytes())
    else:
        assert answer.json["outputs"] == [
            {"name": "ones", "datatype": "FP32", "shape": [1, many], "data": [1.0] * many}
        ]
    assert answer.others >= FEW


def test_others_are_answered_while_a_large_generated_answer_is_written(server: RunningServer) -> None:
    many = 6_000_000
    answer = ask(server, "/v2/models/floats/generate", json.dumps({"x": many}).encode())
    assert answer.json["ones"] == [1.0] * many
    assert answer.others >= FEW


def test_a_large_form_has_the_parts_of_a_small_one(server: RunningServer) -> None:
    for size in (10, 40_000, 1_000_000):
        fields = {"a": b"x" * size, "b": b"y", "c": b"z" * 2 * size}
        form = "&".join(f"{name}={data.decode()}" for name, data in fields.items())
        files = {name: (name, data) for name, data in fields.items()}
        sizes = {name: len(data) for name, data in fields.items()}
        headers = {"content-type": "application/x-www-form-urlencoded"}
        assert server.predict("floats", form, headers=headers).json() == sizes
        assert server.predict("floats", files=files).json() == sizes
        assert server.predict("floats", b"{" + b"x" * size, headers=headers).json() == {"body": size + 1}


def padded(request: Any) -> Any:
    """With a field that nobody knows, which makes it large."""
    return type(request).FromString(request.SerializeToString() + b"\xfa\x07\xe0\xa7\x12" + bytes(300_000))


def refusals() -> Iterator[Any]:
    Request = service_pb2.ModelInferRequest  # noqa: N806 - it is one
    given = Request.InferInputTensor
    contents = service_pb2.InferTensorContents
    good = given(name="x", datatype="INT64", shape=[1, 2], contents=contents(int64_contents=[0, 1]))
    yield Request(model_name="nobody", inputs=[good])
    yield Request(model_name="whole", model_version="7", inputs=[good])
    yield Request(model_name="whole")
    yield Request(model_name="whole", inputs=[good, good])
    yield Request(model_name="whole", inputs=[given(name="x", datatype="INT65", shape=[1, 2])])
    yield Request(model_name="whole", inputs=[given(name="x", datatype="INT64", shape=[1, 3], contents=good.contents)])
    yield Request(model_name="whole", inputs=[given(name="x", datatype="INT64", shape=[-1, 2], contents=good.contents)])
    yield Request(model_name="whole", inputs=[given(name="x", datatype="FP32", shape=[1, 2], contents=good.contents)])
    yield Request(model_name="whole", inputs=[good], raw_input_contents=[b"x"])
    yield Request(model_name="whole", inputs=[good], outputs=[Request.InferRequestedOutputTensor(name="y")])
    yield Request(model_name="whole", inputs=[good], parameters={"timeout": {"bool_param": True}})
    yield Request(model_name="whole", inputs=[good], parameters={"x": {}})
    yield Request(model_name="whole", inputs=[good], parameters={f"p{i}": {"bool_param": True} for i in range(1001)})


@pytest.mark.parametrize("request_", [*refusals()])
def test_a_large_message_is_refused_in_the_same_words(server: RunningServer, request_: Any) -> None:
    with Http2(server.grpc_inference) as connection:
        small, large = (
            connection.ask(stream, message(request), head(INFER))
            for stream, request in ((1, request_), (3, padded(request_)))
        )
    assert small.refusal == large.refusal
    assert small.refusal[0] in (3, 5)


def test_a_large_message_is_answered_as_a_small_one(server: RunningServer) -> None:
    request = whole_numbers(id="mine", parameters={"x": {"int64_param": 1}})
    request.inputs[0].shape[1] = 3
    del request.inputs[0].contents.int64_contents[3:]
    with Http2(server.grpc_inference) as connection:
        small, large = (
            connection.ask(stream, message(asked), head(INFER))
            for stream, asked in ((1, request), (3, padded(request)))
        )
    assert small.data == large.data
    assert small.headers == large.headers


def test_a_large_prediction_over_grpc_has_the_inputs_of_a_small_one(server: RunningServer) -> None:
    for size in (10, 40_000, 1_000_000):
        inputs = {"a": b"x" * size, "b": b"", "c": b"z" * 2 * size}
        with Http2(server.grpc_inference) as connection:
            answer = connection.ask(1, message(prediction("floats", "", **inputs)))
        assert json.loads(answer.prediction) == {name: len(data) for name, data in inputs.items()}


@pytest.mark.parametrize("size", [1, 100_000])
def test_a_prediction_with_more_inputs_than_a_form_may_have_is_refused(server: RunningServer, size: int) -> None:
    inputs = {f"i{i}": b"x" * (size // 1001) for i in range(1001)}
    with Http2(server.grpc_inference) as connection:
        answer = connection.ask(1, message(prediction("floats", "", **inputs)))
    assert answer.refusal == (3, "the request has 1,001 inputs: at most 1,000")


def test_a_request_outlives_the_process_that_reads_it(server: RunningServer) -> None:
    codec = [child for child in server.family() if "pdserver.codec.child" in child.cmdline()]
    assert codec, "one of them has read what was large before"
    answers: list[Answer] = []
    asking = threading.Thread(target=lambda: answers.append(ask(server, *READ["flat"][:2])))
    asking.start()
    while asking.is_alive():
        for process in codec:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(0.01)
    asking.join()
    assert answers[0].json["outputs"][0]["data"] == COUNTED


def test_what_clients_left_behind_while_it_was_read_is_let_go(server: RunningServer) -> None:
    assert server.process
    before = memory_files(server)
    address = urlsplit(server.inference)
    for _ in range(4):
        with socket.create_connection((str(address.hostname), int(address.port or 0))) as connection:
            connection.sendall(
                b"POST /v2/models/floats/infer HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(FLAT)
            )
            connection.sendall(FLAT)
    eventually(lambda: memory_files(server) <= before)


def memory_files(server: RunningServer) -> int:
    return sum("memfd:pdserver" in name for process in server.before() for name in open_descriptors(process.pid))
