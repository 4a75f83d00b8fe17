"""Calls over gRPC to a node that lacks the model."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import grpc
import pytest

from pdserver.dialects.protos import message_class
from tests.peers.nodes import Node
from tests.prpc_client import Prpc

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
OIP, TORCHSERVE = "inference.GRPCInferenceService", "org.pytorch.serve.grpc.inference.InferenceAPIsService"
TENSORFLOW, STATUS = "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"

GENERAL = "baidu.paddle_serving.predictor.general_model.GeneralModelService"
PIPELINE = "baidu.paddle_serving.pipeline_serving.PipelineService"
MODEL = [("model_name", "only_b")]


def infer(model: str, rows: int = 1) -> Any:
    request = message_class("inference.ModelInferRequest")(model_name=model, id="one")
    request.inputs.add(name="x", datatype="FP32", shape=[rows, 2])
    request.raw_input_contents.append(b"\0\0\x80\x3f" * 2 * rows)
    return request


def predictions(model: str, body: bytes = b"abc", **more: Any) -> Any:
    message = message_class("org.pytorch.serve.grpc.inference.PredictionsRequest")(model_name=model, **more)
    message.input["body"] = body
    return message


def predict(model: str) -> Any:
    message = message_class("tensorflow.serving.PredictRequest")()
    message.model_spec.name = model
    message.inputs["x"].dtype = 1
    message.inputs["x"].float_val.extend([1.0, 2.0])
    for size in (1, 2):
        message.inputs["x"].tensor_shape.dim.add(size=size)
    return message


def of_spec(kind: str, model: str, **more: Any) -> Any:
    message = message_class(f"tensorflow.serving.{kind}")(**more)
    message.model_spec.name = model
    return message


def oip(kind: str, model: str) -> Any:
    return message_class(f"inference.{kind}Request")(name=model)


def general() -> Any:
    message = message_class("baidu.paddle_serving.predictor.general_model.Request")(fetch_var_names=["y"])
    message.tensor.add(float_data=[0.5, 1.5], elem_type=1, shape=[1, 2], name="x", alias_name="x")
    return message


def pipeline(model: str) -> Any:
    return message_class("baidu.paddle_serving.pipeline_serving.Request")(name=model, key=["x"], value=["[[0.5, 1.5]]"])


CALLS: dict[str, tuple[str, Any]] = {
    "oip": (f"/{OIP}/ModelInfer", infer("only_b")),
    "oip, too many rows": (f"/{OIP}/ModelInfer", infer("only_b", 100_000)),
    "oip, ready": (f"/{OIP}/ModelReady", oip("ModelReady", "only_b")),
    "oip, nowhere ready": (f"/{OIP}/ModelReady", oip("ModelReady", "nowhere")),
    "oip, metadata": (f"/{OIP}/ModelMetadata", oip("ModelMetadata", "only_b")),
    "oip, wrong input": (f"/{OIP}/ModelInfer", message_class("inference.ModelInferRequest")(model_name="only_b")),
    "oip, unknown model": (f"/{OIP}/ModelInfer", infer("nowhere")),
    "torchserve": (f"/{TORCHSERVE}/Predictions", predictions("mirror")),
    "torchserve, a version": (f"/{TORCHSERVE}/Predictions", predictions("mirror", model_version="1.0")),
    "torchserve, unknown version": (f"/{TORCHSERVE}/Predictions", predictions("mirror", model_version="1")),
    "torchserve, in pieces": (f"/{TORCHSERVE}/StreamPredictions", predictions("stream", b'{"count": 3}')),
    "torchserve, pieces and an error": (
        f"/{TORCHSERVE}/StreamPredictions",
        predictions("stream", b'{"count": 3, "raise": true}'),
    ),
    "tensorflow": (f"/{TENSORFLOW}/Predict", predict("only_b")),
    "tensorflow, status": (f"/{STATUS}/GetModelStatus", of_spec("GetModelStatusRequest", "only_b")),
    "tensorflow, metadata": (
        f"/{TENSORFLOW}/GetModelMetadata",
        of_spec("GetModelMetadataRequest", "only_b", metadata_field=["signature_def"]),
    ),
    "paddle": (f"/{GENERAL}/inference", general()),
    "pipeline": (f"/{PIPELINE}/inference", pipeline("only_b")),
}


def called(
    address: str, path: str, messages: Sequence[Any], metadata: Any = (), timeout: float = 30
) -> tuple[Any, ...]:
    """All that comes: the metadata, the messages, the status."""
    with grpc.insecure_channel(address, UNLIMITED) as channel:
        call: Any = channel.stream_stream(path)(
            (message.SerializeToString() for message in messages),
            metadata=(("x-request-id", "mine"), *metadata),
            timeout=timeout,
        )
        answers = []
        with contextlib.suppress(grpc.RpcError):
            answers += call
        return (
            list(call.initial_metadata()), answers, call.code(), call.details(), list(call.trailing_metadata()),
        )  # fmt: skip


def without_times(said: tuple[Any, ...]) -> tuple[Any, ...]:
    initial, [answer], *status = said
    message = message_class("baidu.paddle_serving.predictor.general_model.Response").FromString(answer)
    assert len(message.profile_time) == 2
    message.ClearField("profile_time")
    return initial, message, *status


@pytest.mark.parametrize("name", CALLS)
def test_answers_are_those_of_the_node_that_has_the_model(nodes: dict[str, Node], name: str) -> None:
    path, message = CALLS[name]
    expected, answer = (called(nodes[node].server.grpc_inference, path, [message], MODEL) for node in "ba")
    assert (answer if name != "paddle" else without_times(answer)) == (
        expected if name != "paddle" else without_times(expected)
    )
    assert not [each for each in expected[-1] if each[0].startswith("pd-")]


@pytest.mark.parametrize("name", ["oip", "oip, ready", "oip, metadata", "tensorflow", "tensorflow, status", "pipeline"])
def test_front_ends_pass_calls_on(nodes: dict[str, Node], name: str) -> None:
    path, message = CALLS[name]
    expected, answer = (called(nodes[node].server.grpc_inference, path, [message]) for node in "bc")
    assert answer == expected


def test_brpcs_calls_go_on_over_grpc(nodes: dict[str, Node]) -> None:
    """By the short name of the service, too."""
    body = general().SerializeToString()
    for service in (GENERAL, GENERAL.rpartition(".")[2]):
        found = []
        for node in "bac":
            with Prpc(nodes[node].server.inference.removeprefix("http://")) as client:
                answer = client.call(f"{service}/inference", body, user_fields=dict(MODEL))
            message = message_class("baidu.paddle_serving.predictor.general_model.Response").FromString(answer.message)
            message.ClearField("profile_time")
            found.append(message)
        assert found[0].outputs
        assert found[1] == found[0] == found[2]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (f"/{OIP}/ModelStreamInfer", infer("only_b")),
        (f"/{TORCHSERVE}/StreamPredictions2", predictions("mirror", sequence_id="s")),
    ],
    ids=["oip", "torchserve"],
)
def test_streams_go_whole_to_the_node_of_the_first_message(nodes: dict[str, Node], path: str, message: Any) -> None:
    expected = called(nodes["b"].server.grpc_inference, path, [message] * 100)
    assert len(expected[1]) == 100
    assert called(nodes["a"].server.grpc_inference, path, [message] * 100) == expected
