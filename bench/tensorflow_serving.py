"""A workload's request in TensorFlow Serving's languages, and whether an answer in them is right.

The messages are made here, so that TensorFlow is not needed, from which its client takes them.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from bench import OUTPUT
from bench.load import Target
from bench.peers.base import Way
from bench.rpc import Rpc, framed
from bench.workloads import Workload, float_row
from pdserver.dialects.protos import message_class

TFS_JSON, TFS_GRPC = "TensorFlow Serving's REST", "TensorFlow Serving's gRPC"
_METHOD = "/tensorflow.serving.PredictionService/Predict"
_Request = message_class("tensorflow.serving.PredictRequest")
_Response = message_class("tensorflow.serving.PredictResponse")
_FLOAT = 1


def tensorflow_ways(workload: Workload, folder: Path, http: str, grpc: str) -> dict[str, Way]:
    """The ways to ask for a model of floats at these addresses, by name. Large rows are not sent as JSON."""
    row = float_row(workload)
    shape = {"dim": [{"size": 1}, *({"size": size} for size in row.shape)]}
    tensor = {"dtype": _FLOAT, "tensor_shape": shape, "tensor_content": row.tobytes()}
    message = _Request(model_spec={"name": workload.name}, inputs={"x": tensor}).SerializeToString()
    file = folder / "request-tensorflow"
    file.write_bytes(framed(message))
    ways = {TFS_GRPC: Way(Rpc(grpc, _METHOD, file), partial(_is_right_message, workload))}
    if workload.content_type == "application/json":
        ways[TFS_JSON] = Way(rest(workload, folder, http), partial(is_right, workload))
    return ways


def rest(workload: Workload, folder: Path, http: str) -> Target:
    """The request over REST, with one row."""
    file = folder / "request-tensorflow-json"
    file.write_bytes(orjson.dumps({"instances": [float_row(workload).tolist()]}))
    return Target(f"http://{http}/v1/models/{workload.name}:predict", file, "application/json")


def is_right(workload: Workload, answer: bytes) -> bool:
    """Of REST. Of a model with one output, a prediction is its value."""
    try:
        return workload.agrees({OUTPUT: orjson.loads(answer)["predictions"][0]})
    except (ValueError, LookupError, TypeError):
        return False


def _is_right_message(workload: Workload, answer: bytes) -> bool:
    outputs: Any = _Response.FromString(answer).outputs
    if list(outputs) != [OUTPUT]:
        return False
    tensor = outputs[OUTPUT]
    content = tensor.tensor_content
    values = np.frombuffer(content, np.float32) if content else np.array(tensor.float_val, np.float32)
    expected = workload.expected()
    return workload.agrees(values if isinstance(expected, np.ndarray) else {OUTPUT: values.tolist()})
