"""Faults of the server's own while a request is decoded, planted by a plugin in the real server: all are answered."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.conftest import pack_handler
from tests.grpc_client import Client, prediction, refusal
from tests.running import RunningServer

PLANTED = """
from pdserver.dialects.base import ErrorWords
from pdserver.dialects.dialect import Dialect
from pdserver.dialects.oip import grpc_inference, rest as oip
from pdserver.dialects.oip.protocol import OpenInference
from pdserver.dialects.tensorflow.door import ServingDoor
from pdserver.dialects.torchserve import grpc as ts_grpc, rest
from pdserver.errors import InvalidRequest

def plant(owner, name):
    real = getattr(owner, name)
    def wrapped(*given, **named):
        said = repr(given)
        if "no_such_text" in said:
            raise InvalidRequest("half of a surrogate pair: \\ud800")
        if "fault" in said:
            raise IndexError("a secret of the server's own")
        return real(*given, **named)
    setattr(owner, name, wrapped)

def dialect(engine):
    for owner, name in (
        (rest.TorchServeDoor, "prepare"), (oip.OipDoor, "prepare"), (ServingDoor, "prepare"),
        (ts_grpc.Inference, "_request"), (grpc_inference.Inference, "read"), (OpenInference, "find"),
    ):
        plant(owner, name)
    return Dialect(name="planted", words=ErrorWords(lambda _: (500, b""), lambda _, __: b""))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("unforeseen")
    metadata = folder / "installed" / "pd_planted-1.0.dist-info"
    metadata.mkdir(parents=True)
    (folder / "installed" / "pd_planted.py").write_text(PLANTED)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: pd-planted\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[pdserver.dialects]\nplanted = pd_planted:dialect\n")
    store = folder / "store"
    store.mkdir()
    pack_handler(store, "mirror")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder / "installed"))
        with RunningServer(folder / "server", store) as server:
            yield server


TYPE_ALONE = "internal error (IndexError); the server's log has more"
PATHS = ("/predictions/fault", "/v1/models/fault:predict", "/models/fault/invoke", "/v2/models/fault/infer")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("model", ["fault", "no_such_text"])
def test_rest_answers_500_with_the_type_alone_and_goes_on(server: RunningServer, path: str, model: str) -> None:
    url = server.inference + path.replace("fault", model)
    for _ in range(2):  # the second one comes by the way of heads that are known
        answer = server.session.post(url, data=b"{}", timeout=60)
        assert answer.status_code == 500
        said = answer.json().get("message") or answer.json()["error"]
        assert said == (TYPE_ALONE if model == "fault" else TYPE_ALONE.replace("IndexError", "TypeError"))
    assert server.predict("mirror", data=b"x").content == b"x"
    server.logged("IndexError: a secret of the server's own")


def test_rest_answers_what_waits_behind_it_on_the_connection(server: RunningServer) -> None:
    host, port = server.inference.removeprefix("http://").split(":")
    head = "POST /predictions/{} HTTP/1.1\r\nhost: {}:{}\r\ncontent-length: 1\r\n\r\n"
    sent = "".join(head.format(model, host, port) + "x" for model in ("mirror", "fault", "mirror"))
    with socket.create_connection((host, int(port)), timeout=60) as sock, sock.makefile("rb") as file:
        sock.sendall(sent.encode())
        statuses: list[int] = []
        while len(statuses) < 3:
            statuses.append(int(file.readline().split()[1]))
            length = 0
            while (line := file.readline().strip()) != b"":
                name, _, value = line.partition(b":")
                length = int(value) if name == b"content-length" else length
            file.read(length)
    assert statuses == [200, 500, 200]


def test_every_method_of_grpc_answers_internal_with_the_type_alone(server: RunningServer) -> None:
    with Client(server) as client:
        asked = prediction("fault", body=b"{}")
        for call in (
            lambda: client.inference.Predictions(asked, timeout=60),
            lambda: list(client.inference.StreamPredictions(asked, timeout=60)),
            lambda: list(client.inference.StreamPredictions2(iter([asked]), timeout=60)),
        ):
            assert refusal(call) == (grpc.StatusCode.INTERNAL, TYPE_ALONE)
        assert client.predict(prediction("mirror", body=b"xyz")) == b"zyx"
        stub = service_pb2_grpc.GRPCInferenceServiceStub(client.inference_channel)
        for call in (
            lambda: stub.ModelInfer(service_pb2.ModelInferRequest(model_name="fault"), timeout=60),
            lambda: stub.ModelMetadata(service_pb2.ModelMetadataRequest(name="fault"), timeout=60),
            lambda: stub.ModelConfig(service_pb2.ModelConfigRequest(name="fault"), timeout=60),
        ):
            assert refusal(call) == (grpc.StatusCode.INTERNAL, TYPE_ALONE)
        unwritable = prediction("no_such_text", body=b"{}")
        code, said = refusal(lambda: client.inference.Predictions(unwritable, timeout=60))
        assert (code, said) == (grpc.StatusCode.INVALID_ARGUMENT, "half of a surrogate pair: \\ud800")


def test_the_others_of_a_stream_are_answered(server: RunningServer) -> None:
    def asked(model: str, own_id: str) -> Any:
        given = {"name": "body", "datatype": "BYTES", "shape": [1, 1], "contents": {"bytes_contents": [b"x"]}}
        return service_pb2.ModelInferRequest(model_name=model, id=own_id, inputs=[given])

    with grpc.insecure_channel(server.grpc_inference) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        requests_ = [asked("mirror", "1"), asked("fault", "2"), asked("mirror", "3")]
        answers = list(stub.ModelStreamInfer(iter(requests_), timeout=60))
    assert [answer.infer_response.id for answer in answers] == ["1", "2", "3"]
    assert [answer.error_message for answer in answers] == ["", TYPE_ALONE, ""]
