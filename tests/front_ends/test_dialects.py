"""Each dialect's own clients, on several front ends: all get their own answers, whichever front end they come to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import requests
from tritonclient import grpc as triton_grpc
from tritonclient import http as triton_http

from tests.front_ends.conftest import Several
from tests.front_ends.several import of_all
from tests.grpc_client import inference_pb2, prediction
from tests.prpc_client import Prpc
from tests.running import RunningServer

ROUNDS = 20


@pytest.fixture(scope="module")
def server(several: Several) -> RunningServer:
    settings = {"paddle_serving_model": "twin", "tensorflow_metrics_path": "/monitoring/prometheus/metrics"}
    return several({"twin": "batchSize: 4\n", "mirror": "", "times": "factor: 2\nbatchSize: 4\n"}, **settings)


class TritonHttp:
    """tritonclient over HTTP."""

    triton: Any = triton_http

    def __init__(self, server: RunningServer) -> None:
        self._client = self.triton.InferenceServerClient(self.address(server).removeprefix("http://"))

    @staticmethod
    def address(server: RunningServer) -> str:
        return server.inference

    def close(self) -> None:
        self._client.close()

    def ask(self, number: int) -> float:
        given = self.triton.InferInput("x", [1, 1, 1], "FP32")
        given.set_data_from_numpy(np.full((1, 1, 1), number, np.float32))
        return float(self._client.infer("twin", [given]).as_numpy("x").item())


class TritonGrpc(TritonHttp):
    """tritonclient over gRPC."""

    triton = triton_grpc

    def __init__(self, server: RunningServer) -> None:
        arguments = [("grpc.use_local_subchannel_pool", 1)]
        self._client = triton_grpc.InferenceServerClient(server.grpc_inference, channel_args=arguments)

    @staticmethod
    def address(server: RunningServer) -> str:
        return server.grpc_inference


class OverHttp:
    """What clients send who have no library."""

    def __init__(self, server: RunningServer) -> None:
        self._session, self._url = requests.Session(), server.inference

    @staticmethod
    def address(server: RunningServer) -> str:
        return server.inference

    def close(self) -> None:
        self._session.close()

    def post(self, path: str, asked: Any) -> Any:
        answer = self._session.post(self._url + path, json=asked, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()


class TensorFlowServing(OverHttp):
    def ask(self, number: int) -> float:
        answer = self.post("/v1/models/twin:predict", {"instances": [[[number]]]})
        return float(answer["predictions"][0][0][0])


class PaddleServing(OverHttp):
    def ask(self, number: int) -> float:
        tensor = {"float_data": [number], "elem_type": 1, "shape": [1, 1, 1], "name": "x", "alias_name": "x"}
        answer = self.post("/GeneralModelService/inference", {"tensor": [tensor], "fetch_var_names": ["x"]})
        return float(answer["outputs"][0]["tensor"][0]["float_data"][0])


class Generate(OverHttp):
    """Triton's generate extension, a prediction by an ASGI route."""

    def ask(self, number: int) -> float:
        return float(self.post("/v2/models/mirror/generate", {"body": f"{number} "[::-1]})["answer"])


class Brpc:
    """PRPC on the port of HTTP."""

    def __init__(self, server: RunningServer) -> None:
        self._client = Prpc(server.inference)

    @staticmethod
    def address(server: RunningServer) -> str:
        return server.inference

    def close(self) -> None:
        self._client.__exit__(None, None, None)

    def ask(self, number: int) -> float:
        message = prediction("mirror", body=f"{number} "[::-1].encode()).SerializeToString()
        answer = self._client.call("InferenceAPIsService/Predictions", message, number)
        assert answer.number == number
        return float(inference_pb2.PredictionResponse.FromString(answer.body).prediction)


@pytest.mark.parametrize("client", [TritonHttp, TritonGrpc, TensorFlowServing, PaddleServing, Generate, Brpc])
def test_clients_get_their_own_answers(server: RunningServer, client: Any) -> None:
    def connected() -> Any:
        made = client(server)
        assert made.ask(7) == 7
        return made

    clients = of_all(server, client.address(server), connected)

    for n in range(ROUNDS):
        numbers = [place * 1000 + n for place in range(len(clients))]
        assert [each.ask(number) for each, number in zip(clients, numbers, strict=True)] == numbers
    for each in clients:
        each.close()


def test_requests_are_counted_by_the_api_of_tensorflow_serving(server: RunningServer) -> None:
    client, examples = OverHttp(server), [{"x": 1.0}, {"x": 2.0}]
    client.post("/v1/models/times:predict", {"instances": [[1.0]]})
    client.post("/v1/models/times:regress", {"examples": examples})
    client.close()
    labels = {"model_name": "times", "entrypoint": "REST"}
    for api in ("predict", "regress"):
        assert server.metric(":tensorflow:serving:request_latency_count", API=api, **labels) == 1
    assert server.metric(":tensorflow:serving:request_example_counts_sum", model="times") == len(examples)


METADATA = ("/v2/models/twin", "/v1/models/twin", "/v2/models/twin/stats", "/ping", "/v2", "/api-description")


@pytest.mark.parametrize("path", METADATA)
def test_all_front_ends_answer_alike_what_is_no_prediction(server: RunningServer, path: str) -> None:
    def connected() -> requests.Session:
        session = requests.Session()
        assert session.get(server.inference + path, timeout=60).status_code == 200
        return session

    sessions = of_all(server, server.inference, connected)
    assert len({session.get(server.inference + path, timeout=60).text for session in sessions}) == 1
    for session in sessions:
        session.close()
