"""Inputs that may be left out, and tensors of any rank: in each protocol of tensors as over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from pdserver.client import Client
from pdserver.client.grpc import GrpcClient
from pdserver.dialects.protos import message_class
from tests.dialects.paddle.tensors import Request, Response
from tests.running import RunningServer

STEPS = """
def add(data, context):
    return [{"sum": row["x"] * row.get("factor", 1) + row.get("more", 0), "said": ",".join(row)} for row in data]
"""
PIPELINE = """
inputs: {x: "float32[-1, 2]", factor: float32, more: "float32[1]"}
outputs: {sum: add.sum, said: add.said}
nodes:
  add:
    python: steps.py:add
    inputs: {x: x, factor: {from: factor, optional: true}, more: {from: more, optional: true}}
    outputs: {sum: "float32[-1, 2]", said: text}
"""
ASKING = """
inputs: {x: "float32[-1, 2]", factor: "float32[-1, 1]"}
outputs: {sum: ask.sum}
batched: true
nodes:
  ask: {model: sums, inputs: {x: x, factor: {from: factor, optional: true}}}
"""
X = np.array([[1, 2], [3, 4]], np.float32)
THRICE = np.float32(3)
GIVEN: dict[str, tuple[dict[str, Any], Any, str]] = {
    "all": ({"x": X, "factor": THRICE, "more": np.ones(1, np.float32)}, 3 * X + 1, "x,factor,more"),
    "one less": ({"x": X, "factor": np.full((1, 2), 3, np.float32)}, 3 * X, "x,factor"),
    "none of them": ({"x": X}, X, "x"),
}
"""Inputs; sum; the names of what came."""
CASES = pytest.mark.parametrize("case", list(GIVEN))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("optional")
    for name, text in (("sums", PIPELINE), ("asking", ASKING)):
        own = folder / "store" / name
        own.mkdir(parents=True)
        (own / "pipeline.yaml").write_text(text)
        (own / "steps.py").write_text(STEPS)
    with RunningServer(folder / "server", folder / "store") as server:
        yield server


def listed(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value.tolist() for name, value in given.items()}


@CASES
def test_plain_http(server: RunningServer, case: str) -> None:
    given, expected, said = GIVEN[case]
    assert server.predict("sums", json=listed(given)).json() == {"sum": expected.tolist(), "said": said}


@CASES
def test_triton_over_rest(server: RunningServer, case: str) -> None:
    given, expected, said = GIVEN[case]
    inputs = [tritonclient.http.InferInput(name, list(value.shape), "FP32") for name, value in given.items()]
    for each, value in zip(inputs, given.values(), strict=True):
        each.set_data_from_numpy(np.asarray(value))
    with tritonclient.http.InferenceServerClient(server.inference.removeprefix("http://")) as client:
        answer = client.infer("sums", inputs)
        np.testing.assert_array_equal(answer.as_numpy("sum"), expected)
        assert answer.as_numpy("said")[0].decode() == said


@CASES
def test_triton_over_grpc(server: RunningServer, case: str) -> None:
    given, expected, said = GIVEN[case]
    inputs = [tritonclient.grpc.InferInput(name, list(value.shape), "FP32") for name, value in given.items()]
    for each, value in zip(inputs, given.values(), strict=True):
        each.set_data_from_numpy(np.asarray(value))
    with tritonclient.grpc.InferenceServerClient(server.grpc_inference) as client:
        answer = client.infer("sums", inputs)
        np.testing.assert_array_equal(answer.as_numpy("sum"), expected)
        assert answer.as_numpy("said")[0].decode() == said


@CASES
def test_tensorflow_serving_over_rest(server: RunningServer, case: str) -> None:
    given, expected, said = GIVEN[case]
    body = {"inputs": listed(given)}
    answer = server.session.post(f"{server.inference}/v1/models/sums:predict", json=body, timeout=60)
    assert answer.json()["outputs"]["sum"] == expected.tolist(), answer.text
    assert answer.json()["outputs"]["said"] == [said]


def test_tensorflow_serving_by_rows_and_without_a_name(server: RunningServer) -> None:
    url = f"{server.inference}/v1/models/asking:predict"
    rows = X.tolist()
    for instances in (rows, [{"x": row} for row in rows]):
        answer = server.session.post(url, json={"instances": instances}, timeout=60)
        assert answer.json() == {"predictions": rows}
    assert server.session.post(url, json={"inputs": rows}, timeout=60).json() == {"outputs": rows}
    answer = server.session.post(url, json={"instances": [{"x": [1, 2], "factor": [1]}, {"x": [3, 4]}]}, timeout=60)
    assert answer.status_code == 400
    assert "Failed to process element: 1 of 'instances' list" in answer.json()["error"]


def test_tensorflow_servings_examples(server: RunningServer) -> None:
    url = f"{server.inference}/v1/models/asking:classify"
    rows = X.tolist()
    for more, factor in (({}, 1), ({"factor": 3}, 3)):
        answer = server.session.post(url, json={"examples": [{"x": row, **more} for row in rows]}, timeout=60)
        assert answer.json() == {"results": [[["0", factor * a], ["1", factor * b]] for a, b in rows]}, answer.text
    answer = server.session.post(url, json={"examples": [{"x": rows[0], "factor": 1}, {"x": rows[1]}]}, timeout=60)
    assert answer.status_code == 400
    assert "Example 1, Feature: factor" in answer.json()["error"]


def test_a_body_that_is_all_data_is_the_one_input_that_is_needed(server: RunningServer) -> None:
    headers = {"Inference-Header-Content-Length": "0", "Content-Type": "application/octet-stream"}
    url = f"{server.inference}/v2/models/asking/infer"
    answer = server.session.post(url, data=X[:1].tobytes(), headers=headers, timeout=60)
    data = answer.content[int(answer.headers["Inference-Header-Content-Length"]) :]
    assert np.frombuffer(data, np.float32).tolist() == [1, 2]


@CASES
def test_tensorflow_serving_over_grpc(server: RunningServer, case: str) -> None:
    given, expected, _ = GIVEN[case]
    tensors = {
        name: message_class("tensorflow.TensorProto")(
            dtype=1, tensor_shape={"dim": [{"size": size} for size in value.shape]}, tensor_content=value.tobytes()
        )
        for name, value in given.items()
    }
    asked = message_class("tensorflow.serving.PredictRequest")(model_spec={"name": "sums"}, inputs=tensors)
    with grpc.insecure_channel(server.grpc_inference) as channel:
        ask: Any = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        answer = message_class("tensorflow.serving.PredictResponse").FromString(ask(asked.SerializeToString()))
        found = answer.outputs["sum"]
        held = found.float_val or np.frombuffer(found.tensor_content, np.float32)
        np.testing.assert_array_equal(np.ravel(held), expected.ravel())
        bad = message_class("tensorflow.serving.PredictRequest")(
            model_spec={"name": "sums"}, inputs={"factor": next(iter(tensors.values()))}
        )
        with pytest.raises(grpc.RpcError, match=r"Missing but required: \{x\}"):
            ask(bad.SerializeToString())


@CASES
def test_paddle_serving(server: RunningServer, case: str) -> None:
    given, expected, _ = GIVEN[case]
    tensors = [
        {"alias_name": name, "elem_type": 1, "shape": value.shape, "float_data": np.ravel(value)}
        for name, value in given.items()
    ]
    body = Request(tensor=tensors, fetch_var_names=["sum"]).SerializeToString()
    url = f"{server.inference}/sums/GeneralModelService/inference"
    answer = server.session.post(url, data=body, headers={"Content-Type": "application/proto"}, timeout=60)
    assert answer.status_code == 200, answer.text
    (tensor,) = Response.FromString(answer.content).outputs[0].tensor
    np.testing.assert_array_equal(np.reshape(tensor.float_data, tensor.shape), expected)


def test_paddle_servings_old_web_service(server: RunningServer) -> None:
    url = f"{server.inference}/asking/prediction"
    for more, factor in (([{}, {}], 1), ([{"factor": [3]}, {"factor": [3]}], 3)):
        feed = [{"x": row} | each for row, each in zip(X.tolist(), more, strict=True)]
        answer = server.session.post(url, json={"feed": feed, "fetch": ["sum"]}, timeout=60)
        assert answer.json() == {"result": {"sum": (factor * X).tolist()}}, answer.text


@pytest.mark.parametrize("given", [{"x": X.tolist()}, {"x": X.tolist(), "factor": [[3], [4]]}])
def test_a_pipeline_asks_another_without_what_it_does_not_need(server: RunningServer, given: dict[str, Any]) -> None:
    assert server.predict("asking", json=given).json() == (X * np.array(given.get("factor", 1))).tolist()


def test_descriptions_say_what_may_be_left_out(server: RunningServer) -> None:
    with tritonclient.http.InferenceServerClient(server.inference.removeprefix("http://")) as http:
        assert http.get_model_metadata("sums")["inputs"] == [
            {"name": "x", "datatype": "FP32", "shape": [-1, 2]},
            {"name": "factor", "datatype": "FP32", "shape": [-1], "parameters": {"optional": True, "any_rank": True}},
            {"name": "more", "datatype": "FP32", "shape": [1], "parameters": {"optional": True}},
        ]
        assert [each["optional"] for each in http.get_model_config("sums")["input"]] == [False, True, True]
    with tritonclient.grpc.InferenceServerClient(server.grpc_inference) as rpc:
        assert [list(each.shape) for each in rpc.get_model_metadata("sums").inputs] == [[-1, 2], [-1], [1]]
        assert [each.optional for each in rpc.get_model_config("sums").config.input] == [False, True, True]
    for client in (Client(server.inference), GrpcClient(server.grpc_inference)):
        with client:
            found = client.metadata("sums").inputs
            assert [each.parameters for each in found] == [{}, {"optional": True, "any_rank": True}, {"optional": True}]
    described = server.session.get(f"{server.inference}/v1/models/sums/metadata", timeout=60).json()
    signature = described["metadata"]["signature_def"]["signature_def"]["serving_default"]["inputs"]
    assert signature["factor"]["tensor_shape"] == {"dim": [], "unknown_rank": True}
    [described] = server.session.get(f"{server.management}/models/sums?customized=true", timeout=60).json()
    assert described["customizedMetadata"]["optional"] == ["factor", "more"]


def test_what_is_needed_is_still_asked_for(server: RunningServer) -> None:
    with tritonclient.http.InferenceServerClient(server.inference.removeprefix("http://")) as client:
        alone = tritonclient.http.InferInput("factor", [1], "FP32")
        alone.set_data_from_numpy(np.ones(1, np.float32))
        expected = r"expected 1 to 3 inputs but got 1 inputs .* but missing required input\(s\) \['x'\]"
        with pytest.raises(InferenceServerException, match=expected):
            client.infer("sums", [alone])
    assert server.predict("sums", json={"factor": 1}).status_code == 400
    assert "input x is missing" in json.loads(server.predict("sums", json={"factor": 1}).text)["message"]
