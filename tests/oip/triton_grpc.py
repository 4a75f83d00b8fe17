"""What the tests share that use Triton's gRPC client: tensors of each datatype, and requests."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from ml_dtypes import bfloat16
from tritonclient import grpc as triton
from tritonclient.grpc import service_pb2

ARRAYS = {
    "BOOL": np.array([[True, False, True]]),
    "UINT8": np.array([[0, 255, 7]], np.uint8),
    "UINT16": np.array([[0, 65535, 7]], np.uint16),
    "UINT32": np.array([[0, 2**32 - 1, 7]], np.uint32),
    "UINT64": np.array([[0, 2**64 - 1, 7]], np.uint64),
    "INT8": np.array([[-128, 127, 7]], np.int8),
    "INT16": np.array([[-32768, 32767, 7]], np.int16),
    "INT32": np.array([[-(2**31), 2**31 - 1, 7]], np.int32),
    "INT64": np.array([[-(2**63), 2**63 - 1, 7]], np.int64),
    "FP16": np.array([[0.1, -65504, 7]], np.float16),
    "BF16": np.array([[1, -2, 7]], bfloat16),
    "FP32": np.array([[0.1, -3.4e38, 7]], np.float32),
    "FP64": np.array([[0.1, -1.7e308, 7]], np.float64),
    "BYTES": np.array([[b"", "größe".encode(), bytes(range(256))]], object),
}
"""A row of each datatype, with its extremes."""


def tensor(name: str, array: Any, datatype: str) -> Any:
    """An input of Triton's client."""
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def echo(**changed: Any) -> list[Any]:
    """The inputs of the model `echo`, some of them of one's own."""
    arrays = {name.lower(): array for name, array in ARRAYS.items()} | changed
    return [tensor(name, array, name.upper()) for name, array in arrays.items()]


def body(asked: Any) -> Any:
    """The input of an opaque model: JSON, or bytes as they are."""
    element = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
    return tensor("body", np.array([[element]], object), "BYTES")


def chaos(asked: dict[str, object], **fields: Any) -> Any:
    """A message for the model `chaos`."""
    contents = {"bytes_contents": [json.dumps(asked).encode()]}
    given = {"name": "body", "datatype": "BYTES", "shape": [1, 1], "contents": contents}
    return service_pb2.ModelInferRequest(model_name="chaos", inputs=[given], **fields)


def fit(**changes: Any) -> Any:
    """A message for the model `fit`: one row of ones, but for the changes; `input` are those of the tensor."""
    given = {"name": "x", "datatype": "FP32", "shape": [1, 13], **changes.pop("input", {})}
    for message in (given, changes):
        if "parameters" in message:  # protobuf 5 makes no messages of dictionaries in a map
            named = message["parameters"].items()
            message["parameters"] = {name: service_pb2.InferParameter(**value) for name, value in named}
    raw = changes.pop("raw", [np.ones(13, np.float32).tobytes()])
    fields = {"model_name": "fit", "inputs": [given], "raw_input_contents": raw, **changes}
    return service_pb2.ModelInferRequest(**fields)


def answer(result: Any) -> Any:
    """The JSON that an opaque model answered."""
    return json.loads(result.as_numpy("answer")[0, 0])
