"""The gRPC ports themselves: where they are, health and reflection, and how they end."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from hyperframe.frame import GoAwayFrame

from pdserver.dialects.rpc import CODES, Code
from pdserver.grpc.http2.frames import PREFACE
from tests.conftest import Serve, pack_handler
from tests.grpc_client import PROTOS, Client, access_log, chaos, refusal
from tests.http2_client import Http2
from tests.running import RunningServer, eventually
from tests.security.raw import talk

INFERENCE = "org.pytorch.serve.grpc.inference.InferenceAPIsService"
OPEN_INFERENCE = "inference.GRPCInferenceService"
PADDLE_SERVING = {
    "baidu.paddle_serving.predictor.general_model.GeneralModelService",
    "baidu.paddle_serving.pipeline_serving.PipelineService",
}
TENSORFLOW_SERVING = {"tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"}
MANAGEMENT = "org.pytorch.serve.grpc.management.ManagementAPIsService"
STANDARD = {
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
}
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("grpc-server")
    store = folder / "store"
    store.mkdir()
    pack_handler(store, "chaos")
    pack_handler(store, "broken_load")
    with RunningServer(folder / "server", store, models="chaos.pdar") as server:
        yield server


@pytest.fixture
def client(server: RunningServer) -> Iterator[Client]:
    with Client(server) as client:
        yield client


def ports(client: Client) -> list[tuple[grpc.Channel, set[str]]]:
    """Each port, and its services."""
    inference = {INFERENCE, OPEN_INFERENCE, *PADDLE_SERVING, *TENSORFLOW_SERVING}
    return [(client.inference_channel, inference), (client.manage.channel, {MANAGEMENT})]


# Health


def health(channel: grpc.Channel) -> Any:
    return health_pb2_grpc.HealthStub(channel)


def asked(service: str = "") -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=service)


def test_health_of_the_server_and_of_each_service(client: Client) -> None:
    for channel, services in ports(client):
        for name in ("", *services):
            assert health(channel).Check(asked(name), timeout=60).status == SERVING
        request = health_pb2.HealthListRequest()  # type: ignore[attr-defined]
        listed = health(channel).List(request, timeout=60).statuses
        assert {name: answer.status for name, answer in listed.items()} == dict.fromkeys({"", *services}, SERVING)


def test_the_health_of_an_unknown_service(client: Client) -> None:
    code, words = refusal(lambda: health(client.inference_channel).Check(asked("nobody"), timeout=60))
    assert (code, INFERENCE in words) == (StatusCode.NOT_FOUND, True)
    watch = health(client.inference_channel).Watch(asked("nobody"), timeout=60)
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


def test_watching_tells_of_changes(client: Client) -> None:
    watch = health(client.inference_channel).Watch(asked(INFERENCE), timeout=60)
    assert next(watch).status == SERVING
    client.manage("RegisterModel", url="broken_load.pdar")
    assert next(watch).status == NOT_SERVING
    assert client.ping()["status"] == "Unhealthy"
    client.manage("UnregisterModel", model_name="broken_load")
    assert next(watch).status == SERVING
    watch.cancel()


# Reflection


def test_reflection_names_the_services_and_knows_their_messages(client: Client) -> None:
    for channel, services in ports(client):
        database = ProtoReflectionDescriptorDatabase(channel)
        assert set(database.get_services()) == services | STANDARD
        pool = DescriptorPool(database)
        for name in database.get_services():
            methods = pool.FindServiceByName(name).methods
            assert all(method.input_type.fields is not None for method in methods)
    [file] = [file for file in descriptors().file if file.name == "inference.proto"]
    database = ProtoReflectionDescriptorDatabase(client.inference_channel)
    assert database.FindFileByName("inference.proto") == file
    assert database.FindFileContainingSymbol("org.pytorch.serve.grpc.inference.PredictionResponse") == file
    assert database.FindFileContainingSymbol("org.pytorch.serve.grpc.inference.PredictionsRequest.model_name") == file
    for service in ("org.pytorch.serve.grpc.inference.InferenceAPIsService", "inference.GRPCInferenceService"):
        for method in DescriptorPool(database).FindServiceByName(service).methods:
            found = database.FindFileContainingSymbol(method.full_name)
            assert service.rpartition(".")[2] in [each.name for each in found.service]
    assert list(database.FindAllExtensionNumbers("google.rpc.Status")) == []
    for find, name in (
        (database.FindFileByName, "nothing.proto"),
        (database.FindFileContainingSymbol, "a.b.C"),
    ):
        with pytest.raises(KeyError):
            find(name)


def test_reflection_has_two_versions_that_say_the_same(client: Client) -> None:
    extension = reflection_pb2.ExtensionRequest(containing_type="google.rpc.Status", extension_number=1)
    questions = [
        reflection_pb2.ServerReflectionRequest(host="here", list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_extension=extension),
        reflection_pb2.ServerReflectionRequest(all_extension_numbers_of_type="a.b.C"),
        reflection_pb2.ServerReflectionRequest(),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=f"{OPEN_INFERENCE}.ModelInfer"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol=f"{OPEN_INFERENCE}.Nothing"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="inference.ModelInferRequest.nothing"),
    ]
    newer: Any = client.inference_channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    older: Any = reflection_pb2_grpc.ServerReflectionStub(client.inference_channel).ServerReflectionInfo
    answers = [list(ask(iter(questions), timeout=60)) for ask in (newer, older)]
    assert answers[0] == answers[1]
    assert [answer.original_request for answer in answers[0]] == questions
    listed = answers[0][0]
    assert listed.valid_host == "here"
    assert {service.name for service in listed.list_services_response.service} == (
        {INFERENCE, OPEN_INFERENCE, *PADDLE_SERVING, *TENSORFLOW_SERVING} | STANDARD
    )
    codes = [answer.error_response.error_code for answer in answers[0]]
    assert codes == [
        *(0, Code.NOT_FOUND, Code.NOT_FOUND, Code.INVALID_ARGUMENT),
        *(0, Code.NOT_FOUND, Code.NOT_FOUND),
    ]
    described = answers[0][4].file_descriptor_response.file_descriptor_proto
    [service] = [each for each in FileDescriptorProto.FromString(described[0]).service if each.name in OPEN_INFERENCE]
    assert "ModelInfer" in [method.name for method in service.method], "clients ask for a method by its full name"


def descriptors() -> FileDescriptorSet:
    return FileDescriptorSet.FromString((PROTOS / "descriptors.binpb").read_bytes())


def test_the_descriptors_are_those_of_the_proto_files(tmp_path: Path) -> None:
    """When it fails: make protos."""
    made = tmp_path / "made.binpb"
    files = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", "--include_imports", f"--descriptor_set_out={made}"]
    subprocess.run([*command, *files], cwd=PROTOS, check=True)
    ours = {file.name: file for file in descriptors().file if file.name in files}
    assert set(ours) == set(files)
    assert ours == {f.name: f for f in FileDescriptorSet.FromString(made.read_bytes()).file if f.name in files}


# Ports


def test_a_port_in_use_is_named_with_its_keys(store: Path, serve: Serve) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        with pytest.raises(AssertionError, match=f"grpc_management_port={port}: Address already in use"):
            serve(grpc_management_port=str(port))


def test_there_may_be_no_grpc(store: Path, serve: Serve) -> None:
    server = serve(enable_grpc="false")
    assert "grpc_" not in server.log().replace(str(server.folder), "")
    with Client(server) as client:
        assert refusal(client.ping)[0] == StatusCode.UNAVAILABLE
    [answer] = talk(server.inference, PREFACE)
    assert answer.status == 400, "nor on the inference port"


@pytest.fixture(scope="module")
def brief(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """Connections of its inference port end at their age, those of its management port when they are idle."""
    folder = tmp_path_factory.mktemp("brief")
    store = folder / "store"
    store.mkdir()
    pack_handler(store, "chaos")
    settings = {
        "grpc_inference_port": "0",
        "grpc_inference_max_connection_age_ms": "300",
        "grpc_inference_max_connection_age_grace_ms": "5000",
        "grpc_idle_timeout": "1",
    }
    with RunningServer(folder / "server", store, settings=settings) as server:
        [server.grpc_inference] = re.findall(r"^grpc_inference +(\S+)", server.log(), re.MULTILINE)
        yield server


def test_the_system_may_choose_the_ports(brief: RunningServer) -> None:
    assert not brief.grpc_inference.endswith(":0")
    with Client(brief) as client:
        assert client.ping() == {"status": "Healthy"}


def test_connections_end_at_their_age_and_calls_go_on(brief: RunningServer) -> None:
    def connections(client: Client) -> set[str]:
        client.ask()
        lines = access_log(brief).splitlines()
        return {line.split('"')[0].split()[-1] for line in lines if "/Predictions HTTP/2.0" in line}

    with Client(brief) as client:
        eventually(lambda: len(connections(client)) >= 3)


def test_connections_end_when_they_are_idle(brief: RunningServer) -> None:
    with Http2(brief.grpc_management) as client:
        said = [found for found in client.frames() if isinstance(found, GoAwayFrame)]
    assert {found.error_code for found in said} == {0}


# The end


@pytest.fixture
def stopping(store: Path, serve: Serve, tmp_path: Path) -> RunningServer:
    pack_handler(store, "chaos")
    return serve(stop_timeout="120")


def begin(client: Client, folder: Path) -> tuple[Any, Path]:
    """A call that a worker has, and the file that it waits for."""
    call = client.inference.Predictions.future(chaos("wait_for", begun=str(folder / "begun"), go=str(folder / "go")))
    eventually((folder / "begun").exists)
    return call, folder / "go"


def test_what_was_accepted_is_answered_before_the_end_and_an_idle_stream_does_not_delay_it(
    stopping: RunningServer, tmp_path: Path
) -> None:
    ended = threading.Event()

    def messages() -> Iterator[Any]:
        yield chaos(nonce=1)
        ended.wait(60)

    with Client(stopping) as client:
        idle = client.inference.StreamPredictions2(messages(), timeout=60)
        assert next(idle).prediction
        call, go = begin(client, tmp_path)
        watch = health(client.inference_channel).Watch(asked(), timeout=60)
        assert next(watch).status == SERVING
        assert stopping.process is not None
        stopping.process.send_signal(signal.SIGTERM)
        assert next(watch).status == NOT_SERVING
        assert list(watch) == []
        assert (list(idle), idle.code()) == ([], StatusCode.OK)
        with Client(stopping) as another:
            assert refusal(another.ping)[0] == StatusCode.UNAVAILABLE
        go.touch()
        assert call.result(timeout=60).prediction
        assert stopping.process.wait(60) == 0
        ended.set()
        assert "Traceback" not in stopping.log()
        assert "never retrieved" not in stopping.log()
        assert "was destroyed" not in stopping.log()


def test_a_signal_a_second_after_the_first_ends_at_once(stopping: RunningServer, tmp_path: Path) -> None:
    with Client(stopping) as client:
        call, _ = begin(client, tmp_path)
        assert stopping.process is not None
        stopping.insist()
        assert call.exception(timeout=60) is not None
        assert "was destroyed" not in stopping.log()


def test_the_page_lists_every_code() -> None:
    page = (PROTOS.parents[2] / "docs" / "grpc.md").read_text()
    listed = set(re.findall(r"^\| `([A-Z_]+)` \|", page, re.MULTILINE))
    assert listed == {code.name for code in CODES.values()} | {"UNIMPLEMENTED"}
