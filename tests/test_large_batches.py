"""Batches of any size, with inputs and answers of any size."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pdserver.memory_file import THRESHOLD_BYTES
from tests.conftest import Serve, pack_handler
from tests.running import RunningServer

COUNT = 300
SETTINGS = f"batchSize: {COUNT}\nmaxBatchDelay: 60000\njobQueueSize: {COUNT}\njobQueueBytes: 1000000000\n"
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


@pytest.mark.parametrize("limits", ["", "nofile=150"], ids=["", "a worker of few descriptors"])
def test_large_inputs_and_answers_however_many(serve: Serve, store: Path, limits: str) -> None:
    pack_handler(store, "mirror", config=SETTINGS)
    server = serve(**({"worker_limits": limits} if limits else {}))
    before = server.pids("mirror")
    bodies = [b"%06d" % number + bytes(THRESHOLD_BYTES + number) for number in range(COUNT)]
    for body, (status, answer) in zip(bodies, ask_together(server, bodies), strict=True):
        assert (status, answer) == (200, body[::-1])
    assert server.pids("mirror") == before
