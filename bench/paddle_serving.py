"""A workload's request in Paddle Serving's languages, and whether an answer in them is right.

The messages are made here, so that none of its clients is needed, which run in no Python of today.
"""

from __future__ import annotations

import ast
import json
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from bench import OUTPUT
from bench.frames import Frames
from bench.load import Target
from bench.peers.base import Way
from bench.rpc import Rpc, framed
from bench.workloads import Workload, float_row
from pdserver.dialects.protos import message_class

_GENERAL = "baidu.paddle_serving.predictor.general_model"
_PIPELINE = "baidu.paddle_serving.pipeline_serving"
_METHOD = f"{_GENERAL}.GeneralModelService/inference"
_JSON, _PROTO = "application/json", "application/proto"
CPP_JSON, CPP_PROTO, CPP_GRPC, PRPC = "C++ server, JSON", "C++ server, protobuf", "C++ server, gRPC", "PRPC"
OLD, PIPELINE, PIPELINE_GRPC = "old web service", "Pipeline, JSON", "Pipeline, gRPC"
WAYS = (CPP_JSON, CPP_PROTO, CPP_GRPC, PRPC, OLD, PIPELINE, PIPELINE_GRPC)


def paddle_ways(workload: Workload, folder: Path, http: str, grpc: str) -> dict[str, Way]:
    """The ways to ask for a model of floats in JSON at these addresses, by name."""
    values = float_row(workload).reshape(1, -1)
    shape = list(values.shape)
    given = {"float_data": values.ravel().tolist(), "elem_type": 1, "name": "x", "alias_name": "x", "shape": shape}
    message = message_class(f"{_GENERAL}.Request")(tensor=[given]).SerializeToString()
    tensor = {"float_data": given["float_data"], "elem_type": 1, "name": "x", "shape": shape}
    pipeline = message_class(f"{_PIPELINE}.Request")(name=workload.name, method="prediction", tensors=[tensor])
    text = {"key": ["x"], "value": [json.dumps(values.tolist())]}
    general, prediction = f"http://{http}/GeneralModelService/inference", f"http://{http}/{workload.name}/prediction"

    def file(name: str, content: bytes) -> Path:
        path = folder / f"request-paddle-{name}"
        path.write_bytes(content)
        return path

    def right(read: Callable[[bytes], Any]) -> Callable[[bytes], bool]:
        return partial(_is_right, workload, read)

    return {
        CPP_JSON: Way(Target(general, file("json", orjson.dumps({"tensor": [given]})), _JSON), right(_of_json)),
        CPP_PROTO: Way(Target(general, file("proto", message), _PROTO), right(_of_proto)),
        CPP_GRPC: Way(Rpc(grpc, f"/{_METHOD}", file("grpc", framed(message))), right(_of_proto)),
        PRPC: Way(Frames(http, file("prpc", _frame(message))), right(_of_frame)),
        OLD: Way(
            Target(
                prediction, file("old", orjson.dumps({"feed": [{"x": values[0].tolist()}], "fetch": [OUTPUT]})), _JSON
            ),
            right(_of_old),
        ),
        PIPELINE: Way(Target(prediction, file("pipeline", orjson.dumps(text)), _JSON), right(_of_pipeline_json)),
        PIPELINE_GRPC: Way(
            Rpc(grpc, f"/{_PIPELINE}.PipelineService/inference", file("pipes", framed(pipeline.SerializeToString()))),
            right(_of_pipeline),
        ),
    }


def _frame(message: bytes) -> bytes:
    service, _, method = _METHOD.rpartition("/")
    request = {"service_name": service, "method_name": method}
    meta: bytes = message_class("brpc.policy.RpcMeta")(correlation_id=1, request=request).SerializeToString()
    return struct.pack(">4sII", b"PRPC", len(meta) + len(message), len(meta)) + meta + message


def _is_right(workload: Workload, read: Callable[[bytes], Any], answer: bytes) -> bool:
    try:
        values = np.asarray(read(answer), np.float32)
    except (ValueError, LookupError, SyntaxError):
        return False
    return workload.agrees({OUTPUT: values.ravel().tolist()})


def _of_json(answer: bytes) -> Any:
    return orjson.loads(answer)["outputs"][0]["tensor"][0]["float_data"]


def _of_proto(answer: bytes) -> Any:
    return message_class(f"{_GENERAL}.Response").FromString(answer).outputs[0].tensor[0].float_data


def _of_frame(answer: bytes) -> Any:
    (meta_bytes,) = struct.unpack_from(">I", answer, 8)
    return _of_proto(answer[12 + meta_bytes :])


def _of_old(answer: bytes) -> Any:
    return orjson.loads(answer)["result"][OUTPUT]


def _of_pipeline_json(answer: bytes) -> Any:
    return _of_text(orjson.loads(answer)["value"][0])


def _of_pipeline(answer: bytes) -> Any:
    return message_class(f"{_PIPELINE}.Response").FromString(answer).tensors[0].float_data


def _of_text(text: str) -> Any:
    """The values in `array([[1.0]], dtype=float32)`."""
    return ast.literal_eval(text[text.index("[") : text.rindex("]") + 1])
