"""What no gRPC client should send: a status that says so, and a server that goes on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import grpc
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.grpc_client import Client, chaos, prediction
from tests.running import RunningServer
from tests.security.raw import Oracle, connect, read_all, reset

INFERENCE = "/org.pytorch.serve.grpc.inference.InferenceAPIsService"
MANAGEMENT = "/org.pytorch.serve.grpc.management.ManagementAPIsService"
OIP = "/inference.GRPCInferenceService"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@pytest.fixture(scope="module")
def server(server_of_all: RunningServer) -> RunningServer:
    return server_of_all


@pytest.fixture(scope="module")
def channel(server: RunningServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.grpc_inference) as channel:
        yield channel


@pytest.fixture(autouse=True, scope="module")
def unharmed(server: RunningServer) -> Iterator[None]:
    oracle = Oracle(server)
    yield
    with Client(server) as client:
        assert client.ask(nonce=3)["nonce"] == 3
        assert "chaos" in client.manage("ListModels")
    oracle.check([])


def code(channel: grpc.Channel, method: str, message: bytes, **how: Any) -> grpc.StatusCode:
    call: Any = channel.unary_unary(method)
    try:
        call(message, timeout=60, **how)
    except grpc.RpcError as error:
        failed: Any = error
        found: grpc.StatusCode = failed.code()
        return found
    return grpc.StatusCode.OK


@pytest.mark.parametrize("method", [f"{INFERENCE}/Predictions", f"{OIP}/ModelInfer", f"{OIP}/ModelMetadata",
                                    f"{OIP}/ModelConfig", f"{OIP}/SystemSharedMemoryRegister",
                                    *(f"/tensorflow.serving.PredictionService/{name}" for name in
                                      ("Predict", "Classify", "MultiInference", "GetModelMetadata"))])  # fmt: skip
@pytest.mark.parametrize(
    "message", [b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x02\xff\xfe", b"\x0b" * 300, b"hello"]
)
def test_messages_that_are_none(channel: grpc.Channel, method: str, message: bytes) -> None:
    assert code(channel, method, message) in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)


@settings(max_examples=60)
@given(data=st.binary(max_size=100))
def test_any_message_is_answered(channel: grpc.Channel, data: bytes) -> None:
    for method in (f"{INFERENCE}/Predictions", f"{OIP}/ModelInfer"):
        assert code(channel, method, data) in (
            grpc.StatusCode.INVALID_ARGUMENT,
            grpc.StatusCode.NOT_FOUND,
            grpc.StatusCode.UNIMPLEMENTED,
        )


@pytest.mark.parametrize(
    "method",
    [
        *("/nowhere", "//", "/" + "a" * 2000, f"/x{INFERENCE}/Ping", f"{MANAGEMENT}/ListModels"),
        *(f"{INFERENCE}/", f"{INFERENCE}/predictions"),
    ],
)
def test_methods_that_there_are_not(channel: grpc.Channel, method: str) -> None:
    assert code(channel, method, b"") is grpc.StatusCode.UNIMPLEMENTED


def test_too_large_a_message(server: RunningServer, channel: grpc.Channel) -> None:
    limit = int(server.settings["max_request_size"])
    message = prediction("chaos", body=bytes(limit + 1)).SerializeToString()
    assert code(channel, f"{INFERENCE}/Predictions", message) is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_small_message_that_unpacks_to_a_large_one(server: RunningServer, channel: grpc.Channel) -> None:
    """It is not even unpacked: 200 MB would show."""
    assert server.process is not None
    process = psutil.Process(server.process.pid)
    message = prediction("chaos", body=bytes(100_000_000)).SerializeToString()
    with grpc.insecure_channel(server.grpc_inference, [("grpc.max_send_message_length", -1)]) as large:
        before = process.memory_info().rss
        found = code(large, f"{INFERENCE}/Predictions", message, compression=grpc.Compression.Gzip)
    assert found is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert process.memory_info().rss - before < 70_000_000


def test_a_compressed_message_that_is_not_too_large(channel: grpc.Channel) -> None:
    message = chaos(nonce=1).SerializeToString()
    found = code(channel, f"{INFERENCE}/Predictions", message, compression=grpc.Compression.Gzip)
    assert found is grpc.StatusCode.OK


def test_too_much_metadata(channel: grpc.Channel) -> None:
    metadata = (("x", "y" * 60_000),)
    found = code(channel, f"{INFERENCE}/Predictions", chaos().SerializeToString(), metadata=metadata)
    assert found is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("port", ["grpc_inference", "grpc_management"])
@pytest.mark.parametrize(
    "data",
    [
        b"GET /ping HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
        bytes(64),
        PREFACE + b"\xff\xff\xff" * 20,
        PREFACE + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" + b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x00",
        PREFACE + b"\x00\x00\x05\x01\x25\x00\x00\x00\x01hello",
        PREFACE + b"\x00\x40\x01\x00\x00\x00\x00\x00\x01" + bytes(16385),
    ],
)
def test_bytes_that_are_no_http2(server: RunningServer, port: str, data: bytes) -> None:
    with connect(f"http://{getattr(server, port)}") as sock:
        sock.sendall(data)
        sock.settimeout(60)
        assert b"HTTP/1.1 200" not in read_all(sock)


def test_clients_that_leave_in_the_middle(server: RunningServer) -> None:
    for length in range(1, len(PREFACE), 5):
        sock = connect(f"http://{server.grpc_inference}")
        sock.sendall((PREFACE + os.urandom(50))[:length])
        reset(sock)
