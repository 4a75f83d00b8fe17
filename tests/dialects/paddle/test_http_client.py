"""Paddle Serving's own HttpClient, unchanged: JSON, protobuf and gRPC, with and without compression."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.dialects.paddle.conftest import PaddleServer
from tests.dialects.paddle.tensors import ROW
from tests.dialects.paddle.test_general import price
from tests.paddle_clients import PaddleClients
from tests.paddle_clients import paddle_clients as paddle_clients

CONF = """
feed_var { name: "x" alias_name: "features" is_lod_tensor: false feed_type: 1 shape: 13 }
fetch_var { name: "%s" alias_name: "price" is_lod_tensor: false fetch_type: 1 shape: 1 }
"""
ASK = """
import numpy
from paddle_serving_client import HttpClient

http, grpc, conf = sys.argv[1:]
row = numpy.array(%s, "float32")
answers = {}

def ask(name, port=http, fetch=["price"], feed=row, batch=False, **settings):
    client = HttpClient()
    client.load_client_config(conf)
    for setting, value in settings.items():
        getattr(client, setting)(value)
    client.connect(["127.0.0.1:" + port])
    answer = client.predict(feed={"features": feed}, fetch=fetch, batch=batch, log_id=7)
    if not isinstance(answer, dict) and answer is not None:
        [tensor] = answer.outputs[0].tensor
        answers[name] = [list(tensor.float_data), list(tensor.shape), tensor.name, tensor.alias_name, answer.log_id]
    else:
        answers[name] = answer

rows = numpy.stack([row, row * 2])
ask("protobuf")
ask("json", set_http_proto=False)
ask("grpc", port=grpc, set_use_grpc_client=True)
ask("grpc at the port of http", set_use_grpc_client=True)
ask("all outputs", fetch=None)
ask("a list", feed=row.tolist())
ask("a batch", feed=rows, batch=True)
for form in (True, False):
    ask("compressed, " + ("protobuf" if form else "json"), feed=numpy.tile(row, (8, 1)), batch=True,
        set_http_proto=form, set_request_compress=True, set_response_compress=True)
ask("another service name", set_service_name="/uci/GeneralModelService/inference")
ask("refused", feed=row[:12])
give(answers)
"""


def test_http_client(
    paddle_server: PaddleServer, paddle_clients: PaddleClients, fit_model: Path, tmp_path: Path
) -> None:
    conf = tmp_path / "serving_client_conf.prototxt"
    conf.write_text(CONF % paddle_server.own_name)
    http = paddle_server.inference.rpartition(":")[2]
    grpc = paddle_server.grpc_inference.rpartition(":")[2]
    answers: dict[str, Any] = paddle_clients.run(ASK % ROW, http, grpc, conf)
    expected = pytest.approx(price(fit_model).item(), rel=1e-5)
    for name in ("protobuf", "grpc", "grpc at the port of http", "all outputs", "a list", "another service name"):
        assert answers[name] == [[expected], [1, 1], paddle_server.own_name, "price", 7], name
    json = answers["json"]
    assert json["log_id"] == 7
    assert json["outputs"] == [
        {
            "tensor": [
                {
                    "float_data": [expected],
                    "elem_type": 1,
                    "shape": [1, 1],
                    "name": paddle_server.own_name,
                    "alias_name": "price",
                }
            ],
            "engine_name": "GeneralInferOp_0",
        }
    ]
    twice = pytest.approx(price(fit_model, [2 * value for value in ROW]).item(), rel=1e-5)
    assert answers["a batch"][:2] == [[expected, twice], [2, 1]]
    assert answers["compressed, protobuf"][:2] == [[expected] * 8, [8, 1]]
    assert answers["compressed, json"]["outputs"][0]["tensor"][0]["float_data"] == [expected] * 8
    assert answers["refused"] is None, "it prints the status, and no more"
