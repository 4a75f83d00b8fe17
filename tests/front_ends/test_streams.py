"""Answers in pieces, clients that leave and deadlines, on several front ends."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from queue import Queue
from typing import Any

import grpc
import pytest
import requests
from tritonclient import grpc as triton

from tests.front_ends.conftest import Several
from tests.front_ends.several import of_all
from tests.grpc_client import Client, prediction, refusal
from tests.oip.triton_grpc import body
from tests.running import RunningServer, eventually


@pytest.fixture(scope="module")
def server(several: Several) -> RunningServer:
    return several({"stream": "batchSize: 4\n", "mirror": "", "chaos": ""})


@pytest.fixture(scope="module")
def clients(server: RunningServer) -> Iterator[list[Client]]:
    """Of each front end at least one."""

    def connected() -> Client:
        client = Client(server)
        client.ping()
        return client

    made = of_all(server, server.grpc_inference, connected)
    yield made
    for client in made:
        client.__exit__(None, None, None)


def count(number: int, **more: Any) -> bytes:
    return json.dumps({"count": number, **more}).encode()


def expected(number: int) -> str:
    return "".join(f"{n} " for n in range(number)) + "end"


def test_pieces_over_http_come_as_they_are_made(server: RunningServer, tmp_path: Path) -> None:
    for number in range(8):
        go = tmp_path / f"go{number}"
        asked = {"count": 1, "go": str(go)}
        answer = requests.post(f"{server.inference}/predictions/stream", json=asked, stream=True, timeout=60)
        pieces = answer.iter_content(None)
        assert next(pieces) == b"0 "
        go.touch()
        assert b"".join(pieces) == b"end"


def test_large_pieces_arrive(server: RunningServer) -> None:
    answer = requests.post(
        f"{server.inference}/predictions/stream", json={"count": 3, "size": 400_000, "last": 1 << 20}, timeout=60
    )
    assert answer.content == b"".join(b"%d " % n + b" " * 400_000 for n in range(3)) + bytes(1 << 20)


def test_a_stream_that_fails_never_looks_complete(server: RunningServer) -> None:
    for _ in range(8):
        answer = requests.post(
            f"{server.inference}/predictions/stream", json={"count": 2, "raise": True}, stream=True, timeout=60
        )
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            assert answer.content


def test_pieces_over_grpc(clients: list[Client]) -> None:
    def run(number: int) -> str:
        client = clients[number % len(clients)]
        pieces = client.inference.StreamPredictions(prediction("stream", body=count(number)), timeout=60)
        return b"".join(piece.prediction for piece in pieces).decode()

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(run, range(16))) == [expected(number) for number in range(16)]


def test_streams_both_ways(server: RunningServer) -> None:
    """Each of them with answers of its own."""

    def run(number: int) -> list[bytes]:
        answers: Queue[Any] = Queue()
        options = [("grpc.use_local_subchannel_pool", 1)]
        with triton.InferenceServerClient(server.grpc_inference, channel_args=options) as client:
            client.start_stream(lambda result, error: answers.put(error or result))
            for n in range(10):
                client.async_stream_infer("mirror", [body(b"%d-%d" % (number, n))], request_id=str(n))
            found = [answers.get(timeout=60) for _ in range(10)]
            client.stop_stream()
        return [bytes(each.as_numpy("answer").item())[::-1] for each in found]

    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(run, range(6)))
    assert found == [[b"%d-%d" % (number, n) for n in range(10)] for number in range(6)]


class Held:
    """The one worker of `chaos`, busy until `release`."""

    def __init__(self, server: RunningServer, folder: Path) -> None:
        self._server, self._go = server, folder / "go"
        begun = folder / "begun"
        self._thread = ThreadPoolExecutor(1)
        asked = {"op": "wait_for", "begun": str(begun), "go": str(self._go)}
        self._first = self._thread.submit(server.predict, "chaos", json.dumps(asked))
        eventually(begun.exists)

    def waits(self, count: int) -> None:
        eventually(lambda: self._server.metric("pd_queue_length", model_name="chaos") == count)

    def release(self) -> None:
        self._go.touch()
        assert self._first.result(60).status_code == 200
        self._thread.shutdown()


@pytest.fixture
def held(server: RunningServer, tmp_path: Path) -> Iterator[Held]:
    made = Held(server, tmp_path)
    yield made
    made.release()


def test_what_waits_leaves_the_queue_with_its_client(server: RunningServer, clients: list[Client], held: Held) -> None:
    http = [HTTPConnection(server.inference.removeprefix("http://")) for _ in range(4)]
    for connection in http:
        connection.request("POST", "/predictions/chaos", b"{}")
    calls = [client.inference.Predictions.future(prediction("chaos", body=b"{}"), timeout=60) for client in clients]
    held.waits(len(http) + len(calls))
    for connection in http:
        connection.close()
    held.waits(len(calls))
    for call in calls:
        call.cancel()
    held.waits(0)


def test_what_waits_too_long_is_told_so(server: RunningServer, clients: list[Client], held: Held) -> None:
    headers = {"x-request-timeout-ms": "300"}
    assert server.predict("chaos", b"{}", headers=headers).status_code == 504
    for client in clients:
        began = time.monotonic()
        code, _ = refusal(partial(client.predict, prediction("chaos", body=b"{}"), timeout=0.3))
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        assert time.monotonic() - began >= 0.3
    held.waits(0)


def test_a_full_queue_is_told_at_once(server: RunningServer, several: Several, tmp_path: Path) -> None:
    own = several({"chaos": "jobQueueSize: 2\n"})
    held = Held(own, tmp_path)
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(requests.post, f"{own.inference}/predictions/chaos", b"{}", timeout=60) for _ in "ab"]
        held.waits(2)
        answers = [requests.post(f"{own.inference}/predictions/chaos", b"{}", timeout=60) for _ in range(8)]
        assert {(answer.status_code, answer.headers["retry-after"]) for answer in answers} == {(503, "1")}
        held.release()
        assert [each.result().status_code for each in waiting] == [200, 200]
