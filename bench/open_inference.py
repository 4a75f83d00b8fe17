"""A workload's request in the Open Inference Protocol, and whether an answer in it is right; TorchServe's by gRPC, too.

The messages are made here, so that no peer's client is needed to ask it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson

from bench import OUTPUT
from bench.workloads import Workload, float_row
from pdserver.dialects.protos import message_class

INFER = "/inference.GRPCInferenceService/ModelInfer"
PREDICTIONS = "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions"
BINARY_LENGTH = "Inference-Header-Content-Length"
_InferRequest = message_class("inference.ModelInferRequest")
_InferResponse = message_class("inference.ModelInferResponse")
_PredictionsRequest = message_class("org.pytorch.serve.grpc.inference.PredictionsRequest")
_PredictionResponse = message_class("org.pytorch.serve.grpc.inference.PredictionResponse")


def json_request(workload: Workload) -> bytes:
    datatype, shape, data = _tensor(workload)
    values = np.frombuffer(data, np.float32)
    given = {"name": "x", "shape": shape, "datatype": datatype, "data": values}
    return orjson.dumps({"inputs": [given]}, option=orjson.OPT_SERIALIZE_NUMPY)


def binary_request(workload: Workload) -> tuple[bytes, dict[str, str]]:
    """The body, and the header that says where its JSON ends."""
    datatype, shape, data = _tensor(workload)
    given = {"name": "x", "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": len(data)}}
    asked = {"name": OUTPUT, "parameters": {"binary_data": True}}
    head = orjson.dumps({"inputs": [given], "outputs": [asked]})
    return head + data, {BINARY_LENGTH: str(len(head))}


def infer_message(workload: Workload) -> bytes:
    datatype, shape, data = _tensor(workload)
    given = {"name": "x", "datatype": datatype, "shape": shape}
    message = _InferRequest(model_name=workload.name, inputs=[given], raw_input_contents=[data])
    return bytes(message.SerializeToString())


def prediction_message(workload: Workload) -> bytes:
    message = _PredictionsRequest(model_name=workload.name, input={"body": workload.request_file.read_bytes()})
    return bytes(message.SerializeToString())


def is_right(workload: Workload, answer: bytes) -> bool:
    """Of REST, JSON or binary."""
    text = answer.decode("latin-1")
    try:
        head, end = json.JSONDecoder().raw_decode(text)
        (output,) = head["outputs"]
    except (ValueError, KeyError):
        return False
    if "data" in output:
        return _agrees(workload, output["data"])
    return _is_right_raw(workload, output["datatype"], answer[end:])


def is_right_infer(workload: Workload, answer: bytes) -> bool:
    response = _InferResponse.FromString(answer)
    outputs: Sequence[Any] = response.outputs
    return len(outputs) == 1 and _is_right_raw(workload, outputs[0].datatype, response.raw_output_contents[0])


def is_right_prediction(workload: Workload, answer: bytes) -> bool:
    return workload.is_right(_PredictionResponse.FromString(answer).prediction)


def _is_right_raw(workload: Workload, datatype: str, data: bytes) -> bool:
    return workload.is_right(data[4:]) if datatype == "BYTES" else _agrees(workload, np.frombuffer(data, np.float32))


def _agrees(workload: Workload, values: Any) -> bool:
    expected = workload.expected()
    return workload.agrees(np.reshape(values, -1) if isinstance(expected, np.ndarray) else {OUTPUT: values})


def _tensor(workload: Workload) -> tuple[str, list[int], bytes]:
    """Datatype, shape with one row, and data."""
    data = workload.request_file.read_bytes()
    if workload.content_type == "image/jpeg":
        return "BYTES", [1, 1], len(data).to_bytes(4, "little") + data
    row = float_row(workload)
    return "FP32", [1, *row.shape], row.tobytes()
