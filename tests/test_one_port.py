"""PRPC, HTTP/1.1 and HTTP/2 on the inference port: a connection's first bytes say which one it speaks."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
import requests
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from pdserver.prpc.errors import Errno
from tests.conftest import Lent
from tests.grpc_client import access_log, chaos, inference_pb2
from tests.prpc_client import GZIP, Prpc, frame
from tests.running import RunningServer, eventually
from tests.security.raw import connect, one, read_all, talk

PREDICTIONS = "org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\4\0\0\0\0\0"


@pytest.fixture
def server(lent: Lent) -> RunningServer:
    return lent("chaos")


@pytest.fixture
def channel(server: RunningServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.inference.removeprefix("http://")) as channel:
        yield channel


def answered(body: bytes) -> Any:
    return json.loads(inference_pb2.PredictionResponse.FromString(body).prediction)["nonce"]


def test_all_three_at_the_same_time(server: RunningServer, channel: grpc.Channel) -> None:
    predict: Any = channel.unary_unary(f"/{PREDICTIONS}")
    session = requests.Session()
    with Prpc(server.inference) as client, session:
        for number in range(5):
            message = chaos(nonce=number).SerializeToString()
            assert answered(predict(message, timeout=60)) == number
            assert answered(client.call(PREDICTIONS, message, number).body) == number
            assert answered(client.call("InferenceAPIsService/Predictions", message, number).body) == number
            reply = session.post(f"{server.inference}/predictions/chaos", json={"nonce": number}, timeout=60)
            assert reply.json()["nonce"] == number


def test_grpc_is_what_it_is_on_its_own_port(server: RunningServer, channel: grpc.Channel) -> None:
    health: Any = health_pb2_grpc.HealthStub(channel)
    assert health.Check(health_pb2.HealthCheckRequest(), timeout=60).status == health_pb2.HealthCheckResponse.SERVING
    assert PREDICTIONS.partition("/")[0] in ProtoReflectionDescriptorDatabase(channel).get_services()
    assert "inference.GRPCInferenceService" in ProtoReflectionDescriptorDatabase(channel).get_services()


def test_errors_of_models_and_of_the_engine(server: RunningServer) -> None:
    with Prpc(server.inference) as client:
        for op, errno, words in (("fail", Errno.EINTERNAL, ""), ("fail_item", Errno.EREQUEST, "this one is bad")):
            answer = client.call(PREDICTIONS, chaos(op).SerializeToString())
            assert (answer.errno, words in answer.text) == (errno, True)
        missing = inference_pb2.PredictionsRequest(model_name="nowhere").SerializeToString()
        answer = client.call(PREDICTIONS, missing)
        assert (answer.errno, "nowhere" in answer.text) == (Errno.ENOSERVICE, True)
        assert client.call(PREDICTIONS, b"\xff").errno == Errno.EREQUEST


def test_calls_are_in_the_access_log(server: RunningServer) -> None:
    with Prpc(server.inference) as client:
        request = {"request_id": "of-brpc"}
        assert client.call(PREDICTIONS, chaos().SerializeToString(), request=request).errno == 0
        assert client.call("Nothing/here").errno == Errno.ENOSERVICE
    eventually(lambda: f'"PRPC /{PREDICTIONS} baidu_std" OK' in access_log(server))
    eventually(lambda: '"PRPC /Nothing/here baidu_std" ENOSERVICE' in access_log(server))
    assert " of-brpc chaos" in access_log(server)


# The first bytes


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_first_pieces_that_are_too_short_to_tell(server: RunningServer, count: int) -> None:
    with Prpc(server.inference) as client:
        data = frame(PREDICTIONS, chaos(nonce=1).SerializeToString())
        for place in range(0, len(data), count):
            client.send(data[place : place + count])
        assert answered(client.answer().body) == 1
    for line in (b"POST /predictions/chaos", b"PUT /models", b"PATCH /x", b"GET /ping", b"PRIVATE /x"):
        with connect(server.inference) as sock:
            data = line + b" HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            for place in range(0, len(data), count):
                sock.sendall(data[place : place + count])
            assert read_all(sock).startswith(b"HTTP/1.1 ")
    with connect(server.inference) as sock:
        data = PREFACE + SETTINGS
        for place in range(0, len(data), count):
            sock.sendall(data[place : place + count])
        assert sock.recv(9)[3:4] == b"\4"


@pytest.mark.parametrize(
    "data", [b"P", b"PR", b"PRI * HTTP/2.0\r\n\r\nSM", b"PRI * HTTP/2.0\r\nhost: x\r\n\r\n", b"PRPX"]
)
def test_beginnings_of_nothing_are_http(server: RunningServer, data: bytes) -> None:
    with connect(server.inference) as sock:
        sock.sendall(data)
        sock.shutdown(1)
        assert read_all(sock).startswith(b"HTTP/1.1 400 ")


def test_a_request_is_known_from_its_first_byte(server: RunningServer) -> None:
    head = b"POST /predictions/chaos HTTP/1.1\r\nhost: localhost\r\ncontent-length: 0\r\n\r\n"
    with connect(server.inference) as sock:
        for _ in range(2):  # the second time, the head is known
            sock.sendall(head)
            assert one(sock).status == 200
    with connect(server.inference) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(b"P")
        assert server.ping().ok  # so the server has read what was sent before
        sock.sendall(head)
        assert read_all(sock).startswith(b"HTTP/1.1 400 ")


def test_a_connection_keeps_to_what_it_has_begun_with(server: RunningServer) -> None:
    ping = b"GET /ping HTTP/1.1\r\nhost: localhost\r\n\r\n"
    first, second = talk(server.inference, ping + frame(PREDICTIONS))
    assert (first.status, second.status) == (200, 400)
    with Prpc(server.inference) as client:
        client.send(frame(PREDICTIONS, chaos().SerializeToString()) + ping)
        assert sorted(answer.errno for answer in client.rest()) == [0, Errno.EREQUEST]


def test_other_ports_speak_http_only(server: RunningServer) -> None:
    for url in (server.management, server.metrics):
        for data in (frame(PREDICTIONS), PREFACE + SETTINGS):
            [answer] = talk(url, data)
            assert answer.status == 400


# Sizes


def test_a_large_message(lent: Lent) -> None:
    server = lent("mirror")
    data = bytes(range(256)) * 20_000
    message = inference_pb2.PredictionsRequest(model_name="mirror", input={"body": data}).SerializeToString()
    with Prpc(server.inference) as client:
        for kind in (0, GZIP):
            packed = gzip.compress(message, 1) if kind else message
            answer = client.call(PREDICTIONS, packed, compress_type=kind)
            assert answer.compress_type == kind
            assert inference_pb2.PredictionResponse.FromString(answer.message).prediction == data[::-1]
