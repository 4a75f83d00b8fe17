"""The same tensors give the same answers, to the bit, whichever way they come: each dialect, each transport."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import requests
import tritonclient.grpc as by_grpc
import tritonclient.http as by_http

from pdserver.client import Client
from pdserver.client.grpc import GrpcClient
from tests.grpc_client import Client as TorchServeClient
from tests.grpc_client import prediction
from tests.oip.conftest import OipServer

ROWS = np.random.default_rng(11).normal(scale=1e3, size=(5, 13)).astype(np.float32)
ROWS[1] = np.finfo(np.float32).tiny
ROWS[2, ::2] = -0.0


def oip(module: Any, url: str, row: Any, binary: dict[str, bool]) -> Any:
    with module.InferenceServerClient(url) as client:
        given = module.InferInput("x", list(row.shape), "FP32")
        given.set_data_from_numpy(row, **({"binary_data": binary["given"]} if binary else {}))
        wanted = module.InferRequestedOutput("fetch_name_0", **({"binary_data": binary["wanted"]} if binary else {}))
        return client.infer("fit", [given], outputs=[wanted]).as_numpy("fetch_name_0")


def from_json(text: bytes) -> Any:
    return np.array(json.loads(text)["fetch_name_0"], np.float32).reshape(1, 1)


@pytest.mark.parametrize("row", ROWS.reshape(5, 1, 13))
def test_every_way_gives_the_same_bits(oip_server: OipServer, row: Any) -> None:
    body = json.dumps({"x": row[0].tolist()}).encode()
    answers = {
        f"OIP, REST, {given} in, {wanted} out": oip(by_http, oip_server.oip, row, {"given": given, "wanted": wanted})
        for given in (False, True)
        for wanted in (False, True)
    }
    answers["OIP, gRPC"] = oip(by_grpc, oip_server.grpc_inference, row, {})
    answers["TorchServe, REST"] = from_json(
        requests.post(f"{oip_server.inference}/predictions/fit", body, timeout=60).content
    )
    with TorchServeClient(oip_server) as torchserve:
        answers["TorchServe, gRPC"] = from_json(torchserve.predict(prediction("fit", body=body)))
    with Client(oip_server.inference) as rest, GrpcClient(oip_server.grpc_inference) as grpc:
        answers["our client, REST"] = rest.infer("fit", {"x": row})["fetch_name_0"]
        answers["our client, gRPC"] = grpc.infer("fit", {"x": row})["fetch_name_0"]
    assert {name: answer.tobytes() for name, answer in answers.items()} == dict.fromkeys(
        answers, answers["OIP, gRPC"].tobytes()
    )
    assert all(answer.dtype == np.float32 and answer.shape == (1, 1) for answer in answers.values())
