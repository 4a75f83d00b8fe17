"""Paddle Serving's own PipelineClient, as it is."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.dialects.paddle.conftest import PaddleServer
from tests.dialects.paddle.tensors import ROW
from tests.dialects.paddle.test_pipeline import price
from tests.paddle_clients import PaddleClients, paddle_clients

__all__ = ["paddle_clients", "price"]

SCRIPT = """
import json
import sys
from numpy import array, float32, float64

from paddle_serving_server.pipeline import PipelineClient

row = json.loads(sys.argv[2])
client = PipelineClient()
client.connect([sys.argv[1]])

def ask(values, **how):
    answer = client.predict({"x": values, "logid": 1}, **how)
    if how.get("asyn"):
        answer = answer.result()
    tensors = [{"name": t.name, "shape": list(t.shape), "data": list(t.float_data)} for t in answer.tensors]
    values = dict(zip(answer.key, answer.value))
    error = [answer.err_no, answer.err_msg]
    return {"err": error, "price": eval(values["price"]), "keys": list(values), "tensors": tensors}

give({
    "text": ask(", ".join(map(str, row))),
    "list": ask(row, log_id=10000),
    "array": ask(array([row], float32), fetch=["price"]),
    "asyn": ask(array(row, float32), asyn=True),
    "profile": ask(row, profile=True),
    "tensor": ask(array([row], float32), pack_tensor_format=True),
    "float64": ask(array([row]), pack_tensor_format=True),
    "bytes": ask(array([row], float32), pack_tensor_format=True, use_tensor_bytes=True),
})
"""


@pytest.fixture(scope="module")
def answers(paddle_server: PaddleServer, paddle_clients: PaddleClients) -> dict[str, Any]:
    given: dict[str, Any] = paddle_clients.run(SCRIPT, paddle_server.grpc_inference, json.dumps(ROW))
    return given


@pytest.mark.parametrize("way", ["text", "list", "array", "asyn", "profile", "tensor", "float64", "bytes"])
def test_every_way_to_ask(answers: dict[str, Any], price: np.float32, way: str) -> None:
    answer = answers[way]
    assert answer["err"] == [0, ""]
    assert (answer["price"]["dtype"], answer["price"]["shape"]) == ("float32", [1, 1])
    assert np.float32(answer["price"]["data"]).tolist() == [price]
    assert answer["keys"] == (["price", "pipeline.profile"] if way == "profile" else ["price"])
    in_tensors = way in ("tensor", "float64", "bytes")
    assert answer["tensors"] == [{"name": "price", "shape": [1, 1], "data": [price]}] * in_tensors
