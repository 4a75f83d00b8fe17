"""Paddle Serving's own PipelineClient, as it is, and ours under its name (`pdserver.compat`)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pdserver.compat.client import PipelineClient
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


@pytest.fixture(scope="module", params=["theirs", "ours"])
def answers(request: pytest.FixtureRequest, paddle_server: PaddleServer) -> dict[str, Any]:
    arguments = (paddle_server.grpc_inference, json.dumps(ROW))
    if request.param == "theirs":
        given: dict[str, Any] = request.getfixturevalue("paddle_clients").run(SCRIPT, *arguments)
    else:
        given = PaddleClients(Path(sys.executable)).run("import pdserver.compat\n" + SCRIPT, *arguments)
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


@pytest.mark.parametrize(
    ("feed", "how", "said"),
    [
        ({"x": 1}, {}, '"x": expected text or an array of numbers, found int'),
        ({"x": [1]}, {"pack_tensor_format": True}, '"x": expected text or an array of numbers, found list'),
        ({"x": np.array([1j])}, {"pack_tensor_format": True}, "found an array of complex128"),
        (["x"], {}, "feed_dict: expected a dict of values by their names, found list"),
        ({"x": "1"}, {"fetch": "price"}, "fetch: expected a list of names, found str"),
    ],
)
def test_ours_says_what_it_cannot_send(feed: Any, how: dict[str, Any], said: str) -> None:
    client = PipelineClient()
    with pytest.raises(ConnectionError, match="connect comes first"):
        client.predict({})
    client.connect(["127.0.0.1:1"])  # nobody is asked before the first request
    with pytest.raises(TypeError) as refused:
        client.predict(feed, **how)
    assert said in str(refused.value)
