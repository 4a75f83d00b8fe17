"""Batches of any size, with inputs and answers of any size."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from pdserver.memory_file import THRESHOLD_BYTES
from tests.conftest import Lent, Serve, pack_handler
from tests.running import RunningServer

COUNT = 300
SETTINGS = f"batchSize: {COUNT}\nmaxBatchDelay: 600000\njobQueueSize: {COUNT}\njobQueueBytes: 1000000000\n"
"""All of them are one batch."""


def ask_together(server: RunningServer, bodies: list[bytes]) -> Iterator[tuple[int, bytes]]:
    """One connection each: the server has them all before the first answer is read."""
    with ExitStack() as stack:
        connections = []
        for body in bodies:
            connection = http.client.HTTPConnection(server.inference.removeprefix("http://"), timeout=60)
            stack.callback(connection.close)
            connection.request("POST", "/predictions/mirror", body)
            connections.append(connection)
        for connection in connections:
            answer = connection.getresponse()
            yield answer.status, answer.read()


def test_large_inputs_and_answers_however_many(lent: Lent) -> None:
    are_answered(lent("mirror", config=SETTINGS))


def test_large_inputs_and_answers_however_few_descriptors_a_worker_has(serve: Serve, store: Path) -> None:
    pack_handler(store, "mirror", config=SETTINGS)
    are_answered(serve(worker_limits="nofile=150"))


def are_answered(server: RunningServer) -> None:
    before = server.pids("mirror")
    bodies = [b"%06d" % number + bytes(THRESHOLD_BYTES + number) for number in range(COUNT)]
    for body, (status, answer) in zip(bodies, ask_together(server, bodies), strict=True):
        assert (status, answer) == (200, body[::-1])
    assert server.pids("mirror") == before
