"""The C++ server's predictions over HTTP and gRPC, as Paddle Serving's clients ask for them."""

from __future__ import annotations

import gzip
import json
import re
import struct
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import requests

from tests.conftest import Lent, pack_handler
from tests.dialects.paddle.conftest import PaddleServer, pack_uci
from tests.dialects.paddle.tensors import (
    PACKAGE,
    ROW,
    VALUES,
    Request,
    Response,
    as_json,
    recorded,
    request,
    row,
    tensor,
    unpacked,
)
from tests.running import RunningServer, eventually

SERVICE = f"{PACKAGE}.GeneralModelService"
INFERENCE = "/GeneralModelService/inference"
PROTO = {"Content-Type": "application/proto"}


def ask(server: RunningServer, body: Any, path: str = INFERENCE, **headers: str) -> requests.Response:
    """`body`: an object as JSON, or bytes."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.session.post(server.inference + path, data, headers=headers, timeout=60)


def said(answer: requests.Response) -> Any:
    """A message."""
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/proto"), answer.text
    return Response.FromString(answer.content)


def infer(server: RunningServer, message: Any, method: str = "inference", **how: Any) -> Any:
    with grpc.insecure_channel(server.grpc_inference, [("grpc.max_receive_message_length", -1)]) as channel:
        call: Any = channel.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=Request.SerializeToString,
            response_deserializer=Response.FromString,
        )
        return call(message, timeout=60, **how)


def price(fit_model: Path, rows: Any = ROW) -> Any:
    weights = np.load(fit_model / "weights.npz")
    return np.float32(rows) @ weights["w"] + weights["b"]


# What the tutorials ask


@pytest.mark.parametrize("path", [INFERENCE, f"/{SERVICE}/inference", "/GeneralModelService/debug", "/uci" + INFERENCE])
@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded", ""])
def test_json(paddle_server: PaddleServer, fit_model: Path, path: str, content_type: str) -> None:
    before_us = time.time_ns() // 1000
    asked = request(fetch_var_names=["price"], log_id=0)
    answer = ask(paddle_server, asked, path, **({"content_type": content_type} if content_type else {}))
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json"), answer.text
    text = (
        '{"outputs":[{"tensor":[{"float_data":[§],"elem_type":1,"shape":[1,1],"name":"OWN","alias_name":"price"}],'
        '"engine_name":"GeneralInferOp_0"}],"profile_time":[§,§]}'
    )
    form = re.escape(text.replace("OWN", paddle_server.own_name)).replace("§", "([0-9.e-]+)")
    found = re.fullmatch(form, answer.text)
    assert found, answer.text
    assert float(found[1]) == pytest.approx(price(fit_model).item(), rel=1e-5)
    assert before_us <= int(found[2]) <= int(found[3]) <= time.time_ns() // 1000


@pytest.mark.parametrize("data", [recorded(), unpacked()], ids=["packed", "unpacked"])
@pytest.mark.parametrize("content_type", ["application/proto", "application/x-protobuf", "Application/Proto; a=b"])
def test_protobuf(paddle_server: PaddleServer, fit_model: Path, data: bytes, content_type: str) -> None:
    answer = ask(paddle_server, data, content_type=content_type)
    message = said(answer)
    [output] = message.outputs
    [given] = output.tensor
    assert list(given.float_data) == [pytest.approx(price(fit_model).item(), rel=1e-5)]
    assert (given.name, given.alias_name, given.elem_type) == (paddle_server.own_name, "price", 1)
    assert (list(given.shape), output.engine_name) == ([1, 1], "GeneralInferOp_0")
    assert (message.err_no, message.err_msg, len(message.profile_time)) == (0, "", 2)
    assert message.log_id == (7 if data == recorded() else 0)
    number = struct.pack("<f", given.float_data[0])
    own_name = paddle_server.own_name.encode()
    fields = b"\x12\x04%b\x50\x01\x5a\x02\x01\x01\x6a%c%b\x72\x05price" % (number, len(own_name), own_name)
    assert b"\x0a%c%b\x12\x10GeneralInferOp_0" % (len(fields), fields) in answer.content


def test_grpc(paddle_server: PaddleServer, fit_model: Path) -> None:
    for method in ("inference", "debug"):
        message = infer(paddle_server, Request(**request(fetch_var_names=["price"], log_id=2**64 - 1)), method)
        [given] = message.outputs[0].tensor
        assert list(given.float_data) == [pytest.approx(price(fit_model).item(), rel=1e-5)]
        assert (message.log_id, len(message.profile_time)) == (2**64 - 1, 2)


@pytest.mark.parametrize(
    "names",
    [
        {"name": "x", "alias_name": None},
        {"name": None, "alias_name": "features"},
        {"name": None, "alias_name": None},
        {"name": "features", "alias_name": None},
        {"name": None, "alias_name": "x"},
        {"name": "whatever", "alias_name": "features"},
    ],
)
def test_a_feed_has_either_name_or_none(paddle_server: PaddleServer, names: dict[str, Any]) -> None:
    asked = request(row(**names), fetch_var_names=[paddle_server.own_name])
    answer = ask(paddle_server, asked)
    assert answer.status_code == 200, answer.text
    assert answer.json()["outputs"][0]["tensor"][0]["alias_name"] == "price"
    assert len(said(ask(paddle_server, Request(**asked).SerializeToString(), **PROTO)).outputs) == 1


def test_rows_and_the_lod_of_rows_of_one_length(paddle_server: PaddleServer, fit_model: Path) -> None:
    rows = np.arange(26, dtype=np.float32).reshape(2, 13) / 26
    for changes in ({"shape": [2, 13]}, {"shape": [2, 13], "lod": [0, 1, 2]}, {"shape": [26], "lod": [0, 13, 26]}):
        answer = ask(paddle_server, request(row(rows.reshape(-1).tolist(), **changes)))
        [given] = answer.json()["outputs"][0]["tensor"]
        assert given["shape"] == [2, 1]
        assert given["float_data"] == pytest.approx(price(fit_model, rows).reshape(-1).tolist(), rel=1e-5)


def test_unknown_fields_are_ignored_and_the_log_id_comes_back(paddle_server: PaddleServer) -> None:
    answer = ask(paddle_server, request(row(unknown=[1]), log_id=10_001, what={"deep": [{}]}))
    assert (answer.status_code, answer.json()["log_id"]) == (200, 10_001)


@pytest.mark.parametrize("in_json", [True, False])
def test_profiles(paddle_server: PaddleServer, in_json: bool) -> None:
    asked = request(profile_server=True)
    if in_json:
        answer = ask(paddle_server, asked).json()
        times, profiled = answer["profile_time"], answer["profile_server"]
    else:
        message = said(ask(paddle_server, Request(**asked).SerializeToString(), **PROTO))
        times, profiled = list(message.profile_time), message.profile_server
    assert profiled
    assert len(times) == 8
    *steps, began, ended = times
    assert steps == sorted(steps)
    assert (steps[0], steps[-1]) == (began, ended)


# Types


def both() -> list[bool]:
    return [False, True]


@pytest.mark.parametrize("content", both(), ids=["fields", "content"])
def test_every_type_comes_back_as_json(paddle_server: PaddleServer, content: bool) -> None:
    given = [as_json(tensor(dtype, content=content)) for dtype in VALUES]
    answer = ask(paddle_server, request(*given), model_name="general_echo")
    assert answer.status_code == 200, answer.text
    usual = [as_json(tensor(dtype)) for dtype in VALUES]
    for expected in usual:
        if expected["elem_type"] == 0:
            del expected["elem_type"]  # a default is left out
    assert answer.json()["outputs"][0]["tensor"] == usual
    assert "9223372036854775807" in answer.text, "not quoted"


@pytest.mark.parametrize("content", both(), ids=["fields", "content"])
def test_every_type_comes_back_as_protobuf(paddle_server: PaddleServer, content: bool) -> None:
    message = Request(**request(*(tensor(dtype, content=content) for dtype in VALUES)))
    expected = Request(**request(*(tensor(dtype) for dtype in VALUES))).tensor
    answer = said(ask(paddle_server, message.SerializeToString(), "/general_echo" + INFERENCE, **PROTO))
    assert list(answer.outputs[0].tensor) == list(expected)
    answer = infer(paddle_server, message, metadata=[("model_name", "general_echo")])
    assert list(answer.outputs[0].tensor) == list(expected)


def test_outputs_are_given_as_they_are_asked_for(paddle_server: PaddleServer) -> None:
    asked = request(*(as_json(tensor(dtype)) for dtype in VALUES), fetch_var_names=["uint8", "own.int64"])
    answer = ask(paddle_server, asked, model_name="general_echo")
    assert [given["alias_name"] for given in answer.json()["outputs"][0]["tensor"]] == ["uint8", "int64"]


def test_numbers_that_json_does_not_have_are_strings(paddle_server: PaddleServer) -> None:
    names = ["NaN", "Infinity", "-Infinity"]
    given = [as_json(tensor(dtype)) for dtype in VALUES]
    given[1] |= {"float_data": [*names, 1], "shape": [1, 4]}
    answer = ask(paddle_server, request(*given, fetch_var_names=["float32"]), model_name="general_echo")
    assert answer.json()["outputs"][0]["tensor"][0]["float_data"] == [*names, 1]


# Bodies: compressed ones, and large ones


@pytest.mark.parametrize("in_json", both())
def test_gzip_both_ways(paddle_server: PaddleServer, in_json: bool) -> None:
    """An answer of less than 512 bytes is not worth it."""
    for count in (2, 200):
        given = [tensor(dtype) for dtype in VALUES]
        given[1] |= {"float_data": [0.5] * count, "shape": [1, count]}
        asked = request(*map(as_json, given) if in_json else given, fetch_var_names=["float32"])
        data = json.dumps(asked).encode() if in_json else Request(**asked).SerializeToString()
        headers = {"Content_Encoding": "gzip", "Accept_Encoding": "gzip", **({} if in_json else PROTO)}
        answer = ask(paddle_server, gzip.compress(data), f"/general_echo{INFERENCE}", **headers)
        assert answer.status_code == 200, answer.text
        assert (answer.headers.get("content-encoding") == "gzip") == (count > 2)
        [output] = answer.json()["outputs"] if in_json else said(answer).outputs
        assert output["tensor"][0]["shape"] == [1, count] if in_json else list(output.tensor[0].shape) == [1, count]


def large_feeds(dtype: str, count: int) -> list[dict[str, Any]]:
    """What the echo takes, with many elements of one type."""
    number, field, *_ = VALUES[dtype]
    values = [place % 3 == 0 if dtype == "bool" else place - count // 2 for place in range(count)]
    large = {"alias_name": dtype, "elem_type": number, "shape": [1, count], field: values}
    return [large if other == dtype else as_json(tensor(other)) for other in VALUES]


@pytest.mark.parametrize("dtype", ["float32", "int64", "bool"])
def test_large_ones_are_read_and_written_elsewhere(paddle_server: PaddleServer, dtype: str) -> None:
    count = 200_000
    field = VALUES[dtype][1]
    asked = request(*large_feeds(dtype, count), fetch_var_names=[dtype])
    [large] = [given for given in asked["tensor"] if given["alias_name"] == dtype]
    path = f"/general_echo{INFERENCE}"
    answer = ask(paddle_server, asked, path, Accept_Encoding="identity")
    assert answer.status_code == 200, answer.text
    [given] = answer.json()["outputs"][0]["tensor"]
    assert (given[field], given["shape"]) == (large[field], [1, count])
    message = Request(
        **request(*(large if other == dtype else tensor(other) for other in VALUES), fetch_var_names=[dtype])
    )
    for compressed in (False, True):
        data = message.SerializeToString()
        more = {"Content_Encoding": "gzip", "Accept_Encoding": "gzip"} if compressed else {}
        answer = ask(paddle_server, gzip.compress(data) if compressed else data, path, **more, **PROTO)
        assert getattr(said(answer).outputs[0].tensor[0], field) == large[field]
    answered = infer(paddle_server, message, metadata=[("model-name", "general_echo")])
    assert getattr(answered.outputs[0].tensor[0], field) == large[field]


# Which model


def test_which_model_is_meant(lent: Lent, fit_model: Path) -> None:
    server = lent.server
    with pytest.raises(grpc.RpcError) as none:
        infer(server, Request(**request()))
    assert none.value.code() == grpc.StatusCode.UNAVAILABLE
    assert ask(server, request()).status_code == 503
    pack_uci(lent.store, fit_model, "only")
    assert server.manage("POST", "/models?url=only.pdar").status_code == 200
    assert ask(server, request()).status_code == 200
    lent("mirror")
    answer = ask(server, request())
    assert (answer.status_code, answer.headers["content-type"]) == (400, "text/plain")
    for words in ("only, mirror" if "only, mirror" in answer.text else "mirror, only", "paddle_serving_model=",
                  "?model_name=", "model-name", "GeneralModelService/inference"):  # fmt: skip
        assert words in answer.text
    with pytest.raises(grpc.RpcError, match="which model is meant"):
        infer(server, Request(**request()))
    assert ask(server, request(), f"{INFERENCE}?model_name=only").status_code == 200
    assert ask(server, request(), model_name="only").status_code == 200
    assert infer(server, Request(**request()), metadata=[("model_name", "only")]).outputs
    answer = ask(server, opaque("abc"), f"/mirror{INFERENCE}")
    assert answer.json()["outputs"][0]["tensor"][0]["data"] == ["cba"], "a handler that takes no tensors"
    for path in (f"/nobody{INFERENCE}", f"{INFERENCE}?model_name=nobody"):
        answer = ask(server, request(), path)
        assert (answer.status_code, "nobody" in answer.text) == (404, True)
    assert ask(server, request(), f"{INFERENCE}?model_name=%ff").status_code == 400
    assert server.session.get(server.inference + INFERENCE, timeout=60).status_code in (404, 405)
    assert ask(server, request(), "/GeneralModelService/other").status_code == 404


# Failures


def opaque(text: str) -> dict[str, Any]:
    """For a handler that takes no tensors."""
    return request({"data": [text], "elem_type": 20, "shape": [1], "alias_name": "body"})


FAILING = opaque('{"op": "fail"}')


def test_a_models_failure_is_a_500_with_the_number_of_a_failed_inference(paddle_server: PaddleServer) -> None:
    answer = ask(paddle_server, FAILING, f"/chaos{INFERENCE}")
    assert (answer.status_code, answer.headers["x-bd-error-code"]) == (500, "-5100")
    assert answer.headers["content-type"] == "text/plain"
    assert answer.text.startswith("InferService inference failed!")
    assert "the handler's own fault" in answer.text
    with pytest.raises(grpc.RpcError) as failed:
        infer(paddle_server, Request(**FAILING), metadata=[("model_name", "chaos")])
    assert failed.value.code() == grpc.StatusCode.INTERNAL


def test_an_output_that_the_protocol_can_not_hold(lent: Lent) -> None:
    server = lent("mirror")
    for body, headers in ((opaque("ü"), {}), (Request(**opaque("ü")).SerializeToString(), PROTO)):
        answer = ask(server, body, **headers)
        assert (answer.status_code, "is not UTF-8" in answer.text) == (501, True), answer.text
    with pytest.raises(grpc.RpcError, match="is not UTF-8") as failed:
        infer(server, Request(**opaque("ü")))
    assert failed.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_answers_in_pieces(lent: Lent) -> None:
    """Protobuf's readers make one message of several; gRPC's methods have one answer."""
    server = lent("stream")
    asked = Request(**opaque('{"count": 2}'))
    message = said(ask(server, asked.SerializeToString(), Accept_Encoding="gzip", **PROTO))
    assert [list(output.tensor[0].data) for output in message.outputs] == [["0 "], ["1 "], ["end"]]
    with pytest.raises(grpc.RpcError, match="in pieces") as failed:
        infer(server, asked)
    assert failed.value.code() == grpc.StatusCode.UNIMPLEMENTED


# The pages


def test_the_pages_that_brpc_has(paddle_server: PaddleServer) -> None:
    def page(name: str) -> str:
        answer = paddle_server.session.get(f"{paddle_server.inference}/{name}", timeout=60)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
        return answer.text

    def answered() -> int:
        [count] = re.findall(r'^pd_query_request_success_total{model="uci",version="1.0"} (\d+)$', page("brpc_metrics"),
                             re.MULTILINE)  # fmt: skip
        return int(count)

    assert page("health") == "OK"
    before = answered()
    assert ask(paddle_server, request()).status_code == 200
    assert answered() == before + 1
    assert re.search(rf"^  uci/1\.0: \S+, 1 of 1 workers serve; {before + 1} requests answered", page("status"), re.M)
    assert f"pd_query_request_success_total_uci_1_0 : {before + 1}\n" in page("vars")
    assert paddle_server.session.get(f"{paddle_server.inference}/flags", timeout=60).status_code == 404


def test_health_is_not_ok_while_a_model_is_loaded(lent: Lent, tmp_path: Path) -> None:
    server, loaded = lent.server, tmp_path / "go"
    archive = pack_handler(lent.store, "hard_to_load", config=f"loading: {{until: {loaded}}}\n")
    health = f"{server.inference}/health"
    assert server.session.get(health, timeout=60).text == "OK"
    assert server.manage("POST", f"/models?url={archive.name}&synchronous=false&initial_workers=1").status_code == 202
    answer = server.session.get(health, timeout=60)
    assert (answer.status_code, answer.headers["content-type"]) == (503, "text/plain; charset=utf-8")
    assert ask(server, request()).status_code == 503, "it is the only one, and can't be asked yet"
    loaded.touch()
    eventually(lambda: server.session.get(health, timeout=60).text == "OK")
